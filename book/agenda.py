"""The paper's protocol on a GPU, in the order of worth: as much of it as the given minutes allow, the rest next time.

Every finished run becomes a row of the ledger at once. What is interrupted continues from its checkpoint when the
command is given again.
"""

import argparse
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the package, when it is not installed

from stkd_utils import data, experiments, ledger  # noqa: E402
from stkd_utils.training import Diverged, default_device  # noqa: E402

PROFILE = "paper"


class TimeIsUp(BaseException):
    """The minutes are used up; like Ctrl-C, nothing that catches an Exception may swallow it."""


def agenda(dataset="cifar100", profile=PROFILE):
    """What is to be run, the most telling first: a list of (experiment, options of `experiments.sweep`)."""
    scale = experiments.profile(profile)
    first, more = list(scale.seeds[:1]), list(scale.seeds[1:])
    kd, taus = f"{dataset}/resnet18-{{}}-kd", list(scale.taus)

    def ways(student, seeds):
        yield f"{dataset}/{student}-base", {"seeds": seeds}
        for tau in (4, 20):
            yield kd.format(student), {"seeds": seeds, "tau": tau}
        yield f"{dataset}/resnet18-{student}-stochastic", {"seeds": seeds}

    todo = [(f"{dataset}/resnet18-base", {"seeds": first})]
    todo += ways("mobilenetv2", first)
    todo += [item for seed in more for item in ways("mobilenetv2", [seed])]
    todo += [item for seed in scale.seeds for item in ways("shufflenetv2", [seed])]
    todo += [(kd.format("mobilenetv2"), {"seeds": [seed], "tau": taus, "together": True}) for seed in scale.seeds]
    return todo


def work(todo, profile=PROFILE, progress="lines"):
    """Train what is not there yet, item by item; every finished run is added to the ledger at once.

    A run whose loss is no longer a number does not stop the items after it.
    """
    for name, options in todo:
        try:
            runs = experiments.sweep(name, profile=profile, progress=progress, **options)
            records = [run.record for run in runs]
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
