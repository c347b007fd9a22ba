"""Models by name."""

import re

import torch
from torch import nn

from stkd_utils.seeding import stream_seed

_MODELS = {}
_FAMILIES = {}


def register(name):
    """Class decorator that makes a model known to `build` under ``name``.

    The class is called as ``Model(classes, channels, width, depth)``. Raises ValueError when the name is taken.
    """

    def add(model):
        if _MODELS.setdefault(name, model) is not model:
            raise ValueError(f"A model named {name!r} exists already; choose another name.")
        return model

    return add


def register_family(pattern, *examples):
    """Decorator for what makes the models whose names match ``pattern`` whole; `names` lists the ``examples``.

    It is called with the numbers that the groups of ``pattern`` find and returns what `register` takes, or raises
    ValueError when there is no such network.
    """

    def add(member):
        _FAMILIES[pattern] = member
        for name in examples:
            register(name)(_find(name))
        return member

    return add


def names():
    """The registered model names, sorted. `build` also knows each wrn<depth>x<width>."""
    return sorted(_MODELS)


def known(name):
    """Whether `build` has a network called ``name``, which may be a value of any type."""
    try:
        return isinstance(name, str) and _find(name) is not None
    except ValueError:
        return False


def _find(name):
    if name in _MODELS:
        return _MODELS[name]
    for pattern, member in _FAMILIES.items():
        if match := re.fullmatch(pattern, name):
            return member(*map(int, match.groups()))
    raise ValueError(f"Unknown model {name!r}; choose one of: {', '.join(names())}, or any wrn<depth>x<width>.")


def build(name, classes, *, channels=3, width=1.0, depth=1.0, seed=None):
    """A freshly initialised network that turns images into logits: (batch, channels, H, W) -> (batch, classes).

    Parameters
    ----------
    name : str
        One of `names`, such as "resnet18", or any "wrn<depth>x<width>" with a depth of 6 n + 4.
    classes, channels : int
        Number of logits and of image channels (3 for colour, 1 for grey).
    width : float
        Factor on every hidden channel count; 1 is the published network, 0.25 suits 8x8 digits on a CPU.
    depth : float
        Factor on the number of blocks of every stage, which keeps at least one; 1 is the published network.
    seed : int, optional
        Seed of the run. Equal seeds give equal weights on every machine, and the global random state stays untouched.
        Without it the weights come from the global random state, as in plain PyTorch.

    Raises ValueError for an unknown name (listing the known ones) or a size that is not positive.
    Introduced in notebook 02.
    """
    model = _find(name)
    if min(classes, channels, width, depth) <= 0:
        raise ValueError(f"Model sizes must be positive; got {classes=}, {channels=}, {width=}, {depth=}.")
    if seed is None:
        return model(classes, channels, width, depth)
    # torch.manual_seed would also reseed every GPU, which fork_rng(devices=[]) does not restore.
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(stream_seed(seed, "init"))
        return model(classes, channels, width, depth)


def classifier(model):
    """The name of the layer that turns features into logits: the last linear layer or convolution of ``model``.

    Its input are the penultimate features, (N, F) or, before the 1x1 convolution of MobileNetV2, (N, F, 1, 1). A hook
    on ``model.get_submodule(classifier(model))`` reads them in the same forward pass, in `engine.frozen` networks too.
    Relies on networks that create their layers in the order of use, as all of the zoo do. Raises ValueError when there
    is no such layer.
    """
    layers = [name for name, layer in model.named_modules() if isinstance(layer, (nn.Linear, nn.Conv2d))]
    if not layers:
        raise ValueError(f"{type(model).__name__} has no linear layer or convolution that could give the logits.")
    return layers[-1]
