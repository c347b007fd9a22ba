"""Costs: sums by how they are known, what does not add, and an exact round trip."""

import json
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stkd_utils import carbon
from stkd_utils.carbon import Cost, Intensity, Reading

WORLD = carbon.INTENSITIES["world"]


def cost(seconds=10.0, cpu=None, gpu=None, **more):
    unseen = Reading(None, "not seen")
    return Cost(seconds, {"cpu": cpu or unseen, "gpu": gpu or unseen, "ram": unseen}, **more)


def test_readings_add_by_how_they_are_known():
    a, b = Reading(1.0, "modelled", 30.0, "half of 60 W"), Reading(2.0, "modelled", 30.0, "half of 60 W")
    assert a + b == Reading(3.0, "modelled", 30.0, "half of 60 W")
    counted = Reading(4.0, "measured", None, "a counter")
    assert counted + counted == Reading(8.0, "measured", None, "a counter")
    both = a + counted
    assert (both.kwh, both.how, both.watts, both.note) == (5.0, "mixed", None, "half of 60 W; a counter")
    assert (both + a).how == "mixed"
    other = a + Reading(1.0, "modelled", 50.0, "stated by user")
    assert (other.how, other.watts, other.note) == ("modelled", None, "half of 60 W; stated by user")


def test_none_and_a_number_keep_the_number_and_say_that_part_was_not_seen():
    number, unseen = Reading(1.0, "measured", None, "a counter"), Reading(None, "not seen", None, "no GPU")
    for both in (number + unseen, unseen + number):
        assert (both.kwh, both.how) == (1.0, "measured")
        assert "a counter" in both.note and "part was not seen (no GPU)" in both.note
    assert unseen + unseen == unseen
    assert (number + unseen + unseen).note == (number + unseen).note, "a note does not grow with the number of sums"


@given(st.lists(st.sampled_from([None, 0.0, 1.0, 2.5]), min_size=1, max_size=6))
def test_a_sum_never_turns_unseen_into_zero(values):
    parts = [cost(1.0, cpu=Reading(v, "not seen" if v is None else "measured")) for v in values]
    total = sum(parts)
    seen = [v for v in values if v is not None]
    assert total.seconds == len(values)
    assert total.energy_kwh == (sum(seen) if seen else None)


def test_costs_of_different_pue_or_intensity_do_not_add():
    for other in (
        cost(pue=1.5),
        cost(intensity=carbon.find_intensity(300)),
        cost(intensity=replace(WORLD, date="2030")),
    ):
        with pytest.raises(ValueError, match="cannot be added"):
            cost() + other
    assert cost(pue=1.5) + replace(cost(), pue=1.5) == cost(20.0, pue=1.5)


def test_a_cost_is_mixed_when_its_components_are():
    mixed = cost(cpu=Reading(1.0, "modelled", 30.0), gpu=Reading(2.0, "measured"), pue=1.58)
    assert (mixed.energy_kwh, mixed.how) == (3.0, "mixed")
    assert mixed.co2e_g == 3.0 * 1.58 * 445


def test_a_reading_that_contradicts_itself_is_refused():
    for wrong in [(None, "measured"), (0.0, "not seen"), (1.0, "guessed"), (-1.0, "measured"), (math.nan, "measured")]:
        with pytest.raises(ValueError):
            Reading(*wrong)


kwh = st.floats(0, 1e6)
readings = st.one_of(
    st.builds(Reading, kwh, st.sampled_from(["measured", "modelled", "mixed"]), st.none() | kwh, st.text(max_size=9)),
    st.builds(Reading, st.none(), st.just("not seen"), st.none(), st.text(max_size=9)),
)


@given(st.floats(0, 1e9), readings, readings, st.floats(1, 3), st.floats(0, 2000), st.text(max_size=9))
def test_a_cost_survives_json_exactly(seconds, cpu, gpu, pue, g, source):
    before = cost(seconds, cpu, gpu, pue=pue, intensity=Intensity(g, source, "2024"))
    saved = json.loads(json.dumps(before.to_dict()))
    assert Cost.from_dict(saved) == before
    assert Cost.from_dict(saved).to_dict() == saved
    assert (saved["energy_kwh"], saved["how"], saved["co2e_g"]) == (before.energy_kwh, before.how, before.co2e_g)
