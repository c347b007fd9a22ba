"""The command line as a stranger meets it: one sentence for every wrong question, a record for every right one."""

import json
import os
import socket
import subprocess
import sys

import pytest
from helpers import TINY

from stkd_utils import catalogue, data, environment, experiments, ledger, notebooks
from stkd_utils.__main__ import main
from stkd_utils.carbon import hardware


def fresh(folder, *words):
    """What a Python process of its own does in ``folder``, whose modules come first."""
    path = os.pathsep.join([str(folder), str(environment.PACKAGE.parent)])
    environ = {**os.environ, "PYTHONPATH": path}
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, cwd=folder, env=environ)


def test_list_shows_every_experiment_and_profile(capsys):
    assert main(["list"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in [*experiments.names(), *experiments.profile_names()])


def test_list_says_of_each_experiment_what_its_file_says(capsys):
    assert main(["list"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.split("\n\n")[0].splitlines()[1:]]
    assert [line[0] for line in lines] == experiments.names()
    for name, *shown in lines:
        one = experiments.load(name)
        teacher = experiments.load(one["teacher"])["model"] if "teacher" in one else "-"
        assert shown == [one["method"], one["model"], teacher, one.get("tau_policy", "-")]


@pytest.mark.parametrize("words, wanted", [
    ({"dataset": "cifar10"}, lambda one, _: one["dataset"] == "cifar10"),
    ({"method": "base"}, lambda one, _: one["method"] == "base"),
    ({"model": "shufflenetv2"}, lambda one, _: one["model"] == "shufflenetv2"),
    ({"teacher": "resnet18"}, lambda one, _: "teacher" in one and one["teacher"].endswith("/resnet18-base")),
    ({"dataset": "cifar10", "method": "kd", "model": "mobilenetv2", "teacher": "resnet18"},
     lambda one, name: name.startswith("cifar10/resnet18-mobilenetv2-")),
])  # fmt: skip
def test_list_keeps_what_fits_every_filter(words, wanted, capsys):
    assert main(["list", *(word for key, value in words.items() for word in (f"--{key}", value))]) == 0
    names = [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:]]
    fitting = [
        name for name in experiments.names() if (one := experiments.load(name)) and wanted(one, name)
        and all(one[key] == value for key, value in words.items() if key != "teacher")
    ]  # fmt: skip
    assert names == fitting and 0 < len(names) < len(experiments.names())


@pytest.mark.parametrize("setting, expected", [
    ("seed=4", "'seed' is no setting of an experiment; --seed sets it."),
    ("profile=gpu", "'profile' is no setting of an experiment; --profile sets it."),
    ("taw=3", "unknown key 'taw'; did you mean 'tau'?"),
    ("zzz=1", "unknown key 'zzz'; known: train_limit, val_limit, "),
])  # fmt: skip
def test_set_takes_keys_of_experiments_only(setting, expected, capsys):
    assert main(["run", "digits/resnet18-mobilenetv2-kd", "--set", setting]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"--set: {expected}") and said.count("\n") == 1


def test_a_file_that_cannot_be_read_is_named_by_list(tmp_path, monkeypatch, capsys):
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "broken.json").write_text("{")
    monkeypatch.setattr(catalogue, "FOLDER", tmp_path)
    assert main(["list"]) == 2
    message = capsys.readouterr().err
    assert message.startswith("x/broken.json: not valid JSON") and message.count("\n") == 1


def test_list_loads_nothing_that_takes_long(tmp_path):
    code = "import sys; from stkd_utils.__main__ import main; main(['list']); print(*sys.modules, sep='\\n')"
    done = fresh(tmp_path, "-c", code)
    assert "digits/resnet18-base" in done.stdout
    assert not {"torch", "torchvision", "numpy", "pandas"} & set(done.stdout.split())


def test_run_leaves_a_record_and_says_where_and_what_it_cost(tmp_path, capsys):
    asked = ["run", "digits/shufflenetv2-base", "--seed", "3", "--profile", "smoke", "--runs", str(tmp_path), *TINY]
    assert main(asked) == 0
    shown = capsys.readouterr().out
    record = ledger.read(shown.strip().splitlines()[-1])
    assert record["seed"] == 3 and record["asked"]["epochs"] == 1
    assert "test" in shown and "Emissions" in shown
    last = record["result"]["last"]
    means = [f"{key} {100 * last[f'test_macro_{key}']:.2f} %" for key in ("f1", "precision", "recall")]
    agreed = f"kappa {last['test_kappa']:.3f}; calibration error {100 * last['test_ece']:.2f} %"
    assert f"macro {', '.join(means)}; {agreed}\n" in shown
    assert main(asked) == 0
    assert "finished before; nothing was trained" in capsys.readouterr().out


def test_intensity_prices_the_same_energy(tmp_path):
    asked = ["run", "digits/shufflenetv2-base", "--profile", "smoke", "--runs", str(tmp_path), *TINY]
    assert main([*asked, "--intensity", "100"]) == 0
    cost = ledger.read(next(tmp_path.glob("*/record.json")))["cost"]["train"]
    assert cost["intensity"]["g_per_kwh"] == 100
    assert cost["co2e_g"] == pytest.approx(100 * cost["energy_kwh"])


def test_a_run_from_before_is_priced_at_the_intensity_that_is_asked_for(tmp_path, capsys):
    asked = ["run", "digits/shufflenetv2-base", "--profile", "smoke", "--runs", str(tmp_path), *TINY]
    for given, shown in (("100", "100 g/kWh"), (None, "100 g/kWh"), ("20", "20.0 g/kWh")):
        assert main(asked + (["--intensity", given] if given else [])) == 0
        assert shown in capsys.readouterr().out


def test_an_error_of_the_program_itself_keeps_its_traceback(monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(experiments, "run", broken)
    with pytest.raises(RuntimeError, match="mat1"):
        main(["run", "digits/resnet18-base"])


def test_a_failed_notebook_is_said_and_status_1(monkeypatch, capsys):
    def failing(**_):
        raise notebooks.NotebookError("01_x: code cell 3 of 9 failed.")

    monkeypatch.setattr(notebooks, "execute", failing)
    assert main(["notebooks"]) == 1
    assert capsys.readouterr().err == "01_x: code cell 3 of 9 failed.\n"


@pytest.mark.parametrize(
    "words, said",
    [
        (["run", "digits/resnet-18"], "did you mean 'digits/resnet18-base'"),
        (["run", "digits/resnet18-base", "--profile", "quik"], "did you mean 'quick'"),
        (["run", "digits/resnet18-base", "--set", "lrr=1"], "unknown key 'lrr'; did you mean 'lr'"),
        (["run", "digits/resnet18-base", "--set", "tau=4"], "unused"),
        (["run", "digits/resnet18-base", "--set", "lr"], "--set takes KEY=VALUE"),
        (["run", "digits/resnet18-base", "--seed", "-1"], "whole number of 0 or more"),
        (["run", "digits/resnet18-base", "--set", "train_limit=99999"], "which has 1222"),
        (["run", "digits/resnet18-base", "--intensity", "mars"], "Unknown carbon intensity 'mars'"),
        (["list", "--model", "mobilnetv2"], "has the model 'mobilnetv2'; did you mean 'mobilenetv2'?"),
        (["list", "--dataset", "zzz"], "has the dataset 'zzz'; known: cifar10,"),
        (["list", "--method", "base", "--teacher", "resnet18"], "No experiment has all of method base, teacher res"),
        (["data", "svhn"], "known: digits, cifar10, cifar100, mnist, tinyimagenet, folder, voc, scenes"),
    ],
)
def test_a_wrong_question_gets_one_sentence_and_status_2(words, said, capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("STKD_RUNS", str(tmp_path))
    assert main(words) == 2
    message = capsys.readouterr().err
    assert said in message and message.count("\n") == 1


def test_interruption_says_how_to_go_on(monkeypatch, capsys):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(experiments, "run", interrupted)
    assert main(["run", "digits/resnet18-base"]) == 130
    assert "continues from the last checkpoint" in capsys.readouterr().err


def test_divergence_is_one_sentence_and_status_1(tmp_path, capsys):
    asked = ["run", "digits/shufflenetv2-base", "--profile", "smoke", "--runs", str(tmp_path), *TINY]
    assert main([*asked, "--set", "lr=1e30", "--set", "warmup_epochs=0", "--set", "epochs=2"]) == 1
    message = capsys.readouterr().err
    assert "Training stopped in epoch" in message and message.count("\n") == 1


def test_mismatched_torchvision_is_named_in_one_sentence(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    assert main(["run", "digits/resnet18-base"]) == 1
    message = capsys.readouterr().err
    assert "torchvision" in message and "pip install" in message and message.count("\n") == 1


def test_a_torchvision_that_breaks_on_import_is_named_by_a_fresh_process(tmp_path):
    (tmp_path / "torchvision.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    done = fresh(tmp_path, "-m", "stkd_utils", "run", "digits/resnet18-base")
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert "nms does not exist" in done.stderr and "pip install" in done.stderr


def cut_off(*_, **__):
    raise OSError("the network was used")


def test_offline_training_needs_no_network(tmp_path, monkeypatch):
    monkeypatch.setattr(socket.socket, "connect", cut_off)
    monkeypatch.setattr(socket, "getaddrinfo", cut_off)
    asked = ["run", "digits/resnet18-mobilenetv2-stochastic", "--profile", "smoke", "--runs", str(tmp_path), *TINY]
    assert main(asked) == 0


def test_offline_without_the_data_is_one_sentence_with_the_command(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("STKD_DATA", str(tmp_path))
    assert main(["run", "cifar100/resnet18-base", "--profile", "smoke", "--runs", str(tmp_path / "runs")]) == 2
    message = capsys.readouterr().err
    assert str(tmp_path) in message and "python -m stkd_utils data cifar100" in message
    assert message.count("\n") == 1


def test_publish_adds_each_finished_run_once(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("STKD_LEDGER", str(tmp_path / "ledger"))
    (tmp_path / "ledger").mkdir()
    assert main(["run", "digits/shufflenetv2-base", "--profile", "smoke", "--runs", str(tmp_path / "runs"), *TINY]) == 0
    for added in (1, 0):
        capsys.readouterr()
        assert main(["publish", "--runs", str(tmp_path / "runs")]) == 0
        assert f"{added} of 1 finished runs added" in capsys.readouterr().out
    records, problems = ledger.load()
    assert len(records) == 1 and not problems


def test_the_module_runs_as_a_command(tmp_path):
    done = fresh(tmp_path, "-m", "stkd_utils", "list")
    assert done.returncode == 0 and "digits/resnet18-base" in done.stdout


def test_real_cifar100_from_teacher_to_record(tmp_path, capsys):
    try:
        data.load("cifar100", train_limit=1000)
    except data.DataNotFound as missing:
        pytest.skip(f"real CIFAR-100 images are needed: {missing}")
    asked = ["run", "cifar100/resnet18-mobilenetv2-stochastic", "--profile", "smoke", "--runs", str(tmp_path)]
    assert main([*asked, "--set", "epochs=1"]) == 0
    record = ledger.read(capsys.readouterr().out.strip().splitlines()[-1])
    assert record["asked"]["dataset"] == "cifar100" and record["teacher_id"].startswith("cifar100_resnet18-base")
    assert 2 <= record["tau"]["min"] <= record["tau"]["max"] <= 20
    assert record["result"]["last"]["test_loss"] < 10
    assert json.loads(json.dumps(record)) == record


def test_publish_of_a_book_adds_its_runs_and_what_its_notebooks_cost(tmp_path, monkeypatch, capsys):
    (tmp_path / "ledger").mkdir()
    monkeypatch.setenv("STKD_LEDGER", str(tmp_path / "ledger"))
    monkeypatch.setattr(notebooks, "runs_folder", lambda profile: tmp_path / profile)
    row = {
        "name": "01_x", "profile": "smoke", "status": "current", "seconds": 3.0, "energy_kwh": None, "how": "not seen",
        "co2e_g": None, "date": "2026-01-01T00:00:00+00:00", "code": environment.code(), "hardware": hardware(),
    }  # fmt: skip
    monkeypatch.setattr(notebooks, "collect", lambda profile: notebooks.Report(profile, (row,)))
    asked = ["run", "digits/shufflenetv2-base", "--profile", "smoke", *TINY]
    assert main([*asked, "--runs", str(tmp_path / "smoke")]) == 0
    assert main(["publish", "--book", "smoke"]) == 0
    assert "1 of 1 finished runs" in (shown := capsys.readouterr().out) and "1 executions" in shown
    assert ledger.executions().notebook.tolist() == ["01_x"]
