"""Whether students that learn in bfloat16 are as good as in float32: validation accuracy, paired by seed."""

import time

import pytest

from stkd_utils import experiments, stats

MARGIN = 0.01  # as in chapter 4: one point of accuracy
NAMES = ("digits/resnet18-base", "digits/shufflenetv2-base", "digits/resnet18-mobilenetv2-stochastic")


@pytest.mark.parametrize("name", NAMES)
def test_accuracy_in_bfloat16(add, quick, tmp_path, name):
    profile, seeds = ("smoke", (200, 201)) if quick else ("quick", range(200, 210))
    accuracy, started = {}, time.perf_counter()
    for precision in ("float32", "bfloat16"):
        options = {"profile": profile, "precision": precision, "runs": tmp_path, "progress": "none"}
        runs = experiments.sweep(name, seeds=seeds, **options)
        accuracy[precision] = [run.record["result"]["last"]["val_accuracy"] for run in runs]
    taken = time.perf_counter() - started
    gap = stats.paired(accuracy["bfloat16"], accuracy["float32"])
    test = stats.equivalence(accuracy["bfloat16"], accuracy["float32"], MARGIN)
    said = "worse" if gap.high < 0 else "equivalent" if test.equivalent else "not decided"
    more = {"difference": gap.mean, "low": gap.low, "high": gap.high, "verdict": said}
    note = f"bfloat16 minus float32: {gap.points(2)}, {said}"
    add(name, "precision", n=len(seeds), median=taken / (2 * len(seeds)), note=note, **more)
    assert said != "worse"
