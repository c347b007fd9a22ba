"""What surrounds the step: the input pipeline, evaluation, the checkpoint, and the limit of the device."""

import time
from functools import partial

import naive
import pytest
import torch

from stkd_utils import checkpoint, data, engine, models, profiling, quantise
from stkd_utils.training import evaluate


@pytest.mark.usefixtures("cpu_only")
@pytest.mark.benchmark(timer=time.process_time)
def test_pipeline_per_cpu_second(race):
    arrays, transform = naive.arrays(512), naive.pipeline()
    images, half = torch.from_numpy(arrays).permute(0, 3, 1, 2).contiguous(), torch.full((3,), 0.5)
    moves, augmentation = torch.Generator().manual_seed(0), data.Augmentation(4, True, 15.0)

    def batched():
        for part in images.split(128):
            data.augment(part, augmentation, half, half, moves)

    floor, clock = 3.0, time.process_time
    one_by_one = partial(naive.views, arrays, transform)
    race("crop, flip, rotation", "pipeline", batched, one_by_one, images=512, floor=floor, clock=clock, rounds=9)


def test_evaluation(race, shape, quick):
    product = profiling.Pass("mobilenetv2", **shape)
    split, width = product.dataset.val, shape.get("width", 1.0)
    plain = models.build("mobilenetv2", product.dataset.classes, width=width).to(shape["device"]).eval()

    def reference():
        with torch.no_grad():
            images = split.images.float() / 255
            (plain((images - 0.5) / 0.5).argmax(1) == split.labels).sum().item()

    model = product.trainers[0].model
    ours = partial(evaluate, model, split, product.dataset, precision="auto")
    race("mobilenetv2", "evaluation", ours, reference, images=len(split))


def test_checkpoint(race, shape, tmp_path):
    product = profiling.Pass("mobilenetv2", **shape)
    product()
    trainer = product.trainers[0]
    state = {"model": trainer.model.state_dict(), "optimiser": trainer.optimiser.state_dict()}
    safe, plain = (partial(save, state, tmp_path / save.__module__) for save in (checkpoint.save, torch.save))
    race("mobilenetv2, safe against a kill", "checkpoint", safe, plain)


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "int8"])
def test_peak(add, precision, quick, device):
    if precision == "int8" and (device != "cpu" or quantise.no_kernels()):
        pytest.skip(quantise.no_kernels() or "int8 is for processors here")
    if engine.resolve("auto", device) == "float32" and precision == "bfloat16":
        pytest.skip(f"this device does not compute in {precision}; it imitates it, slowly")
    size = 256 if quick else None
    peak = profiling.matmul_peak(precision, device, size)
    rows = size or (16384 if device == "cuda" else 4096)
    note = f"{peak / 1e9:,.0f} GFLOP/s"
    add(f"matrix product, {precision}", "peak", n=7, median=2 * rows**3 / peak, flops_per_second=peak, note=note)
