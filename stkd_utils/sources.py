"""Where data sets come from: reading, checking and fetching their files."""

import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from .seeding import generator
from .splits import Split, stratified


class DataError(ValueError):
    """A request for data that cannot be met; the message is one sentence that says what to do."""


class DataNotFound(DataError, FileNotFoundError):
    """The files of a data set are absent and were not, or could not be, fetched."""


class DataDamaged(DataError):
    """A file of a data set fails its checksum."""


def names():
    """Names of the known data sets, as a list."""
    return list(_SOURCES)


def root_folder(root=None):
    """Folder of the data files: ``root``, else $STKD_DATA, else ~/.cache/stkd."""
    return Path(root or os.environ.get("STKD_DATA") or "~/.cache/stkd").expanduser()


def read(name, root=None, *, download=False):
    """Everything of a data set before it is divided: (train part, test part, class names), the parts as `Split`.

    ``download`` fetches files that are absent or damaged; without it they raise `DataNotFound` or `DataDamaged`.
    An unknown name raises `DataError` and lists the known ones.
    """
    source, root = _source(name), root_folder(root)
    try:
        return source.read(root)
    except (DataNotFound, DataDamaged):
        if not download:
            raise
    fetch(name, root)
    return source.read(root)


def fetch(name, root=None):
    """Folder that now holds the files of ``name``; downloads and checks what is absent or damaged, and says how much.

    Raises `DataNotFound` when the files cannot be had.
    """
    source, root = _source(name), root_folder(root)
    if source.fetch is None:
        print(f"{name} comes with scikit-learn: nothing to fetch.")
        return root
    minutes = source.megabytes * 8 / 10 / 60
    print(f"Fetching {name} into {root}: {source.megabytes} MB, about {minutes:.0f} minutes at 10 Mbit/s.", flush=True)
    patience = socket.getdefaulttimeout()
    socket.setdefaulttimeout(60)  # without one, a silent server holds the download for ever
    try:
        root.mkdir(parents=True, exist_ok=True)
        source.fetch(root)
    except (OSError, RuntimeError) as error:
        raise DataNotFound(
            f"{name} could not be fetched into {root} ({error}); check the network and the folder, then try again."
        ) from error
    finally:
        socket.setdefaulttimeout(patience)
    return root


@dataclass(frozen=True)
class _Source:
    """How one data set is had: ``read(root)`` -> (train part, test, class names); ``fetch(root)`` downloads."""

    read: Callable
    fetch: Callable | None = None
    megabytes: int = 0


def _read_digits(root):
    from sklearn.datasets import load_digits

    raw = load_digits()
    images = torch.from_numpy(raw.images * (255 / 16)).round().to(torch.uint8)[:, None]
    everything = Split(images, torch.from_numpy(raw.target).long())
    is_test = torch.zeros(len(everything), dtype=torch.bool)
    is_test[stratified(everything.labels, round(0.2 * len(everything)), generator(2, "digits test split"))] = True
    return everything.take(~is_test), everything.take(is_test), [str(name) for name in raw.target_names]


def _read_cifar(class_name, root):
    from torchvision import datasets

    official = getattr(datasets, class_name)
    files = [root / official.base_folder / entry[0] for entry in official.train_list + official.test_list]
    files.append(root / official.base_folder / official.meta["filename"])
    absent = [file for file in files if not file.is_file()]
    name = class_name.lower()
    if absent:
        raise DataNotFound(
            f"{name} is not here: {absent[0]} is missing; get it with `python -m stkd_utils data {name}` "
            "(STKD_DATA chooses the folder)."
        )
    try:
        parts = [official(root, train=train, download=False) for train in (True, False)]
    except RuntimeError as error:
        damaged = _first_damaged(official, root) or root / official.base_folder
        raise DataDamaged(
            f"{damaged} is damaged (its checksum is wrong); replace it with `python -m stkd_utils data {name}`."
        ) from error
    images = (torch.from_numpy(part.data).permute(0, 3, 1, 2).contiguous() for part in parts)
    train, test = (Split(image, torch.tensor(part.targets)) for image, part in zip(images, parts, strict=True))
    return train, test, parts[0].classes


def _first_damaged(official, root):
    from torchvision.datasets.utils import check_integrity

    entries = [*official.train_list, *official.test_list, (official.meta["filename"], official.meta["md5"])]
    files = ((root / official.base_folder / file, md5) for file, md5 in entries)
    return next((file for file, md5 in files if not check_integrity(file, md5)), None)


def _fetch_cifar(class_name, root):
    from filelock import FileLock
    from torchvision import datasets

    with FileLock(root / f".{class_name.lower()}.lock"):
        getattr(datasets, class_name)(root, download=True)


_SOURCES = {
    "digits": _Source(_read_digits),
    "cifar10": _Source(partial(_read_cifar, "CIFAR10"), partial(_fetch_cifar, "CIFAR10"), 170),
    "cifar100": _Source(partial(_read_cifar, "CIFAR100"), partial(_fetch_cifar, "CIFAR100"), 169),
}


def _source(name):
    if name not in _SOURCES:
        raise DataError(f"No data set is called {name!r}; known: {', '.join(names())}.")
    return _SOURCES[name]
