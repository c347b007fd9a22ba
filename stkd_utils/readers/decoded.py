"""Image files decoded once: tensors that are kept in one file with a checksum, and made anew when it does not fit."""

import hashlib
import os
from contextlib import nullcontext

import torch
from filelock import FileLock
from PIL import Image, ImageOps
from torchvision.transforms.v2.functional import pil_to_tensor
from tqdm import tqdm

from .. import checkpoint
from ..splits import Split
from .fetching import DataDamaged, DataError, DataNotFound


def picture(file):
    """The image in ``file`` as uint8 (3, H, W), RGB also when it is grey.

    Raises `DataNotFound` when there is no such file, `DataDamaged` when it is not a whole image, `DataError` when it
    has more than 8 bits per channel.
    """
    return pil_to_tensor(_opened(file))


def square(file, size):
    """The image in ``file`` as uint8 (3, size, size): the largest square in its middle, resized.

    Turned as its camera says. Raises as `picture`.
    """
    image = _opened(file, upright=True)
    return pil_to_tensor(ImageOps.fit(image, (size, size), method=Image.Resampling.BICUBIC))


def exactly(file, size):
    """The image in ``file`` as uint8 (3, size, size), as it is. Raises as `picture`, `DataDamaged` for another size."""
    image = picture(file)
    if image.shape[1:] != (size, size):
        width, height = image.shape[2], image.shape[1]
        raise DataDamaged(f"{file} is damaged (it has {width} x {height} pixels, not {size} x {size}); replace it.")
    return image


def _opened(file, upright=False):
    try:
        with Image.open(file) as image:
            if image.mode.startswith(("I", "F")):
                raise DataError(f"{file} has more than 8 bits per channel; convert it to 8.")
            return (ImageOps.exif_transpose(image) if upright else image).convert("RGB")
    except FileNotFoundError as error:
        raise DataNotFound(f"{file} is missing; put it back.") from error
    except DataError:
        raise
    except Exception as error:  # PIL raises OSError, SyntaxError, ValueError, struct.error and more for a damaged file
        raise DataDamaged(f"{file} is damaged (not a whole image); replace it.") from error


def splits(name, parts, see, size, file):
    """One `Split` for each of ``parts``, lists of (image file, label), kept in ``file`` from the first time on.

    ``see(image file, size)`` makes an image uint8 (3, size, size). What is kept is used while names, sizes and times of
    the image files are the same and its checksum is right; otherwise, and where ``file`` cannot be written, everything
    is decoded, and a sentence says why. Raises what ``see`` raises, `DataNotFound` for a file that is missing, and
    `DataError` when the images do not fit into memory.
    """
    wanted = _fingerprint(parts, see, size)
    with _lock(file):
        found, why = _kept(file, wanted)
        if found is None:
            count, room = sum(map(len, parts)), 3 * size**2 * sum(map(len, parts))
            if room > _memory():
                raise DataError(f"{count:,} images of {name} with {size} x {size} pixels do not fit into this memory.")
            print(f"{why}Decoding {count:,} images of {name} ({room / 1e6:,.0f} MB), once.", flush=True)
            found = [_decode(part, see, size) for part in parts]
            _keep(found, wanted, file)
    return found


def _fingerprint(parts, see, size):
    """Hash of all that decides the tensors of `splits`, as far as one can see without opening the images."""
    digest = hashlib.sha256(f"{see.__name__} {size}".encode())
    for part in parts:
        digest.update(f"part {len(part)}\n".encode())
        for file, label in part:
            try:
                known = os.stat(file)
            except OSError as error:
                raise DataNotFound(f"{file} is missing; put it back.") from error
            digest.update(f"{os.path.basename(file)} {label} {known.st_size} {known.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _decode(part, see, size):
    images = torch.empty(len(part), 3, size, size, dtype=torch.uint8)
    for i, (file, _) in enumerate(tqdm(part, unit="images", disable=None)):
        images[i] = see(file, size)
    return Split(images, torch.tensor([label for _, label in part], dtype=torch.int64))


def _memory():
    import psutil

    return psutil.virtual_memory().total


def _lock(file):
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        writable = os.access(file.parent, os.W_OK)
    except OSError:
        writable = False
    return FileLock(f"{file}.lock") if writable else nullcontext()


def _kept(file, wanted):
    """(splits, "") as they are kept in ``file``, or (None, why not: a sentence, or "" where there was nothing)."""
    try:
        state, _ = checkpoint.load(file)
    except checkpoint.CheckpointDamaged:
        return None, f"{file} is damaged. "
    if state is None or state.get("fingerprint") != wanted:
        return None, f"The images are not those in {file}. " if state else ""
    found = [Split(images, labels) for images, labels in state["parts"]]
    return (found, "") if _sum(found) == state["sum"] else (None, f"{file} is damaged. ")


def _keep(found, wanted, file):
    parts = [(split.images, split.labels) for split in found]
    try:
        checkpoint.save({"fingerprint": wanted, "sum": _sum(found), "parts": parts}, file, keep=False)
    except (OSError, RuntimeError) as error:  # torch raises RuntimeError for a full disk
        print(f"The decoded images could not be kept in {file} ({error}); they are decoded anew next time.", flush=True)


def _sum(found):
    digest = hashlib.sha256()
    for split in found:
        digest.update(split.images.numpy())
        digest.update(split.labels.numpy())
    return digest.hexdigest()
