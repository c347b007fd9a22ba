"""What the machine can tell of its energy: RAPL and NVML by stand-ins, processors by carbontracker's table."""

import os
import time
from types import SimpleNamespace

import pytest
import torch

from stkd_utils import hardware
from stkd_utils.carbon import Meter
from stkd_utils.hardware import Source, gpu_source, modelled_cpu, rapl_sources

RANGE = 262_143_328_850
UNSEEN = Source("not seen", "nothing there")


def domain(root, folder, name, energy=1_000_000, size=RANGE):
    path = root / folder
    path.mkdir(parents=True)
    (path / "name").write_text(name + "\n")
    (path / "max_energy_range_uj").write_text(f"{size}\n")
    (path / "energy_uj").write_text(f"{energy}\n")
    return path / "energy_uj"


@pytest.fixture
def server(tmp_path):
    """Two packages with memory, and all the domains that must not be counted."""
    names = {"intel-rapl:0": "package-0", "intel-rapl:0:0": "dram", "intel-rapl:0:1": "core"}
    names |= {"intel-rapl:1": "package-1", "intel-rapl:1:0": "dram", "intel-rapl:2": "psys"}
    names |= {"intel-rapl-mmio:0": "package-0"}
    files = {folder: domain(tmp_path, folder, name) for folder, name in names.items()}
    (tmp_path / "dtpm").mkdir()
    return SimpleNamespace(root=tmp_path, files=files)


def add(file, joules):
    file.write_text(str(int(file.read_text()) + round(joules * 1e6)))


def metered(sources, work):
    meter = Meter(found={"cpu": UNSEEN, "gpu": UNSEEN, "ram": UNSEEN, **sources})
    with meter.block("work"):
        work()
    return meter.cost("work").components


# ---- RAPL


def test_rapl_packages_are_summed_and_memory_is_apart(server):
    def work():
        for file in server.files.values():
            add(file, 3600)

    got = metered(rapl_sources(server.root), work)
    assert (got["cpu"].kwh, got["cpu"].how) == (0.002, "measured"), "two packages; not core, psys, nor the mmio copy"
    assert (got["ram"].kwh, got["ram"].how) == (0.002, "measured")
    assert got["cpu"].note == "RAPL energy counters, domains: 2"


def test_a_rapl_counter_that_wraps_around_is_carried_on(tmp_path):
    file = domain(tmp_path, "intel-rapl:0", "package-0", energy=RANGE - 1_000_000)
    got = metered(rapl_sources(tmp_path), lambda: file.write_text("2000000"))
    assert got["cpu"].kwh * 3.6e6 == pytest.approx(3.0)


def test_a_long_block_with_many_wraps_is_read_in_between(tmp_path):
    file = domain(tmp_path, "intel-rapl:0", "package-0", energy=1_000_000, size=60_000_000)
    source = rapl_sources(tmp_path)["cpu"]
    assert source.period == pytest.approx(0.03), "often enough for 1 kW, with a factor of two to spare"

    def work():  # four times 40 J, while the counter holds only 60 J
        for step in range(1, 5):
            value = (1_000_000 + step * 40_000_000) % 60_000_000
            file.write_text(str(value))
            late = time.monotonic() + 10
            while source.joules._last != [value] and time.monotonic() < late:
                time.sleep(0.005)

    got = metered({"cpu": source}, work)
    assert got["cpu"].kwh * 3.6e6 == pytest.approx(160.0)


def test_a_machine_without_rapl_has_no_such_source(tmp_path):
    assert rapl_sources(tmp_path) == {}
    assert rapl_sources(tmp_path / "absent") == {}
    domain(tmp_path, "intel-rapl:0", "psys")
    assert rapl_sources(tmp_path) == {}


@pytest.mark.parametrize("damage", ["unreadable", "zero", "text", "no range"])
def test_rapl_that_cannot_be_read_is_not_seen_and_says_how_to_open_it(server, damage):
    file = server.files["intel-rapl:1"]
    if damage == "unreadable":  # a folder in its place fails for the administrator too
        file.unlink()
        file.mkdir()
    elif damage == "no range":
        (file.parent / "max_energy_range_uj").unlink()
    else:
        file.write_text({"zero": "0", "text": "n/a"}[damage])
    source = rapl_sources(server.root)["cpu"]
    assert source.how == "not seen" and source.joules is None
    assert "sudo chmod a+r" in source.note


def test_an_unreadable_rapl_falls_back_to_the_table_and_keeps_the_hint(monkeypatch):
    closed = Source("not seen", "RAPL counters are there but cannot be read (sudo chmod)")
    monkeypatch.setattr(hardware, "_measured", lambda: {"gpu": UNSEEN, "cpu": closed})
    cpu = hardware.sources()["cpu"]
    assert cpu.how == "modelled" and cpu.watts > 0
    assert "half of" in cpu.note and "sudo chmod" in cpu.note


def test_a_rapl_file_that_vanishes_in_a_block_stops_nothing(tmp_path):
    file = domain(tmp_path, "intel-rapl:0", "package-0")
    got = metered(rapl_sources(tmp_path), file.unlink)
    assert got["cpu"].kwh is None and got["cpu"].note.endswith("which failed")


# ---- NVML


class Nvml:
    """Stands in for pynvml: ``energy`` in mJ and ``power`` in mW by device, None where NVML does not support it."""

    class Error(Exception):
        pass

    def __init__(self, energy=(), power=(), names=None):
        self.energy, self.power = list(energy), list(power)
        self.names = names or ["NVIDIA A"] * len(self.energy)

    def nvmlDeviceGetCount(self):
        return len(self.energy)

    def nvmlDeviceGetHandleByIndex(self, index):
        return index

    def nvmlDeviceGetName(self, handle):
        return self.names[handle]

    def nvmlDeviceGetUUID(self, handle):
        return f"GPU-{handle}{handle}{handle}-abc".encode()

    def nvmlDeviceGetTotalEnergyConsumption(self, handle):
        return self._value(self.energy[handle])

    def nvmlDeviceGetPowerUsage(self, handle):
        return self._value(self.power[handle])

    def _value(self, value):
        if value is None:
            raise self.Error("Not Supported")
        return value


@pytest.fixture(autouse=True)
def all_gpus_visible(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def test_gpu_energy_is_the_difference_of_nvmls_counter():
    nvml = Nvml([5_000_000, 9_000_000], [None, None], ["NVIDIA A", b"NVIDIA A"])
    source = gpu_source(nvml)
    assert source.period is None, "a 64-bit counter needs no thread"

    def work():
        nvml.energy = [5_000_000 + 3_600_000, 9_000_000 + 7_200_000]

    got = metered({"gpu": source}, work)
    assert (got["gpu"].kwh, got["gpu"].how) == (pytest.approx(0.003), "measured")
    assert got["gpu"].note == "NVML energy counter of 2 x NVIDIA A"


@pytest.mark.parametrize("energy", [[None, 10], [0, 0]])
def test_without_that_counter_power_is_sampled_integrated_and_said(energy):
    source = gpu_source(Nvml(energy, [100_000, 50_000], ["NVIDIA A", "NVIDIA B"]))
    assert source.period == hardware.GPU_SAMPLE_SECONDS
    assert source.note == "power of NVIDIA A, NVIDIA B through NVML, sampled every 1 s and integrated"
    meter = Meter(found={"cpu": UNSEEN, "gpu": source, "ram": UNSEEN})
    with meter.block("work"):
        time.sleep(0.05)
    got = meter.cost("work")
    assert got.components["gpu"].how == "measured"
    assert got.energy_kwh * 3.6e6 == pytest.approx(150 * got.seconds, rel=0.05)


def test_no_gpu_is_not_seen_and_never_zero(monkeypatch):
    def missing():
        raise Nvml.Error("NVML Shared Library Not Found")

    monkeypatch.setattr(hardware, "_nvml", missing)
    assert gpu_source() == Source("not seen", "no NVIDIA GPU answers through NVML")
    assert gpu_source(Nvml()).how == "not seen"
    silent = gpu_source(Nvml([None], [None]))
    assert (silent.how, silent.note) == ("not seen", "NVIDIA A reports neither energy nor power through NVML")


@pytest.mark.parametrize(
    ("visible", "note"),
    [("1", "of B"), ("2,0", "of C, A"), ("GPU-111-abc", "of B"), ("GPU-22", "of C"), ("0,9,1", "of A")],
)
def test_only_gpus_that_cuda_may_use_are_read(monkeypatch, visible, note):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert gpu_source(Nvml([1, 1, 1], [1, 1, 1], ["A", "B", "C"])).note.endswith(note)


@pytest.mark.parametrize("hidden", ["", "-1", "NoDevFiles"])
def test_hidden_gpus_are_not_seen(monkeypatch, hidden):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    assert gpu_source(Nvml([1], [1])).note == "no NVIDIA GPU is visible (CUDA_VISIBLE_DEVICES)"


# ---- processors without counters


@pytest.mark.parametrize(
    ("name", "tdp", "said"),
    [
        ("Intel(R) Core(TM) i7-9700K CPU @ 3.60GHz", 95, "'Intel Core i7-9700K'"),
        ("AMD Ryzen 7 5800X 8-Core Processor", 105, "'AMD Ryzen 7 5800X'"),
        ("Intel(R) Xeon(R) CPU E5-2680 v4 @ 2.40GHz", 120, "'Intel Xeon E5-2680 v4'"),
        ("AMD EPYC 7B12", 240, "'AMD EPYC 7B12'"),
    ],
)
def test_a_known_processor_is_half_of_its_tdp(name, tdp, said):
    source = modelled_cpu(name)
    assert (source.how, source.watts) == ("modelled", tdp / 2)
    assert source.note == f"half of {tdp} W, the TDP of {said} in carbontracker's table"


def test_trap_P9_an_arbitrary_match_or_the_mean_is_never_silent():
    assert "the first of 60 entries that contain 'AMD EPYC'" in modelled_cpu("AMD EPYC").note
    for unknown in ("Intel(R) Xeon(R) Processor", "Some CPU of 2031", ""):
        assert (
            f"the mean TDP in carbontracker's table, which has no entry for '{unknown}'" in modelled_cpu(unknown).note
        )


@pytest.mark.parametrize("name", ["AMD EPYC", "Some CPU of 2031", "Apple M1", "Intel Core i7-9700K @ 3 GHz"])
def test_the_guess_is_carbontrackers_own(name):
    from carbontracker.components.cpu.generic import GenericCPU

    theirs = type("Named", (GenericCPU,), {"get_cpu_brand": lambda self: name})([], False)
    theirs.init()
    assert modelled_cpu(name).watts == pytest.approx(theirs.power_usage()[0], rel=1e-3)


def test_without_carbontrackers_table_the_processor_is_not_seen(monkeypatch):
    def absent(name):
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(hardware.resources, "files", absent)
    source = modelled_cpu("AMD EPYC")
    assert source.how == "not seen" and source.note == "carbontracker's table of processors could not be read"


# ---- this machine


def test_this_machine_has_one_source_per_component():
    found = hardware.sources()
    assert list(found) == ["cpu", "gpu", "ram"]
    for source in found.values():
        assert source.note
        assert (source.how == "measured") == (source.joules is not None)
        assert (source.how == "modelled") == (source.watts is not None)
    assert hardware.sources()["cpu"] is found["cpu"], "looked up once per process"
    assert hardware.sources(cpu_watts=65)["cpu"] == Source("modelled", "stated by user", watts=65.0)


def test_hardware_says_what_the_machine_is():
    facts = hardware.hardware()
    assert list(facts) == ["cpu", "instructions", "cores", "threads", "memory_gib", "gpu"]
    assert facts["cpu"] and facts["instructions"] == torch.backends.cpu.get_cpu_capability()
    assert facts["cores"] >= 1 and 1 <= facts["threads"] <= os.cpu_count()
    assert facts["memory_gib"] > 0.1
    assert facts["gpu"] is None or facts["gpu"]
    facts["cpu"] = "changed"
    assert hardware.hardware()["cpu"] != "changed"
