"""How good a detector is: validation while it trains, and all that is said of it at the end."""

import math

import torch

from .. import engine, losses
from . import boxes, metrics
from .losses import multibox
from .objectives import targets

SHOWN = 4
"""Number of images of the picture that a run leaves."""


def evaluate(model, split, dataset, precision="float32", batch_size=32):
    """``{"map50", "loss"}``: mean average precision at IoU 0.5 by area, and the mean `losses.multibox` of ``model``.

    ``split`` is a part of the ``dataset``; difficult objects count neither way. ``precision`` as in `engine.resolve`.
    The model's training mode is restored afterwards. Introduced in notebook 05.
    """
    found, loss = detections(model, split, dataset, precision, batch_size)
    return {"map50": _map50(found, split, dataset), "loss": loss}


@torch.inference_mode()
def detections(model, split, dataset, precision="float32", batch_size=32):
    """What ``model`` finds in every image of ``split``, as `boxes.detect` gives it, on the CPU; and the mean loss."""
    was_training = model.training
    model.eval()
    found, loss = [], 0.0
    for batch in dataset.batches(split, batch_size):
        with engine.autocast(dataset.device, precision):
            outputs = model(batch.views).float()
        terms = multibox(outputs, *targets(batch, model.priors))
        loss = loss + losses.total(terms) * len(batch.labels)
        found += [{key: value.cpu() for key, value in one.items()} for one in boxes.detect(outputs, model.priors)]
    model.train(was_training)
    return found, float(loss) / len(split)


def report(model, dataset, precision="float32", folder=None):
    """All that the test split says of ``model``: a dict of numbers, and files in ``folder``.

    "map50" and "map50_11_point" (VOC's two rules), "map_coco", "ap50" (average precision by area of each class, None
    where the split has no such object) and "loss". ``folder`` receives the detections in VOC's format, one text file a
    class, and ``pictures.png``, the first images with what is there and what was found. Introduced in notebook 05.
    """
    found, loss = detections(model, dataset.test, dataset, precision)
    there = dataset.test.truths()
    curves = metrics.curves(found, there, dataset.classes)
    area, points = (metrics.summary(curves, rule) for rule in metrics.RULES)
    if folder:
        from . import pictures  # here, because plotting libraries take memory, which a training does not need

        write(found, dataset.test, dataset.class_names, folder)
        few = range(min(SHOWN, len(found)))
        rows = {"there": there, "found": found}
        pictures.save([dataset.test.image(i) for i in few], rows, dataset.class_names, folder / "pictures.png")
    ap = {name: area.ap[number] for number, name in enumerate(dataset.class_names, 1)}
    return {
        "map50": area.map50,
        "map50_11_point": points.map50,
        "map_coco": metrics.coco_map(found, there),
        "ap50": {name: None if math.isnan(value) else value for name, value in ap.items()},
        "loss": loss,
    }


def write(found, split, class_names, folder):
    """Write detections as VOC's development kit reads them: ``comp4_det_test_<class>.txt``, one line a detection.

    A line holds the image's name, the score, and xmin, ymin, xmax, ymax in pixels, the first of which is 1.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lines = {name: [] for name in class_names}
    for name, (height, width), one in zip(split.ids, split.sizes.tolist(), found, strict=True):
        pixels = one["boxes"] * torch.tensor([width, height, width, height]) + torch.tensor([1, 1, 0, 0])
        for label, score, box in zip(one["labels"].tolist(), one["scores"].tolist(), pixels.tolist(), strict=True):
            numbers = " ".join(f"{value:.1f}" for value in box)
            lines[class_names[label - 1]].append(f"{name.split('/')[-1]} {score:.6f} {numbers}\n")
    for name, rows in lines.items():
        (folder / f"comp4_det_test_{name}.txt").write_text("".join(rows), encoding="utf-8")


def _map50(found, split, dataset):
    return metrics.average_precision(found, split.truths(), dataset.classes).map50
