"""Data sets for object detection: splits, batches of augmented views for training, views for evaluation."""

import hashlib
from dataclasses import dataclass

import torch
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader

from .. import splits
from ..augmentation import normalise
from ..seeding import generator
from ..sources import DataDamaged, DataError, DataNotFound, root_folder
from . import scenes, sources
from .augmentation import AUGMENTS, MEAN, STD, resize, view
from .sources import VOC_CLASSES, Split, fetch, read

__all__ = [
    "AUGMENTS", "Batch", "DataDamaged", "DataError", "DataNotFound", "Dataset", "MEAN", "STD", "Split", "VOC_CLASSES",
    "fetch", "load", "names", "read", "resize", "view",
]  # fmt: skip

_SETS = {  # name: (train sets, test sets, class names)
    "voc": (("2007 trainval", "2012 trainval"), ("2007 test",), VOC_CLASSES),
    "scenes": (("2007 trainval",), ("2007 test",), scenes.CLASSES),
}


def names():
    """Names of the known data sets, as a list."""
    return list(_SETS)


@dataclass(frozen=True, eq=False)
class Batch:
    """Views of some images and their objects, for one step of training.

    ``views``: float32 (N, 3, S, S), normalised. ``boxes``: float32 (N, M, 4), x1 y1 x2 y2 as fractions, and ``labels``:
    int64 (N, M), both filled up with zeros; label 0 is no object. Difficult objects are not in it, as in the rules of
    VOC. M is the largest number of objects of an image, at least 1. ``positions``: int64 (N,), of the images in the
    split. ``epoch`` counts from 1. Introduced in notebook 05.
    """

    views: torch.Tensor
    boxes: torch.Tensor
    labels: torch.Tensor
    positions: torch.Tensor
    epoch: int

    def hits(self, outputs):
        """Nothing: what is right of a detector's ``outputs`` shows only over a whole split (`metrics`)."""
        return {}


@dataclass(frozen=True, eq=False)
class Dataset:
    """A data set ready for training: three disjoint splits, the side of a view, and what belongs to them.

    ``checksum`` is the SHA-256 of the files of the images and of the objects of the three splits: equal checksums,
    equal data. ``workers``: processes that prepare views beside the training, 0 for none; they change no view.
    Introduced in notebook 05.
    """

    name: str
    train: Split
    val: Split
    test: Split
    size: int
    class_names: tuple
    checksum: str
    device: torch.device = torch.device("cpu")
    workers: int = 0

    metric = "map50"
    channels = 3

    @property
    def classes(self):
        """Number of classes of objects, without the background."""
        return len(self.class_names)

    @property
    def mean(self):
        """Mean of each channel on the scale 0..1, (3,), on the device: ImageNet's, for every data set."""
        return torch.tensor(MEAN, device=self.device)

    @property
    def std(self):
        """Standard deviation of each channel on the scale 0..1, (3,), on the device: ImageNet's."""
        return torch.tensor(STD, device=self.device)

    def epoch(self, batch_size, augmentation, generators, number):
        """Iterator of `Batch` over the training split, ``augmentation`` "none" or "ssd" (see `view`).

        Everything random is drawn before this returns: the order from ``generators["order"]``, by the rules of
        `stkd_utils.splits.order`, and a seed for the view of each image from ``generators["augment"]``.
        """
        if augmentation not in AUGMENTS:
            raise ValueError(f"augmentation is one of {', '.join(AUGMENTS)}; got {augmentation!r}.")
        everything = torch.arange(len(self.train))
        chosen = list(splits.order(splits.Split(everything, everything), batch_size, generators["order"]))
        seeds = torch.randint(2**63 - 1, (len(self.train),), generator=generators["augment"])
        loader = DataLoader(
            _Views(self.train, self.size, augmentation, seeds.tolist()),
            batch_sampler=[positions.tolist() for positions in chosen],
            collate_fn=_collate,
            num_workers=self.workers,
            generator=torch.Generator(),  # its draws would come from the global one
        )
        return (self._batch(*views, positions, number) for views, positions in zip(loader, chosen, strict=True))

    def batches(self, split, batch_size):
        """Iterator of `Batch` over all images of ``split`` in order, without augmentation; its ``epoch`` is 0.

        Difficult objects are left out here too; ``split.truths()`` has them all.
        """
        for positions in torch.arange(len(split)).split(batch_size) if len(split) else ():
            objects = _padded([split.objects(i) for i in positions.tolist()])
            yield self._batch(split.resized(positions, self.size), *objects, positions, 0)

    def _batch(self, images, boxes, labels, positions, epoch):
        images, *others = (value.to(self.device) for value in (images, boxes, labels, positions))
        return Batch(normalise(images, self.mean, self.std), *others, epoch)


def load(
    name,
    *,
    root=None,
    device="cpu",
    size=300,
    val_fraction=0.1,
    train_sets=None,
    test_sets=None,
    split_seed=0,
    train_limit=None,
    val_limit=None,
    test_limit=None,
    workers=0,
):
    """A `Dataset` called ``name``: "voc" (PASCAL VOC) or "scenes" (digits on coloured grounds, composed when absent).

    ``train_sets`` and ``test_sets``: like ["2007 trainval"]; by default 2007 and 2012 trainval against 2007 test for
    voc, and trainval against test for scenes. A random ``val_fraction`` of the train images is the validation split.
    Limits (number of images kept) choose at random. ``split_seed`` decides all of it but the limit of the test split.

    Raises `DataError`: unknown name, impossible fraction or limit, sets that overlap, files absent (`DataNotFound`) or
    damaged (`DataDamaged`). Introduced in notebook 05.
    """
    if name not in _SETS:
        raise DataError(f"No data set for detection is called {name!r}; known: {', '.join(names())}.")
    if not 0 <= val_fraction < 1:
        raise DataError(f"val_fraction is at least 0 and below 1; got {val_fraction!r}.")
    root = scenes.ensure(root_folder(root)) if name == "scenes" else root_folder(root)
    usual_train, usual_test, class_names = _SETS[name]
    learn = sources.read(root, train_sets or usual_train, class_names)
    test = sources.read(root, test_sets or usual_test, class_names)
    both = set(learn.ids).intersection(test.ids)
    if both:
        raise DataError(f"{len(both)} images, {min(both)} first, are in train_sets and in test_sets; keep them apart.")
    shuffled = torch.randperm(len(learn), generator=generator(split_seed, "split"))
    held_out = round(val_fraction * len(learn))
    train, val, test = (
        _limited(split, limit, f"{part} split of {name}", generator(seed, f"{part} limit"))
        for part, split, limit, seed in (
            ("train", learn.take(shuffled[held_out:].sort().values), train_limit, split_seed),
            ("val", learn.take(shuffled[:held_out].sort().values), val_limit, split_seed),
            ("test", test, test_limit, 0),
        )
    )
    checksum = _checksum(train, val, test)
    return Dataset(name, train, val, test, size, class_names, checksum, torch.device(device), workers)


class _Views(torch.utils.data.Dataset):
    """View of each image of a split in one epoch: (image, boxes, labels), difficult objects left out."""

    def __init__(self, split, size, augment, seeds):
        self.split, self.size, self.augment, self.seeds = split, size, augment, seeds

    def __len__(self):
        return len(self.split)

    def __getitem__(self, i):
        return view(self.split.image(i), *self.split.objects(i), self.size, self.augment, self.seeds[i])


def _collate(views):
    """Views of a batch as three tensors, as in `Batch` but uint8."""
    images, *objects = zip(*views, strict=True)
    return torch.stack(images), *_padded(list(zip(*objects, strict=True)))


def _padded(objects):
    """Boxes (N, M, 4) and labels (N, M) of N images, filled up with zeros, from a list of pairs."""
    boxes, labels = zip(*objects, strict=True)
    room = max(1, *map(len, labels))
    boxes = pad_sequence([*boxes, torch.zeros(room, 4)], batch_first=True)[:-1]
    labels = pad_sequence([*labels, torch.zeros(room, dtype=torch.int64)], batch_first=True)[:-1]
    return boxes, labels


def _limited(split, limit, what, generator):
    if limit is None:
        return split
    if not 1 <= limit <= len(split):
        raise DataError(f"A limit of {limit!r} images does not fit the {what}, which has {len(split)}.")
    return split.take(torch.randperm(len(split), generator=generator)[:limit].sort().values)


def _checksum(*parts):
    digest = hashlib.sha256()
    for split in parts:
        digest.update(f"{len(split)} images".encode())
        for file, *objects in zip(split.files, split.boxes, split.labels, split.difficult, strict=True):
            digest.update(hashlib.sha256(file.read_bytes()).digest())
            for tensor in objects:
                digest.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
                digest.update(tensor.numpy())
    return digest.hexdigest()
