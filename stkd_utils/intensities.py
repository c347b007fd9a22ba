"""Carbon intensity of electricity: grams of CO2e per kWh, each with its source and the year it stands for."""

import csv
import difflib
import math
from dataclasses import dataclass
from importlib import metadata, resources


class IntensityError(ValueError):
    """A carbon intensity that is neither a known name nor a number of 0 or more."""


@dataclass(frozen=True)
class Intensity:
    """Grams of CO2e per kWh of electricity, with their source and date.

    ``g_per_kwh`` is a number, ``source`` says who published it, ``date`` is the year it stands for, as text. Raises
    IntensityError for a value that is not a finite number of 0 or more.
    """

    g_per_kwh: float
    source: str
    date: str

    def __post_init__(self):
        if not is_number(self.g_per_kwh) or self.g_per_kwh < 0:
            raise IntensityError(f"A carbon intensity is a number of 0 or more, in g/kWh; got {self.g_per_kwh!r}.")


def is_number(value):
    """Whether ``value`` is a finite int or float (True and False are not)."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _countries():
    """Intensities by country, in lower case, from the yearly table inside carbontracker; {} where it has none."""
    column = "Carbon intensity of electricity (gCO2eq/kWh)"
    try:
        source = f"carbontracker {metadata.version('carbontracker')}, its yearly table of countries"
        with (resources.files("carbontracker") / "data" / "carbon-intensities.csv").open(encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        # a grid without any emission in the table is a country without data
        known = [row for row in rows if float(row[column]) > 0]
        return {row["Entity"].lower(): Intensity(float(row[column]), source, row["Year"]) for row in known}
    except (ImportError, OSError, KeyError, ValueError):
        return {}


INTENSITIES = {
    **_countries(),  # first, so that no table replaces a name below
    "world": Intensity(445.0, "IEA, Electricity 2025; the default of carbontracker 2.4", "2024"),
    "eu-2017": Intensity(294.2060978, "EEA, EU-28 average; the default of carbontracker 1.x in 2020-2022", "2017"),
}
"""Known intensities by name: the world, the EU of 2017 (the paper's probable default), and countries in lower case."""


def find_intensity(value):
    """The `Intensity` that ``value`` names: a name of `INTENSITIES` in any case, a number in g/kWh, or an Intensity.

    Raises IntensityError for anything else; the message names the nearest known names.
    """
    if isinstance(value, Intensity):
        return value
    if not isinstance(value, str):
        return Intensity(value, "stated by user", "not stated")
    found = INTENSITIES.get(value.strip().lower())
    if found is None:
        near = difflib.get_close_matches(value.lower(), INTENSITIES, n=3) or ["bangladesh", "germany", "united states"]
        raise IntensityError(
            f"Unknown carbon intensity '{value}': give a number in g/kWh or one of the {len(INTENSITIES)} names in "
            f"carbon.INTENSITIES, such as world, eu-2017, {', '.join(near)}."
        )
    return found
