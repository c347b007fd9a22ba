"""Static int8 quantisation after training: convolutions and linear layers that multiply whole numbers of 8 bits.

PyTorch's own place for this is torchao (its "PT2E" flow: export, observe, convert), which this book can do without:
`missing` says what is lacking. A real value r is kept as q = round(r / scale) + zero point, weights with a scale per
output channel, activations with one scale per tensor, found by looking at calibration images.

Two forms come out. The first computes what 8 bits would give with numbers of 32 bits ("reference arithmetic"): it shows
the accuracy, runs everywhere, and is slower than the network it came from. The second really multiplies in 8 bits, on
an x86 processor with Linux: compiled for it, which needs a C++ compiler, or put together from PyTorch's own kernels, as
a frozen teacher is (`answering`). Introduced in notebook 08.
"""

import copy
import logging
import os
import platform
import shutil
import sys
import warnings
from contextlib import contextmanager
from functools import cache

import torch
from torch import nn

from . import data
from .seeding import generator

FAST = ("avx512_vnni", "avx_vnni", "amx_int8")  # processors that add products of 8 bits in 32


class QuantiseError(RuntimeError):
    """The network cannot be quantised, or not be compiled, on this machine; the message says what to do."""


class Quantised(nn.Module):
    """A network in int8, reference arithmetic: images (N, C, H, W) float32 -> logits (N, classes) float32.

    ``bits`` is 8, or 7 where activations keep clear of the range's upper half (see `saturates`); weights have 8.
    """

    how = "int8 in reference arithmetic"

    def __init__(self, network, bits):
        super().__init__()
        self.network, self.bits = network, bits
        self.training = False

    def train(self, mode=True):
        """It stays as it is: what was measured for int8 holds in evaluation only."""
        return self

    def forward(self, images):
        return self.network(images)


class Lowered:
    """A `Quantised` network made ready for one shape of batch: images (N, C, H, W) -> logits (N, classes), any N.

    It computes in whole batches; the last one is filled up with zeros whose answers are dropped.
    """

    def __init__(self, call, images, how):
        self.call, self.shape, self.how = call, tuple(images.shape), how
        self._batch(images)

    def __call__(self, images):
        return torch.cat([self._batch(part) for part in images.split(self.shape[0])])

    def _batch(self, images):
        # the compiler tells tensors of inference mode from others, so it is always shown the others
        with torch.inference_mode(False), torch.no_grad():
            whole = torch.zeros(self.shape)
            whole[: len(images)] = images
            return self.call(whole)[: len(images)]


@cache
def missing():
    """One sentence about what `static` lacks here, or None. Introduced in notebook 08."""
    try:
        _torchao()
    except Exception as error:  # an old torchao beside a new torch fails in many ways
        return f"Quantisation needs torchao, which could not be imported ({error}): run pip install torchao."
    return None


def no_kernels():
    """One sentence about why this machine has no fast int8, or None. Introduced in notebook 09."""
    if not sys.platform.startswith("linux") or platform.machine() not in ("x86_64", "AMD64"):
        return "Fast int8 is for x86 processors with Linux."
    return missing()


@cache
def no_compiler():
    """One sentence about what `lowered` lacks here, or None. Introduced in notebook 08."""
    if no_kernels():
        return f"{no_kernels()} Here it stays in reference arithmetic."
    if not any(map(shutil.which, filter(None, (os.environ.get("CXX"), "g++", "clang++")))):
        return "Fast int8 needs a C++ compiler: install g++, or go on in reference arithmetic."
    return None


@cache
def saturates():
    """Whether this processor adds pairs of 8-bit products in 16 bits, where large ones are cut off.

    True for x86 processors without VNNI, and where that cannot be asked. Introduced in notebook 08.
    """
    ask = getattr(torch.cpu, "get_capabilities", dict)
    able = ask()
    return not any(able.get(name) for name in FAST)


def default_bits():
    """Bits of activations where nobody says: 7 where this processor `saturates`, else 8. Introduced in notebook 08."""
    return 7 if saturates() else 8


def calibration(dataset, images=None, *, batch_size=64, seed=0):
    """Normalised batches, (N, C, H, W) on the CPU, of ``images`` training images of a `data.Dataset`: a list.

    Drawn by ``seed``, without augmentation; validation and test images are never looked at. None means 256 images, or
    all where there are fewer; raises ValueError when there are not so many. Introduced in notebook 08.
    """
    have = len(dataset.train)
    images = min(256, have) if images is None else images
    if not 1 <= images <= have:
        raise ValueError(f"Calibration takes between 1 and {have} training images; got {images!r}.")
    chosen = torch.randperm(have, generator=generator(seed, "calibration"))[:images].to(dataset.device)
    shown = data.normalise(dataset.train.images[chosen], dataset.mean, dataset.std)
    return list(shown.cpu().split(batch_size))


def static(model, batches, *, bits=None):
    """``model`` with weights and activations in int8, a `Quantised` module on the CPU; ``model`` stays as it is.

    ``batches`` is a list of normalised images (N, C, H, W) from which the ranges of activations are learned. ``bits``
    of activations: 8, or 7, which is what None means where the processor `saturates`. Batch normalisation is folded
    into convolutions on the way. Raises `QuantiseError` without torchao and for a network that cannot be exported.
    Introduced in notebook 08.
    """
    if missing():
        raise QuantiseError(missing())
    bits = bits or default_bits()
    if bits not in (7, 8):
        raise ValueError(f"Activations have 8 bits or 7; got {bits!r}.")
    prepare, convert, quantiser, configuration, _ = _torchao()
    frozen = copy.deepcopy(model).to("cpu", memory_format=torch.contiguous_format).eval().requires_grad_(False)
    exported = _exported(frozen, batches)
    try:
        # its own random numbers: somebody who trains by hand draws the same ones with and without it
        with torch.no_grad(), torch.random.fork_rng(devices=[]), _quietly():
            observed = prepare(exported, quantiser(configuration(reduce_range=bits == 7)))
            for images in batches:
                observed(images.cpu())
            network = convert(observed)
    except Exception as error:
        raise QuantiseError(f"{type(model).__name__} cannot be quantised by torchao: {_said(error)}.") from error
    return Quantised(_pruned(network), bits)


def lowered(quantised, images):
    """A `Quantised` network compiled for batches shaped as ``images`` (N, C, H, W): a `Lowered` callable.

    Takes some seconds, and a C++ compiler. Raises `QuantiseError` without one. Introduced in notebook 08.
    """
    if no_compiler():
        raise QuantiseError(no_compiler())
    compiled = torch.compile(quantised.network, dynamic=False)
    try:
        # weights must be constants of the program; torch documents this switch, and `options` reach only half of it
        with _quietly(), torch._inductor.config.patch(freezing=True):
            ready = Lowered(compiled, images, "int8 kernels, compiled")
    except Exception as error:
        raise QuantiseError(f"The compiler gave up ({_said(error)}): go on in reference arithmetic.") from error
    # compiled anew it would compute in 32 bits: an error is better than a slow answer
    ready.call = torch.compiler.set_stance("fail_on_recompile")(compiled)
    return ready


def assembled(quantised, images):
    """A `Quantised` network of PyTorch's own int8 kernels, for batches shaped as ``images`` (N, C, H, W): a `Lowered`.

    Needs no compiler. Fast where maps stay in 8 bits from layer to layer (`answering.unable` says where they do not).
    Raises `QuantiseError` on a processor without such kernels. Introduced in notebook 09.
    """
    if no_kernels():
        raise QuantiseError(no_kernels())
    try:
        with _quietly():
            *_, lower = _torchao()
            network = lower(quantised.network, (images,))
            for node in network.graph.find_nodes(op="call_function", target=torch.ops.aten.view.default):
                node.target = torch.ops.aten.reshape.default  # the kernels' maps are stored channels-last
            network.recompile()
            return Lowered(network, images, "int8 kernels")
    except Exception as error:
        raise QuantiseError(f"The network cannot be put together from int8 kernels ({_said(error)}).") from error


def _said(error):
    return str(error).strip().splitlines()[0] if str(error) else type(error).__name__


def _torchao():
    with _quietly():
        from torchao.quantization.pt2e.lowering import lower_pt2e_quantized_to_x86
        from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
        from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

    def quantiser(configuration):
        return x86.X86InductorQuantizer().set_global(configuration)

    configuration = x86.get_default_x86_inductor_quantization_config
    return prepare_pt2e, convert_pt2e, quantiser, configuration, lower_pt2e_quantized_to_x86


def _exported(model, batches):
    example = torch.cat([batches[0][:1].cpu()] * 2)  # two images: a batch of one would be taken for a constant
    try:
        any_batch = {0: torch.export.Dim.DYNAMIC}
        return torch.export.export(model, (example,), dynamic_shapes=(any_batch,)).module()
    except Exception as error:
        raise QuantiseError(f"{type(model).__name__} cannot be exported by torch.export: {error}") from error


def _pruned(network):
    """The graph without the float weights that it no longer reads."""
    used = {node.target for node in network.graph.nodes if node.op == "get_attr"}
    for name in {*network.state_dict(), *(name for name, _ in network.named_buffers())} - used:
        path, _, last = name.rpartition(".")
        delattr(network.get_submodule(path), last)
    return network


@contextmanager
def _quietly():
    """Warnings that torch and torchao give about their own code are not for the reader of a notebook."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(record=True):
            yield
    finally:
        logging.disable(before)
