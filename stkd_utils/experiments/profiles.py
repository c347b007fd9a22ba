"""Profiles: how large everything runs. One word chooses data set, seeds, grid and overrides for all experiments."""

import json
from dataclasses import dataclass
from pathlib import Path

from .settings import _nearest
from .valid import ExperimentError

FILE = Path(__file__).with_name("profiles.json")


@dataclass(frozen=True)
class Profile:
    """One scale of the book.

    ``dataset`` is what the notebooks use, ``seeds`` and ``taus`` their repetitions and grid, ``overrides`` the
    settings that replace those of every experiment file, ``threads`` how many a CPU trains with (None: all; networks
    as small as those for digits are as fast with one, and not slowed by neighbours; small detectors gain from two),
    ``claims`` what results at this scale may say.
    """

    name: str
    dataset: str
    seeds: tuple
    taus: tuple
    overrides: dict
    threads: int | None
    claims: str


def profile_names():
    """Names of all profiles, smallest first."""
    return list(json.loads(FILE.read_text()))


def profile(name, task="classification"):
    """The `Profile` called ``name`` for one ``task``; raises ExperimentError that lists the known ones."""
    profiles = json.loads(FILE.read_text())
    if name not in profiles:
        raise ExperimentError(f"There is no profile '{name}'{_nearest(name, profiles)} Known: {', '.join(profiles)}.")
    fields = profiles[name]
    detection = fields.pop("detection")
    fields |= detection if task == "detection" else {}
    lists = {key: tuple(fields.pop(key)) for key in ("seeds", "taus")}
    return Profile(name, **lists, **fields)
