"""Boxes: priors, offsets, overlaps, matching objects to priors, and turning outputs into detections.

A box is (xmin, ymin, xmax, ymax) in fractions of the image's width and height, continuous and float32. Everything here
works on whole batches, and only `detect` makes a GPU wait.
"""

import math

import torch
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import batched_nms, box_convert, box_iou

MOST_MAPS = 6
PER_LOCATION = 6  # two squares, and a wide and a tall box of each aspect ratio
CENTRE, EXTENT = 10.0, 5.0  # how much finer than the prior's size offsets are counted
LARGEST = math.log(1000 / 16)  # an offset makes no box larger than its prior times 62.5, as in torchvision


def priors(maps):
    """The boxes that a network's outputs are offsets from: float32 (P, 4), map by map, row by row.

    ``maps``: the side lengths of the square feature maps, two to six. At each location stand 6 boxes: aspect ratios 1
    (twice), 2, 1/2, 3, 1/3, with scales from 0.2 on the first map to 0.95 on the last. Maps 19, 10, 5, 3, 2, 1 give
    3,000. Centres lie inside the image, edges need not. On the CPU. Liu et al. 2016, section 2.2. Introduced in
    notebook 05.

    Raises ValueError for another number of maps, or one below one pixel.
    """
    if not 2 <= len(maps) <= MOST_MAPS or min(maps) < 1:
        raise ValueError(f"Priors need the sides of 2 to {MOST_MAPS} feature maps, each at least 1; got {list(maps)}.")
    with torch.device("cpu"):  # torchvision mixes the default device with the CPU
        generator = DefaultBoxGenerator([[2, 3]] * len(maps), min_ratio=0.2, max_ratio=0.95)
        unit = ImageList(torch.empty(1, 3, 1, 1), [(1, 1)])  # an image of one pixel: its pixels are fractions
        return generator(unit, [torch.empty(1, 1, side, side) for side in maps])[0]


def encode(boxes, priors):
    """Offsets (dx, dy, dw, dh) of ``boxes`` from ``priors``: (..., 4) and (..., 4), which broadcast -> (..., 4).

    The centres' distance in sizes of the prior times 10, and the logarithm of the ratio of sizes times 5 (torchvision's
    weights 10, 10, 5, 5). Both need a positive area. Liu et al. 2016, eq. 2. Introduced in notebook 05.
    """
    (centre, extent), (start, scale) = _parts(boxes), _parts(priors)
    return torch.cat(((centre - start) / scale * CENTRE, torch.log(extent / scale) * EXTENT), dim=-1)


def decode(offsets, priors):
    """The boxes that `encode` gave ``offsets`` for: (..., 4) and (..., 4), which broadcast -> (..., 4), not clipped.

    No box becomes larger than 62.5 times its prior, so that no output overflows. Introduced in notebook 05.
    """
    start, scale = _parts(priors)
    centre = offsets[..., :2] / CENTRE * scale + start
    extent = torch.exp((offsets[..., 2:] / EXTENT).clamp(max=LARGEST)) * scale
    return torch.cat((centre - extent / 2, centre + extent / 2), dim=-1)


def _parts(boxes):
    """Centres and sizes, both (..., 2)."""
    return box_convert(boxes, "xyxy", "cxcywh").split(2, dim=-1)


def iou(boxes, priors):
    """Intersection over union of each box with each prior: (N, M, 4) and (P, 4) -> (N, M, P) in 0 to 1.

    Boxes without area overlap nothing. Introduced in notebook 05.
    """
    return box_iou(boxes.flatten(0, 1), priors).view(*boxes.shape[:2], len(priors))


def match(boxes, labels, priors, threshold=0.5):
    """What each prior is to find: labels (N, P) int64, 0 is background, and boxes (N, P, 4).

    Every object gets the prior that overlaps it most; every other prior gets the object that it overlaps most if their
    IoU reaches ``threshold``. Where two objects share a best prior the later one gets it, as in torchvision on a CPU,
    and here on a GPU, too. A prior without object keeps its own box, whose offsets are 0.
    Liu et al. 2016, section 2.2. Introduced in notebook 05.

    ``boxes`` (N, M, 4), ``labels`` (N, M) int64: an image's objects, M ≥ 1; label 0 is padding and never matches.
    """
    real = labels > 0
    overlap = iou(boxes, priors).where(real[..., None], -1.0)
    best, owner = overlap.max(dim=1)
    objects = torch.arange(labels.shape[1], device=labels.device).where(real, -1)
    forced = torch.full_like(owner, -1).scatter_reduce(1, overlap.argmax(dim=2), objects, "amax")
    owner = forced.where(forced >= 0, owner)
    found = (forced >= 0) | (best >= threshold)
    matched = boxes.gather(1, owner[..., None].expand(-1, -1, 4))
    return labels.gather(1, owner).where(found, 0), matched.where(found[..., None], priors)


@torch.no_grad()
def detect(outputs, priors, score_threshold=0.01, iou_threshold=0.45, per_class=400, top=200):
    """Detections of each image: a list of N dicts of "boxes" (D, 4), "scores" (D,) and "labels" (D,), best first.

    A box counts once for every class whose probability exceeds ``score_threshold``. Of each class the ``per_class``
    best go into non-maximum suppression (which drops what overlaps a better box of the class by more than
    ``iou_threshold``); of all that remains in an image the ``top`` best are kept. Boxes are clipped to the image.
    Liu et al. 2016, section 2.2. Introduced in notebook 05.

    ``outputs`` (N, P, 4 + 1 + classes): offsets, then logits with background first; ``priors`` (P, 4).
    """
    boxes = decode(outputs[..., :4], priors).clamp(0, 1)
    scores = outputs[..., 4:].softmax(dim=-1)[..., 1:].transpose(1, 2)
    scores, positions = scores.topk(min(per_class, len(priors)), dim=2)
    found = []
    for box, score, position in zip(boxes, scores, positions, strict=True):
        label, rank = (score > score_threshold).nonzero(as_tuple=True)
        box, score = box[position[label, rank]], score[label, rank]
        kept = batched_nms(box, score, label, iou_threshold)[:top]
        found.append({"boxes": box[kept], "scores": score[kept], "labels": label[kept] + 1})
    return found
