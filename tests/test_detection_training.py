"""Training a detector: alone and with a teacher, stopped and continued, several in one pass, without objects."""

import dataclasses
import math
import shutil

import pytest
import torch
from helpers import equal

from stkd_utils import carbon, detection, experiments, ledger, temperature
from stkd_utils.experiments import ExperimentError, tasks, together
from stkd_utils.objectives import Teacher
from stkd_utils.protocol import Protocol
from stkd_utils.training import Trainer

pytestmark = pytest.mark.usefixtures("on_cpu", "scenes_data")
KD = "scenes/ssd300vgg16bn-mobilenetv2ssdlite-kd"
STOCHASTIC = "scenes/ssd300vgg16bn-mobilenetv2ssdlite-stochastic"
LIMITS = {"train_limit": 16, "val_limit": 8, "test_limit": 8}
TINY = {"profile": "smoke", "progress": "none", "size": 64, **LIMITS}
SMALL = {"size": 64, "width": 0.25, "depth": 0.25}
EPOCHS, BATCH = 2, 4


def load(**limits):
    sets = {"train_sets": ["2007 train"], "test_sets": ["2007 val"], "val_fraction": 0.15}
    return detection.load("scenes", size=64, **sets, **limits)


@pytest.fixture(scope="module")
def scenes(scenes_data):
    return load(**LIMITS)


@pytest.fixture(scope="module")
def without_objects(scenes_data):
    """Its training images have no object at all or only difficult ones."""
    found = load(val_limit=8, test_limit=8)
    empty = [i for i in range(len(found.train)) if not len(found.train.objects(i)[1])]
    assert len(empty) > 2
    return dataclasses.replace(found, train=found.train.take(torch.tensor(empty)))


def trainer(dataset, *, taught_at=None, seed=0, path=None, augmentation="ssd", **protocol):
    """A student, whose teacher softens by the temperature policy ``taught_at`` (None: no teacher)."""
    model = detection.models.build("mobilenetv2ssdlite", 10, seed=seed, **SMALL)
    objective = detection.Supervised(model.priors)
    if taught_at:
        teacher = Teacher(detection.models.build("ssd300vgg16bn", 10, seed=7, **SMALL))
        weights = {"hard_weight": 0.5, "soft_weight": 0.5, "bound_weight": 0.5, "hint_weight": 0.5}
        objective = detection.Distillation(model.priors, teacher, taught_at, weights)
    settings = {"epochs": EPOCHS, "batch_size": BATCH, "optimiser": "adam", "lr": 0.1, "warmup_epochs": 0, **protocol}
    return Trainer(
        model, dataset, Protocol(**settings), objective, seed=seed, augmentation=augmentation, meter=carbon.Meter(),
        path=path, save_seconds=0, evaluate=detection.evaluate,
    )  # fmt: skip


def policies():
    return {"alone": None, "fixed": temperature.Fixed(4.0), "stochastic": temperature.IntegerUniform(seed=5)}


each_way = pytest.mark.parametrize("way", policies())


# the loop


@each_way
def test_a_student_learns_what_is_shown_again_and_again(scenes, way):
    shown = {"augmentation": "none", "epochs": 8, "lr": 0.3, "milestones": ()}
    history = trainer(scenes, taught_at=policies()[way], **shown).fit().history
    terms = ["hard", "box"] + ["soft", "bound", "hint"] * (way != "alone")
    assert set(history[0]) == {"epoch", "lr", "val_map50", "val_loss", *(f"loss_{term}" for term in terms)}
    for term in ("hard", "box"):
        assert history[-1][f"loss_{term}"] < 0.7 * history[0][f"loss_{term}"]


@pytest.mark.parametrize("way", ["fixed", "stochastic"])
def test_trap_S2_one_draw_per_batch_reaches_the_loss(scenes, way, monkeypatch):
    used, distil = [], detection.losses.distil

    def spy(outputs_s, outputs_t, labels, offsets, tau, **weights):
        used.append(tau)
        return distil(outputs_s, outputs_t, labels, offsets, tau, **weights)

    monkeypatch.setattr(detection.losses, "distil", spy)
    policy, alone = policies()[way], policies()[way]
    trainer(scenes, taught_at=policy).fit()
    assert len(used) == EPOCHS * math.ceil(LIMITS["train_limit"] / BATCH)
    assert used == policy.draws == [alone.draw() for _ in used]
    assert len(set(used)) > 1 or way == "fixed"


def test_trap_S8_the_teacher_sees_the_students_views_and_receives_no_gradient(scenes):
    run = trainer(scenes, taught_at=temperature.Fixed(4.0))
    teacher, seen = run.objective.teacher, {"teacher": [], "student": []}
    before = {key: value.clone() for key, value in teacher.state_dict().items()}
    for who, network in (("teacher", teacher.network), ("student", run.model)):
        network.register_forward_pre_hook(lambda model, views, who=who: seen[who].append((model.training, views[0])))
    outputs = []
    teacher.network.register_forward_hook(lambda *call: outputs.append(call[2].requires_grad))
    run.fit()
    shown = [views for training, views in seen["student"] if training]
    assert [training for training, _ in seen["teacher"]] == [False] * len(shown) and not any(outputs)
    assert all(mine is own for (_, mine), own in zip(seen["teacher"], shown, strict=True))
    assert all(p.grad is None and not p.requires_grad for p in teacher.parameters())
    assert all(torch.equal(value, before[key]) for key, value in teacher.state_dict().items())


@each_way
def test_traps_D6_D15_batches_of_nothing_but_empty_images_train(without_objects, way):
    run = trainer(without_objects, taught_at=policies()[way], weight_decay=0)
    before = [p.detach().clone() for p in run.model.parameters()]
    history = run.fit().history
    assert all(row["loss_hard"] == row["loss_box"] == row.get("loss_soft", 0) == 0 for row in history)
    assert all(value.isfinite().all() for value in run.model.state_dict().values())
    unchanged = all(torch.equal(a, b) for a, b in zip(before, run.model.parameters(), strict=True))
    assert unchanged == (way == "alone"), "without objects there is nothing to learn but the teacher's logits"


def test_trap_S7_the_test_split_is_not_read_while_training(scenes):
    class Forbidden:
        def __getattr__(self, name):
            raise AssertionError("the test split was read during training")

    trainer(dataclasses.replace(scenes, test=Forbidden())).fit()


def test_chosen_is_the_epoch_with_the_highest_map50_in_validation(scenes):
    run = trainer(scenes, augmentation="none", epochs=5)
    fit = run.fit()
    ranks = [(row["val_map50"], -row["val_loss"]) for row in fit.history]
    assert fit.chosen_epoch == 1 + ranks.index(max(ranks))
    run.model.load_state_dict(fit.chosen_weights)
    assert detection.evaluate(run.model, scenes.val, scenes)["map50"] == max(ranks)[0]


# killed in the middle


@each_way
def test_trap_S17_killed_within_an_epoch_and_continued_equals_uninterrupted(scenes, tmp_path, way):
    whole = trainer(scenes, taught_at=policies()[way], epochs=3)
    wanted = whole.fit()
    cut = trainer(scenes, taught_at=policies()[way], epochs=3, path=tmp_path / "c.pt")
    steps, terms = [], cut.objective.terms

    def killed(batch, outputs):
        steps.append(batch.epoch)
        if len(steps) == 7:
            raise KeyboardInterrupt
        return terms(batch, outputs)

    cut.objective.terms = killed
    with pytest.raises(KeyboardInterrupt):
        cut.fit()
    assert steps == [1] * 4 + [2] * 3
    again = trainer(scenes, taught_at=policies()[way], epochs=3, path=tmp_path / "c.pt")
    found = again.fit()
    assert (found.history, found.chosen_epoch, found.resumed) == (wanted.history, wanted.chosen_epoch, 1)
    ours, theirs = again.model.state_dict(), whole.model.state_dict()
    assert all(torch.equal(value, theirs[key]) for key, value in ours.items())
    assert all(torch.equal(value, wanted.chosen_weights[key]) for key, value in found.chosen_weights.items())
    if way != "alone":
        assert again.objective.policy.draws == whole.objective.policy.draws


# whole runs


@pytest.fixture(scope="module")
def alone(scenes_data, tmp_path_factory):
    """Runs of one student at two temperatures, trained apart; their folder holds the teacher's run as well."""
    return experiments.sweep(KD, seeds=[3], tau=[2, 20], runs=tmp_path_factory.mktemp("alone"), **TINY)


def with_teacher(alone, folder):
    """``folder`` with nothing but the run of their teacher."""
    teacher = alone[0].record["teacher_id"]
    shutil.copytree(alone[0].folder.parent / teacher, folder / teacher)
    return folder


def test_a_run_leaves_a_valid_record_of_itself_and_of_its_teacher(alone):
    run = alone[0]
    assert ledger.read(run.folder / "record.json") == run.record
    teacher = ledger.read(run.folder.parent / run.record["teacher_id"] / "record.json")
    assert (teacher["experiment"], teacher["tau"]) == ("scenes/ssd300vgg16bn-base", None)
    assert all(teacher["asked"][key] == run.record["asked"][key] for key in ("size", "train_sets", *LIMITS))
    assert teacher["data_checksum"] == run.record["data_checksum"]
    assert run.record["tau"]["draws"] == len(run.taus) == 2 * LIMITS["train_limit"] / run.record["asked"]["batch_size"]
    assert run.record["initial"] == teacher["initial"] == "scratch"
    assert not any("checkpoint" in path.name for path in run.folder.iterdir())
    same = ledger.table([run.record, teacher]).val_map50.tolist()
    assert same == [one["result"]["last"]["val_map50"] for one in (run.record, teacher)]


@pytest.mark.parametrize("scores", [(0.2, 0.1), (0.1, 0.2)], ids=["first", "last"])
def test_detections_and_a_picture_are_left_for_each_epoch_that_is_reported(tmp_path, monkeypatch, scores):
    validation = iter(scores)
    monkeypatch.setattr(tasks.TASKS["detection"], "evaluate", lambda *_, **__: {"map50": next(validation), "loss": 1.0})
    run = experiments.run("scenes/mobilenetv2ssdlite-base", runs=tmp_path, **TINY)
    chosen, last = (run.record["result"][epoch] for epoch in ("chosen", "last"))
    assert (chosen["epoch"], chosen["val_map50"]) == (1 + scores.index(0.2), 0.2)
    folders = ["last"] if scores[1] == 0.2 else ["chosen", "last"]
    assert sorted(path.name for path in run.folder.iterdir() if path.is_dir()) == folders
    wanted = {"pictures.png", *(f"comp4_det_test_{name}.txt" for name in last["test_ap50"])}
    assert len(wanted) == 11
    assert all({path.name for path in (run.folder / folder).iterdir()} == wanted for folder in folders)
    if len(folders) == 2:
        first, second = ((run.folder / folder / "comp4_det_test_two.txt").read_text() for folder in folders)
        assert first != second


def test_asking_again_trains_nothing(alone, monkeypatch):
    def forbidden(*_, **__):
        raise AssertionError("something was trained")

    monkeypatch.setattr(together, "train", forbidden)
    again = experiments.sweep(KD, seeds=[3], tau=[2, 20], runs=alone[0].folder.parent, **TINY)
    assert [run.new for run in again] == [False, False] and [run.record for run in again] == [r.record for r in alone]


def test_two_in_one_pass_end_as_if_trained_alone(alone, tmp_path):
    runs = with_teacher(alone, tmp_path)
    both = experiments.sweep(KD, seeds=[3], tau=[2, 20], together=True, runs=runs, **TINY)
    assert all(equal(*pair) for pair in zip(both, alone, strict=True))
    assert both[0].record["history"] != both[1].record["history"], "they are the same student"
    assert [run.record["shared"]["students"] for run in both] == [2, 2]


def test_trap_S17_a_run_that_was_killed_between_epochs_ends_equal(alone, tmp_path, monkeypatch):
    runs = with_teacher(alone, tmp_path)

    def killed(self, row):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(together.Progress, "__call__", killed)
        with pytest.raises(KeyboardInterrupt):
            experiments.run(KD, 3, tau=20, runs=runs, save_seconds=0, **TINY)
    assert len(list(runs.glob("*/checkpoint.pt"))) == 1
    continued = experiments.run(KD, 3, tau=20, runs=runs, **TINY)
    assert continued.record["resumed"] == 1 and equal(continued, alone[1])


@pytest.mark.parametrize("damage", ["forward", "outputs"])
def test_trap_D1_a_broken_student_stops_the_run_and_nothing_else_is_trained(alone, tmp_path, monkeypatch, damage):
    runs, forward = with_teacher(alone, tmp_path), detection.models.MobileNet.forward

    def broken(self, images):
        if images.device.type == "meta":  # its work is counted before it is trained
            return forward(self, images)
        if damage == "forward":
            raise RuntimeError("the student is broken")
        return [x[:1] for x in forward(self, images)]

    monkeypatch.setattr(detection.models.MobileNet, "forward", broken)
    with pytest.raises((RuntimeError, ValueError), match="the student is broken|the same images, priors and classes"):
        experiments.run(KD, 3, tau=2, runs=runs, **TINY)
    assert [path.parent.name for path in runs.glob("*/record.json")] == [alone[0].record["teacher_id"]]


def test_trap_D1_the_student_that_was_asked_for_is_the_one_in_the_record(alone):
    asked, model = alone[0].record["asked"], alone[0].model()
    wanted = detection.models.build(asked["model"], 10, **SMALL)
    assert isinstance(model.body, detection.models.MobileNet) and not model.training
    count = sum(p.numel() for p in wanted.parameters())
    assert alone[0].record["compute"]["parameters"] == sum(p.numel() for p in model.parameters()) == count


@pytest.mark.parametrize("part", ["val", "test"])
def test_a_split_without_an_object_to_find_is_said_before_training(tmp_path, monkeypatch, part):
    real = detection.load

    def load(name, **options):
        found = real(name, **options)
        hidden = tuple(torch.ones_like(difficult) for difficult in getattr(found, part).difficult)
        return dataclasses.replace(found, **{part: dataclasses.replace(getattr(found, part), difficult=hidden)})

    monkeypatch.setattr(detection, "load", load)
    with pytest.raises(ExperimentError, match=f"^The {part} split of scenes has no object to find; raise {part}_limit"):
        experiments.run("scenes/mobilenetv2ssdlite-base", runs=tmp_path, **{**TINY, "train_limit": 9})
    assert not list(tmp_path.glob("*/record.json"))
