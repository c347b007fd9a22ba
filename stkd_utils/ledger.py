"""The ledger: a validated record per run, the recorded executions of the notebooks, and the paper's own numbers."""

import html
import json
import os
import warnings
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from .hardware import computed_on
from .ledger_files import LedgerError, append_lines, check, dump, load_lines, own_folder, parse, replace
from .receipt import ENERGY, MASS, duration, quantity

__all__ = [
    "LedgerError", "PriceTag", "append", "append_executions", "benchmarks", "choice", "executions", "folder", "load",
    "main_machine", "paper", "paper_table", "price_tag", "read", "repeats", "table", "write",
]  # fmt: skip

COLUMNS = (
    "id", "experiment", "dataset", "model", "method", "tau_policy", "tau", "seed", "profile", "epochs",
    "val_accuracy", "test_accuracy", "val_accuracy_chosen", "test_accuracy_chosen", "val_map50", "test_map50",
    "test_macro_f1", "test_macro_precision", "test_macro_recall", "test_kappa", "test_ece",
    "seconds", "energy_kwh", "energy_how", "co2e_g", "flops_forward", "flops_forward_backward", "parameters",
    "device", "cpu", "gpu", "code",
)  # fmt: skip
BENCHMARK = ("group", "name", "device", "threads", "machine")  # what two rows of one benchmark have in common
EXECUTION = ("notebook", "profile", "seconds", "energy_kwh", "how", "co2e_g", "hardware", "date", "code")


def folder(argument=None):
    """Folder of the ledger: ``argument``, else $STKD_LEDGER, else the one that comes with the code."""
    given = argument or os.environ.get("STKD_LEDGER")
    return Path(given) if given else own_folder()


def write(record, path):
    """Write the record of one run to ``path`` as JSON, whole or not at all. Raises `LedgerError` for one not valid."""
    check(record)
    replace(path, dump(record, indent=1) + b"\n")


def read(path):
    """The record in the file ``path``, a dict. Raises `LedgerError`, also for a file that cannot be read."""
    try:
        record = parse(Path(path).read_bytes())
        check(record)
    except OSError as error:
        raise LedgerError(f"{path}: {error.strerror}.") from error
    except LedgerError as error:
        raise LedgerError(f"{path}: {error} Delete this file to repeat the run.") from error
    return record


def append(records, path=None):
    """Number of ``records`` added to ``path`` (runs.jsonl of `folder`); those whose id is there already are skipped.

    One writer at a time, all or nothing. Raises `LedgerError` when a record is not valid.
    """
    return append_lines(list(records), path or folder() / "runs.jsonl", "record", _run_id)


def load(path=None):
    """The valid records in ``path`` (runs.jsonl of `folder`) and a sentence per damaged line: (records, problems)."""
    return load_lines(path or folder() / "runs.jsonl", "record", _run_id)


def table(records=None):
    """One row a run, as a DataFrame with the columns `COLUMNS`; accuracies are fractions, the cost is that of training.

    ``map50`` stands for accuracy where objects are detected: the other is empty then, and so are macro means, kappa and
    ece, also of runs from before they were kept.

    ``records``: a list of records, or what `load` takes; damaged lines then become warnings. ``tau`` is empty unless
    fixed; energy that was not seen is empty; ``code`` is the digest of the package. Introduced in notebook 02.
    """
    if records is None or isinstance(records, (str, os.PathLike)):
        records = _warned(load(records))
    return _frame([_row(record) for record in records], COLUMNS)


def append_executions(rows, path=None):
    """Number of notebook executions added to ``path`` (notebooks.jsonl of `folder`), each once.

    A row is a dict with the keys `EXECUTION` (``name`` may stand for ``notebook``); other keys are left out, and so are
    rows without ``seconds``, which were not executed. ``hardware`` and ``code`` are dicts as in a record.
    """
    rows = [{"notebook": row.get("name"), **row} for row in rows if "seconds" in row]
    kept = [{key: row[key] for key in EXECUTION if key in row} for row in rows]
    return append_lines(kept, path or folder() / "notebooks.jsonl", "execution", _execution_id)


def executions(path=None):
    """One row a recorded execution of a notebook, oldest first, as a DataFrame with the columns `EXECUTION`.

    ``hardware`` is a phrase, ``code`` the digest of the package, ``seconds`` wall time. Damaged lines become warnings.
    """
    rows = _warned(load_lines(path or folder() / "notebooks.jsonl", "execution", _execution_id))
    machines = [_machine(row["hardware"], "cuda" if row["hardware"]["gpu"] else "cpu") for row in rows]
    plain = [{**row, "hardware": m, "code": row["code"]["digest"]} for row, m in zip(rows, machines, strict=True)]
    return _frame(sorted(plain, key=lambda row: row["date"]), EXECUTION)


@dataclass(frozen=True)
class PriceTag:
    """What one execution of a notebook cost: a paragraph in a notebook and on a terminal."""

    notebook: str
    profile: str
    cost: str

    def __str__(self):
        return f"Price of {self.notebook} with profile {self.profile}: {self.cost}."

    def _repr_html_(self):
        return f'<p class="price-tag">{html.escape(str(self))}</p>'


def price_tag(notebook, profile, path=None):
    """The `PriceTag` by the newest recorded execution of ``notebook`` with ``profile``; says so where there is none."""
    rows = executions(path)
    rows = rows[(rows.notebook == notebook) & (rows.profile == profile)]
    return PriceTag(notebook, profile, "not recorded yet" if rows.empty else _price(rows.iloc[-1]))


def paper(table="Table 4"):
    """The paper's numbers as printed, one a row: a tidy DataFrame; every row names its source.

    ``table`` None gives all. ``origin`` tells "paper" (printed there) from "figure" (measured in a picture),
    "repository" (the authors' stored outputs), "third party" (printed by others) and "computed". Raises `LedgerError`
    for a table that is not there.
    """
    rows = pd.read_csv(_file("paper.csv"), keep_default_na=False)
    if table is None:
        return rows
    if table not in set(rows.table):
        raise LedgerError(f"There is no '{table}' in paper.csv; there are {', '.join(rows.table.unique())}.")
    return rows[rows.table == table].reset_index(drop=True)


def choice():
    """How the digits' settings were chosen, one row per combination that was tried, as a DataFrame.

    Columns: model, lr (of a batch of 128), milestones (shares of the run), chosen (a truth value), val_accuracy and
    val_loss (lists with one value a seed, after the last epoch). book/choose.py makes it. Introduced in notebook 02.
    """
    return pd.DataFrame(json.loads(_file("choice.json").read_text())["rows"])


def repeats():
    """What runs of the ledger had reached in earlier states of it, rounded differently: a DataFrame, one line a run.

    Columns: id, experiment, seed, test_accuracy (a fraction), ledger (the commit that holds the record), cpu.
    ``python book/repeats.py`` writes the file. Introduced in notebook 04.
    """
    return pd.read_csv(_file("repeats.csv"))


def benchmarks(newest=True):
    """The rows of the benchmarks, as a DataFrame; empty before the first.

    ``newest``: only the latest one of every benchmark on every machine and number of threads, in the order of adding.

    Columns: group, name, device ("cpu" or "cuda": what was timed), threads, n, median_seconds, images_per_second, ratio
    (times as fast as the plain step, timed in turn), load, note, machine, date, and what only some groups have (x,
    seconds, slope; difference, low, high, verdict; flops_per_second; share; reference, the version of the plain step).
    ``make bench`` and ``make bench-gpu`` add the rows; a damaged line is left out, with a warning. Introduced in
    notebook 09.
    """
    path = _file("bench.jsonl")
    rows = [{"note": "", "device": "cpu", **row} for row in _warned(load_lines(path, "benchmark", dump))]
    rows = [{**row, "machine": _machine(row["hardware"], row["device"])} for row in rows]
    if newest:  # reversed, so that a row stands where it was added last
        latest = {}
        for row in reversed(rows):
            latest.setdefault(tuple(row[key] for key in BENCHMARK), row)
        rows = list(reversed(latest.values()))
    return pd.DataFrame(rows, columns=None if rows else [*BENCHMARK, "note"])


def main_machine(rows):
    """Those rows of `benchmarks` that one machine left for each group: the one that ran most of it, else the newest.

    Introduced in notebook 09.
    """
    if rows.empty:
        return rows
    ran = rows.groupby(["group", "machine"]).agg(names=("name", "nunique"), last=("date", "max"))
    machine = ran.sort_values(["names", "last"]).reset_index().groupby("group").machine.last()
    return rows[rows.machine == rows.group.map(machine)]


def _file(name):
    """A table that comes with the code, unless the ledger in use has one of its own."""
    return folder() / name if (folder() / name).exists() else own_folder() / name


def paper_table(dataset):
    """The block of the paper's Table 4 for ``dataset``, one row per loss and method, as a DataFrame.

    Columns: loss, method ("tuned" or "ours"), accuracy (``map50`` for VOC) and its spread as fractions, gflops_millions
    (10^6 GFLOPs), energy_kwh, co2e_g. ``dataset`` as in the paper or as in `data.names`. Introduced in notebook 01.
    """
    rows = paper("Table 4")
    block = rows[rows.dataset.map(_plain) == _plain(dataset)]
    if block.empty:
        raise LedgerError(f"Table 4 has no block '{dataset}'; it has {', '.join(rows.dataset.unique())}.")
    wide = block.pivot(index=["loss", "method"], columns="metric", values="value").reset_index()
    score = "map50" if "map50" in wide else "accuracy"
    wide[[score, "spread"]] = (wide[[score, f"{score}_spread"]] / 100).round(6)
    order = block.drop_duplicates(["loss", "method"])[["loss", "method"]]
    wide = order.merge(wide)[["loss", "method", score, "spread", "gflops_millions", "energy_kwh", "co2e_g"]]
    return wide.rename_axis(columns=None)


def _run_id(record):
    return record["id"]


def _execution_id(row):
    return " ".join((row["notebook"], row["profile"], row["date"]))


def _warned(loaded):
    rows, problems = loaded
    for problem in problems:
        warnings.warn(f"The ledger has a damaged {problem}", stacklevel=3)
    return rows


def _frame(rows, columns):
    """A DataFrame in which what is not known is NaN, also where nothing of a column is known."""
    scores = [column for column in columns if column.startswith(("val_", "test_"))]
    unknown = {key: float for key in ("tau", "energy_kwh", "co2e_g", *scores) if key in columns}
    return pd.DataFrame(rows, columns=columns).astype(unknown)


def _row(record):
    asked, cost, compute, machine = (record[key] for key in ("asked", "cost", "compute", "hardware"))
    train, last, chosen = cost["train"], record["result"]["last"], record["result"]["chosen"]
    sources = record, asked, last, train, compute, machine
    row = {key: value for source in sources for key, value in source.items() if key in COLUMNS}
    return row | {
        "tau": asked.get("tau"),
        "val_accuracy_chosen": chosen.get("val_accuracy"),
        "test_accuracy_chosen": chosen.get("test_accuracy"),
        "energy_how": train["how"],
        "code": record["code"]["digest"],
    }


def _machine(hardware, device):
    return f"{computed_on(hardware, device)}, {hardware['threads']} CPU threads"


def _price(row):
    seen = pd.notna(row.energy_kwh)
    energy = (
        f"{quantity(row.energy_kwh, ENERGY)} ({row.how}), {quantity(row.co2e_g, MASS)}" if seen else "energy not seen"
    )
    return f"{duration(row.seconds)}, {energy}; recorded {row.date[:10]} on {row.hardware}"


def _plain(name):
    """Spellings of a data set that mean the same: "CIFAR-100", "cifar100"."""
    plain = "".join(letter for letter in name.lower() if letter.isalnum())
    return {"voc": "pascalvoc", "voc2007": "pascalvoc", "tiny": "tinyimagenet"}.get(plain, plain)
