"""Successive halving over tau: few runs to the end, each epoch paid once, nothing decided by the test split."""

import pytest

from stkd_utils import experiments
from stkd_utils.experiments import ExperimentError
from stkd_utils.procedures import Procedure, rank, recorded

pytestmark = pytest.mark.usefixtures("on_cpu")
KD = "digits/resnet18-mobilenetv2-kd"
TINY = {"train_limit": 128, "val_limit": 64, "test_limit": 32, "epochs": 5, "batch_size": 32, "width": 0.125}
OPTIONS = {"profile": "smoke", "progress": "none", **TINY}
TAUS = [2, 4, 8, 20]


@pytest.fixture(scope="module", params=[False, True], ids=["apart", "together"])
def halved(request, tmp_path_factory):
    runs, grid = tmp_path_factory.mktemp("halved"), tmp_path_factory.mktemp("grid")
    found = experiments.halving(KD, seed=3, taus=TAUS, stops=(1, 2), runs=runs, together=request.param, **OPTIONS)
    return *found, experiments.sweep(KD, seeds=[3], tau=TAUS, runs=grid, **OPTIONS), runs


def test_it_keeps_the_best_of_those_that_were_best_at_every_stop(halved):
    kept, records, grid, _ = halved
    left = {run.record["asked"]["tau"]: run.record["history"] for run in grid}
    for stop, count in ((1, 2), (2, 1)):
        order = sorted(left, key=lambda tau: (-left[tau][stop - 1]["val_accuracy"], left[tau][stop - 1]["val_loss"]))
        left = {tau: left[tau] for tau in order[:count]}
    assert [kept.record["asked"]["tau"]] == list(left)
    assert sorted(len(record["history"]) for record in records) == [1, 1, 2, 5]


def test_what_was_continued_equals_what_never_stopped(halved):
    kept, records, grid, _ = halved
    whole = {run.record["asked"]["tau"]: run.record for run in grid}
    for record in records:
        assert record["history"] == whole[record["asked"]["tau"]]["history"][: len(record["history"])]
    twin = whole[kept.record["asked"]["tau"]]
    assert (kept.record["result"], kept.record["id"]) == (twin["result"], twin["id"])


def test_every_epoch_is_paid_once(halved):
    kept, records, grid, _ = halved
    way, tuned = (Procedure(label, "KD tuned tau", tuple(rows)) for label, rows in (
        ("halving", records), ("grid", [run.record for run in grid])
    ))  # fmt: skip
    assert sorted(record["asked"]["tau"] for record in records) == TAUS
    assert way.kept() == [kept.record]
    assert way.costs()[0].seconds == pytest.approx(sum(record["cost"]["train"]["seconds"] for record in records))
    if kept.record["shared"] is None:
        assert way.flops() / tuned.flops() == pytest.approx((1 + 1 + 2 + 5) / (4 * 5))
    else:
        images, macs = TINY["train_limit"], kept.record["compute"]
        work = 9 * 3 * macs["macs_student"] + 5 * macs["macs_teacher"]  # nine epochs of students, five of the teacher
        assert way.flops() == pytest.approx(2 * images * work, abs=len(records))


def test_the_histories_of_a_whole_grid_tell_the_same_without_training(halved):
    kept, records, grid, _ = halved
    whole = [run.record for run in grid]
    found, epochs = experiments.halved(whole, (1, 2))
    assert found in whole and found["asked"]["tau"] == kept.record["asked"]["tau"]
    assert epochs == sum(len(record["history"]) for record in records) == 1 + 1 + 2 + 5
    _, epochs = experiments.halved(whole, [3], keep=0.75)
    assert epochs == 4 * 3 + 3 * 2


def test_asking_again_trains_nothing(halved):
    kept, records, _, runs = halved
    again, same = experiments.halving(KD, seed=3, taus=TAUS, stops=(1, 2), runs=runs, **OPTIONS)
    assert not again.new and again.record == kept.record and same == records


@pytest.mark.parametrize("stops, keep", [((), 0.5), ((2, 1), 0.5), ((1, 1), 0.5), ((1,), 1), ((1,), 0)])
def test_what_is_no_halving_is_refused(stops, keep):
    with pytest.raises(ExperimentError, match="needs rising epochs to stop at and a fraction"):
        experiments.halving(KD, seed=3, taus=TAUS, stops=stops, keep=keep, **OPTIONS)


@pytest.mark.parametrize("key, values", [("lr", [0.01, 0.05]), ("epochs", [5, 6]), ("milestones", [[0.5], [0.6]])])
def test_a_grid_of_anything_but_tau_is_refused_before_anything_is_trained(tmp_path, key, values):
    with pytest.raises(ExperimentError, match=f"over tau alone; give '{key}' one value instead of .*[.]$"):
        experiments.halving(KD, seed=3, taus=TAUS, stops=(1, 2), runs=tmp_path, **{**OPTIONS, key: values})
    assert not list(tmp_path.iterdir())


def test_a_list_that_is_a_valid_value_is_none(tmp_path):
    kept, _ = experiments.halving(KD, seed=3, taus=[2], stops=[1], runs=tmp_path, milestones=[0.5], **OPTIONS)
    assert kept.record["asked"]["milestones"] == [0.5]


@pytest.mark.parametrize("stops", [(1, 5), (2, 9), (0, 1)])
def test_a_stop_outside_of_the_schedule_is_refused_before_anything_is_trained(halved, stops, tmp_path):
    with pytest.raises(ExperimentError, match="stops from epoch 1 to 4 of 5; got"):
        experiments.halving(KD, seed=3, taus=TAUS, stops=stops, runs=tmp_path, **OPTIONS)
    with pytest.raises(ExperimentError, match="stops from epoch 1 to 4 of 5; got"):
        experiments.halved([run.record for run in halved[2]], stops)
    assert not list(tmp_path.iterdir())


def test_a_stopped_run_is_never_preferred_and_is_no_point_of_a_grid():
    def record(tau, val, stop):
        result = {"val_accuracy": val, "val_loss": 1.0}
        head = {"seed": 0, "experiment": "a", "profile": "p", "finished": "x"}
        return {**head, "asked": {"tau": tau, "stop_after": stop}, "result": {"last": result}}

    whole, early = record(2, 0.5, None), record(4, 0.9, 1)
    assert rank(whole, "last") < rank(early, "last")
    assert recorded([whole, early], {}, "a", "p", "grid", "KD tuned tau").records == (whole,)
