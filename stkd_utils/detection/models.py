"""SSD networks: a light student on MobileNetV2 and a heavy teacher on VGG16, with the same priors."""

import hashlib
from functools import partial
from pathlib import Path

import torch
from torch import nn
from torchvision.models import MobileNet_V2_Weights, MobileNetV2, VGG16_BN_Weights, VGG16_Weights
from torchvision.models.mobilenetv2 import InvertedResidual
from torchvision.models.vgg import make_layers
from torchvision.ops import Conv2dNormActivation

from stkd_utils.detection import boxes
from stkd_utils.models.layers import ReLU6, repeated, scaled
from stkd_utils.seeding import stream_seed
from stkd_utils.sources import DataDamaged, deliver, root_folder

VGG_STAGES = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))  # channels, convolutions; a pooling between two stages
VGG_EXTRAS = ((256, 512), (128, 256), (128, 256), (128, 256), (128, 256))  # channels inside and of the map

MOBILE_STAGES = (  # expansion, channels, blocks, stride of the first block
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
MOBILE_EXTRAS = ((0.2, 512), (0.25, 256), (0.5, 256), (0.25, 64))  # expansion, channels; each halves the map


def maps(size):
    """Side lengths of the square feature maps for images of ``size`` pixels: 300 gives 19, 10, 5, 3, 2, 1.

    Each is half of the one before, rounded up; the last of at most six has one pixel, so that small images have fewer:
    64 gives 4, 2, 1. Raises ValueError where the first map would have a single pixel, or the networks' first maps would
    differ (VGG16 rounds some halves down, MobileNetV2 none). Introduced in notebook 05.
    """
    first = -(-size // 16)
    if first < 2 or first != -(-(size // 4) // 2) // 2:
        raise ValueError(f"Images of {size} pixels do not fit all networks; choose 300 or a multiple of 16 above 16.")
    sides = [first]
    while sides[-1] > 1 and len(sides) < boxes.MOST_MAPS:
        sides.append(-(-sides[-1] // 2))
    return sides


class VGG(nn.Module):
    """VGG16 down to stride 16, its fc6 and fc7 as convolutions, and up to five extras: (N, 3, S, S) -> ``count`` maps.

    Liu et al. 2016, section 3, without the map of conv4_3 (stride 8); pool3 rounds up, pool5 keeps the size, and fc6
    is dilated by 6, as there. ``norm`` is the layer after each convolution, None or `torch.nn.BatchNorm2d`.
    """

    def __init__(self, count, width, depth, norm):
        super().__init__()
        layers = []
        for outputs, blocks in VGG_STAGES:
            layers += [scaled(outputs, width)] * repeated(blocks, depth) + ["M"]
        self.features = make_layers(layers[:-1], batch_norm=norm is not None)
        [layer for layer in self.features if isinstance(layer, nn.MaxPool2d)][2].ceil_mode = True
        last, hidden = scaled(VGG_STAGES[-1][0], width), scaled(1024, width)
        convolution = partial(Conv2dNormActivation, norm_layer=norm, bias=True)
        fc6, fc7 = convolution(last, hidden, 3, dilation=6), convolution(hidden, hidden, 1)
        self.fc = nn.Sequential(nn.MaxPool2d(3, stride=1, padding=1), fc6, fc7)
        self.channels, self.extras = [hidden], nn.ModuleList()
        for inside, outputs in VGG_EXTRAS[: count - 1]:
            inside, outputs = scaled(inside, width), scaled(outputs, width)
            thin = convolution(self.channels[-1], inside, 1)
            self.extras.append(nn.Sequential(thin, convolution(inside, outputs, 3, stride=2)))
            self.channels.append(outputs)
        _each(self.features, partial(nn.init.kaiming_normal_, mode="fan_out", nonlinearity="relu"))
        _each(nn.ModuleList([self.fc, self.extras]), nn.init.xavier_uniform_)

    def forward(self, images):
        found = [self.fc(self.features(images))]
        for extra in self.extras:
            found.append(extra(found[-1]))
        return found

    @staticmethod
    def head(channels, outputs, last):
        """The dense prediction (N, channels, H, W) -> (N, outputs, H, W) of a map."""
        head = nn.Conv2d(channels, outputs, 3, padding=1)
        _each(head, nn.init.xavier_uniform_)
        return head


class MobileNet(nn.Module):
    """MobileNetV2 and up to four inverted residuals: (N, 3, S, S) -> ``count`` maps.

    The first map is the expansion of the first block of stride 32, the second the network's last layer. Sandler et al.
    2018, section 6.2, in the layout of qfgaohao/pytorch-ssd.
    """

    def __init__(self, count, width, depth):
        super().__init__()
        stages = [[t, c, repeated(blocks, depth), stride] for t, c, blocks, stride in MOBILE_STAGES]
        network = MobileNetV2(width_mult=width, inverted_residual_setting=stages)
        self.features, self.split = network.features, 1 + sum(stage[2] for stage in stages[:5])
        if width < 1:  # torchvision leaves its last layer wide
            last = partial(Conv2dNormActivation, kernel_size=1, activation_layer=nn.ReLU6)
            self.features[-1] = last(self.features[-1][0].in_channels, scaled(network.last_channel, width))
            _each(self.features[-1], partial(nn.init.kaiming_normal_, mode="fan_out"))
        self.channels = [self.features[self.split].conv[0].out_channels, self.features[-1].out_channels]
        self.extras = nn.ModuleList()
        for expansion, outputs in MOBILE_EXTRAS[: count - 2]:
            self.extras.append(InvertedResidual(self.channels[-1], scaled(outputs, width), 2, expansion))
            self.channels.append(scaled(outputs, width))
        _each(self.extras, _narrow)

    def forward(self, images):
        x = images
        for block in self.features[: self.split]:
            x = block(x)
        x = self.features[self.split].conv[0](x)
        found = [x]
        for layer in [*self.features[self.split].conv[1:], *self.features[self.split + 1 :]]:
            x = layer(x)
        found.append(x)
        for extra in self.extras:
            found.append(extra(found[-1]))
        return found

    @staticmethod
    def head(channels, outputs, last):
        """The separable prediction (N, channels, H, W) -> (N, outputs, H, W) of a map; 1x1 on the ``last``."""
        head = nn.Conv2d(channels, outputs, 1)
        if not last:
            head = nn.Sequential(
                Conv2dNormActivation(channels, channels, 3, groups=channels, activation_layer=nn.ReLU6), head
            )
        _each(head, _narrow)
        return head


def _narrow(weight):
    return nn.init.normal_(weight, std=0.03)


def _each(module, initialise):
    """Initialise the weights of all convolutions of ``module``, and set their biases to 0."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            initialise(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


class SSD(nn.Module):
    """Outputs of a single-shot detector: images (N, 3, S, S) -> float32 (N, P, 4 + 1 + classes).

    The first four are the offsets of a box from its prior (`boxes.decode`), the others logits with background first.
    ``priors`` (P, 4) are the boxes that they belong to, ``classes`` counts objects without background, ``size`` is S,
    ``weights`` names the ImageNet weights that fit (None where the network is scaled). Each map has its own heads.
    """

    def __init__(self, body, classes, size, weights=None):
        super().__init__()
        self.body, self.classes, self.size, self.weights = body, classes, size, weights
        self.box_heads, self.class_heads = (
            nn.ModuleList(
                body.head(c, boxes.PER_LOCATION * values, last=i == len(body.channels))
                for i, c in enumerate(body.channels, 1)
            )
            for values in (4, classes + 1)
        )
        self.register_buffer("priors", boxes.priors(maps(size)), persistent=False)
        for parent in list(self.modules()):
            for key, layer in parent.named_children():
                if isinstance(layer, nn.ReLU6):
                    setattr(parent, key, ReLU6(inplace=True))

    def forward(self, images):
        found = self.body(images)
        offsets = [_by_prior(head(x), 4) for head, x in zip(self.box_heads, found, strict=True)]
        logits = [_by_prior(head(x), self.classes + 1) for head, x in zip(self.class_heads, found, strict=True)]
        return torch.cat((torch.cat(offsets, dim=1), torch.cat(logits, dim=1)), dim=2).float()


def _by_prior(outputs, values):
    """(N, 6 * values, H, W) -> (N, H * W * 6, values), in the order of `boxes.priors`."""
    return outputs.permute(0, 2, 3, 1).flatten(1).unflatten(1, (-1, values))


_NETWORKS = {  # body, ImageNet weights, megabytes of their file
    "mobilenetv2ssdlite": (MobileNet, MobileNet_V2_Weights.IMAGENET1K_V1, 14),
    "ssd300vgg16": (partial(VGG, norm=None), VGG16_Weights.IMAGENET1K_V1, 528),
    "ssd300vgg16bn": (partial(VGG, norm=nn.BatchNorm2d), VGG16_BN_Weights.IMAGENET1K_V1, 528),
}


def names():
    """The known networks, sorted."""
    return sorted(_NETWORKS)


def build(name, classes, *, size=300, width=1.0, depth=1.0, seed=None):
    """A freshly initialised detector, an `SSD`.

    Parameters
    ----------
    name : str
        "mobilenetv2ssdlite" (3.38 M parameters and 1.32 GFLOPs an image with 20 classes at 300 pixels), "ssd300vgg16"
        (26.73 M, 61.42), or "ssd300vgg16bn", the same with batch normalisation, which trains from scratch.
    classes : int
        Number of object classes, without background.
    size : int
        Side of the square images in pixels. Networks of equal size have equal maps and priors.
    width, depth : float
        Factors on every channel count and on the number of layers of every stage, which keeps at least one.
    seed : int, optional
        As in `stkd_utils.models.build`: equal seeds give equal weights, and the global random state stays untouched.

    Raises ValueError for an unknown name (listing the known ones), a number that is not positive, or a size without
    equal maps (`maps`). Introduced in notebook 05.
    """
    _known(name)
    if min(classes, size, width, depth) <= 0:
        raise ValueError(f"Model sizes must be positive; got {classes=}, {size=}, {width=}, {depth=}.")
    maps(size)
    if seed is None:
        return _make(name, classes, size, width, depth)
    # torch.manual_seed would also reseed every GPU, which fork_rng(devices=[]) does not restore.
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(stream_seed(seed, "init"))
        return _make(name, classes, size, width, depth)


def _make(name, classes, size, width, depth):
    body, weights, _ = _NETWORKS[name]
    return SSD(body(len(maps(size)), width, depth), classes, size, weights if width == depth == 1 else None)


def _known(name):
    if name not in _NETWORKS:
        raise ValueError(f"Unknown detector {name!r}; choose one of: {', '.join(names())}.")


def _file(weights, root):
    return root_folder(root) / "weights" / Path(weights.url).name


def load_backbone(model, root=None):
    """Give ``model`` its ImageNet weights if their file lies in ``<root>/weights``; a sentence says what happened.

    Extras and heads keep their own. Nothing is downloaded (`fetch_backbone` does). ``root`` as in
    `stkd_utils.sources.root_folder`. Raises `DataDamaged` when the file's SHA-256 does not start as its name says.
    Introduced in notebook 05.
    """
    if model.weights is None:
        return "trained from scratch: a network of another width or depth has no ImageNet weights."
    file = _file(model.weights, root)
    if not file.is_file():
        return f"trained from scratch: {file.name} is not in {file.parent}."
    if not _digest(file).startswith(_prefix(file)):
        raise DataDamaged(f"{file} is damaged (its checksum is wrong); delete it and fetch it again.")
    state = torch.load(file, map_location="cpu", weights_only=True)
    start = "features."
    model.body.features.load_state_dict({k.removeprefix(start): v for k, v in state.items() if k.startswith(start)})
    return f"ImageNet weights loaded: {file.name}."


def fetch_backbone(name, root=None):
    """File that now holds the ImageNet weights of network ``name``; downloads and checks it if it is absent.

    Raises ValueError for an unknown name, `DataNotFound` when the file cannot be had. Introduced in notebook 05.
    """
    _known(name)
    _, weights, megabytes = _NETWORKS[name]
    file = _file(weights, root)
    if file.is_file():
        return file
    options = {"hash_prefix": _prefix(file), "progress": False}
    deliver(file.name, file.parent, megabytes, lambda: torch.hub.download_url_to_file(weights.url, file, **options))
    return file


def _prefix(file):
    """The first digits of the SHA-256 that PyTorch writes into a file's name: name-digits.pth."""
    return file.stem.rpartition("-")[2]


def _digest(file):
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while part := stream.read(2**20):
            digest.update(part)
    return digest.hexdigest()
