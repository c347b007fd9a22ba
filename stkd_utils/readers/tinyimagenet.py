"""Tiny ImageNet: 200 classes of ImageNet in 64 x 64 pixels, which torchvision has no reader for."""

import os
import zipfile
import zlib
from functools import partial
from pathlib import Path

from filelock import FileLock

from .decoded import exactly, splits
from .fetching import DataDamaged, DataNotFound, download

URL = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
BYTES, MD5 = 248_100_043, "90528d7ca1a48142e341f4ef8d21d0de"
WHOLE, SUBSET = "tiny-imagenet-200", "tiny-imagenet-200-subset"
SIDE = 64


def read(root):
    """(train part, test part, class names) of Tiny ImageNet in the folder ``root``, the parts as `Split`.

    Classes are those of wnids.txt, sorted, and called by the first of their names in words.txt. The test part is the
    official validation set, labelled by val_annotations.txt (the official test set has no labels). Read from the folder
    "tiny-imagenet-200", else from "tiny-imagenet-200-subset" (the same layout, fewer classes), which is said. Decoded
    images are kept in ``root``/decoded. Raises `DataNotFound` and `DataDamaged`.
    """
    folder = _folder(root)
    wnids = _classes(folder)
    label = {wnid: number for number, wnid in enumerate(wnids)}
    train = [(file, label[wnid]) for wnid in wnids for file in _images(folder / "train" / wnid / "images")]
    parts = [train, _validation(folder, label)]
    try:
        found = splits(folder.name, parts, exactly, SIDE, root / "decoded" / f"{folder.name}.pt")
    except DataNotFound as error:
        raise _missing(str(error).partition(" is missing")[0]) from error
    words = _words(folder)
    return *found, [words.get(wnid, wnid) for wnid in wnids]


def fetch(root):
    """Download the archive into ``root``, continuing where an earlier attempt stopped, and unpack what is not there.

    The archive stays: an image that is damaged later is taken from it. Raises as `download`.
    """
    with FileLock(root / ".tinyimagenet.lock"):
        _unpack(download(URL, root / f"{WHOLE}.zip", BYTES, MD5), root)


def _unpack(archive, root):
    """Write the labelled files that are absent or differ; wnids.txt comes last, so a folder that has it is whole."""
    with zipfile.ZipFile(archive) as files:
        entries = [entry for entry in files.infolist() if not entry.is_dir() and "/test/" not in entry.filename]
        for entry in sorted(entries, key=lambda entry: entry.filename.endswith("/wnids.txt")):
            if _sum(root / entry.filename) != entry.CRC:
                files.extract(entry, root)


def _sum(file):
    try:
        return zlib.crc32(file.read_bytes())
    except FileNotFoundError:
        return None


def _folder(root):
    for name in (WHOLE, SUBSET):
        if (root / name / "wnids.txt").is_file():
            if name == SUBSET:
                print(f"tinyimagenet: {root / WHOLE} is not here, so the subset in {root / name} is read.", flush=True)
            return root / name
    raise _missing(root / WHOLE / "wnids.txt")


def _classes(folder):
    wnids = sorted(folder.joinpath("wnids.txt").read_text().split())
    if len(set(wnids)) != len(wnids) or len(wnids) < 2:
        raise _damaged(folder / "wnids.txt", "it must name two classes or more, each once")
    return wnids


def _images(folder):
    try:
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in entries if entry.name.endswith(".JPEG"))
    except OSError as error:
        raise _missing(folder) from error
    if not names:
        raise _missing(folder / "*.JPEG")
    return map(partial(os.path.join, folder), names)


def _validation(folder, label):
    """[(image file, label)] of the official validation set, in the order of its annotations."""
    file = folder / "val" / "val_annotations.txt"
    if not file.is_file():
        raise _missing(file)
    rows = [line.split() for line in file.read_text().splitlines() if line.strip()]
    for number, row in enumerate(rows, start=1):
        if len(row) < 2 or row[1] not in label:
            raise _damaged(file, f"line {number} names no image with a class of wnids.txt")
    if not rows:
        raise _damaged(file, "it names no image")
    return [(os.path.join(folder, "val", "images", name), label[wnid]) for name, wnid, *_ in rows]


def _words(folder):
    """wnid -> the first of its names; empty without words.txt."""
    file = Path(folder) / "words.txt"
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    pairs = (line.partition("\t") for line in lines)
    return {wnid: names.split(",")[0].strip() for wnid, _, names in pairs if names.strip()}


def _missing(file):
    return DataNotFound(
        f"tinyimagenet is not here: {file} is missing; get it with `python -m stkd_utils data tinyimagenet` "
        "(STKD_DATA chooses the folder)."
    )


def _damaged(file, what):
    return DataDamaged(f"{file} is damaged ({what}); replace it with `python -m stkd_utils data tinyimagenet`.")
