"""What a network costs to compute: parameters, MACs, FLOPs, latency.

One MAC is one multiplication and one addition, so two FLOPs. Convolutions and linear layers are counted, without their
biases, as in the paper. Left out are biases, batch normalisation, activations, pooling and additions: 0.3 % (ResNet-18)
to 5 % (students) more at 32x32, up to 19 % in the narrow networks for 8x8 digits.

Rule for training: the backward pass of a trained network costs twice its forward pass (the gradients of weights and of
inputs each repeat every multiplication once); a frozen teacher runs forward only. Images need no gradient, so the rule
is high by one forward pass of the first layer: at most 0.5 % of a training step of these networks at 32x32.
"""

import io
from contextlib import redirect_stderr, redirect_stdout
from copy import deepcopy
from dataclasses import dataclass

import numpy as np
import torch
from ptflops import get_model_complexity_info

from . import clock

FLOPS_PER_MAC = 2
PAPER_UNIT = 1e15  # the paper's column "GFLOPs (M)": one million times 1e9 FLOPs


@dataclass(frozen=True)
class Counts:
    """Size of a network: trainable and frozen ``parameters``, and ``macs`` of one image's forward pass."""

    parameters: int
    macs: int


@dataclass(frozen=True)
class Latency:
    """Seconds per image of a forward pass: the ``median`` of the repeats and their quartiles ``low`` and ``high``."""

    median: float
    low: float
    high: float


def count(model, shape):
    """Parameters and MACs of one image's forward pass, as `Counts`.

    ``shape`` is (channels, H, W). The network is copied to PyTorch's "meta" device, which knows shapes but holds no
    numbers: nothing is computed, and the given model keeps its device, its train or eval mode and its hooks.
    Counted at the level of PyTorch's operations (ptflops, back end "aten"), because hooks on layers miss a layer whose
    ``forward`` is called directly.

    Raises ValueError when the model does not accept such an image. Introduced in notebook 01.
    """
    spoken = io.StringIO()
    # Linear layers stay whole, and so unseen, in inference mode: count outside of it.
    with torch.inference_mode(False), torch.no_grad(), redirect_stdout(spoken), redirect_stderr(spoken):
        macs, _ = get_model_complexity_info(
            deepcopy(model).to("meta"),
            tuple(shape),
            as_strings=False,
            print_per_layer_stat=False,
            backend="aten",
            custom_modules_hooks={torch.ops.aten.convolution: _convolution, torch.ops.aten.addmm: _linear},
        )
    if macs is None:
        cause = spoken.getvalue().strip().splitlines()[-1]
        raise ValueError(f"Cannot count {type(model).__name__} on images of shape {tuple(shape)}: {cause}")
    return Counts(sum(parameter.numel() for parameter in model.parameters()), macs)


def _convolution(inputs, outputs):
    image, weight, transposed = inputs[0], inputs[1], inputs[6]
    return (image if transposed else outputs[0]).numel() * weight[0].numel()


def _linear(inputs, outputs):
    _, image, weight = inputs[:3]
    return image.numel() * weight.shape[1]


def flops(macs):
    """FLOPs of so many MACs: a multiplication and an addition each."""
    return FLOPS_PER_MAC * macs


def run_flops(*, student_macs, teacher_macs=0, images, epochs, backward=False):
    """FLOPs of one training run.

    Parameters
    ----------
    student_macs, teacher_macs : int
        MACs of one image's forward pass (`count`) of the network that is trained and of the frozen one, if any.
    images, epochs : int
        Training images seen in an epoch, and epochs.
    backward : bool
        False counts forward passes only, as the paper does (PLOS ONE 18(5) e0285668, Table 4); True adds the trained
        network's backward pass as two forward passes. Evaluation is not part of either.

    Introduced in notebook 01.
    """
    passes = 3 if backward else 1
    return flops(passes * student_macs + teacher_macs) * images * epochs


def paper_gflops_millions(*, student_macs, teacher_macs, images, epochs):
    """Cost of one distillation run in the paper's column "GFLOPs (M)": millions of GFLOPs, forward passes only.

    ResNet-18 and MobileNetV2 with 200 classes at 64x64, 100,000 images and 100 epochs: 48.75, as printed for Tiny
    ImageNet (PLOS ONE 18(5) e0285668, Table 4). Introduced in notebook 01.
    """
    run = run_flops(student_macs=student_macs, teacher_macs=teacher_macs, images=images, epochs=epochs)
    return run / PAPER_UNIT


def procedure_flops(run, runs, *, once=0):
    """FLOPs of a whole tuning procedure: ``runs`` trainings of ``run`` FLOPs each, and ``once`` FLOPs that all share.

    A grid of 19 temperatures is 19 runs. ``once`` is for work done a single time for all of them, such as a teacher
    whose logits are stored. Introduced in notebook 01.
    """
    return runs * run + once


def latency(model, shape, *, batch_size=1, repeats=30, warmup=5):
    """Seconds per image of a forward pass in eval mode, as `Latency`, on the model's own device.

    ``shape`` is (channels, H, W); images are random. ``warmup`` passes come first and are not timed. The given model
    keeps its train or eval mode. Introduced in notebook 02.
    """
    device = next(model.parameters()).device
    images = torch.randn(batch_size, *shape, device=device)
    copy = deepcopy(model).eval()
    with torch.inference_mode():
        seconds = [clock.seconds(lambda: copy(images), device) for _ in range(warmup + repeats)][warmup:]
    low, median, high = np.quantile(seconds, (0.25, 0.5, 0.75)) / batch_size
    return Latency(float(median), float(low), float(high))
