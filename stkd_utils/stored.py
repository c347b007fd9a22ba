"""What a teacher said, kept on disk: its logits for every view of every image, computed once.

A row of the table is the logits (classes,) float32 of one view of one image, with a CRC-32 of the view's own pixels and
of the logits. A row is believed only if this sum fits the view that is asked about, so neither a row that nobody wrote,
nor a half-written one, nor one of another view can ever be taken for an answer: it is computed again.
"""

import hashlib
import importlib.metadata
import json
import math
import os
import shutil
import zlib
from dataclasses import dataclass
from pathlib import Path

import filelock
import numpy as np
import torch
from scipy.special import bdtrc

BLOCK = 32
"""The teacher computes missing rows in multiples of this number of images."""


class StoreError(ValueError):
    """Teacher outputs that cannot be stored; the message says why and what to change."""


def _row(classes):
    return np.dtype([("logits", np.float32, classes), ("sum", np.uint32)])


@dataclass(frozen=True)
class Estimate:
    """What storing costs and saves; its string is one sentence.

    ``views``: rows per image; ``bytes``: size on disk; ``filled``: rows of an image that the first run of a table
    fills, on average; ``saved``: share of the teacher's forward passes (in images) that it is expected to save. A
    later run saves more, up to everything.
    """

    images: int
    views: int
    epochs: int
    bytes: int
    filled: float
    saved: float

    def __str__(self):
        return (
            f"Storing the teacher's outputs for {self.images:,} images x {self.views:,} views takes "
            f"{self.bytes / 1e6:,.1f} MB; {self.epochs} epochs fill {self.filled:.1f} of the views of an image, which "
            f"saves {self.saved:.0%} of the teacher's passes in the first run and more in a later one."
        )


def estimate(images, classes, augmentation, epochs, *, batch_size=128, data_seed=None):
    """The `Estimate` for a training split of ``images`` and a run of ``epochs``.

    An epoch shows an image in one of its V views, by chance, and stores it unless it falls into a last batch that is
    no multiple of `BLOCK` (share 1 - f of the images): so a view is new in epoch e with probability
    (1 - f/V)^(e - 1), and what is new in a batch is computed in blocks of `BLOCK`. With a ``data_seed`` there is a row
    per epoch instead, as in `StoredTeacher`: nothing is saved in the first run, all in a later one. Raises StoreError
    for infinite views or a ``batch_size`` that is no multiple of `BLOCK`. Introduced in notebook 09.
    """
    if batch_size % BLOCK:
        raise StoreError(f"Stored teacher outputs need a batch_size that is a multiple of {BLOCK}; got {batch_size}.")
    views = _views(augmentation, epochs, data_seed)
    rest = images % batch_size
    share = 1 - (rest if rest % BLOCK else 0) / images
    new = np.ones(epochs) if data_seed is not None else (1 - share / views) ** np.arange(epochs)
    # a batch with m new views takes ceil(m / BLOCK) blocks: its mean is the sum of P(m > 0), P(m > BLOCK), ...
    blocks = bdtrc(np.arange(0, batch_size, BLOCK), batch_size, new[:, None]).sum()
    saved = share * (1 - BLOCK * blocks / (batch_size * epochs))
    filled = share * new.sum()
    return Estimate(images, views, epochs, images * views * _row(classes).itemsize, float(filled), float(saved))


def _views(augmentation, epochs, data_seed):
    if data_seed is not None:
        return epochs
    if augmentation.views == math.inf:
        raise StoreError(
            "Rotated views never come again, so storing the teacher's outputs per view saves nothing: "
            "set rotation_degrees to 0, or data_seed to store them per epoch of that seed."
        )
    return augmentation.views


class StoredTeacher:
    """Stands in for ``teacher`` (a frozen module, as `engine.frozen` makes it) and computes each view only once.

    Called with a batch, it gives the logits float32 (B, classes) on the device of the views, without a graph::

        stored = StoredTeacher(teacher, root, dataset, augmentation, precision)   # precision: what it really is
        for positions in data.order(split, batch_size, order):                    # int64 (B,), within dataset.train
            moves = data.draw(len(positions), augmentation, generator, device)
            views = data.view(split.images[positions], moves, dataset.mean, dataset.std)
            logits_t = stored(views, positions, moves.number())

    ``root`` is a folder for all tables; each has its own, named by a hash of all that decides the logits: data and
    teacher weights (checksums), precision, augmentation, hardware, torch. Several processes may use it at once. The map
    counts as resident memory, but the system takes its pages back when it needs them.

    ``data_seed`` and ``epochs``: one row per image and epoch instead of per view, for runs that come after one another
    and share the seed of their order and augmentation; it works with a rotation too, and is called with ``epoch - 1``
    in the place of ``moves.number()``.

    Missing rows are computed in multiples of `BLOCK` images; a batch that is no such multiple (the last of an epoch)
    goes through the teacher as it is and is not stored. On a CPU the teacher gives an image the same digits in every
    batch of such a size, so a run with stored outputs equals one without to the last digit, whatever was stored before;
    on a GPU, equal up to rounding. ``asked`` and ``computed`` count the images that were asked about and those that
    went through the teacher, repeated ones that fill a block included: their ratio is what the table saved.

    Raises StoreError when the views are infinite or the disk has too little room. Introduced in notebook 09.
    """

    def __init__(self, teacher, root, dataset, augmentation, precision, *, data_seed=None, epochs=None):
        views = _views(augmentation, epochs, data_seed)
        device = dataset.train.images.device
        on_gpu = device.type == "cuda"
        self.key = {
            "data": dataset.checksum,
            "teacher": _checksum(teacher),
            "precision": precision,
            "augmentation": vars(augmentation),
            "hardware": torch.cuda.get_device_name(device) if on_gpu else torch.backends.cpu.get_cpu_capability(),
            "torch": torch.__version__,
        }
        if precision.startswith("int8"):
            self.key["torchao"] = importlib.metadata.version("torchao")  # which finds the ranges
        if data_seed is not None:
            self.key |= {"data_seed": data_seed, "epochs": epochs}
        text = json.dumps(self.key, indent=1, sort_keys=True)
        self.folder = Path(root) / hashlib.sha256(text.encode()).hexdigest()[:16]
        self.teacher, self.asked, self.computed = teacher, 0, 0
        shape, row = (len(dataset.train), views), _row(dataset.classes)
        with filelock.FileLock(_made(Path(root)) / f".{self.folder.name}.lock"):
            if not (self.folder / "rows").exists():
                (_made(self.folder) / "key.json").write_text(text)
                _reserve(self.folder / "rows", math.prod(shape) * row.itemsize)
        self._rows = np.memmap(self.folder / "rows", row, "r+", shape=shape)

    def __call__(self, views, positions, numbers):
        """Logits (B, classes) for ``views`` (B, C, H, W), of the images at ``positions`` (B,) of the training split.

        ``numbers`` says which view each is: int64 (B,), or one number for all.
        """
        self.asked += len(views)
        if len(views) % BLOCK:
            return self._forward(views)
        at = positions.cpu().numpy(), numbers.cpu().numpy() if torch.is_tensor(numbers) else numbers
        rows = np.array(self._rows[at])
        seen = [zlib.crc32(view) for view in views.cpu().contiguous().numpy()]
        missing = np.flatnonzero(_sums(rows["logits"], seen) != rows["sum"])
        if len(missing):
            block = np.pad(missing, (0, -len(missing) % BLOCK), "edge")
            whole = len(block) == len(views)
            fresh = self._forward(views if whole else views[torch.from_numpy(block).to(views.device)])
            rows["logits"][missing] = fresh.cpu().numpy()[missing if whole else slice(len(missing))]
            rows["sum"] = _sums(rows["logits"], seen)
            self._rows[at[0][missing], np.broadcast_to(at[1], len(rows))[missing]] = rows[missing]
        return torch.from_numpy(np.ascontiguousarray(rows["logits"])).to(views.device)

    def _forward(self, views):
        self.computed += len(views)
        with torch.inference_mode():
            logits = self.teacher(views)
        return logits.to(torch.float32, copy=True)  # a copy made outside, which a loss may keep for its gradient


def _sums(logits, seen):
    """What stands beside each row: never 0, as in a row that nobody wrote."""
    return np.array([zlib.crc32(row, start) or 1 for row, start in zip(logits, seen, strict=True)], np.uint32)


def _checksum(model):
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"{name}{value.dtype}{tuple(value.shape)}{value.stride()}".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def _made(folder):
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _reserve(path, size):
    """An empty file of ``size`` bytes that really has its room on the disk: writing to its map cannot run out of it."""
    free = shutil.disk_usage(path.parent).free
    if size > free:
        raise StoreError(
            f"The teacher's outputs take {size / 1e6:,.0f} MB and {path.parent} has {free / 1e6:,.0f} MB of room: "
            f"make room there or set stored_teacher to false."
        )
    fresh = path.with_name("rows.new")
    with open(fresh, "wb") as file:
        file.truncate(size)
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
    os.replace(fresh, path)
