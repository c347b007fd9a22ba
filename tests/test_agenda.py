"""What a GPU would do, in which order, and what happens where there is none."""

import os
import signal
from functools import partial

import agenda
import pytest
import torch

from stkd_utils import checkpoint, experiments, ledger
from stkd_utils.experiments import together


def test_the_most_telling_comes_first():
    todo = agenda.agenda()
    assert todo[0] == [("cifar100/resnet18-base", 0, {})]
    assert todo[1] == [
        ("cifar100/mobilenetv2-base", 0, {}),
        ("cifar100/resnet18-mobilenetv2-kd", 0, {"tau": 4}),
        ("cifar100/resnet18-mobilenetv2-kd", 0, {"tau": 20}),
        ("cifar100/resnet18-mobilenetv2-stochastic", 0, {}),
    ]
    ways, grids = todo[1:-5], todo[-5:]
    assert [{seed for _, seed, _ in wanted} for wanted in ways] == 2 * [{0}, {1}, {2}, {3}, {4}]
    assert ["shufflenetv2" in wanted[0][0] for wanted in ways] == [False] * 5 + [True] * 5
    assert [len(wanted) for wanted in grids] == [19] * 5


def test_every_item_is_an_experiment():
    assert {name for wanted in agenda.agenda() + agenda.digits(1) for name, *_ in wanted} <= set(experiments.names())


def test_on_the_digits_every_run_is_paid_alone_and_a_seed_is_finished_before_the_next():
    todo = agenda.digits(2)
    assert {len(wanted) for wanted in todo} == {1} and len(todo) == 2 * (1 + 1 + 3 + 19 + 9 + 7)
    assert [seed for [(_, seed, _)] in todo] == 40 * [3] + 40 * [4]


def test_on_the_digits_no_gpu_is_needed(tmp_path, monkeypatch, on_cpu, capsys):
    monkeypatch.setenv("STKD_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("STKD_LEDGER", str(tmp_path / "ledger"))
    (tmp_path / "ledger").mkdir()
    monkeypatch.setattr(agenda, "SMALL", "smoke")
    scale = experiments.profile("smoke")
    assert agenda.main(["--digits", "1"]) == 0
    rows = ledger.load()[0]
    assert f"{len(rows)} runs were added to the ledger" in capsys.readouterr().out
    assert agenda.main(["--digits", "1"]) == 0 and capsys.readouterr().out.startswith("0 runs were added")
    assert len(rows) == 21 + len(scale.taus) and not any(row["shared"] for row in rows)
    assert {(row["seed"], row["profile"]) for row in rows} == {(scale.seeds[0], "smoke")}
    with_teacher = [row for row in rows if row["teacher_id"]]
    itself = next(row["id"] for row in rows if row["experiment"] == "digits/mobilenetv2-base")
    taught = [row["teacher_id"] for row in with_teacher]
    assert len(set(taught)) == 2 and taught.count(itself) == 2 and len(taught) == 12 + len(scale.taus)


@pytest.mark.parametrize("seeds", ["0", "-3", "many"])
def test_a_number_of_seeds_that_is_none_is_refused(seeds, capsys):
    with pytest.raises(SystemExit) as left:
        agenda.main(["--digits", seeds])
    assert left.value.code == 2 and "--digits" in capsys.readouterr().err


def test_what_the_ledger_has_is_not_trained_again(tmp_path, monkeypatch):
    monkeypatch.setenv("STKD_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("STKD_LEDGER", str(tmp_path / "ledger"))
    (tmp_path / "ledger").mkdir()
    first, second = (("digits/mobilenetv2-base", seed, {}) for seed in (0, 1))
    agenda.work([[first]], "smoke", progress="none")
    monkeypatch.setenv("STKD_RUNS", str(tmp_path / "another machine"))
    assert agenda.missing([first, second], "smoke") == [second]
    assert agenda.missing([first], "quick") == [first]
    agenda.work([[first]], "smoke", progress="none")
    assert not (tmp_path / "another machine").exists()


def test_the_rows_of_the_ledger_are_known_again():
    pass_of_all = agenda.agenda()[2]
    assert {seed for _, seed, _ in pass_of_all} == {1}
    assert agenda.missing(pass_of_all) == []


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
    todo = agenda.agenda("digits", "smoke")[:2]
    real = experiments.side_by_side

    def stops_at_the_second(wanted, *args, **options):
        if len(wanted) > 1:
            raise agenda.TimeIsUp
        return real(wanted, *args, **options)

    monkeypatch.setattr(experiments, "side_by_side", stops_at_the_second)
    with pytest.raises(agenda.TimeIsUp):
        agenda.work(todo, "smoke", progress="none")
    assert len(ledger.load()[0]) == 1
    monkeypatch.setattr(experiments, "side_by_side", real)
    agenda.work(todo, "smoke", progress="none")
    records, problems = ledger.load()
    assert not problems
    assert [record["experiment"] for record in records] == [name for wanted in todo for name, *_ in wanted]
    assert records[1]["cost"]["train"]["seconds"] < records[2]["cost"]["train"]["seconds"]  # no teacher, smaller share


@pytest.mark.skipif(os.name == "nt", reason="SIGALRM does not exist on Windows")
@pytest.mark.parametrize("stop", ["minutes", "Ctrl-C"])
def test_training_that_is_cut_off_is_said_and_continues(stop, tmp_path, monkeypatch, capsys, on_cpu):
    monkeypatch.setenv("STKD_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("STKD_LEDGER", str(tmp_path / "ledger"))
    (tmp_path / "ledger").mkdir()
    item = [("digits/mobilenetv2-base", seed, {"data_seed": 0, "epochs": 3}) for seed in (0, 1)]
    monkeypatch.setattr(agenda, "default_device", lambda: "cuda")  # it says that there is one, and trains on the CPU
    monkeypatch.setattr(agenda, "agenda", lambda: [item])
    monkeypatch.setattr(agenda, "work", partial(agenda.work, profile="smoke", progress="none"))
    read = agenda.data.read
    monkeypatch.setattr(agenda.data, "read", lambda name, *more, **how: name == "cifar100" or read(name, *more, **how))
    monkeypatch.setattr(experiments, "side_by_side", partial(experiments.side_by_side, save_seconds=0))
    epochs, mean = [], together._mean

    def cut_off_after_the_second_epoch(rows):
        epochs.append(rows[0]["epoch"])
        if epochs == [1, 2]:
            if stop == "Ctrl-C":
                raise KeyboardInterrupt
            signal.raise_signal(signal.SIGALRM)
        return mean(rows)

    monkeypatch.setattr(together, "_mean", cut_off_after_the_second_epoch)
    assert agenda.main(["--minutes", "30"]) == (0 if stop == "minutes" else 130)
    assert "the same command continues from the last checkpoint." in "".join(capsys.readouterr()).lower()
    assert ledger.load()[0] == [] and signal.getitimer(signal.ITIMER_REAL) == (0, 0)
    assert agenda.main([]) == 0
    records, problems = ledger.load()
    assert not problems and [(record["seed"], record["resumed"]) for record in records] == [(0, 1), (1, 1)]
    assert epochs == [1, 2, 3]


def test_the_minutes_are_those_that_were_given(monkeypatch):
    given = []
    monkeypatch.setattr(agenda, "default_device", lambda: "cuda")
    monkeypatch.setattr(agenda.data, "read", lambda *args, **options: agenda._stop())
    monkeypatch.setattr(agenda.signal, "setitimer", lambda which, seconds: given.append(seconds))
    assert agenda.main(["--minutes", "2.5"]) == 0 and given == [150, 0]


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
    todo = [[(kd, 0, {"tau": 4, "lr": 0.1}), (kd, 0, {"tau": 4, "lr": 1e30})], [(base, 0, {})]]
    agenda.work(todo, "smoke", progress="none")
    assert "Training stopped in epoch" in capsys.readouterr().out
    found = [(record["experiment"], record["asked"]["lr"]) for record in ledger.load()[0]]
    assert found == [(kd, 0.1), (base, experiments.load(base)["lr"])]
