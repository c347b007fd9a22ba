"""Students that share a pass: each ends as if trained alone, and the pass is paid once."""

import copy
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from helpers import equal, same_student
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from stkd_utils import carbon, compute, data, experiments, ledger, losses, models, temperature, training
from stkd_utils.__main__ import main
from stkd_utils.data import Batch
from stkd_utils.experiments import ExperimentError, recording, together
from stkd_utils.protocol import Protocol
from stkd_utils.sharing import split
from stkd_utils.training import Distillation, Supervised, Teacher, Trainer, train

pytestmark = pytest.mark.usefixtures("on_cpu")
KD = "digits/resnet18-mobilenetv2-kd"
STOCHASTIC = "digits/resnet18-mobilenetv2-stochastic"
LEARNABLE = "digits/resnet18-mobilenetv2-learnable"
TINY = {"train_limit": 128, "val_limit": 64, "test_limit": 32, "epochs": 2, "batch_size": 32, "width": 0.125}
TEACHER = {"profile": "smoke", "progress": "none"} | {key: TINY[key] for key in TINY if key.endswith("_limit")}
QUIET = {"progress": "none", "profile": "smoke", **TINY}

GRIDS = {
    "three temperatures": (KD, [3], {"tau": [2, 4, 20]}),
    "three policies": (STOCHASTIC, [3], {"tau_policy": ["stochastic", "stochastic-continuous", "stochastic-log"]}),
    "a learnt temperature": (LEARNABLE, [3, 4], {"data_seed": 3}),
    "answers kept on disk": (KD, [3], {"tau": [2, 4], "stored_teacher": True, "data_seed": 3}),
    "two seeds": (STOCHASTIC, [3, 4], {"data_seed": 3}),
    "two students": (KD, [3], {"model": ["mobilenetv2", "shufflenetv2"], "tau": 4}),
    "two teachers": (STOCHASTIC, [3], {"teacher_seed": [0, 1]}),
    "bfloat16": (KD, [3], {"precision": "bfloat16", "tau": [2, 4]}),
    "two weights, one cycle": (KD, [3], {"hard_weight": [0.1, 0.5], "tau": 4, "schedule": "one-cycle"}),
}


@pytest.mark.parametrize("name, seeds, grid", GRIDS.values(), ids=GRIDS)
def test_each_ends_as_if_trained_alone_and_the_pass_is_paid_once(name, seeds, grid, tmp_path):
    alone = experiments.sweep(name, seeds=seeds, runs=tmp_path / "alone", **grid, **QUIET)
    both = experiments.sweep(name, seeds=seeds, runs=tmp_path / "both", together=True, **grid, **QUIET)
    assert all(equal(*pair) for pair in zip(alone, both, strict=True)) and len(both) > 1
    assert len({run.record["result"]["last"]["val_loss"] for run in both}) == len(both), "they are all the same student"
    ids = sorted(run.record["id"] for run in both)
    assert all(run.record["shared"]["of"] == ids and run.record["shared"]["students"] == len(ids) for run in both)
    assert all(run.record["shared"] is None for run in alone)
    assert sum(run.record["shared"]["share"] for run in both) == pytest.approx(1)
    first = both[0].record["compute"]
    teachers = {run.record["teacher_id"]: run.record["compute"]["macs_teacher"] for run in both}
    images = 2 * TINY["epochs"] * TINY["train_limit"]
    for field, passes in (("flops_forward", 1), ("flops_forward_backward", 3)):
        work = passes * sum(run.record["compute"]["macs_student"] for run in both) + sum(teachers.values())
        assert sum(run.record["compute"][field] for run in both) == pytest.approx(images * work, abs=len(both))
    assert first["macs_teacher"] == alone[0].record["compute"]["macs_teacher"]


def test_with_two_threads_each_ends_as_if_trained_alone_too(tmp_path, monkeypatch):
    before = torch.get_num_threads()
    monkeypatch.setattr(together, "_threads", lambda count: nullcontext())  # the profile would train with one
    torch.set_num_threads(2)
    try:
        alone = experiments.sweep(KD, seeds=[3], tau=[2, 4], runs=tmp_path / "alone", **QUIET)
        both = experiments.sweep(KD, seeds=[3], tau=[2, 4], runs=tmp_path / "both", together=True, **QUIET)
    finally:
        torch.set_num_threads(before)
    assert all(equal(*pair) for pair in zip(alone, both, strict=True))
    assert {run.record["hardware"]["threads"] for run in (*alone, *both)} == {2}


class Unread(TorchDispatchMode):
    """Refuses to tell Python a number (`item`, float, a comparison): on a GPU, the loop would wait for it."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func is not torch.ops.aten._local_scalar_dense.default, "a number was read"
        return func(*args, **(kwargs or {}))


def test_what_makes_the_step_fast_is_in_a_real_run(tmp_path, monkeypatch):
    seen, advance = [], training.advance

    def watched(trainers, *given):
        seen.append(trainers)
        with Unread():
            advance(trainers, *given)

    monkeypatch.setattr(training, "advance", watched)
    monkeypatch.setattr(losses, "_check_labels", lambda *_: None)  # which reads labels on a CPU alone
    grid = {"model": "resnet18", "tau": [2, 4]}  # its kernels are neither of one pixel nor of one channel
    experiments.sweep(KD, seeds=[3], runs=tmp_path, together=True, **grid, **QUIET)
    for trainer in seen[-1]:
        assert all(group["fused"] for group in trainer.optimiser.param_groups)
        for network in (trainer.model, trainer.objective.teacher.network):
            weights = [layer.weight for layer in network.modules() if isinstance(layer, nn.Conv2d)]
            assert weights and all(w.is_contiguous(memory_format=torch.channels_last) for w in weights)
    with pytest.raises(AssertionError, match="a number was read"), Unread():
        torch.ones(1).item()


def test_with_answers_partly_on_disk_they_end_the_same_and_share_what_was_missing(tmp_path):
    asked = {"stored_teacher": True, "rotation_degrees": 0, "crop_padding": 1, **QUIET}  # nine views of each image
    known = experiments.run(KD, 3, runs=tmp_path / "both", tau=6, stop_after=1, **asked).record["compute"]
    alone = experiments.sweep(KD, seeds=[3], tau=[2, 4], runs=tmp_path / "alone", **{**asked, "stored_teacher": False})
    both = experiments.sweep(KD, seeds=[3], tau=[2, 4], runs=tmp_path / "both", together=True, **asked)
    assert all(same_student(*pair) for pair in zip(alone, both, strict=True))
    images, work = 2 * TINY["train_limit"], sum(run.record["compute"]["flops_forward"] for run in both)
    assert len({run.record["compute"]["flops_forward"] for run in both}) == 1
    taught = work / images - 2 * TINY["epochs"] * known["macs_student"]  # MACs of an image
    assert 0 < taught < TINY["epochs"] * known["macs_teacher"], "some of the views were on disk, and not all"


def test_several_experiments_side_by_side_each_end_as_if_trained_alone(tmp_path):
    names = {"digits/mobilenetv2-base": {}, KD: {"tau": 4}, STOCHASTIC: {}}
    wanted = [(name, 3, {**TINY, **asked}) for name, asked in names.items()]
    options = {"profile": "smoke", "progress": "none"}
    both = experiments.side_by_side(wanted, runs=tmp_path / "both", **options)
    for (name, seed, asked), run in zip(wanted, both, strict=True):
        alone = experiments.run(name, seed, runs=tmp_path / "alone", **options, **asked)
        assert equal(alone, run) and run.record["experiment"] == name
    shares = [run.record["shared"]["share"] for run in both]
    assert sum(shares) == pytest.approx(1) and shares[0] < shares[1] == pytest.approx(shares[2])
    again = experiments.side_by_side(wanted, runs=tmp_path / "both", **options)
    assert not any(run.new for run in again)
    assert experiments.side_by_side([]) == []


def test_costs_go_by_share_and_sum_to_what_the_meter_of_the_pass_saw(tmp_path):
    trainers, meter = pair(tmp_path), carbon.Meter()
    train(trainers, meter, say=None)
    whole = sum(meter.cost(f"epoch {epoch}") for epoch in (1, 2))
    costs = [trainer.meter.cost("train") for trainer in trainers]
    assert sum(costs).seconds == pytest.approx(whole.seconds)
    assert sum(costs).energy_kwh == pytest.approx(whole.energy_kwh)
    assert [cost.how for cost in costs] == [whole.how] * 2
    for cost, part in zip(costs, split(trainers), strict=True):
        assert cost.seconds == pytest.approx(part["share"] * whole.seconds)
    assert costs[0].seconds < costs[1].seconds, "the larger student pays more"


def test_finished_ones_are_reused_and_the_others_share_without_them(tmp_path, capsys):
    first = experiments.run(KD, 3, runs=tmp_path, tau=2, **QUIET)
    found = experiments.sweep(KD, seeds=[3], tau=[2, 4, 4, 6], together=True, runs=tmp_path, **QUIET)
    assert [run.record["asked"]["tau"] for run in found] == [2, 4, 4, 6]
    assert [run.new for run in found] == [False, True, True, True]
    assert found[0].record == first.record
    assert found[1].record["shared"]["students"] == 2 and first.record["id"] not in found[1].record["shared"]["of"]


def test_a_single_one_is_a_plain_run(tmp_path):
    (run,) = experiments.sweep(KD, seeds=[3], tau=[2], together=True, runs=tmp_path, **QUIET)
    assert run.record["shared"] is None


@pytest.mark.parametrize("grid, key", [
    ({"batch_size": [32, 64]}, "batch_size"),
    ({"rotation_degrees": [0, 15]}, "rotation_degrees"),
    ({"epochs": [1, 2]}, "epochs"),
    ({"stop_after": [None, 1]}, "stop_after"),
    ({"data_seed": [1, 2]}, "data_seed"),
    ({"seeds": [3, 4]}, "data_seed"),
    ({"seeds": [3, 4], "data_seed": [None, 3]}, "data_seed"),
    ({"dataset": ["digits", "cifar10"]}, "dataset"),
    ({"precision": ["float32", "bfloat16"]}, "precision"),
])  # fmt: skip
def test_runs_that_cannot_share_a_pass_are_refused_before_anything_is_trained(grid, key, tmp_path):
    with pytest.raises(ExperimentError, match=f"together only with equal '{key}'; got .*: .*[^.]\\.$"):
        experiments.sweep(KD, runs=tmp_path, together=True, **{"seeds": [3], **QUIET, **grid})
    assert not list(tmp_path.iterdir())


def test_a_list_that_is_a_valid_value_is_not_a_grid(tmp_path):
    found = experiments.sweep(KD, seeds=[3], milestones=[0.5], runs=tmp_path, tau=[2, 3], together=True, **QUIET)
    assert [run.record["asked"]["milestones"] for run in found] == [[0.5], [0.5]]


# one answer per batch


def batch(views):
    return Batch(views, None, None, None, 1)


def test_trap_P1_a_teacher_never_gives_an_answer_to_another_batch():
    asked = []

    class Network(nn.Module):
        def forward(self, views):
            asked.append(len(views))
            return views.flatten(1).sum(1, keepdim=True)

    teacher = Teacher(Network())
    one, other = batch(torch.ones(2, 1, 2, 2)), batch(torch.zeros(2, 1, 2, 2))
    assert teacher(one) is teacher(one) and len(asked) == 1
    assert teacher(other).sum() == 0 and teacher(one).sum() == 8
    assert len(asked) == 3
    assert not teacher(one).is_inference()


def test_the_teacher_works_once_a_batch(tmp_path):
    trainers, answered = pair(tmp_path), []
    trainers[0].objective.teacher.network.register_forward_hook(lambda *_: answered.append(1))
    train(trainers, carbon.Meter(), say=None)
    assert len(answered) == 2 * 3


def test_dropout_of_one_student_does_not_move_that_of_another():
    class Dropping(nn.Module):
        def __init__(self, seed):
            super().__init__()
            self.network = models.build("mobilenetv2", 10, channels=1, width=0.125, seed=seed)

        def forward(self, images):
            return nn.functional.dropout(self.network(images), 0.5, self.training)

    digits = data.load("digits", train_limit=96, val_limit=50, test_limit=50)

    def trainers(seeds):
        return [trainer(digits, Dropping(seed), Supervised(), seed=seed, data_seed=0) for seed in seeds]

    alone = [one.fit().history for one in trainers((0, 1))]
    assert [fit.history for fit in train(trainers((0, 1)), carbon.Meter())] == alone


# the bill of the paper's grid, by counting


def test_a_grid_of_19_costs_at_most_31_percent_of_separate_runs():
    student = models.build("mobilenetv2", 100, channels=3, seed=0)
    macs = [compute.count(model, (3, 32, 32)).macs for model in (student, models.build("resnet18", 100, seed=0))]
    teacher = Teacher(nn.Identity())

    def bill(count):
        students = [
            SimpleNamespace(
                objective=SimpleNamespace(teacher=teacher, macs=0, macs_backward=0),
                macs=macs, name=str(i), model=student,
                dataset=SimpleNamespace(train=range(50_000)),
                protocol=SimpleNamespace(batch_size=128),
            )
            for i in range(count)
        ]  # fmt: skip
        total = 0
        for one, part in zip(students, split(students), strict=True):
            one.fit_state = SimpleNamespace(parts=[part] * 100)
            total += recording.counted(one)["flops_forward_backward"]
        return total

    separate = 19 * compute.run_flops(
        student_macs=macs[0], teacher_macs=macs[1], images=50_000, epochs=100, backward=True
    )
    assert bill(1) == pytest.approx(separate / 19)
    assert 0.25 < bill(19) / separate <= 0.31


def test_shares_of_an_interrupted_pass_are_those_of_its_epochs():
    alone, half = {"share": 1.0, "teacher": 1.0, "of": ["a"]}, {"share": 0.25, "teacher": 0.5, "of": ["b", "a"]}
    assert recording.shared([alone, alone]) is None
    assert recording.shared([half, half, alone]) == {"students": 2, "share": 0.5, "of": ["a", "b"]}


def test_a_record_from_before_is_still_valid(tmp_path):
    run = experiments.run(KD, 3, runs=tmp_path, tau=2, **QUIET)
    old = copy.deepcopy(run.record)
    del old["shared"], old["hardware"]["precision"]
    ledger.write(old, tmp_path / "old.json")
    assert ledger.read(tmp_path / "old.json") == old


# the loop by hand


def trainer(digits, model, objective, **options):
    protocol = Protocol(epochs=2, batch_size=32)
    return Trainer(
        model, digits, protocol, objective, augmentation=data.Augmentation(crop_padding=1), meter=carbon.Meter(),
        macs=(1, 1), **options,
    )  # fmt: skip


def pair(folder):
    """A small student and a larger one with one teacher."""
    digits = data.load("digits", train_limit=96, val_limit=50, test_limit=50)
    shape = (digits.channels, digits.size, digits.size)
    teacher = Teacher(models.build("resnet18", 10, channels=1, width=0.0625, seed=7))
    students = [models.build("mobilenetv2", 10, channels=1, width=width, seed=0) for width in (0.125, 0.25)]
    trainers = []
    for number, model in enumerate(students):
        objective = Distillation(teacher, temperature.Fixed(4.0), hard_weight=0.05, soft_weight=0.95)
        one = trainer(digits, model, objective, seed=0, path=folder / f"{number}.pt", name=str(number))
        one.macs = compute.count(model, shape).macs, compute.count(teacher.network, shape).macs
        trainers.append(one)
    return trainers


def test_trainers_that_see_other_batches_are_refused(tmp_path):
    trainers = pair(tmp_path)
    trainers[1].data_seed = 9
    with pytest.raises(ValueError, match="data seed and last epoch: train these apart"):
        train(trainers, carbon.Meter())
    trainers = pair(tmp_path)
    with pytest.raises(ValueError, match="split by FLOPs: give it a meter"):
        train(trainers)


# the command line


def test_command_line_trains_a_grid_together(tmp_path, capsys):
    words = [word for key, value in TINY.items() for word in ("--set", f"{key}={value}")]
    asked = ["run", KD, "--profile", "smoke", "--runs", str(tmp_path), *words, "--together", "--set", "tau=[2, 4]"]
    assert main([*asked, "--seeds", "3,4", "--set", "data_seed=3"]) == 0
    shown = capsys.readouterr().out.splitlines()
    paths = [line for line in shown if line.endswith("record.json")]
    assert [ledger.read(path)["shared"]["students"] for path in paths] == [4] * 4
    assert any("tau 2: 2 seeds" in line for line in shown) and any("Emissions" in line for line in shown)
    assert main([*asked, "--seeds", "3,4"]) == 2
    message = capsys.readouterr().err
    assert "set data_seed, such as 3, for all" in message and message.count("\n") == 1
    assert main([*asked, "--seeds", "3,x"]) == 2
    message = capsys.readouterr().err
    assert "--seeds" in message and message.count("\n") == 1
