"""The training loop: fit, evaluate, checkpoint, resume. One loop for teachers and for students, alone or distilled."""

import math
import time
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F

from . import checkpoint, data, losses
from .seeding import generator, stream_seed


class Diverged(RuntimeError):
    """The loss became NaN or infinite; training stopped before that epoch was saved."""


def default_device():
    """The GPU when there is one, else the CPU, as a string."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def freeze(model):
    """The same model as a teacher: evaluation mode, no gradients."""
    return model.eval().requires_grad_(False)


class Supervised:
    """Learning from labels alone: ``{"hard": cross-entropy}``."""

    policy = None

    def terms(self, images, labels, logits_s):
        """Named loss terms of one batch; ``images`` (N, C, H, W), ``labels`` (N,), ``logits_s`` (N, classes)."""
        return losses.cross_entropy(logits_s, labels)


@dataclass
class Distillation:
    """Learning from labels and from a frozen teacher, softened by one temperature a batch.

    ``loss`` is a function like `losses.hinton`; ``policy`` a temperature policy: drawn once per batch, the value
    softens teacher and student alike. The teacher runs in inference mode and never receives a gradient. Introduced in
    notebook 03.
    """

    teacher: torch.nn.Module
    policy: object
    hard_weight: float
    soft_weight: float
    loss: object = losses.hinton

    def __post_init__(self):
        freeze(self.teacher)

    def terms(self, images, labels, logits_s):
        """Named loss terms of one batch; ``images`` (N, C, H, W), ``labels`` (N,), ``logits_s`` (N, classes)."""
        with torch.inference_mode():
            logits_t = self.teacher(images)
        weights = {"hard_weight": self.hard_weight, "soft_weight": self.soft_weight}
        return self.loss(logits_s, logits_t.clone(), labels, self.policy.draw(), **weights)


@torch.inference_mode()
def evaluate(model, split, dataset, batch_size=512):
    """``{"accuracy", "loss"}``: fraction right and mean cross-entropy of ``model`` on one split, without augmentation.

    The model's training mode is restored afterwards.
    """
    was_training = model.training
    model.eval()
    correct = loss = 0.0
    for images, labels in data.batches(split, batch_size):
        logits = model(data.normalise(images, dataset.mean, dataset.std)).float()
        correct = correct + (logits.argmax(1) == labels).sum()
        loss = loss + F.cross_entropy(logits, labels, reduction="sum")
    model.train(was_training)
    return {"accuracy": float(correct) / len(split), "loss": float(loss) / len(split)}


@dataclass
class Fit:
    """A training in progress: everything that a checkpoint has to hold besides model and optimiser.

    ``history`` has one dict of numbers per epoch, ``timings`` the clock times that belong to it, ``chosen`` the epoch
    that validation prefers with its weights (highest accuracy, then lowest loss).
    """

    history: list = field(default_factory=list)
    timings: list = field(default_factory=list)
    chosen_epoch: int = 0
    chosen_weights: dict = field(default_factory=dict)
    resumed: int = 0

    def choose(self, row, model):
        """Remember ``model`` if this epoch's validation beats every earlier one."""
        best = self.history[self.chosen_epoch - 1] if self.chosen_epoch else None
        rank = (row["val_accuracy"], -row["val_loss"])
        if best is None or rank > (best["val_accuracy"], -best["val_loss"]):
            self.chosen_epoch = row["epoch"]
            self.chosen_weights = {key: value.detach().clone() for key, value in model.state_dict().items()}


class Trainer:
    """Trains one model and can be stopped and continued at any moment.

    ``objective`` gives the named loss terms (`Supervised`, `Distillation`); ``meter`` (a `carbon.Meter`) receives the
    blocks "train" and "evaluate"; ``path`` is the checkpoint's file, written after an epoch when ``save_seconds``
    have passed since the last one. On one machine's CPU a run that was killed and continued has the same history, to
    the last digit, as one that was not.
    """

    def __init__(self, model, dataset, protocol, objective, *, seed, augmentation, meter, path=None, save_seconds=10.0):
        self.model, self.dataset, self.protocol, self.objective = model, dataset, protocol, objective
        self.augmentation, self.meter, self.path, self.save_seconds = augmentation, meter, path, save_seconds
        self.seed = seed
        self.optimiser = protocol.optimiser(model)
        self.generators = {"order": generator(seed, "order"), "augment": generator(seed, "augment")}
        self.fit_state = Fit()

    def fit(self, on_epoch=None, say=print):
        """Train to the last epoch and return the `Fit`; ``on_epoch(row)`` is called after each. Raises Diverged."""
        device = self.dataset.train.images.device
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(stream_seed(self.seed, "dropout"))
            self._restore(say)
            saved = time.monotonic()
            for epoch in range(len(self.fit_state.history) + 1, self.protocol.epochs + 1):
                row = self._epoch(epoch)
                if self.path and time.monotonic() - saved >= self.save_seconds:
                    checkpoint.save(self._state(), self.path)
                    saved = time.monotonic()
                if on_epoch:
                    on_epoch(row)
        return self.fit_state

    def _epoch(self, epoch):
        started = time.perf_counter()
        with self.meter.block("train"):
            row = {"epoch": epoch, **self._train_epoch(epoch)}
        trained = time.perf_counter()
        with self.meter.block("evaluate"):
            validation = evaluate(self.model, self.dataset.val, self.dataset)
        row |= {"val_accuracy": validation["accuracy"], "val_loss": validation["loss"]}
        self.fit_state.choose(row, self.model)
        self.fit_state.history.append(row)
        seconds = {"train_seconds": trained - started, "evaluate_seconds": time.perf_counter() - trained}
        self.fit_state.timings.append({"epoch": epoch, **seconds})
        return row

    def _train_epoch(self, epoch):
        split, protocol = self.dataset.train, self.protocol
        count = math.ceil(len(split) / protocol.batch_size)
        sums, correct, seen = {}, 0, 0
        self.model.train()
        for number, (images, labels) in enumerate(data.batches(split, protocol.batch_size, self.generators["order"])):
            lr = self._set_lr(epoch, number, count)
            views = data.augment(
                images, self.augmentation, self.dataset.mean, self.dataset.std, self.generators["augment"]
            )
            logits = self.model(views)
            terms = self.objective.terms(views, labels, logits)
            self.optimiser.zero_grad(set_to_none=True)
            losses.total(terms).backward()
            self.optimiser.step()
            # summed on the device: reading a number here would make a GPU wait for every step
            for name, value in terms.items():
                sums[name] = sums.get(name, 0) + value.detach() * len(labels)
            correct = correct + (logits.detach().argmax(1) == labels).sum()
            seen += len(labels)
        means = {f"loss_{name}": float(value) / seen for name, value in sums.items()}
        self._check_finite(means, epoch, lr)
        return {"lr": lr, **means, "train_accuracy": float(correct) / seen}

    def _set_lr(self, epoch, number, count):
        lr = self.protocol.lr_at(epoch, number, count)
        for group in self.optimiser.param_groups:
            group["lr"] = lr
        return lr

    def _check_finite(self, means, epoch, lr):
        broken = [name for name, value in means.items() if not math.isfinite(value)]
        if broken:
            saved = "the last checkpoint is untouched" if self.path else "nothing was saved"
            raise Diverged(
                f"Training stopped in epoch {epoch} at learning rate {lr:g}: NaN or Inf in {', '.join(broken)} "
                f"({saved}); lower lr or soft_weight and start again."
            )

    def _state(self):
        fit, policy, device = self.fit_state, self.objective.policy, self.dataset.train.images.device
        return {
            "model": self.model.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "generators": {name: g.get_state() for name, g in self.generators.items()},
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
            "policy": policy.state_dict() if policy else None,
            "meter": self.meter.state_dict(),
            "fit": dict(vars(fit)),
        }

    def _restore(self, say):
        state, note = checkpoint.load(self.path) if self.path else (None, "")
        if note:
            say(note)
        if state is None:
            return
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        for name, saved in state["generators"].items():
            self.generators[name].set_state(saved)
        torch.set_rng_state(state["torch"])
        if state["cuda"] is not None and torch.cuda.is_available():
            torch.cuda.set_rng_state(state["cuda"], self.dataset.train.images.device)
        if state["policy"]:
            self.objective.policy.load_state_dict(state["policy"])
        self.meter.load_state_dict(state["meter"])
        self.fit_state = Fit(**state["fit"])
        self.fit_state.resumed += 1
