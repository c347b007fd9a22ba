"""Writes book/ledger/repeats.csv: what the runs of the ledger had reached in the ledgers of earlier commits."""

import argparse
import csv
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # the package, when it is not installed

from stkd_utils import ledger  # noqa: E402
from stkd_utils.ledger_files import parse  # noqa: E402

SAME = ("id", "data_checksum", "init_checksum")
COLUMNS = ("id", "experiment", "seed", "test_accuracy", "ledger", "cpu")


def at(commit):
    """The records of the ledger that ``commit`` holds, a list. Raises CalledProcessError where it is not at hand."""
    shown = subprocess.run(
        ["git", "show", f"{commit}:book/ledger/runs.jsonl"], cwd=ROOT, capture_output=True, check=True
    )
    return [parse(line) for line in shown.stdout.splitlines()]


def rows(commit, now):
    """The lines of ``commit`` for the records ``now``: classifiers with equal id, images and first weights.

    A record that the ledger still holds is no repeat of itself.
    """
    known = {tuple(record[key] for key in SAME): record["finished"] for record in now}
    return [
        (one["id"], one["experiment"], one["seed"], round(accuracy, 6), commit, one["hardware"]["cpu"])
        for one in at(commit)
        if known.get(tuple(one[key] for key in SAME), one["finished"]) != one["finished"]
        and (accuracy := one["result"]["last"].get("test_accuracy")) is not None
    ]


def main():
    """Write the file anew from the commits named, newest first; without any, from those that it names already."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("commits", nargs="*", metavar="COMMIT")
    commits = parser.parse_args().commits or list(ledger.repeats().ledger.unique())
    now, _ = ledger.load()
    try:
        found = [row for commit in commits for row in rows(commit, now)]
    except subprocess.CalledProcessError as error:
        sys.exit(f"{error.cmd[-1].split(':')[0]} has no ledger here: {error.stderr.decode().strip()}")
    with (ROOT / "book" / "ledger" / "repeats.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([COLUMNS, *found])
    print(f"{len(found)} earlier results from {', '.join(commits)}")


if __name__ == "__main__":
    main()
