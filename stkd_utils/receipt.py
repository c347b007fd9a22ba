"""The receipt of a block of work: one cost as a table for people and as JSON for programs."""

import html
import math
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .ledger_files import dump, replace

ENERGY = ((1, "kWh"), (1e-3, "Wh"), (1e-6, "mWh"), (1e-9, "µWh"))
MASS = ((1e3, "kg CO₂e"), (1, "g CO₂e"), (1e-3, "mg CO₂e"), (1e-6, "µg CO₂e"))
TIME = ((1, "s"), (1e-3, "ms"), (1e-6, "µs"))
HEAD = ("Item", "Amount", "How it is known")

TABLE = "border-collapse:collapse;color:inherit;background:transparent;table-layout:auto;max-width:100%;margin:0.5em 0"
CAPTION = "caption-side:top;text-align:left;color:inherit;font-weight:bold"
CELL = "padding:0.25em 0.5em;vertical-align:top;border-bottom:1px solid rgba(128,128,128,0.4);"
LEFT = CELL + "text-align:left"
TEXT = LEFT + ";overflow-wrap:anywhere;width:60%"
RIGHT = CELL + "text-align:right;white-space:nowrap"
ALIGN = (LEFT, RIGHT, TEXT)


@dataclass(frozen=True)
class Receipt:
    """One `carbon.Cost` under a title: an HTML table in a notebook, a plain table by ``print``, JSON by `save`."""

    cost: Any
    title: str

    def rows(self):
        """(what, amount, how it is known) as text, in the order of the table."""
        cost = self.cost
        yield "Wall time", duration(cost.seconds), "by this process's clock"
        for component, reading in cost.components.items():
            yield f"{component.upper()} energy", quantity(reading.kwh, ENERGY), _how(reading)
        how = "nothing was seen" if cost.energy_kwh is None else f"{cost.how}; the sum of what was seen"
        yield "Total energy", quantity(cost.energy_kwh, ENERGY), how
        yield "PUE", quantity(cost.pue, ((1, ""),)), "factor of the data centre; not in the energies above"
        grid = cost.intensity
        yield "Carbon intensity", quantity(grid.g_per_kwh, ((1, "g/kWh"),)), f"{grid.source}; date: {grid.date}"
        yield "Emissions", quantity(cost.co2e_g, MASS), "energy × PUE × intensity"

    def _repr_html_(self):
        lines = [
            f'<table class="receipt" style="{TABLE}">',
            f'<caption style="{CAPTION}">{html.escape(self.title)}</caption>',
        ]
        head = "".join(f'<th scope="col" style="{style}">{text}</th>' for text, style in zip(HEAD, ALIGN, strict=True))
        lines += [f"<thead><tr>{head}</tr></thead>", "<tbody>"]
        for what, amount, how in (map(html.escape, row) for row in self.rows()):
            cells = f'<td style="{RIGHT}">{amount}</td><td style="{TEXT}">{how}</td>'
            lines.append(f'<tr><th scope="row" style="{LEFT}">{what}</th>{cells}</tr>')
        return "\n".join([*lines, "</tbody>", "</table>"])

    def __str__(self):
        rows = [HEAD, *self.rows()]
        first, second = (max(len(row[column]) for row in rows) for column in (0, 1))
        lines = [self.title]
        for what, amount, how in rows:
            parts = textwrap.wrap(how, max(30, 112 - first - second)) or [""]
            lines.append(f"{what:<{first}}  {amount:>{second}}  {parts[0]}")
            lines += [" " * (first + second + 4) + part for part in parts[1:]]
        return "\n".join(line.rstrip() for line in lines)

    def to_dict(self):
        """Plain dict: the title and everything of `carbon.Cost.to_dict`."""
        return {"title": self.title, **self.cost.to_dict()}

    def save(self, path):
        """Write `to_dict` as JSON to ``path``, whole or not at all, and return the path; folders are made."""
        replace(path, dump(self.to_dict(), indent=2) + b"\n")
        return Path(path)


def _how(reading):
    if reading.kwh is None:
        return reading.note
    power = "" if reading.watts is None else f", {reading.watts:.3g} W assumed"
    return f"{reading.how}{power}" + (f": {reading.note}" if reading.note else "")


def quantity(value, units):
    """``value`` with three significant digits, in the largest unit in which it is 1 or more, else in the last.

    ``units`` are pairs of size and name, largest first. None and NaN become "not seen".
    """
    if value is None or math.isnan(value):
        return "not seen"
    scaled = [(float(f"{value / size:.3g}"), name) for size, name in units]
    number, name = next((pair for pair in scaled if pair[0] >= 1), scaled[-1])
    decimals = 2 - math.floor(math.log10(number)) if number else 0
    return f"{number:,.{max(decimals, 0)}f} {name}".strip()


def duration(seconds):
    """``seconds`` as people say it: "12.3 s" below two minutes, then "5 min 03 s", "2 h 05 min"."""
    if seconds < 119.5:
        return quantity(seconds, TIME)
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours:,} h {minutes:02d} min"
