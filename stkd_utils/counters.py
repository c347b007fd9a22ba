"""Energy counters: objects that give, when called, the joules used so far from an arbitrary zero.

The difference of two calls is the energy between them. Counters that must be read often to stay right have a period,
and a `Sampler` reads them for as long as a block of work is open.
"""

import threading
import time
import weakref

# No processor package draws more than this; it bounds the time between two readings of a counter that wraps around.
HIGHEST_PACKAGE_WATTS = 1000


class RaplEnergy:
    """Joules that some RAPL domains used since this object was made; calling it reads them.

    ``folders`` hold ``energy_uj`` and ``max_energy_range_uj``. A counter that fell has wrapped around once and is
    carried on. Raises OSError or ValueError where a file cannot be read or a counter stands at 0, as virtual machines
    show it.
    """

    def __init__(self, folders):
        self._files = [folder / "energy_uj" for folder in folders]
        self._ranges = [int((folder / "max_energy_range_uj").read_text()) for folder in folders]
        self._last = self._read()
        self._total = 0
        self._lock = threading.Lock()
        if not (all(self._last) and all(self._ranges)):
            raise ValueError("a RAPL counter stands at 0")

    @property
    def period(self):
        """Seconds within which no domain can wrap around twice, with a factor of two to spare."""
        return min(self._ranges) / 1e6 / HIGHEST_PACKAGE_WATTS / 2

    def _read(self):
        return [int(file.read_text()) for file in self._files]

    def __call__(self):
        with self._lock:
            now = self._read()
            for value, last, size in zip(now, self._last, self._ranges, strict=True):
                self._total += value - last if value >= last else value - last + size
            self._last = now
            return self._total / 1e6


class SampledEnergy:
    """Joules as the integral of sampled power (trapezoids between the calls); ``watts()`` reads the power."""

    def __init__(self, watts, clock=time.perf_counter):
        self._watts, self._clock = watts, clock
        self._last = (clock(), watts())
        self._total = 0.0
        self._lock = threading.Lock()

    def __call__(self):
        with self._lock:
            now, watts = self._clock(), self._watts()
            before, last = self._last
            self._total += (now - before) * (watts + last) / 2
            self._last = (now, watts)
            return self._total


class Sampler:
    """A thread that reads, while it runs, the sources that must be read often; none is started when there is none."""

    def __init__(self, sources):
        often = [source for source in sources if source.period]
        self._reads = [source.joules for source in often]
        self._period = min((source.period for source in often), default=None)
        self._thread = None
        self._end = threading.Event()
        # a meter that is dropped with a block open takes its thread with it
        weakref.finalize(self, self._end.set)

    def start(self):
        """Begin to read."""
        if not self._reads or self._thread:
            return
        self._end.clear()
        self._thread = threading.Thread(target=_poll, args=(self._reads, self._period, self._end), daemon=True)
        self._thread.start()

    def stop(self):
        """Stop to read; the thread is gone when this returns."""
        if self._thread:
            self._end.set()
            self._thread.join()
            self._thread = None


def _poll(reads, period, end):
    while not end.wait(period):
        for read in reads:
            attempt(read)


def attempt(read):
    """The joules that ``read`` gives, or None where it fails: a counter that breaks must never stop a training."""
    try:
        return read() if read else None
    except Exception:
        return None


class Summed:
    """Sum over devices of a quantity that NVML gives in thousandths."""

    def __init__(self, read, handles):
        self._read, self._handles = read, handles

    def __call__(self):
        return sum(self._read(handle) for handle in self._handles) / 1000
