"""What this machine is, and which of its energy can be known.

Each component has one `Source`. "measured" comes from a counter that the hardware keeps: RAPL for processor and memory,
NVML for NVIDIA GPUs. "modelled" is an assumed power times time, with carbontracker's table of processors. "not seen" is
all the rest, with the reason.

carbontracker gives the tables (processors, countries) and the NVML binding; its program is not run. Its tracker starts
two threads, looks up the location on the web, returns no numbers and ends the process on an error; its RAPL handler
sleeps for a second per reading and adds the memory to the processor; its handler for other processors prints.
Differences of counters are exact for any block, short or long, and need none of that.
"""

import csv
import os
import platform
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from statistics import fmean

from .counters import RaplEnergy, SampledEnergy, Summed

POWERCAP = Path("/sys/class/powercap")
GPU_SAMPLE_SECONDS = 1.0


@dataclass(frozen=True)
class Source:
    """How the energy of one component is known.

    Attributes
    ----------
    how : "measured", "modelled" or "not seen".
    note : what was measured or assumed, or why nothing is known.
    watts : the assumed power where modelled, else None.
    joules : reads the energy so far, in joules from an arbitrary zero, where measured; else None.
    period : seconds within which ``joules`` must be read again to stay right; None when it need not be.
    """

    how: str
    note: str
    watts: float | None = None
    joules: Callable | None = None
    period: float | None = None


def rapl_sources(root=POWERCAP):
    """The `Source` of "cpu" and "ram" by the RAPL counters under ``root``; a component without any is absent.

    Packages are summed; DRAM domains, where a server has them, are the memory. A component whose counters exist but
    cannot be read is "not seen", with the command that opens them.
    """
    domains = {"cpu": [], "ram": []}
    for folder in sorted(Path(root).glob("intel-rapl:*")):
        name = _text(folder / "name")
        if name.startswith("package"):
            domains["cpu"].append(folder)
        elif name == "dram":
            domains["ram"].append(folder)
    return {component: _rapl_source(folders) for component, folders in domains.items() if folders}


def _rapl_source(folders):
    try:
        energy = RaplEnergy(folders)
    except (OSError, ValueError):
        return Source("not seen", f"RAPL counters are there but cannot be read (sudo chmod a+r {POWERCAP}/*/energy_uj)")
    return Source("measured", f"RAPL energy counters, domains: {len(folders)}", joules=energy, period=energy.period)


def gpu_source(nvml=None):
    """The `Source` of the GPUs that CUDA_VISIBLE_DEVICES leaves visible, as whole devices.

    NVML's total-energy counter where every device has one (Volta and later), else its power, sampled each second and
    integrated. ``nvml`` stands in for the module ``pynvml``. With GPUs of several kinds, the indices of
    CUDA_VISIBLE_DEVICES follow NVML's order only under CUDA_DEVICE_ORDER=PCI_BUS_ID.
    """
    try:
        nvml = nvml or _nvml()
        handles = _visible(nvml)
    except Exception:
        return Source("not seen", "no NVIDIA GPU answers through NVML")
    if not handles:
        return Source("not seen", "no NVIDIA GPU is visible (CUDA_VISIBLE_DEVICES)")
    names = _names(nvml, handles)
    with suppress(Exception):  # GPUs before Volta have no energy counter: their power is sampled instead
        counter = Summed(nvml.nvmlDeviceGetTotalEnergyConsumption, handles)
        if counter():
            return Source("measured", f"NVML energy counter of {names}", joules=counter)
    try:
        energy = SampledEnergy(Summed(nvml.nvmlDeviceGetPowerUsage, handles))
    except Exception:
        return Source("not seen", f"{names} reports neither energy nor power through NVML")
    note = f"power of {names} through NVML, sampled every {GPU_SAMPLE_SECONDS:g} s and integrated"
    return Source("measured", note, joules=energy, period=GPU_SAMPLE_SECONDS)


@cache
def _nvml():
    import pynvml

    pynvml.nvmlInit()
    return pynvml


def _visible(nvml):
    found = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
    wanted = os.environ.get("CUDA_VISIBLE_DEVICES")
    if wanted is None:
        return found
    chosen = []
    for entry in (part.strip() for part in wanted.split(",")):
        match = [h for i, h in enumerate(found) if entry == str(i) or _is_uuid(entry, nvml.nvmlDeviceGetUUID(h))]
        if not match:  # CUDA ignores whatever follows the first entry that names no device
            break
        chosen += match
    return chosen


def _is_uuid(entry, uuid):
    return entry.startswith("GPU-") and _decoded(uuid).startswith(entry)


def _names(nvml, handles):
    names = [_decoded(nvml.nvmlDeviceGetName(handle)) for handle in handles]
    return ", ".join(f"{names.count(n)} x {n}" if names.count(n) > 1 else n for n in dict.fromkeys(names))


def _decoded(text):
    return text.decode() if isinstance(text, bytes) else text


def modelled_cpu(name):
    """The `Source` of a processor without counters: carbontracker's guess, half of the TDP it finds for ``name``.

    carbontracker takes the first entry of its table that contains the name, else the mean of the table, and never says
    which; the note does. Where the plain form of the name is an entry ("Intel Core i7-9700K" for "Intel(R) Core(TM)
    i7-9700K CPU @ 3.60GHz"), that entry is used: carbontracker alone does not find it.
    """
    table = _tdp_table()
    if not table:
        return Source("not seen", "carbontracker's table of processors could not be read")
    tdp, origin = _match(table, name)
    return Source("modelled", f"half of {tdp:.4g} W, {origin}", watts=tdp / 2)


def _tdp_table():
    """Thermal design power in W by processor, from the table inside carbontracker; {} where it has none."""
    try:
        with (resources.files("carbontracker") / "data" / "cpu_power.csv").open(encoding="utf-8") as file:
            rows = [(row["Name"], row["TDP"]) for row in csv.DictReader(file)]
    except (ImportError, OSError, KeyError):
        return {}
    # four processors of 2001 have a range there that is no number
    return {name: float(tdp) for name, tdp in rows if re.fullmatch(r"\d+(\.\d+)?", tdp)}


def _match(table, name):
    short = name.split("@")[0].strip()
    exact = [entry for entry in (name, _plain(name)) if entry in table]
    matches = exact[:1] or [entry for entry in table if short and short in entry]
    if not matches:
        return fmean(table.values()), f"the mean TDP in carbontracker's table, which has no entry for '{name}'"
    origin = f"the TDP of '{matches[0]}' in carbontracker's table"
    if len(matches) > 1:
        origin += f", the first of {len(matches)} entries that contain '{short}'"
    return table[matches[0]], origin


def _plain(name):
    marks = r"\((R|TM)\)|\d+th Gen |@.*|\bCPU\b|\d+-Core|\bProcessor\b|\bwith Radeon.*"
    return " ".join(re.sub(marks, " ", name).split())


@cache
def _measured():
    return {"gpu": gpu_source(), **rapl_sources()}


@cache
def _modelled():
    return modelled_cpu(_cpu_name())


def sources(cpu_watts=None):
    """The `Source` of "cpu", "gpu" and "ram" on this machine, looked up once per process.

    ``cpu_watts``, when given, is the power that the user states for the processor; it replaces measurement and guess.
    """
    found = {"ram": Source("not seen", "no energy counter for the memory"), **_measured()}
    if cpu_watts is not None:
        found["cpu"] = Source("modelled", "stated by user", watts=float(cpu_watts))
    elif "cpu" not in found:
        found["cpu"] = _modelled()
    elif found["cpu"].how == "not seen":
        guess = _modelled()
        found["cpu"] = Source(guess.how, f"{guess.note}; {found['cpu'].note}", watts=guess.watts)
    return {component: found[component] for component in ("cpu", "gpu", "ram")}


def hardware():
    """This machine: names of processor and GPU (None without one), cores, threads, memory in GiB; a fresh dict.

    ``instructions`` are those that PyTorch uses ("AVX2", "AVX512", ...): processors of one name can differ in them, in
    speed and in the last digits. ``cores`` are physical; ``threads`` are the logical ones that this process may use.
    Looked up once per process.
    """
    return dict(_hardware())


def processor(facts):
    """The processor in ``facts`` (of `hardware`) in words: "AMD EPYC (AVX2)"; older facts do not tell instructions."""
    instructions = f" ({facts['instructions']})" if facts.get("instructions") else ""
    return f"{facts['cpu'] or 'unknown processor'}{instructions}"


def computed_on(facts, device):
    """What of the machine ``facts`` (of `hardware`) a computation on ``device`` ran on: its GPU or its `processor`."""
    return facts["gpu"] or "unknown GPU" if device.startswith("cuda") else processor(facts)


@cache
def _hardware():
    import psutil
    import torch

    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    try:
        gpu = _names(_nvml(), _visible(_nvml())) or None
    except Exception:
        gpu = None
    return {
        "cpu": _cpu_name(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "cores": psutil.cpu_count(logical=False) or threads,
        "threads": threads,
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "gpu": gpu,
    }


def _cpu_name():
    match = re.search(r"^model name\s*:\s*(.+)$", _text(Path("/proc/cpuinfo")), re.MULTILINE)
    if match:
        return match[1].strip()
    try:
        import cpuinfo

        return cpuinfo.get_cpu_info()["brand_raw"]
    except Exception:
        return platform.processor() or platform.machine()


def _text(path):
    try:
        return path.read_text().strip()
    except OSError:
        return ""
