"""Cheap tuning: train the whole grid a little, and only its best points to the end."""

import math

from ..procedures import rank
from . import settings
from .running import lists, resolve, sweep


def halving(name, *, seed, taus, stops, keep=0.5, profile="quick", **options):
    """Successive halving over tau: ``(kept, records)``, the `Run` that it keeps and what it has to pay for.

    All ``taus`` are trained up to the first of the rising epochs ``stops``; the ``keep`` best (a fraction, rounded up)
    are continued to the next, and so on, the last ones to the end of the schedule. Best is decided by validation
    (`procedures.rank`); the test split has no say. A run that is continued ends equal to one that never stopped.

    ``records`` has one record per tau, of as far as it got: that of a continued run holds the cost of all its epochs,
    so that a `procedures.Procedure` of these records pays for every epoch once. ``options`` as in `sweep`, such as
    ``together=True``, but each of one value. Raises ExperimentError for ``options``, ``stops`` or ``keep`` that make no
    halving, before anything is trained, and as `sweep`. Jamieson and Talwalkar 2016, algorithm 1. Introduced in
    notebook 09.
    """
    if not isinstance(taus, (list, tuple, range)) or not taus:
        raise settings.ExperimentError(f"Halving needs a list of temperatures; got {taus!r}.")
    for key, values in lists(name, options).items():
        raise settings.ExperimentError(f"Halving is over tau alone; give '{key}' one value instead of {values!r}.")
    epochs = {key: value for key, value in options.items() if key == "epochs"}
    _check(stops, keep, resolve(name, profile, **epochs)["epochs"])
    left, records = list(taus), {}
    for stop in (*stops, None):
        runs = sweep(name, seeds=[seed], tau=left, stop_after=stop, profile=profile, **options)
        found = {run.record["asked"]["tau"]: run for run in runs}
        records |= {tau: run.record for tau, run in found.items()}
        left = [record["asked"]["tau"] for record in _best([run.record for run in runs], keep)]
    return found[left[0]], list(records.values())


def halved(records, stops, keep=0.5):
    """What `halving` would have kept of runs that were trained to the end: the record, and the epochs to pay.

    ``records`` of one seed, one for each tau; it reads their histories and trains nothing. Raises ExperimentError as
    `halving`. Introduced in notebook 09.
    """
    last = len(records[0]["history"])
    _check(stops, keep, last)
    left, paid, before = list(records), 0, 0
    for stop in (*stops, last):
        paid += len(left) * (stop - before)
        left, before = _best(left, keep, stop), stop
    return left[0], paid


def _check(stops, keep, epochs):
    if not stops or list(stops) != sorted(set(stops)) or not 0 < keep < 1:
        raise settings.ExperimentError(
            f"Halving needs rising epochs to stop at and a fraction to keep below 1; got {stops!r} and {keep!r}."
        )
    if stops[0] < 1 or stops[-1] >= epochs:
        raise settings.ExperimentError(f"Halving stops from epoch 1 to {epochs - 1} of {epochs}; got {stops!r}.")


def _best(records, keep, epoch=0):
    """The ``keep`` best of ``records``, the best first, by validation after ``epoch`` (0: the last)."""

    def place(record):
        return rank({**record, "result": {"last": record["history"][epoch - 1]}}, "last")

    return sorted(records, key=place)[: math.ceil(keep * len(records))]
