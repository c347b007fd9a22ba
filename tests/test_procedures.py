"""What a procedure keeps and what it costs, on records made by hand."""

import pytest

from stkd_utils import carbon
from stkd_utils.procedures import (
    Procedure,
    cost_columns,
    counterpart,
    counterparts,
    differing,
    made_on,
    recorded,
    verdict,
)


def record(seed, tau, val, loss, test, seconds=2.0, kwh=1e-3):
    result = {"val_accuracy": val, "val_loss": loss, "test_accuracy": test}
    reading = carbon.Reading(kwh, "modelled") if kwh is not None else carbon.Reading(None, "not seen")
    return {
        "seed": seed,
        "asked": {"tau": tau},
        "result": {"last": result, "chosen": result | {"val_accuracy": 1 - val}},
        "cost": {"train": carbon.Cost(seconds, {"cpu": reading}).to_dict()},
        "hardware": {"device": "cpu", "gpu": None, "cpu": "abacus", "threads": 1},
        "compute": {"flops_forward": 10, "flops_forward_backward": 30},
    }


GRID = Procedure("grid", "KD tuned tau", (
    record(1, 2, val=0.8, loss=0.5, test=0.10),
    record(0, 2, val=0.9, loss=0.5, test=0.20),
    record(0, 4, val=0.9, loss=0.4, test=0.30),
    record(1, 4, val=0.7, loss=0.1, test=0.90),
))  # fmt: skip


def test_each_seed_keeps_its_own_tau_by_validation_and_ties_go_to_the_lower_loss():
    assert [kept["asked"]["tau"] for kept in GRID.kept()] == [4, 2]


def test_trap_P4_the_best_test_accuracy_is_not_what_counts():
    assert GRID.scores().tolist() == [0.30, 0.10]
    assert GRID.scores("val").tolist() == [0.9, 0.8]


def test_the_epoch_that_is_reported_is_the_one_that_decides():
    assert [kept["asked"]["tau"] for kept in GRID.kept("chosen")] == [4, 4]


def test_the_average_is_over_all_runs_of_a_seed_and_chooses_nothing():
    assert GRID.averages() == pytest.approx([0.25, 0.5]) and GRID.averages("val") == pytest.approx([0.9, 0.75])


def test_detectors_are_ranked_and_scored_by_map50():
    def detector(one):
        renamed = {
            epoch: {key.replace("accuracy", "map50"): value for key, value in result.items()}
            for epoch, result in one["result"].items()
        }
        return one | {"result": renamed}

    detectors = Procedure("grid", "KD tuned tau", tuple(map(detector, GRID.records)))
    for epoch in ("last", "chosen"):
        assert detectors.scores(epoch=epoch).tolist() == GRID.scores(epoch=epoch).tolist()
        assert [k["asked"]["tau"] for k in detectors.kept(epoch)] == [k["asked"]["tau"] for k in GRID.kept(epoch)]


def test_the_energy_of_a_run_is_seen_where_that_of_its_own_device_is():
    on_gpu = record(0, 2, val=0.9, loss=0.5, test=0.2) | {"hardware": {"device": "cuda", "gpu": "some", "threads": 1}}
    assert Procedure("one", "no KD", (on_gpu,)).price() == {"seconds": 2.0, "kwh": None, "grams": None}
    components = on_gpu["cost"]["train"]["components"]
    seen = carbon.Cost(2.0, {"cpu": carbon.Reading(**components["cpu"]), "gpu": carbon.Reading(2e-3, "measured")})
    on_gpu["cost"] = {"train": seen.to_dict()}
    assert Procedure("one", "no KD", (on_gpu,)).price()["kwh"] == pytest.approx(3e-3)


def test_a_seed_pays_for_every_run_also_for_those_that_are_not_kept():
    assert GRID.runs == 2
    assert GRID.flops() == 60 and GRID.flops(backward=False) == 20
    for cost in GRID.costs(100):
        assert (cost.seconds, cost.energy_kwh, cost.how) == (4.0, 2e-3, "modelled")
        assert cost.co2e_g == pytest.approx(0.2)


def test_earlier_runs_are_paid_for_and_never_kept():
    teacher = record(0, None, val=1.0, loss=0.0, test=1.0, seconds=5.0, kwh=4e-3)
    taught = Procedure(GRID.label, GRID.role, GRID.records, before=((teacher,), (teacher,)))
    assert taught.kept() == GRID.kept() and taught.scores().tolist() == GRID.scores().tolist()
    assert (taught.runs, taught.flops(), taught.flops(backward=False)) == (3, 90, 30)
    assert [(cost.seconds, cost.energy_kwh) for cost in taught.costs()] == [(9.0, 6e-3)] * 2
    unseen = {**teacher, "cost": {"train": carbon.Cost(1.0, {"cpu": carbon.Reading(None, "not seen")}).to_dict()}}
    assert "not seen" in made_on([Procedure("x", "no KD", GRID.records, before=((unseen,), (unseen,)))])


@pytest.mark.parametrize("before", [((),), ((GRID.records[0],), ())])
def test_earlier_runs_must_be_equally_many_for_every_seed(before):
    with pytest.raises(ValueError, match="equally many earlier runs for each of 2 seeds"):
        Procedure("grid", "KD tuned tau", GRID.records, before=before)


def test_energy_that_was_not_seen_stays_not_seen():
    alone = Procedure("alone", "no KD", (record(0, 2, 0.5, 0.5, 0.5, kwh=None),))
    assert alone.costs()[0].energy_kwh is None and alone.costs()[0].seconds == 2.0


@pytest.mark.parametrize("records", [(), GRID.records[:3]])
def test_seeds_with_different_numbers_of_runs_cannot_be_compared(records):
    with pytest.raises(ValueError, match="equally many"):
        Procedure("grid", "KD tuned tau", records)


PLAIN = {key: value for key, value in GRID.records[0]["asked"].items() if key != "tau"}


def test_a_run_with_other_settings_is_a_variant_and_no_point_of_the_grid():
    dated = [{**one, "experiment": "a", "profile": "gpu", "finished": "2026-01-01"} for one in GRID.records]
    shorter = {**dated[0], "asked": {**dated[0]["asked"], "epochs": 1}, "finished": "2026-01-02"}
    found = recorded([*dated, shorter], PLAIN, "a", "gpu", "grid", "KD tuned tau")
    assert list(found.records) == dated
    assert differing(shorter, PLAIN) == {"epochs": 1} and differing(dated[0], PLAIN) == {}
    assert differing(dated[0], {**PLAIN, "train_fraction": 0.1, "data_seed": None}) == {"train_fraction": None}


def test_a_grid_that_is_still_being_filled_has_the_seeds_that_got_furthest():
    dated = [{**one, "experiment": "a", "profile": "gpu", "finished": "2026-01-01"} for one in GRID.records]
    newer = {**dated[1], "finished": "2026-01-02"}
    found = recorded([newer, *dated[:3]], PLAIN, "a", "gpu", "grid", "KD tuned tau")
    assert found.runs == 2 and found.seeds == [0] and newer in found.records
    assert recorded(dated[:2], PLAIN, "a", "gpu", "grid", "KD tuned tau").seeds == [0, 1]
    assert recorded(dated, PLAIN, "a", "paper", "grid", "KD tuned tau") is None
    assert recorded([], PLAIN, "a", "gpu", "grid", "KD tuned tau") is None


def test_costs_stand_in_columns_with_one_unit_each():
    alone = Procedure("alone", "no KD", (record(0, 2, 0.5, 0.5, 0.5), record(1, 2, 0.5, 0.5, 0.5)))
    columns = cost_columns([alone, GRID], 1000)
    assert columns[""] == ["alone", "grid"] and columns["runs"] == [1, 2]
    assert columns["s"] == ["2", "4"] and columns["Wh"] == ["1", "2"] and columns["g CO₂e"] == ["1", "2"]
    assert made_on([alone, GRID]) == "abacus, CPU threads: 1; energy: modelled"


def way(label, values):
    """A procedure whose runs of the seeds 0, 1, ... have these test scores."""
    records = (record(seed, 2, 0.5, 0.5, test) for seed, test in enumerate(values))
    return Procedure(label, "no KD", tuple(records))


@pytest.mark.parametrize("shift, said", [
    ((0.0, 0.001, 0.0), "equivalent"),
    ((0.0, 0.0, 0.0), "not decided (no spread)"),
    ((0.002, 0.003, 0.002), "better and equivalent"),
    ((-0.05, -0.06, -0.05), "worse"),
    ((-0.05, 0.0, 0.05), "not decided"),
])  # fmt: skip
def test_verdicts(shift, said):
    base = [0.9, 0.91, 0.92]
    found = verdict(way("one", [a + b for a, b in zip(base, shift, strict=True)]), way("other", base), 0.01)
    assert found["the data say"] == said and found["against"] == "other"


def test_ways_with_different_seeds_are_not_compared():
    with pytest.raises(ValueError, match=r"need the same seeds; got \[0, 1, 2\] and \[0, 1\]"):
        verdict(way("one", [0.9, 0.91, 0.92]), way("other", [0.9, 0.91]), 0.01)


def test_a_single_seed_decides_nothing():
    alone = Procedure("alone", "no KD", (record(0, 2, 0.5, 0.5, 0.5),))
    assert verdict(alone, alone, 0.01)["the data say"] == "not decided"


@pytest.mark.parametrize("images", [-3, 0, 3])
def test_an_interval_of_width_zero_decides_nothing(images):
    base = [340, 345, 351]
    one, other = way("one", [(b + images) / 359 for b in base]), way("other", [b / 359 for b in base])
    found = verdict(one, other, 0.01)
    assert (found["the data say"], found["p of equivalence"]) == ("not decided (no spread)", "–")


def test_the_same_way_is_found_in_other_records_with_all_its_temperatures_and_seeds():
    dated = [{**one, "experiment": "a", "profile": "gpu", "finished": "2026-01-01"} for one in GRID.records]
    mine = Procedure("grid", "KD tuned tau", tuple(dated[:2]))  # one temperature
    more = [{**one, "seed": one["seed"] + 5} for one in dated]
    assert counterpart(mine, [*dated, *more], PLAIN).seeds == [0, 1, 5, 6]
    assert counterpart(mine, [*dated, *more], PLAIN, [6, 5]).seeds == [5, 6]
    assert {one["asked"]["tau"] for one in counterpart(mine, dated, PLAIN).records} == {2}
    assert counterpart(mine, dated, PLAIN, [0, 7]) is None and counterpart(mine, [], PLAIN) is None
    whole = Procedure("grid", "KD tuned tau", tuple(dated))
    assert counterpart(whole, more, PLAIN).runs == 2 and counterpart(whole, more[:3], PLAIN).seeds == [5]
    assert counterpart(whole, more[::2], PLAIN) is None, "one temperature of two"


def test_ways_found_together_have_the_seeds_of_all_and_no_fewer_than_before():
    def runs(experiment, seeds):
        said = {"experiment": experiment, "profile": "gpu", "finished": "2026-01-01"}
        return [{**record(seed, 2, 0.5, 0.5, 0.5), **said} for seed in seeds]

    ways = [Procedure(name, "no KD", tuple(runs(name, [0, 1]))) for name in "ab"]
    found = counterparts(ways, [*runs("a", [1, 2, 3, 4]), *runs("b", [2, 3, 4, 5])])
    assert [(way.label, way.seeds) for way in found] == [("a", [2, 3, 4]), ("b", [2, 3, 4])]
    assert counterparts(ways, [*runs("a", [1, 2]), *runs("b", [2, 3])]) is None, "fewer seeds than the page has"
    assert counterparts(ways, runs("a", [1, 2, 3])) is None and counterparts(ways, []) is None
