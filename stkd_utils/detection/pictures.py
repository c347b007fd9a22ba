"""Pictures with boxes: what is there, and what several detectors found, side by side."""

import matplotlib.pyplot as plt
import torch
from torchvision.utils import draw_bounding_boxes

from .. import plots

SIDE = 240  # pixels of a drawn picture's longer side, so that lines and letters suit all images
TRUTH, WRONG = "#FFFFFF", "#D13D07"


def drawn(image, objects, class_names, threshold=0.5, colour="#12855A"):
    """``image`` uint8 (3, H, W) with the boxes of ``objects`` drawn on it, enlarged or reduced: uint8 (3, H', W').

    ``objects`` is a dict of "boxes" (D, 4), "labels" (D,) and perhaps "scores" (D,): those below ``threshold`` are left
    out. Difficult ones are drawn thinner. torchvision.utils.draw_bounding_boxes. Introduced in notebook 05.
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
    return draw_bounding_boxes(large, pixels, names, colors=colour, width=2, label_colors=colour)


def side_by_side(images, columns, class_names, threshold=0.5):
    """A figure with one row an image and one column a list of objects in ``columns`` (a dict by heading).

    ``images``: uint8 (3, H, W), the first of those that the lists speak of. Introduced in notebook 05.
    """
    width = min(plots.FULL, 1.8 * len(columns))
    size = (width, 0.3 + width / len(columns) * len(images))
    figure, axes = plt.subplots(len(images), len(columns), figsize=size, squeeze=False)
    for row, image in enumerate(images):
        for column, (heading, found) in enumerate(columns.items()):
            axis = axes[row, column]
            axis.imshow(drawn(image, found[row], class_names, threshold).permute(1, 2, 0))
            axis.set_axis_off()
            if row == 0:
                axis.set_title(heading, fontsize=10)
    return figure


def save(images, columns, class_names, path):
    """Write `side_by_side` to the PNG file ``path``."""
    figure = side_by_side(images, columns, class_names)
    figure.savefig(path, dpi=100)
    plt.close(figure)
