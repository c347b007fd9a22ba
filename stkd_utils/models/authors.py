"""The weights that the paper's authors published, in the networks of this package.

They are files ``*.pth.tar`` of PyTorch in figshare item 22761962 (`SOURCE`), which hold ``epoch``, ``state_dict`` and
``optim_dict``. Names and shapes of their ResNet18, MobileNetV2 and ShuffleNetV2 are those of our resnet18, mobilenetv2
and shufflenetv2, so each key means itself; the prefix ``module.``, which training on several GPUs adds, is removed.
"""

from dataclasses import dataclass

import torch

from stkd_utils.models.registry import build

SOURCE = (
    "https://figshare.com/articles/online_resource/Pretrained_Models_for_the_paper_Mitigating_Carbon_Footprint_for_"
    "Knowledge_Distillation-Based_Deep_Learning_Model_Compression_accepted_into_PLOS_one_/22761962"
)
LAYERS = {"linear": "resnet18", "conv2": "mobilenetv2", "fc": "shufflenetv2"}  # that give the logits
CIFAR = ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762))  # mean and standard deviation of CIFAR-100, for both
NORMALISATION = {"cifar10": CIFAR, "cifar100": CIFAR}


class WeightsError(ValueError):
    """A file that does not hold the weights of the network that was asked for; the message says what it holds."""


@dataclass(frozen=True)
class Published:
    """What a file holds: the ``name`` of the network, its ``classes``, its ``epoch`` (None: not said), ``state``."""

    name: str
    classes: int
    epoch: int | None
    state: dict


def read_authors(path):
    """What the checkpoint at ``path`` is, as `Published`, told by its last layer.

    Read with ``weights_only=True``: a file cannot run code. Raises WeightsError, in one sentence, for a file that is
    absent, is no such checkpoint, or holds none of the three networks.
    """
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise WeightsError(f"There is no file {path}; the authors' weights are at {SOURCE}.") from None
    except Exception as error:  # torch raises RuntimeError, EOFError, UnpicklingError, OSError and more for other files
        raise WeightsError(f"{path} is not a checkpoint that PyTorch reads safely ({type(error).__name__}).") from error
    state = found.get("state_dict") if isinstance(found, dict) else None
    if not isinstance(state, dict) or not all(map(_is_weight, state.items())):
        raise WeightsError(f"{path} is not a checkpoint of the authors: it has no weights under 'state_dict'.")
    state = {key.removeprefix("module."): value for key, value in state.items()}
    layer = next((layer for layer in LAYERS if f"{layer}.bias" in state and state[f"{layer}.bias"].dim() == 1), None)
    if layer is None:
        raise WeightsError(f"{path} holds none of {', '.join(LAYERS.values())}: it has none of their last layers.")
    return Published(LAYERS[layer], len(state[f"{layer}.bias"]), found.get("epoch"), state)


def load_authors(path, name, classes):
    """The network called ``name`` for ``classes`` classes with the authors' weights from ``path``, in evaluation mode.

    On the CPU, for 3 channels, as `build` makes it. Raises WeightsError as `read_authors`, and, naming the first key
    that does not fit, when the file holds another network or another number of classes.
    """
    if name not in LAYERS.values():
        raise WeightsError(f"The authors' weights fit {', '.join(LAYERS.values())}; got {name!r}.")
    state = read_authors(path).state
    network = build(name, classes, seed=0)
    if problem := _mismatch({key: value.shape for key, value in network.state_dict().items()}, state):
        raise WeightsError(f"{path} does not hold {name} for {classes} classes: {problem}.")
    network.load_state_dict(state)
    return network.eval()


def _is_weight(entry):
    key, value = entry
    return isinstance(key, str) and isinstance(value, torch.Tensor)


def _mismatch(shapes, state):
    for key, shape in shapes.items():
        if key not in state:
            return f"'{key}' is missing"
        if state[key].shape != shape:
            return f"'{key}' has shape {tuple(state[key].shape)} instead of {tuple(shape)}"
    return next((f"it has '{key}', which that network has not" for key in state if key not in shapes), None)
