"""What the tests of stored teacher outputs share: a run's batches, a small teacher, and its table."""

import numpy as np
import torch

from stkd_utils import data, engine, models, seeding, stored
from stkd_utils.data import Augmentation

SHIFT = Augmentation(crop_padding=1)  # 9 views


def network(seed=0, precision="float32"):
    return engine.frozen(models.build("resnet18", 10, channels=1, width=0.0625, seed=seed), precision, "cpu")


def passes(digits, augmentation, epochs, seed=0, batch_size=64):
    """(views, positions, moves, epoch) of every batch of a run with that data seed."""
    order, draws = seeding.generator(seed, "order"), seeding.generator(seed, "augment")
    for epoch in range(1, epochs + 1):
        for positions in data.order(digits.train, batch_size, order):
            moves = data.draw(len(positions), augmentation, draws, positions.device)
            yield data.view(digits.train.images[positions], moves, digits.mean, digits.std), positions, moves, epoch


def answers(teacher, *run):
    """All logits of a run as one tensor; ``teacher`` plain or stored."""
    if isinstance(teacher, stored.StoredTeacher):
        return torch.cat([teacher(views, positions, moves.number()) for views, positions, moves, _ in passes(*run)])
    return torch.cat([teacher(views) for views, *_ in passes(*run)])


def store(path, digits, augmentation=SHIFT, teacher=None, precision="float32", **tape):
    return stored.StoredTeacher(teacher or network(), path, digits, augmentation, precision, **tape)


def rows_of(kept):
    return np.memmap(kept.folder / "rows", stored._row(10), "r+", shape=(160, kept._rows.shape[1]))
