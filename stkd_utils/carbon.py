"""The meter: what a block of work cost in seconds, energy and CO2e, and how each figure is known.

Energy is kept by component, each *measured*, *modelled* or *not seen* (None, never 0), without the overhead of the
data centre (PUE) and apart from the carbon intensity, so that the same joules can be priced on any grid later. The
module `hardware` tells how each component is known and what comes from carbontracker. Nothing here uses the network,
prints, or ends the process. Introduced in notebook 01.
"""

import sys
import time
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace

from .counters import Sampler, attempt
from .hardware import hardware, sources
from .intensities import INTENSITIES, Intensity, IntensityError, find_intensity, is_number
from .receipt import Receipt

__all__ = [
    "Cost",
    "INTENSITIES",
    "Intensity",
    "IntensityError",
    "Meter",
    "Reading",
    "Receipt",
    "find_intensity",
    "hardware",
    "receipt",
]

HOW = ("measured", "modelled", "mixed", "not seen")
JOULES_PER_KWH = 3.6e6


def _overall(readings):
    """One word for how the seen ones among ``readings`` are known."""
    hows = {reading.how for reading in readings if reading.kwh is not None}
    return (hows.pop() if len(hows) == 1 else "mixed") if hows else "not seen"


@dataclass(frozen=True)
class Reading:
    """Energy of one component.

    Attributes
    ----------
    kwh : energy without PUE; None when not seen.
    how : "measured", "modelled", "mixed" (sums only) or "not seen".
    watts : the power assumed where modelled, else None.
    note : what was measured or assumed, or why nothing is known.

    Raises ValueError when ``kwh`` and ``how`` do not fit. Readings add with ``+``.
    """

    kwh: float | None
    how: str
    watts: float | None = None
    note: str = ""

    def __post_init__(self):
        if self.how not in HOW or (self.kwh is None) != (self.how == "not seen"):
            raise ValueError(f"A reading of {self.kwh!r} kWh cannot be '{self.how}': only 'not seen' has None.")
        if self.kwh is not None and not (is_number(self.kwh) and self.kwh >= 0):
            raise ValueError(f"Energy is a finite number of 0 or more kWh; got {self.kwh!r}.")

    def __add__(self, other):
        seen = [reading for reading in (self, other) if reading.kwh is not None]
        powers = {reading.watts for reading in seen}
        return Reading(
            sum(reading.kwh for reading in seen) if seen else None,
            _overall(seen),
            powers.pop() if len(powers) == 1 else None,
            _joined_notes(self, other, partly=len(seen) == 1),
        )


def _joined_notes(*readings, partly):
    notes = []
    for reading in readings:
        if partly and reading.kwh is None:
            notes.append("part was not seen" + (f" ({reading.note})" if reading.note else ""))
        else:
            notes += reading.note.split("; ")
    return "; ".join(note for note in dict.fromkeys(notes) if note)


@dataclass(frozen=True)
class Cost:
    """What a block of work cost.

    Attributes
    ----------
    seconds : wall time.
    components : {"cpu", "gpu", "ram"} -> `Reading`.
    pue : power usage effectiveness, the data centre's factor on the energy; 1 or more.
    intensity : `Intensity` of the electricity.

    Costs of one pue and intensity add with ``+``. The same energy on another grid is
    ``dataclasses.replace(cost, intensity=carbon.find_intensity("france"))``.
    """

    seconds: float
    components: dict = field(default_factory=dict)
    pue: float = 1.0
    intensity: Intensity = INTENSITIES["world"]

    def __post_init__(self):
        if not is_number(self.pue) or self.pue < 1:
            raise ValueError(f"PUE is a number of 1 or more (1: no overhead); got {self.pue!r}.")

    @property
    def energy_kwh(self):
        """Energy of the components that were seen, in kWh, without PUE; None when none was."""
        seen = [reading.kwh for reading in self.components.values() if reading.kwh is not None]
        return sum(seen) if seen else None

    @property
    def how(self):
        """One word for how `energy_kwh` is known: measured, modelled, mixed or not seen."""
        return _overall(self.components.values())

    @property
    def co2e_g(self):
        """Grams of CO2e, energy x PUE x intensity; None when no energy was seen."""
        return None if self.energy_kwh is None else self.energy_kwh * self.pue * self.intensity.g_per_kwh

    def __add__(self, other):
        if not isinstance(other, Cost):
            return NotImplemented
        if (self.pue, self.intensity) != (other.pue, other.intensity):
            raise ValueError(
                f"Costs of different PUE or intensity cannot be added ({self._rate()} and {other._rate()}): "
                "give both the same with dataclasses.replace first."
            )
        unseen = Reading(None, "not seen")
        names = [*self.components, *(name for name in other.components if name not in self.components)]
        added = {name: self.components.get(name, unseen) + other.components.get(name, unseen) for name in names}
        return replace(self, seconds=self.seconds + other.seconds, components=added)

    def __radd__(self, other):
        return self if other == 0 else NotImplemented  # sum() starts from 0

    def _rate(self):
        return f"PUE {self.pue:g} at {self.intensity.g_per_kwh:g} g/kWh of {self.intensity.date}"

    def to_dict(self):
        """Plain dict for JSON: the attributes, and ``energy_kwh``, ``how`` and ``co2e_g`` for whoever reads it."""
        derived = {"energy_kwh": self.energy_kwh, "how": self.how, "co2e_g": self.co2e_g}
        return {"seconds": self.seconds, **derived, **asdict(self)}

    @classmethod
    def from_dict(cls, saved):
        """The cost that `to_dict` gave."""
        components = {name: Reading(**reading) for name, reading in saved["components"].items()}
        return cls(saved["seconds"], components, saved["pue"], Intensity(**saved["intensity"]))


class Meter:
    """Meters named blocks of work in this process.

    Parameters
    ----------
    intensity : name, number in g/kWh or `Intensity`; see `find_intensity`.
    pue : factor of the data centre, kept apart from the energy.
    cpu_watts : power of the processor as the user states it; replaces counters and guess (modelled, "stated by user").
    found : the `hardware.Source` of each component, in place of this machine's.

    The energy is that of the whole processor and of whole GPUs, whoever else uses them. Work queued on a CUDA device is
    awaited before the clock is read. Raises IntensityError and ValueError for parameters out of range.
    """

    def __init__(self, *, intensity="world", pue=1.0, cpu_watts=None, found=None):
        if cpu_watts is not None and (not is_number(cpu_watts) or cpu_watts <= 0):
            raise ValueError(f"cpu_watts is a power above 0 W; got {cpu_watts!r}.")
        self._nothing = Cost(0.0, {}, pue, find_intensity(intensity))
        self._sources = found or sources(cpu_watts)
        self._sampler = Sampler(self._sources.values())
        self._closed, self._open = {}, {}

    @contextmanager
    def block(self, name):
        """Meter the body of a ``with``; blocks of one name add up, and a block within itself counts once."""
        if name in self._open:
            yield
            return
        self.start(name)
        try:
            yield
        finally:
            self.stop(name)

    def start(self, name):
        """Open the block ``name``. Raises RuntimeError when it is open."""
        if name in self._open:
            raise RuntimeError(f"Block '{name}' is running already: call stop('{name}') before starting it again.")
        if not self._open:
            self._sampler.start()
        self._open[name] = self._now()

    def stop(self, name):
        """Close the block ``name``. Raises RuntimeError when it is not open."""
        if name not in self._open:
            raise RuntimeError(f"Block '{name}' is not running: call start('{name}') before stopping it.")
        try:
            self._closed[name] = self.cost(name)
        finally:
            del self._open[name]
            if not self._open:
                self._sampler.stop()

    def cost(self, name):
        """The `Cost` of all blocks ``name`` so far, an open one included. Raises LookupError for an unknown name."""
        parts = [self._closed[name]] if name in self._closed else []
        if name in self._open:
            parts.append(self._running(name))
        if not parts:
            known = ", ".join(f"'{known}'" for known in {**self._closed, **self._open}) or "none yet"
            raise LookupError(f"No block '{name}' was metered; metered: {known}.")
        return sum(parts)

    def _running(self, name):
        (began, before), (now, after) = self._open[name], self._now()
        seconds = now - began
        readings = {c: _reading(s, seconds, before[c], after[c]) for c, s in self._sources.items()}
        return replace(self._nothing, seconds=seconds, components=readings)

    def _now(self):
        _synchronise()
        joules = {component: attempt(source.joules) for component, source in self._sources.items()}
        return time.perf_counter(), joules

    def state_dict(self):
        """The costs by block, open ones included, as plain dicts, numbers and strings, for a checkpoint."""
        return {name: self.cost(name).to_dict() for name in {**self._closed, **self._open}}

    def load_state_dict(self, state):
        """Continue from `state_dict`: its costs replace those of closed blocks, at this meter's intensity and PUE."""
        saved = {name: Cost.from_dict(cost) for name, cost in state.items()}
        at = {"pue": self._nothing.pue, "intensity": self._nothing.intensity}
        self._closed = {name: replace(cost, **at) for name, cost in saved.items()}


def _synchronise():
    torch = sys.modules.get("torch")
    if torch and torch.cuda.is_initialized():
        # an error here is one of the work itself: it must not keep the block from closing
        with suppress(RuntimeError):
            torch.cuda.synchronize()


def _reading(source, seconds, before, after):
    if source.watts is not None:
        return Reading(source.watts * seconds / JOULES_PER_KWH, source.how, source.watts, source.note)
    if source.joules is None:
        return Reading(None, "not seen", None, source.note)
    if before is None or after is None or after < before:
        return Reading(None, "not seen", None, f"{source.note}, which failed")
    return Reading((after - before) / JOULES_PER_KWH, source.how, None, source.note)


def receipt(cost, *, title="Receipt"):
    """The `Receipt` of a `Cost`: a table in a notebook and on a terminal, and a JSON file (`Receipt.save`)."""
    return Receipt(cost, title)
