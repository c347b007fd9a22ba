"""Whether networks that learn in bfloat16 are as good as in float32: validation accuracy, paired by seed."""

import itertools
import statistics

import pytest
import torch

from stkd_utils import data, experiments, stats
from stkd_utils.procedures import MARGIN

SLICE = {"train_limit": 4000, "val_limit": 2500, "test_limit": 100, "epochs": 6, "width": 0.5}
CASES = {  # seeds and settings; forty seeds had left the third open, and their spread asks for 160 new ones
    "digits/resnet18-base": (range(200, 240), {}),
    "digits/shufflenetv2-base": (range(200, 240), {}),
    "digits/resnet18-mobilenetv2-stochastic": (range(240, 400), {}),
    "cifar100/shufflenetv2-base": (range(200, 220), SLICE),
}


@pytest.mark.timeout(14400)
@pytest.mark.parametrize("name", CASES)
def test_accuracy_in_bfloat16(add, quick, device, tmp_path, name):
    profile, (seeds, asked) = ("smoke", ((200, 201), {})) if quick else ("quick", CASES[name])
    if name.startswith("cifar"):
        if quick:
            pytest.skip("the digits show that the harness runs")
        try:
            data.read("cifar100")
        except data.DataNotFound as error:
            pytest.skip(str(error))
    passes = [[seed] for seed in seeds]
    if torch.device(device).type == "cuda":  # all seeds in one pass, which a small network leaves room for
        passes, asked = [seeds], asked | {"data_seed": 0}
    options = {"profile": profile, "runs": tmp_path, "progress": "none", "together": len(passes) == 1, **asked}
    accuracy, taken = {"float32": [], "bfloat16": []}, {"float32": [], "bfloat16": []}
    for some, precision in itertools.product(passes, accuracy):  # in turn, so that both meet the same load
        records = [run.record for run in experiments.sweep(name, seeds=some, precision=precision, **options)]
        accuracy[precision] += [record["result"]["last"]["val_accuracy"] for record in records]
        taken[precision] += [record["cost"]["train"]["seconds"] for record in records]
    slow, fast = (statistics.median(seconds) for seconds in taken.values())
    gap = stats.paired(accuracy["bfloat16"], accuracy["float32"])
    test = stats.equivalence(accuracy["bfloat16"], accuracy["float32"], MARGIN)
    said = "equivalent" if test.equivalent else "worse" if gap.high < 0 else "not decided"
    more = {"difference": gap.mean, "low": gap.low, "high": gap.high, "verdict": said, "asked": asked}
    more |= {"profile": profile, "seeds": list(seeds), "accuracies": accuracy}
    reached = stats.interval(accuracy["float32"]).percent()
    note = f"float32 {reached}; bfloat16 minus float32: {gap.points(2)}, {said}; {slow / fast:.2f} times as fast"
    add(name, "precision", n=len(seeds), median=fast, note=note, **more)
    assert quick or said != "worse"
