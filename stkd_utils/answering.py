"""What a frozen teacher answers in: float32, bfloat16, or int8 where that is fast and its layers were tried.

A teacher only answers, so it can be rounded further than what learns from it. `engine.frozen` takes it out of the graph
and folds its batch normalisations; here 8 bits join the choice, made by `quantise`. Introduced in notebook 09.
"""

import copy
import operator

import torch
import torch.nn.functional as F
from torch import nn

from . import engine, environment, quantise

PRECISIONS = ("float32", "bfloat16", "int8")
TRIED = (
    nn.Conv2d, nn.ReLU, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.Flatten, nn.Linear, nn.Dropout,
    operator.add, operator.iadd, torch.add, F.relu, torch.relu, torch.flatten, "mean", "flatten",
)  # fmt: skip


def unable(model, device="cpu"):
    """One sentence about why `frozen` cannot answer in int8 for ``model`` on ``device``, and fast; or None.

    Only networks of such layers are able to as were tried: convolutions without groups, each activated before anything
    pools its map, ReLU, sums, pooling, flattening and linear layers, and batch normalisations that fold into what is
    before them. Elsewhere maps leave the 8 bits between layers, which is slower, or torchao gives up. Introduced in
    notebook 09.
    """
    if torch.device(device).type != "cpu":
        return "Answers in int8 are for processors; on a GPU set float32 or bfloat16."
    return quantise.no_kernels() or _untried(model)


def resolve(model, precision, device):
    """What ``precision`` means for a frozen ``model`` on ``device``: "float32", "bfloat16" or "int8".

    "auto" is what `engine.resolve` says, or int8 on a processor without bfloat16, for a model that is not `unable`; but
    not where memory is short (STKD_SMALL_MEMORY is set), for what prepares a network for it stays in memory. Raises
    ValueError for an unknown ``precision``. Introduced in notebook 09.
    """
    if precision == "int8":
        return precision
    found = engine.resolve(precision, device)
    free = (precision, found) == ("auto", "float32") and not environment.memory_counts()
    return "int8" if free and not unable(model, device) else found


def frozen(model, precision, device, dataset, batch=None):
    """`engine.frozen` with one more ``precision``: "int8", with ranges found on training images of ``dataset``.

    ``precision`` as in `resolve`. The network is quantised when it is asked for the first time, which takes 10 seconds
    or more and counts as work of whoever asks; in int8 it then computes ``batch`` images at once, None for as many as
    it was asked about first, and fills up what is less. Raises ValueError as `resolve`, and `quantise.QuantiseError`
    for "int8" where ``model`` is `unable`. Introduced in notebook 09.
    """
    if precision == "int8" and (reason := unable(model, device)):
        raise quantise.QuantiseError(reason)
    precision = resolve(model, precision, device)
    return _Answering(model, dataset, batch) if precision == "int8" else engine.frozen(model, precision, device)


class _Answering(nn.Module):
    """Images (N, C, H, W) -> logits float32 (N, classes), in int8; see `frozen`."""

    def __init__(self, model, dataset, batch):
        super().__init__()
        self.network = copy.deepcopy(model).eval().requires_grad_(False)
        self.precision = "int8" if quantise.default_bits() == 8 else "int8, activations of 7 bits"
        self.dataset, self.batch, self.program = dataset, batch, None

    def train(self, mode=True):
        """It stays in evaluation mode."""
        return super().train(False)

    def forward(self, images):
        if self.program is None:
            try:
                network = quantise.static(self.network, quantise.calibration(self.dataset))
                self.program = quantise.assembled(network, images[: self.batch])
            except quantise.QuantiseError as error:
                raise quantise.QuantiseError(f"{error} Set teacher_precision to float32.") from error
        return self.program(images)


def _untried(model):
    """One sentence about what in ``model`` is not known to stay in 8 bits; or None."""
    network, name = engine.folded(model), type(model).__name__
    if not isinstance(network, torch.fx.GraphModule):
        return f"{name} cannot be traced, so its maps cannot stay in int8."
    layers, called = dict(network.named_modules()), set()
    for node in network.graph.nodes:
        layer = layers[node.target] if node.op == "call_module" else None
        what = type(layer) if layer is not None else node.target
        said = getattr(what, "__name__", what)
        if node.op in ("placeholder", "output"):
            continue
        if what not in TRIED or node.op == "get_attr":
            return f"{name} has layers at which maps cannot stay in int8: {said}."
        if getattr(layer, "groups", 1) > 1 or isinstance(getattr(layer, "padding", 0), str):
            return f"{name} has convolutions with groups or named padding, between which maps cannot stay in int8."
        if "Pool" in str(said) and any(type(layers.get(before.target)) is nn.Conv2d for before in node.all_input_nodes):
            return f"{name} pools maps before they are activated, which keeps them from staying in int8."
        if layer is not None and node.target in called:
            return f"{name} calls one of its layers several times, which torchao cannot quantise."
        if len(node.all_input_nodes) < (2 if "add" in str(said) else 1):
            return f"{name} adds a map to itself or to a number, which torchao cannot quantise."
        called.add(node.target)
    return None
