"""What a detector learns from one batch: objects alone, or objects and a frozen teacher."""

from dataclasses import dataclass
from types import MappingProxyType

import torch

from ..objectives import Teacher
from . import boxes, losses


@dataclass
class Supervised:
    """Learning from the objects alone: the terms of `losses.multibox`.

    ``priors`` (P, 4) are those of the network, ``match_iou`` the overlap from which a prior stands for an object.
    """

    priors: torch.Tensor
    match_iou: float = 0.5
    policy = teacher = module = None
    recordable = False
    macs, macs_backward, networks = 0, 0, MappingProxyType({})

    def terms(self, batch, outputs_s):
        """Named loss terms of one `data.Batch`; ``outputs_s`` (N, P, classes + 5)."""
        return losses.multibox(outputs_s, *targets(batch, self.priors, self.match_iou))


@dataclass
class Distillation:
    """Learning from the objects and from a frozen teacher with the same priors: the terms of `losses.distil`.

    ``teacher`` is an `objectives.Teacher`, which several students may share; ``policy`` a temperature policy, drawn
    once a batch; ``weights`` the weights that `losses.distil` takes, a dict; ``match_iou`` as in `Supervised`.
    Introduced in notebook 05.
    """

    priors: torch.Tensor
    teacher: Teacher
    policy: object
    weights: dict
    match_iou: float = 0.5
    recordable = False
    macs, macs_backward, networks = 0, 0, MappingProxyType({})

    @property
    def module(self):
        """What learns beside the student: a learnable temperature, or nothing."""
        return self.policy.module

    def terms(self, batch, outputs_s):
        """Named loss terms of one `data.Batch`; ``outputs_s`` (N, P, classes + 5)."""
        labels, offsets = targets(batch, self.priors, self.match_iou)
        tau = self.policy.draw(batch.epoch)
        return losses.distil(outputs_s, self.teacher(batch), labels, offsets, tau, **self.weights)


def targets(batch, priors, match_iou=0.5):
    """What each prior is to find in a `data.Batch`: labels int64 (N, P), 0 for background, and offsets (N, P, 4)."""
    labels, matched = boxes.match(batch.boxes, batch.labels, priors, match_iou)
    return labels, boxes.encode(matched, priors)
