"""One seed, several independent streams of random numbers.

Initial weights, data order, augmentation and temperature each have a stream of their own: drawing more from one never
moves another, so two runs that differ in one thing differ in that thing only.
"""

import hashlib

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
