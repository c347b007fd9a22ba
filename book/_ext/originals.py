"""The parameter files of the paper's repository, and the experiments that they have become: tables for the pages."""

import csv
from collections import Counter

from finding import ROOT, _markdown

from stkd_utils import experiments

FILE = ROOT / "book" / "ledger" / "originals.csv"


def rows():
    """One dict per parameter file of the original: its path and values, our experiments, and what is different."""
    with FILE.open(newline="", encoding="utf-8") as file:
        return [{**row, "experiments": row["experiments"].split()} for row in csv.DictReader(file)]


def counted(_executed=None):
    """Markdown sentences: how many files the original has, and how many experiments they are here."""
    found, names = rows(), experiments.names()
    ours = {name for row in found for name in row["experiments"]}
    unread = sum(row["code"].startswith("never read") for row in found)
    stops = sum(row["code"].startswith("stops") for row in found)
    return "\n".join([
        f"The repository of the paper has {len(found)} parameter files; here they are {len(ours)} experiments.",
        f"Of the {len(found)}, its code never reads {unread}, and stops with an error on {stops}.",
        f"The other {len(names) - len(ours)} of the {len(names)} experiments are ours: " + _others(names, ours) + ".",
    ])  # fmt: skip


def _others(names, ours):
    counts = Counter(name.split("/")[0] for name in names if name not in ours)
    return ", ".join(f"{count} on {dataset}" for dataset, count in sorted(counts.items()))


def ways(_executed=None):
    """Markdown table: how many experiments there are of each kind, by the last part of their names and by data set."""
    counts = Counter(tuple(_kind(name)) for name in experiments.names())
    datasets = sorted({dataset for dataset, _ in counts})
    kinds = sorted({kind for _, kind in counts}, key=lambda kind: (-sum(counts[d, kind] for d in datasets), kind))
    lines = [[f"`-{kind}`", *(counts[dataset, kind] or "" for dataset in datasets)] for kind in kinds]
    total = ["all", *(sum(counts[dataset, kind] for kind in kinds) for dataset in datasets)]
    return _markdown(["Name ends with", *datasets], [*lines, total])


def _kind(name):
    """Data set and kind: what follows the networks in a name."""
    settings = experiments.load(name)
    before = [settings.get(key) for key in ("teacher", "start") if key in settings]
    other = experiments.load(before[0])["model"] if before else settings["model"]
    models = settings["model"] if other == settings["model"] else f"{other}-{settings['model']}"
    return settings["dataset"], name.split("/")[1].removeprefix(f"{models}-")


def files(_executed=None):
    """Markdown table: each file of the original, what its code does with it, our experiments, what we changed."""
    lines = []
    for row in rows():
        names = ", ".join(f"`{name}`" for name in row["experiments"])
        lines.append([f"`{row['original']}`", row["code"], names, row["changed"]])
    return _markdown(["File of the original", "What its code does with it", "Here", "What is different"], lines)


TABLES = {"originals-counted": counted, "experiments": ways, "originals": files}
