"""Temperature policies: their laws, their independence, their state, and that the draw reaches the loss."""

import math
from collections import Counter

import pytest
import torch
from scipy import stats

from stkd_utils import losses, seeding, temperature

RANGE = {"tau_low": 2, "tau_high": 20}
STOCHASTIC = ["stochastic", "stochastic-continuous", "stochastic-log"]
SETTINGS = {"fixed": {"tau": 4.0}} | dict.fromkeys(STOCHASTIC, RANGE)


def build(name, seed=0):
    return temperature.build(name, seed=seed, **SETTINGS[name])


def sequence(policy, count=30):
    return [policy.draw() for _ in range(count)]


def test_integer_draws_are_uniform_on_19_values():
    counts = Counter(sequence(temperature.IntegerUniform(2, 20, seed=1), 10_000))
    assert sorted(counts) == [float(value) for value in range(2, 21)]
    assert stats.chisquare(list(counts.values())).pvalue > 0.001


def test_continuous_draws_are_uniform():
    draws = sequence(temperature.ContinuousUniform(2, 20, seed=1), 5_000)
    assert all(2 <= draw <= 20 for draw in draws)
    assert stats.kstest(draws, stats.uniform(2, 18).cdf).pvalue > 0.001


def test_log_draws_are_uniform_in_the_logarithm():
    draws = sequence(temperature.LogUniform(2, 20, seed=1), 5_000)
    assert all(2 <= draw <= 20 for draw in draws)
    assert stats.kstest(draws, stats.loguniform(2, 20).cdf).pvalue > 0.001
    assert stats.kstest(draws, stats.uniform(2, 18).cdf).pvalue < 1e-6


def test_draws_do_not_depend_on_one_another():
    draws = torch.tensor(sequence(temperature.IntegerUniform(seed=1), 10_000))
    assert abs(torch.corrcoef(torch.stack([draws[1:], draws[:-1]]))[0, 1]) < 0.04


def test_fixed_is_fixed():
    assert sequence(build("fixed")) == [4.0] * 30


@pytest.mark.parametrize("name", STOCHASTIC)
def test_the_seed_decides_the_sequence(name):
    assert sequence(build(name)) == sequence(build(name))
    assert sequence(build(name)) != sequence(build(name, seed=1))


def test_the_sequence_of_seed_0_never_changes():
    assert sequence(build("stochastic"), 5) == [13.0, 19.0, 4.0, 20.0, 3.0]


@pytest.mark.parametrize("name", STOCHASTIC)
def test_other_random_numbers_do_not_move_the_sequence(name):
    expected = sequence(build(name))
    policy, augment = build(name), seeding.generator(0, "augment")
    drawn = []
    for step in range(30):
        torch.manual_seed(step)
        torch.rand(step)
        torch.rand(step + 1, generator=augment)
        drawn.append(policy.draw())
    assert drawn == expected


@pytest.mark.parametrize("name", STOCHASTIC)
def test_drawing_does_not_move_other_random_numbers(name):
    state = torch.get_rng_state()
    sequence(build(name))
    assert torch.equal(state, torch.get_rng_state())


def test_two_policies_of_one_seed_do_not_share_a_generator():
    first, second = build("stochastic"), build("stochastic")
    assert [draw for _ in range(10) for draw in (first.draw(), second.draw())][::2] == second.draws


@pytest.mark.parametrize("name", sorted(SETTINGS))
def test_draws_are_recorded_as_floats(name):
    policy = build(name)
    assert policy.draws == []
    drawn = sequence(policy)
    assert policy.draws == drawn and all(type(value) is float for value in drawn)


@pytest.mark.parametrize("name", sorted(SETTINGS))
def test_state_continues_the_sequence_after_a_round_trip_through_a_file(name, tmp_path):
    whole = sequence(build(name))
    policy = build(name)
    sequence(policy, 11)
    state = policy.state_dict()
    policy.draw()
    torch.save(state, tmp_path / "state.pt")
    resumed = build(name, seed=5)
    resumed.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    sequence(resumed, 19)
    assert resumed.draws == whole


def test_a_loaded_state_is_not_changed_by_later_draws():
    policy, state = build("stochastic"), build("stochastic").state_dict()
    policy.load_state_dict(state)
    sequence(policy)
    assert state["draws"] == []


def test_state_of_other_settings_is_refused():
    state = temperature.IntegerUniform(2, 20).state_dict()
    for other in (temperature.IntegerUniform(2, 10), temperature.ContinuousUniform(2, 20), temperature.Fixed(4)):
        with pytest.raises(ValueError, match=r"^This state was saved by IntegerUniform\(low=2, high=20\)"):
            other.load_state_dict(state)


@pytest.mark.parametrize("name", [*STOCHASTIC, "fixed"])
def test_names_build_what_they_say(name):
    policy = build(name)
    assert policy.name == name and name in temperature.names()
    assert set(policy.parameters) == set(SETTINGS[name])


def test_unknown_name_lists_the_known():
    with pytest.raises(ValueError, match="fixed, learnable, stochastic, stochastic-continuous, stochastic-log"):
        temperature.build("stochastik", seed=0, **RANGE)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("fixed", {}, "'fixed' needs tau"),
        ("stochastic", {}, "'stochastic' needs tau_high, tau_low"),
        ("stochastic-log", {"tau_low": 2, "tau_high": None}, "'stochastic-log' needs tau_high"),
        ("fixed", {"tau": 4, "tau_low": 2}, "'fixed' does not use tau_low"),
        ("stochastic", {"tau": 4, **RANGE}, "'stochastic' does not use tau"),
        ("stochastic", {"tau_mid": 4, **RANGE}, "'stochastic' does not use tau_mid"),
    ],
)
def test_trap_S3_missing_or_unused_settings_are_errors_that_name_them(name, settings, message):
    with pytest.raises(ValueError, match=rf"^The temperature policy {message}\.$"):
        temperature.build(name, seed=0, **settings)


def test_a_setting_of_none_counts_as_not_given():
    assert temperature.build("fixed", seed=0, tau=4, tau_low=None, tau_high=None).draw() == 4.0


@pytest.mark.parametrize("tau", [0, -2, math.nan, math.inf, "4"])
def test_temperatures_that_cannot_soften_are_refused(tau):
    with pytest.raises(ValueError, match="^tau must be a finite number above 0"):
        temperature.Fixed(tau)
    with pytest.raises(ValueError, match="^tau_low must be a finite number above 0"):
        temperature.LogUniform(tau, 20)


def test_empty_ranges_are_refused():
    for low, high in ((20, 2), (4, 4)):
        with pytest.raises(ValueError, match=f"^tau_low must be below tau_high; got {low} and {high}"):
            temperature.ContinuousUniform(low, high)


def test_integer_policy_wants_whole_numbers():
    assert sequence(temperature.IntegerUniform(2.0, 20.0)) == sequence(temperature.IntegerUniform(2, 20))
    with pytest.raises(ValueError, match="needs whole numbers"):
        temperature.IntegerUniform(2, 20.5)


def losses_of(policy, batches=4):
    logits_s, logits_t = torch.randn(2, 8, 10, generator=torch.Generator().manual_seed(0))
    labels, weights = torch.arange(8), {"hard_weight": 0.05, "soft_weight": 0.95}
    return [losses.total(losses.hinton(logits_s, logits_t, labels, policy.draw(), **weights)) for _ in range(batches)]


def test_trap_S2_the_drawn_tau_reaches_the_loss(monkeypatch):
    policy, draws = build("stochastic"), iter([2, 20, 2, 7])
    monkeypatch.setattr(policy, "_next", lambda: next(draws))
    values = [value.item() for value in losses_of(policy)]
    assert policy.draws == [2.0, 20.0, 2.0, 7.0]
    assert values[0] == values[2] and len(set(values)) == 3
    assert values == [losses_of(temperature.Fixed(tau), 1)[0].item() for tau in (2, 20, 2, 7)]


def test_trap_S2_real_draws_change_the_loss_from_batch_to_batch():
    policy = build("stochastic")
    values = losses_of(policy, batches=20)
    assert len(set(map(float, values))) == len(set(policy.draws)) > 5


def test_a_new_policy_is_one_class():
    try:

        class Cooling(temperature.Policy):
            name = "cooling"
            parameters = ("tau", "factor")

            def __init__(self, tau, factor, seed=0):
                super().__init__(seed)
                self.tau, self.factor = tau, factor

            def _next(self):
                return self.tau * self.factor ** len(self.draws)

        policy = temperature.build("cooling", seed=0, factor=0.5, tau=16)
        assert sequence(policy, 3) == [16.0, 8.0, 4.0]
        resumed = Cooling(16, 0.5)
        resumed.load_state_dict(policy.state_dict())
        assert resumed.draw() == 2.0
        with pytest.raises(ValueError, match="'cooling' needs factor"):
            temperature.build("cooling", seed=0, tau=16)
    finally:
        temperature.POLICIES.pop("cooling", None)


def test_a_policy_without_a_draw_says_what_is_missing():
    with pytest.raises(NotImplementedError, match="Policy needs a method _next"):
        temperature.Policy().draw()
