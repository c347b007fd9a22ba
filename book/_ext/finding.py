"""Results for the book's pages, read from the ledger and from the execution report; nothing here is typed.

`TABLES` and `FIGURES` are what pages may ask for by name. A table is a function of the folder of executed notebooks
that returns Markdown, a figure one of nothing that returns a `Drawn`, or None while the ledger has no rows for it.
"""

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from stkd_utils import ledger, notebooks, plots, stats
from stkd_utils.receipt import ENERGY, MASS, duration, quantity

ROOT = Path(__file__).resolve().parents[2]
NOT_RUN = "*Not run yet: the ledger has no rows for this table.*"


class Drawn(NamedTuple):
    """A figure with its caption and the text for those who do not see it."""

    figure: Any
    caption: str
    alt: str


def runs():
    """One row per run of the ledger, as `ledger.table` gives them. Raises ValueError where a line is damaged."""
    records, problems = ledger.load()
    if problems:
        raise ValueError(f"{ledger.folder() / 'runs.jsonl'} is damaged: {'; '.join(problems)}")
    return ledger.table(records)


def procedures(table, profile="quick", dataset="digits", student="mobilenetv2"):
    """Rows of the runs that each way of training the student needs, with columns role and label; maybe none.

    The grid's accuracy is that of the tau with the highest mean validation accuracy; its cost is that of every tau.
    """
    here = table[(table.profile == profile) & (table.dataset == dataset) & (table.model == student)]
    fixed = here[here.tau_policy == "fixed"]
    ways = [("no KD", "no distillation", here[here.method == "base"])]
    ways += [("KD fixed tau", f"KD, τ = {tau}", fixed[fixed.tau == tau]) for tau in (4, 20)]
    if fixed.tau.nunique() > 2:
        best = fixed.groupby("tau").val_accuracy.mean().idxmax()
        grid = f"KD, best of {fixed.tau.nunique()} τ (here {best:g})"
        ways += [("KD tuned tau", grid, fixed.assign(chosen=fixed.tau == best))]
    ways += [("stochastic tau", "KD, stochastic τ", here[here.tau_policy == "stochastic"])]
    return pd.concat([rows.assign(role=role, label=label) for role, label, rows in ways])


def headline(_executed=None):
    """Markdown table: accuracy with its interval and relative cost of each way to train the student."""
    ways = procedures(runs())
    if "stochastic tau" not in set(ways.role):
        return NOT_RUN
    one = _procedure_cost(ways[ways.role == "stochastic tau"])
    lines = []
    for label, rows in ways.groupby("label", sort=False):
        chosen = rows[rows.chosen == True] if rows.role.iloc[0] == "KD tuned tau" else rows  # noqa: E712
        ratios = [_ratio(mine, yours) for mine, yours in zip(_procedure_cost(rows), one, strict=True)]
        lines.append([label, stats.interval(chosen.test_accuracy).percent(), *ratios])
    return _markdown(["", "Test accuracy", "Computation", "Energy"], lines)


def _procedure_cost(rows):
    """(FLOPs, kWh) of the procedure per seed; nan where a part of it was not seen."""
    costs = rows.groupby("seed")[["flops_forward_backward", "energy_kwh"]].sum(min_count=1)
    return tuple(costs.mean())


def _ratio(mine, yours):
    return "not seen" if math.isnan(mine / yours) else f"{mine / yours:.3g} ×"


def headline_figure():
    """`Drawn`: every run's test accuracy with the mean and interval of each way; None while the ledger lacks them."""
    ways = procedures(runs())
    if "stochastic tau" not in set(ways.role):
        return None
    shown = ways[(ways.role != "KD tuned tau") | (ways.get("chosen") == True)]  # noqa: E712
    plots.use_style()
    axes = plots.dots_with_intervals(shown)
    means = shown.groupby("label", sort=False).test_accuracy.mean()
    read = ", ".join(f"{label} {100 * mean:.1f} %" for label, mean in means.items())
    caption = "Test accuracy of the student on the digits: every run, the mean over seeds, and its 95 % interval."
    alt = f"Dots with intervals, one row for each way to train the student. Means: {read}."
    return Drawn(axes.figure, caption, alt)


def groups(_executed=None):
    """Markdown table: what the ledger holds, one row per experiment, temperature and profile."""
    table = runs()
    if table.empty:
        return NOT_RUN
    lines = []
    for (profile, name, tau), rows in table.fillna({"tau": ""}).groupby(["profile", "experiment", "tau"]):
        accuracy = stats.interval(rows.test_accuracy).percent()
        cost = [duration(rows.seconds.mean()), _energy(rows.energy_kwh.mean())]
        lines.append([f"`{name}`", tau, profile, accuracy, *cost])
    return _markdown(["Experiment", "τ", "Profile", "Test accuracy", "Time a run", "Energy a run"], lines)


def all_runs(_executed=None):
    """Markdown table: every run of the ledger."""
    table = runs()
    if table.empty:
        return NOT_RUN
    lines = []
    for row in table.sort_values(["profile", "experiment", "tau", "seed"]).itertuples():
        accuracies = [f"{100 * value:.2f}" for value in (row.val_accuracy, row.test_accuracy)]
        tau = "" if pd.isna(row.tau) else f"{row.tau:g}"
        energy = f"{_energy(row.energy_kwh)} {row.energy_how}".removesuffix("not seen not seen") or "not seen"
        cost = [duration(row.seconds), energy, row.gpu or row.cpu]
        lines.append([f"`{row.experiment}`", tau, row.seed, row.profile, *accuracies, *cost, f"`{row.id[:8]}`"])
    head = ["Experiment", "τ", "Seed", "Profile", "Validation %", "Test %", "Time", "Energy", "Hardware", "Run"]
    return _markdown(head, lines)


def paper(_executed=None):
    """Markdown table: the paper's Table 4, as printed."""
    lines = []
    for dataset in ledger.paper().dataset.unique():
        for loss, method, metric, spread, *cost in ledger.paper_table(dataset).itertuples(index=False):
            gflops, kwh, grams = cost
            reached = f"{100 * metric:.2f} ± {100 * spread:.2f}"
            lines.append([dataset, loss, method, reached, f"{gflops:g}", f"{kwh:.2f}", f"{grams:.2f}"])
    return _markdown(["Data", "Loss", "Method", "Accuracy or mAP, %", "10⁶ GFLOPs", "kWh", "g CO₂e"], lines)


def made(executed):
    """Markdown table: what executing each notebook of this very book took, and on which hardware and code."""
    report = notebooks.collect(executed.name, executed.parents[1], root=ROOT)
    lines, machines = [], {}
    for row in report.notebooks:
        energy = _energy(row["energy_kwh"]) + ("" if row["energy_kwh"] is None else f", {row['how']}")
        grams = "not seen" if row["co2e_g"] is None else quantity(row["co2e_g"], MASS)
        link = f"[{row['name']}](../notebooks/{row['name']}.ipynb)"
        lines.append([link, duration(row["seconds"]), energy, grams, row["date"][:10]])
        machines.setdefault(json.dumps([row["hardware"], row["code"]], sort_keys=True), []).append(row)
    table = _markdown(["Notebook", "Time", "Energy", "CO₂e", "Executed"], lines)
    text = [f"Profile: **{executed.name}**.", "", table, ""]
    stale = [row["name"] for row in report.notebooks if row["status"] == "stale"]
    if stale:
        text += [f"Executed before the latest change of source or data: {', '.join(stale)}.", ""]
    return "\n".join(text + [_machine(rows, len(machines)) for rows in machines.values()])


def _machine(rows, count):
    hardware, code = rows[0]["hardware"], rows[0]["code"]
    processors = f"{hardware['cpu']}, {hardware['cores']} cores, {hardware['memory_gib']:.0f} GiB of memory"
    commit = f", commit `{code['commit'][:10]}`{', modified' if code['modified'] else ''}" if code["commit"] else ""
    which = f" ({', '.join(row['name'] for row in rows)})" if count > 1 else ""
    return f"* {processors}; GPU: {hardware['gpu'] or 'none'}; package {code['version']}{commit}{which}"


def _energy(kwh):
    return "not seen" if kwh is None or math.isnan(kwh) else quantity(kwh, ENERGY)


def _markdown(head, lines):
    columns = zip(*lines, strict=True)
    numbers = [all(str(cell)[:1].isdigit() or cell in ("", "not seen") for cell in column) for column in columns]
    rows = [head, ["---:" if number else "---" for number in numbers], *lines]
    return "\n".join("| " + " | ".join(str(cell) for cell in row) + " |" for row in rows)


TABLES = {"headline": headline, "groups": groups, "runs": all_runs, "paper": paper, "made": made}
FIGURES = {"headline": headline_figure}
