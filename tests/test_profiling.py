"""The parts of a step are the step: they sum to it, and every way of taking it learns the same thing."""

import pytest
import torch

from stkd_utils import profiling

SMALL = {"classes": 10, "size": 16, "batch": 32, "width": 0.25}
PLAIN = {"precision": None, "teacher_precision": None, "channels_last": False, "fused": False}


def sums(step):
    table = profiling.breakdown(step, rounds=5)
    assert tuple(table["part"]) == profiling.PARTS
    assert table["share"].sum() == pytest.approx(1)
    return table["seconds"].sum() / table.attrs["whole"]


def test_parts_sum_to_the_whole():
    step = profiling.Step(classes=10, batch=64, width=0.5)
    assert any(0.9 < sums(step) < 1.1 for _ in range(5))  # again when another program came in between


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


def test_the_plain_teacher_is_in_the_graph_and_the_frugal_one_is_not():
    plain, frugal = profiling.Step(**SMALL, **PLAIN), profiling.Step(**SMALL)
    plain(), frugal()
    assert plain.logits_t.requires_grad and not frugal.logits_t.requires_grad


def test_peak_counts_two_operations_per_product(monkeypatch):
    ticks = iter([0.0, 2.0, 2.0, 3.0])
    monkeypatch.setattr(profiling.time, "perf_counter", lambda: next(ticks))
    assert profiling.matmul_peak("float32", size=8, rounds=2) == 2 * 8**3 / 1.0
