"""One step of distillation: each saving on top of the one before, against the step that every tutorial writes."""

import time

import harness
import naive
import pytest
import torch

from stkd_utils import profiling

STUDENTS = ("mobilenetv2", "shufflenetv2")
FLOORS = {"mobilenetv2": 2.2, "shufflenetv2": 1.6}  # times the images per second of the reference
PLAIN = {"precision": None, "teacher_precision": None, "channels_last": False, "fused": False}
RUNGS = {
    "batched augmentation": PLAIN,
    "+ teacher folded, no graph": PLAIN | {"teacher_precision": "float32"},
    "+ student channels-last": PLAIN | {"teacher_precision": "float32", "channels_last": True},
    "+ teacher in low precision": PLAIN | {"teacher_precision": "auto", "channels_last": True},
    "+ student in low precision": PLAIN | {"teacher_precision": "auto", "channels_last": True, "precision": "auto"},
    "+ fused optimiser": {},
}
each_student = pytest.mark.parametrize("student", STUDENTS)


@each_student
@pytest.mark.parametrize("rung", RUNGS)
def test_rung(race, shape, student, rung):
    step = profiling.Step(student, **shape, **RUNGS[rung])
    race(f"{student}: {rung}", "step", step, naive.Step(student, **shape), images=step.batch)


@each_student
def test_product(race, shape, student, device):
    images = shape.get("batch", 128)
    floor = FLOORS[student] if device == "cpu" and harness.engine.resolve("auto", device) == "bfloat16" else None
    product = harness.Pass(student, **shape)
    race(f"{student}: the product", "step", product, naive.Step(student, **shape), images=images, floor=floor)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="compiling pays on a GPU; on a CPU it takes minutes")
@each_student
def test_compiled(race, shape, student, device):
    step = profiling.Step(student, **shape)
    step.student = torch.compile(step.student)
    started = time.perf_counter()
    step()
    harness.wait(device)
    note = f"compiled in {time.perf_counter() - started:.1f} s"
    race(f"{student}: compiled", "step", step, naive.Step(student, **shape), images=step.batch, note=note)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="a GPU has kernels to wait for")
def test_share_of_kernels(add, shape, device):
    product = harness.Pass(STUDENTS[0], **shape)
    for _ in range(5):
        product()
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        whole = harness.seconds(lambda: [product() for _ in range(20)], device)
    kernels = sum(event.self_device_time_total for event in profile.key_averages()) / 1e6
    add(
        "time in kernels",
        "step",
        n=20,
        median=whole / 20,
        note=f"{kernels / whole:.0%} in kernels",
        share=kernels / whole,
    )
