"""Random views of a batch of images: crop, flip and rotation per image, in one resampling, on the device."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F


@dataclass(frozen=True)
class Augmentation:
    """What may happen to an image during training; the default changes nothing.

    ``crop_padding``: black pixels added on every side before a crop of the old size. ``flip``: left-right, every
    second image on average. ``rotation_degrees``: uniform between minus and plus this angle, counter-clockwise
    positive, around the centre, interpolated between pixels. CIFAR in the original code: 4, True, 15, with the nearest
    pixel instead. Raises ValueError for a negative padding or an angle outside 0..180. Introduced in notebook 02.
    """

    crop_padding: int = 0
    flip: bool = False
    rotation_degrees: float = 0.0

    def __post_init__(self):
        if isinstance(self.crop_padding, bool) or not isinstance(self.crop_padding, int) or self.crop_padding < 0:
            raise ValueError(f"crop_padding is a whole number of pixels, 0 or more; got {self.crop_padding!r}.")
        if not 0 <= self.rotation_degrees <= 180:
            raise ValueError(f"rotation_degrees is an angle from 0 to 180; got {self.rotation_degrees!r}.")

    @property
    def views(self):
        """How many different views of an image there are; infinity with a rotation."""
        return math.inf if self.rotation_degrees else (2 * self.crop_padding + 1) ** 2 * (1 + self.flip)


@dataclass(frozen=True)
class Moves:
    """What happens to each image of a batch: shift in pixels (x right, y down), flip, angle in radians; each (N,)."""

    augmentation: Augmentation
    shift_x: torch.Tensor
    shift_y: torch.Tensor
    flip: torch.Tensor
    angle: torch.Tensor

    def number(self):
        """The number of each view, int64 (N,), from 0 to ``augmentation.views`` - 1: equal numbers, equal moves.

        Raises ValueError when a rotation makes the views infinite. Introduced in notebook 09.
        """
        if self.augmentation.views == math.inf:
            raise ValueError("Views that are rotated by any angle have no number: set rotation_degrees to 0.")
        padding = self.augmentation.crop_padding
        offset = (self.shift_y + padding) * (2 * padding + 1) + self.shift_x + padding
        return offset * (1 + self.augmentation.flip) + self.flip

    def split(self, size):
        """The moves of every ``size`` images in turn, a list of `Moves`. Introduced in notebook 09."""
        parts = (value.split(size) for value in (self.shift_x, self.shift_y, self.flip, self.angle))
        return [Moves(self.augmentation, *part) for part in zip(*parts, strict=True)]


def normalise(images, mean, std):
    """Images with mean 0 and standard deviation 1 per channel, float32.

    Shape: ``images`` uint8 (or float on the scale 0..255) (N, C, H, W) -> (N, C, H, W); ``mean`` and ``std`` (C,)
    belong to the scale 0..1, as in `stkd_utils.data.Dataset`. The input stays as it is. Introduced in notebook 02.
    """
    mean, std = (value.to(images.device, torch.float32).view(-1, 1, 1) for value in (mean, std))
    return images.to(torch.float32, copy=True).mul_(1 / (255 * std)).sub_(mean / std)


def augment(images, augmentation, mean, std, generator):
    """Normalised random views of ``images``, float32; each image gets its own.

    Shape: ``images`` uint8 (N, C, H, W) -> (N, C, H, W), on the device of ``images``, in the default memory format.
    Crop, flip and rotation (in this order) are one lookup, so pixels are interpolated once at most: exact copies
    without rotation, bilinear with it. What comes from outside the image is black before normalising. All random
    numbers come from ``generator``, a CPU generator, so that every device gets the same views; as many are drawn per
    image whatever is switched on, and none where nothing is. Introduced in notebook 02.
    """
    return view(images, draw(len(images), augmentation, generator, images.device), mean, std)


def draw(count, augmentation, generator, device="cpu"):
    """Random `Moves` for ``count`` images, on ``device``, from a CPU ``generator``; the first half of `augment`.

    An augmentation that changes nothing draws nothing. Introduced in notebook 09.
    """
    still = augmentation == Augmentation()
    chance = torch.zeros(count, 4) if still else torch.rand(count, 4, generator=generator, dtype=torch.float64)
    padding = augmentation.crop_padding
    shift = (chance[:, :2] * (2 * padding + 1)).long() - padding
    flip = (chance[:, 2] < 0.5) & augmentation.flip
    angle = math.radians(augmentation.rotation_degrees) * (2 * chance[:, 3] - 1)
    return Moves(augmentation, *(value.to(device) for value in (shift[:, 0], shift[:, 1], flip, angle.float())))


def view(images, moves, mean, std):
    """``images`` after their `Moves`, normalised, shapes as in `augment`, whose second half this is.

    Introduced in notebook 09.
    """
    if moves.augmentation != Augmentation():
        move = _rotate if moves.augmentation.rotation_degrees else _shift
        images = move(images, moves, moves.augmentation.crop_padding)
    return normalise(images, mean, std)


def _shift(images, moves, padding):
    """Exact copies of pixels: one gather from the padded images."""
    count, channels, height, width = images.shape
    padded = F.pad(images, [padding] * 4)
    columns = torch.arange(width, device=images.device).expand(count, width)
    columns = torch.where(moves.flip[:, None], columns.flip(1), columns) + (moves.shift_x + padding)[:, None]
    rows = torch.arange(height, device=images.device) + (moves.shift_y + padding)[:, None]
    pixels = (rows[:, :, None] * padded.shape[3] + columns[:, None, :]).view(count, 1, -1)
    return padded.flatten(2).gather(2, pixels.expand(-1, channels, -1)).view_as(images)


def _rotate(images, moves, padding):
    """Bilinear lookup; the padding needs no pixels, because what lies outside counts as black.

    The grid is written out instead of F.affine_grid, whose matrix product loses digits under autocast and TF32.
    """
    height, width = images.shape[2:]
    x = (torch.arange(width, device=images.device) - (width - 1) / 2).view(1, 1, -1)
    y = (torch.arange(height, device=images.device) - (height - 1) / 2).view(1, -1, 1)
    cos, sin, shift_x, shift_y = (
        value.view(-1, 1, 1) for value in (moves.angle.cos(), moves.angle.sin(), moves.shift_x, moves.shift_y)
    )
    mirror = 1 - 2 * moves.flip.view(-1, 1, 1).float()
    source_x = mirror * (cos * x - sin * y) + shift_x
    source_y = sin * x + cos * y + shift_y
    grid = torch.stack([source_x * (2 / width), source_y * (2 / height)], dim=-1)
    return F.grid_sample(images.float(), grid, mode="bilinear", padding_mode="zeros", align_corners=False)
