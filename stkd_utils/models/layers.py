"""What the networks of the zoo are made of."""

import torch
from torch import nn

SMALLEST = 4  # channels: below this a batch-normalised layer carries next to nothing


def scaled(channels, width, multiple=1):
    """A channel count times ``width``, rounded to a whole number of ``multiple``, never below ``SMALLEST``.

    ``width`` 1 gives ``channels`` back wherever ``channels`` itself is a multiple of ``multiple``.
    """
    return max(SMALLEST, multiple * round(channels * width / multiple))


def repeated(blocks, depth):
    """A stage's number of blocks times ``depth``, rounded, never below one. ``depth`` 1 gives ``blocks`` back."""
    return max(1, round(blocks * depth))


def resized(stage, depth):
    """The rows of a stage for ``depth``: its first ones, at least one; beyond its length the last one again.

    For stages whose blocks differ from each other, as those of GoogLeNet; ``depth`` 1 gives ``stage`` back.
    """
    return [stage[min(number, len(stage) - 1)] for number in range(repeated(len(stage), depth))]


def he_normal(model):
    """``model`` with the weights of its convolutions drawn from N(0, 2 / fan out), in place; He et al. 2015, eq. 14."""
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return model


def conv_bn(inputs, outputs, kernel=1, *, stride=1, padding=None, groups=1, bias=True):
    """A convolution and its batch normalisation, as a list to unpack into an ``nn.Sequential``.

    ``padding`` None keeps the size of the map at stride 1. A list and not a module, because the parameter names of
    published checkpoints count these layers flat.
    """
    padding = kernel // 2 if padding is None else padding
    conv = nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=padding, groups=groups, bias=bias)
    return [conv, nn.BatchNorm2d(outputs)]


def conv_bn_relu(inputs, outputs, kernel=1, *, activation=nn.ReLU, **options):
    """`conv_bn` followed by its activation (computed in place), as a list of three layers."""
    return [*conv_bn(inputs, outputs, kernel, **options), activation(inplace=True)]


class ReLU6(nn.Module):
    """min(max(x, 0), 6) like `torch.nn.ReLU6`, with the same gradient from a third less memory.

    PyTorch's keeps a copy of its input for the gradient, also in place; the output, which the next layer keeps anyhow,
    tells as much: the gradient passes where it lies between 0 and 6.
    """

    def __init__(self, inplace=False):
        super().__init__()
        self.inplace = inplace

    def forward(self, x):
        return relu6(x if self.inplace else x.clone())


@torch.fx.wrap
def relu6(x):
    """min(max(x, 0), 6) of a map of any shape, written into ``x``; one operation for torch.fx."""
    return _ReLU6.apply(x)


class _ReLU6(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        x.clamp_(0, 6)
        ctx.mark_dirty(x)
        ctx.save_for_backward(x)
        return x

    @staticmethod
    def backward(ctx, grad):
        return torch.ops.aten.hardtanh_backward(grad, *ctx.saved_tensors, 0, 6)
