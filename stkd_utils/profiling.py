"""Where the time of one distillation step goes: the step in parts, and the step as the training loop takes it."""

import itertools
import statistics
from functools import partial

import pandas as pd
import torch

from . import answering, clock, data, engine, losses, models, quantise, temperature
from .carbon import Meter
from .models import layers
from .objectives import Distillation, Teacher
from .protocol import Protocol
from .training import Trainer, advance

PARTS = ("augmentation", "teacher", "student forward", "loss", "backward", "optimiser")
BATCHES = 16  # of random images
AUGMENTATION = data.Augmentation(4, True, 15.0)  # the paper's


class Step:
    """One step of knowledge distillation on random images; calling it takes the step, ``parts`` are its pieces.

    Parameters
    ----------
    student, teacher : names of `stkd_utils.models`.
    classes, size, batch, channels, width : shape of the task (``size`` in pixels) and the width of both networks.
    device : where it runs.
    precision, teacher_precision : as in `engine.resolve` and `answering.frozen`; None leaves float32 without autocast
        and the student in PyTorch's own layers, and the teacher unfolded and in the graph, as plain PyTorch does.
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
        self.moves, self.augmentation = draw, AUGMENTATION
        self.mean = self.std = torch.full((channels,), 0.5, device=device)
        shape = {"channels": channels, "width": width}
        layout = torch.channels_last if channels_last else torch.contiguous_format
        self.student = models.build(student, classes, seed=0, **shape).to(device, memory_format=layout)
        if precision is None:
            layers.plain(self.student)
        self.teacher = models.build(teacher, classes, seed=1, **shape).to(device).eval()
        if teacher_precision:
            images = _random(classes, size, 2, device, channels)  # enough to find ranges for a clock
            self.teacher = answering.frozen(self.teacher, teacher_precision, device, images)
        self.optimiser = torch.optim.SGD(self.student.parameters(), 0.01, momentum=0.9, weight_decay=5e-4, fused=fused)
        pieces = (self._augment, self._ask, self._answer, self._compare, self._backward, self._update)
        self.parts = dict(zip(PARTS, pieces, strict=True))

    def __call__(self):
        for part in self.parts.values():
            part()

    def wait(self):
        """Return when the device has done all that was asked of it."""
        clock.wait(self.device)

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


class Pass:
    """One batch of the training loop, as `training.train` takes it, on random images; calling it takes the batch.

    There is one data pipeline, one teacher, and ``students`` that learn side by side. Unlike a `Step` it is not in
    parts, and on a GPU its kernels are recorded: let it `warm_up` before it is timed.

    Parameters
    ----------
    student : a name of `stkd_utils.models`; the teacher is a ResNet-18.
    classes, size, batch, width : shape of the task (``size`` in pixels) and the width of all networks.
    device, precision : where and how it computes; ``precision`` as in `engine.resolve`, and `answering.frozen` for the
        teacher, which ``teacher_precision`` sets apart.
    dataset : a `data.Dataset` to learn from; None for random images.
    augmentation : how its views are made, a `data.Augmentation`.

    ``trainers`` are its `Trainer` objects, ``batch`` the number of its images. Introduced in notebook 09.
    """

    def __init__(
        self, student="mobilenetv2", *, students=1, classes=100, size=32, batch=128, width=1.0, device="cpu",
        precision="auto", teacher_precision=None, dataset=None, augmentation=AUGMENTATION,
    ):  # fmt: skip
        self.dataset, self.device, self.batch = dataset or _random(classes, size, batch, device), device, batch
        self.batches = self._batches()
        network = models.build("resnet18", self.dataset.classes, width=width, seed=1)
        shown = dataset or _random(classes, size, 2, device)  # enough to find ranges for a clock
        teacher = Teacher(answering.frozen(network, teacher_precision or precision, device, shown))
        self.augmentation = augmentation
        self.trainers = [self._trainer(student, seed, teacher, width, precision) for seed in range(students)]
        self.lanes = engine.Lanes(students, device)
        for trainer in self.trainers:
            trainer.start_epoch()

    def __call__(self):
        self._step(next(self.batches))

    def wait(self):
        """Return when the device has done all that was asked of it."""
        clock.wait(self.device)

    def warm_up(self):
        """Take so many batches that the next one is like all later ones."""
        for _ in range(warm_up(self.device)):
            self()

    def _trainer(self, student, seed, teacher, width, precision):
        model = models.build(student, self.dataset.classes, width=width, seed=seed)
        model = model.to(self.device, memory_format=torch.channels_last)
        policy = temperature.build("fixed", seed=seed, tau=4.0)
        objective = Distillation(teacher, policy, hard_weight=0.05, soft_weight=0.95)
        return Trainer(
            model, self.dataset, Protocol(), objective, seed=seed, augmentation=self.augmentation, meter=Meter(),
            precision=precision,
        )  # fmt: skip

    def _batches(self):
        generators = {stream: torch.Generator().manual_seed(0) for stream in ("order", "augment")}
        for number in itertools.count(1):
            yield from self.dataset.epoch(self.batch, self.augmentation, generators, number)

    def _step(self, batch):
        advance(self.trainers, batch, [0.01] * len(self.trainers), self.lanes)


def _random(classes, size, batch, device, channels=3):
    """A data set of random images: `BATCHES` batches to train with, and the first of them to judge by."""
    draw = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (BATCHES * batch, channels, size, size), generator=draw, dtype=torch.uint8)
    train = data.Split(images, torch.randint(0, classes, (len(images),), generator=draw)).to(device)
    first, half = train.take(slice(batch)), torch.full((channels,), 0.5, device=device)
    return data.Dataset("random", train, first, first, half, half, tuple(map(str, range(classes))), "")


def warm_up(device):
    """How many calls go before what is timed on ``device``: on a GPU, until its kernels are recorded."""
    return engine.WARM_UP + 2 if torch.device(device).type == "cuda" else 1


def breakdown(step, rounds=5, whole=None):
    """Seconds of every part of a `Step`: a DataFrame with ``part``, ``seconds`` (median of ``rounds``) and ``share``.

    ``attrs["whole"]`` is the median of whole steps in seconds, timed in between the others: of ``step``, or of the
    `Pass` ``whole``. On a GPU, waiting after each part makes the parts take longer than the whole. Introduced in
    notebook 09.
    """
    step()
    whole = whole or step
    if whole is not step:
        whole.warm_up()
    seconds, taken = {name: [] for name in step.parts}, []
    for _ in range(rounds):
        taken.append(clock.seconds(whole, step.device))
        for name, part in step.parts.items():
            seconds[name].append(clock.seconds(part, step.device))
    table = pd.DataFrame({"part": list(seconds), "seconds": [statistics.median(times) for times in seconds.values()]})
    table["share"] = table["seconds"] / table["seconds"].sum()
    table.attrs["whole"] = statistics.median(taken)
    return table


def matmul_peak(precision, device="cpu", size=None, rounds=7):
    """Operations per second of a square matrix product: the limit that ``device`` reaches in practice.

    ``precision`` is "float32", "bfloat16" or, on a CPU, "int8" (a linear layer as `quantise.assembled` makes it, from
    float32 numbers to float32 numbers); ``size`` the rows of the matrices (4096; 16384 on a GPU), the result the best
    of ``rounds``: 2 size^3 / seconds. Raises `quantise.QuantiseError` where there is no int8. Introduced in notebook
    09.
    """
    size = size or (16384 if torch.device(device).type == "cuda" else 4096)
    if precision == "int8":
        if torch.device(device).type != "cpu":
            raise quantise.QuantiseError("The peak of int8 is known for processors alone; ask for another precision.")
        layer, rows = torch.nn.Linear(size, size).eval(), torch.randn(size, size)
        product = quantise.assembled(quantise.static(layer, [rows]), rows)
        return 2 * size**3 / min(clock.seconds(partial(product, rows), device) for _ in range(rounds))
    left, right = torch.randn(2, size, size, device=device, dtype=getattr(torch, precision))
    out = left @ right
    best = min(clock.seconds(lambda: torch.mm(left, right, out=out), device) for _ in range(rounds))
    return 2 * size**3 / best
