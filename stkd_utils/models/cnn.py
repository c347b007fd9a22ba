"""The plain convolutional network, the smallest of the paper's repository."""

from torch import nn
from torch.nn import functional as F

from stkd_utils.models.layers import conv_bn, repeated, scaled
from stkd_utils.models.registry import register

STAGES = (32, 64, 128)  # channels
MAP = 4  # pixels, a side of the map that the hidden layer sees


@register("cnn")
class CNN(nn.Module):
    """Logits of three convolutions and a hidden linear layer: (N, channels, H, W) -> (N, classes).

    369,124 parameters for 100 classes. Batch normalisation, pooling and ReLU follow each convolution. The hidden layer
    sees 4x4 pixels, what three poolings leave of 32x32; larger maps are averaged to that size, the pixels of smaller
    ones repeated. Dropout is 50 %.
    """

    def __init__(self, classes, channels=3, width=1.0, depth=1.0):
        super().__init__()
        layers = []
        for outputs in STAGES:
            outputs = scaled(outputs, width)
            for _ in range(repeated(1, depth) - 1):
                layers += [*conv_bn(channels, outputs, 3), nn.ReLU(inplace=True)]
                channels = outputs
            layers += [*conv_bn(channels, outputs, 3), nn.MaxPool2d(2, ceil_mode=True), nn.ReLU(inplace=True)]
            channels = outputs
        self.features = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(MAP), nn.Flatten())
        self.fc1, self.fcbn1 = nn.Linear(MAP * MAP * channels, channels), nn.BatchNorm1d(channels)
        self.dropout = nn.Dropout(0.5)
        self.fc2 = nn.Linear(channels, classes)

    def forward(self, x):
        x = F.relu(self.fcbn1(self.fc1(self.features(x))), inplace=True)
        return self.fc2(self.dropout(x))
