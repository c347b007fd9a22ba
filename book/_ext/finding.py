"""Results for the book's pages, read from the ledger and from the execution report; nothing here is typed.

`TABLES` and `FIGURES` are what pages may ask for by name. A table is a function of the folder of executed notebooks
that returns Markdown, a figure one of nothing that returns a `Drawn`, or None while the ledger has no rows for it.
"""

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from stkd_utils import experiments, ledger, notebooks, plots, stats
from stkd_utils.hardware import processor
from stkd_utils.procedures import Procedure, differing, made_on, outcome, recorded, verdict
from stkd_utils.receipt import ENERGY, MASS, duration, quantity

ROOT = Path(__file__).resolve().parents[2]
LARGER = "paper", "cifar100"  # profile and data set of the paper's size
NOT_RUN = "*Not run yet: the ledger has no rows for this table.*"


class Drawn(NamedTuple):
    """A figure with its caption and the text for those who do not see it."""

    figure: Any
    caption: str
    alt: str


def records():
    """All records of the ledger. Raises ValueError where a line is damaged."""
    found, problems = ledger.load()
    if problems:
        raise ValueError(f"{ledger.folder() / 'runs.jsonl'} is damaged: {'; '.join(problems)}")
    return found


def ways(profile="quick", dataset="digits", teacher="resnet18", student="mobilenetv2"):
    """The `Procedure` of each way to get the student, the random temperature last; none where the ledger lacks it.

    The others are of its seeds, as many as they have: a network may have been trained with another seed as somebody's
    teacher.
    """
    known, kd = records(), f"{dataset}/{teacher}-{student}"

    def found(chosen, name, label, role):
        return recorded(chosen, experiments.resolve(name, profile), name, profile, label, role)

    rival = found(known, f"{kd}-stochastic", "KD, stochastic τ", "stochastic tau")
    if rival is None:
        return []
    known = [record for record in known if record["seed"] in rival.seeds]
    at = {tau: [record for record in known if record["asked"].get("tau") == tau] for tau in (4, 20)}
    alone = found(known, f"{dataset}/{student}-base", "no KD", "no KD")
    fixed = [found(there, f"{kd}-kd", f"KD, τ = {tau}", "KD fixed tau") for tau, there in at.items()]
    grid = found(known, f"{kd}-kd", "KD, tuned τ", "KD tuned tau")
    return [way for way in (alone, *fixed, grid, rival) if way]


def paired(way, rival):
    """The `Procedure` with those runs of ``way`` whose seeds ``rival`` has too; None where there are none."""
    found = tuple(record for record in way.records if record["seed"] in rival.seeds)
    return Procedure(way.label, way.role, found) if found else None


def against(one, other):
    """What the data say of ``one`` against ``other``, which has some of its seeds: as `procedures.verdict`."""
    return verdict(paired(one, other), other)


def _spoken(record):
    """Name of a run's experiment, with the settings that this run changed."""
    changed = differing(record, experiments.resolve(record["experiment"], record["profile"]))
    return " ".join([f"`{record['experiment']}`", *(f"{key}={value}" for key, value in sorted(changed.items()))])


def verdicts(_executed=None):
    """Markdown, a sentence and a list: what is certain, and what a random temperature reached beside other ways."""
    compared = {way.label: way for way in ways()}
    if "KD, tuned τ" not in compared:
        return NOT_RUN
    one, grid = compared["KD, stochastic τ"], compared["KD, tuned τ"]
    price = f"{grid.flops() / one.flops():.3g} times the computation"
    default = compared.get("KD, τ = 20")
    rivals = [way for way in (grid, default) if way]
    certain = f"one training instead of {grid.runs}" + ", and a fixed temperature saves as much" * bool(default)
    prices = [_price(one, way) for way in rivals]
    accuracy = f"Over {len(one.seeds)} seeds a random temperature ends {' and '.join(prices)}."
    if all(price.startswith("not decided") for price in prices):
        accuracy = f"Its price in accuracy is not: {len(one.seeds)} seeds do not decide."
    said = [
        f"**The saving is certain: {certain}. {accuracy}**",
        f"One training with a random temperature reached {_percent(one)}; a grid of {grid.runs} temperatures, for "
        f"{price}, {_percent(grid)}: {_gap('random minus grid', one, grid)}.",
    ]
    if default:
        said.append(
            f"A fixed τ = 20, for the price of one training, reached {_percent(default)}: "
            f"{_gap('random minus fixed', one, default)}."
        )
        said.append(_bought(grid, default))
    blind = _told("random minus mean", outcome(paired(one, grid).scores(), grid.averages()))
    said.append(f"Beside the mean of all {grid.runs} fixed temperatures, what one taken blindly is worth: {blind}.")
    rest = [compared[label] for label in ("KD, τ = 4", "no KD") if label in compared]
    if rest:
        gaps = [_gap(f"minus {way.label.replace('KD, ', 'a fixed ')}", one, way) for way in rest]
        said.append(f"Random {', and '.join(gaps)}.")
    said += _untaught(one)
    lead, *points = [*said, *_scatter([way for way in compared.values() if way is not grid])]
    return "\n".join([lead, "", *(f"* {point}" for point in points)])


def _untaught(one):
    """A sentence on a student that no teacher taught beside ``one``, in a list; empty where the ledger lacks it."""
    name, profile = "digits/mobilenetv2-smoothing", "quick"
    here = [record for record in records() if record["seed"] in one.seeds]
    rule = recorded(here, experiments.resolve(name, profile), name, profile, "label smoothing", "no KD")
    if rule is None:
        return []
    price = f"{rule.flops() / one.flops():.3g} times the computation"
    return [
        f"Label smoothing, a rule in place of the teacher, reached {_percent(rule)} for {price}: "
        f"{_gap('random minus label smoothing', one, rule)} (chapter 7)."
    ]


def _bought(grid, default):
    """What the search for a temperature bought beside one that costs no search, at both epochs, in a sentence."""
    alike = paired(grid, default)
    at_chosen = outcome(alike.scores(epoch="chosen"), default.scores(epoch="chosen"))
    means = {}
    for record in grid.records:
        means.setdefault(record["asked"]["tau"], []).append(record["result"]["last"]["test_accuracy"])
    best = max(means, key=lambda tau: np.mean(means[tau]))
    return (
        f"{_gap('Grid minus fixed', grid, default)}; {_told('at the epochs that validation chose', at_chosen)}. Of the "
        f"{len(means)} fixed temperatures τ = {best:g} has the highest mean, {100 * np.mean(means[best]):.1f} %."
    )


def _price(one, other):
    """What ``one`` loses or gains beside ``other``, as the end of a sentence."""
    what = "the grid" if other.role == "KD tuned tau" else f"a fixed {other.label.removeprefix('KD, ')}"
    said, gap = against(one, other)["the data say"], (paired(one, other).scores() - other.scores()).mean()
    if said.startswith("not decided"):
        return f"not decided against {what}"
    if said == "equivalent":
        return f"within one point of {what}"
    side = "above" if gap > 0 else "below"
    return f"{100 * abs(gap):.1f} points {side} {what}" + ", within the margin of one" * ("equivalent" in said)


def _gap(what, one, other):
    return _told(what, against(one, other))


def _told(what, found):
    return f"{what} {found['difference']}, **{found['the data say']}**"


def _scatter(ways):
    """A sentence on how far equal runs move when they are trained again, in a list; empty where none was."""
    now = {record["id"]: score for way in ways for record, score in zip(way.kept(), way.scores(), strict=True)}
    earlier = ledger.repeats()
    moved = (earlier.test_accuracy - earlier.id.map(now)).dropna()
    if moved.empty:
        return []
    far = 100 * math.sqrt((moved**2).mean())
    return [
        f"A single run is no fixed point: some of these, trained by other code or on another processor with equal "
        f"settings and seeds, moved by {far:.1f} points (root of the mean square, {len(moved)} pairs); such scatter is "
        "in the intervals."
    ]


def larger_ways():
    """The `ways` at the paper's size; the grid is among them when all seeds have all of its temperatures."""
    points = len(experiments.profile(LARGER[0]).taus)
    return [way for way in ways(*LARGER) if way.role != "KD tuned tau" or way.runs == points]


def larger_verdict():
    """Sentences for the README: what a random temperature reached at the paper's size, and against each other way."""
    compared = larger_ways()
    if not compared:
        return NOT_RUN
    *others, one = compared
    epochs = one.records[0]["asked"]["epochs"]
    said = f"On CIFAR-100, with the {epochs} epochs of the paper's code, a random temperature has reached "
    said += f"{_percent(one)} so far (n = {len(one.seeds)})."
    gaps = [_gap(f"minus {way.label.removeprefix('KD, ')}", one, way) for way in others]
    return said + (f" Over the seeds that both have, random {'; '.join(gaps)}." if gaps else "")


def larger(_executed=None):
    """Markdown table: each way at the paper's size, beside what the paper prints for it."""
    compared = larger_ways()
    if not compared:
        return NOT_RUN
    printed = ledger.paper_table(LARGER[1]).query("loss == 'HKD'").set_index("method")
    paper = {
        label: f"{100 * printed.accuracy[row]:.2f} ± {100 * printed.spread[row]:.2f}"
        for label, row in (("KD, tuned τ", "tuned"), ("KD, stochastic τ", "ours"))
    }
    lines, one = [], compared[-1]
    for way in compared:
        found = {"difference": "", "the data say": ""} if way is one else against(one, way)
        gap = "<br>".join(filter(None, (found["difference"].split(" points")[0], found["the data say"])))
        reached = stats.interval(way.scores()).percent(2).replace(" %", "")
        lines.append([way.label, reached, gap, quantity(_metered(way), ENERGY), paper.pop(way.label, "")])
    lines += [[label, "not run yet", "", "", there] for label, there in paper.items()]
    head = ["Way", "Test accuracy, %", "Random τ minus it", "Energy", "Paper, %"]
    precisions = sorted({record["hardware"].get("precision", "float32") for way in compared for record in way.records})
    said = f"Trained on {made_on(compared)}; {' and '.join(precisions)}."
    if apart := [np.ptp(way.scores()) for way in compared if len(way.seeds) > 1]:
        said += f" Seeds of one way lie up to {100 * max(apart):.2f} points apart."
    return f"{_markdown(head, lines)}\n\n{said}"


def _percent(way):
    return f"{100 * way.scores().mean():.1f} %"


def headline(_executed=None):
    """Markdown table: accuracy with its interval and relative cost of each way to train the student."""
    compared = ways()
    seeds = {len(way.scores()) for way in compared}
    same = len(seeds) == 1
    lines = []
    for way in compared:
        accuracy = stats.interval(way.scores()).percent()
        if same:
            accuracy = accuracy.split(" %")[0]
        counted, metered = (_ratio(cost(way), cost(compared[-1])) for cost in (Procedure.flops, _metered))
        lines.append([way.label, accuracy, way.runs, counted, metered])
    reached = f"Test accuracy, % (n = {min(seeds)})" if same else "Test accuracy"
    head = ["Way to the student", reached, "Runs", "Computation", "Energy"]
    return _markdown(head, lines) if lines else NOT_RUN


def trained(_executed=None):
    """A sentence: where the runs of `headline` were trained, and where each of them stands."""
    compared = ways()
    return f"Trained on {made_on(compared)}. Every run is a row of [the ledger](ledger.md)." if compared else ""


def _metered(way):
    return way.price()["kwh"]


def _ratio(mine, reference):
    return "not seen" if mine is None or reference is None else f"{mine / reference:.3g} ×"


def headline_figure():
    """`Drawn`: every run's test accuracy with the mean and interval of each way; None while the ledger lacks them."""
    compared = ways()
    if not compared:
        return None
    plots.use_style()
    kept = [ledger.table(way.kept()).assign(role=way.role, label=way.label) for way in compared]
    axes = plots.dots_with_intervals(pd.concat(kept, ignore_index=True))
    means = ", ".join(f"{way.label} {100 * way.scores().mean():.1f} %" for way in compared)
    caption = "Test accuracy of the student on the digits: every run, the mean over seeds, and its 95 % interval."
    alt = f"Dots with intervals, one row for each way to train the student. Means: {means}."
    return Drawn(axes.figure, caption, alt)


def _named_table():
    """All runs, one a row: their scores ``val`` and ``test``, and in the name the settings that a run changed."""
    known = records()
    table = ledger.table(known).assign(experiment=[_spoken(record) for record in known])
    return table.assign(**{part: table[f"{part}_accuracy"].fillna(table[f"{part}_map50"]) for part in ("val", "test")})


def groups(_executed=None):
    """Markdown table: what the ledger holds, one row per experiment, temperature and profile."""
    table = _named_table()
    if table.empty:
        return NOT_RUN
    lines = []
    for (profile, name, tau), rows in table.groupby(["profile", "experiment", "tau"], dropna=False):
        reached = stats.interval(rows.test).percent()
        cost = [duration(rows.seconds.mean()), quantity(rows.energy_kwh.mean(), ENERGY)]
        lines.append([name, _tau(tau), profile, reached, *cost])
    return _markdown(["Experiment", "τ", "Profile", "Test accuracy or mAP", "Time a run", "Energy a run"], lines)


def all_runs(_executed=None):
    """Markdown table: every run of the ledger."""
    table = _named_table()
    if table.empty:
        return NOT_RUN
    lines = []
    for row in table.sort_values(["profile", "experiment", "tau", "seed"]).itertuples():
        accuracies = [f"{100 * value:.2f}" for value in (row.val, row.test)]
        energy = f"{quantity(row.energy_kwh, ENERGY)} {row.energy_how}".removesuffix("not seen not seen") or "not seen"
        what = [row.experiment, _tau(row.tau), row.seed, row.profile]
        lines.append([*what, *accuracies, duration(row.seconds), energy, row.gpu if row.device == "cuda" else row.cpu])
    head = ["Experiment", "τ", "Seed", "Profile", "Validation %", "Test %", "Time", "Energy", "Hardware"]
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
        energy = quantity(row["energy_kwh"], ENERGY) + ("" if row["energy_kwh"] is None else f", {row['how']}")
        grams = quantity(row["co2e_g"], MASS)
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
    processors = f"{processor(hardware)}, {hardware['cores']} cores, {hardware['memory_gib']:.0f} GiB of memory"
    commit = f", commit `{code['commit'][:10]}`{', modified' if code['modified'] else ''}" if code["commit"] else ""
    which = f" ({', '.join(row['name'] for row in rows)})" if count > 1 else ""
    return f"* {processors}; GPU: {hardware['gpu'] or 'none'}; package {code['version']}{commit}{which}"


def _tau(value):
    return "" if pd.isna(value) else f"{value:g}"


def _markdown(head, lines):
    columns = zip(*lines, strict=True)
    numbers = [all(str(cell)[:1].isdigit() or cell in ("", "not seen") for cell in column) for column in columns]
    rows = [head, ["---:" if number else "---" for number in numbers], *lines]
    return "\n".join("| " + " | ".join(str(cell) for cell in row) + " |" for row in rows)


TABLES = {
    "verdicts": verdicts, "headline": headline, "trained": trained, "larger": larger, "groups": groups,
    "runs": all_runs, "paper": paper, "made": made,
}  # fmt: skip
FIGURES = {"headline": headline_figure}
