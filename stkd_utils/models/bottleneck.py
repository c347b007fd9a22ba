"""Residual networks of torchvision's bottlenecks for small images: ResNet-50, -101, -152 and two ResNeXts."""

from torch import nn
from torch.nn import functional as F

from stkd_utils.models.layers import conv_bn, he_normal, repeated, scaled
from stkd_utils.models.registry import register

PLANES = (64, 128, 256, 512)  # a stage's channels are four times as many; every stage but the first halves the map


class BottleneckNet(nn.Module):
    """Logits of a network of bottlenecks with a 3x3 stem and no max-pooling: (N, channels, H, W) -> (N, classes).

    Subclasses say how many ``blocks`` each stage has, in how many ``groups`` the 3x3 convolutions work and how many
    channels a group has at 64 planes (``base_width``). The blocks are torchvision's, which halve the map in the 3x3
    convolution as the paper's repository does.
    """

    blocks, groups, base_width = (), 1, 64

    def __init__(self, classes, channels=3, width=1.0, depth=1.0):
        super().__init__()
        inputs = scaled(PLANES[0], width)
        self.conv1, self.bn1 = conv_bn(channels, inputs, 3, bias=False)
        layers = []
        for number, (planes, blocks) in enumerate(zip(PLANES, self.blocks, strict=False)):
            planes, stride = scaled(planes, width), 2 if number else 1
            for block in range(repeated(blocks, depth)):
                layers.append(self._block(inputs, planes, 1 if block else stride))
                inputs = 4 * planes
        self.layers = nn.Sequential(*layers)
        self.linear = nn.Linear(inputs, classes)

    def _block(self, inputs, planes, stride):
        from torchvision.models.resnet import Bottleneck  # here: the zoo alone needs no torchvision

        same = inputs == 4 * planes and stride == 1
        shortcut = None if same else nn.Sequential(*conv_bn(inputs, 4 * planes, stride=stride, bias=False))
        base_width = max(self.base_width, -(-PLANES[0] // planes))  # a group keeps one channel at least
        return Bottleneck(inputs, planes, stride, shortcut, self.groups, base_width)

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return self.linear(self.layers(x).mean((2, 3)))


@register("resnet50")
class ResNet50(BottleneckNet):
    """Logits of ResNet-50 in the form of `BottleneckNet`: (N, channels, H, W) -> (N, classes).

    23,705,252 parameters for 100 classes. He et al. 2016.
    """

    blocks = (3, 4, 6, 3)


@register("resnet101")
class ResNet101(BottleneckNet):
    """Logits of ResNet-101 in the form of `BottleneckNet`: (N, channels, H, W) -> (N, classes).

    42,697,380 parameters for 100 classes. He et al. 2016.
    """

    blocks = (3, 4, 23, 3)


@register("resnet152")
class ResNet152(BottleneckNet):
    """Logits of ResNet-152 in the form of `BottleneckNet`: (N, channels, H, W) -> (N, classes).

    58,341,028 parameters for 100 classes. He et al. 2016.
    """

    blocks = (3, 8, 36, 3)


@register("resnext29")
class ResNeXt29(BottleneckNet):
    """Logits of ResNeXt-29 8x64d, three stages for 32x32 images: (N, channels, H, W) -> (N, classes).

    34,518,948 parameters for 100 classes, initialised by `he_normal`. Xie et al. 2017, section 5.3.
    """

    blocks, groups = (3, 3, 3), 8

    def __init__(self, *size, **options):
        super().__init__(*size, **options)
        he_normal(self)


@register("resnext101")
class ResNeXt101(BottleneckNet):
    """Logits of ResNeXt-101 32x8d in the form of `BottleneckNet`: (N, channels, H, W) -> (N, classes).

    86,939,556 parameters for 100 classes, initialised by `he_normal`. Xie et al. 2017. The settings of the paper's
    repository name a resnext101, but it never had one: this is torchvision's with the stem of the other networks here.
    """

    blocks, groups, base_width = (3, 4, 23, 3), 32, 8

    def __init__(self, *size, **options):
        super().__init__(*size, **options)
        he_normal(self)
