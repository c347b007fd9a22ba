"""Pictures with boxes: the priors, what is there, and what several detectors found, side by side."""

import matplotlib.pyplot as plt
import torch
from matplotlib.font_manager import findfont
from matplotlib.patheffects import withStroke
from torchvision.utils import draw_bounding_boxes

from .. import plots
from .boxes import PER_LOCATION

SIDE = 240  # pixels of a drawn picture's longer side, so that lines and letters suit all images
OBJECT, PRIOR = "#12855A", "#0A4BCB"  # legible for everyone, as in `plots.ROLES`, but without a role


def drawn(image, objects, class_names, threshold=0.5, colour=OBJECT):
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
            axis.imshow(drawn(image, objects, class_names, threshold).permute(1, 2, 0).numpy())
            axis.set(xticks=[], yticks=[], frame_on=False)
        line[0].set_ylabel(heading, fontsize=9)
    return figure


def save(images, rows, class_names, path):
    """Write `side_by_side` to the PNG file ``path``."""
    figure = side_by_side(images, rows, class_names)
    figure.savefig(path, dpi=100)
    plt.close(figure)


def priors_by_map(image, priors, maps):
    """A figure with one panel a feature map: a dot at each of its places, and the priors of the one in the middle.

    ``image`` uint8 (3, H, W); ``priors`` (P, 4) as `boxes.priors` makes them for ``maps``. Priors may reach beyond the
    image, and panels show some of what lies there. Liu et al. 2016, figure 1. Introduced in notebook 05.
    """
    figure, axes = _panels(image, [f"{side} × {side}" for side in maps], margin=0.15)
    for axis, side, own in zip(axes, maps, _split(priors, maps), strict=True):
        centres = (own[..., :2] + own[..., 2:]).mean(dim=2) / 2
        axis.plot(*centres.flatten(0, 1).T.numpy(), ".", color="#222222", markersize=4, path_effects=[_edge(2)])
        for box in own[side // 2, side // 2]:
            _outline(axis, box, PRIOR)
    return figure


def matched_priors(image, objects, priors, labels, matched, class_names):
    """A figure with one panel an object: its box, thick, and all priors that are to find it; their number above.

    ``objects`` is a dict of "boxes" (M, 4) and "labels" (M,); ``labels`` (P,) and ``matched`` (P, 4) are what
    `boxes.match` says of the image's ``priors`` (P, 4). Introduced in notebook 05.
    """
    owned = [(labels > 0) & (matched == box).all(dim=1) for box in objects["boxes"]]
    names = [class_names[label - 1] for label in objects["labels"].tolist()]
    headings = [f"{name}: {int(mine.sum())}" for name, mine in zip(names, owned, strict=True)]
    figure, axes = _panels(image, headings, margin=0.1)
    for axis, box, mine in zip(axes, objects["boxes"], owned, strict=True):
        for prior in priors[mine]:
            _outline(axis, prior, PRIOR)
        _outline(axis, box, OBJECT, width=3)
    return figure


def heat(image, values, maps, label):
    """A figure with one panel a feature map: at each of its places the largest of the priors' ``values``, as a colour.

    ``values`` (P,) between 0 and 1, in the order of `boxes.priors` for ``maps``; ``label`` names the colour bar.
    Introduced in notebook 05.
    """
    grey = image.float().mean(dim=0, keepdim=True).to(torch.uint8).expand(3, -1, -1)
    figure, axes = _panels(grey, [f"{side} × {side}" for side in maps])
    for axis, own in zip(axes, _split(values, maps), strict=True):
        look = {"cmap": "viridis", "vmin": 0, "vmax": 1, "alpha": 0.6, "extent": (0, 1, 1, 0)}
        colours = axis.imshow(own.amax(dim=2).numpy(), **look)
    figure.colorbar(colours, ax=axes, label=label, shrink=0.9)
    return figure


def _split(values, maps):
    """What belongs to each map: a list of (side, side, 6, ...), from (P, ...)."""
    parts = values.split([PER_LOCATION * side**2 for side in maps])
    return [part.unflatten(0, (side, side, PER_LOCATION)) for part, side in zip(parts, maps, strict=True)]


def _panels(image, headings, margin=0.0):
    """A figure with ``image`` in one panel a heading, in fractions of its sides: (figure, list of axes)."""
    across = min(len(headings), 4 if len(headings) == 4 else 3)
    down = -(-len(headings) // across)
    width = min(plots.FULL, 2.4 * across)
    size = (width, (0.3 + width / across) * down)
    figure, axes = plt.subplots(down, across, figsize=size, squeeze=False, layout="constrained")
    for axis in axes.flat:
        axis.set_axis_off()
    for axis, heading in zip(axes.flat, headings, strict=False):
        axis.imshow(image.permute(1, 2, 0).numpy(), extent=(0, 1, 1, 0))
        axis.set(xlim=(-margin, 1 + margin), ylim=(1 + margin, -margin), aspect="equal")
        axis.set_title(heading, fontsize=10)
    return figure, list(axes.flat[: len(headings)])


def _outline(axis, box, colour, width=1.4):
    """Draw one box (4,), with a light edge that keeps it apart from dark images."""
    x, y, right, bottom = box.tolist()
    axis.add_patch(
        plt.Rectangle(
            (x, y), right - x, bottom - y, fill=False, color=colour, linewidth=width, path_effects=[_edge(width + 1.4)]
        )
    )


def _edge(width):
    return withStroke(linewidth=width, foreground="white")
