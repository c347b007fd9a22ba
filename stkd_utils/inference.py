"""What a trained network costs to use: time, energy and size of its answers, and whether two networks answer alike."""

import io
import time
from dataclasses import dataclass

import numpy as np
import torch

from . import clock, stats
from .carbon import JOULES_PER_KWH


@dataclass(frozen=True)
class Timing:
    """Times of one network: ``seconds`` of each timed pass over a batch of ``batch_size`` images, in order."""

    seconds: tuple
    batch_size: int

    @property
    def median(self):
        """Median seconds of a pass, the whole batch."""
        return float(np.median(self.seconds))

    @property
    def quartiles(self):
        """Lower and upper quartile of the seconds of a pass."""
        low, high = np.quantile(self.seconds, (0.25, 0.75))
        return float(low), float(high)

    @property
    def per_image(self):
        """Median seconds for one image: `median` / ``batch_size``."""
        return self.median / self.batch_size


@dataclass(frozen=True)
class Energy:
    """Energy of answering: ``joules`` an image (None when not seen), ``how`` it is known, ``images`` answered."""

    joules: float | None
    how: str
    images: int


@dataclass(frozen=True)
class Size:
    """``weight_bytes`` of a network's parameters and buffers in memory, ``file_bytes`` as `torch.save` writes them."""

    weight_bytes: int
    file_bytes: int


@dataclass(frozen=True)
class Agreement:
    """How alike two networks answer: ``largest`` absolute difference of a logit, the share ``equal`` of images with the
    same predicted class, and their number ``images``."""

    largest: float
    equal: float
    images: int


def timings(models, images, *, rounds=7, warmup=2):
    """Times of several networks on the same images: {name: `Timing`}.

    ``models`` is a dict of callables that take ``images`` (N, C, H, W), N the batch, on their device. Each is called
    ``warmup`` times untimed; then every round calls each once, in turn, so that a change of the machine's load meets
    all of them. Medians and quartiles are over ``rounds``. Raises ValueError for less than one round.
    Introduced in notebook 08.
    """
    if rounds < 1:
        raise ValueError(f"Times are taken in at least 1 round; got rounds={rounds!r}.")
    seconds = {name: [] for name in models}
    with torch.inference_mode():
        for number in range(warmup + rounds):
            for name, model in models.items():
                taken = clock.seconds(lambda model=model: model(images), images.device)
                if number >= warmup:
                    seconds[name].append(taken)
    return {name: Timing(tuple(taken), len(images)) for name, taken in seconds.items()}


def saved(slow, fast):
    """Seconds for an image that the `Timing` ``fast`` takes less than ``slow``: a `stats.Interval` over their rounds.

    Paired by round, in which both were called in turn; below zero where it takes more. Raises ValueError for other
    batches or numbers of rounds. Introduced in notebook 08.
    """
    if slow.batch_size != fast.batch_size:
        raise ValueError(f"Batches of {slow.batch_size} and of {fast.batch_size} images cannot be compared.")
    return stats.paired(np.divide(slow.seconds, slow.batch_size), np.divide(fast.seconds, fast.batch_size))


def energy(model, images, meter, *, seconds=1.0, warmup=1, name="answers"):
    """Energy of ``model`` answering ``images`` (N, C, H, W) again and again, as `Energy`.

    At least one pass is made, and passes until ``seconds`` are over, in the block ``name`` of ``meter`` (a
    `carbon.Meter`, where no other work has that name); ``warmup`` passes before them are not metered. Introduced in
    notebook 08.
    """
    passes = 0
    with torch.inference_mode():
        for _ in range(warmup):
            model(images)
        meter.start(name)
        end = time.perf_counter() + seconds
        while passes == 0 or time.perf_counter() < end:
            model(images)
            clock.wait(images.device)
            passes += 1
        meter.stop(name)
    cost, answered = meter.cost(name), passes * len(images)
    joules = None if cost.energy_kwh is None else cost.energy_kwh * JOULES_PER_KWH / answered
    return Energy(joules, cost.how, answered)


def size(model):
    """What ``model`` takes to keep and to send, as `Size`. Introduced in notebook 08."""
    state = model.state_dict()
    file = io.BytesIO()
    torch.save(state, file)
    weights = sum(tensor.numel() * tensor.element_size() for tensor in state.values())
    return Size(weights, file.getbuffer().nbytes)


def logits(model, images, batch_size=128):
    """Logits (N, classes) in float32 of ``model`` for ``images`` (N, C, H, W), taken ``batch_size`` at a time.

    A module that trains is asked in evaluation mode and trains again afterwards. Introduced in notebook 08.
    """
    training = getattr(model, "training", False) and _has_modes(model)
    if training:
        model.eval()
    try:
        with torch.inference_mode():
            return torch.cat([model(part).float() for part in images.split(batch_size)])
    finally:
        if training:
            model.train()


def _has_modes(model):
    """Whether ``model`` can be switched: what `torch.export` made is as it was exported, and refuses."""
    return not isinstance(model, torch.fx.GraphModule)


def agreement(one, other, images, batch_size=128):
    """How alike the networks ``one`` and ``other`` answer ``images`` (N, C, H, W, normalised), as `Agreement`.

    Raises ValueError when their logits differ in shape. Introduced in notebook 08.
    """
    first, second = (logits(model, images, batch_size) for model in (one, other))
    if first.shape != second.shape:
        raise ValueError(f"Networks of {first.shape[1]} and of {second.shape[1]} classes cannot be compared.")
    equal = (first.argmax(1) == second.argmax(1)).double().mean()
    return Agreement(float((first - second).abs().max()), float(equal), len(images))


def break_even(paid, dear, cheap):
    """Number of images after which ``paid`` has come back, if each costs ``dear`` before and ``cheap`` afterwards.

    paid / (dear - cheap), all three in one unit; infinite where the new way is not cheaper. Where energy is modelled as
    power x time on one machine, the power cancels. Raises ValueError for a cost below 0. Introduced in notebook 08.
    """
    if min(paid, dear, cheap) < 0:
        raise ValueError(f"Costs are 0 or more; got {paid!r}, {dear!r} and {cheap!r}.")
    return paid / (dear - cheap) if dear > cheap else float("inf")
