"""What the runs of the ledger had reached in earlier states of it: none left out, and as those states say."""

import subprocess
import sys

import pytest
import repeats

from stkd_utils import ledger
from stkd_utils.ledger_files import own_folder

REPEATS = ledger.repeats()


def test_a_ledger_without_such_a_file_has_that_of_the_code(tmp_path, monkeypatch):
    monkeypatch.setenv("STKD_LEDGER", str(tmp_path))
    assert ledger.repeats().equals(REPEATS) and list(REPEATS) == list(repeats.COLUMNS) and len(REPEATS)


@pytest.mark.parametrize("commit", sorted(REPEATS.ledger.unique()))
def test_an_earlier_ledger_is_told_whole(commit):
    now, damaged = ledger.load()
    try:
        wanted = repeats.rows(commit, now)
    except subprocess.CalledProcessError:
        pytest.skip("the history is not here")
    told = REPEATS[REPEATS.ledger == commit]
    assert not damaged and wanted == list(told.itertuples(index=False, name=None))


def test_a_run_on_other_images_or_from_other_weights_is_no_repeat(monkeypatch):
    now, _ = ledger.load()
    one = next(record for record in now if "test_accuracy" in record["result"]["last"])
    monkeypatch.setattr(repeats, "at", lambda commit: [one])
    assert not repeats.rows("abc", now)  # the ledger still holds this very record
    monkeypatch.setattr(repeats, "at", lambda commit: [{**one, "finished": "2025-01-01T00:00:00+00:00"}])
    assert [row[0] for row in repeats.rows("abc", now)] == [one["id"]]
    for key in repeats.SAME:
        assert not repeats.rows("abc", [{**record, key: "other"} for record in now])


def test_a_commit_that_is_not_here_is_one_sentence(monkeypatch, capsys):
    before = (own_folder() / "repeats.csv").read_bytes()
    monkeypatch.setattr(sys, "argv", ["repeats.py", "0000000"])
    with pytest.raises(SystemExit, match="^0000000 has no ledger here"):
        repeats.main()
    assert (own_folder() / "repeats.csv").read_bytes() == before
