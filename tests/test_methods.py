"""Methods as experiments: what each needs is read and nothing else, ids stay, and what an objective learns is kept."""

import json

import pytest
import torch
from torch import nn

from stkd_utils import carbon, data, experiments, ledger, losses, models
from stkd_utils.experiments import ExperimentError, methods, recording, settings, tasks
from stkd_utils.experiments.running import resolved
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
    for record in map(json.loads, lines):
        name, profile, asked = record["experiment"], record["profile"], record["asked"]
        plain = resolved(name, profile, {})
        overrides = {key: value for key, value in asked.items() if key not in plain or plain[key] != value}
        again = resolved(name, profile, overrides)
        assert again == asked
        assert settings.digest({**again, "teacher_run": record["teacher_id"]}) == record["asked_hash"]
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
    plain, null = experiments.resolve(KD, {}), experiments.resolve(KD, {"teacher_stop_after": None})
    assert plain == null and "teacher_stop_after" not in plain
    assert experiments.resolve(KD, {"teacher_stop_after": 3})["teacher_stop_after"] == 3


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
        experiments.resolve(name, change)
    assert "\n" not in str(caught.value)


def test_a_defective_teacher_is_another_run_and_ends_early(tmp_path):
    run = experiments.run(KD, 1, runs=tmp_path, teacher_stop_after=1, **TINY)
    teacher = ledger.read(tmp_path / run.record["teacher_id"] / "record.json")
    assert len(teacher["history"]) == teacher["asked"]["stop_after"] == 1
    whole = experiments.run(KD, 1, runs=tmp_path, **TINY)
    assert whole.record["teacher_id"] != run.record["teacher_id"] and whole.record["id"] != run.record["id"]
    with pytest.raises(ExperimentError, match="'teacher_stop_after' must be below the 2 epochs of 'digits/resnet18-"):
        experiments.run(KD, 1, runs=tmp_path, teacher_stop_after=2, **TINY)


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
    assert many["macs_peers"] == 4 and "macs_peers" not in one
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
