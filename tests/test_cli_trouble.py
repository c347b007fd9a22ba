"""The command line where something is in the way: empty lists, full or missing places, other processes, terminals."""

import os
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import filelock
import pytest
from helpers import TINY

from stkd_utils import answering, engine, environment, experiments, quantise
from stkd_utils.__main__ import main
from stkd_utils.experiments import running


@pytest.mark.parametrize("words, said", [
    (["--seeds", ""], "'seeds' is an empty list; give it one value or more."),
    (["--together", "--set", "tau=[]"], "'tau' is an empty list; give it one value or more."),
])  # fmt: skip
def test_an_empty_list_is_refused(words, said, capsys, tmp_path):
    assert main(["run", "digits/resnet18-mobilenetv2-kd", "--runs", str(tmp_path), *words]) == 2
    assert capsys.readouterr().err == f"{said}\n" and not list(tmp_path.iterdir())


def test_what_a_list_names_twice_is_paid_once(tmp_path, capsys):
    words = ["run", "digits/mobilenetv2-base", "--profile", "smoke", "--runs", str(tmp_path), "--seeds", "3,3", *TINY]
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert "training of 1 runs" in shown and shown.count("record.json") == 1


def test_a_place_that_cannot_be_written_is_named_in_one_sentence(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    words = ["run", "digits/mobilenetv2-base", "--profile", "smoke", "--runs", str(tmp_path / "file"), *TINY]
    assert main(words) == 2
    said = capsys.readouterr().err
    assert said.startswith(str(tmp_path / "file")) and said.endswith(": Not a directory\n") and said.count("\n") == 1


@pytest.mark.parametrize(
    "given, count", [({}, "10000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, None)]
)
def test_waiting_threads_give_way_unless_somebody_says_otherwise(monkeypatch, given, count):
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.setenv(name, "")  # so that it is as before afterwards
        monkeypatch.delenv(name)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert main(["list"]) == 0
    assert os.environ.get("GOMP_SPINCOUNT") == count


@pytest.mark.parametrize("known", [True, False], ids=["glibc", "musl"])
@pytest.mark.parametrize(
    "given, asked, pages",
    [
        ({}, [(-3, 4194304)], "1"),
        ({"MALLOC_MMAP_THRESHOLD_": "7"}, [], "1"),
        ({"THP_MEM_ALLOC_ENABLE": "0"}, [(-3, 4194304)], "0"),
    ],
)
def test_memory_goes_back_at_once_unless_somebody_says_otherwise(monkeypatch, known, given, asked, pages):
    calls = []
    for name in ("MALLOC_MMAP_THRESHOLD_", "THP_MEM_ALLOC_ENABLE"):
        monkeypatch.setenv(name, "")  # so that it is as before afterwards
        monkeypatch.delenv(name)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    allocator = SimpleNamespace(mallopt=lambda *what: calls.append(what)) if known else SimpleNamespace()
    monkeypatch.setattr(environment.ctypes, "CDLL", lambda name: allocator)
    monkeypatch.setattr(environment.sys, "platform", "win32")
    environment.give_memory_back()
    assert calls == [] and os.environ.get("THP_MEM_ALLOC_ENABLE") == given.get("THP_MEM_ALLOC_ENABLE")
    monkeypatch.setattr(environment.sys, "platform", "linux")
    environment.give_memory_back()
    assert calls == (asked if known else []) and os.environ["THP_MEM_ALLOC_ENABLE"] == pages


@pytest.mark.parametrize("asked, pages", [("", "None"), ("1", "1")])
def test_the_package_asks_for_memory_back_where_memory_counts(asked, pages):
    environ = {key: value for key, value in os.environ.items() if key != "THP_MEM_ALLOC_ENABLE"}
    code = "import os, stkd_utils; print(os.environ.get('THP_MEM_ALLOC_ENABLE'))"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environ | {"STKD_SMALL_MEMORY": asked}, capture_output=True, text=True
    )
    assert done.stdout.strip() == (pages if sys.platform.startswith("linux") else "None"), done.stderr


def test_publish_of_nothing_says_so(tmp_path, capsys):
    assert main(["publish", "--runs", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith(f"No finished run is in {tmp_path}; --runs ")


@pytest.mark.parametrize("damage", [lambda file: file.unlink(), lambda file: file.write_bytes(b"half")])
def test_weights_that_are_gone_are_one_sentence_that_says_what_to_do(tmp_path, damage):
    limits = {"train_limit": 64, "val_limit": 32, "test_limit": 32, "epochs": 1}
    done = experiments.run("digits/mobilenetv2-base", profile="smoke", runs=tmp_path, progress="none", **limits)
    damage(done.folder / "weights.pt")
    with pytest.raises(experiments.ExperimentError, match="weights.pt is missing or damaged .*; delete the folder "):
        done.model()


def test_who_waits_for_another_process_says_so(tmp_path, capsys):
    limits = {"train_limit": 64, "val_limit": 32, "test_limit": 32, "epochs": 1}
    options = {"profile": "smoke", "runs": tmp_path, **limits}
    done = experiments.run("digits/mobilenetv2-base", progress="none", **options)
    held = threading.Event()

    def hold():
        with filelock.FileLock(done.folder / ".lock"):
            held.set()
            time.sleep(0.5)

    threading.Thread(target=hold).start()
    held.wait()
    assert not experiments.run("digits/mobilenetv2-base", progress="lines", **options).new
    assert capsys.readouterr().out == f"{done.folder.name}: waiting for another process that trains it\n"


def test_a_reader_that_has_enough_is_no_error():
    code = "import runpy, sys; sys.argv = ['stkd_utils', 'list']; runpy.run_module('stkd_utils', run_name='__main__')"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.stderr.read() == b"" and process.wait() == 0


def test_a_terminal_without_the_signs_shows_something_else(tmp_path):
    words = [sys.executable, "-m", "stkd_utils", "run", "digits/mobilenetv2-base", "--profile", "smoke", "--runs"]
    environ = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONPATH": str(environment.PACKAGE.parent)}
    done = subprocess.run([*words, str(tmp_path), *TINY], capture_output=True, env=environ, cwd=tmp_path)
    assert done.returncode == 0 and b"CO?e" in done.stdout and done.stderr == b""


def test_a_run_leaves_no_lock_behind(tmp_path, monkeypatch):
    taken, take = [], running._lock

    def lock(*what):
        taken.append(take(*what))
        return taken[-1]

    monkeypatch.setattr(running, "_lock", lock)
    limits = {"train_limit": 64, "val_limit": 32, "test_limit": 32, "epochs": 1}
    experiments.run("digits/mobilenetv2-base", profile="smoke", runs=tmp_path, progress="none", **limits)
    assert [one.lock.is_locked for one in taken] == [False]


def test_who_goes_on_with_other_code_is_told(tmp_path, capsys, monkeypatch):
    words = ["run", "digits/mobilenetv2-base", "--profile", "smoke", "--runs", str(tmp_path), *TINY]
    words += ["--set", "epochs=2"]
    assert main([*words, "--set", "stop_after=1"]) == 0
    assert "other code" not in capsys.readouterr().out
    monkeypatch.setattr(environment, "code_digest", lambda: "of another state")
    assert main(words) == 0
    said = "began with other code of stkd_utils and goes on with this; delete its folder to start anew."
    assert capsys.readouterr().out.count(said) == 1
    monkeypatch.undo()
    assert main(words) == 0
    assert "finished before with other code of stkd_utils; nothing was trained." in capsys.readouterr().out


def test_who_goes_on_with_a_teacher_in_other_bits_is_told(tmp_path, capsys, monkeypatch):
    words = ["run", "digits/resnet18-mobilenetv2-kd", "--profile", "smoke", "--runs", str(tmp_path), *TINY]
    words += ["--set", "epochs=2", "--set", "precision=auto"]
    monkeypatch.setattr(quantise, "no_kernels", lambda: "Quantisation needs torchao.")
    monkeypatch.setattr(engine, "_cpu_has_bfloat16", lambda: False)
    assert main([*words, "--set", "stop_after=1"]) == 0
    resolve = answering.resolve
    monkeypatch.setattr(answering, "resolve", lambda *asked: resolve(asked[0], "bfloat16", asked[2]))
    assert main(words) == 0
    said = "began with a teacher in float32 and goes on with it in bfloat16."
    assert capsys.readouterr().out.count(said) == 1


def test_an_unknown_way_to_show_progress_is_one_sentence(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("STKD_PROGRESS", "dots")
    assert main(["run", "digits/mobilenetv2-base", "--runs", str(tmp_path), *TINY]) == 2
    assert capsys.readouterr().err == "Progress is 'bar', 'lines' or 'none'; got 'dots'.\n"


def test_no_progress_means_no_line_of_a_sweep(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("STKD_PROGRESS", "none")
    limits = {"train_limit": 64, "val_limit": 32, "test_limit": 32, "epochs": 1}
    experiments.sweep("digits/mobilenetv2-base", seeds=[0], profile="smoke", runs=tmp_path, **limits)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("profile, said", [("bogus", "There is no profile"), ("smoke", "There is no table of")])
def test_a_book_that_is_not_there_is_not_published(profile, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["publish", "--book", profile]) == 2
    assert capsys.readouterr().err.startswith(said)


def test_runs_are_published_without_the_packages_that_execute_notebooks(tmp_path):
    (tmp_path / "papermill.py").write_text("raise ModuleNotFoundError('No module named papermill')")
    command = [sys.executable, "-m", "stkd_utils", "publish", "--runs", str(tmp_path)]
    root = str(environment.PACKAGE.parent)
    variables = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), root])}
    done = subprocess.run(command, capture_output=True, text=True, env=variables)
    assert done.returncode == 2 and done.stderr.startswith("No finished run is in")


def test_an_unknown_notebook_is_a_wrong_question(capsys, root, monkeypatch):
    monkeypatch.chdir(root)
    assert main(["notebooks", "--only", "99"]) == 2
    assert capsys.readouterr().err.startswith("No notebook starts with '99'.")
