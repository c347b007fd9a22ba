"""The meter: what a block cost, how it is known, and that metering never disturbs the work."""

import math
import os
import statistics
import subprocess
import sys
import threading
import time

import pytest
import torch

from stkd_utils.carbon import Meter, Reading
from stkd_utils.hardware import Source

UNSEEN = Source("not seen", "nothing there")


def found(cpu=UNSEEN, gpu=UNSEEN, ram=UNSEEN):
    return {"cpu": cpu, "gpu": gpu, "ram": ram}


def modelled(watts=36.0):
    return Source("modelled", f"half of {2 * watts:g} W", watts=watts)


class Joules:
    """A counter that the test sets by hand."""

    def __init__(self, value=0.0):
        self.value = value

    def __call__(self):
        if isinstance(self.value, Exception):
            raise self.value
        return self.value


def measured(counter, period=None):
    return Source("measured", "a counter", joules=counter, period=period)


def test_modelled_energy_is_power_times_time():
    meter = Meter(found=found(cpu=modelled(36.0)))
    with meter.block("train"):
        time.sleep(0.02)
    got = meter.cost("train")
    assert 0.02 <= got.seconds < 2
    assert got.components["cpu"] == Reading(36.0 * got.seconds / 3.6e6, "modelled", 36.0, "half of 72 W")
    assert got.energy_kwh == got.components["cpu"].kwh
    assert got.how == "modelled"


def test_measured_energy_is_the_difference_of_a_counter():
    cpu, ram = Joules(1000.0), Joules(50.0)
    meter = Meter(found=found(cpu=measured(cpu), ram=measured(ram)), pue=1.5, intensity=400)
    with meter.block("train"):
        cpu.value, ram.value = 1000.0 + 3.6e6, 50.0 + 0.9e6
    got = meter.cost("train")
    assert [got.components[c].kwh for c in ("cpu", "gpu", "ram")] == [1.0, None, 0.25]
    assert (got.energy_kwh, got.how, got.co2e_g) == (1.25, "measured", 1.25 * 1.5 * 400)
    assert got.components["cpu"].watts is None


def test_blocks_of_one_name_add_up_and_two_names_nest():
    counter = Joules()
    meter = Meter(found=found(cpu=measured(counter)))
    with meter.block("outer"):
        for joules in (3.6e6, 7.2e6):
            with meter.block("inner"):
                counter.value += joules
        counter.value += 3.6e6
    assert meter.cost("inner").energy_kwh == 3.0
    assert meter.cost("outer").energy_kwh == 4.0
    assert meter.cost("outer").seconds >= meter.cost("inner").seconds


def test_a_block_within_itself_counts_once():
    counter = Joules()
    meter = Meter(found=found(cpu=measured(counter)))
    with meter.block("train"):
        with meter.block("train"):
            counter.value += 3.6e6
        counter.value += 3.6e6
    assert meter.cost("train").energy_kwh == 2.0


def test_an_exception_inside_closes_the_block_and_passes_through():
    meter = Meter(found=found(cpu=modelled()))
    with pytest.raises(ZeroDivisionError), meter.block("train"):
        raise ZeroDivisionError
    before = meter.cost("train")
    assert before.seconds > 0
    assert meter.cost("train") == before, "the block is closed: its cost no longer grows"
    meter.start("train")
    meter.stop("train")
    assert meter.cost("train").seconds > before.seconds


def test_an_interrupt_while_the_counter_is_read_still_closes_the_block():
    counter = Joules(1.0)

    def read():
        if counter.value is None:
            raise KeyboardInterrupt
        return counter.value

    meter = Meter(found=found(cpu=measured(read)))
    with pytest.raises(KeyboardInterrupt), meter.block("train"):
        counter.value = None
    counter.value = 2.0
    meter.start("train")
    meter.stop("train")


def test_misuse_is_said_in_one_sentence():
    meter = Meter(found=found())
    with pytest.raises(RuntimeError, match=r"Block 'train' is not running: call start\('train'\)"):
        meter.stop("train")
    meter.start("train")
    with pytest.raises(RuntimeError, match=r"Block 'train' is running already: call stop\('train'\)"):
        meter.start("train")
    with pytest.raises(LookupError, match="No block 'evaluate' was metered; metered: 'train'"):
        meter.cost("evaluate")
    for wrong in (0, -5, math.nan, True, "65 W"):
        with pytest.raises(ValueError, match="cpu_watts is a power above 0 W"):
            Meter(cpu_watts=wrong)
    for wrong in (0.9, math.inf, "1.2"):
        with pytest.raises(ValueError, match="PUE is a number of 1 or more"):
            Meter(pue=wrong, found=found())


def test_stated_power_is_modelled_and_says_so():
    meter = Meter(cpu_watts=65)
    with meter.block("train"):
        pass
    got = meter.cost("train")
    assert got.components["cpu"] == Reading(65 * got.seconds / 3.6e6, "modelled", 65.0, "stated by user")


def test_unseen_is_none_and_never_zero():
    meter = Meter(found=found())
    with meter.block("train"):
        pass
    got = meter.cost("train")
    assert (got.energy_kwh, got.co2e_g, got.how) == (None, None, "not seen")
    assert all(reading.kwh is None and reading.note == "nothing there" for reading in got.components.values())


@pytest.mark.parametrize("broken", [OSError("gone"), 5.0])
def test_a_counter_that_fails_or_falls_back_is_not_seen_and_stops_nothing(broken):
    counter = Joules(10.0)
    meter = Meter(found=found(cpu=measured(counter), gpu=modelled()))
    with meter.block("train"):
        counter.value = broken
    got = meter.cost("train")
    assert got.components["cpu"] == Reading(None, "not seen", None, "a counter, which failed")
    assert got.how == "modelled"


def visits(meter):
    times = []
    for _ in range(101):
        began = time.perf_counter()
        with meter.block("train"):
            pass
        times.append(time.perf_counter() - began)
    return times


def test_entering_and_leaving_costs_less_than_two_milliseconds():
    assert statistics.median(visits(Meter())) < 0.002
    assert statistics.median(visits(Meter(found=found(cpu=measured(Joules()), gpu=modelled())))) < 0.002
    with_thread = visits(Meter(found=found(cpu=measured(Joules(), period=30.0))))
    assert min(with_thread) < 0.002, "the quickest, because a busy machine wakes a thread late"


def test_trap_P10_no_thread_outlives_a_block_not_even_after_a_crash():
    before = set(threading.enumerate())
    meter = Meter(found=found(cpu=measured(Joules(), period=0.01)))
    with meter.block("outer"), meter.block("inner"):
        assert len(set(threading.enumerate()) - before) == 1
    assert set(threading.enumerate()) == before
    with pytest.raises(KeyError), meter.block("outer"):
        raise KeyError
    assert set(threading.enumerate()) == before


def test_a_meter_dropped_with_an_open_block_takes_its_thread_with_it():
    before = set(threading.enumerate())
    meter = Meter(found=found(cpu=measured(Joules(), period=60.0)))
    meter.start("train")
    (thread,) = set(threading.enumerate()) - before
    del meter
    thread.join(5)
    assert not thread.is_alive()


def test_trap_P10_unseen_memory_adds_no_assumed_constant():
    got = Meter(cpu_watts=10)
    with got.block("train"):
        pass
    components = got.cost("train").components
    assert components["ram"].how in ("measured", "not seen"), "memory is never modelled"


def test_trap_S15_training_and_evaluation_are_metered_apart():
    counter = Joules()
    meter = Meter(found=found(cpu=measured(counter)))
    for _ in range(3):
        with meter.block("train"):
            counter.value += 3.6e6
        with meter.block("evaluate"):
            counter.value += 0.36e6
    assert meter.cost("train").energy_kwh == pytest.approx(3.0)
    assert meter.cost("evaluate").energy_kwh == pytest.approx(0.3)


def test_cuda_work_is_awaited_before_the_clock_is_read_and_its_errors_do_not_keep_a_block_open(monkeypatch):
    calls = []

    def synchronize():
        calls.append("wait")
        raise RuntimeError("an error of an earlier kernel")

    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", synchronize)
    meter = Meter(found=found(cpu=modelled()))
    with meter.block("train"):
        assert len(calls) == 1
    assert len(calls) == 2
    assert meter.cost("train").seconds > 0


QUIET = """
import socket, sys, threading, time
def refuse(*a, **k): raise OSError("no network in this test")
socket.socket = socket.create_connection = socket.getaddrinfo = refuse
began, wall = time.process_time(), time.perf_counter()
import stkd_utils.carbon as carbon
imported = time.process_time() - began
heavy = [name for name in ("torch", "pandas", "requests", "carbontracker.tracker") if name in sys.modules]
meter = carbon.Meter()
with meter.block("a"):
    pass
answer = (imported, heavy, time.perf_counter() - wall, threading.active_count(), meter.cost("a").how)
print(repr(answer), file=open(sys.argv[1], "w"))
"""


def test_trap_P9_no_network_no_print_no_thread_no_exit_and_a_quick_import(tmp_path):
    nowhere = "http://127.0.0.1:9"
    env = {**os.environ, "http_proxy": nowhere, "https_proxy": nowhere, "HTTP_PROXY": nowhere, "HTTPS_PROXY": nowhere}
    run = subprocess.run([sys.executable, "-c", QUIET, tmp_path / "out"], env=env, capture_output=True, timeout=60)
    assert (run.returncode, run.stdout, run.stderr) == (0, b"", b"")
    imported, heavy, whole, threads, how = eval((tmp_path / "out").read_text())
    assert imported < 2
    assert heavy == []
    assert whole < 10
    assert threads == 1
    assert how in ("measured", "modelled", "mixed")


def test_a_meter_continues_from_a_checkpoint(tmp_path):
    counter = Joules()
    first = Meter(found=found(cpu=measured(counter), gpu=modelled()))
    with first.block("evaluate"):
        counter.value += 3.6e6
    with first.block("train"):  # a checkpoint may be written in the middle of a block
        counter.value += 3.6e6
        torch.save({"meter": first.state_dict()}, tmp_path / "checkpoint.pt")
        counter.value += 36e6
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)["meter"]

    second = Meter(found=found(cpu=measured(counter), gpu=modelled()), intensity=300)
    with second.block("train"):
        second.load_state_dict(state)
        counter.value += 7.2e6
    assert second.cost("train").components["cpu"].kwh == 3.0
    assert second.cost("evaluate").components["cpu"].kwh == 1.0
    assert second.cost("train").seconds > state["train"]["seconds"]
    assert second.cost("train").intensity.g_per_kwh == 300, "energy is the fact; this meter's intensity prices it"


def test_a_run_that_moves_to_another_machine_says_both_ways():
    first = Meter(found=found(cpu=modelled(30.0)))
    with first.block("train"):
        pass
    counter = Joules()
    second = Meter(found=found(cpu=measured(counter)))
    second.load_state_dict(first.state_dict())
    with second.block("train"):
        counter.value += 1.0
    got = second.cost("train").components["cpu"]
    assert (got.how, got.note) == ("mixed", "half of 60 W; a counter")
