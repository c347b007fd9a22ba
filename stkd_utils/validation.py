"""How a network is judged during its training, and which epoch validation prefers."""

import math
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F

from . import data, engine


@torch.inference_mode()
def evaluate(model, split, dataset, batch_size=None, precision="float32", answers=None):
    """``{"accuracy", "loss"}``: fraction right and mean cross-entropy of ``model`` on one split, without augmentation.

    ``batch_size`` None is 128, and on a GPU up to a million pixels: Python starts the kernels of fewer batches.
    ``precision`` as in `engine.resolve`; the list ``answers`` receives the logits of each batch, float32 (B, K). The
    model's training mode is restored afterwards.
    """
    was_training = model.training
    if batch_size is None:
        pixels = math.prod(split.images.shape[2:])
        batch_size = max(128, 2**20 // pixels) if split.images.is_cuda else 128
    model.eval()
    correct = loss = 0.0
    for images, labels in data.batches(split, batch_size):
        with engine.autocast(images.device, precision):
            logits = model(data.normalise(images, dataset.mean, dataset.std)).float()
        correct = correct + (logits.argmax(1) == labels).sum()
        loss = loss + F.cross_entropy(logits, labels, reduction="sum")
        if answers is not None:
            answers.append(logits)
    model.train(was_training)
    return {"accuracy": float(correct) / len(split), "loss": float(loss) / len(split)}


@dataclass
class Fit:
    """A training in progress: everything that a checkpoint has to hold besides model and optimiser.

    ``history`` has one dict of numbers per epoch, ``timings`` the clock times that belong to it, ``parts`` the part of
    the pass that this student was (`sharing.split`), ``chosen`` the epoch that validation prefers with its weights
    (highest ``metric``, then lowest loss).
    """

    history: list = field(default_factory=list)
    timings: list = field(default_factory=list)
    parts: list = field(default_factory=list)
    chosen_epoch: int = 0
    chosen_weights: dict = field(default_factory=dict)
    resumed: int = 0

    def choose(self, row, model, metric="accuracy"):
        """Remember ``model`` if this epoch's validation beats every earlier one."""
        best = self.history[self.chosen_epoch - 1] if self.chosen_epoch else None
        score = f"val_{metric}"
        if best is None or (row[score], -row["val_loss"]) > (best[score], -best["val_loss"]):
            self.chosen_epoch = row["epoch"]
            self.chosen_weights = {key: value.detach().clone() for key, value in model.state_dict().items()}
