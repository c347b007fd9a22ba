"""The papermill runner: what it executes, what it refuses, and what never reaches the book."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import filelock
import nbformat
import pytest

from stkd_utils import environment, notebooks

RECEIPT = """
import json, os, pathlib
folder = pathlib.Path(os.environ["STKD_RUNS"]) / "receipts"
folder.mkdir(parents=True, exist_ok=True)
(folder / "01_first.json").write_text(json.dumps({"energy_kwh": 0.002, "how": "modelled", "co2e_g": 0.89}))
"""


def write(path, *sources, parameters='profile = "quick"  # scale'):
    """A small notebook with a parameters cell and these code cells."""
    cells = [nbformat.v4.new_markdown_cell("# A page"), nbformat.v4.new_code_cell(parameters)]
    cells[1].metadata["tags"] = ["parameters"]
    notebook = nbformat.v4.new_notebook(cells=cells + [nbformat.v4.new_code_cell(source) for source in sources])
    notebook.metadata["kernelspec"] = {"name": "python3", "language": "python", "display_name": "Python 3"}
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, path)


@pytest.fixture
def book(tmp_path, monkeypatch):
    """A folder with a table of contents and two notebooks; the package that counts for freshness is a small one."""
    (tmp_path / "_toc.yml").write_text(
        "format: jb-book\nroot: book/intro\nparts:\n- chapters:\n  - file: notebooks/01_first\n"
        "  - file: notebooks/02_second.ipynb\n  - file: book/made\n"
    )
    write(tmp_path / "notebooks" / "01_first.ipynb", "import sys; print(profile, sys.executable)", RECEIPT)
    write(tmp_path / "notebooks" / "02_second.ipynb", "print('second')")
    package = tmp_path / "package"
    (package / "experiments").mkdir(parents=True)
    (package / "module.py").write_text("value = 1\n")
    (package / "experiments" / "one.json").write_text("{}\n")
    (tmp_path / "book" / "ledger").mkdir(parents=True)
    (tmp_path / "book" / "ledger" / "runs.jsonl").write_text("")
    monkeypatch.setattr(environment, "PACKAGE", package)
    monkeypatch.delenv("STKD_LEDGER", raising=False)
    return tmp_path


def execute(book, **arguments):
    return notebooks.execute(**{"profile": "smoke", "root": book, "runs": book / "runs", **arguments})


def statuses(report):
    return [row["status"] for row in report.notebooks]


def pretend_executed(book, profile="smoke"):
    """Leave fresh copies without running anything: what freshness tests start from."""
    for path in notebooks.listed(book):
        given = notebooks._differing(path, {"profile": profile})
        job = notebooks._Job(path, profile, given, book / "_build", book)
        job.copy.parent.mkdir(parents=True, exist_ok=True)
        job.copy.write_text(path.read_text())
        fields = {"hash": job.hash, "seconds": 1.0, "energy_kwh": None, "how": "not seen", "co2e_g": None}
        job.stamp.write_text(json.dumps({**fields, "date": "2026-01-01T00:00:00+00:00"}))


def present(book, profile="smoke"):
    return statuses(notebooks.collect(profile, root=book))


def text_of(path):
    outputs = [output for cell in nbformat.read(path, 4).cells for output in cell.get("outputs", [])]
    return "".join(output.get("text", "") for output in outputs)


def test_who_waits_for_another_execution_says_so(book, capsys):
    pretend_executed(book)
    held = threading.Event()

    def hold():
        with filelock.FileLock(book / "_build" / "executed" / "smoke.lock"):
            held.set()
            time.sleep(0.5)

    threading.Thread(target=hold).start()
    held.wait()
    assert statuses(notebooks.execute("smoke", root=book)) == ["skipped", "skipped"]
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("Another process executes these notebooks; waiting") and "smoke.lock" in said[0]


def test_executes_on_copies_in_this_python_and_reports(book, capsys):
    sources = {path: path.read_bytes() for path in notebooks.listed(book)}
    report = execute(book)
    assert statuses(report) == ["executed", "executed"]
    assert {path: path.read_bytes() for path in sources} == sources
    folder = book / "_build" / "executed" / "smoke"
    assert f"smoke {sys.executable}" in text_of(folder / "01_first.ipynb")
    first, second = json.loads((folder / "report.json").read_text())["notebooks"]
    assert (first["energy_kwh"], first["how"], first["co2e_g"], first["profile"]) == (0.002, "modelled", 0.89, "smoke")
    assert first["seconds"] > 0 and first["hash"] and first["date"] and first["hardware"]["cores"]
    assert (second["energy_kwh"], second["how"]) == (None, "not seen")
    printed = capsys.readouterr().out
    assert "2.00 Wh modelled  890 mg CO₂e  (executed 20" in printed and "energy not seen  (executed 20" in printed

    again = execute(book)
    assert statuses(again) == ["skipped", "skipped"]
    assert "skipped, executed 20" in capsys.readouterr().out
    assert again.notebooks[0]["energy_kwh"] == 0.002, "a skipped notebook keeps the figures of its execution"


def test_a_failing_cell_fails_and_leaves_nothing_in_the_book(book):
    pretend_executed(book)
    write(book / "notebooks" / "01_first.ipynb", "a = 1", "print('before')\nraise ValueError('tau is missing')")
    with pytest.raises(notebooks.NotebookError) as caught:
        execute(book)
    message = str(caught.value)
    assert "01_first: code cell 3 of 3 failed" in message and "tau is missing" in message and "Traceback" in message
    assert present(book) == ["missing", "current"], "neither the failed run nor the older copy is shown"
    report = json.loads((book / "_build" / "executed" / "smoke" / "report.json").read_text())
    assert [row["status"] for row in report["notebooks"]] == ["failed", "current"]


def test_a_notebook_that_takes_too_long_is_stopped(book, monkeypatch):
    monkeypatch.setitem(notebooks.TIMEOUTS, "smoke", 3)
    write(book / "notebooks" / "01_first.ipynb", "a = 1", "import time; time.sleep(60)")
    with pytest.raises(notebooks.NotebookError, match="01_first: code cell 3 of 3 was still running 3 s after"):
        execute(book, only="01")
    assert present(book)[0] == "missing"


def test_a_dead_kernel_is_named(book):
    write(book / "notebooks" / "01_first.ipynb", "import os; os._exit(9)")
    with pytest.raises(notebooks.NotebookError, match="01_first: code cell 2 of 2: Python died there"):
        execute(book, only="01")


def test_a_killed_execution_leaves_no_older_copy_behind(book, root):
    pretend_executed(book)
    write(book / "notebooks" / "01_first.ipynb", "import os; os.kill(os.getppid(), 9)")
    code = (
        "from stkd_utils import environment, notebooks; import pathlib, sys; root = pathlib.Path(sys.argv[1]);"
        "environment.PACKAGE = root / 'package'; notebooks.execute('smoke', only='01', root=root, runs=root / 'runs')"
    )
    variables = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run([sys.executable, "-c", code, str(book)], env=variables, capture_output=True, timeout=60)
    assert done.returncode == -signal.SIGKILL
    assert present(book) == ["missing", "current"]


def test_an_unknown_parameter_profile_or_notebook_is_an_error_before_anything_runs(book):
    with pytest.raises(notebooks.NotebookError, match=r"01_first has no parameter 'seeds'. Known: profile"):
        execute(book, parameters={"seeds": 3})
    with pytest.raises(notebooks.NotebookError, match="no profile 'huge'. Known: smoke, quick, gpu, paper"):
        execute(book, profile="huge")
    with pytest.raises(notebooks.NotebookError, match="No notebook starts with '07'. Known: 01_first, 02_second"):
        execute(book, only="07")
    (book / "notebooks" / "02_second.ipynb").unlink()
    with pytest.raises(notebooks.NotebookError, match="lists 02_second, but there is no file"):
        execute(book)
    assert not (book / "_build").exists()


def test_parameters_that_equal_the_defaults_are_not_injected(book):
    path = book / "notebooks" / "01_first.ipynb"
    write(path, parameters='profile = "quick"  # scale\nseeds = [0, 1]  # runs\nlimit = None  # images')
    given = notebooks._differing(path, {"profile": "quick", "seeds": [0, 1], "limit": 5})
    assert given == {"limit": 5}


LEDGER = sorted(notebooks.READ_OF_LEDGER)


@pytest.mark.parametrize("change", ["notebook", "package", "experiment", *LEDGER, "versions"])
def test_freshness_sees_every_change(book, monkeypatch, change):
    pretend_executed(book)
    assert present(book) == ["current", "current"]
    if change == "notebook":
        write(book / "notebooks" / "01_first.ipynb", "print('changed')")
    elif change == "versions":
        monkeypatch.setattr(environment, "packages", lambda: {"python": "4.0"})
    else:
        names = {"package": "module.py", "experiment": "experiments/one.json"}
        (environment.PACKAGE / names.get(change, f"../book/ledger/{change}")).write_text('{"changed": 1}\n')
    assert present(book) == ["stale", "current" if change == "notebook" else "stale"]


def test_freshness_ignores_what_does_not_matter(book):
    pretend_executed(book)
    path = book / "notebooks" / "01_first.ipynb"
    notebook = nbformat.read(path, 4)
    notebook.metadata["language_info"] = {"name": "python", "version": "9"}
    notebook.cells[-1].metadata["collapsed"] = True
    notebook.cells[-1].execution_count = 7
    notebook.cells[-1].id = "another"
    nbformat.write(notebook, path)
    (environment.PACKAGE / "notebooks.py").write_text("# the runner\n")
    assert present(book) == ["current", "current"]


def test_profiles_are_kept_apart(book):
    pretend_executed(book, "quick")
    assert present(book, "quick") == ["current", "current"]
    assert present(book, "smoke") == ["missing", "missing"]


def test_relative_folders_mean_the_same_in_a_notebook_as_in_the_command(book, monkeypatch):
    write(book / "notebooks" / "01_first.ipynb", "import os; print(os.environ['STKD_DATA'], os.environ['STKD_LEDGER'])")
    monkeypatch.chdir(book)
    monkeypatch.setenv("STKD_DATA", "images")
    monkeypatch.setenv("STKD_LEDGER", "mine")
    execute(book, only="01")
    assert f"{book / 'images'} {book / 'mine'}" in text_of(book / "_build" / "executed" / "smoke" / "01_first.ipynb")


def test_a_ledger_of_ones_own_is_completed_by_the_books(book, monkeypatch):
    (book / "mine").mkdir()
    monkeypatch.setenv("STKD_LEDGER", str(book / "mine"))
    pretend_executed(book)
    assert present(book) == ["current", "current"]
    (book / "book" / "ledger" / "paper.csv").write_text("changed")
    assert present(book) == ["stale", "stale"]
    pretend_executed(book)
    (book / "mine" / "paper.csv").write_text("one's own")
    assert present(book) == ["stale", "stale"]
