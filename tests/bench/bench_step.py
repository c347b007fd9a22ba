"""One step of distillation: each saving on top of the one before, against the step that every tutorial writes."""

import harness
import naive
import pytest
import torch

from stkd_utils import answering, models, profiling

STUDENTS = ("mobilenetv2", "shufflenetv2")
FLOORS = {  # times the images per second of the reference, by what a processor's teacher answers in
    "bfloat16": {"mobilenetv2": 2.2, "shufflenetv2": 1.6},
    "int8": {"mobilenetv2": 2.0, "shufflenetv2": 1.5},
}
GPU_FLOOR, GPU_SHARE = 8.0, 0.6  # the same on a GPU, and the least share of the time that its kernels run
PLAIN = {"precision": None, "teacher_precision": None, "channels_last": False, "fused": False}
RUNGS = {
    "batched augmentation": PLAIN,
    "+ teacher folded, no graph": PLAIN | {"teacher_precision": "float32"},
    "+ student channels-last": PLAIN | {"teacher_precision": "float32", "channels_last": True},
    "+ teacher in low precision": PLAIN | {"teacher_precision": "auto", "channels_last": True},
    "+ student in low precision": PLAIN | {"teacher_precision": "auto", "channels_last": True, "precision": "auto"},
    "+ fused optimiser": {},
    "+ teacher in int8": {"teacher_precision": "int8"},  # where the default is something else
}
each_student = pytest.mark.parametrize("student", STUDENTS)


def on_gpu(device):
    """Whether ``device``, a name, is a GPU."""
    return torch.device(device).type == "cuda"


def _no_rung(device):
    """Why there is nothing to see in a teacher that is asked for in int8; None where there is."""
    teacher = models.build("resnet18", 100)
    same = "the default is int8 here" if answering.resolve(teacher, "auto", device) == "int8" else None
    return answering.unable(teacher, device) or same


@each_student
@pytest.mark.parametrize("rung", RUNGS)
def test_rung(race, shape, student, rung, device):
    if rung.endswith("int8") and (said := _no_rung(device)):
        pytest.skip(said)
    step = profiling.Step(student, **shape, **RUNGS[rung])
    teacher = getattr(step.teacher, "precision", "float32")
    race(f"{student}: {rung}", "step", step, naive.Step(student, **shape), images=step.batch, teacher=teacher)


@each_student
def test_product(race, shape, student, device):
    images = shape.get("batch", 128)
    product = profiling.Pass(student, **shape)
    name, plain = f"{student}: the product", naive.Step(student, **shape)
    first = harness.seconds(product, device)  # with all that has to be prepared
    teacher = product.trainers[0].objective.teacher.network.precision
    floor = GPU_FLOOR if on_gpu(device) else FLOORS.get(teacher.split(",")[0], {}).get(student)
    more = {"rounds": 15, "teacher": teacher, "first_seconds": first, "note": f"the first one {first:.1f} s"}
    race(name, "step", product, plain, images=images, floor=floor, **more)  # a busy neighbour moves few rounds a lot


@each_student
def test_product_against_workers(race, shape, student, device):
    if not on_gpu(device):
        pytest.skip("on a CPU workers take the cores that the step computes with")
    product, plain = profiling.Pass(student, **shape), naive.Step(student, **shape, workers=2)
    name = f"{student}: the product, against two workers"
    race(name, "step", product, plain, images=shape.get("batch", 128), rounds=15)


@each_student
def test_compiled(race, shape, student, device, quick, monkeypatch):
    """The product with `compiled`: against the plain step, after a first step that has to do the same as without."""
    if quick and not on_gpu(device):
        pytest.skip("on a CPU compiling takes minutes")
    monkeypatch.setattr(torch.compiler.config, "force_disable_caches", True)  # else an earlier one had paid for it
    step, eager = (profiling.Pass(student, **shape) for _ in range(2))
    [trainer] = step.trainers
    teacher, before = trainer.objective.teacher.network, _weights(step)
    trainer.model.compile()
    if not teacher.precision.startswith("int8"):
        teacher.network.compile()
    eager()
    first = harness.seconds(step, device)
    assert torch.cosine_similarity(_weights(step) - before, _weights(eager) - before, dim=0) > 0.98
    note, images = f"the first one, with compiling, {first:.1f} s", shape.get("batch", 128)
    more = {"rounds": 15, "teacher": teacher.precision, "first_seconds": first, "note": note}
    race(f"{student}: compiled", "step", step, naive.Step(student, **shape), images=images, **more)


def _weights(single):
    return torch.cat([weight.detach().flatten() for weight in single.trainers[0].model.parameters()])


def test_share_of_kernels(add, shape, device, quick):
    if not on_gpu(device):
        pytest.skip("a GPU has kernels to wait for")
    product = profiling.Pass(STUDENTS[0], **shape)
    for _ in range(profiling.warm_up(device)):
        product()
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        whole = harness.seconds(lambda: [product() for _ in range(20)], device)
    share = harness.kernel_seconds(profile.key_averages()) / whole
    images = shape.get("batch", 128)
    add("time in kernels", "step", n=20, median=whole / 20, images=images, note=f"{share:.0%} in kernels", share=share)
    assert quick or share >= GPU_SHARE
