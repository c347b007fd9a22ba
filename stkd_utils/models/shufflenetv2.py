"""ShuffleNetV2 for small images, the second student of the paper, and its three other published widths."""

import torch
from torch import nn
from torch.nn import functional as F

from stkd_utils.models.layers import Chain, conv_bn, conv_bn_relu, repeated, scaled
from stkd_utils.models.registry import register

BLOCKS = (4, 8, 4)  # of each stage; the first one halves the map


@torch.fx.wrap
def interleave(left, right):
    """Two maps (N, C, H, W) as one (N, 2C, H, W) whose channels alternate: left 0, right 0, left 1, right 1, ...

    It has the memory format of ``right``. In channels-last each pair lies side by side: one stacking, and no shuffle.
    """
    if right.stride(1) == 1:
        return torch.stack((left.movedim(1, -1), right.movedim(1, -1)), dim=-1).flatten(-2).movedim(-1, 1)
    return F.channel_shuffle(torch.cat((left, right), dim=1), 2)


class Unit(nn.Module):
    """Half of the channels passes untouched, half is convolved, then both are interleaved: (N, C, H, W) -> same."""

    def __init__(self, channels):
        super().__init__()
        half = channels // 2
        self.residual = Chain(
            *conv_bn_relu(half, half), *conv_bn(half, half, 3, groups=half), *conv_bn_relu(half, half)
        )

    def forward(self, x):
        left, right = x.chunk(2, dim=1)
        return interleave(left, self.residual(right.clone()))  # a copy, or the gradient would keep all of x


class DownUnit(nn.Module):
    """Both branches see all channels and halve the map: (N, inputs, H, W) -> (N, outputs, H / 2, W / 2)."""

    def __init__(self, inputs, outputs):
        super().__init__()
        half = outputs // 2
        self.residual = Chain(
            *conv_bn_relu(inputs, inputs),
            *conv_bn(inputs, inputs, 3, stride=2, groups=inputs),
            *conv_bn_relu(inputs, half),
        )
        self.shortcut = Chain(*conv_bn(inputs, inputs, 3, stride=2, groups=inputs), *conv_bn_relu(inputs, half))

    def forward(self, x):
        return interleave(self.shortcut(x), self.residual(x))


@register("shufflenetv2")
class ShuffleNetV2(nn.Module):
    """Logits of ShuffleNetV2 x1 with a stem of stride 1 and no max-pooling: (N, channels, H, W) -> (N, classes).

    1,360,896 parameters for 100 classes. Ma et al. 2018. Introduced in notebook 02.
    """

    stages, last = (116, 232, 464), 1024  # channels

    def __init__(self, classes, channels=3, width=1.0, depth=1.0):
        super().__init__()
        inputs, last = scaled(24, width), scaled(self.last, width)
        self.pre = Chain(*conv_bn_relu(channels, inputs, 3))
        for number, (outputs, blocks) in enumerate(zip(self.stages, BLOCKS, strict=True), start=2):
            outputs = scaled(outputs, width, multiple=2)
            units = [Unit(outputs) for _ in range(repeated(blocks, depth) - 1)]
            self.add_module(f"stage{number}", nn.Sequential(DownUnit(inputs, outputs), *units))
            inputs = outputs
        self.conv5 = Chain(*conv_bn_relu(inputs, last))
        self.fc = nn.Linear(last, classes)

    def forward(self, x):
        x = self.stage4(self.stage3(self.stage2(self.pre(x))))
        return self.fc(self.conv5(x).mean((2, 3)))


@register("shufflenetv2x05")
class ShuffleNetV2X05(ShuffleNetV2):
    """Logits of ShuffleNetV2 x0.5 in the form of `ShuffleNetV2`: (N, channels, H, W) -> (N, classes).

    448,268 parameters for 100 classes. Ma et al. 2018, table 5.
    """

    stages, last = (48, 96, 192), 1024


@register("shufflenetv2x15")
class ShuffleNetV2X15(ShuffleNetV2):
    """Logits of ShuffleNetV2 x1.5 in the form of `ShuffleNetV2`: (N, channels, H, W) -> (N, classes).

    2,584,716 parameters for 100 classes. Ma et al. 2018, table 5.
    """

    stages, last = (176, 352, 704), 1024


@register("shufflenetv2x2")
class ShuffleNetV2X2(ShuffleNetV2):
    """Logits of ShuffleNetV2 x2 in the form of `ShuffleNetV2`: (N, channels, H, W) -> (N, classes).

    5,550,976 parameters for 100 classes. Ma et al. 2018, table 5.
    """

    stages, last = (244, 488, 976), 2048
