"""A learnable temperature: bounds, direction, strength, what the student feels, and that it can be continued."""

import math

import pytest
import torch

from stkd_utils import carbon, data, experiments, losses, models, temperature
from stkd_utils.protocol import Protocol
from stkd_utils.training import Distillation, Trainer, train

WEIGHTS = {"hard_weight": 0.05, "soft_weight": 0.95}


def build(low=1, high=21):
    return temperature.build("learnable", seed=0, tau_low=low, tau_high=high)


def case(scale_t=3.0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    logits_s, logits_t = torch.randn(2, 16, 10, generator=generator, dtype=dtype)
    return logits_s.requires_grad_(), scale_t * logits_t, torch.arange(16) % 10


def loss(logits_s, logits_t, labels, tau):
    return losses.total(losses.hinton(logits_s, logits_t, labels, tau, **WEIGHTS))


# value


def test_it_begins_where_the_authors_code_does():
    assert build().draw().item() == pytest.approx(15.62, abs=0.005)
    assert build(2, 20).draw().item() == pytest.approx(2 + 18 / (1 + math.exp(-1)))


@pytest.mark.parametrize("p", [-1e4, -20.0, 0.0, 20.0, 1e4])
def test_trap_P7_the_bounds_are_honoured_whatever_is_learnt(p):
    policy = build(2, 20)
    policy.module.p.data.fill_(p)
    assert 2 <= policy.draw().item() <= 20
    assert policy.draws[-1] == (11 if p == 0 else pytest.approx(2 if p < 0 else 20))


def test_draws_are_floats_that_are_made_when_they_are_read():
    policy = build()
    drawn = [policy.draw() for _ in range(3)]
    assert all(value.requires_grad and value.shape == () for value in drawn)
    assert policy.draws == [value.item() for value in drawn] and all(type(value) is float for value in policy.draws)
    policy.draw()
    assert len(policy.draws) == 4 and repr(policy) == "Learnable(low=1, high=21)"


def test_bad_bounds_are_refused():
    with pytest.raises(ValueError, match="^tau_low must be below tau_high; got 20 and 2"):
        build(20, 2)


# strength


def test_trap_P7_the_strength_rises_from_0_to_1_and_stays():
    values = [temperature.reversal(epoch) for epoch in range(12)]
    assert values[0] == 0 and values[5] == pytest.approx(0.5) and values[10] == values[11] == 1
    assert values[:11] == sorted(values[:11]) and len(set(values[:11])) == 11


@pytest.mark.parametrize("epoch", [1, 3, 10, 50])
def test_the_gradient_of_p_is_turned_round_and_scaled_by_the_strength(epoch):
    policy = build()
    loss(*case(), policy.draw(epoch)).backward()
    p = torch.tensor(1.0, requires_grad=True)
    loss(*case(), 1 + 20 * torch.sigmoid(p)).backward()
    assert policy.module.p.grad.item() == pytest.approx(-temperature.reversal(epoch) * p.grad.item(), rel=1e-5)
    assert p.grad != 0


# direction


@pytest.mark.parametrize("scale_t", [0.1, 1.0, 10.0])
@pytest.mark.parametrize("epoch", [1, 10])
def test_trap_P7_a_step_moves_tau_to_where_the_loss_is_higher(scale_t, epoch):
    policy = build()
    optimiser = torch.optim.SGD(policy.module.double().parameters(), lr=0.1)
    before = policy.draw(epoch)
    first = loss(*case(scale_t, torch.float64), before)
    first.backward()
    optimiser.step()
    after = policy.draw(epoch)
    assert after != before and loss(*case(scale_t, torch.float64), after) > first


def test_the_student_feels_the_same_tau_as_if_it_were_fixed():
    learnt, fixed = case(), case()
    policy = build()
    tau = policy.draw(10)
    loss(*learnt, tau).backward()
    loss(*fixed, tau.item()).backward()
    torch.testing.assert_close(learnt[0].grad, fixed[0].grad)


# in training


@pytest.fixture(scope="module")
def digits():
    return data.load("digits", train_limit=96, val_limit=50, test_limit=50)


def trainer(digits, path=None, seed=0, low=1, **options):
    model = models.build("mobilenetv2", 10, channels=1, width=0.125, seed=seed)
    objective = Distillation(models.build("resnet18", 10, channels=1, width=0.0625, seed=7), build(low), **WEIGHTS)
    return Trainer(
        model, digits, Protocol(epochs=3, batch_size=32), objective, seed=seed, data_seed=0, path=path, save_seconds=0,
        augmentation=data.Augmentation(1), meter=carbon.Meter(), macs=(1, 1), name=str(seed), **options,
    )  # fmt: skip


def equal(one, other):
    assert one.fit_state.history == other.fit_state.history
    assert one.objective.policy.draws == other.objective.policy.draws
    assert torch.equal(one.objective.module.p, other.objective.module.p)
    return all(torch.equal(v, other.model.state_dict()[key]) for key, v in one.model.state_dict().items())


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_tau_moves_in_every_step_also_in_bfloat16(digits, precision):
    one = trainer(digits, precision=precision)
    one.fit()
    draws = one.objective.policy.draws
    assert len(set(draws)) == len(draws) == 9 and all(1 < tau < 21 for tau in draws)
    assert one.objective.module.p.dtype == torch.float32


def test_trap_S17_it_goes_on_where_it_stopped(digits, tmp_path):
    whole = trainer(digits, tmp_path / "whole.pt")
    whole.fit()

    def stop(row):
        if row["epoch"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trainer(digits, tmp_path / "cut.pt").fit(on_epoch=stop)
    again = trainer(digits, tmp_path / "cut.pt")
    again.fit()
    assert again.fit_state.resumed == 1 and len(again.objective.policy.draws) == 9
    assert equal(again, whole)


def test_side_by_side_each_learns_its_own_temperature_as_if_alone(digits):
    alone, together = ([trainer(digits, seed=0), trainer(digits, seed=1, low=2)] for _ in range(2))
    for one in alone:
        one.fit()
    train(together, carbon.Meter(), say=None)
    assert all(equal(*pair) for pair in zip(alone, together, strict=True))
    assert alone[0].objective.policy.draws != alone[1].objective.policy.draws


@pytest.mark.usefixtures("on_cpu", "scenes_data")
def test_a_detector_learns_its_temperature_alone_or_side_by_side(tmp_path):
    options = {"profile": "smoke", "progress": "none", "train_limit": 16, "val_limit": 8, "test_limit": 8, "size": 64}
    options |= {"tau_policy": "learnable", "tau_low": [1, 2], "tau_high": 21, "seeds": [0]}
    name = "scenes/ssd300vgg16bn-mobilenetv2ssdlite-stochastic"
    alone, together = (
        experiments.sweep(name, runs=tmp_path / str(both), together=both, **options) for both in (False, True)
    )
    for one, other in zip(alone, together, strict=True):
        assert (one.folder / "taus.csv").read_bytes() == (other.folder / "taus.csv").read_bytes()
        assert one.record["result"] == other.record["result"] and one.record["history"] == other.record["history"]
        assert one.taus.tau.nunique() == len(one.taus) == 4 and one.record["tau"]["policy"] == "learnable"
    counts = {run.record["compute"]["parameters"] for run in alone}
    assert counts == {sum(parameter.numel() for parameter in alone[0].model().parameters())}
