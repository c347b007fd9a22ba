"""Validated JSON files: written whole or not at all, read line by line so that one damaged line costs one line."""

import json
import math
import os
import reprlib
from functools import cache
from pathlib import Path

import fastjsonschema
import jsonschema
from filelock import FileLock

PACKAGE = Path(__file__).parent


class LedgerError(ValueError):
    """A record or a file of the ledger that cannot be used; the message names the record, the field or the line."""


def own_folder():
    """Folder of the ledger that comes with the code: inside an installed package, else book/ledger of the checkout."""
    installed = PACKAGE / "_ledger"
    return installed if installed.is_dir() else PACKAGE.parent / "book" / "ledger"


def check(row, kind="record"):
    """Raise `LedgerError`, one sentence, unless ``row`` is a valid ``kind``: "record", "execution" or "benchmark"."""
    if _passes(row, kind):
        return
    errors = sorted(_validator(kind).iter_errors(row), key=lambda error: [str(part) for part in error.absolute_path])
    name = row.get("id") or row.get("notebook") or row.get("name") if isinstance(row, dict) else None
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    said = _sentence(errors[0]) if errors else "it holds a value that JSON does not know"
    raise LedgerError(f"{kind.capitalize()} {name or 'without a name'}: {said}{more}.")


def _passes(row, kind):
    """Whether a validator that is much faster finds nothing; what it finds, the thorough one puts into words."""
    try:
        _quick(kind)(row)
        dump(row)  # refuses numbers that are not finite
    except (ValueError, TypeError):
        return False
    return True


def parse(text):
    """The row in ``text`` (bytes, UTF-8, JSON); numbers that are not finite are for `check` to refuse."""
    try:
        return json.loads(text.decode())
    except ValueError as error:
        raise LedgerError(f"not valid JSON ({error})") from error


def dump(row, **layout):
    """``row`` as JSON, bytes."""
    return json.dumps(row, ensure_ascii=False, allow_nan=False, **layout).encode()


def replace(path, content):
    """Write ``content`` (bytes) to ``path``: after a kill at any moment the file is the old one or the new one."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(part, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def load_lines(path, kind, key):
    """Valid rows of a file of JSON lines, and a sentence with its number for every other line: (rows, problems).

    Lines are rows of ``kind``; of two with the same ``key(row)`` the first counts. An absent file has no rows.
    """
    path, rows, problems = Path(path), {}, []
    lines = path.read_bytes().splitlines() if path.exists() else []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        fault = _fault(line, kind)
        if not fault and key(row := parse(line)) in rows:
            fault = f"{key(row)} is there already"
        if fault:
            problems.append(f"line {number}: {fault}")
        else:
            rows[key(row)] = row
    return list(rows.values()), problems


@cache
def _fault(line, kind):
    """What is wrong with a line (bytes), or "". Remembered: to validate takes milliseconds, and pages read often."""
    try:
        check(parse(line), kind)
    except LedgerError as error:
        return str(error)
    return ""


def append_lines(rows, path, kind, key):
    """Number of ``rows`` added to a file of JSON lines: all that are valid and whose ``key(row)`` is not there yet.

    One writer at a time (the lock lies beside the file, where every machine that shares it looks), and nothing is
    written when one row is not valid. Damaged lines stay as they are; a last line that was cut off is not continued.
    """
    path = Path(path)
    for row in rows:
        check(row, kind)
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f".{path.name}.lock")):
        known = {key(row) for row in load_lines(path, kind, key)[0]}
        fresh = {}
        for row in rows:
            if key(row) not in known:
                fresh.setdefault(key(row), row)
        if fresh:
            old = path.read_bytes() if path.exists() else b""
            gap = b"\n" if old and not old.endswith(b"\n") else b""
            replace(path, old + gap + b"".join(dump(row) + b"\n" for row in fresh.values()))
    return len(fresh)


def _schema(kind):
    schema = json.loads((PACKAGE / "record.schema.json").read_text(encoding="utf-8"))
    return schema if kind == "record" else {"$ref": f"#/$defs/{kind}", "$defs": schema["$defs"]}


@cache
def _quick(kind):
    # it knows no draft after the seventh, where nothing counts that stands beside a $ref
    return fastjsonschema.compile(_schema(kind) | {"$schema": "http://json-schema.org/draft-07/schema#"})


@cache
def _validator(kind):
    base = jsonschema.Draft202012Validator
    types = base.TYPE_CHECKER.redefine(
        "number", lambda _, value: base.TYPE_CHECKER.is_type(value, "number") and math.isfinite(value)
    )
    return jsonschema.validators.extend(base, type_checker=types)(_schema(kind))


def _sentence(error):
    field = ".".join(str(part) for part in error.absolute_path)
    if error.validator == "type":
        types = error.validator_value if isinstance(error.validator_value, list) else [error.validator_value]
        return f"'{field or 'all of it'}' is {reprlib.repr(error.instance)}, not a JSON {' or '.join(types)}"
    return f"'{field}': {error.message}" if field else error.message
