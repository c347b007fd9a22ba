"""This moment, and the seconds of a call on a device that may work on its own."""

import time
from datetime import datetime, timezone

import torch


def now():
    """This moment in UTC, ISO 8601, to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def wait(device):
    """Return when ``device`` has done all that was asked of it."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def seconds(call, device="cpu", timer=None):
    """Seconds of ``call()`` by ``timer`` (None: `time.perf_counter`), until ``device`` is done; it is idle before."""
    timer = timer or time.perf_counter
    wait(device)
    started = timer()
    call()
    wait(device)
    return timer() - started
