"""VGG-19 with batch normalisation for small images, of torchvision's layers."""

from torch import nn

from stkd_utils.models.layers import he_normal, repeated, scaled
from stkd_utils.models.registry import register

STAGES = ((64, 2), (128, 2), (256, 4), (512, 4), (512, 4))  # channels, convolutions; a pooling after each stage
HIDDEN = 4096


@register("vgg19bn")
class VGG19BN(nn.Module):
    """Logits of VGG-19 with batch normalisation: (N, channels, H, W) -> (N, classes).

    39,327,652 parameters for 100 classes. Simonyan and Zisserman 2015, initialised as in torchvision. The head begins
    with the mean of the last map. torchvision's, which the paper's repository used as it is, blows that map up to 7x7
    pixels: those of a 32x32 image are 49 times the same one, so its first layer has 49 weights for each of ours, which
    is their sum, and the network 139,991,716 parameters for no function more. Poolings round up, so that maps of one
    pixel pass.
    """

    def __init__(self, classes, channels=3, width=1.0, depth=1.0):
        super().__init__()
        from torchvision.models.vgg import make_layers  # here: the zoo alone needs no torchvision

        layers = []
        for outputs, blocks in STAGES:
            layers += [scaled(outputs, width)] * repeated(blocks, depth) + ["M"]
        self.features = make_layers(layers, batch_norm=True)
        self.features[0] = nn.Conv2d(channels, layers[0], 3, padding=1)
        for layer in self.features:
            if isinstance(layer, nn.MaxPool2d):
                layer.ceil_mode = True
        self.classifier = nn.Sequential()
        inputs, hidden = layers[-2], scaled(HIDDEN, width)
        for _ in range(2):
            self.classifier.extend([nn.Linear(inputs, hidden), nn.ReLU(inplace=True), nn.Dropout(0.5)])
            inputs = hidden
        self.classifier.append(nn.Linear(inputs, classes))
        he_normal(self)
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, 0, 0.01)
            if isinstance(layer, nn.Linear | nn.Conv2d):
                nn.init.zeros_(layer.bias)

    def forward(self, x):
        return self.classifier(self.features(x).mean((2, 3)))
