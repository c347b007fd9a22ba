"""GoogLeNet for small images, of torchvision's Inception blocks."""

from torch import nn

from stkd_utils.models.layers import conv_bn_relu, resized, scaled
from stkd_utils.models.registry import register

STEM = 192  # channels
STAGES = (  # of each block: 1x1 | 1x1 before 3x3, 3x3 | 1x1 before twice 3x3, twice 3x3 | 1x1 after the pooling
    ((64, 96, 128, 16, 32, 32), (128, 128, 192, 32, 96, 64)),
    (
        (192, 96, 208, 16, 48, 64),
        (160, 112, 224, 24, 64, 64),
        (128, 128, 256, 24, 64, 64),
        (112, 144, 288, 32, 64, 64),
        (256, 160, 320, 32, 128, 128),
    ),
    ((256, 160, 320, 32, 128, 128), (384, 192, 384, 48, 128, 128)),
)


@register("googlenet")
class GoogLeNet(nn.Module):
    """Logits of GoogLeNet with one 3x3 convolution as stem: (N, channels, H, W) -> (N, classes).

    6,258,500 parameters for 100 classes. Szegedy et al. 2015 with batch normalisation, without the auxiliary
    classifiers, and, as in the paper's repository, with two 3x3 convolutions for each 5x5 and 40 % dropout.
    """

    def __init__(self, classes, channels=3, width=1.0, depth=1.0):
        super().__init__()
        inputs = scaled(STEM, width)
        layers = conv_bn_relu(channels, inputs, 3)
        for number, stage in enumerate(STAGES):
            layers += [nn.MaxPool2d(3, stride=2, padding=1)] if number else []
            for sizes in resized(stage, depth):
                sizes = [scaled(size, width) for size in sizes]
                layers.append(inception(inputs, sizes))
                inputs = sizes[0] + sizes[2] + sizes[4] + sizes[5]
        self.features = nn.Sequential(*layers)
        self.dropout = nn.Dropout(0.4)
        self.linear = nn.Linear(inputs, classes)

    def forward(self, x):
        return self.linear(self.dropout(self.features(x).mean((2, 3))))


def inception(inputs, sizes):
    """torchvision's Inception block for `STAGES`' ``sizes``, with a second 3x3 convolution in its third branch.

    (N, inputs, H, W) -> (N, outputs, H, W). As in the paper's repository, which also has biases, two 3x3 convolutions
    see what the published 5x5 sees; torchvision has one.
    """
    from torchvision.models.googlenet import Inception  # here: the zoo alone needs no torchvision

    block = Inception(inputs, *sizes, conv_block=_convolution)
    block.branch3.append(_convolution(sizes[4], sizes[4], kernel_size=3))
    return block


def _convolution(inputs, outputs, kernel_size, padding=None):
    return nn.Sequential(*conv_bn_relu(inputs, outputs, kernel_size, padding=padding))
