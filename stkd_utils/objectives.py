"""What a student learns from one batch: labels alone, or labels and what a teacher or a rule adds to them."""

import math
from dataclasses import dataclass, field
from types import MappingProxyType

import torch

from . import engine, losses


class Teacher(torch.nn.Module):
    """A frozen network that answers each batch once, however many students ask in turn.

    Only the very batch that was asked last is known again, never one that looks like it. ``stored`` (a
    `stored.StoredTeacher` of the same network) answers from disk what it knows. Introduced in notebook 09.
    """

    def __init__(self, network, stored=None):
        super().__init__()
        self.network, self.stored = network, stored
        self.eval().requires_grad_(False)
        self._captured = engine.Captured(network)
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
            return (self._captured if engine.recordable(self.network) else self.network)(batch.views)

    def computed(self):
        """Share of the images, of those asked about since the last call, that went through the network."""
        if not self.stored:
            return 1.0
        before, self._counted = self._counted, (self.stored.computed, self.stored.asked)
        computed, asked = (now - then for now, then in zip(self._counted, before, strict=True))
        return computed / asked if asked else 0.0


@dataclass
class Objective:
    """Learning from labels, and from what else ``loss`` takes, softened by one temperature a batch.

    Every objective has these attributes, so that a `Trainer` need not know how it teaches. Introduced in notebook 03.

    Attributes
    ----------
    loss : a pure function ``loss(logits_s, [logits_t,] labels, [tau,] **settings)`` that returns named terms, such as
        `losses.hinton`: with teacher logits where there is a ``teacher``, with a temperature where there is a
        ``policy``.
    teacher : a frozen network or a `Teacher`, which several students may share; or None. It runs without a graph and
        never receives a gradient.
    policy : a temperature policy, drawn once per batch, the same value for teacher and student; or None.
    settings : what ``loss`` takes by name, such as the weights of its terms.
    module : a torch.nn.Module with what learns beside the student or has a state of its own, or None.
    macs : forward MACs of one image through what of ``module`` looks at every image; ``macs_backward`` those of the way
        back, twice as many for a network that learns.
    networks : those of them that do the student's task and are judged beside it, a dict by name.
    """

    loss: object
    teacher: object = None
    policy: object = None
    settings: dict = field(default_factory=dict)
    macs = 0
    networks = MappingProxyType({})

    def __post_init__(self):
        if self.teacher is not None and not isinstance(self.teacher, Teacher):
            self.teacher = Teacher(self.teacher)

    @property
    def module(self):
        """What learns beside the student: a learnable temperature, or nothing."""
        return self.policy.module if self.policy else None

    @property
    def macs_backward(self):
        """MACs of one image's backward pass through what ``macs`` counts: gradients of weights and of inputs."""
        return 2 * self.macs

    def given(self, batch):
        """What ``loss`` takes besides the student's logits, for one `data.Batch`: a list of tensors and numbers.

        Draws the temperature of the batch.
        """
        teacher = [self.teacher(batch)] if self.teacher else []
        tau = [self.policy.draw(batch.epoch)] if self.policy else []
        return [*teacher, batch.labels, *tau]

    def terms(self, batch, logits_s):
        """Named loss terms of one `data.Batch`; ``logits_s`` (N, classes)."""
        return self.compare(logits_s, *self.given(batch))

    def compare(self, logits_s, *given):
        """Named loss terms of ``logits_s`` (N, classes) and what was `given` for their batch."""
        return self.loss(logits_s, *given, **self.settings)

    @property
    def recordable(self):
        """Whether a step is no more than to `compare` what was `given`, so that its kernels can be recorded."""
        return type(self).terms is Objective.terms and self.module is None


class Supervised(Objective):
    """Learning from labels alone: ``{"hard": cross-entropy}``."""

    def __init__(self):
        super().__init__(losses.cross_entropy)


class Distillation(Objective):
    """Learning from labels and from a frozen ``teacher``, softened by one temperature a batch.

    ``loss`` is a function like `losses.hinton`; the rest as in `Objective`. Introduced in notebook 03.
    """

    def __init__(self, teacher, policy, hard_weight, soft_weight, loss=losses.hinton):
        super().__init__(loss, teacher, policy, {"hard_weight": hard_weight, "soft_weight": soft_weight})


def beside(policy, **modules):
    """The ``module`` of an objective with ``modules`` of its own: those and what its temperature ``policy`` learns."""
    return torch.nn.ModuleDict(modules | ({"tau": policy.module} if policy.module else {}))
