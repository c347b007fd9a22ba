"""Executes the notebooks of the book with papermill: on copies, one after the other, and only what changed."""

import ast
import hashlib
import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import nbformat
import papermill
import yaml
from filelock import FileLock, Timeout
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from nbclient.exceptions import CellTimeoutError, DeadKernelError

from . import environment
from .carbon import hardware
from .clock import now
from .ledger_files import dump, replace
from .receipt import ENERGY, MASS, duration, quantity

# Seconds a notebook may take before it is stopped, per profile.
TIMEOUTS = {"smoke": 300, "quick": 1800, "gpu": 12 * 3600, "paper": 30 * 24 * 3600}

# The notebooks cannot import these: editing them does not make an executed notebook stale.
NOT_READ = {"__main__.py", "notebooks.py"}
READ_OF_LEDGER = {"runs.jsonl", "paper.csv", "choice.json", "repeats.csv", "bench.jsonl"}


class NotebookError(RuntimeError):
    """A notebook failed, ran out of time, is missing, or was asked something it does not know."""


class UnknownNotebook(NotebookError):
    """There is no such book, notebook, profile or parameter; the message says which there are."""


@dataclass(frozen=True)
class Report:
    """What one execution did: ``profile`` and one dict per notebook of the table of contents.

    A dict has name, profile, status ("executed", "skipped", "failed", or without having been asked "current", "stale",
    "missing") and, where there is an executed copy, its hash, seconds, energy_kwh, how, co2e_g, date, code and
    hardware, all of the day it was executed.
    """

    profile: str
    notebooks: tuple

    def __str__(self):
        width = max((len(row["name"]) for row in self.notebooks), default=0)
        return "\n".join(f"{row['name']:<{width}}  {_figures(row)}" for row in self.notebooks)


def _figures(row):
    if "seconds" not in row:
        return row["status"]
    energy = "energy not seen" if row["energy_kwh"] is None else f"{quantity(row['energy_kwh'], ENERGY)} {row['how']}"
    grams = "" if row["co2e_g"] is None else f"  {quantity(row['co2e_g'], MASS)}"
    status = "" if row["status"] in ("executed", "current") else f"{row['status']}, "
    when = f"{status}executed {row['date'][:10]}"
    return f"{duration(row['seconds']):>12}  {energy}{grams}  ({when})"


def listed(root="."):
    """Paths of the notebooks in the table of contents of the book in ``root``, in its order. Raises NotebookError."""
    toc = Path(root) / "_toc.yml"
    if not toc.exists():
        raise UnknownNotebook(f"There is no table of contents {toc}: run this in the folder of the book.")
    pages = [Path(root) / f"{page}.ipynb" for page in _pages(yaml.safe_load(toc.read_text(encoding="utf-8")))]
    paths = [path for path in pages if path.exists() or path.parent.name == "notebooks"]
    for path in paths:
        if not path.exists():
            raise NotebookError(f"{toc} lists {path.stem}, but there is no file {path}.")
    return paths


def _pages(node):
    if isinstance(node, list):
        return [page for entry in node for page in _pages(entry)]
    if not isinstance(node, dict):
        return []
    own = [node[key].removesuffix(".ipynb") for key in ("root", "file") if key in node]
    return own + [page for value in node.values() for page in _pages(value)]


def execute(profile="quick", only=None, out="_build", *, root=".", parameters=None, runs=None):
    """Execute what changed and return the `Report`; lines go to stdout, the JSON to ``executed/<profile>/report.json``.

    Parameters
    ----------
    profile : one of `TIMEOUTS`; becomes the notebooks' parameter of that name.
    only : the beginning of a notebook's name, such as "03"; the others are left as they are.
    out : folder for everything that is written, relative to ``root``, the folder of the book.
    parameters : further notebook parameters; one that a notebook does not have is an error before anything runs.
    runs : where the notebooks' training runs live; by default a folder of ``out`` for this profile and package source,
        so that a repeated execution continues what was interrupted and repeats nothing that is finished.

    Raises NotebookError: for a failing cell with its traceback, after a timeout, for an unknown profile, notebook or
    parameter.
    """
    root, out = Path(root).resolve(), Path(root).resolve() / out
    _check(profile)
    known = listed(root)
    paths = [path for path in known if path.name.startswith(only or "")]
    if known and not paths:
        raise UnknownNotebook(f"No notebook starts with '{only}'. Known: {', '.join(path.stem for path in known)}.")
    values = {"profile": profile, **(parameters or {})}
    jobs = [_Job(path, profile, _differing(path, values), out, root) for path in paths]
    runs = Path(runs) if runs else runs_folder(profile, out)
    (out / "executed" / profile).mkdir(parents=True, exist_ok=True)
    done = {}
    with _alone(out / "executed" / f"{profile}.lock"):
        try:
            for job in jobs:
                done[job.name] = "skipped" if job.fresh() else "failed"
                if done[job.name] == "failed":
                    job.run(runs)
                    done[job.name] = "executed"
                print(_line(job, done[job.name]), flush=True)
        finally:
            report = collect(profile, out, root=root, parameters=parameters, statuses=done)
            whole = {"profile": profile, "date": now(), "notebooks": report.notebooks}
            replace(out / "executed" / profile / "report.json", dump(whole, indent=2) + b"\n")
    return report


def _alone(file):
    """A context in which no other process has the lock ``file``; says so while one has it."""
    lock = FileLock(file)
    try:
        return lock.acquire(timeout=0)
    except Timeout:
        print(f"Another process executes these notebooks; waiting until it is done (it holds {file}).", flush=True)
    return lock.acquire()


def runs_folder(profile, out="_build"):
    """Where the trainings of the notebooks live: one folder per profile and per state of the result-making source."""
    return Path(out) / "runs" / profile / environment.code_digest()


def collect(profile="quick", out="_build", *, root=".", parameters=None, statuses=None):
    """The `Report` on the executed copies as they lie there; executes nothing. ``statuses`` {name: status} go first."""
    _check(profile)
    root, out = Path(root).resolve(), Path(root).resolve() / out
    values = {"profile": profile, **(parameters or {})}
    jobs = [_Job(path, profile, _differing(path, values), out, root) for path in listed(root)]
    return Report(profile, tuple(job.row((statuses or {}).get(job.name)) for job in jobs))


def _check(profile):
    if profile not in TIMEOUTS:
        raise UnknownNotebook(f"There is no profile '{profile}'. Known: {', '.join(TIMEOUTS)}.")


def _differing(path, values):
    """Those of ``values`` that differ from the notebook's defaults, so that an unchanged cell is not injected again."""
    known = papermill.inspect_notebook(path)
    for name in values:
        if name not in known:
            raise UnknownNotebook(f"{path.stem} has no parameter '{name}'. Known: {', '.join(known) or 'none'}.")
    return {name: value for name, value in values.items() if ast.literal_eval(known[name]["default"]) != value}


class _Job:
    """One notebook at one profile: where its copy lies, whether that is fresh, and how to make it."""

    def __init__(self, path, profile, given, out, root):
        self.path, self.name, self.profile, self.given = path, path.stem, profile, given
        self.copy = out / "executed" / profile / path.name
        self.stamp = self.copy.with_suffix(".json")
        self.work = out / "work" / profile / path.name
        self.hash = _hash(path, profile, given, root)

    def saved(self):
        """The figures of the executed copy as a dict; empty where there is none."""
        return json.loads(self.stamp.read_text(encoding="utf-8")) if self.copy.exists() and self.stamp.exists() else {}

    def fresh(self):
        return self.saved().get("hash") == self.hash

    def row(self, status=None):
        saved = self.saved()
        present = ("current" if self.fresh() else "stale") if saved else "missing"
        return {"name": self.name, "profile": self.profile, "status": status or present, **saved}

    def run(self, runs):
        """Make the executed copy. It appears only after the last cell; an older one is gone before the first."""
        receipt = runs / "receipts" / f"{self.name}.json"
        for stale in (self.stamp, self.copy, receipt):
            stale.unlink(missing_ok=True)
        self.work.parent.mkdir(parents=True, exist_ok=True)
        print(f"{self.name}: executing with profile {self.profile}", flush=True)
        started = time.perf_counter()
        _papermill(self.path, self.work, self.given, TIMEOUTS[self.profile], runs)
        seconds = round(time.perf_counter() - started, 2)
        cost = json.loads(receipt.read_text(encoding="utf-8")) if receipt.exists() else {"how": "not seen"}
        costs = {key: cost.get(key) for key in ("energy_kwh", "how", "co2e_g")}
        made = {"date": now(), "code": environment.code(), "hardware": hardware()}
        os.replace(self.work, self.copy)
        replace(self.stamp, dump({"hash": self.hash, "seconds": seconds, **costs, **made}, indent=2) + b"\n")


def _line(job, status):
    return f"{job.name}: {_figures(job.row(status)).strip()}"


def _papermill(path, work, given, timeout, runs):
    deadline = _Deadline(timeout)
    kernel = _kernel({
        **_folders(),
        "STKD_RUNS": str(runs),
        "STKD_PROGRESS": "lines",
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        "PYTHONPATH": os.pathsep.join(filter(None, [str(environment.PACKAGE.parent), os.environ.get("PYTHONPATH")])),
    })  # fmt: skip
    options = {"kernel_name": "python3", "kernel_manager_class": kernel, "timeout_func": deadline}
    try:
        papermill.execute_notebook(path, work, given, cwd=path.parent, progress_bar=False, start_timeout=120, **options)
    except CellTimeoutError:
        late = f"was still running {timeout} s after the notebook's start, the limit"
        raise NotebookError(f"{deadline.place(path)} {late}.") from None
    except DeadKernelError:
        raise NotebookError(f"{deadline.place(path)}: Python died there; often memory ran out.") from None
    except papermill.PapermillExecutionError as error:
        traceback = "\n".join(error.traceback)
        raise NotebookError(f"{deadline.place(path)} failed.\n{traceback}") from None


def _folders():
    """What the environment says of data and ledger, as the command means it: a notebook runs in a folder of its own."""
    given = {name: os.environ.get(name) for name in ("STKD_DATA", "STKD_LEDGER")}
    return {name: os.path.abspath(os.path.expanduser(path)) for name, path in given.items() if path}


class _Deadline:
    """Seconds that remain to a notebook, asked before each cell; remembers the cell."""

    def __init__(self, seconds):
        self.end, self.source = time.monotonic() + seconds, None

    def __call__(self, cell):
        self.source = cell.source
        return max(1, self.end - time.monotonic())

    def place(self, path):
        sources = [cell.source for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]
        if self.source not in sources:
            return f"{path.stem}: the start of the notebook"
        return f"{path.stem}: code cell {sources.index(self.source) + 1} of {len(sources)}"


def _kernel(variables):
    """Kernel manager of this very Python: a kernel registered by that name may belong to another environment."""
    arguments = [sys.executable, "-m", "ipykernel_launcher", "--log-level=40", "-f", "{connection_file}"]

    class ThisPython(AsyncKernelManager):
        kernel_spec = KernelSpec(argv=arguments, display_name="Python 3", language="python", env=variables)

    return ThisPython


def _hash(path, profile, given, root):
    """Hash (16 hex digits) of everything that an executed copy depends on."""
    digest = hashlib.sha256()
    cells = [[cell.cell_type, cell.source, _shown(cell.metadata)] for cell in nbformat.read(path, 4).cells]
    digest.update(json.dumps([cells, profile, given, environment.packages()], sort_keys=True).encode())
    own = root / "book" / "ledger"
    ledger = Path(os.environ.get("STKD_LEDGER") or own)
    source = [file for file in environment.PACKAGE.rglob("*") if file.suffix in {".py", ".json"}]
    tables = [ledger / name if (ledger / name).exists() else own / name for name in READ_OF_LEDGER]
    data = [file for file in tables if file.exists()]
    for file in sorted(set(source) - {environment.PACKAGE / name for name in NOT_READ}) + sorted(data):
        digest.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def _shown(metadata):
    return {key: metadata[key] for key in ("tags", "mystnb") if key in metadata}
