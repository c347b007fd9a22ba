"""The networks of the zoo and their sizes, beside those of the paper's repository: a table and a sentence."""

import csv
from functools import cache

import torch
from finding import ROOT, _markdown

from stkd_utils import compute, models

FILE = ROOT / "book" / "ledger" / "networks.csv"
CLASSES, SIZE, LARGER = 100, 32, 64


def originals():
    """{network: {"million_parameters", "gflops"}} of the repository, as text with the decimals that are known."""
    with FILE.open(newline="", encoding="utf-8") as file:
        return {row.pop("name"): row for row in csv.DictReader(file)}


@cache
def counted(name):
    """(parameters, FLOPs at 32x32, FLOPs at 64x64) of one network with 100 classes, for one colour image."""
    with torch.device("meta"):
        model = models.build(name, CLASSES)
        small, large = (compute.count(model, (3, size, size)) for size in (SIZE, LARGER))
    return small.parameters, compute.flops(small.macs), compute.flops(large.macs)


def equal(name, original):
    """Whether our parameters and FLOPs, rounded as the ``original`` ones are, equal them: a pair of bools."""
    parameters, flops, _ = counted(name)
    wanted = (original["million_parameters"], parameters / 1e6), (original["gflops"], flops / 1e9)
    return tuple(f"{value:.{len(text.partition('.')[2])}f}" == text for text, value in wanted)


def sentence(_executed=None):
    """How many of the repository's networks have its numbers here, and which do not."""
    known = originals()
    odd = [
        f"`{name}`, {counted(name)[0] / 1e6:.2f} million here and {original['million_parameters']} there"
        for name, original in known.items()
        if not all(equal(name, original))
    ]
    said = f"Of the {len(known)} networks whose size is known from the paper's repository, {len(known) - len(odd)} have"
    but = f"; the exception is {'; '.join(odd)}" if odd else ""
    return f"{said} the same parameters and GFLOPs here, to the decimals that are known{but}."


def table(_executed=None):
    """Markdown table: each network by name, its parameters and GFLOPs at two image sizes, and the repository's."""
    known, lines = originals(), []
    for name in models.names():
        parameters, small, large = counted(name)
        original = known.get(name)
        theirs = "{million_parameters} / {gflops}".format(**original) if original else "–"
        lines.append([f"`{name}`", f"{parameters / 1e6:.2f}", f"{small / 1e9:#.3g}", f"{large / 1e9:#.3g}", theirs])
    heads = ["Network", "10⁶ parameters", "GFLOPs, 32²", "GFLOPs, 64²", "Repository"]
    return _markdown(heads, lines)


TABLES = {"networks-counted": sentence, "networks": table}
