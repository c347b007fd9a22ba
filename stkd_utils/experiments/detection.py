"""What an experiment on detection asks for, and what its runs are made of."""

import os
from functools import lru_cache

from .. import detection
from ..data import DataError
from . import valid
from .methods import Method
from .valid import ExperimentError


def _fits(size):
    try:
        return valid.count(size) and bool(detection.models.maps(size))
    except ValueError:
        return False


datasets = detection.data.names
evaluate = detection.evaluate
KEYS = {
    "model": (valid.one_of(detection.models.names), "a detector"),
    "size": (_fits, "the side of an image in pixels, 300 or a multiple of 16 above 16"),
    "match_iou": (valid.fraction, "an overlap between 0 and 1"),
    "augment": (valid.one_of(lambda: detection.AUGMENTS), "an augmentation"),
    "train_sets": (valid.texts, 'lists of VOC layout, such as ["2007 trainval", "2012 trainval"]'),
    "test_sets": (valid.texts, 'lists of VOC layout, such as ["2007 test"]'),
    "imagenet": (valid.switch, "true (where the weights are at hand) or false"),
}
TAUGHT = {}
DATASET_KEYS = {}
DEFAULTS = {"match_iou": 0.5}
WEIGHTS = ("hard_weight", "soft_weight", "background_weight", "bound_weight", "hint_weight")
# what decides which images there are, and how they are shown
DATA = ("train_sets", "test_sets", "size")
VIEWS = ("augment",)


def dataset(asked, device):
    """The `detection.Dataset` on ``device`` that an experiment ``asked`` for; made once per process."""
    limits = {key: asked[key] for key in ("val_fraction", "train_limit", "val_limit", "test_limit", "size")}
    sets = {key: tuple(asked[key]) for key in ("train_sets", "test_sets")}
    return _dataset(asked["dataset"], os.environ.get("STKD_DATA"), device, **limits, **sets)


@lru_cache(maxsize=2)
def _dataset(name, root, device, **options):
    try:
        found = detection.load(name, root=root, device=device, **options)
    except DataError:
        raise
    except ValueError as error:
        raise ExperimentError(str(error)) from error
    if len(found.train) < 2:
        raise ExperimentError(f"The train split of {name} has fewer than 2 images; lower val_fraction.")
    for part, split in (("val", found.val), ("test", found.test)):
        if all(difficult.all() for difficult in split.difficult):
            raise ExperimentError(f"The {part} split of {name} has no object to find; raise {part}_limit.")
    return found


def network(asked, *, classes, channels, seed=None):
    """The detector that is trained, as `detection.models.build` makes it; ``channels`` are always 3."""
    size = {"size": asked["size"], "width": asked["width"], "depth": asked["depth"]}
    return detection.models.build(asked["model"], classes, seed=seed, **size)


def initialise(model, asked, say):
    """Give ``model`` ImageNet weights where they are asked for and at hand: "imagenet" or "scratch"."""
    if not asked["imagenet"]:
        return "scratch"
    told = detection.models.load_backbone(model)
    say(f"{asked['model']}: {told}")
    return "imagenet" if told.startswith("ImageNet") else "scratch"


def augmentation(asked):
    """How the training images are shown: a name."""
    return asked["augment"]


def _supervised(method, parts):
    return detection.Supervised(parts.model.priors, parts.asked["match_iou"])


def _distilled(method, parts):
    weights, match_iou = method.settings(parts.asked), parts.asked["match_iou"]
    return detection.Distillation(parts.model.priors, parts.teacher, parts.policy, weights, match_iou)


METHODS = {
    "base": Method(make=_supervised),
    "kd": Method(make=_distilled, teacher=True, temperature=True, keys=WEIGHTS),
}


def tested(trainer, folder, epoch):
    """What the test split says of the trained detector: names and numbers; writes its detections and pictures."""
    return detection.report(trainer.model, trainer.dataset, trainer.precision, folder / epoch)
