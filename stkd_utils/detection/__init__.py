"""Object detection and its distillation: SSD networks, boxes, losses, data in VOC layout, average precision.

A box is (xmin, ymin, xmax, ymax) in fractions of the image; a network's output holds, for every prior, four offsets and
one logit per class, background first. Introduced in notebook 05.
"""

from importlib import import_module

from . import boxes, data, losses, metrics, models
from .data import AUGMENTS, Dataset, load
from .evaluation import detections, evaluate, report
from .objectives import Distillation, Supervised

__all__ = [
    "AUGMENTS", "Dataset", "Distillation", "Supervised", "boxes", "data", "detections", "evaluate", "load", "losses",
    "metrics", "models", "pictures", "report",
]  # fmt: skip


def __getattr__(name):
    """The module `pictures`, imported when first asked for, because its plotting libraries take memory."""
    if name == "pictures":
        return import_module(f"{__name__}.pictures")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
