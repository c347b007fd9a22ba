"""Whether students that learn with fewer bits are as good as in float32: validation accuracy, paired by seed."""

import itertools
import statistics

import pytest
import torch

from stkd_utils import data, experiments, quantise, stats
from stkd_utils.procedures import MARGIN

PHOTOS = {"epochs": 15, "test_limit": 100}  # all images to learn from and to judge by; the test images are not asked
CASES = {  # seeds and settings; forty seeds had left the third open, and their spread asks for 160 new ones
    "digits/resnet18-base": (range(200, 240), {}),
    "digits/shufflenetv2-base": (range(200, 240), {}),
    "digits/resnet18-mobilenetv2-stochastic": (range(240, 400), {}),
    "cifar100/shufflenetv2-base": (range(200, 210), PHOTOS),
}
TEACHERS = {"digits/resnet18-mobilenetv2-stochastic": (range(400, 560), {})}  # as many as for sixteen bits, and others
TOGETHER = 20  # students of a pass on a CPU, where they share a teacher


@pytest.mark.timeout(14400)
@pytest.mark.parametrize("name", CASES)
def test_accuracy_in_bfloat16(add, quick, device, tmp_path, name):
    if name.startswith("cifar"):
        _whole_cifar(quick, device)
    seeds, options = _asked(name, CASES, quick, tmp_path)
    passes = [[seed] for seed in seeds]
    if torch.device(device).type == "cuda":  # all seeds in one pass, which a small network leaves room for
        passes, options["data_seed"] = [seeds], 0
    _compare(add, quick, name, "precision", ("float32", "bfloat16"), passes, options)


@pytest.mark.usefixtures("cpu_only")
@pytest.mark.timeout(14400)
@pytest.mark.parametrize("name", TEACHERS)
def test_accuracy_with_a_teacher_in_int8(add, quick, tmp_path, name):
    if reason := quantise.no_kernels():
        pytest.skip(reason)
    seeds, options = _asked(name, TEACHERS, quick, tmp_path)
    passes = [seeds[start : start + TOGETHER] for start in range(0, len(seeds), TOGETHER)]
    _compare(add, quick, name, "teacher_precision", ("float32", "int8"), passes, options)


def _whole_cifar(quick, device):
    if quick:
        pytest.skip("the digits show that the harness runs")
    if torch.device(device).type != "cuda":
        pytest.skip("what a CPU can learn of CIFAR-100 in hours is so little that a margin of one point says nothing")
    try:
        data.read("cifar100")
    except data.DataNotFound as error:
        pytest.skip(str(error))


def _asked(name, cases, quick, runs):
    """Seeds, and what `experiments.sweep` takes beside them."""
    profile, (seeds, asked) = ("smoke", ((200, 201), {})) if quick else ("quick", cases[name])
    return seeds, {"profile": profile, "runs": runs, "progress": "none", **asked}


def _compare(add, quick, name, key, values, passes, options):
    accuracy, taken = {value: [] for value in values}, {value: [] for value in values}
    for some, value in itertools.product(passes, values):  # in turn, so that both meet the same load
        own = {**options, key: value}
        if len(some) > 1:
            own = {"data_seed": some[0], **own, "together": True}
        records = [run.record for run in experiments.sweep(name, seeds=some, **own)]
        accuracy[value] += [record["result"]["last"]["val_accuracy"] for record in records]
        taken[value] += [record["cost"]["train"]["seconds"] for record in records]
    slow, fast = (statistics.median(seconds) for seconds in taken.values())
    plain, low = values
    gap = stats.paired(accuracy[low], accuracy[plain])
    test = stats.equivalence(accuracy[low], accuracy[plain], MARGIN)
    said = "equivalent" if test.equivalent else "worse" if gap.high < 0 else "not decided"
    seeds = list(itertools.chain(*passes))
    asked = {key: value for key, value in options.items() if key not in ("profile", "runs", "progress")}
    more = {"difference": gap.mean, "low": gap.low, "high": gap.high, "verdict": said, "asked": asked}
    more |= {"profile": options["profile"], "seeds": seeds, "accuracies": accuracy}
    reached = stats.interval(accuracy[plain]).percent()
    whose = "" if key == "precision" else "a teacher in "
    note = f"{whose}{plain} {reached}; {whose}{low} minus {whose}{plain}: {gap.points(2)}, {said}"
    note += f"; {slow / fast:.2f} times as fast" + (f", {len(passes[0])} in a pass" if len(passes[0]) > 1 else "")
    add(
        name if key == "precision" else f"{name}, teacher in {low}",
        "precision",
        n=len(seeds),
        median=fast,
        note=note,
        **more,
    )
    assert quick or said != "worse"
