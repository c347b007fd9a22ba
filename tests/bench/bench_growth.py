"""How the cost of a step grows, and how little a grid costs when its students share a pass."""

import os
import subprocess
import sys
from pathlib import Path

import harness
import numpy as np
import pytest
import torch

from stkd_utils import answering, compute, data, engine, models, profiling, stored
from stkd_utils.objectives import Teacher

AXES = {  # what grows, from where to where; the rest is one student, 10 classes, 32 pixels, batch 64
    "batch": (32, 64, 128, 256),
    "classes": (10, 100, 1000),
    "students": (1, 2, 4, 8),
    "size": (16, 24, 32, 48),
}


def flop_ratio(student, teacher, count):
    """FLOPs of ``count`` passes over those of one pass, from the MACs of the two networks."""
    return count * (3 * student + teacher) / (3 * count * student + teacher)


@pytest.mark.parametrize("student", ["mobilenetv2", "shufflenetv2"])
def test_grid_together(race, quick, shape, student):
    """The paper's 19 values of tau in one pass, against 19 passes; the gain is what the teacher takes of a step."""
    count = 2 if quick else 19
    together, alone = profiling.Pass(student, students=count, **shape), profiling.Pass(student, **shape)
    images = count * shape.get("batch", 128)
    macs = [
        compute.count(network, (3, together.dataset.size, together.dataset.size)).macs
        for network in (
            models.build(name, together.dataset.classes, width=shape.get("width", 1.0))
            for name in (student, "resnet18")
        )
    ]
    flops = flop_ratio(*macs, count)
    race(
        f"{student}: {count} together",
        "sweep",
        together,
        lambda: [alone() for _ in range(count)],
        images=images,
        rounds=3,
        flop_ratio=flops,
        note=f"counted FLOPs: {flops:.2f}",
    )


@pytest.mark.parametrize("student", ["mobilenetv2", "shufflenetv2"])
def test_students_as_one_network(race, quick, device, shape, student):
    """Eight students stacked into one network (vmap), against the same eight in lanes; the product has lanes."""
    if not (quick or torch.device(device).type == "cuda"):
        pytest.skip("on a CPU several students gain nothing but the shared teacher")
    count = 2 if quick else 8
    lanes, stacked = (kind(student, students=count, **shape) for kind in (profiling.Pass, harness.Stacked))
    race(f"{student}: {count} as one network", "sweep", stacked, lanes, images=count * shape.get("batch", 128))


def test_answers_on_disk(race, shape, tmp_path):
    """A pass whose teacher was asked about every view before, against one that asks it."""
    batch, augmentation = max(stored.BLOCK, shape.get("batch", 128)), data.Augmentation(0, False, 0.0)
    shape = shape | {"batch": batch, "augmentation": augmentation}
    asking, reading = (profiling.Pass("mobilenetv2", **shape) for _ in range(2))
    [trainer] = reading.trainers
    network = trainer.objective.teacher.network
    table = stored.StoredTeacher(network, tmp_path, reading.dataset, augmentation, network.precision)
    trainer.objective.teacher = Teacher(network, table)
    for _ in range(profiling.BATCHES):  # an epoch, in which every image is seen in its only view
        reading()
    filled = table.computed
    race("mobilenetv2: answers on disk", "sweep", reading, asking, images=batch)
    assert table.computed == filled == len(reading.dataset.train) < table.asked


@pytest.mark.parametrize("axis", AXES)
def test_growth(add, device, quick, axis):
    values = AXES[axis][:2] if quick else AXES[axis]
    small = {"classes": 10, "batch": 8 if quick else 64, "width": 0.25 if quick else 0.5, "device": device}
    passes = [profiling.Pass("mobilenetv2", **small | {axis: value}) for value in values]
    for single in passes * profiling.warm_up(device):
        single()
    rounds = [[harness.seconds(single, device) for single in passes] for _ in range(1 if quick else 5)]
    medians = np.median(rounds, axis=0)
    slope = float(np.polyfit(np.log(values), np.log(medians), 1)[0])
    more = {"x": list(values), "seconds": medians.tolist(), "slope": slope, "note": f"seconds ~ {axis}^{slope:.2f}"}
    more["teacher"] = passes[0].trainers[0].objective.teacher.network.precision
    more |= harness.quartiles([times[-1] for times in rounds])
    add(f"{axis} {values[0]} to {values[-1]}", "growth", n=len(rounds), median=float(medians[-1]), **more)


@pytest.mark.usefixtures("cpu_only")
@pytest.mark.parametrize("precision", ["auto", "float32"])
@pytest.mark.parametrize("student", ["mobilenetv2", "shufflenetv2"])
def test_peak_memory(add, student, precision):
    whole, imported, taken = peak(student, precision)
    meant = engine.resolve(precision, "cpu")
    name, note = f"{student}: CIFAR-100, {precision}", f"{meant}: peak {whole:.2f} GiB, of which imports {imported:.2f}"
    if answering.resolve(models.build("resnet18", 100), precision, "cpu") == "int8":
        note = note.replace(":", ", the teacher in int8:", 1)
    more = {"peak_gib": whole, "import_gib": imported, "precision": meant, "note": note}
    add(name, "memory", n=1, median=taken, **more)


@pytest.mark.usefixtures("cpu_only")
def test_memory_given_back(add, student="mobilenetv2", rounds=5):
    environs = (dict.fromkeys(harness.GIVEN_BACK, ""), harness.GIVEN_BACK)
    turns = [[peak(student, "float32", **environ) for environ in environs] for _ in range(rounds)]
    peaks, _, seconds = np.array(turns).T
    reference, taken = np.median(seconds, axis=1).tolist()
    whole, ratio = peaks[1].max().item(), reference / taken
    note = f"float32: peak {whole:.2f} GiB, and a step takes {1 / ratio:.2f} times as long"
    more = {"peak_gib": whole, "precision": "float32", "note": note} | harness.quartiles(seconds[1].tolist())
    add(f"{student}: CIFAR-100, float32, given back", "memory", n=rounds, median=taken, ratio=ratio, **more)


def peak(student, precision, **variables):
    """The most memory of a process that distils, that of its imports (GiB), and the seconds of a step."""
    command = [sys.executable, Path(__file__).with_name("memory.py"), student, precision]
    done = subprocess.run(command, env=os.environ | variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return tuple(map(float, done.stdout.split()))
