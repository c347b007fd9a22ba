"""What experiments and profiles there are, read from their files alone, so that a list needs no PyTorch."""

import difflib
import json
from pathlib import Path

FOLDER = Path(__file__).parent / "experiments"
COLUMNS = ("name", "dataset", "method", "model", "teacher", "tau_policy")
FILTERS = {"dataset": "digits", "method": "kd", "model": "mobilenetv2", "teacher": "resnet18"}  # and an example of each


class CatalogueError(ValueError):
    """A question that no experiment answers, or a file that cannot be read; one sentence."""


def experiments(**wanted):
    """One dict per experiment with the keys `COLUMNS`, sorted by name; ``teacher`` is the name of its model.

    ``wanted`` keeps those that have these values, of the keys `FILTERS`; None keeps all. None is also what an
    experiment without teacher or temperature has there. Raises CatalogueError for a value that no experiment has, with
    the nearest one, and where values are known but no experiment has all of them.
    """
    rows = _rows()
    wanted = {key: value for key, value in wanted.items() if value is not None}
    for key, value in wanted.items():
        known = sorted({row[key] for row in rows if row[key]})
        if value not in known:
            near = difflib.get_close_matches(value, known, n=1, cutoff=0.5)
            advice = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(known)}."
            raise CatalogueError(f"No experiment has the {key} '{value}'; {advice}")
    kept = [row for row in rows if all(row[key] == value for key, value in wanted.items())]
    if not kept:
        asked = ", ".join(f"{key} {value}" for key, value in wanted.items())
        raise CatalogueError(f"No experiment has all of {asked}: leave one out.")
    return kept


def _rows():
    paths = sorted(FOLDER.glob("*/*.json"), key=lambda path: path.relative_to(FOLDER).with_suffix("").as_posix())
    read = {path.relative_to(FOLDER).with_suffix("").as_posix(): _read(path) for path in paths}
    rows = []
    for name, one in read.items():
        teacher = one.get("teacher")
        teacher = read.get(teacher, {}).get("model", teacher)
        rows.append({"name": name, **{key: one.get(key) for key in COLUMNS[1:]}, "teacher": teacher})
    return rows


def _read(path):
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CatalogueError(f"{path.parent.name}/{path.name}: not valid JSON ({error}).") from error


def profiles():
    """One dict per profile, smallest first: name, dataset, seeds, taus, claims, as in profiles.json."""
    return [{"name": name, **fields} for name, fields in _read(FOLDER / "profiles.json").items()]


def listing(rows):
    """``rows`` of `experiments` as lines of text, in columns under a head; "-" stands for nothing."""
    keys = [key for key in COLUMNS if key != "dataset"]  # the name begins with it
    cells = [[key.replace("_", " ") for key in keys], *([row[key] or "-" for key in keys] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ["  ".join(map(str.ljust, line, widths)).rstrip() for line in cells]
