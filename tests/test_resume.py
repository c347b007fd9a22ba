"""A run that is killed and started again ends like one that was left alone, to the last digit."""

import os
import signal
import subprocess
import sys
import time

import pandas as pd
import pytest
import torch

from stkd_utils import experiments

pytestmark = pytest.mark.usefixtures("on_cpu")
NAME = "digits/resnet18-mobilenetv2-stochastic"
SETTINGS = {"train_limit": 128, "val_limit": 64, "test_limit": 32, "epochs": 4, "batch_size": 32, "width": 0.125}
SCRIPT = """
import sys
from stkd_utils import experiments
experiments.run({name!r}, 3, "smoke", runs=sys.argv[1], progress="lines", save_seconds=0, **{settings!r})
"""


def start(runs):
    code = SCRIPT.format(name=NAME, settings=SETTINGS)
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.Popen([sys.executable, "-c", code, str(runs)], stdout=subprocess.PIPE, text=True, env=environment)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    runs = tmp_path_factory.mktemp("whole")
    assert start(runs).wait(timeout=240) == 0
    return experiments.run(NAME, 3, "smoke", runs=runs, **SETTINGS)


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL does not exist on Windows")
@pytest.mark.parametrize("after", [1, 3])
def test_trap_S17_killed_and_continued_equals_uninterrupted(whole, tmp_path, after):
    process = start(tmp_path)
    _until(process, f"epoch {after}/4")
    time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    folder = tmp_path / whole.folder.name
    assert (folder / "checkpoint.pt").exists() and not (folder / "record.json").exists()
    again = start(tmp_path)
    output, _ = again.communicate(timeout=240)
    assert again.returncode == 0
    assert f"{NAME} seed 3  epoch 1/4" not in output, "it started from the beginning"
    continued = experiments.run(NAME, 3, "smoke", runs=tmp_path, **SETTINGS)
    assert (folder / "history.csv").read_bytes() == (whole.folder / "history.csv").read_bytes()
    assert (folder / "taus.csv").read_bytes() == (whole.folder / "taus.csv").read_bytes()
    assert continued.record["resumed"] == 1 and whole.record["resumed"] == 0
    ours, theirs = (torch.load(f / "weights.pt", weights_only=True) for f in (folder, whole.folder))
    for epoch in ("last", "chosen"):
        assert all(torch.equal(value, theirs[epoch][key]) for key, value in ours[epoch].items())
    assert continued.record["result"] == whole.record["result"]
    assert len(pd.read_csv(folder / "timings.csv")) == 4
    seconds = continued.record["cost"]["train"]["seconds"]
    assert seconds == pytest.approx(pd.read_csv(folder / "timings.csv").train_seconds.sum(), rel=0.1)


def _until(process, words):
    """Read the student's lines until one holds ``words``."""
    for line in process.stdout:
        if NAME in line and words in line:
            return None
    raise AssertionError(f"the run ended before '{words}'")


def test_damaged_checkpoint_of_a_run_uses_the_one_before_and_says_so(whole, tmp_path, capsys):
    process = start(tmp_path)
    _until(process, "epoch 3/4")
    process.kill()
    process.wait()
    path = tmp_path / whole.folder.name / "checkpoint.pt"
    path.write_bytes(path.read_bytes()[:1000])
    continued = experiments.run(NAME, 3, "smoke", runs=tmp_path, progress="none", **SETTINGS)
    assert "continuing from checkpoint.previous.pt" in capsys.readouterr().out
    assert continued.record["result"] == whole.record["result"]
