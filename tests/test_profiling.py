"""The parts of a step are the step: they sum to it, and every way of taking it learns the same thing."""

import itertools
import time

import pytest
import torch

from stkd_utils import profiling, quantise
from stkd_utils.models.layers import Chain

SMALL = {"classes": 10, "size": 16, "batch": 32, "width": 0.25}
PLAIN = {"precision": None, "teacher_precision": None, "channels_last": False, "fused": False}


@pytest.fixture(autouse=True)
def without_int8(monkeypatch):
    """A teacher in int8 takes seconds to prepare, and changes nothing here (test_answering tries it)."""
    monkeypatch.setattr(quantise, "missing", lambda: "This test does without.")


def test_parts_sum_to_the_whole(monkeypatch):
    step, clock = profiling.Step(**SMALL), [0.0]

    def taking(seconds, part):
        def timed():
            part()
            clock[0] += seconds

        return timed

    step.parts = {name: taking(2.0**number, part) for number, (name, part) in enumerate(step.parts.items())}
    monkeypatch.setattr(profiling.clock.time, "perf_counter", lambda: clock[0])
    table = profiling.breakdown(step, rounds=3)
    assert tuple(table["part"]) == profiling.PARTS
    assert list(table["seconds"]) == [1, 2, 4, 8, 16, 32]
    assert table.attrs["whole"] == 63 and table["share"].sum() == pytest.approx(1)


def update(step):
    """What one step adds to all parameters, as one vector."""
    before = torch.cat([parameter.detach().flatten().clone() for parameter in step.student.parameters()])
    step()
    return torch.cat([parameter.detach().flatten() for parameter in step.student.parameters()]) - before


@pytest.mark.parametrize("student", ["mobilenetv2", "shufflenetv2"])
def test_the_frugal_step_learns_what_the_plain_step_learns(student):
    plain = profiling.Step(student, **SMALL, **PLAIN)
    frugal = profiling.Step(student, **SMALL, precision="float32", teacher_precision="float32")
    wanted, got = update(plain), update(frugal)
    assert frugal.loss.item() == pytest.approx(plain.loss.item(), rel=1e-4)
    # on random images with random weights gradients nearly cancel, so that the order of additions is seen
    assert torch.nn.functional.cosine_similarity(got, wanted, dim=0) > 0.98


def test_the_fused_optimiser_takes_the_same_step():
    wanted, got = (update(profiling.Step(**SMALL, precision="float32", fused=fused)) for fused in (False, True))
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-7)


def test_the_plain_teacher_is_in_the_graph_and_the_frugal_one_is_not():
    plain, frugal = profiling.Step(**SMALL, **PLAIN), profiling.Step(**SMALL)
    plain(), frugal()
    assert plain.logits_t.requires_grad and not frugal.logits_t.requires_grad


def test_the_plain_step_has_pytorchs_own_layers_and_the_frugal_one_the_books():
    plain, frugal = profiling.Step(**SMALL, **PLAIN), profiling.Step(**SMALL)
    assert [any(isinstance(m, Chain) for m in step.student.modules()) for step in (plain, frugal)] == [False, True]


def test_a_pass_is_what_the_training_loop_does():
    """Weights after some batches of a `Pass` are, to the last bit, those of a `Trainer` that met these batches."""
    timed, trained = profiling.Pass(**SMALL), profiling.Pass(**SMALL)
    [trainer] = trained.trainers
    for _ in range(3):
        timed()
    generators = {stream: torch.Generator().manual_seed(0) for stream in ("order", "augment")}
    batches = trained.dataset.epoch(trained.batch, trained.augmentation, generators, 1)
    for batch in itertools.islice(batches, 3):
        trainer.step(batch, 0.01)
    for one, other in zip(timed.trainers[0].model.parameters(), trainer.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_students_of_a_pass_share_batches_and_teacher_and_learn_apart():
    several = profiling.Pass(**SMALL, students=2)
    several()
    one, other = several.trainers
    assert one.objective.teacher is other.objective.teacher and one.dataset is other.dataset
    assert not torch.equal(*(next(t.model.parameters()) for t in (one, other)))


def test_the_whole_can_be_another_call_than_the_sum_of_the_parts():
    step, calls = profiling.Step(**SMALL), []

    class Slow(profiling.Pass):
        def __call__(self):
            calls.append(1)
            time.sleep(0.5)

    assert profiling.breakdown(step, rounds=2, whole=Slow(**SMALL)).attrs["whole"] >= 0.5
    assert len(calls) == 3  # one before, to be warm, and one a round


def test_peak_counts_two_operations_per_product(monkeypatch):
    ticks = iter([0.0, 2.0, 2.0, 3.0])
    monkeypatch.setattr(profiling.clock.time, "perf_counter", lambda: next(ticks))
    assert profiling.matmul_peak("float32", size=8, rounds=2) == 2 * 8**3 / 1.0


def test_the_peak_of_int8_is_one_of_its_kernels_or_says_what_is_missing(monkeypatch):
    with pytest.raises(quantise.QuantiseError, match="This test does without"):
        profiling.matmul_peak("int8", size=8)
    with pytest.raises(quantise.QuantiseError, match="for processors alone"):
        profiling.matmul_peak("int8", "cuda", size=8)
    monkeypatch.undo()
    if quantise.no_kernels():
        pytest.skip(quantise.no_kernels())
    sizes, assembled = [], quantise.assembled
    monkeypatch.setattr(quantise, "assembled", lambda *made: sizes.append(made[1].shape) or assembled(*made))
    assert profiling.matmul_peak("int8", size=64, rounds=2) > 0 and sizes == [(64, 64)]
