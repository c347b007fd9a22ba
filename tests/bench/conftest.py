"""Options, the fixture that every benchmark uses, and the table at the end."""

import statistics
import time
from pathlib import Path

import harness
import pytest
import torch

from stkd_utils import profiling

ROWS = pytest.StashKey()
SMALL = {"classes": 10, "size": 16, "batch": 16, "width": 0.25}


def pytest_addoption(parser):
    group = parser.getgroup("the book's benchmarks")
    group.addoption("--quick", action="store_true", help="tiny networks: shows that all runs, promises nothing")
    group.addoption("--history", type=Path, help="file of JSON lines that gets one line per benchmark")
    group.addoption("--device", default="cpu", help="where the networks run")
    group.addoption("--threads", type=int, help="threads of PyTorch (default: its own choice)")


def pytest_configure(config):
    config.stash[ROWS] = []
    if config.getoption("--threads", None):
        torch.set_num_threads(config.getoption("--threads"))


def pytest_terminal_summary(terminalreporter, config):
    rows = config.stash[ROWS]
    if rows:
        terminalreporter.write_line("")
        for line in harness.table(rows):
            terminalreporter.write_line(line)
    if rows and config.getoption("--history", None):
        harness.append(rows, config.getoption("--history"))


@pytest.fixture
def quick(pytestconfig):
    """Whether only the harness is to be tried."""
    return pytestconfig.getoption("--quick")


@pytest.fixture
def device(pytestconfig):
    """The device under test, a name."""
    return pytestconfig.getoption("--device")


@pytest.fixture
def shape(quick, device):
    """Sizes of networks and batch, and the device."""
    return (SMALL if quick else {}) | {"device": device}


@pytest.fixture
def add(pytestconfig):
    """A function with the arguments of `harness.row` that adds a row to table and history."""
    device = pytestconfig.getoption("--device")
    return lambda *args, **kwargs: pytestconfig.stash[ROWS].append(harness.row(*args, device=device, **kwargs))


@pytest.fixture
def race(benchmark, quick, device, add):
    """Times a call beside its reference: before each of its rounds the reference runs once, under the same load.

    ``clock`` of the reference has to be the one that the benchmark's marker names.
    """

    def run(name, group, call, against=None, *, images=None, floor=None, rounds=5, clock=time.perf_counter, **more):
        rounds, reference = 2 if quick else rounds, []

        def before():
            if against:
                reference.append(harness.seconds(against, device, clock))

        def whole():
            call()
            profiling.wait(device)

        benchmark.group, benchmark.name = group, name
        benchmark.pedantic(whole, setup=before, rounds=rounds, warmup_rounds=profiling.warm_up(device))
        median = benchmark.stats["median"]
        ratio = statistics.median(reference[-rounds:]) / median if against else None

        def again():
            slow, fast = harness.in_turn(against, call, rounds, device, clock)
            return slow / fast

        # recorded is what was measured first, whatever a second try says: the better of two would flatter
        times = benchmark.stats.stats.data
        spread = harness.quartiles(times)
        if against:
            turns = harness.quartiles([slow / fast for slow, fast in zip(reference[-rounds:], times, strict=True)])
            spread |= {f"ratio_{key}": value for key, value in turns.items()}
        add(name, group, n=rounds, median=median, images=images, ratio=ratio, **spread, **more)
        harness.check(ratio, None if quick else floor, again)

    return run
