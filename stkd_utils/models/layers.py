"""What the networks of the zoo are made of."""

from contextlib import nullcontext

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.autograd.graph import saved_tensors_hooks

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


class Chain(nn.Sequential):
    """`torch.nn.Sequential` that keeps fewer maps for the gradient and has the same values and gradients.

    Where a batch normalisation, its activation and a convolution follow each other, the input of the first and that of
    the last are kept. The second is an elementwise function of the first: here it is computed again when its gradient
    is due. Only in training on a CPU; elsewhere it is the ordinary Sequential. It has no second derivative.
    """

    def forward(self, x):
        if not (self.training and torch.is_grad_enabled()) or x.device.type != "cpu" or torch.compiler.is_compiling():
            return super().forward(x)
        layers, activated = list(self), None
        while layers:
            layer = layers.pop(0)
            with activated.not_kept() if activated else nullcontext():
                x = layer(x)
            follows = bool(layers) and isinstance(layers[0], (nn.ReLU, ReLU6)) and layers[0].inplace
            if follows and isinstance(layer, nn.BatchNorm2d) and layer.training and layer.affine and x.requires_grad:
                activated = _Activated(layer, layers.pop(0), x)
                x = _Activation.apply(x, activated)
            else:
                activated = None
        return x


class _Activated:
    """``activation(norm(x))`` of a map x, made from ``y``, which is norm(x) of this batch."""

    def __init__(self, norm, activation, y):
        self.norm, self.activation, self.map, self.place = norm, activation, None, y.data_ptr()
        self.limit = 6.0 if isinstance(activation, ReLU6) else None
        self.node = y.grad_fn  # it keeps x until its own gradient is done: a reference here would keep it longer

    @torch.no_grad()
    def again(self):
        """The map, computed once more and kept until `gradient` has used it."""
        if self.map is None:
            mean, inverse = self.node._saved_result1, self.node._saved_result2  # 1 / standard deviation of the batch
            scale = inverse * self.norm.weight
            shift = torch.addcmul(self.norm.bias, mean, scale, value=-1)
            zero, one = torch.zeros_like(shift), torch.ones_like(scale)
            y = torch.native_batch_norm(self.node._saved_input, scale, shift, zero, one, False, 0.0, 0.0)[0]
            self.map = y.clamp_(0, self.limit)
        return self.map

    def gradient(self, grad):
        """The gradient of y, from that of the map."""
        map, self.map = self.again(), None
        room = {"grad_input": map} if map.stride() == grad.stride() else {}  # its own memory, if it has the same format
        if self.limit is None:
            return torch.ops.aten.threshold_backward(grad, map, 0, **room)
        return torch.ops.aten.hardtanh_backward(grad, map, 0, self.limit, **room)

    def not_kept(self):
        """A context in which this object is kept for a gradient, where the map would be."""
        return saved_tensors_hooks(
            lambda kept: self if kept.data_ptr() == self.place else kept,
            lambda kept: self.again() if kept is self else kept,
        )


class _Activation(torch.autograd.Function):
    @staticmethod
    def forward(ctx, y, activated):
        ctx.activated = activated
        ctx.mark_dirty(y)
        activated.activation(y)  # in place, through the layer, so that its hooks are called
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        return ctx.activated.gradient(grad), None
