"""Views of an image and its boxes for training: resized only, or augmented as for SSD first."""

import torch
from torchvision.ops import box_iou
from torchvision.transforms import v2
from torchvision.tv_tensors import BoundingBoxes

MEAN = (0.485, 0.456, 0.406)  # of ImageNet, on the scale 0..1, as for torchvision's weights
STD = (0.229, 0.224, 0.225)
AUGMENTS = ("none", "ssd")


def resize(images, size):
    """Images squeezed into a square, whatever their shape: uint8 (..., 3, H, W) -> (..., 3, size, size).

    Bilinear with antialiasing. Fractions of width and height stay what they are, so boxes need no change.
    Introduced in notebook 05.
    """
    return v2.functional.resize(images, [size, size], antialias=True)


def view(image, boxes, labels, size, augment, seed):
    """One view of an image for training: (image uint8 (3, size, size), boxes (m, 4), labels (m,)).

    ``image``: uint8 (3, H, W); ``boxes``: float32 (n, 4), x1 y1 x2 y2 as fractions of width and height; ``labels``:
    int64 (n,). ``augment`` "none" only resizes, m = n. "ssd" draws, before it resizes, what Liu et al. 2016 draw in
    section 2.2: distorted colours, a canvas up to 4 times as wide and high filled with `MEAN`, a crop that overlaps an
    object enough, a left-right flip. Objects whose centre is outside the crop are left out with their labels, the
    others are cut at its edges, so m may be below n. An image without objects is never cropped.

    All chance comes from ``seed``, an integer of 0 or more: equal seeds, equal views. The global random state is as
    before afterwards, but not during the call, so threads must not share it. Inputs stay as they are. Raises ValueError
    for an unknown ``augment``. Introduced in notebook 05.
    """
    if augment not in AUGMENTS:
        raise ValueError(f"augment is one of {', '.join(AUGMENTS)}; got {augment!r}.")
    if augment == "none":
        return resize(image, size), boxes, labels
    height, width = image.shape[1:]
    pixels = boxes * torch.tensor([width, height, width, height])
    target = {"boxes": BoundingBoxes(pixels, format="XYXY", canvas_size=(height, width)), "labels": labels}
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # not torch.manual_seed, which would reach GPUs as well
        image, target = _ssd(size, bool(len(boxes)))(v2.functional.to_pil_image(image), target)
    return image.as_subclass(torch.Tensor), target["boxes"].as_subclass(torch.Tensor) / size, target["labels"]


def _ssd(size, has_objects):
    return v2.Compose(
        [
            v2.RandomPhotometricDistort(),  # of a PIL image
            v2.ToImage(),
            v2.RandomZoomOut(fill=[round(255 * value) for value in MEAN]),
            *([_IoUCrop()] if has_objects else []),  # looks for an object until it gives up
            v2.RandomHorizontalFlip(),
            v2.Resize([size, size], antialias=True),
            v2.SanitizeBoundingBoxes(),
        ]
    )


class _IoUCrop(v2.RandomIoUCrop):
    """torchvision's crop with the same chances, but all trials are looked at in one go: most of a view's time is this.

    A trial is a window; the first one counts that has an allowed shape, the centre of an object in it, and among such
    objects one with enough overlap.
    """

    def make_params(self, flat_inputs):
        boxes = next(value for value in flat_inputs if isinstance(value, BoundingBoxes))
        canvas = torch.tensor(boxes.canvas_size[::-1])
        boxes = boxes.as_subclass(torch.Tensor)
        centres = (boxes[:, :2] + boxes[:, 2:]) / 2
        while True:
            overlap = self.options[int(torch.randint(len(self.options), ()))]
            if overlap >= 1:  # stands for no crop
                return {}
            scale, shift = torch.rand(2, self.trials, 2)
            sides = (canvas * (self.min_scale + (self.max_scale - self.min_scale) * scale)).floor()
            corners = ((canvas - sides) * shift).floor()
            windows = torch.cat([corners, corners + sides], dim=1)
            inside = ((windows[:, None, :2] < centres) & (centres < windows[:, None, 2:])).all(dim=2)
            ratio = sides[:, 0] / sides[:, 1]
            fits = (self.min_aspect_ratio <= ratio) & (ratio <= self.max_aspect_ratio) & inside.any(dim=1)
            fits &= (box_iou(windows, boxes) * inside).amax(dim=1) >= overlap
            if fits.any():
                first = int(fits.int().argmax())
                (left, top), (width, height) = corners[first].int().tolist(), sides[first].int().tolist()
                window = {"top": top, "left": left, "height": height, "width": width}
                return {**window, "is_within_crop_area": inside[first]}
