"""What a student learns from one batch: labels alone, or labels and a frozen teacher."""

import math
from dataclasses import dataclass

import torch

from . import losses


class Teacher(torch.nn.Module):
    """A frozen network that answers each batch once, however many students ask in turn.

    Only the very batch that was asked last is known again, never one that looks like it. ``stored`` (a
    `stored.StoredTeacher` of the same network) answers from disk what it knows. Introduced in notebook 09.
    """

    def __init__(self, network, stored=None):
        super().__init__()
        self.network, self.stored = network, stored
        self.eval().requires_grad_(False)
        self._batch = self._logits = None
        self._counted = 0, 0

    def forward(self, batch):
        """Logits float32 (N, classes) of a `data.Batch`, outside of any graph."""
        if batch is not self._batch:
            self._batch, self._logits = batch, self._answer(batch)
        return self._logits

    def _answer(self, batch):
        if self.stored:
            endless = batch.moves.augmentation.views == math.inf
            return self.stored(batch.views, batch.positions, batch.epoch - 1 if endless else batch.moves.number())
        with torch.no_grad():  # not inference mode: a loss may keep these logits for its gradient
            return self.network(batch.views)

    def computed(self):
        """Share of the images, of those asked about since the last call, that went through the network."""
        if not self.stored:
            return 1.0
        before, self._counted = self._counted, (self.stored.computed, self.stored.asked)
        computed, asked = (now - then for now, then in zip(self._counted, before, strict=True))
        return computed / asked if asked else 0.0


class Supervised:
    """Learning from labels alone: ``{"hard": cross-entropy}``."""

    policy = teacher = None

    def terms(self, batch, logits_s):
        """Named loss terms of one `data.Batch`; ``logits_s`` (N, classes)."""
        return losses.cross_entropy(logits_s, batch.labels)


@dataclass
class Distillation:
    """Learning from labels and from a frozen teacher, softened by one temperature a batch.

    ``teacher`` is a network, or a `Teacher` that several students share; ``loss`` a function like `losses.hinton`;
    ``policy`` a temperature policy: drawn once per batch, the value softens teacher and student alike. The teacher runs
    without a graph and never receives a gradient. Introduced in notebook 03.
    """

    teacher: torch.nn.Module
    policy: object
    hard_weight: float
    soft_weight: float
    loss: object = losses.hinton

    def __post_init__(self):
        if not isinstance(self.teacher, Teacher):
            self.teacher = Teacher(self.teacher)

    def terms(self, batch, logits_s):
        """Named loss terms of one `data.Batch`; ``logits_s`` (N, classes)."""
        weights = {"hard_weight": self.hard_weight, "soft_weight": self.soft_weight}
        return self.loss(logits_s, self.teacher(batch), batch.labels, self.policy.draw(), **weights)
