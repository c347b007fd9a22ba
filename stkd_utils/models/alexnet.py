"""AlexNet for small images."""

from torch import nn

from stkd_utils.models.layers import resized, scaled
from stkd_utils.models.registry import register

STAGES = (  # channels, kernel, stride of the convolutions; a pooling after each stage
    ((64, 11, 4),),
    ((192, 5, 1),),
    ((384, 3, 1), (256, 3, 1), (256, 3, 1)),
)


@register("alexnet")
class AlexNet(nn.Module):
    """Logits of AlexNet without its hidden linear layers: (N, channels, H, W) -> (N, classes).

    2,495,396 parameters for 100 classes. Krizhevsky 2014 in its form for 32x32 images. The mean of the last map, which
    has one pixel there, lets larger images in; poolings round up, so that maps of one pixel pass.
    """

    def __init__(self, classes, channels=3, width=1.0, depth=1.0):
        super().__init__()
        layers = []
        for stage in STAGES:
            for outputs, kernel, stride in resized(stage, depth):
                outputs = scaled(outputs, width)
                layers += [nn.Conv2d(channels, outputs, kernel, stride, kernel // 2), nn.ReLU(inplace=True)]
                channels = outputs
            layers.append(nn.MaxPool2d(2, ceil_mode=True))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(channels, classes)

    def forward(self, x):
        return self.classifier(self.features(x).mean((2, 3)))
