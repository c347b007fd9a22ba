"""What the ledger is to hold beyond the runs of the notebooks: as much of it as the minutes allow, the rest next time.

The paper's protocol on a GPU, in the order of worth; or, on any machine, more seeds on the digits. Every finished run
becomes a row of the ledger at once; what has a row already is left out. What is interrupted continues from its
checkpoint when the command is given again.
"""

import argparse
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the package, when it is not installed

from stkd_utils import data, experiments, ledger  # noqa: E402
from stkd_utils.training import Diverged, default_device  # noqa: E402

PROFILE, SMALL = "paper", "quick"
LOSSES = "crd", "crd-stochastic", "dml", "dml-stochastic", "learnable", "mse", "standardised"
FREE = "smoothing", "reg", "reg-as-coded", "double", "self"
LAW = "tau_policy", "tau_low", "tau_high"


class TimeIsUp(BaseException):
    """The minutes are used up; like Ctrl-C, nothing that catches an Exception may swallow it."""


def agenda(dataset="cifar100", profile=PROFILE):
    """What is to be run, the most telling first: a list of passes, each a list of (experiment, seed, overrides)."""
    scale = experiments.profile(profile)
    kd = f"{dataset}/resnet18-{{}}-kd"

    def ways(student, seed):
        names = [f"{dataset}/{student}-base", *2 * [kd.format(student)], f"{dataset}/resnet18-{student}-stochastic"]
        return [(name, seed, tau) for name, tau in zip(names, ({}, {"tau": 4}, {"tau": 20}, {}), strict=True)]

    todo = [[(f"{dataset}/resnet18-base", scale.seeds[0], {})]]
    todo += [ways(student, seed) for student in ("mobilenetv2", "shufflenetv2") for seed in scale.seeds]
    todo += [[(kd.format("mobilenetv2"), seed, {"tau": tau}) for tau in scale.taus] for seed in scale.seeds]
    return todo


def digits(seeds):
    """The five ways of chapter 4, the shorter ones of chapter 9, the losses of chapter 6 and the ways of chapter 7.

    All on the digits, seed by seed; passes as `agenda`.

    ``seeds`` is how many, from the first of the profile on. Every pass is one run, because the price of a way is that
    of runs which share nothing.
    """
    scale, kd, small = experiments.profile(SMALL), "digits/resnet18-mobilenetv2-{}", "digits/mobilenetv2-{}"
    alone, random, short = small.format("base"), kd.format("stochastic"), {"schedule": "one-cycle"}
    half = {"epochs": max(1, experiments.resolve(random, SMALL)["epochs"] // 2)}
    runs = [(alone, {}), (random, {}), (random, short), (random, half), (random, short | half)]
    runs += [(kd.format("kd"), {"tau": tau}) for tau in scale.taus]
    runs += [(kd.format(loss), {}) for loss in LOSSES]
    law = {key: value for key, value in experiments.resolve(random, SMALL).items() if key in LAW}
    runs += [(kd.format("standardised"), law), (kd.format("dml"), {"tau": 20})]
    runs += [(small.format(way), {}) for way in FREE] + [(small.format(way), law) for way in ("reg", "self")]
    first = scale.seeds[0]
    return [[(name, seed, overrides)] for seed in range(first, first + seeds) for name, overrides in runs]


def missing(wanted, profile=PROFILE, known=None):
    """Those of a pass that the ledger has no row of, from whatever machine: a second row of one run is not kept.

    ``known`` is what `recorded` gave, where it was asked a moment ago.
    """
    known = recorded() if known is None else known
    return [
        (name, seed, overrides)
        for name, seed, overrides in wanted
        if experiments.resolve(name, profile, **overrides) not in known.get((name, profile, seed), ())
    ]


def recorded():
    """The settings of the runs in the ledger: a list for each (experiment, profile, seed)."""
    found = {}
    for row in ledger.load()[0]:
        found.setdefault((row["experiment"], row["profile"], row["seed"]), []).append(row["asked"])
    return found


def work(todo, profile=PROFILE, progress="lines"):
    """Train what the ledger does not have yet, pass by pass; every finished run is added to it at once. How many were.

    A run whose loss is no longer a number does not stop those beside and after it.
    """
    known, added = recorded(), 0
    for wanted in [wanted for wanted in todo if missing(wanted, profile, known)]:
        try:
            left = missing(wanted, profile)
            records = [run.record for run in experiments.side_by_side(left, profile, progress=progress)]
        except Diverged as error:
            print(error, flush=True)
            records = error.records
        added += ledger.append(records)
    return added


def main(arguments=None):
    """Work through what is asked until it is done or the minutes are over; what needs a GPU, and has none, says so."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=0, help="stop after so many; 0, the default, is no limit")
    parser.add_argument("--digits", type=int, metavar="SEEDS", help="instead, so many seeds of the digits")
    asked = parser.parse_args(arguments)
    if asked.digits is not None and asked.digits < 1:
        parser.error("--digits needs a number of seeds, at least 1")
    if asked.digits is None and default_device() != "cuda":
        print("There is no GPU here: nothing was run and nothing was changed.")
        return 0
    signal.signal(signal.SIGALRM, _stop)
    signal.setitimer(signal.ITIMER_REAL, 60 * asked.minutes)
    try:
        if asked.digits is not None:
            added = work(digits(asked.digits), SMALL)
        else:
            data.read("cifar100", download=True)
            added = work(agenda())
        print(f"{added} runs were added to the ledger.")
    except TimeIsUp:
        print("The minutes are over; the same command continues from the last checkpoint.")
    except KeyboardInterrupt:
        print("\nInterrupted. The same command continues from the last checkpoint.", file=sys.stderr)
        return 130
    except (data.DataError, experiments.ExperimentError) as error:
        print(error, file=sys.stderr)
        return 2
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return 0


def _stop(*_):
    raise TimeIsUp


if __name__ == "__main__":
    sys.exit(main())
