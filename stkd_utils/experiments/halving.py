"""Cheap tuning: train the whole grid a little, and only its best points to the end."""

import math

from ..procedures import rank
from . import settings
from .running import sweep


def halving(name, *, seed, taus, stops, keep=0.5, profile="quick", **options):
    """Successive halving over tau: ``(kept, records)``, the `Run` that it keeps and what it has to pay for.

    All ``taus`` are trained up to the first of the rising epochs ``stops``; the ``keep`` best (a fraction, rounded up)
    are continued to the next, and so on, the last ones to the end of the schedule. Best is decided by validation
    (`procedures.rank`); the test split has no say. A run that is continued ends equal to one that never stopped.

    ``records`` has one record per tau, of as far as it got: that of a continued run holds the cost of all its epochs,
    so that a `procedures.Procedure` of these records pays for every epoch once. ``options`` as in `sweep`, such as
    ``together=True``. Raises ExperimentError for ``stops`` or ``keep`` that make no halving, and as `sweep`.
    Jamieson and Talwalkar 2016, algorithm 1. Introduced in notebook 09.
    """
    if list(stops) != sorted(set(stops)) or not stops or not 0 < keep < 1:
        raise settings.ExperimentError(
            f"Halving needs rising epochs to stop at and a fraction to keep below 1; got {stops!r} and {keep!r}."
        )
    left, records = list(taus), {}
    for stop in (*stops, None):
        runs = sweep(name, seeds=[seed], tau=left, stop_after=stop, profile=profile, **options)
        runs.sort(key=lambda run: rank(run.record, "last"))
        records |= {run.record["asked"]["tau"]: run.record for run in runs}
        left = [run.record["asked"]["tau"] for run in runs[: math.ceil(keep * len(runs))]]
    return runs[0], list(records.values())
