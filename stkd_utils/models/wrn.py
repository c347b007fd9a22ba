"""Wide residual networks of any depth and width."""

from functools import partial

from torch import nn
from torch.nn import functional as F

from stkd_utils.models.layers import he_normal, repeated, scaled
from stkd_utils.models.registry import register_family

STEM = 16
STAGES = ((16, 1), (32, 2), (64, 2))  # channels at width 1, stride


class Block(nn.Module):
    """Twice batch normalisation, ReLU and 3x3 convolution, and a shortcut: (N, inputs, H, W) -> (N, outputs, H', W').

    H' is H / stride. A shortcut that changes the shape begins after the first ReLU.
    """

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        same = inputs == outputs and stride == 1
        self.shortcut = None if same else nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False)

    def forward(self, x):
        out = F.relu(self.bn1(x), inplace=True)
        short = x if self.shortcut is None else self.shortcut(out)
        out = F.relu(self.bn2(self.conv1(out)), inplace=True)
        return short + self.conv2(out)


class WideResNet(nn.Module):
    """Logits of a wide residual network without dropout: (N, channels, H, W) -> (N, classes).

    Three stages of ``blocks`` blocks, with ``widening`` times the 16, 32 and 64 channels of the thinnest: `wide` knows
    them by name. Parameters for 100 classes: 180,916 (wrn16x1), 703,284 (wrn16x2), 569,780 (wrn40x1), 2,255,156
    (wrn40x2). Zagoruyko and Komodakis 2016.
    """

    def __init__(self, blocks, widening, classes, channels=3, width=1.0, depth=1.0):
        super().__init__()
        inputs = scaled(STEM, width)
        self.conv1 = nn.Conv2d(channels, inputs, 3, padding=1, bias=False)
        for number, (outputs, stride) in enumerate(STAGES, start=1):
            outputs = scaled(outputs * widening, width)
            more = [Block(outputs, outputs, 1) for _ in range(repeated(blocks, depth) - 1)]
            self.add_module(f"block{number}", nn.Sequential(Block(inputs, outputs, stride), *more))
            inputs = outputs
        self.bn1 = nn.BatchNorm2d(inputs)
        self.fc = nn.Linear(inputs, classes)
        he_normal(self)
        nn.init.zeros_(self.fc.bias)

    def forward(self, x):
        x = self.block3(self.block2(self.block1(self.conv1(x))))
        return self.fc(F.relu(self.bn1(x), inplace=True).mean((2, 3)))


@register_family(r"wrn(\d+)x(\d+)", "wrn16x1", "wrn16x2", "wrn40x1", "wrn40x2")
def wide(layers, widening):
    """What makes the `WideResNet` called wrn<layers>x<widening>. Raises ValueError unless ``layers`` is 6 n + 4."""
    blocks, rest = divmod(layers - 4, 6)
    if rest or blocks < 1 or widening < 1:
        raise ValueError(
            f"There is no wrn{layers}x{widening}: its depth is 6 n + 4, such as 10, 16 or 40, and its width 1 or more."
        )
    return partial(WideResNet, blocks, widening)
