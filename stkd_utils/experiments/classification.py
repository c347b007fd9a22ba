"""What an experiment on classification asks for, and what its runs are made of."""

import os
from functools import lru_cache, partial

import torch

from .. import (
    answering,
    compute,
    contrastive,
    data,
    engine,
    losses,
    metrics,
    models,
    mutual,
    rectification,
    teacher_free,
)  # fmt: skip
from ..training import Diverged, evaluate
from .methods import Method
from .valid import ExperimentError, count, number, one_of, or_none, share, switch, text

datasets = data.names
KEYS = {
    "model": (one_of(models.names, models.known), "a model"),
    "crop_padding": (count, "a whole number of pixels"),
    "flip": (switch, "true or false"),
    "rotation_degrees": (lambda v: number(v) and v <= 180, "degrees, from 0 to 180"),
    "train_fraction": (share, "a share of the training images, above 0 and at most 1, or null for all"),
}
# data set: the keys that it alone reads, which also decide which images there are
DATASET_KEYS = {
    "folder": {
        "folder": (text, "a folder with train/<class>/ and test/<class>/, absolute or in the data folder"),
        "image_size": (lambda v: count(v) and v >= 8, "a side in pixels, 8 or more"),
    }
}
TAUGHT = {
    "stored_teacher": (switch, "true or false"),
    "teacher_precision": (
        or_none(one_of(lambda: answering.PRECISIONS)),
        "null, for what 'precision' says, or what the teacher answers in",
    ),
}
DEFAULTS = {"stored_teacher": False}
WEIGHTS = ("hard_weight", "soft_weight")
REG = ("hard_weight", "reg_weight", "correct_prob")
CONTRAST = ("hard_weight", "crd_weight", "crd_negatives")


def _mutual(method, parts):
    asked, dataset = parts.asked, parts.dataset
    size = {"channels": dataset.channels, "width": asked["width"], "depth": asked["depth"]}
    names = asked["peer"] if isinstance(asked["peer"], list) else [asked["peer"]]
    options = {"seed": parts.seed, "device": dataset.device, **size}
    peers = [mutual.peer(name, dataset.classes, number=number, **options) for number, name in enumerate(names, 1)]
    macs = sum(compute.count(peer, (dataset.channels, dataset.size, dataset.size)).macs for peer in peers)
    precision = engine.resolve(asked["precision"], dataset.device)
    return mutual.Mutual(peers, parts.policy, *(asked[key] for key in WEIGHTS), precision=precision, macs=macs)


def _contrast(method, parts):
    own = {key: parts.asked[key] for key in CONTRAST}
    return contrastive.Contrast(
        parts.model, parts.teacher, parts.dataset.train.labels, parts.policy, seed=parts.seed, **own
    )


_softened = partial(Method, teacher=True, temperature=True, keys=WEIGHTS)
METHODS = {
    "base": Method(losses.cross_entropy),
    "label-smoothing": Method(teacher_free.label_smoothing, keys=("smoothing",)),
    "tfkd-reg": Method(teacher_free.tfkd_reg, temperature=True, keys=REG),
    "tfkd-reg-as-coded": Method(teacher_free.tfkd_reg_as_coded, temperature=True, keys=(*REG, "reg_multiplier")),
    "double": Method(losses.cross_entropy, further=("start",), alike="start"),
    "kd": _softened(losses.hinton),
    "kd-element-mean": _softened(losses.hinton_element_mean),
    "kd-standardised": _softened(losses.hinton_standardised),
    "kd-rectified-teacher": _softened(rectification.rectified_teacher),
    "kd-rectified-student": _softened(rectification.rectified_student),
    "mse": Method(losses.mse, teacher=True, keys=WEIGHTS),
    "tfkd-self": _softened(losses.hinton, alike="teacher"),
    "tfkd-combined": _softened(teacher_free.tfkd_combined, keys=(*WEIGHTS, *REG[1:]), alike="teacher"),
    "dml": Method(make=_mutual, temperature=True, further=("peer", *WEIGHTS)),
    "crd": Method(make=_contrast, teacher=True, temperature=True, further=CONTRAST, features=True),
}
# what decides which images there are, and how they are shown
DATA = ("train_fraction",)
VIEWS = ("crop_padding", "flip", "rotation_degrees")


def dataset(asked, device):
    """The `data.Dataset` on ``device`` that an experiment ``asked`` for; the known ones are made once per process."""
    own = DATASET_KEYS.get(asked["dataset"], ())
    options = {key: asked.get(key) for key in ("val_fraction", "train_limit", "val_limit", "test_limit", *DATA, *own)}
    made = _dataset.__wrapped__ if own else _dataset  # somebody's own images may change between two runs
    return made(asked["dataset"], os.environ.get("STKD_DATA"), device, **options)


@lru_cache(maxsize=2)
def _dataset(name, root, device, **options):
    try:
        found = data.load(name, root=root, device=device, **options)
    except data.DataError:
        raise
    except ValueError as error:
        raise ExperimentError(str(error)) from error
    if not len(found.val):
        raise ExperimentError(f"The validation split of {name} has no image; raise val_fraction.")
    if len(found.train) < 2:
        raise ExperimentError(f"The train split of {name} has fewer than 2 images; lower val_fraction.")
    return found


def network(asked, *, classes, channels, seed=None):
    """The network that is trained, as `models.build` makes it."""
    size = {"width": asked["width"], "depth": asked["depth"]}
    return models.build(asked["model"], classes, channels=channels, seed=seed, **size)


def initialise(model, asked, say):
    """Nothing: the weights stay those of `network`."""
    return "scratch"


def augmentation(asked):
    """The `data.Augmentation` of the training images."""
    return data.Augmentation(*(asked[key] for key in VIEWS))


def tested(trainer, folder, epoch):
    """What the test split says of the trained network, a dict of names and numbers, by one pass over it.

    They are those of `metrics.scores`; ``folder`` receives per_class_<epoch>.csv. Raises Diverged for answers that are
    no numbers.
    """
    dataset, answers = trainer.dataset, []
    found = evaluate(trainer.model, dataset.test, dataset, precision=trainer.precision, answers=answers)
    try:
        scores = metrics.scores(torch.cat(answers), dataset.test.labels)
    except ValueError as error:
        raise Diverged(f"{trainer.name}, {epoch} epoch: {error}") from error
    table = metrics.per_class(torch.cat(answers), dataset.test.labels, dataset.class_names)
    # where the last epoch is also the chosen one, nobody asks again
    for name in ("last", "chosen") if epoch == "last" else (epoch,):
        table.to_csv(folder / f"per_class_{name}.csv", index=False)
    return {**scores, **found}
