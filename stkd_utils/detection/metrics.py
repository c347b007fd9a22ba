"""Average precision of detections: by the rules of PASCAL VOC's development kit, and COCO's by torchmetrics.

``detections`` is a list with one dictionary per image: boxes float32 (D, 4), scores (D,), labels int64 (D,), 1..K.
``truths`` is the list of the same images: boxes (M, 4), labels (M,), difficult bool (M,). Boxes are xyxy in continuous
coordinates, both lists in the same unit. An image may have no detection, no object, or neither.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torchvision.ops import box_iou

IOU_THRESHOLD = 0.5
RULES = ("area", "11-point")


@dataclass(frozen=True, eq=False)
class Curve:
    """The detections of one class by descending score, as the threshold of what counts as detected falls.

    ``scores`` (D,); ``hits`` int64 (D,), the true positives so far; ``positives``, how many objects there are to find.
    Detections of difficult objects are not among them.
    """

    scores: np.ndarray
    hits: np.ndarray
    positives: int

    @property
    def precision(self):
        """Share of true positives among the detections so far, (D,)."""
        return self.hits / np.arange(1, len(self.hits) + 1)

    @property
    def recall(self):
        """Share of the objects found so far, (D,); nan where there is none to find."""
        return self.hits / (self.positives or math.nan)

    def average_precision(self, rule="area"):
        """Average precision, 0 to 1, by one of the `RULES`; nan where there is no object to find.

        Both replace precision by the highest at this or any higher recall. "area" is the exact area below that curve
        (VOC 2010 and later), "11-point" its mean at recall 0, 0.1, … 1 (VOC 2007; recall is compared as a fraction of
        whole numbers, so that 3 of 10 objects reach 0.3).

        Raises ValueError for another rule.
        """
        if rule not in RULES:
            raise ValueError(f"The rule of average precision is one of {', '.join(RULES)}; got {rule!r}.")
        if not self.positives:
            return math.nan
        best = np.maximum.accumulate(self.precision[::-1])[::-1]
        if rule == "area":
            return float(best[np.diff(self.hits, prepend=0) > 0].sum() / self.positives)
        reached = np.searchsorted(10 * self.hits, np.arange(11) * self.positives)
        return float(np.append(best, 0.0)[reached].mean())


@dataclass(frozen=True)
class AveragePrecision:
    """Average precision at IoU 0.5: ``ap``, a dictionary from class to value; ``map50``, their mean; ``absent``.

    A class in ``absent`` has no object to find: its value is nan and left out of the mean. All values lie in 0..1.
    """

    ap: dict
    map50: float
    absent: tuple


def average_precision(detections, truths, classes, rule="area"):
    """Average precision of each class 1..``classes`` and its mean, as an `AveragePrecision`.

    Everingham et al. 2010, section 4.2, as VOC's development kit computes it: see `curves` for what counts as found and
    `Curve.average_precision` for the two rules. For both rules from one matching: `summary` of the `curves`.
    Introduced in notebook 05.

    Raises ValueError when the lists do not fit each other, a label lies outside 1..``classes``, or ``rule`` is unknown.
    """
    return summary(curves(detections, truths, classes), rule)


def summary(curves, rule="area"):
    """`AveragePrecision` by ``rule`` of ``curves``, a dictionary from class to `Curve`. Introduced in notebook 05."""
    ap = {label: curve.average_precision(rule) for label, curve in curves.items()}
    present = [value for value in ap.values() if not math.isnan(value)]
    absent = tuple(label for label, value in ap.items() if math.isnan(value))
    return AveragePrecision(ap, sum(present) / len(present) if present else math.nan, absent)


def curves(detections, truths, classes):
    """Which detections are right: a dictionary from each class 1..``classes`` to its `Curve`.

    As in VOC's development kit. A detection belongs to the object of its class and image that it overlaps most, and is
    a true positive if their IoU is at least 0.5 and no detection of a higher score has found that object. A second
    detection of an object is a false positive, even where it overlaps another one well enough. Difficult objects need
    not be found, and detections that belong to one count neither way. Equal scores keep the order of the lists.
    COCO differs: a detection takes the best object that is still free, difficult ones (its crowds) only if no other
    fits. The rules agree wherever objects of one class in one image are disjoint. Introduced in notebook 05.

    Raises ValueError when the lists do not fit each other or a label lies outside 1..``classes``.
    """
    _check(detections, truths, classes)
    belongs, start = [np.empty(0, np.int64)], 0
    for detection, truth in zip(detections, truths, strict=True):
        belongs.append(_belongs(detection, truth, start))
        start += len(truth["labels"])
    scores, labels = _joined(detections, "scores", torch.float64), _joined(detections, "labels", torch.int64)
    order = np.argsort(-scores, kind="stable")
    belongs, scores, labels = np.concatenate(belongs)[order], scores[order], labels[order]
    hit = np.zeros(len(belongs), bool)
    hit[np.unique(belongs, return_index=True)[1]] = True  # the first of each object; -1, no object, is undone below
    hit &= belongs >= 0
    difficult = _joined(truths, "difficult", torch.bool)
    counted = ~np.append(difficult, False)[belongs]
    wanted = np.bincount(_joined(truths, "labels", torch.int64)[~difficult], minlength=classes + 1)
    chosen = {label: counted & (labels == label) for label in range(1, classes + 1)}
    return {label: Curve(scores[mine], hit[mine].cumsum(), int(wanted[label])) for label, mine in chosen.items()}


def coco_map(detections, truths):
    """COCO's average precision, 0 to 1: the mean over classes and the IoU thresholds 0.5, 0.55, … 0.95.

    torchmetrics' MeanAveragePrecision on pycocotools: 101 recall points, the best 100 detections of each image.
    Difficult objects are COCO's crowds, which need not be found. nan where there is no object to find.
    Lin et al. 2014. Introduced in notebook 05.

    Raises ModuleNotFoundError when torchmetrics or pycocotools is not installed.
    """
    try:
        import pycocotools.cocoeval  # noqa: F401
        from torchmetrics.detection import MeanAveragePrecision
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"COCO's average precision needs {error.name}: run pip install torchmetrics pycocotools.", name=error.name
        ) from error
    metric = MeanAveragePrecision(backend="pycocotools")
    metric.warn_on_many_detections = False
    crowds = [{**truth, "iscrowd": truth["difficult"].long()} for truth in truths]
    metric.update(detections, crowds)
    value = metric.compute()["map"].item()
    return value if value >= 0 else math.nan


def _belongs(detection, truth, start):
    """Number of the object that each detection belongs to, counted from ``start``; -1 where it overlaps none enough."""
    overlap = box_iou(detection["boxes"].double(), truth["boxes"].double())
    overlap = overlap.where(detection["labels"][:, None] == truth["labels"], 0)
    most, place = F.pad(overlap, (0, 1)).max(dim=1)
    return (start + place).where(most >= IOU_THRESHOLD, -1).cpu().numpy()


def _joined(images, name, dtype):
    return torch.cat([torch.empty(0, dtype=dtype), *(image[name].to("cpu", dtype) for image in images)]).numpy()


def _check(detections, truths, classes):
    if len(detections) != len(truths):
        raise ValueError(
            "Detections and truths must be lists of the same images; "
            f"got {len(detections)} images with detections and {len(truths)} with truths."
        )
    for kind, images in (("detections", detections), ("truths", truths)):
        labels = _joined(images, "labels", torch.int64)
        if len(labels) and not 1 <= labels.min() <= labels.max() <= classes:
            raise ValueError(
                f"Labels of {kind} must lie between 1 and {classes}; got {labels.min()} to {labels.max()}."
            )
