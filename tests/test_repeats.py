"""What the same runs reached in earlier states of the ledger: whole, of runs that are there, and really earlier."""

import subprocess

import pytest

from stkd_utils import ledger
from stkd_utils.ledger_files import own_folder, parse

REPEATS = ledger.repeats(own_folder())


def test_without_a_file_there_is_none(tmp_path):
    found = ledger.repeats(tmp_path)
    assert found.empty and list(found) == list(REPEATS)


def test_each_line_is_of_a_run_in_the_ledger():
    records, damaged = ledger.load()
    runs = {record["id"]: record for record in records}
    assert len(REPEATS) and not damaged and not REPEATS.duplicated(["id", "ledger"]).any()
    for line in REPEATS.itertuples():
        assert (runs[line.id]["experiment"], runs[line.id]["seed"]) == (line.experiment, line.seed)
    assert REPEATS.test_accuracy.between(0, 1).all()


@pytest.mark.parametrize("commit", sorted(REPEATS.ledger.unique()))
def test_the_ledger_of_that_commit_says_so(commit):
    shown = subprocess.run(["git", "show", f"{commit}:book/ledger/runs.jsonl"], cwd=own_folder(), capture_output=True)
    if shown.returncode:
        pytest.skip("the history is not here")
    then = {record["id"]: record for record in map(parse, shown.stdout.splitlines())}
    for line in REPEATS[REPEATS.ledger == commit].itertuples():
        assert then[line.id]["result"]["last"]["test_accuracy"] == pytest.approx(line.test_accuracy, abs=1e-6)
        assert then[line.id]["hardware"]["cpu"] == line.cpu
