"""How fast arithmetic is done: the precision of a device, a teacher made ready to answer, a GPU's recorded kernels."""

import copy
import re
from collections import Counter
from contextlib import contextmanager, nullcontext
from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch.fx.experimental.optimization import fuse
from torch.overrides import TorchFunctionMode

PRECISIONS = ("float32", "bfloat16", "auto")
WARM_UP = 3  # calls before a CUDA graph is recorded, in which libraries choose their kernels and optimisers their state


def default_device():
    """The GPU when there is one, else the CPU, as a string."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def resolve(precision, device):
    """What ``precision`` means on ``device`` (a name or a torch.device): the string "float32" or "bfloat16".

    "auto" is bfloat16 where the hardware computes in it and float32 elsewhere; the other two mean themselves. bfloat16
    keeps the range of float32 with 8 significant bits instead of 24. Raises ValueError for any other ``precision``.
    Introduced in notebook 09.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"Unknown precision {precision!r}; choose one of: {', '.join(PRECISIONS)}.")
    if precision != "auto":
        return precision
    kind = torch.device(device).type
    if kind == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = kind == "cpu" and _cpu_has_bfloat16()
    return "bfloat16" if native else "float32"


@contextmanager
def autocast(device, precision):
    """A context in which a network on ``device`` trains in ``precision``; in float32 only rounding changes.

    Weights, gradients and batch statistics stay float32; convolutions and matrix products run in bfloat16, and so
    do the logits: make them float32 before the loss. On a CPU two kinds of depthwise convolution take another way to
    the same answer, because the gradient of the plain one has no fast kernel: on a map smaller than the kernel, and in
    bfloat16 with a stride. Raises ValueError as `resolve`. Introduced in notebook 09.
    """
    kind, low = torch.device(device).type, resolve(precision, device) == "bfloat16"
    detours = _Depthwise(thinned=low) if kind == "cpu" else nullcontext()
    with torch.autocast(kind, dtype=torch.bfloat16, enabled=low), detours:
        yield


class _Depthwise(TorchFunctionMode):
    """Pads a map that is smaller than its depthwise kernel before the convolution, which then has no padding left.

    Where ``thinned``, a convolution with a stride is computed without it, and every second pixel taken (of stride 2).
    """

    def __init__(self, thinned):
        super().__init__()
        self.thinned = thinned

    def __torch_function__(self, func, types, args=(), kwargs=None):
        # the seven arguments that torch.nn.Conv2d gives: images, weight, bias, stride, padding, dilation, groups
        if func is not torch.conv2d or len(args) < 7 or not 1 < args[6] == args[0].shape[1] or isinstance(args[4], str):
            return func(*args, **(kwargs or {}))
        images, weight, bias, (down, across), (above, beside), *rest = args
        if min(images.shape[2:]) < max(weight.shape[2:]) and above + beside:
            images, above, beside = F.pad(images, (beside, beside, above, above)), 0, 0
        thin = self.thinned and max(down, across) > 1
        maps = func(images, weight, bias, (1, 1) if thin else (down, across), (above, beside), *rest)
        return maps[:, :, ::down, ::across].contiguous(memory_format=torch.channels_last) if thin else maps


def frozen(model, precision, device):
    """A copy of ``model`` that only answers, fast: a module with images (N, C, H, W) -> float32 logits (N, classes).

    Evaluation mode, no gradients, on ``device``, in ``precision`` and channels-last; every batch normalisation that
    follows a convolution is folded into its weights where the network can be traced. ``model`` stays as it is. Raises
    ValueError as `resolve`. (`answering.frozen` knows 8 bits, too.) Introduced in notebook 09.
    """
    return _Frozen(model, resolve(precision, device), device)


class Captured:
    """``function`` with its kernels on a GPU recorded once, as a CUDA graph, and then started all at one stroke.

    Called like ``function``, with tensors and numbers, and with the same effects on what it changes (weights, buffers).
    For each shape of the tensors, the first `WARM_UP` calls start the kernels one by one, the next one records them.
    From then on what a call returns is overwritten by the next one, and the memory of one call stays taken.
    ``function`` must neither wait for the GPU nor choose by values, and reads numbers as scalar tensors; one that makes
    gradients is to be called in a `Lanes`. For tensors on a CPU it is just called. Introduced in notebook 09.
    """

    def __init__(self, function):
        self._function, self._calls, self._graphs = function, Counter(), {}
        self._stream = self._pool = None

    @property
    def graphs(self):
        """How many shapes were recorded."""
        return len(self._graphs)

    def __call__(self, *arguments):
        device = next(argument.device for argument in arguments if isinstance(argument, torch.Tensor))
        if device.type != "cuda":
            return self._function(*arguments)
        shapes = tuple(getattr(argument, "shape", None) for argument in arguments)
        if shapes not in self._graphs:
            self._calls[shapes] += 1
            own = [a if isinstance(a, torch.Tensor) else torch.full((), float(a), device=device) for a in arguments]
            if self._calls[shapes] <= WARM_UP:
                return self._function(*own)
            self._graphs[shapes] = self._recorded([tensor.to(device, copy=True) for tensor in own])
        graph, inputs, returned = self._graphs[shapes]
        for own, argument in zip(inputs, arguments, strict=True):
            (own.copy_ if isinstance(argument, torch.Tensor) else own.fill_)(argument)
        graph.replay()
        return returned

    def _recorded(self, inputs):
        # a stream of its own, because the scratch memory of matrix products belongs to the stream of the recording, and
        # graphs that run side by side must not share it; one memory for all shapes, because these never do
        self._stream = self._stream or torch.cuda.Stream(inputs[0].device)
        self._pool = self._pool or torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
            returned = self._function(*inputs)
        return graph, inputs, returned


def recordable(model):
    """Whether a graph can stand for ``model``: nothing looks on when it answers, and it draws no random numbers.

    Python's forward hooks are not called when kernels are replayed, and graphs that run side by side take each other's
    random numbers (dropout) in some versions of PyTorch.
    """
    return not any(
        layer._forward_hooks or layer._forward_pre_hooks or (layer.training and "Dropout" in type(layer).__name__)
        for layer in model.modules()
    )


class Lanes:
    """``count`` queues of work on a GPU, which run side by side; on a CPU what is asked is done in turn.

    ``with lanes[i]:`` asks for work that waits for all that was asked outside before; `join` makes what is asked
    outside from then on wait for all lanes. Introduced in notebook 09.
    """

    def __init__(self, count, device):
        self._streams = [torch.cuda.Stream(device) for _ in range(count)] if torch.device(device).type == "cuda" else []

    def __getitem__(self, number):
        if not self._streams:
            return nullcontext()
        self._streams[number].wait_stream(torch.cuda.current_stream(self._streams[number].device))
        return torch.cuda.stream(self._streams[number])

    def join(self):
        """Let the work outside wait for all lanes."""
        for stream in self._streams:
            torch.cuda.current_stream(stream.device).wait_stream(stream)


class _Frozen(torch.nn.Module):
    def __init__(self, model, precision, device):
        super().__init__()
        self.precision, self.dtype = precision, getattr(torch, precision)
        self.network = folded(model).requires_grad_(False)
        self.network.to(device, self.dtype, memory_format=torch.channels_last)

    def train(self, mode=True):
        """It stays in evaluation mode: a folded batch normalisation has no other."""
        return super().train(False)

    def forward(self, images):
        with torch.inference_mode():
            logits = self.network(images.to(self.dtype, memory_format=torch.channels_last))
        return logits.to(torch.float32, copy=True)  # a copy made outside, which a loss may keep for its gradient


def folded(model):
    """A copy of ``model`` in evaluation mode, each batch normalisation folded into the convolution before it.

    Where control flow depends on values, so that it cannot be traced, only a copy.
    """
    model = copy.deepcopy(model).eval()
    try:
        return fuse(model, inplace=True)
    except Exception:
        return model


@cache
def _cpu_has_bfloat16():
    """Whether the processor says that it multiplies bfloat16 numbers; False where it cannot be asked."""
    try:
        return bool(re.search(r"\b(avx512_bf16|amx_bf16|bf16)\b", Path("/proc/cpuinfo").read_text()))
    except OSError:
        return False
