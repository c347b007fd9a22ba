"""Options, the order of worth, the fixture that every benchmark uses, and the table at the end."""

import statistics
import time
from pathlib import Path

import harness
import pytest
import torch

from stkd_utils import profiling, quantise
from stkd_utils.clock import wait

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


def pytest_collection_modifyitems(items):
    """The step comes first and the precision, which takes longest, last: what is cut off has the most telling rows."""
    items.sort(key=lambda item: (item.path.stem != "bench_step", item.path.stem == "bench_precision"))


def pytest_terminal_summary(terminalreporter, config):
    rows = config.stash[ROWS]
    if rows:
        terminalreporter.write_line("")
        for line in harness.table(rows):
            terminalreporter.write_line(line)


@pytest.fixture
def quick(pytestconfig):
    """Whether only the harness is to be tried."""
    return pytestconfig.getoption("--quick")


@pytest.fixture
def device(pytestconfig):
    """The device under test, a name."""
    return pytestconfig.getoption("--device")


@pytest.fixture
def cpu_only(device):
    """For what is measured on the processor alone: a GPU's table and history leave it out."""
    if torch.device(device).type == "cuda":
        pytest.skip("this is a matter of the processor")


@pytest.fixture
def shape(quick, device):
    """Sizes of networks and batch, and the device."""
    return (SMALL if quick else {}) | {"device": device}


@pytest.fixture(autouse=True)
def prepared(request, quick, monkeypatch):
    """To show that all runs, it is enough that some benchmarks prepare a teacher in int8, which takes seconds."""
    if quick and not request.node.name.startswith(("test_product", "test_accuracy_with_a_teacher")):
        monkeypatch.setattr(quantise, "missing", lambda: "A quick try does without int8.")


@pytest.fixture
def add(pytestconfig):
    """A function with the arguments of `harness.row` that adds a row to the table, and at once to the history."""
    device, history = pytestconfig.getoption("--device"), pytestconfig.getoption("--history")

    def added(*args, **kwargs):
        row = harness.row(*args, device=device, **kwargs)
        pytestconfig.stash[ROWS].append(row)
        if history:
            harness.append([row], history)

    return added


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
            wait(device)

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
        if hasattr(against, "reference"):
            more["reference"] = against.reference
        add(name, group, n=rounds, median=median, images=images, ratio=ratio, **spread, **more)
        harness.check(ratio, None if quick else floor, again)

    return run
