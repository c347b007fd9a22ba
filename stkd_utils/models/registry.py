"""Models by name."""

import torch

from stkd_utils.seeding import stream_seed

_MODELS = {}


def register(name):
    """Class decorator that makes a model known to `build` under ``name``.

    The class is called as ``Model(classes, channels, width, depth)``. Raises ValueError when the name is taken.
    """

    def add(model):
        if _MODELS.setdefault(name, model) is not model:
            raise ValueError(f"A model named {name!r} exists already; choose another name.")
        return model

    return add


def names():
    """The registered model names, sorted."""
    return sorted(_MODELS)


def build(name, classes, *, channels=3, width=1.0, depth=1.0, seed=None):
    """A freshly initialised network that turns images into logits: (batch, channels, H, W) -> (batch, classes).

    Parameters
    ----------
    name : str
        One of `names`: "resnet18", "mobilenetv2", "shufflenetv2".
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
    if name not in _MODELS:
        raise ValueError(f"Unknown model {name!r}; choose one of: {', '.join(names())}.")
    if min(classes, channels, width, depth) <= 0:
        raise ValueError(f"Model sizes must be positive; got {classes=}, {channels=}, {width=}, {depth=}.")
    if seed is None:
        return _MODELS[name](classes, channels, width, depth)
    # torch.manual_seed would also reseed every GPU, which fork_rng(devices=[]) does not restore.
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(stream_seed(seed, "init"))
        return _MODELS[name](classes, channels, width, depth)
