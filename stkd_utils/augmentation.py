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
    positive, around the centre. CIFAR in the original code: 4, True, 15. Raises ValueError for a negative padding or
    an angle outside 0..180. Introduced in notebook 02.
    """

    crop_padding: int = 0
    flip: bool = False
    rotation_degrees: float = 0.0

    def __post_init__(self):
        if isinstance(self.crop_padding, bool) or not isinstance(self.crop_padding, int) or self.crop_padding < 0:
            raise ValueError(f"crop_padding is a whole number of pixels, 0 or more; got {self.crop_padding!r}.")
        if not 0 <= self.rotation_degrees <= 180:
            raise ValueError(f"rotation_degrees is an angle from 0 to 180; got {self.rotation_degrees!r}.")


@dataclass(frozen=True)
class _Moves:
    """One draw for each image of a batch: shift in pixels (x right, y down), flip, angle in radians."""

    shift_x: torch.Tensor
    shift_y: torch.Tensor
    flip: torch.Tensor
    angle: torch.Tensor


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
    image whatever is switched on. Introduced in notebook 02.
    """
    if augmentation == Augmentation():
        return normalise(images, mean, std)
    moves = _draw(len(images), augmentation, generator, images.device)
    move = _rotate if augmentation.rotation_degrees else _shift
    return normalise(move(images, moves, augmentation.crop_padding), mean, std)


def _draw(count, augmentation, generator, device):
    chance = torch.rand(count, 4, generator=generator, dtype=torch.float64)
    padding = augmentation.crop_padding
    shift = (chance[:, :2] * (2 * padding + 1)).long() - padding
    flip = (chance[:, 2] < 0.5) & augmentation.flip
    angle = math.radians(augmentation.rotation_degrees) * (2 * chance[:, 3] - 1)
    return _Moves(*(value.to(device) for value in (shift[:, 0], shift[:, 1], flip, angle.float())))


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
