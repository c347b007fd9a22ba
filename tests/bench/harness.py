"""Times a call and its reference in turn, makes one row of what was seen, and one table of all rows."""

import os
import re
import statistics
import time
from functools import partial
from pathlib import Path

import torch

from stkd_utils import engine, environment, hardware, losses, profiling
from stkd_utils.clock import now, seconds
from stkd_utils.ledger_files import append_lines, dump
from stkd_utils.models import layers

GIVEN_BACK = {"STKD_SMALL_MEMORY": "1"}
COLUMNS = ("group", "name", "n", "seconds", "q1", "q3", "images/s", "ratio", "load", "threads", "note")


class Stacked(profiling.Pass):
    """The same pass with the ``students`` as one network: their weights stacked, and one kernel for all (vmap)."""

    def __init__(self, student, **shape):
        super().__init__(student, **shape)
        networks = [_plain(trainer.model) for trainer in self.trainers]
        parameters, self.buffers = torch.func.stack_module_state(networks)
        self.parameters = {name: value.detach().requires_grad_() for name, value in parameters.items()}
        self.optimiser = torch.optim.SGD(self.parameters.values(), 0.01, 0.9, weight_decay=5e-4, fused=True)
        self.answer = torch.func.vmap(partial(torch.func.functional_call, networks[0]), in_dims=(0, None))
        self.learn = engine.Captured(self._learn)

    def _learn(self, views, logits_t, labels):
        low = engine.resolve(self.trainers[0].precision, views.device) == "bfloat16"
        with torch.autocast(views.device.type, torch.bfloat16, enabled=low):
            logits = self.answer({**self.parameters, **self.buffers}, (views,)).float()
        terms = losses.hinton(
            logits.flatten(0, 1), logits_t.repeat(len(logits), 1), labels.repeat(len(logits)), 4.0,
            hard_weight=0.05, soft_weight=0.95,
        )  # fmt: skip
        (losses.total(terms) * len(logits)).backward()
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)

    def _step(self, batch):
        logits_t = self.trainers[0].objective.teacher(batch)
        with self.lanes[0]:
            self.learn(batch.views, logits_t, batch.labels)
        self.lanes.join()


def _plain(network):
    """The same network of layers that vmap understands."""
    for layer in layers.plain(network).modules():
        if isinstance(layer, torch.nn.ReLU6):
            layer.inplace = False
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.forward = partial(_without_cudnn, layer.forward)
    return network


def _without_cudnn(forward, x):
    with torch.backends.cudnn.flags(enabled=False):  # vmap cannot ask whether cuDNN would do it
        return forward(x)


def in_turn(first, second, rounds, device="cpu", clock=time.perf_counter):
    """Medians of ``rounds`` calls of ``first`` and of ``second``, which take turns, so that both meet the same load."""
    pairs = [(seconds(first, device, clock), seconds(second, device, clock)) for _ in range(rounds)]
    return tuple(statistics.median(times) for times in zip(*pairs, strict=True))


def busy(load=None, cores=None, threads=None):
    """Whether more programs want to run than this one, with ``threads``, needs, or nearly as many as ``cores``."""
    load = os.getloadavg()[0] if load is None else load
    cores, threads = cores or hardware.hardware()["threads"], threads or torch.get_num_threads()
    return load > max(threads + 0.5, 0.75 * cores)


def check(ratio, floor, again):
    """AssertionError if ``ratio`` is below ``floor``, and the one that ``again()`` measures where it is busy, too."""
    if floor and ratio < floor and busy():
        ratio = max(ratio, again())
    assert not floor or ratio >= floor, f"{ratio:.2f} times the reference is less than the {floor} that is promised"


def kernel_seconds(events):
    """Seconds that kernels ran, from the ``key_averages()`` of a profile.

    Operations on the CPU are left out, because they count the time of the kernels that they started once more, and so
    are annotations on the device, which span kernels.
    """
    kernels = (e for e in events if e.device_type == torch.autograd.DeviceType.CUDA and not e.is_user_annotation)
    return sum(event.self_device_time_total for event in kernels) / 1e6


def quartiles(times):
    """The fields q1 and q3 of a row: between them lies the middle half of ``times``."""
    q1, _, q3 = statistics.quantiles(times, n=4, method="inclusive") if len(times) > 1 else [times[0]] * 3
    return {"q1": q1, "q3": q3}


def row(name, group, *, n, median, images=None, ratio=None, **more):
    """One line of the history: what was timed, how often, on what, with which code."""
    return {
        "name": name,
        "group": group,
        "threads": torch.get_num_threads(),
        "n": n,
        "median_seconds": median,
        "images_per_second": images / median if images else None,
        "ratio": ratio,
        "load": round(os.getloadavg()[0], 2),
        **more,
        "hardware": hardware.hardware(),
        "packages": environment.packages(),
        "date": now(),
        "code": environment.code_digest(),
    }


def append(rows, path):
    """Add ``rows`` to the history, one JSON object a line."""
    append_lines(rows, path, "benchmark", dump)


def table(rows):
    """The rows as lines of text; what fits no column (a slope, a peak, a share) stands behind them as a note."""
    lines = [COLUMNS, *map(_cells, rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    aligns = "<<" + ">" * (len(COLUMNS) - 3) + "<"
    form = "  ".join(f"{{:{align}{width}}}" for align, width in zip(aligns, widths, strict=True))
    return [form.format(*line).rstrip() for line in lines]


def _cells(row):
    rate, ratio = row["images_per_second"], row["ratio"]
    return (
        row["group"],
        row["name"],
        str(row["n"]),
        *(f"{row[key]:.4f}" if row.get(key) else "" for key in ("median_seconds", "q1", "q3")),
        f"{rate:.0f}" if rate else "",
        f"{ratio:.2f}" if ratio else "",
        f"{row['load']:.1f}",
        str(row["threads"]),
        row.get("note", ""),
    )


def peak_gib():
    """The most memory that this process ever held, in GiB; None where the system does not say (it is not Linux)."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return None
    # not getrusage: what it gives to a new process starts at the memory of the program that started it
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 2**20
