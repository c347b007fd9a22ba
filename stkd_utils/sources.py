"""Where data sets come from: which there are, and how each is read and fetched."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from .readers import folders, official, tinyimagenet
from .readers.fetching import DataDamaged, DataError, DataNotFound, deliver, root_folder
from .seeding import generator
from .splits import Split, stratified

__all__ = ["DataDamaged", "DataError", "DataNotFound", "deliver", "fetch", "names", "read", "root_folder"]


def names():
    """Names of the known data sets, as a list."""
    return list(_SOURCES)


def read(name, root=None, *, download=False, **own):
    """Everything of a data set before it is divided: (train part, test part, class names), the parts as `Split`.

    ``download`` fetches files that are absent or damaged; without it they raise `DataNotFound` or `DataDamaged`.
    ``own`` is what this data set alone needs: ``folder`` and ``image_size`` of "folder". An unknown name raises
    `DataError` and lists the known ones, and so do settings that the data set does not need or lacks.
    """
    source, root = _source(name), root_folder(root)
    if set(own) != set(source.own):
        wanted, got = (", ".join(sorted(keys)) or "nothing" for keys in (source.own, own))
        raise DataError(f"Of its own, the data set {name} needs {wanted}; got {got}.")
    try:
        return source.read(root, **own)
    except (DataNotFound, DataDamaged):
        if not download or source.fetch is None:
            raise
    fetch(name, root)
    return source.read(root, **own)


def fetch(name, root=None):
    """Folder that now holds the files of ``name``; downloads and checks what is absent or damaged, and says how much.

    Raises `DataNotFound` when the files cannot be had.
    """
    source, root = _source(name), root_folder(root)
    if source.fetch is None:
        print(f"{name} {source.origin}: nothing to fetch.")
        return root
    return deliver(name, root, source.megabytes, partial(source.fetch, root))


@dataclass(frozen=True)
class _Source:
    """How one data set is had: ``read(root)`` -> (train part, test, class names); ``fetch(root)`` downloads.

    ``origin`` says where one comes from that is not fetched; ``own`` are the settings that ``read`` needs besides.
    """

    read: Callable
    fetch: Callable | None = None
    megabytes: int = 0
    origin: str = ""
    own: tuple = ()


def _read_digits(root):
    from sklearn.datasets import load_digits

    raw = load_digits()
    images = torch.from_numpy(raw.images * (255 / 16)).round().to(torch.uint8)[:, None]
    everything = Split(images, torch.from_numpy(raw.target).long())
    is_test = torch.zeros(len(everything), dtype=torch.bool)
    is_test[stratified(everything.labels, round(0.2 * len(everything)), generator(2, "digits test split"))] = True
    return everything.take(~is_test), everything.take(is_test), [str(name) for name in raw.target_names]


def _cifar(class_name, megabytes):
    return _Source(partial(official.read_cifar, class_name), partial(official.fetch_cifar, class_name), megabytes)


_SOURCES = {
    "digits": _Source(_read_digits, origin="comes with scikit-learn"),
    "cifar10": _cifar("CIFAR10", 170),
    "cifar100": _cifar("CIFAR100", 169),
    "mnist": _Source(official.read_mnist, official.fetch_mnist, 12),
    "tinyimagenet": _Source(tinyimagenet.read, tinyimagenet.fetch, 248),
    "folder": _Source(folders.read, origin="reads a folder of your own images", own=("folder", "image_size")),
}


def _source(name):
    if name not in _SOURCES:
        raise DataError(f"No data set is called {name!r}; known: {', '.join(names())}.")
    return _SOURCES[name]
