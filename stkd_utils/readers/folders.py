"""A data set of one's own: a folder of images, one sub-folder per class."""

import hashlib
from pathlib import Path

from torchvision.datasets.folder import IMG_EXTENSIONS, make_dataset

from .decoded import splits, square
from .fetching import DataError, DataNotFound


def read(root, *, folder, image_size):
    """(train part, test part, class names) of the images in ``folder``, relative to ``root`` or absolute.

    Train images lie in train/<class>/, test images in test/<class>/, or in val/<class>/ where there is no test/; a
    validation part is always taken from train. Classes are sorted by name. Every image becomes RGB: the largest square
    in its middle, resized to ``image_size`` pixels. Decoded images are kept in ``root``/decoded. Raises `DataNotFound`,
    `DataDamaged` for a file that is no whole image, `DataError` for one class only or classes that differ.
    """
    place = root / Path(folder).expanduser()
    train = place / "train"
    test = place / ("test" if (place / "test").is_dir() or not (place / "val").is_dir() else "val")
    names = _classes(train)
    if len(names) < 2:
        raise DataError(f"{train} has the one class {names[0]}; a classifier needs two or more.")
    if (other := _classes(test)) != names:
        odd = sorted(set(names) ^ set(other))[0]
        raise DataError(f"The class {odd} is only in one of {train} and {test}; both need the same classes.")
    if test.name == "test" and (place / "val").is_dir():
        print(f"{place / 'val'} is not read: validation images are taken from {train}.", flush=True)
    parts = [_images(part, names) for part in (train, test)]
    key = hashlib.sha256(str(place.resolve()).encode()).hexdigest()[:8]
    kept = root / "decoded" / f"{place.resolve().name}-{key}-{image_size}.pt"
    return *splits(place.name, parts, square, image_size, kept), names


def _classes(part):
    """Names of the sub-folders of a part, sorted; those that begin with a dot are not meant."""
    try:
        names = sorted(entry.name for entry in part.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    except OSError as error:
        raise DataNotFound(
            f"{part} is missing; the folder of a data set holds train/<class>/ and test/<class>/ (or val/<class>/)."
        ) from error
    if not names:
        raise DataNotFound(f"{part} has no sub-folder; each class of images needs one.")
    return names


def _images(part, names):
    """[(image file, label)] of a part, sorted within each class."""
    label = {name: number for number, name in enumerate(names)}
    try:
        return make_dataset(part, label, extensions=IMG_EXTENSIONS)
    except FileNotFoundError as error:
        empty = next(name for name in names if not any(_all_images(part / name)))
        raise DataNotFound(f"{part / empty} has no image; known are {', '.join(IMG_EXTENSIONS)}.") from error


def _all_images(folder):
    return (file for file in folder.rglob("*") if file.suffix.lower() in IMG_EXTENSIONS)
