"""What a GPU would do, in which order, and what happens where there is none."""

import agenda
import pytest
import torch

from stkd_utils import checkpoint, experiments, ledger


def test_the_most_telling_comes_first():
    todo = agenda.agenda()
    assert [name for name, _ in todo[:5]] == [
        "cifar100/resnet18-base",
        "cifar100/mobilenetv2-base",
        "cifar100/resnet18-mobilenetv2-kd",
        "cifar100/resnet18-mobilenetv2-kd",
        "cifar100/resnet18-mobilenetv2-stochastic",
    ]
    assert [options.get("tau") for _, options in todo[2:4]] == [4, 20]
    alone, grids = todo[:-5], todo[-5:]
    assert [("shufflenetv2" in name) for name, _ in alone] == [False] * 21 + [True] * 20
    assert all(options["together"] and len(options["tau"]) == 19 for _, options in grids)


def test_every_item_is_an_experiment():
    assert {name for name, _ in agenda.agenda()} <= set(experiments.names())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here, which would start to train")
def test_without_a_gpu_it_says_so_and_changes_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("STKD_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("STKD_LEDGER", str(tmp_path / "ledger"))
    assert agenda.main([]) == 0
    assert capsys.readouterr().out == "There is no GPU here: nothing was run and nothing was changed.\n"
    assert list(tmp_path.iterdir()) == []


def test_a_finished_run_is_a_row_at_once_and_an_interrupted_item_continues(tmp_path, monkeypatch):
    monkeypatch.setenv("STKD_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("STKD_LEDGER", str(tmp_path / "ledger"))
    (tmp_path / "ledger").mkdir()
    todo = agenda.agenda("digits", "smoke")[:3]
    real = experiments.sweep

    def stops_at_the_third(name, **options):
        if "tau" in options:
            raise agenda.TimeIsUp
        return real(name, **options)

    monkeypatch.setattr(experiments, "sweep", stops_at_the_third)
    with pytest.raises(agenda.TimeIsUp):
        agenda.work(todo, "smoke", progress="none")
    assert len(ledger.load()[0]) == 2
    monkeypatch.setattr(experiments, "sweep", real)
    agenda.work(todo, "smoke", progress="none")
    records, problems = ledger.load()
    assert not problems and [record["experiment"] for record in records] == [name for name, _ in todo]


def test_the_end_of_the_minutes_is_not_taken_for_an_error(tmp_path, monkeypatch):
    checkpoint.save({}, tmp_path / "c.pt")
    monkeypatch.setattr(torch, "load", lambda *args, **options: agenda._stop())
    with pytest.raises(agenda.TimeIsUp):  # while a checkpoint is read, whose errors are caught
        checkpoint.load(tmp_path / "c.pt")


def test_a_run_that_diverges_is_said_and_the_next_item_goes_on(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("STKD_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("STKD_LEDGER", str(tmp_path / "ledger"))
    (tmp_path / "ledger").mkdir()
    kd, base = "digits/resnet18-mobilenetv2-kd", "digits/mobilenetv2-base"
    todo = [(kd, {"seeds": [0], "tau": 4, "lr": [0.1, 1e30], "together": True}), (base, {"seeds": [0]})]
    agenda.work(todo, "smoke", progress="none")
    assert "Training stopped in epoch" in capsys.readouterr().out
    found = [(record["experiment"], record["asked"]["lr"]) for record in ledger.load()[0]]
    assert found == [(kd, 0.1), (base, experiments.load(base)["lr"])]
