"""A shared pass that is killed, or that one student cannot finish: it goes on where it was, and nothing is lost."""

import math
import os
import signal
import subprocess
import sys
import threading
from types import SimpleNamespace

import filelock
import pytest
import torch
from helpers import equal

from stkd_utils import experiments, ledger
from stkd_utils.experiments import together
from stkd_utils.training import Diverged

pytestmark = pytest.mark.usefixtures("on_cpu")
KD = "digits/resnet18-mobilenetv2-kd"
TINY = {"train_limit": 128, "val_limit": 64, "test_limit": 32, "epochs": 2, "batch_size": 32, "width": 0.125}
TEACHER = {"profile": "smoke", "progress": "none"} | {key: TINY[key] for key in TINY if key.endswith("_limit")}
QUIET = {"progress": "none", "profile": "smoke", **TINY}

SCRIPT = """
import sys
from stkd_utils import experiments
experiments.sweep({name!r}, seeds=[3], tau=[2, 4, 20], profile="smoke", runs=sys.argv[1], together=True,
                  progress="lines", save_seconds=0, **{settings!r})
"""
LONGER = {**TINY, "epochs": 5, "train_limit": 256}


def start(runs):
    code = SCRIPT.format(name=KD, settings=LONGER)
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.Popen([sys.executable, "-c", code, str(runs)], stdout=subprocess.PIPE, text=True, env=environment)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    options = {"profile": "smoke", "progress": "none", **LONGER}
    return experiments.sweep(KD, seeds=[3], tau=[2, 4, 20], runs=tmp_path_factory.mktemp("alone"), **options)


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL does not exist on Windows")
def test_trap_S17_a_pass_that_was_killed_ends_like_one_that_was_not(whole, tmp_path):
    with start(tmp_path) as process:
        for line in process.stdout:
            if KD in line and "epoch 2/5" in line:
                break
        process.send_signal(signal.SIGKILL)
    folders = [tmp_path / run.folder.name for run in whole]
    assert all((folder / "checkpoint.pt").exists() and not (folder / "record.json").exists() for folder in folders)
    # one member is an epoch behind, as after a kill between the checkpoints of two
    late = folders[1] / "checkpoint.pt"
    os.replace(folders[1] / "checkpoint.previous.pt", late)
    assert len({len(torch.load(folder / "checkpoint.pt")["fit"]["history"]) for folder in folders}) == 2
    with start(tmp_path) as again:
        output = again.stdout.read()
    assert again.returncode == 0 and "epoch 5/5" in output
    assert f"{KD} 3 students  epoch 1/5" not in output, "it started from the beginning"
    options = {"profile": "smoke", "progress": "none", **LONGER}
    continued = experiments.sweep(KD, seeds=[3], tau=[2, 4, 20], runs=tmp_path, **options)
    assert not any(run.new for run in continued)
    assert all(equal(*pair) for pair in zip(continued, whole, strict=True))
    assert [run.record["resumed"] for run in continued] == [1, 1, 1]
    assert all(run.record["shared"]["students"] == 3 for run in continued)


@pytest.mark.parametrize("written", [0, 1])
def test_a_kill_between_the_records_of_a_pass_loses_nothing(tmp_path, monkeypatch, written):
    experiments.run("digits/resnet18-base", 0, runs=tmp_path, **TEACHER)
    write, calls = ledger.write, []

    def killed(record, path):
        if len(calls) == written:
            raise KeyboardInterrupt
        calls.append(write(record, path))

    with monkeypatch.context() as patch:
        patch.setattr(ledger, "write", killed)
        with pytest.raises(KeyboardInterrupt):
            experiments.sweep(KD, seeds=[3], tau=[2, 4], together=True, runs=tmp_path, **QUIET)
    both = experiments.sweep(KD, seeds=[3], tau=[2, 4], together=True, runs=tmp_path, **QUIET)
    assert [run.new for run in both] == [written == 0, True]
    assert [run.record["shared"]["share"] for run in both] == [0.5, 0.5], "an epoch was trained again, and alone"


def test_a_student_that_diverges_does_not_stop_the_others(tmp_path):
    options = {"seeds": [3], "tau": 4, **QUIET}
    for _ in range(2):  # asked again, the others are there
        with pytest.raises(Diverged, match="stopped in epoch .* NaN or Inf in .* lower lr") as caught:
            experiments.sweep(KD, lr=[0.1, 1e30, 0.05], together=True, runs=tmp_path / "all", **options)
        assert "\n" not in str(caught.value) and KD.replace("/", "_") in str(caught.value)
        assert [record["asked"]["lr"] for record in caught.value.records] == [0.1, 0.05]
        assert not any(record["id"] in str(caught.value) for record in caught.value.records)
    alone = experiments.sweep(KD, lr=[0.1, 0.05], runs=tmp_path / "alone", **options)
    found = experiments.sweep(KD, lr=[0.1, 0.05], together=True, runs=tmp_path / "all", **options)
    assert not any(run.new for run in found) and all(equal(*both) for both in zip(found, alone, strict=True))


def test_a_student_whose_answers_are_no_numbers_does_not_stop_the_others(tmp_path):
    """Its only loss is taken before its only update, so that nobody notices before the test split is read."""
    options = {**QUIET, "tau": 4, "train_limit": 32, "epochs": 1}
    for _ in range(2):
        with pytest.raises(Diverged, match="^digits_.*, last epoch: The network's answers to .* lower lr") as caught:
            experiments.sweep(KD, seeds=[3], lr=[1e30, 0.05], together=True, runs=tmp_path, **options)
        assert [record["asked"]["lr"] for record in caught.value.records] == [0.05]
        assert "\n" not in str(caught.value) and caught.value.records[0]["id"] not in str(caught.value)


def test_a_student_whose_record_would_hold_no_numbers_does_not_stop_the_others(tmp_path, monkeypatch):
    tested = together._test

    def broken(plan, *rest):
        return tested(plan, *rest) | ({"val_loss": math.inf} if plan.asked["lr"] == 0.1 else {})

    monkeypatch.setattr(together, "_test", broken)
    with pytest.raises(Diverged, match="^digits_.*: NaN or Inf in val_loss; lower lr and start again.$") as caught:
        experiments.sweep(KD, seeds=[3], tau=4, lr=[0.1, 0.05], together=True, runs=tmp_path, **QUIET)
    assert [record["asked"]["lr"] for record in caught.value.records] == [0.05]


# where a run begins that was asked for before with an earlier end


def planned(folder, own=None):
    """A stand-in for a plan whose run was stopped before; ``own`` is the checkpoint that it has itself."""
    early, late = folder / "early" / "checkpoint.pt", folder / "late" / "checkpoint.pt"
    for path in (early, late):
        path.parent.mkdir()
    early.write_text("early")
    if own:
        late.with_name(own).write_text("own")
    return SimpleNamespace(stopped=lambda: early, checkpoint_path=late, folder=late.parent)


@pytest.mark.parametrize("own", ["checkpoint.pt", "checkpoint.previous.pt"])
def test_an_own_checkpoint_is_not_overruled_by_an_earlier_end(tmp_path, own):
    plan = planned(tmp_path, own)
    together._carry_over(plan)
    assert [path.read_text() for path in plan.folder.iterdir()] == ["own"]


def test_the_checkpoint_of_an_earlier_end_is_taken_when_nobody_writes_it(tmp_path):
    plan = planned(tmp_path)
    taker = threading.Thread(target=together._carry_over, args=[plan])
    with filelock.FileLock(tmp_path / "early" / ".lock"):
        taker.start()
        taker.join(0.3)
        assert taker.is_alive() and not plan.checkpoint_path.exists()
        os.replace(plan.stopped(), plan.stopped().with_name("checkpoint.previous.pt"))  # as in the middle of a save
    taker.join(10)
    assert plan.checkpoint_path.read_text() == "early"
