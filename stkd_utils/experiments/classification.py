"""What an experiment on classification asks for, and what its runs are made of."""

import os
from functools import lru_cache

from .. import data, losses, models
from ..training import evaluate
from .methods import Method
from .valid import ExperimentError, count, number, one_of, switch

datasets = data.names
KEYS = {
    "model": (one_of(models.names), "a model"),
    "crop_padding": (count, "a whole number of pixels"),
    "flip": (switch, "true or false"),
    "rotation_degrees": (number, "degrees, 0 or more"),
}
TAUGHT = {"stored_teacher": (switch, "true or false")}
DEFAULTS = {"stored_teacher": False}
WEIGHTS = ("hard_weight", "soft_weight")
METHODS = {
    "base": Method(losses.cross_entropy),
    "kd": Method(losses.hinton, teacher=True, temperature=True, keys=WEIGHTS),
    "kd-element-mean": Method(losses.hinton_element_mean, teacher=True, temperature=True, keys=WEIGHTS),
}
# what decides which images there are, and how they are shown
DATA = ()
VIEWS = ("crop_padding", "flip", "rotation_degrees")


def dataset(asked, device):
    """The `data.Dataset` on ``device`` that an experiment ``asked`` for; made once per process."""
    limits = {key: asked[key] for key in ("val_fraction", "train_limit", "val_limit", "test_limit")}
    return _dataset(asked["dataset"], os.environ.get("STKD_DATA"), device, **limits)


@lru_cache(maxsize=2)
def _dataset(name, root, device, **limits):
    try:
        return data.load(name, root=root, device=device, **limits)
    except ValueError as error:
        raise ExperimentError(str(error)) from error


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
    """What the test split says of the trained network, a dict of names and numbers."""
    return evaluate(trainer.model, trainer.dataset.test, trainer.dataset, precision=trainer.precision)
