"""Data sets that torchvision reads and fetches: CIFAR-10, CIFAR-100, MNIST; what is damaged is named."""

import torch
from filelock import FileLock
from torchvision import datasets
from torchvision.datasets.mnist import read_image_file, read_label_file
from torchvision.datasets.utils import check_integrity

from ..splits import Split
from .fetching import DataDamaged, DataNotFound

# MD5 of the unpacked files, which torchvision does not check: train images and labels, test images and labels
MNIST = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}


def read_cifar(class_name, root):
    """(train part, test part, class names) of "CIFAR10" or "CIFAR100". Raises `DataNotFound`, `DataDamaged`."""
    official = getattr(datasets, class_name)
    files = [root / official.base_folder / entry[0] for entry in official.train_list + official.test_list]
    files.append(root / official.base_folder / official.meta["filename"])
    _all_here(class_name.lower(), files)
    try:
        parts = [official(root, train=train, download=False) for train in (True, False)]
    except RuntimeError as error:
        damaged = _first_damaged(official, root) or root / official.base_folder
        raise _damaged(class_name.lower(), damaged) from error
    images = (torch.from_numpy(part.data).permute(0, 3, 1, 2).contiguous() for part in parts)
    train, test = (Split(image, torch.tensor(part.targets)) for image, part in zip(images, parts, strict=True))
    return train, test, parts[0].classes


def fetch_cifar(class_name, root):
    """Download "CIFAR10" or "CIFAR100" into ``root`` where it is absent or damaged."""
    with FileLock(root / f".{class_name.lower()}.lock"):
        getattr(datasets, class_name)(root, download=True)


def read_mnist(root):
    """(train part, test part, class names) of MNIST, images of one channel. Raises `DataNotFound`, `DataDamaged`."""
    files = [_mnist_folder(root) / name for name in MNIST]
    _all_here("mnist", files)
    for file in files:
        if not check_integrity(file, MNIST[file.name]):
            raise _damaged("mnist", file)
    pairs = [(read_image_file(images), read_label_file(labels)) for images, labels in (files[:2], files[2:])]
    train, test = (Split(images[:, None], labels) for images, labels in pairs)
    return train, test, [str(digit) for digit in range(10)]


def fetch_mnist(root):
    """Download MNIST into ``root`` where it is absent or damaged."""
    with FileLock(root / ".mnist.lock"):
        for name, md5 in MNIST.items():
            if not check_integrity(file := _mnist_folder(root) / name, md5):
                file.unlink(missing_ok=True)  # torchvision takes a file that exists for a whole one
        datasets.MNIST(root, download=True)


def _mnist_folder(root):
    return root / "MNIST" / "raw"


def _all_here(name, files):
    for file in files:
        if not file.is_file():
            raise DataNotFound(
                f"{name} is not here: {file} is missing; get it with `python -m stkd_utils data {name}` "
                "(STKD_DATA chooses the folder)."
            )


def _damaged(name, file):
    return DataDamaged(
        f"{file} is damaged (its checksum is wrong); replace it with `python -m stkd_utils data {name}`."
    )


def _first_damaged(official, root):
    entries = [*official.train_list, *official.test_list, (official.meta["filename"], official.meta["md5"])]
    files = ((root / official.base_folder / file, md5) for file, md5 in entries)
    return next((file for file, md5 in files if not check_integrity(file, md5)), None)
