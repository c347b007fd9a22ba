"""The paper's protocol on a GPU, in the order of worth: as much of it as the given minutes allow, the rest next time.

Every finished run becomes a row of the ledger at once; what has a row already is left out. What is interrupted
continues from its checkpoint when the command is given again.
"""

import argparse
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the package, when it is not installed

from stkd_utils import data, experiments, ledger  # noqa: E402
from stkd_utils.experiments.running import resolved  # noqa: E402
from stkd_utils.training import Diverged, default_device  # noqa: E402

PROFILE = "paper"


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


def missing(wanted, profile=PROFILE):
    """Those of a pass that the ledger has no row of, from whatever machine: a second row of one run is not kept."""
    known = [(row["experiment"], row["profile"], row["seed"], row["asked"]) for row in ledger.load()[0]]
    return [
        (name, seed, overrides)
        for name, seed, overrides in wanted
        if (name, profile, seed, resolved(name, profile, overrides)) not in known
    ]


def work(todo, profile=PROFILE, progress="lines"):
    """Train what the ledger does not have yet, pass by pass; every finished run is added to it at once.

    A run whose loss is no longer a number does not stop those beside and after it.
    """
    for wanted in todo:
        try:
            left = missing(wanted, profile)
            records = [run.record for run in experiments.side_by_side(left, profile, progress=progress)]
        except Diverged as error:
            print(error, flush=True)
            records = error.records
        ledger.append(records)


def main(arguments=None):
    """Work through the agenda until it is done or the minutes are over; without a GPU say so and change nothing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30)
    asked = parser.parse_args(arguments)
    if default_device() != "cuda":
        print("There is no GPU here: nothing was run and nothing was changed.")
        return 0
    signal.signal(signal.SIGALRM, _stop)
    signal.setitimer(signal.ITIMER_REAL, 60 * asked.minutes)
    try:
        data.read("cifar100", download=True)
        work(agenda())
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
