"""Object detection and its distillation: SSD networks, boxes, losses, data in VOC layout, average precision.

A box is (xmin, ymin, xmax, ymax) in fractions of the image; a network's output holds, for every prior, four offsets and
one logit per class, background first. Introduced in notebook 05.
"""

from . import boxes, data, losses, metrics, models, pictures
from .data import AUGMENTS, Dataset, load
from .evaluation import detections, evaluate, report
from .objectives import Distillation, Supervised

__all__ = [
    "AUGMENTS", "Dataset", "Distillation", "Supervised", "boxes", "data", "detections", "evaluate", "load", "losses",
    "metrics", "models", "pictures", "report",
]  # fmt: skip
