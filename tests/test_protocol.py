"""Schedules: the paper's steps stay as they were, one-cycle is torch's own, step by step."""

import hashlib

import pytest
import torch

from stkd_utils.protocol import OPTIMISERS, SCHEDULES, Protocol


def rates(protocol, batches):
    return [
        protocol.lr_at(epoch, batch, batches) for epoch in range(1, protocol.epochs + 1) for batch in range(batches)
    ]


@pytest.mark.parametrize(
    "epochs, batches", [(1, 1), (1, 2), (1, 3), (1, 4), (1, 20), (2, 1), (10, 1), (3, 7), (30, 11)]
)
def test_one_cycle_is_the_one_of_torch_at_every_step(epochs, batches):
    protocol = Protocol(epochs=epochs, batch_size=64, lr=0.3, schedule="one-cycle")
    optimiser = torch.optim.SGD([torch.zeros(1)], lr=1)
    theirs = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, max_lr=0.15, epochs=epochs, steps_per_epoch=batches, cycle_momentum=False
    )
    wanted = []
    for _ in range(epochs * batches):
        wanted += theirs.get_last_lr()
        optimiser.step()
        if len(wanted) < epochs * batches:
            theirs.step()
    assert rates(protocol, batches) == pytest.approx(wanted, rel=1e-9)


def test_one_cycle_rises_for_three_tenths_of_the_run_and_then_falls_to_almost_nothing():
    values = rates(Protocol(epochs=10, schedule="one-cycle"), 100)
    top = values.index(max(values))
    assert top == 299 and values[top] == pytest.approx(0.1)
    assert values[: top + 1] == sorted(values[: top + 1]) and values[top:] == sorted(values[top:], reverse=True)
    assert values[0] == pytest.approx(0.1 / 25) and values[-1] == pytest.approx(0.1 / 250_000)


def test_steps_are_the_default_and_what_they_were_to_the_last_digit():
    values = rates(Protocol(), 391) + rates(Protocol(7, 64, 0.3, milestones=(0.5, 0.9), gamma=0.3, warmup_epochs=2), 9)
    assert values == rates(Protocol(schedule="steps"), 391) + values[39_100:]
    assert hashlib.sha256(",".join(map(repr, values)).encode()).hexdigest()[:16] == "b6164be774a4fe40"


def test_an_unknown_schedule_lists_the_known_ones():
    with pytest.raises(ValueError, match=f"'cosine'; choose one of: {', '.join(SCHEDULES)}"):
        Protocol(schedule="cosine")


def test_adam_is_torchs_with_the_protocols_weight_decay_and_no_momentum():
    optimiser = Protocol(optimiser="adam", lr=0.3, weight_decay=0.01).optimise(torch.nn.Linear(2, 2))
    group = optimiser.param_groups[0]
    assert type(optimiser) is torch.optim.Adam and type(Protocol().optimise(torch.nn.Linear(2, 2))) is torch.optim.SGD
    assert (group["lr"], group["weight_decay"], group["betas"]) == (0.3, 0.01, (0.9, 0.999))


def test_an_unknown_optimiser_lists_the_known_ones():
    with pytest.raises(ValueError, match=f"'lamb'; choose one of: {', '.join(OPTIMISERS)}"):
        Protocol(optimiser="lamb")


def test_a_parameter_whose_gradient_comes_later_does_not_stop_the_others():
    early, late = torch.nn.Parameter(torch.ones(3)), torch.nn.Parameter(torch.ones(3))
    optimiser = Protocol().optimise(torch.nn.ParameterList([early, late]))
    for trained in ([early], [early, late], [early]):
        for weight in trained:
            weight.grad = torch.full((3,), 0.5)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
    alone = torch.nn.Parameter(torch.ones(3))
    plain = torch.optim.SGD([alone], lr=0.1, momentum=0.9, weight_decay=5e-4)
    for _ in range(3):
        alone.grad = torch.full((3,), 0.5)
        plain.step()
    torch.testing.assert_close(early, alone)
    assert (late < 1).all()


def test_the_first_step_is_that_of_sgd_to_the_last_bit():
    weights, results = torch.randn(50, generator=torch.Generator().manual_seed(0)), []
    for make in (lambda w: Protocol().optimise(torch.nn.ParameterList([w])), plain_sgd):
        weight = torch.nn.Parameter(weights.clone())
        optimiser = make(weight)
        for _ in range(3):
            weight.grad = weight.detach().sin()
            optimiser.step()
        results.append(weight.detach())
    assert torch.equal(*results)


def plain_sgd(weight):
    return torch.optim.SGD([weight], lr=0.1, momentum=0.9, weight_decay=5e-4, fused=True)
