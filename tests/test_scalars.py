"""Scalars for TensorBoard: every point once, none that changes the run, one sentence where it is not installed."""

import itertools
import json
import sys
from types import SimpleNamespace

import pytest

from stkd_utils import experiments, scalars, training
from stkd_utils.__main__ import main

pytestmark = pytest.mark.usefixtures("on_cpu")
NAME = "digits/resnet18-mobilenetv2-stochastic"
TINY = {
    "profile": "smoke", "train_limit": 64, "val_limit": 32, "test_limit": 32, "epochs": 3, "batch_size": 32,
    "width": 0.125, "progress": "none",
}  # fmt: skip
LOUD = {**TINY, "save_seconds": 0}
TAGS = {
    "lr": "lr", "loss_hard": "loss/hard", "loss_soft": "loss/soft", "train_accuracy": "accuracy/train",
    "val_accuracy": "accuracy/val", "val_loss": "loss/val",
}  # fmt: skip
numbers = itertools.count()


class Writer:
    """Stands for TensorBoard's SummaryWriter: a file of its own, one line a point."""

    def __init__(self, folder, purge_step):
        assert purge_step == 0
        folder.mkdir(exist_ok=True)
        self.file = open(folder / f"events.out.tfevents.{next(numbers)}", "w")  # noqa: SIM115

    def add_scalar(self, tag, value, step):
        assert type(step) is int
        self.file.write(json.dumps([tag, step, value]) + "\n")

    def flush(self):
        self.file.flush()

    def close(self):
        self.file.close()


@pytest.fixture
def installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", SimpleNamespace(SummaryWriter=Writer))


def points(run):
    """The points in a run's folder, sorted: (tag, step, value)."""
    files = (run.folder / "tensorboard").iterdir()
    return sorted(tuple(json.loads(line)) for path in files for line in path.read_text().splitlines())


def wanted(run):
    """The points of history.csv and taus.csv."""
    rows = run.record["history"]
    ours = [(TAGS[key], row["epoch"], value) for row in rows for key, value in row.items() if key != "epoch"]
    return sorted(ours + [("tau", step, tau) for step, tau in enumerate(run.taus.tau)])


def test_every_number_of_history_and_taus_is_a_point(installed, tmp_path):
    run = experiments.run(NAME, 1, runs=tmp_path, tensorboard=True, **TINY)
    assert points(run) == wanted(run) and len(points(run)) == 3 * 6 + 3 * 2
    teacher = SimpleNamespace(folder=tmp_path / run.record["teacher_id"])
    assert {tag for tag, *_ in points(teacher)} == set(TAGS.values()) - {"loss/soft"}


def test_the_option_changes_neither_id_nor_result(installed, tmp_path):
    with_it = experiments.run(NAME, 1, runs=tmp_path / "with", tensorboard=True, **TINY)
    without = experiments.run(NAME, 1, runs=tmp_path / "without", **TINY)
    for key in ("id", "asked", "result", "history", "tau", "compute"):
        assert with_it.record[key] == without.record[key]
    for file in ("history.csv", "taus.csv", "weights.pt"):
        assert (with_it.folder / file).read_bytes() == (without.folder / file).read_bytes()
    assert not (without.folder / "tensorboard").exists()


@pytest.mark.parametrize("last", [1, 2])
def test_an_interrupted_and_continued_run_shows_every_point_once(installed, tmp_path, monkeypatch, last):
    learnt = training.Trainer.learnt

    def cut_off(trainer, epoch):
        if trainer.objective.policy and epoch > last:
            raise KeyboardInterrupt
        return learnt(trainer, epoch)

    with monkeypatch.context() as patch:
        patch.setattr(training.Trainer, "learnt", cut_off)
        with pytest.raises(KeyboardInterrupt):
            experiments.run(NAME, 1, runs=tmp_path, tensorboard=True, **LOUD)
    (folder,) = (path.parent for path in tmp_path.glob("*/checkpoint.pt"))
    assert {step for tag, step, _ in points(SimpleNamespace(folder=folder)) if tag == "lr"} == set(range(1, last + 1))
    run = experiments.run(NAME, 1, runs=tmp_path, tensorboard=True, **LOUD)
    assert run.record["resumed"] == 1 and run.folder == folder
    assert points(run) == wanted(run)


def test_points_are_there_after_each_epoch(installed, tmp_path, monkeypatch):
    seen, update = [], scalars.Board.update

    def spy(board, history, taus):
        update(board, history, taus)
        seen.append((len(history), len(taus)))

    monkeypatch.setattr(scalars.Board, "update", spy)
    experiments.run("digits/mobilenetv2-base", 1, runs=tmp_path, tensorboard=True, **TINY)
    assert seen == [(1, 0), (2, 0), (3, 0), (3, 0)]


def test_a_finished_run_gets_its_scalars_without_training(installed, tmp_path):
    run = experiments.run(NAME, 1, runs=tmp_path, **TINY)
    for _ in range(2):
        again = experiments.run(NAME, 1, runs=tmp_path, tensorboard=True, **TINY)
        assert not again.new
        found = points(again)
        assert [point[:2] for point in found] == [point[:2] for point in wanted(run)]
        assert [point[2] for point in found] == pytest.approx([point[2] for point in wanted(run)], rel=1e-12)


def test_students_of_one_pass_have_a_board_each(installed, tmp_path):
    both = experiments.sweep(
        NAME, seeds=[1], hard_weight=[0.1, 0.5], together=True, tensorboard=True, runs=tmp_path, **TINY
    )
    assert all(points(run) == wanted(run) for run in both) and points(both[0]) != points(both[1])


def test_other_files_in_the_folder_are_left_alone(installed, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    for _ in range(2):
        board = scalars.Board(tmp_path)
        board.update([{"epoch": 1, "lr": 0.1}], [])
        board.close()
    assert len(list(tmp_path.iterdir())) == 2 and (tmp_path / "mine.txt").read_text() == "mine"


@pytest.mark.parametrize("key, name", [*TAGS.items(), ("val_map50", "map50/val"), ("loss_a_b", "loss/a_b")])
def test_columns_are_grouped_by_what_they_measure(key, name):
    assert scalars.tag(key) == name


def test_without_tensorboard_one_sentence_comes_before_the_training(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    words = ["run", NAME, "--profile", "smoke", "--runs", str(tmp_path), "--tensorboard"]
    for more in ([], ["--seeds", "1,2"]):
        assert main([*words, *more]) == 2
        message = capsys.readouterr().err
        assert "`pip install tensorboard`" in message and message.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_the_command_says_how_to_look_at_them(installed, tmp_path, capsys):
    settings = [f"{key}={value}" for key, value in TINY.items() if key not in ("profile", "progress")]
    words = [word for setting in settings for word in ("--set", setting)]
    asked = ["run", "digits/mobilenetv2-base", "--profile", "smoke", "--runs", str(tmp_path), *words, "--tensorboard"]
    assert main(asked) == 0
    assert f"tensorboard --logdir {tmp_path}\n" in capsys.readouterr().out
    assert list(tmp_path.glob("*/tensorboard/*"))


def test_tensorboard_itself_reads_every_point_once(tmp_path):
    pytest.importorskip("tensorboard", reason="tensorboard, which is optional, is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = experiments.run(NAME, 1, runs=tmp_path, tensorboard=True, **TINY)
    for _ in range(2):
        events = EventAccumulator(str(run.folder / "tensorboard"), size_guidance={"scalars": 0}).Reload()
        found = sorted((tag, e.step, e.value) for tag in events.Tags()["scalars"] for e in events.Scalars(tag))
        assert [point[:2] for point in found] == [point[:2] for point in wanted(run)]
        assert [point[2] for point in found] == pytest.approx([point[2] for point in wanted(run)], rel=1e-6)
        experiments.run(NAME, 1, runs=tmp_path, tensorboard=True, **TINY)
