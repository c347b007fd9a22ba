"""Time, energy and size of answers, and the agreement of two networks, against cases that are known by hand."""

import math
import time

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from stkd_utils import carbon, engine, hardware, inference, models

IMAGES = torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))


class Slow:
    """Answers after ``seconds``, and notes who was asked in ``calls``."""

    def __init__(self, name, seconds, calls):
        self.name, self.seconds, self.calls = name, seconds, calls

    def __call__(self, images):
        self.calls.append(self.name)
        time.sleep(self.seconds)


@pytest.fixture
def network():
    model = models.build("mobilenetv2", 10, channels=1, width=0.25, depth=0.25, seed=0)
    with torch.no_grad():
        for _ in range(10):
            model(IMAGES)  # batch statistics that are not those of the start
    return model.eval()


def metered(**source):
    return carbon.Meter(found={"cpu": hardware.Source(note="as the test says", **source)})


def test_networks_are_timed_in_turn_after_their_warm_up():
    calls = []
    slow = {name: Slow(name, seconds, calls) for name, seconds in (("a", 0.004), ("b", 0.001))}
    found = inference.timings(slow, IMAGES, rounds=3, warmup=2)
    assert calls == ["a", "b"] * 5, "a change of load meets both"
    assert [len(timing.seconds) for timing in found.values()] == [3, 3]
    assert found["a"].median >= 0.004 and found["b"].median >= 0.001
    assert found["a"].per_image == found["a"].median / 6


def test_medians_and_quartiles_are_those_of_the_rounds():
    timing = inference.Timing((5.0, 1.0, 2.0, 4.0, 3.0), batch_size=10)
    assert (timing.median, timing.quartiles, timing.per_image) == (3.0, (2.0, 4.0), 0.3)


def test_no_round_is_an_error():
    with pytest.raises(ValueError, match="at least 1 round; got rounds=0"):
        inference.timings({"a": len}, IMAGES, rounds=0)


def test_energy_is_that_of_the_metered_passes_over_their_images():
    calls = []
    meter = metered(how="modelled", watts=10.0)
    found = inference.energy(Slow("a", 0.01, calls), IMAGES, meter, seconds=0.05, name="a")
    passes = len(calls) - 1  # the first one warms up
    assert 1 <= passes <= 6 and found.images == passes * len(IMAGES)
    assert found.how == "modelled"
    assert found.joules == pytest.approx(10.0 * meter.cost("a").seconds / found.images)
    assert found.joules >= 10.0 * 0.01 / len(IMAGES)


def test_savings_are_paired_by_round_and_keep_their_sign():
    slow, fast = (inference.Timing(seconds, batch_size=2) for seconds in ((4.0, 6.0, 8.0), (2.0, 4.0, 6.0)))
    found = inference.saved(slow, fast)
    assert (found.mean, found.low, found.high, found.n) == (1.0, 1.0, 1.0, 3), "the load of a round falls out"
    assert inference.saved(fast, slow).mean == -1.0
    with pytest.raises(ValueError, match="Batches of 2 and of 1 images"):
        inference.saved(slow, inference.Timing((1.0, 1.0, 1.0), batch_size=1))


def test_energy_that_was_not_seen_is_none_and_one_pass_is_always_made():
    calls = []
    found = inference.energy(Slow("a", 0.001, calls), IMAGES, metered(how="not seen"), seconds=0)
    assert found == inference.Energy(None, "not seen", len(IMAGES)) and len(calls) == 2


def test_size_counts_parameters_and_buffers_in_bytes():
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4))
    floats = 4 * 9 + 4 + 4 * 4  # weights, bias; scale, shift, mean and variance of the normalisation
    found = inference.size(model)
    assert found.weight_bytes == 4 * floats + 8, "and the counter of batches, 8 bytes"
    assert found.weight_bytes < found.file_bytes < found.weight_bytes + 10_000
    assert inference.size(model.half()).weight_bytes == 2 * floats + 8


def test_a_network_agrees_with_itself_in_any_batches(network):
    same = inference.agreement(network, network, IMAGES, batch_size=4)
    assert same == inference.Agreement(0.0, 1.0, 6)
    whole = inference.logits(network, IMAGES)
    torch.testing.assert_close(inference.logits(network, IMAGES, batch_size=1), whole)


def test_agreement_tells_the_largest_difference_and_the_share_of_equal_answers():
    def one(images):
        return torch.eye(4)[[0, 1, 2, 3]][: len(images)]

    def other(images):
        return one(images) + torch.tensor([0.0, 0.0, 0.0, 1.5])

    assert inference.agreement(one, one, torch.zeros(4, 1)) == inference.Agreement(0.0, 1.0, 4)
    assert inference.agreement(one, other, torch.zeros(4, 1)) == inference.Agreement(1.5, 0.25, 4)


def test_a_folded_network_answers_alike_and_another_one_does_not(network):
    folded = inference.agreement(network, engine.frozen(network, "float32", "cpu"), IMAGES)
    other = models.build("mobilenetv2", 10, channels=1, width=0.25, depth=0.25, seed=1)
    assert folded.equal == 1 and folded.largest < 1e-4
    assert inference.agreement(network, other, IMAGES).largest > 1e-3


def test_a_network_that_trains_is_asked_in_evaluation_and_trains_again(network):
    expected, before = inference.logits(network, IMAGES), network.state_dict()
    before = {name: tensor.clone() for name, tensor in before.items()}
    network.train()
    assert torch.equal(inference.logits(network, IMAGES), expected) and network.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_different_classes_cannot_be_compared(network):
    other = models.build("mobilenetv2", 7, channels=1, width=0.25, depth=0.25, seed=0)
    with pytest.raises(ValueError, match="Networks of 10 and of 7 classes cannot be compared"):
        inference.agreement(network, other, IMAGES)


@given(st.floats(0, 1e6), st.floats(0, 1e3), st.floats(0, 1e3), st.floats(0.1, 100))
def test_break_even_is_where_both_ways_have_cost_the_same_whatever_the_watts(paid, dear, cheap, watts):
    images = inference.break_even(paid, dear, cheap)
    if dear <= cheap:
        assert images == math.inf
    elif math.isfinite(images) and dear - cheap > 1e-3:
        assert paid + images * cheap == pytest.approx(images * dear, rel=1e-6, abs=1e-6)
        assert inference.break_even(watts * paid, watts * dear, watts * cheap) == pytest.approx(images, rel=1e-6)


def test_costs_below_zero_are_an_error():
    with pytest.raises(ValueError, match="0 or more"):
        inference.break_even(-1, 2, 1)
