"""DenseNets for small images: torchvision's with another stem."""

from torch import nn
from torch.nn import functional as F

from stkd_utils.models.layers import repeated, scaled
from stkd_utils.models.registry import register


class DenseNet(nn.Module):
    """Logits of a DenseNet-BC whose stem is one 3x3 convolution: (N, channels, H, W) -> (N, classes).

    Subclasses say how many ``layers`` each of the four blocks has and how many channels a layer adds (``growth``). The
    stem has twice as many. Three average poolings halve the map, so images have 8 pixels a side or more. Blocks and
    initialisation are torchvision's; unlike in the paper's repository its transitions have a ReLU, as in Huang et al.
    """

    layers, growth = (), 32

    def __init__(self, classes, channels=3, width=1.0, depth=1.0):
        super().__init__()
        from torchvision.models import densenet  # here: the zoo alone needs no torchvision

        growth = scaled(self.growth, width)
        layers = [repeated(count, depth) for count in self.layers]
        network = densenet.DenseNet(growth, layers, 2 * growth, num_classes=classes)
        self.features, self.classifier = network.features, network.classifier
        self.features.conv0 = nn.Conv2d(channels, 2 * growth, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(self.features.conv0.weight)
        del self.features.norm0, self.features.relu0, self.features.pool0  # each block begins with its own

    def forward(self, x):
        return self.classifier(F.relu(self.features(x), inplace=True).mean((2, 3)))


@register("densenet121")
class DenseNet121(DenseNet):
    """Logits of DenseNet-121 in the form of `DenseNet`: (N, channels, H, W) -> (N, classes).

    7,048,548 parameters for 100 classes. Huang et al. 2017.
    """

    layers = (6, 12, 24, 16)


@register("densenet161")
class DenseNet161(DenseNet):
    """Logits of DenseNet-161 in the form of `DenseNet`: (N, channels, H, W) -> (N, classes).

    26,681,188 parameters for 100 classes. Huang et al. 2017.
    """

    layers, growth = (6, 12, 36, 24), 48


@register("densenet169")
class DenseNet169(DenseNet):
    """Logits of DenseNet-169 in the form of `DenseNet`: (N, channels, H, W) -> (N, classes).

    12,643,172 parameters for 100 classes. Huang et al. 2017.
    """

    layers = (6, 12, 32, 32)


@register("densenet201")
class DenseNet201(DenseNet):
    """Logits of DenseNet-201 in the form of `DenseNet`: (N, channels, H, W) -> (N, classes).

    18,277,220 parameters for 100 classes. Huang et al. 2017.
    """

    layers = (6, 12, 48, 32)
