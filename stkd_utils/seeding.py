"""One seed, several independent streams of random numbers.

Initial weights, data order, augmentation and temperature each have a stream of their own: drawing more from one never
moves another, so two runs that differ in one thing differ in that thing only.
"""

import hashlib
from contextlib import contextmanager

import torch


def stream_seed(seed, stream):
    """A 63-bit seed for one named stream of a run.

    ``seed`` is the run's seed (an integer >= 0), ``stream`` any name ("init", "order", "augment", "tau").
    The value is the same on every machine and Python version. Raises ValueError for a seed that is not an integer >= 0.
    """
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise ValueError(f"A seed is an integer of 0 or more; got {seed!r}.")
    digest = hashlib.sha256(f"{seed}/{stream}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator(seed, stream):
    """A CPU ``torch.Generator`` that starts the named stream of a run (see `stream_seed`)."""
    return torch.Generator().manual_seed(stream_seed(seed, stream))


class OwnRandom:
    """PyTorch's global random numbers (dropout) as one student sees them: as if no other drew any.

    ``seed`` is the run's seed, ``device`` a torch.device; the caller's random numbers stay as they are.
    """

    def __init__(self, seed, device):
        self._gpus = gpus(device)
        with torch.random.fork_rng(devices=self._gpus):
            torch.manual_seed(stream_seed(seed, "dropout"))
            self._state = self._read()

    @contextmanager
    def __call__(self):
        """Draw from these random numbers; the global ones move, and whoever trains restores the caller's."""
        torch.set_rng_state(self._state["torch"])
        for gpu, state in zip(self._gpus, self._state["cuda"], strict=False):
            torch.cuda.set_rng_state(state, gpu)
        yield
        self._state = self._read()

    def state_dict(self):
        """The states of all generators, ready for a checkpoint."""
        return self._state

    def load_state_dict(self, state):
        """Continue from ``state``; one that was taken on a CPU leaves a GPU's numbers as they are."""
        self._state = {"torch": state["torch"], "cuda": state["cuda"] or self._state["cuda"]}

    def _read(self):
        return {"torch": torch.get_rng_state(), "cuda": [torch.cuda.get_rng_state(gpu) for gpu in self._gpus]}


def gpus(device):
    """The GPUs whose random numbers a computation on ``device`` draws from, a list of at most one."""
    return [device] if device.type == "cuda" else []
