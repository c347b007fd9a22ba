"""Ways of getting a student: which of its runs a way keeps, and what all of them cost together."""

import itertools
from dataclasses import dataclass, replace

import numpy as np

from . import carbon, stats
from .hardware import computed_on
from .receipt import ENERGY, MASS
from .tables import FLOPS, TIME, column

MARGIN = 0.01  # accuracies (fractions) closer than this count as equivalent: chapter 4 says why
ROUNDING = 1e-9  # scores that differ by less are the same number of images


@dataclass(frozen=True, eq=False)
class Procedure:
    """One way of getting a student, carried out once per seed. Introduced in notebook 03.

    A way may need several runs a seed, such as a grid of temperatures: it pays for all of them and keeps one.

    Attributes
    ----------
    label : what tables and figures call it.
    role : its look, a key of `plots.ROLES`.
    records : the records of all runs that it chooses from, of all seeds.
    before : the records of earlier runs that it builds on, such as a teacher's: one tuple for each seed, in the order
        of `seeds`. They are paid for and never kept; ``()`` leaves them out of the bill.

    Raises ValueError without a record, or when the seeds do not have equally many.
    """

    label: str
    role: str
    records: tuple
    before: tuple = ()

    def __post_init__(self):
        counts = {len(group) for group in self._by_seed().values()}
        if len(counts) != 1:
            found = ", ".join(f"seed {seed}: {len(group)}" for seed, group in self._by_seed().items()) or "none"
            raise ValueError(f"'{self.label}' needs equally many runs of every seed, at least one; got {found}.")
        if self.before and (len(self.before) != len(self.seeds) or len(set(map(len, self.before))) != 1):
            raise ValueError(f"'{self.label}' needs equally many earlier runs for each of {len(self.seeds)} seeds.")

    @property
    def seeds(self):
        """The seeds, in rising order: the order of everything below that has one entry a seed."""
        return list(self._by_seed())

    @property
    def runs(self):
        """Number of runs that the way needs for one student, those ``before`` included."""
        return len(self._paid()[0])

    def kept(self, epoch="last"):
        """The record that each seed's procedure keeps, a list.

        The one that comes first by `rank` at the ``epoch`` that will be reported, "last" or "chosen".
        """
        return [min(group, key=lambda record: rank(record, epoch)) for group in self._by_seed().values()]

    def scores(self, split="test", epoch="last"):
        """Accuracy or ``map50`` of the kept runs on ``split`` ("test" or "val"): an array of fractions, one a seed."""
        results = [record["result"][epoch] for record in self.kept(epoch)]
        return np.array([result[f"{split}_{metric(result)}"] for result in results])

    def averages(self, split="test"):
        """Mean score of all runs of each seed after the last epoch: an array of fractions, one a seed.

        Of a grid it is what a temperature that is picked blindly can be expected to reach.
        """
        groups = ([record["result"]["last"] for record in group] for group in self._by_seed().values())
        return np.array([np.mean([result[f"{split}_{metric(result)}"] for result in group]) for group in groups])

    def costs(self, intensity="world"):
        """The `carbon.Cost` of training all runs of a seed, a list; kWh as recorded, grams at ``intensity``."""
        return [sum(_cost(record, intensity) for record in group) for group in self._paid()]

    def price(self, intensity="world"):
        """Mean over seeds of seconds, kwh and grams, a dict; None for what was not seen for every seed.

        The energy of a run counts as seen where that of the very device it was trained on was seen.
        """
        costs = self.costs(intensity)
        seen = all(_seen(record) for group in self._paid() for record in group)
        parts = {
            "seconds": [cost.seconds for cost in costs],
            "kwh": [cost.energy_kwh if seen else None for cost in costs],
            "grams": [cost.co2e_g if seen else None for cost in costs],
        }
        return {key: None if None in values else float(np.mean(values)) for key, values in parts.items()}

    def flops(self, backward=True):
        """FLOPs of all runs of one seed: forward and backward passes, or forward only as the paper counts."""
        key = "flops_forward_backward" if backward else "flops_forward"
        return sum(record["compute"][key] for group in self._paid() for record in group) / len(self.seeds)

    def _paid(self):
        """All runs of each seed, a list of lists."""
        groups = list(self._by_seed().values())
        return [[*earlier, *group] for earlier, group in zip(self.before or [()] * len(groups), groups, strict=True)]

    def _by_seed(self):
        groups = {}
        for record in sorted(self.records, key=lambda record: record["seed"]):
            groups.setdefault(record["seed"], []).append(record)
        return groups


def rank(record, epoch="last"):
    """Place of a run among its rivals, a tuple: the smallest is the best. Nothing of the test split is looked at.

    Runs that were trained to the end come first, then those that ``stop_after`` ended; then the highest accuracy (or
    ``map50``) in validation at ``epoch`` ("last" or "chosen"), the lowest validation loss, the lowest tau.
    """
    result = record["result"][epoch]
    stopped = _stopped(record) is not None
    return stopped, -result[f"val_{metric(result)}"], result["val_loss"], record["asked"].get("tau", 0)


def metric(result):
    """What a result of a record tells of the network: "accuracy", or "map50" of a detector."""
    return "accuracy" if "val_accuracy" in result else "map50"


def cost_columns(ways, intensity="world"):
    """What one student costs by each of ``ways`` (a list of `Procedure`): a dict of columns, ready for `tables.table`.

    Number of runs, FLOPs forward only and forward + backward, time, energy, emissions; one unit a column, in its head.
    Introduced in notebook 03.
    """
    prices = [way.price(intensity) for way in ways]
    columns = {"": [way.label for way in ways], "runs": [way.runs for way in ways]}
    for head, values, units in (
        ("{}, forward", [way.flops(backward=False) for way in ways], FLOPS),
        ("{}, with backward", [way.flops() for way in ways], FLOPS),
        ("{}", [price["seconds"] for price in prices], TIME),
        ("{}", [price["kwh"] for price in prices], ENERGY),
        ("{}", [price["grams"] for price in prices], MASS),
    ):
        unit, texts = column(values, units)
        columns[head.format(unit)] = texts
    return columns


def made_on(ways):
    """Where the runs of ``ways`` were trained, and how their energy is known: one phrase for a caption."""
    made = [record for way in ways for record in (*itertools.chain(*way.before), *way.records)]
    machines = [record["hardware"] for record in made]
    places = {f"{computed_on(one, one['device'])}, CPU threads: {one['threads']}": None for one in machines}
    how = {record["cost"]["train"]["how"]: None for record in made}
    return f"{'; '.join(places)}; energy: {', '.join(how)}"


def verdict(one, other, margin=MARGIN):
    """What the test scores (last epoch, paired by seed) say of ``one`` against ``other``: a dict of texts.

    As `outcome`, and the label of the other. Introduced in notebook 04. Raises ValueError where their seeds are not
    the same.
    """
    if one.seeds != other.seeds:
        raise ValueError(
            f"'{one.label}' and '{other.label}' are compared seed by seed, so they need the same seeds; "
            f"got {one.seeds} and {other.seeds}."
        )
    return {"against": other.label, **outcome(one.scores(), other.scores(), margin)}


def outcome(scores, others, margin=MARGIN):
    """What ``scores`` say against ``others`` (fractions, paired): texts of the difference and of what follows, a dict.

    "better" or "worse" where the 95 % interval of the difference leaves out zero; "equivalent" where two one-sided
    tests put it within ± ``margin`` (a fraction); both can hold. "not decided" where neither does, which is no finding,
    and where all seeds differ by one and the same number of test images: accuracies come in steps of an image, and an
    interval of width zero would claim more than a few seeds can know. Introduced in notebook 04.
    """
    gap = stats.paired(scores, others)
    test = stats.equivalence(scores, others, margin)
    said = ["better"] * (gap.low > 0) + ["worse"] * (gap.high < 0) + ["equivalent"] * test.equivalent
    p = "–" if np.isnan(test.p) else f"{test.p:.2g}"
    if gap.n > 1 and np.ptp(scores - others) < ROUNDING:
        p, said = "–", ["not decided (no spread)"]
    return {
        "difference": gap.points(2),
        "p of equivalence": p,
        "the data say": " and ".join(said) or "not decided",
    }


def recorded(records, asked, experiment, profile, label, role):
    """The `Procedure` that ``records`` hold of ``experiment`` at ``profile``, or None where they hold none of it.

    ``asked`` are the settings of that experiment at that profile (`experiments.resolve`): runs with others, but for
    tau, are variants and left out, and so are runs that ``stop_after`` ended. Of equal seed and tau the latest record
    counts; of a grid which is still being filled, the seeds count that have the most temperatures. Introduced in
    notebook 03.
    """
    wanted = experiment, profile, {}
    here = [r for r in records if (r["experiment"], r["profile"], differing(r, asked)) == wanted]
    latest = {(record["seed"], record["asked"].get("tau")): record for record in sorted(here, key=_finished)}
    taus = {}
    for seed, tau in latest:
        taus.setdefault(seed, set()).add(tau)
    most = max(taus.values(), key=len, default=set())
    whole = [record for (seed, _), record in latest.items() if taus[seed] == most]
    return Procedure(label, role, tuple(whole)) if whole else None


def counterpart(way, records, asked, seeds=None):
    """The `Procedure` of ``way`` as ``records`` hold it: same experiment, profile and temperatures; or None.

    With all seeds that are there, or with those of the list ``seeds``; None where one of them or a temperature is
    missing. ``asked`` as in `recorded`. Introduced in notebook 04.
    """
    first, taus = way.records[0], {record["asked"].get("tau") for record in way.records}
    here = [r for r in records if r["asked"].get("tau") in taus and (seeds is None or r["seed"] in seeds)]
    found = recorded(here, asked, first["experiment"], first["profile"], way.label, way.role)
    if found is None or found.runs != len(taus) or (seeds is not None and found.seeds != sorted(seeds)):
        return None
    return found


def counterparts(ways, records):
    """The `counterpart` of each of ``ways`` with the seeds that ``records`` hold of all of them: a list in their order.

    None where a way is missing, or there are fewer such seeds than the ways have themselves. Introduced in notebook 04.
    """
    found = [counterpart(way, records, way.records[0]["asked"]) for way in ways]
    seeds = sorted(set.intersection(*(set(one.seeds) for one in found))) if all(found) else []
    if len(seeds) < max(1, *(len(way.seeds) for way in ways)):
        return None
    return [counterpart(way, records, way.records[0]["asked"], seeds) for way in ways]


def differing(record, asked):
    """The settings of a run, but for tau, that are not as in ``asked``: a dict; what either lacks counts as None."""
    run = {**dict.fromkeys(asked), **record["asked"]}
    return {key: value for key, value in run.items() if key != "tau" and value != asked.get(key)}


def _finished(record):
    return record["finished"]


def _stopped(record):
    return record["asked"].get("stop_after")


def _seen(record):
    reading = record["cost"]["train"]["components"].get("gpu" if record["hardware"]["device"] == "cuda" else "cpu")
    return reading is not None and reading["kwh"] is not None


def _cost(record, intensity):
    cost = carbon.Cost.from_dict(record["cost"]["train"])
    return replace(cost, intensity=carbon.find_intensity(intensity))
