"""Checkpoints: whole or not at all, the one before as a spare, no code inside."""

import pickle

import pytest
import torch

from stkd_utils import checkpoint


def test_saved_state_comes_back(tmp_path):
    state = {"weights": torch.arange(4.0), "epoch": 3, "history": [{"loss": 0.5}], "name": "x", "none": None}
    checkpoint.save(state, tmp_path / "deep" / "c.pt")
    loaded, note = checkpoint.load(tmp_path / "deep" / "c.pt")
    assert note == ""
    assert torch.equal(loaded.pop("weights"), state.pop("weights"))
    assert loaded == state


def test_no_checkpoint_is_no_state(tmp_path):
    assert checkpoint.load(tmp_path / "c.pt") == (None, "")


@pytest.mark.parametrize("keep", [0, 1, 100, -1])
def test_truncated_file_falls_back_to_the_previous_one_and_says_so(tmp_path, keep):
    path = tmp_path / "c.pt"
    checkpoint.save({"epoch": 1}, path)
    checkpoint.save({"epoch": 2}, path)
    whole = path.read_bytes()
    path.write_bytes(whole[:keep])
    state, note = checkpoint.load(path)
    assert state == {"epoch": 1}
    assert "c.pt cannot be read" in note and "c.previous.pt" in note


def test_kill_between_the_two_renames_loses_nothing(tmp_path):
    path = tmp_path / "c.pt"
    checkpoint.save({"epoch": 1}, path)
    path.rename(checkpoint.previous(path))
    assert checkpoint.load(path) == ({"epoch": 1}, "")


def test_both_damaged_is_one_sentence_that_says_what_to_do(tmp_path):
    path = tmp_path / "c.pt"
    for _ in range(2):
        checkpoint.save({"epoch": 1}, path)
    path.write_bytes(b"")
    checkpoint.previous(path).write_bytes(b"no")
    with pytest.raises(checkpoint.CheckpointDamaged, match="Delete the folder"):
        checkpoint.load(path)


class _Evil:
    def __reduce__(self):
        return (print, ("code ran",))


def test_a_checkpoint_cannot_run_code(tmp_path, capsys):
    (tmp_path / "c.pt").write_bytes(pickle.dumps(_Evil()))
    with pytest.raises(checkpoint.CheckpointDamaged):
        checkpoint.load(tmp_path / "c.pt")
    assert "code ran" not in capsys.readouterr().out


def test_failed_write_leaves_the_old_one(tmp_path):
    path = tmp_path / "c.pt"
    checkpoint.save({"epoch": 1}, path)
    with pytest.raises(Exception, match="pickle|local"):
        checkpoint.save({"epoch": lambda: 2}, path)
    assert checkpoint.load(path) == ({"epoch": 1}, "")


def test_a_full_disk_is_one_sentence_and_leaves_no_half_file(tmp_path, monkeypatch):
    path = tmp_path / "state.pt"
    checkpoint.save({"epoch": 1}, path)

    def full(state, file):
        file.write(b"half")
        raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 333120 vs 333016")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="cannot be written; is the disk full") as caught:
        checkpoint.save({"epoch": 2}, path)
    assert caught.value.filename == str(path)
    assert [file.name for file in tmp_path.iterdir()] == ["state.pt"]
    assert checkpoint.load(path)[0] == {"epoch": 1}


def test_remove_leaves_nothing(tmp_path):
    path = tmp_path / "c.pt"
    for _ in range(2):
        checkpoint.save({"epoch": 1}, path)
    checkpoint.remove(path)
    assert list(tmp_path.iterdir()) == []


def test_the_one_before_goes_where_it_is_not_to_be_kept(tmp_path):
    for number in (1, 2):
        checkpoint.save({"number": number}, tmp_path / "c.pt", keep=False)
    assert [path.name for path in tmp_path.iterdir()] == ["c.pt"]
    assert checkpoint.load(tmp_path / "c.pt")[0] == {"number": 2}
