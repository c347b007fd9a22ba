"""Methods as experiments: what each needs is read and nothing else, ids stay, and what an objective learns is kept."""

import functools
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from stkd_utils import carbon, data, experiments, ledger, losses, models, temperature
from stkd_utils.experiments import ExperimentError, classification, methods, recording, settings, tasks
from stkd_utils.experiments.plans import Plan
from stkd_utils.objectives import Objective
from stkd_utils.protocol import Protocol
from stkd_utils.sharing import split
from stkd_utils.training import Trainer, train

pytestmark = pytest.mark.usefixtures("on_cpu")
KD = "digits/resnet18-mobilenetv2-kd"
BASE = "digits/mobilenetv2-base"
TINY = {"profile": "smoke", "progress": "none", "train_limit": 64, "val_limit": 32, "test_limit": 32, "epochs": 2}
TABLES = [(name, method) for task in tasks.TASKS.values() for name, method in task.METHODS.items()]


def test_the_ids_of_all_runs_of_the_ledger_stay_as_they_are(root):
    lines = (root / "book" / "ledger" / "runs.jsonl").read_text().splitlines()

    @functools.cache  # the seeds ask the same
    def resolved(name, profile, asked):
        plain, asked = experiments.resolve(name, profile), json.loads(asked)
        overrides = {key: value for key, value in asked.items() if key not in plain or plain[key] != value}
        return experiments.resolve(name, profile, **overrides)

    for record in map(json.loads, lines):
        asked = record["asked"]
        again = resolved(record["experiment"], record["profile"], json.dumps(asked))
        assert again == asked
        start = {"start_run": record["initial"]} if "start" in asked else {}
        assert settings.digest({**again, "teacher_run": record["teacher_id"], **start}) == record["asked_hash"]
    assert len(lines) > 50


@pytest.mark.parametrize("name, method", TABLES, ids=[name for name, _ in TABLES])
def test_every_key_of_a_method_is_explained_and_its_loss_takes_it(name, method):
    assert {*method.keys, *method.further} <= set(methods.KEYS)
    assert method.alike in (None, "teacher", "start") and bool(method.loss) != bool(method.make)
    if method.loss:
        taken = list(method.loss.__code__.co_varnames[: method.loss.__code__.co_argcount])
        named = method.loss.__code__.co_varnames[len(taken) : len(taken) + method.loss.__code__.co_kwonlyargcount]
        wanted = ["logits_s", *["logits_t"] * method.teacher, "labels", *["tau"] * method.temperature]
        assert taken == wanted and sorted(named) == sorted(method.keys)


def test_a_key_that_came_later_and_is_null_is_not_part_of_the_question():
    plain, null = experiments.resolve(KD), experiments.resolve(KD, teacher_stop_after=None)
    assert plain == null and "teacher_stop_after" not in plain
    assert experiments.resolve(KD, teacher_stop_after=3)["teacher_stop_after"] == 3


@pytest.mark.parametrize("name, change, said", [
    (BASE, {"teacher_stop_after": 3}, "the key 'teacher_stop_after' is unused, method 'base' does not read it: remove"),
    (BASE, {"soft_weight": 1}, "the key 'soft_weight' is unused, method 'base' does not read it: remove it"),
    (BASE, {"tau_policy": "fixed"}, "the key 'tau_policy' is unused, method 'base' does not read it: remove it"),
    (KD, {"teacher_stop_after": 0}, "'teacher_stop_after' is 0; it must be an epoch of the teacher, or null"),
    (KD, {"hint_weight": 1}, "the key 'hint_weight' is unused, dataset 'digits' does not read it: remove it"),
    (KD, {"method": "kdd"}, "it must be a method: base, .*kd"),
])  # fmt: skip
def test_what_a_method_does_not_read_is_refused_in_one_sentence(name, change, said):
    with pytest.raises(ExperimentError, match=f"^{name}: .*{said}") as caught:
        experiments.resolve(name, **change)
    assert "\n" not in str(caught.value)


def test_a_defective_teacher_is_another_run_and_ends_early(tmp_path):
    run = experiments.run(KD, 1, runs=tmp_path, teacher_stop_after=1, **TINY)
    teacher = ledger.read(tmp_path / run.record["teacher_id"] / "record.json")
    assert len(teacher["history"]) == teacher["asked"]["stop_after"] == 1
    whole = experiments.run(KD, 1, runs=tmp_path, **TINY)
    assert whole.record["teacher_id"] != run.record["teacher_id"] and whole.record["id"] != run.record["id"]
    with pytest.raises(ExperimentError, match="'teacher_stop_after' must be below the 2 epochs of 'digits/resnet18-"):
        experiments.run(KD, 1, runs=tmp_path, teacher_stop_after=2, **TINY)


# every method, with every temperature where it has one

FILES = {
    "base": BASE, "label-smoothing": "digits/mobilenetv2-smoothing", "tfkd-reg": "digits/mobilenetv2-reg",
    "tfkd-reg-as-coded": "digits/mobilenetv2-reg-as-coded", "double": "digits/mobilenetv2-double", "kd": KD,
    "kd-element-mean": KD, "kd-standardised": "digits/resnet18-mobilenetv2-standardised",
    "kd-rectified-teacher": "digits/resnet18-mobilenetv2-rectified-teacher",
    "kd-rectified-student": "digits/resnet18-mobilenetv2-rectified-student", "mse": "digits/resnet18-mobilenetv2-mse",
    "tfkd-self": "digits/mobilenetv2-self", "tfkd-combined": "digits/mobilenetv2-combined",
    "dml": "digits/resnet18-mobilenetv2-dml", "crd": "digits/resnet18-mobilenetv2-crd",
}  # fmt: skip
FURTHER = {
    "label-smoothing": {"smooth"}, "dml": {"soft", "peer1_hard", "peer1_soft"}, "crd": {"contrast"},
}  # fmt: skip
TAUS = {"tau": 4, "tau_low": 2, "tau_high": 20}
CASES = [
    (name, policy)
    for name in FILES
    for policy in (sorted(temperature.POLICIES) if classification.METHODS[name].temperature else [None])
]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


def test_every_method_has_an_experiment_on_digits():
    assert set(FILES) == set(classification.METHODS)


@pytest.mark.parametrize("name, policy", CASES, ids=lambda value: str(value))
def test_every_method_trains_with_every_temperature_that_it_may_have(name, policy, runs):
    taus = {key: TAUS[key] for key in temperature.POLICIES[policy].parameters} if policy else {}
    softened = {"tau_policy": policy, **taus} if policy else {}
    run = experiments.run(FILES[name], 1, runs=runs, **{**TINY, "epochs": 1, "batch_size": 32}, method=name, **softened)
    record, method = run.record, classification.METHODS[name]
    assert record["asked"]["method"] == name and ledger.read(run.folder / "record.json") == record
    assert (record["teacher_id"] is not None) == method.teacher == (record["compute"]["macs_teacher"] is not None)
    assert (record["tau"] is not None) == bool(policy) and len(run.taus) == (2 if policy else 0)
    terms = {key for key in record["history"][0] if key.startswith("loss_")}
    weights = {f"loss_{key.removesuffix('_weight')}" for key in method.keys if key.endswith("_weight")}
    assert terms == {"loss_hard"} | weights | {f"loss_{term}" for term in FURTHER.get(name, ())}


@pytest.mark.parametrize("name, change, said", [
    ("digits/mobilenetv2-self", {"model": "shufflenetv2"}, "needs a teacher that is the same network; .* model"),
    ("digits/mobilenetv2-self", {"width": 0.125}, "needs a teacher that is the same network; .* width 0.25, this run"),
    ("digits/mobilenetv2-combined", {"depth": 0.5}, "needs a teacher that is the same network; .* depth 0.25"),
    ("digits/mobilenetv2-double", {"width": 0.125}, "needs a start that is the same network; .* width 0.25, this run"),
    ("digits/mobilenetv2-double", {"start": KD}, "The start '.*' is of method kd; name a base experiment"),
    ("digits/mobilenetv2-double", {"start": "cifar10/mobilenetv2-base"}, "The start .* other data than digits"),
    ("digits/mobilenetv2-double", {"teacher": BASE}, "'teacher' is unused, method 'double' does not read it"),
    ("digits/mobilenetv2-smoothing", {"smoothing": 1.5}, "'smoothing' is 1.5; it must be a number from 0 to 1"),
    ("digits/mobilenetv2-reg", {"correct_prob": 1}, "'correct_prob' is 1; it must be a probability between"),
    ("digits/mobilenetv2-reg", {"tau_low": 2}, "'tau_low' is unused, tau_policy 'fixed' does not read it"),
    ("digits/resnet18-mobilenetv2-mse", {"tau": 4}, "'tau' is unused, method 'mse' does not read it"),
    ("digits/mobilenetv2-reg", {"reg_multiplier": 2}, "'reg_multiplier' is unused, method 'tfkd-reg' does not read it"),
])  # fmt: skip
def test_a_method_that_cannot_be_is_refused_before_anything_is_trained(name, change, said, tmp_path):
    with pytest.raises(ExperimentError, match=said) as caught:
        experiments.run(name, 1, runs=tmp_path, **{**TINY, **change})
    assert "\n" not in str(caught.value) and not list(tmp_path.iterdir())


def test_double_training_begins_with_the_chosen_weights_of_its_own_seeds_run_and_says_so(runs):
    options = {**TINY, "epochs": 1, "batch_size": 32}
    run = experiments.run("digits/mobilenetv2-double", 1, runs=runs, **options)
    first = ledger.read(runs / run.record["initial"] / "record.json")
    assert (first["experiment"], first["seed"]) == (BASE, 1) and first["initial"] == "scratch"
    begun = experiments.Run(runs / first["id"], first, False).model("chosen")
    assert run.record["init_checksum"] == recording.checksum(begun) != first["init_checksum"]
    assert first["cost"]["train"]["seconds"] > 0 and run.record["teacher_id"] is None
    assert run.before == (first,), "what the bill of double training has to add"
    longer = experiments.run("digits/mobilenetv2-double", 1, runs=runs, **{**options, "train_limit": 96})
    assert longer.record["initial"] != run.record["initial"], "it began with a run on other images"


@pytest.mark.parametrize("kind", ["self", "combined"])
def test_ones_own_teacher_is_ones_own_earlier_run_also_for_another_seed(kind, runs):
    options = {**TINY, "epochs": 1, "batch_size": 32}
    for seed in (1, 2):
        run = experiments.run(f"digits/mobilenetv2-{kind}", seed, runs=runs, **options)
        (teacher,) = run.before
        assert (teacher["experiment"], teacher["seed"]) == (BASE, seed)
        assert teacher["init_checksum"] == run.record["init_checksum"], "the same network, from its first weights on"
    named = experiments.run(f"digits/mobilenetv2-{kind}", 2, runs=runs, teacher_seed=1, **options)
    assert named.before[0]["seed"] == 1 and named.record["id"] != run.record["id"]


def test_a_student_may_have_several_peers_of_several_kinds(runs):
    options = {**TINY, "epochs": 1, "batch_size": 32, "runs": runs, "profile": "smoke"}
    name, kinds = "digits/resnet18-mobilenetv2-dml-stochastic", ["resnet18", "mobilenetv2"]
    one, both = (experiments.run(name, 1, peer=peer, **options).record for peer in ("resnet18", kinds))
    assert [peer["name"] for peer in both["peers"]] == ["peer1", "peer2"]
    assert {f"loss_peer{number}_{term}" for number in (1, 2) for term in ("hard", "soft")} <= both["history"][0].keys()
    spent = (record["compute"]["flops_forward_backward"] for record in (one, both))
    assert next(spent) < next(spent), "the second peer is on the bill"
    for wrong in ([], ["resnet18", "resnet"], 3):
        with pytest.raises(ExperimentError, match="'peer' is .*a model"):
            experiments.resolve(name, peer=wrong)


def test_a_run_names_what_it_builds_on_and_says_when_that_is_gone(runs, tmp_path):
    run = experiments.run(KD, 1, runs=runs, **{**TINY, "epochs": 2, "batch_size": 32}, teacher_stop_after=1)
    (teacher,) = run.before
    assert teacher["id"] == run.record["teacher_id"] and teacher["asked"]["stop_after"] == 1
    assert experiments.Run(runs / teacher["id"], teacher, False).before == ()
    with pytest.raises(ledger.LedgerError, match="record.json: No such file"):
        _ = experiments.Run(tmp_path / "moved", run.record, False).before


def test_double_training_of_another_first_run_is_another_run():
    def planned(id):
        start = SimpleNamespace(record={"id": id}) if id else None
        return Plan("digits/mobilenetv2-double", "smoke", 1, {"stop_after": None}, None, Path("runs"), start)

    assert len({planned(id).id for id in ("a_s1_0123456789", "b_s1_0123456789", None)}) == 3


# what learns beside the student


class Beside(nn.Module):
    """A scale that is learnt, with dropout and a count of its calls."""

    def __init__(self, scale=1.0):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(scale))
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        self.modes = []

    def forward(self, logits):
        self.calls += 1
        self.modes.append(self.training)
        return nn.functional.dropout(logits * self.scale, 0.2, self.training)


class Scaled(Objective):
    """Cross-entropy of logits that a network of the objective changes first."""

    module = None

    def __init__(self, module, macs=0):
        super().__init__(losses.cross_entropy)
        self.module, self.macs = module, macs

    def terms(self, batch, logits_s):
        return super().terms(batch, self.module(logits_s))


@pytest.fixture(scope="module")
def digits():
    return data.load("digits", train_limit=96, val_limit=50, test_limit=50)


def trainer(digits, objective, path=None, seed=0, **options):
    model = models.build("mobilenetv2", 10, channels=1, width=0.125, seed=0)
    return Trainer(
        model, digits, Protocol(**{"epochs": 3, "batch_size": 32, **options}), objective, seed=seed, data_seed=0,
        augmentation=data.Augmentation(1), meter=carbon.Meter(), path=path, save_seconds=0, macs=(1, 0), name=str(path),
    )  # fmt: skip


@pytest.mark.parametrize("optimiser", ["sgd", "adam"])
def test_what_learns_beside_the_student_is_trained_in_a_group_of_its_own(digits, optimiser):
    module = Beside().eval()
    one = trainer(digits, Scaled(module), optimiser=optimiser)
    assert [len(group["params"]) for group in one.optimiser.param_groups][1:] == [1]
    one.fit()
    assert module.scale != 1 and module.calls == 9 and all(module.modes)
    rates = [group["lr"] for group in one.optimiser.param_groups]
    assert rates[0] == rates[1] == one.fit_state.history[-1]["lr"]


def test_what_learns_beside_the_student_is_not_counted_as_the_student(digits):
    one, alone = trainer(digits, Scaled(Beside())), trainer(digits, Objective(losses.cross_entropy))
    one.fit(), alone.fit()
    assert recording.counted(one) == recording.counted(alone)
    assert set(one.fit_state.chosen_weights) == set(alone.fit_state.chosen_weights)


def test_peers_that_are_trained_cost_three_passes(digits):
    peers, alone = trainer(digits, Scaled(Beside(), macs=4)), trainer(digits, Objective(losses.cross_entropy))
    peers.fit(), alone.fit()
    many, one = recording.counted(peers), recording.counted(alone)
    assert many["flops_forward_backward"] == 5 * one["flops_forward_backward"]
    assert many["flops_forward"] == 5 * one["flops_forward"]
    assert many["macs_beside"] == 4 and "macs_beside" not in one
    assert [part["share"] for part in split([peers, alone])] == pytest.approx([5 / 6, 1 / 6])


def equal(one, other):
    assert one.fit_state.history == other.fit_state.history
    for a, b in ((one.model, other.model), (one.objective.module, other.objective.module)):
        assert all(torch.equal(value, b.state_dict()[key]) for key, value in a.state_dict().items())
    return True


@pytest.mark.parametrize("optimiser", ["sgd", "adam"])
def test_trap_S17_interrupted_equals_uninterrupted_with_a_module(digits, tmp_path, optimiser):
    whole = trainer(digits, Scaled(Beside()), tmp_path / "whole.pt", optimiser=optimiser)
    whole.fit()

    def stop(row):
        if row["epoch"] == 2:
            raise KeyboardInterrupt

    cut = trainer(digits, Scaled(Beside()), tmp_path / "cut.pt", optimiser=optimiser)
    with pytest.raises(KeyboardInterrupt):
        cut.fit(on_epoch=stop)
    again = trainer(digits, Scaled(Beside(0.5)), tmp_path / "cut.pt", optimiser=optimiser)
    again.fit()
    assert again.fit_state.resumed == 1 and again.objective.module.calls == 9
    assert equal(again, whole)


def test_students_side_by_side_keep_their_modules_apart(digits, tmp_path):
    def both():
        return [trainer(digits, Scaled(Beside(scale)), seed=seed) for seed, scale in enumerate((1.0, 2.0))]

    alone, together = both(), both()
    for one in alone:
        one.fit()
    train(together, carbon.Meter(), say=None)
    assert all(equal(*pair) for pair in zip(alone, together, strict=True))
    assert alone[0].objective.module.scale != alone[1].objective.module.scale
