"""ResNet-18, the teacher of the paper, and ResNet-34, for small images. The deeper ones: `bottleneck`."""

from torch import nn
from torch.nn import functional as F

from stkd_utils.models.layers import conv_bn, repeated, scaled
from stkd_utils.models.registry import register

STAGES = ((64, 1), (128, 2), (256, 2), (512, 2))  # channels, stride


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut: (N, inputs, H, W) -> (N, outputs, H / stride, W / stride)."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1, self.bn1 = conv_bn(inputs, outputs, 3, stride=stride, bias=False)
        self.conv2, self.bn2 = conv_bn(outputs, outputs, 3, bias=False)
        same = inputs == outputs and stride == 1
        self.shortcut = nn.Sequential(*([] if same else conv_bn(inputs, outputs, stride=stride, bias=False)))

    def forward(self, x):
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        out = self.bn2(self.conv2(out))
        out += self.shortcut(x)
        return F.relu(out, inplace=True)


@register("resnet18")
class ResNet18(nn.Module):
    """Logits of ResNet-18 with a 3x3 stem and no max-pooling: (N, channels, H, W) -> (N, classes).

    11,220,132 parameters for 100 classes. He et al. 2016 in its form for 32x32 images. Introduced in notebook 02.
    """

    blocks = (2, 2, 2, 2)  # of each stage

    def __init__(self, classes, channels=3, width=1.0, depth=1.0):
        super().__init__()
        inputs = scaled(STAGES[0][0], width)
        self.conv1, self.bn1 = conv_bn(channels, inputs, 3, bias=False)
        for number, ((outputs, stride), blocks) in enumerate(zip(STAGES, self.blocks, strict=True), start=1):
            outputs = scaled(outputs, width)
            rest = [Block(outputs, outputs, 1) for _ in range(repeated(blocks, depth) - 1)]
            self.add_module(f"layer{number}", nn.Sequential(Block(inputs, outputs, stride), *rest))
            inputs = outputs
        self.linear = nn.Linear(inputs, classes)

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.linear(x.mean((2, 3)))


@register("resnet34")
class ResNet34(ResNet18):
    """Logits of ResNet-34 in the form of `ResNet18`: (N, channels, H, W) -> (N, classes).

    21,328,292 parameters for 100 classes. He et al. 2016.
    """

    blocks = (3, 4, 6, 3)
