"""The model zoo: networks for small images, built by name (see `build`).

Adding a model is one file with a class under ``@register("name")``, imported below. Parameter names and shapes follow
the paper's repository, so that its published checkpoints load.
"""

from stkd_utils.models import (  # noqa: F401  (importing a file registers its models)
    alexnet,
    bottleneck,
    cnn,
    densenet,
    googlenet,
    mobilenetv2,
    resnet,
    shufflenetv2,
    vgg,
    wrn,
)
from stkd_utils.models.authors import WeightsError, load_authors, read_authors
from stkd_utils.models.registry import build, classifier, known, names, register

__all__ = ["WeightsError", "build", "classifier", "known", "load_authors", "names", "read_authors", "register"]
