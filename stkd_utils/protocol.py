"""How long and how fast a model trains: the schedule of the original code as data, and a shorter one beside it."""

import math
from bisect import bisect_right
from dataclasses import dataclass

import torch

SCHEDULES = ("steps", "one-cycle")
OPTIMISERS = ("sgd", "adam")


@dataclass(frozen=True)
class Protocol:
    """The optimiser's settings and its learning rate at every step.

    The defaults are those seen in the paper's code: SGD, momentum 0.9, weight decay 5e-4, batch 128, 100 epochs,
    learning rate 0.1 x batch/128, a linear warm-up over the first epoch, x0.2 after 30, 60 and 80 % of the epochs.
    Milestones are fractions of the run, so that a shorter profile keeps the shape. Introduced in notebook 02.

    ``schedule`` "steps" is that one. "one-cycle" (Smith and Topin, 2018) rises from 1/25 of the learning rate to all of
    it over the first 30 % of the steps and falls to 1/250,000 of it, both along a cosine; it reads neither milestones
    nor gamma nor warm-up. Raises ValueError for another schedule or optimiser.
    """

    epochs: int = 100
    batch_size: int = 128
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    milestones: tuple = (0.3, 0.6, 0.8)
    gamma: float = 0.2
    warmup_epochs: int = 1
    schedule: str = "steps"
    optimiser: str = "sgd"

    def __post_init__(self):
        if self.schedule not in SCHEDULES:
            raise ValueError(f"Unknown schedule {self.schedule!r}; choose one of: {', '.join(SCHEDULES)}.")
        if self.optimiser not in OPTIMISERS:
            raise ValueError(f"Unknown optimiser {self.optimiser!r}; choose one of: {', '.join(OPTIMISERS)}.")

    def lr_at(self, epoch, batch, batches):
        """Learning rate (per step) for ``batch`` (0-based) of ``batches`` in ``epoch`` (1-based)."""
        rate = self.lr * self.batch_size / 128
        done = epoch - 1
        if self.schedule == "one-cycle":
            return rate * _one_cycle(done * batches + batch, self.epochs * batches)
        if done < self.warmup_epochs and self.epochs > self.warmup_epochs:
            return rate * (done * batches + batch + 1) / (self.warmup_epochs * batches)
        ends = [max(1, round(milestone * self.epochs)) for milestone in self.milestones]
        return rate * self.gamma ** bisect_right(ends, done)

    def optimise(self, *modules):
        """A fresh optimiser (one fused kernel a step) over all parameters, with a group for each of ``modules``."""
        groups = [{"params": parameters} for module in modules if (parameters := list(module.parameters()))]
        common = {"lr": self.lr, "weight_decay": self.weight_decay, "fused": True}
        if self.optimiser == "adam":
            return torch.optim.Adam(groups, **common)
        return _with_momenta(torch.optim.SGD(groups, momentum=self.momentum, **common))


def _with_momenta(optimiser):
    """``optimiser`` with a momentum of zero for every parameter, which is what it begins with anyhow.

    Its fused kernel cannot have some without: those whose gradient comes later, as on the CPU that continues what a GPU
    began (`models.layers.Chain`).
    """
    for group in optimiser.param_groups:
        for weight in group["params"] if group["momentum"] else ():
            optimiser.state[weight]["momentum_buffer"] = torch.zeros_like(weight)
    return optimiser


def _one_cycle(step, steps):
    """Share of the highest rate at ``step`` (0-based) of ``steps``: torch's OneCycleLR, its defaults, as a formula."""
    top, last = 0.3 * steps - 1, steps - 1
    start, end, way = (1 / 25, 1, step / top) if step <= top else (1, 1 / 25e4, (step - top) / (last - top))
    return end + (start - end) / 2 * (1 + math.cos(math.pi * way))
