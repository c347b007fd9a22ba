"""Where the time of one distillation step goes: the step in parts, each of which can be left as it was before."""

import statistics
import time

import pandas as pd
import torch

from . import data, engine, losses, models

PARTS = ("augmentation", "teacher", "student forward", "loss", "backward", "optimiser")


class Step:
    """One step of knowledge distillation on random images; calling it takes the step, ``parts`` are its pieces.

    Parameters
    ----------
    student, teacher : names of `stkd_utils.models`.
    classes, size, batch, channels, width : shape of the task (``size`` in pixels) and the width of both networks.
    device : where it runs.
    precision, teacher_precision : as in `engine.resolve`; None leaves float32 without autocast, and the teacher
        unfolded and in the graph, as plain PyTorch does.
    channels_last, fused : memory format of the student, and one kernel per optimiser step.

    ``parts`` is a dict by the names in `PARTS`, to be called in that order. Introduced in notebook 09.
    """

    def __init__(
        self, student="mobilenetv2", teacher="resnet18", *, classes=100, size=32, batch=128, channels=3, width=1.0,
        device="cpu", precision="auto", teacher_precision="auto", channels_last=True, fused=True,
    ):  # fmt: skip
        draw = torch.Generator().manual_seed(0)
        self.batch, self.device, self.precision = batch, torch.device(device), precision
        self.images = torch.randint(0, 256, (batch, channels, size, size), generator=draw, dtype=torch.uint8).to(device)
        self.labels = torch.randint(0, classes, (batch,), generator=draw).to(device)
        self.moves, self.augmentation = draw, data.Augmentation(4, True, 15.0)
        self.mean = self.std = torch.full((channels,), 0.5, device=device)
        shape = {"channels": channels, "width": width}
        layout = torch.channels_last if channels_last else torch.contiguous_format
        self.student = models.build(student, classes, seed=0, **shape).to(device, memory_format=layout)
        self.teacher = models.build(teacher, classes, seed=1, **shape).to(device).eval()
        if teacher_precision:
            self.teacher = engine.frozen(self.teacher, teacher_precision, device)
        self.optimiser = torch.optim.SGD(self.student.parameters(), 0.01, momentum=0.9, weight_decay=5e-4, fused=fused)
        pieces = (self._augment, self._ask, self._answer, self._compare, self._backward, self._update)
        self.parts = dict(zip(PARTS, pieces, strict=True))

    def __call__(self):
        for part in self.parts.values():
            part()

    def wait(self):
        """Return when the device has done all that was asked of it."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _augment(self):
        self.views = data.augment(self.images, self.augmentation, self.mean, self.std, self.moves)

    def _ask(self):
        self.logits_t = self.teacher(self.views)

    def _answer(self):
        if self.precision is None:
            self.logits_s = self.student(self.views)
        else:
            with engine.autocast(self.device, self.precision):
                self.logits_s = self.student(self.views).float()

    def _compare(self):
        terms = losses.hinton(self.logits_s, self.logits_t, self.labels, 4.0, hard_weight=0.05, soft_weight=0.95)
        self.loss = losses.total(terms)

    def _backward(self):
        self.optimiser.zero_grad(set_to_none=True)
        self.loss.backward()

    def _update(self):
        self.optimiser.step()


def breakdown(step, rounds=5):
    """Seconds of every part of a `Step`: a DataFrame with ``part``, ``seconds`` (median of ``rounds``) and ``share``.

    ``attrs["whole"]`` is the median of whole steps in seconds, timed in between the others; on a GPU, waiting after
    each part makes the parts take longer than the whole. Introduced in notebook 09.
    """
    step()
    seconds, whole = {name: [] for name in step.parts}, []
    for _ in range(rounds):
        whole.append(_seconds(step, step))
        for name, part in step.parts.items():
            seconds[name].append(_seconds(part, step))
    table = pd.DataFrame({"part": list(seconds), "seconds": [statistics.median(taken) for taken in seconds.values()]})
    table["share"] = table["seconds"] / table["seconds"].sum()
    table.attrs["whole"] = statistics.median(whole)
    return table


def _seconds(call, step):
    step.wait()
    started = time.perf_counter()
    call()
    step.wait()
    return time.perf_counter() - started


def matmul_peak(precision, device="cpu", size=None, rounds=7):
    """Floating-point operations per second of a square matrix product: the limit that ``device`` reaches in practice.

    ``precision`` is "float32" or "bfloat16", ``size`` the rows of the matrices (4096; 16384 on a GPU), the result the
    best of ``rounds``: 2 size^3 / seconds. Introduced in notebook 09.
    """
    size = size or (16384 if torch.device(device).type == "cuda" else 4096)
    left, right = torch.randn(2, size, size, device=device, dtype=getattr(torch, precision))
    out = left @ right
    best = float("inf")
    for _ in range(rounds):
        out.sum().item()  # waits for the device
        started = time.perf_counter()
        torch.mm(left, right, out=out)
        if out.is_cuda:
            torch.cuda.synchronize(out.device)
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best
