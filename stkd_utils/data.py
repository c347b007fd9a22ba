"""Data sets as uint8 tensors on the device: reading, splitting, limiting, batching."""

import hashlib
from dataclasses import dataclass, field
from functools import partial
from weakref import proxy

import torch

from . import engine
from .augmentation import Augmentation, Moves, augment, draw, normalise, view
from .seeding import generator
from .sources import DataDamaged, DataError, DataNotFound, fetch, names, read, root_folder
from .splits import Split, batches, order, stratified

__all__ = [
    "Augmentation", "Batch", "DataDamaged", "DataError", "DataNotFound", "Dataset", "Moves", "Split", "augment",
    "batches", "draw", "fetch", "load", "names", "normalise", "order", "read", "root_folder", "stratified", "view",
]  # fmt: skip


@dataclass(frozen=True, eq=False)
class Batch:
    """One batch as all students of a pass see it.

    ``views`` float32 (N, C, H, W) are augmented and normalised, ``labels`` int64 (N,); ``positions`` int64 (N,) of the
    images in the training split, the ``moves`` that made their views, and the ``epoch`` (1-based) say what they show.
    """

    views: torch.Tensor
    labels: torch.Tensor
    positions: torch.Tensor
    moves: Moves
    epoch: int

    def hits(self, logits):
        """How many of the images ``logits`` (N, classes) get right, by what is counted: {"accuracy": a scalar}."""
        return {"accuracy": (logits.argmax(1) == self.labels).sum()}


@dataclass(frozen=True, eq=False)
class Dataset:
    """A data set ready for training: three disjoint splits and what belongs to them.

    ``mean`` and ``std`` (C,), on the scale 0..1, are those of the whole train part (train and validation, before
    limits). ``checksum`` is the SHA-256 of the three splits as they are here: equal checksums, equal pixels and labels.
    """

    name: str
    train: Split
    val: Split
    test: Split
    mean: torch.Tensor
    std: torch.Tensor
    class_names: tuple
    checksum: str
    _looks: dict = field(default_factory=dict, init=False, repr=False)  # how views are made, by augmentation
    metric = "accuracy"  # what validation compares

    @property
    def device(self):
        """Where the images are, and so where the networks are trained."""
        return self.train.images.device

    @property
    def classes(self):
        """Number of classes."""
        return len(self.class_names)

    @property
    def channels(self):
        """Number of colour channels."""
        return self.train.images.shape[1]

    @property
    def size(self):
        """Side of an image, in pixels."""
        return self.train.images.shape[3]

    def epoch(self, batch_size, augmentation, generators, number):
        """Iterator of `Batch`: once over the training images, in epoch ``number`` (1-based).

        ``generators`` holds the CPU generators of "order" and "augment": equal states, equal batches.
        """
        look = self._looks.setdefault(augmentation, engine.Captured(partial(Dataset._look, proxy(self), augmentation)))
        batches = list(order(self.train, batch_size, generators["order"]))
        # drawn for the whole pass: copying the moves of each batch would make a GPU wait for every step
        drawn = draw(sum(map(len, batches)), augmentation, generators["augment"], self.device).split(batch_size)
        for positions, moves in zip(batches, drawn, strict=True):
            views, labels = look(positions, moves.shift_x, moves.shift_y, moves.flip, moves.angle)
            if look.graphs:  # the next ones will be written over them
                views, labels = views.clone(), labels.clone()
            yield Batch(views, labels, positions, moves, number)

    def _look(self, augmentation, positions, *moves):
        images = self.train.images[positions]
        return view(images, Moves(augmentation, *moves), self.mean, self.std), self.train.labels[positions]


def load(
    name,
    *,
    root=None,
    device="cpu",
    val_fraction=0.1,
    split_seed=0,
    train_fraction=None,
    train_limit=None,
    val_limit=None,
    test_limit=None,
    download=False,
    **own,
):
    """A `Dataset`: the official (or, for digits, fixed) test split, the rest divided into train and validation.

    Division, ``train_fraction`` (share of the training images kept, None for all) and limits (number of images kept,
    after the fraction) are stratified by class and seeded by ``split_seed``; the test split and its limit never depend
    on it. ``download`` fetches what is absent or damaged. ``own`` is what one data set alone needs: ``folder`` and
    ``image_size`` of "folder". Raises `DataError`: unknown name, impossible fraction or limit, files absent
    (`DataNotFound`) or damaged (`DataDamaged`). Introduced in notebook 01.
    """
    if not 0 <= val_fraction < 1:
        raise DataError(f"val_fraction is at least 0 and below 1; got {val_fraction!r}.")
    learn, test, class_names = read(name, root, download=download, **own)
    held_out = torch.zeros(len(learn), dtype=torch.bool)
    held_out[stratified(learn.labels, round(val_fraction * len(learn)), generator(split_seed, "split"))] = True
    train = _part(learn.take(~held_out), train_fraction, class_names, name, generator(split_seed, "train fraction"))
    train, val, test = (
        _limited(split, limit, part, name, generator(seed, f"{part} limit")).to(device)
        for part, split, limit, seed in (
            ("train", train, train_limit, split_seed),
            ("val", learn.take(held_out), val_limit, split_seed),
            ("test", test, test_limit, 0),
        )
    )
    mean, std = (value.to(device) for value in _statistics(learn.images))
    return Dataset(name, train, val, test, mean, std, tuple(class_names), _checksum(train, val, test))


def _part(split, fraction, class_names, name, generator):
    """The stratified ``fraction`` of the training images, all of them for None; every class must keep an image."""
    if fraction is None:
        return split
    if not 0 < fraction <= 1:
        raise DataError(f"train_fraction is above 0 and at most 1; got {fraction!r}.")
    kept = split.take(stratified(split.labels, round(fraction * len(split)), generator))
    counts = kept.labels.bincount(minlength=len(class_names))
    if counts.min() == 0:
        lost = class_names[int(counts.argmin())]
        raise DataError(
            f"A train_fraction of {fraction:g} leaves {len(kept)} of the {len(split)} training images of {name} and "
            f"none of the class {lost}; raise it."
        )
    return kept


def _limited(split, limit, part, name, generator):
    if limit is None:
        return split
    if not 1 <= limit <= len(split):
        raise DataError(
            f"A limit of {limit!r} images does not fit the {part} split of {name}, which has {len(split)}; "
            f"'{part}_limit' null takes all of them."
        )
    return split.take(stratified(split.labels, limit, generator))


def _statistics(images):
    """Mean and standard deviation per channel on the scale 0..1, over all pixels of all images: the same everywhere.

    Sums of whole numbers below 2^53 are exact in float64, in any order. (The deviations of Tiny ImageNet in the paper's
    code, 0.2302 0.2265 0.2262, are smaller: they are those within an image, averaged over the images.)
    """
    pixels = images.shape[0] * images.shape[2] * images.shape[3]
    total = torch.zeros(images.shape[1], dtype=torch.float64)
    squares = total.clone()
    for chunk in images.split(max(1, 2**20 // images[0].numel())):  # that stays in the processor's cache
        values = chunk.double()
        total += values.sum(dim=(0, 2, 3))
        squares += values.square_().sum(dim=(0, 2, 3))
    mean = total / pixels
    std = (squares / pixels - mean.square()).sqrt()
    return (mean / 255).float(), (std / 255).float()


def _checksum(*splits):
    digest = hashlib.sha256()
    for split in splits:
        for tensor in (split.images, split.labels):
            digest.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
            digest.update(tensor.cpu().contiguous().numpy())
    return digest.hexdigest()
