"""Pictures with boxes: what is there, and what several detectors found, side by side."""

import matplotlib.pyplot as plt
import torch
from matplotlib.font_manager import findfont
from torchvision.utils import draw_bounding_boxes

from .. import plots

SIDE = 240  # pixels of a drawn picture's longer side, so that lines and letters suit all images


def drawn(image, objects, class_names, threshold=0.5, colour="#12855A"):
    """``image`` uint8 (3, H, W) with the boxes of ``objects`` drawn on it, enlarged or reduced: uint8 (3, H', W').

    ``objects`` is a dict of "boxes" (D, 4), "labels" (D,) and perhaps "scores" (D,): those below ``threshold`` are left
    out. torchvision.utils.draw_bounding_boxes. Introduced in notebook 05.
    """
    height, width = image.shape[1:]
    scale = SIDE / max(height, width)
    height, width = round(height * scale), round(width * scale)
    large = torch.nn.functional.interpolate(image[None].float(), (height, width), mode="bilinear", antialias=True)
    large = large[0].round().clamp(0, 255).to(torch.uint8)
    keep = objects["scores"] >= threshold if "scores" in objects else torch.ones(len(objects["labels"]), dtype=bool)
    if not keep.any():
        return large
    pixels = objects["boxes"][keep] * torch.tensor([width, height, width, height])
    names = [class_names[label - 1] for label in objects["labels"][keep].tolist()]
    if "scores" in objects:
        names = [f"{name} {score:.2f}" for name, score in zip(names, objects["scores"][keep].tolist(), strict=True)]
    letters = {"font": findfont("DejaVu Sans"), "font_size": 15, "label_colors": "white", "fill_labels": True}
    return draw_bounding_boxes(large, pixels, names, colors=colour, width=3, **letters)


def side_by_side(images, rows, class_names, threshold=0.5):
    """A figure with one column an image and one row a list of objects; ``rows`` is a dict by what is written beside.

    ``images``: uint8 (3, H, W), the first of those that the lists speak of. Introduced in notebook 05.
    """
    side = min(1.8, plots.FULL / len(images))
    size = (side * len(images) + 0.3, side * max(image.shape[1] / image.shape[2] for image in images) * len(rows))
    figure, axes = plt.subplots(len(rows), len(images), figsize=size, squeeze=False, layout="constrained")
    for line, (heading, found) in zip(axes, rows.items(), strict=True):
        for axis, image, objects in zip(line, images, found, strict=False):
            axis.imshow(drawn(image, objects, class_names, threshold).permute(1, 2, 0))
            axis.set(xticks=[], yticks=[], frame_on=False)
        line[0].set_ylabel(heading, fontsize=9)
    return figure


def save(images, rows, class_names, path):
    """Write `side_by_side` to the PNG file ``path``."""
    figure = side_by_side(images, rows, class_names)
    figure.savefig(path, dpi=100)
    plt.close(figure)
