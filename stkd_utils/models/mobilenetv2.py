"""MobileNetV2 for small images, the main student of the paper."""

from functools import partial

from torch import nn
from torch.nn import functional as F

from stkd_utils.models.layers import Chain, ReLU6, conv_bn, conv_bn_relu, repeated, scaled
from stkd_utils.models.registry import register

STAGES = (  # channels, blocks, stride of the first block, expansion
    (16, 1, 1, 1),
    (24, 2, 2, 6),
    (32, 3, 2, 6),
    (64, 4, 2, 6),
    (96, 3, 1, 6),
    (160, 3, 1, 6),
    (320, 1, 1, 6),
)

conv_bn_relu6 = partial(conv_bn_relu, activation=ReLU6)


class Bottleneck(nn.Module):
    """Inverted residual, wide inside and thin outside: (N, inputs, H, W) -> (N, outputs, H / stride, W / stride)."""

    def __init__(self, inputs, outputs, stride, expansion):
        super().__init__()
        hidden = inputs * expansion
        self.residual = Chain(
            *conv_bn_relu6(inputs, hidden),
            *conv_bn_relu6(hidden, hidden, 3, stride=stride, groups=hidden),
            *conv_bn(hidden, outputs),
        )
        self.skip = inputs == outputs and stride == 1

    def forward(self, x):
        return x + self.residual(x) if self.skip else self.residual(x)


def stage(inputs, outputs, blocks, stride, expansion):
    """The blocks of one stage; a single block stands bare, as in the published checkpoints."""
    first = Bottleneck(inputs, outputs, stride, expansion)
    rest = [Bottleneck(outputs, outputs, 1, expansion) for _ in range(blocks - 1)]
    return nn.Sequential(first, *rest) if rest else first


@register("mobilenetv2")
class MobileNetV2(nn.Module):
    """Logits of MobileNetV2: (N, channels, H, W) -> (N, classes).

    2,369,380 parameters for 100 classes. As in the paper's repository the stem is a 1x1 convolution with padding 1, so
    32x32 images become 34x34 maps, and every convolution has a bias. Sandler et al. 2018. Introduced in notebook 02.
    """

    def __init__(self, classes, channels=3, width=1.0, depth=1.0):
        super().__init__()
        inputs, last = scaled(32, width), scaled(1280, width)
        self.pre = Chain(*conv_bn_relu6(channels, inputs, padding=1))
        for number, (outputs, blocks, *shape) in enumerate(STAGES, start=1):
            outputs = scaled(outputs, width)
            self.add_module(f"stage{number}", stage(inputs, outputs, repeated(blocks, depth), *shape))
            inputs = outputs
        self.conv1 = Chain(*conv_bn_relu6(inputs, last))
        self.conv2 = nn.Conv2d(last, classes, 1)

    def forward(self, x):
        x = self.stage3(self.stage2(self.stage1(self.pre(x))))
        x = self.stage7(self.stage6(self.stage5(self.stage4(x))))
        x = F.adaptive_avg_pool2d(self.conv1(x), 1)
        return self.conv2(x).flatten(1)
