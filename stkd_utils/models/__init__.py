"""The model zoo: networks for small images, built by name (see `build`).

Adding a model is one file with a class under ``@register("name")``, imported below. Parameter names and shapes follow
the paper's repository, so that its published checkpoints load.
"""

from stkd_utils.models import mobilenetv2, resnet, shufflenetv2  # noqa: F401  (importing a file registers its model)
from stkd_utils.models.registry import build, names, register

__all__ = ["build", "names", "register"]
