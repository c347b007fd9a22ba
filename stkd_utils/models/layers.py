"""What the networks of the zoo are made of."""

from contextlib import nullcontext
from functools import partial

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.autograd.graph import saved_tensors_hooks

from .. import environment

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
    """min(max(x, 0), 6) like `torch.nn.ReLU6`, with the same gradient from less memory.

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


def plain(model):
    """``model`` with PyTorch's own `torch.nn.Sequential` and `torch.nn.ReLU6` for `Chain` and `ReLU6`, in place.

    Weights and answers are the same; it is what the field's networks are made of, as a reference for time and memory.
    """
    for module in list(model.modules()):
        if type(module) is Chain:
            module.__class__ = nn.Sequential
        for name, layer in module.named_children():
            if isinstance(layer, ReLU6):
                setattr(module, name, nn.ReLU6(layer.inplace))
    return model


class Chain(nn.Sequential):
    """`torch.nn.Sequential` with the same values that keeps fewer maps for gradients, or adds fewer biases.

    Of the maps inside, those that cost little are not kept but computed again when a gradient needs them: what a batch
    normalisation, with or without an activation, gives to a convolution, and what a depthwise convolution, which takes
    few products for each number, gives to a batch normalisation. That is so in training on a CPU under autocast, and in
    float32 where the environment variable STKD_SMALL_MEMORY is set, because there it can take more time; gradients are
    the same, up to rounding, but there is no second derivative. In training on a GPU it keeps all maps, but adds no
    bias to one that is to be normalised: that saves the kernels for biases. Such a bias has no gradient, and stays as
    it is.
    """

    def forward(self, x):
        learns = self.training and torch.is_grad_enabled()
        if learns and x.device.type == "cuda":
            return self.unbiased(x)
        if learns and x.device.type == "cpu" and not torch.compiler.is_compiling() and _saves_memory():
            return self._frugal(x)
        return super().forward(x)

    def unbiased(self, x):
        """Like `torch.nn.Sequential`, without adding what a batch normalisation in training takes away with the mean.

        The bias before it has to reach its running mean alone.
        """
        for layer, following in zip(self, [*list(self)[1:], None], strict=True):
            if not (_biased(layer) and _tracks(following)):
                x = layer(x)
                continue
            x = layer._conv_forward(x, layer.weight, None)
            kept = 1 - following.momentum  # of the running mean, in the normalisation that is to come
            # as data, because the gradient of an earlier answer holds on to the running mean, though it reads it not
            following.running_mean.data.add_(layer.bias.data, alpha=following.momentum / kept)
        return x

    def _frugal(self, x):
        layers, unkept = list(self), None  # the latest map, if it is not kept
        while layers:
            layer, source = layers.pop(0), unkept
            with source.not_kept() if source else nullcontext():
                x = layer(x)
            source = source if source and source.replaced else None
            following = layers[0] if layers else None
            unkept = _unkept(layer, x, source, following)
            if unkept and _activates(following):
                x = _Activation.apply(x, unkept, layers.pop(0))
        return x


def _saves_memory():
    return torch.is_autocast_enabled("cpu") or environment.memory_counts()


def _biased(layer):
    """Whether ``layer`` is a convolution that adds a bias and that nothing looks at."""
    return type(layer) is nn.Conv2d and layer.bias is not None and not _watched(layer)


def _tracks(layer):
    learns = isinstance(layer, nn.BatchNorm2d) and layer.training and layer.track_running_stats
    return learns and layer.momentum is not None and layer.momentum < 1 and not _watched(layer)


def _watched(layer):
    return layer._forward_hooks or layer._forward_pre_hooks


def _activates(layer):
    return isinstance(layer, (nn.ReLU, ReLU6)) and layer.inplace


def _unkept(layer, map, source, following):
    """What to keep in place of the ``map`` that ``layer`` gave to the layer ``following``; None for the map itself.

    ``source`` is the `_Unkept` input of ``layer``, None for one that is kept.
    """
    made = type(map.grad_fn).__name__
    if isinstance(layer, nn.BatchNorm2d) and layer.training and layer.affine and made == "NativeBatchNormBackward0":
        if _activates(following):
            return _Unkept(map, partial(_normalised, layer, map.grad_fn, source, following), activated=True)
        if isinstance(following, nn.Conv2d):
            return _Unkept(map, partial(_normalised, layer, map.grad_fn, source))
    depthwise = isinstance(layer, nn.Conv2d) and 1 < layer.groups == layer.in_channels
    if depthwise and isinstance(following, nn.BatchNorm2d) and made == "ConvolutionBackward0":
        return _Unkept(map, partial(_convolved, layer, map.grad_fn, source))
    return None


class _Unkept:
    """In place of a map that is not kept: ``compute()`` gives it again; it stays until its last reader takes it.

    The last reader is the gradient of the activation where the map is ``activated``, else the one that would have kept
    it. A node of the graph, of which ``compute`` reads what it keeps, goes with its own gradient: so does the map.
    """

    def __init__(self, map, compute, activated=False):
        self.compute, self.activated, self.map = compute, activated, None
        self.place, self.replaced = (map.data_ptr(), map.shape, map.stride()), False

    @torch.no_grad()
    def again(self):
        """The map, for a reader that is not the last."""
        if self.map is None:
            self.map = self.compute()
        return self.map

    def take(self):
        """The map, for its last reader, who may write into it."""
        map, self.map = self.again(), None
        return map

    def not_kept(self):
        """A context in which this object is kept for a gradient, where the map would be; then ``replaced`` is true."""
        return saved_tensors_hooks(self._pack, self._unpack)

    def _pack(self, kept):
        if (kept.data_ptr(), kept.shape, kept.stride()) != self.place:
            return kept
        self.replaced = True
        return self

    def _unpack(self, kept):
        if kept is not self:
            return kept
        if torch.is_grad_enabled():  # create_graph: the map that is computed again has no history
            raise RuntimeError("A Chain has no second derivative; make it a torch.nn.Sequential to have one.")
        return self.again() if self.activated else self.take()


def _normalised(norm, node, source, activation=None):
    """Once more the ``activation`` of what ``norm`` gave where ``node`` stands in the graph, from its own input."""
    mean, inverse = node._saved_result1, node._saved_result2  # 1 / standard deviation of the batch
    scale = inverse * norm.weight
    shift = torch.addcmul(norm.bias, mean, scale, value=-1)
    zero, one = torch.zeros_like(shift), torch.ones_like(scale)
    y = torch.native_batch_norm(_input(node, source), scale, shift, zero, one, False, 0.0, 0.0)[0]
    return y.clamp_(0, _limit(activation)) if activation else y


def _convolved(conv, node, source):
    """Once more what ``conv`` gave where ``node`` stands in the graph."""
    weight = node._saved_weight  # in the precision of the convolution
    bias = None if conv.bias is None else conv.bias.to(weight.dtype)
    shape = node._saved_stride, node._saved_padding, node._saved_dilation
    return torch.conv2d(_input(node, source), weight, bias, *shape, node._saved_groups)


def _input(node, source):
    return source.again() if source else node._saved_input


def _limit(activation):
    return 6.0 if isinstance(activation, ReLU6) else None


class _Activation(torch.autograd.Function):
    @staticmethod
    def forward(ctx, y, unkept, activation):
        ctx.unkept, ctx.limit = unkept, _limit(activation)
        ctx.mark_dirty(y)
        activation(y)  # in place, through the layer, so that its hooks are called
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        map = ctx.unkept.take()
        room = {"grad_input": map} if map.stride() == grad.stride() else {}  # its own memory, if it has the same format
        if ctx.limit is None:
            return torch.ops.aten.threshold_backward(grad, map, 0, **room), None, None
        return torch.ops.aten.hardtanh_backward(grad, map, 0, ctx.limit, **room), None, None
