"""Runs of dml and crd: what is trained beside the student is counted, judged, kept and continued."""

import math

import pytest
import torch

from stkd_utils import carbon, compute, contrastive, data, experiments, ledger, models, mutual, objectives, temperature
from stkd_utils.experiments import ExperimentError, recording
from stkd_utils.experiments.together import _mean
from stkd_utils.protocol import Protocol
from stkd_utils.training import Trainer, train

pytestmark = pytest.mark.usefixtures("on_cpu")
NAMES = [f"digits/resnet18-mobilenetv2-{method}{tau}" for method in ("dml", "crd") for tau in ("", "-stochastic")]
LIMITS = {"train_limit": 128, "val_limit": 64, "test_limit": 32}
TINY = {"profile": "smoke", "progress": "none", "epochs": 2, "batch_size": 64, "width": 0.125, **LIMITS}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Folder of the runs of this file, which share a teacher."""
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module", params=NAMES)
def run(request, runs):
    return experiments.run(request.param, 3, runs=runs, **TINY)


def test_every_experiment_learns_from_all_its_terms(run):
    history = run.history
    terms = {column.removeprefix("loss_") for column in history if column.startswith("loss_")}
    if "-dml" in run.record["experiment"]:
        assert terms == {"hard", "soft", "peer1_hard", "peer1_soft"}
        assert {"val_peer1_accuracy", "val_peer1_loss"} <= set(history)
    else:
        assert terms == {"hard", "contrast"} and not any("peer" in column for column in history)
    assert len(history) == 2 and history.notna().all(axis=None)
    assert (history.filter(like="loss_") > 0).all(axis=None)


def test_every_draw_is_of_the_policy_that_is_asked_for(run):
    asked = run.record["asked"]
    assert len(run.taus) == 2 * 2
    low, high = (asked.get(key, asked.get("tau")) for key in ("tau_low", "tau_high"))
    assert run.taus.tau.between(low, high).all() and run.record["tau"]["policy"] == asked["tau_policy"]
    assert ("tau" in asked) == (run.taus.tau.nunique() == 1)


def test_published_settings_are_the_default_ones():
    dml, crd = (experiments.load(f"cifar100/resnet18-mobilenetv2-{method}") for method in ("dml", "crd"))
    assert (dml["tau"], dml["hard_weight"], dml["soft_weight"]) == (1, 1, 1)
    assert (crd["tau"], crd["hard_weight"], crd["crd_weight"], crd["crd_negatives"]) == (0.07, 1, 0.8, 16384)


def test_peers_are_trained_and_their_work_is_counted_like_the_students(runs):
    run = experiments.run(NAMES[0], 3, runs=runs, **TINY)
    peer = mutual.peer("resnet18", 10, seed=3, channels=1, width=0.125, depth=0.25)
    begun = recording.checksum(peer)
    counted, macs = run.record["compute"], compute.count(peer, (1, 8, 8)).macs
    assert counted["macs_beside"] == macs and counted["macs_teacher"] is None
    images = 2 * LIMITS["train_limit"]
    assert counted["flops_forward_backward"] == 2 * 3 * images * (counted["macs_student"] + macs)
    assert counted["flops_forward"] == 2 * images * (counted["macs_student"] + macs)
    assert counted["parameters"] == compute.count(run.model(), (1, 8, 8)).parameters
    assert run.record["peers"] == [{"name": "peer1", "seed": mutual.peer_seed(3), "init_checksum": begun}]
    assert run.record["teacher_id"] is None
    for epoch in ("last", "chosen"):
        row = run.record["result"][epoch]
        column = run.history.set_index("epoch").loc[row["epoch"]]
        assert row["val_peer1_accuracy"] == column.val_peer1_accuracy
        assert not any("test_peer" in key for key in row), "the test split was read for a peer"


def test_the_contrast_is_counted_and_a_run_without_is_recorded_as_before(runs):
    run = experiments.run(NAMES[2], 3, runs=runs, **TINY)
    counted = run.record["compute"]
    assert "peers" not in run.record
    # counted by hand: two products with the banks, of which one side each has a gradient; two embeddings, of which the
    # student's hands its gradient on
    folder = runs / run.record["teacher_id"]
    teacher = experiments.Run(folder, ledger.read(folder / "record.json"), False)
    networks = [one.model() for one in (run, teacher)]
    features = [one.get_submodule(models.classifier(one)).weight.shape[1] for one in networks]
    banks, images = 2 * contrastive.SIZE * LIMITS["train_limit"], LIMITS["train_limit"]
    embeddings = [contrastive.SIZE * size for size in features]
    beside = 2 * banks + 3 * embeddings[0] + 2 * embeddings[1]
    assert counted["macs_beside"] == banks + sum(embeddings)
    work = 3 * counted["macs_student"] + beside + counted["macs_teacher"]
    assert counted["flops_forward_backward"] == 2 * 2 * images * work
    base = experiments.run("digits/resnet18-mobilenetv2-kd", 3, runs=runs, **TINY)
    assert not {"macs_beside", "peers"} & {*base.record, *base.record["compute"]}
    assert base.record["init_checksum"] == run.record["init_checksum"]


@pytest.mark.parametrize("name", [NAMES[1], NAMES[3]])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_together_each_ends_as_if_trained_alone(name, precision, tmp_path):
    grid = {"seeds": [3, 4], "data_seed": 3, **TINY, "precision": precision}
    alone = experiments.sweep(name, runs=tmp_path / "alone", **grid)
    both = experiments.sweep(name, runs=tmp_path / "both", together=True, **grid)
    for one, other in zip(alone, both, strict=True):
        for file in ("history.csv", "taus.csv"):
            assert (one.folder / file).read_bytes() == (other.folder / file).read_bytes()
        assert one.record["result"] == other.record["result"]
    assert both[0].record["result"] != both[1].record["result"]
    shares = [one.record["shared"]["share"] for one in both]
    assert sum(shares) == pytest.approx(1) and shares == pytest.approx([0.5, 0.5])


@pytest.mark.parametrize("name", [NAMES[1], NAMES[3]])
def test_trap_S17_stopped_and_continued_equals_uninterrupted(name, runs, tmp_path):
    whole = experiments.run(name, 3, runs=runs, **TINY)
    experiments.run(name, 3, runs=tmp_path, **TINY, stop_after=1)
    again = experiments.run(name, 3, runs=tmp_path, **TINY)
    assert again.record["resumed"] == 1 and whole.record["resumed"] == 0
    for file in ("history.csv", "taus.csv"):
        assert (again.folder / file).read_bytes() == (whole.folder / file).read_bytes()
    assert again.record["result"] == whole.record["result"]


def test_stored_outputs_are_refused_before_anything_is_trained(tmp_path):
    said = "'stored_teacher' is unused, method 'crd' does not read it: remove it"
    with pytest.raises(ExperimentError, match=said) as caught:
        experiments.run(NAMES[2], 3, runs=tmp_path, stored_teacher=True, **TINY)
    assert "\n" not in str(caught.value) and not list(tmp_path.iterdir())


@pytest.mark.parametrize("name, change, said", [
    (NAMES[0], {"peer": "resnet19"}, "'peer' is \"resnet19\"; it must be a model"),
    (NAMES[0], {"teacher": "digits/resnet18-base"}, "'teacher' is unused, method 'dml' does not read it: remove"),
    (NAMES[2], {"peer": "resnet18"}, "'peer' is unused, method 'crd' does not read it: remove"),
    (NAMES[2], {"crd_negatives": 0}, "'crd_negatives' is 0; it must be a whole number above 0"),
    (NAMES[2], {"soft_weight": 1}, "'soft_weight' is unused, method 'crd' does not read it: remove"),
])  # fmt: skip
def test_settings_that_do_not_fit_are_named(name, change, said):
    with pytest.raises(ExperimentError, match=said):
        experiments.resolve(name, **change)


def test_the_seed_of_a_peer_follows_the_run_and_is_not_that_of_the_student(runs):
    one, other = (experiments.run(NAMES[0], seed, runs=runs, **TINY, peer="mobilenetv2") for seed in (3, 4))
    begun = [one.record["init_checksum"], *(run.record["peers"][0]["init_checksum"] for run in (one, other))]
    assert len(set(begun)) == 3


def test_progress_of_a_pass_shows_what_all_students_have():
    rows = [
        {"epoch": 1, "val_accuracy": 0.5, "val_peer1_accuracy": 0.7, "loss_hard": 1.0},
        {"epoch": 1, "val_accuracy": 0.7, "loss_hard": 3.0},
    ]
    assert _mean(rows) == {"epoch": 1, "loss_mean": 2.0, "val_accuracy": pytest.approx(0.6)}


# the loop by hand


@pytest.fixture(scope="module")
def digits():
    return data.load("digits", train_limit=96, val_limit=50, test_limit=50)


class Dropping(torch.nn.Module):
    """A network whose logits are dropped at random while it is trained."""

    def __init__(self, network):
        super().__init__()
        self.network, self.modes = network, []

    def forward(self, images):
        self.modes.append((self.training, torch.is_grad_enabled()))
        return torch.nn.functional.dropout(self.network(images), 0.5, self.training)


def trainer(digits, objective, model, path=None, seed=0):
    return Trainer(
        model, digits, Protocol(epochs=2, batch_size=32), objective, seed=seed, data_seed=0,
        augmentation=data.Augmentation(1), meter=carbon.Meter(), path=path, save_seconds=0, macs=(1, 1), name=str(seed),
    )  # fmt: skip


def dropping(digits, seed, path=None):
    model = models.build("mobilenetv2", 10, channels=1, width=0.125, depth=0.25, seed=seed)
    peers = [
        Dropping(mutual.peer("mobilenetv2", 10, seed=seed, number=number, channels=1, width=0.125, depth=0.25))
        for number in (1, 2)
    ]
    objective = mutual.Mutual(peers, temperature.IntegerUniform(seed=seed), macs=2)
    return trainer(digits, objective, Dropping(model), path, seed)


def equal(one, other):
    assert one.fit_state.history == other.fit_state.history
    for a, b in ((one.model, other.model), (one.objective.module, other.objective.module)):
        assert all(torch.equal(value, b.state_dict()[key]) for key, value in a.state_dict().items())
    return True


def test_dropout_of_peers_is_that_of_their_run_alone_or_together(digits):
    alone, both = ([dropping(digits, seed) for seed in (0, 1)] for _ in range(2))
    for one in alone:
        one.fit()
    train(both, carbon.Meter(), say=None)
    assert all(equal(*pair) for pair in zip(alone, both, strict=True))


def test_trap_S17_peers_and_their_momentum_are_in_the_checkpoint(digits, tmp_path):
    whole, cut = dropping(digits, 0), dropping(digits, 0, tmp_path / "cut.pt")
    whole.fit()

    def stop(row):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cut.fit(on_epoch=stop)
    again = dropping(digits, 0, tmp_path / "cut.pt")
    again.fit()
    assert again.fit_state.resumed == 1 and equal(again, whole)


def test_trap_S18_peers_learn_in_training_mode_and_are_judged_outside_of_it(digits):
    one = dropping(digits, 0)
    one.fit()
    for peer in one.objective.networks.values():
        assert peer.modes == ([(True, True)] * 3 + [(False, False)]) * 2
    row = one.fit_state.history[-1]
    assert {"val_accuracy", "val_peer1_accuracy", "val_peer2_accuracy"} <= set(row)
    losses = [row[f"val_{name}loss"] for name in ("", "peer1_", "peer2_")]
    assert len(set(losses)) == 3 and all(map(math.isfinite, losses))


def test_the_choice_of_an_epoch_looks_at_the_student_alone(digits):
    one = dropping(digits, 0)
    one.fit()
    best = max(one.fit_state.history, key=lambda row: (row["val_accuracy"], -row["val_loss"]))
    assert one.fit_state.chosen_epoch == best["epoch"]
    assert set(one.fit_state.chosen_weights) == set(one.model.state_dict())


def contrasting(digits, seed, teacher, path=None):
    model = models.build("mobilenetv2", 10, channels=1, width=0.125, depth=0.25, seed=seed)
    labels = digits.train.labels
    policy = temperature.ContinuousUniform(0.05, 0.1, seed=seed)
    objective = contrastive.Contrast(model, teacher, labels, policy, seed=seed, crd_negatives=8)
    return trainer(digits, objective, model, path, seed)


def test_trap_S17_banks_and_negatives_are_in_the_checkpoint(digits, tmp_path):
    def teacher():
        return models.build("resnet18", 10, channels=1, width=0.0625, seed=7)

    whole, cut = contrasting(digits, 0, teacher()), contrasting(digits, 0, teacher(), tmp_path / "cut.pt")
    whole.fit()

    def stop(row):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cut.fit(on_epoch=stop)
    again = contrasting(digits, 0, teacher(), tmp_path / "cut.pt")
    again.fit()
    assert again.fit_state.resumed == 1
    assert again.fit_state.history == whole.fit_state.history
    assert torch.equal(again.objective.banks.bank_t, whole.objective.banks.bank_t)


def test_students_that_contrast_and_one_that_distils_share_a_teacher_that_answers_once(digits):
    def pass_of(seeds):
        teacher = objectives.Teacher(models.build("resnet18", 10, channels=1, width=0.0625, seed=7))
        answered = []
        teacher.network.register_forward_hook(lambda *_: answered.append(1))
        network = models.build("mobilenetv2", 10, channels=1, width=0.125, depth=0.25, seed=9)
        kd = objectives.Distillation(teacher, temperature.Fixed(4.0), 0.1, 0.9)
        students = [trainer(digits, kd, network, seed=9), *(contrasting(digits, seed, teacher) for seed in seeds)]
        train(students, carbon.Meter(), say=None)
        assert len(answered) == 2 * 3
        return [one.fit_state.history for one in students]

    first, second = pass_of([0, 1]), pass_of([1])
    assert first[0] == second[0] and first[2] == second[1] and first[1] != first[2]


def test_records_of_both_are_valid(run):
    assert ledger.read(run.folder / "record.json") == run.record
