"""Builds the HTML book from notebooks that are executed already, with warnings as errors."""

import argparse
import hashlib
import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # the package, when it is not installed

from stkd_utils import environment, ledger, notebooks  # noqa: E402

TOOLS = ("jupyter-book", "Sphinx", "sphinx-book-theme", "myst-nb")


def digest(profile):
    """Hash of everything that the pages are made of, for one profile."""
    files = [ROOT / "_config.yml", ROOT / "_toc.yml"]
    files += [path for path in (ROOT / "book").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    files += [path for path in (ROOT / "stkd_utils").rglob("*") if path.suffix in (".py", ".json")]
    files += (ROOT / "notebooks").glob("*.ipynb")  # downloads, and what executed copies are held against
    files += [path for path in _executed(profile).glob("*") if path.is_file() and path.name != "report.json"]
    versions = [*map(importlib.metadata.version, TOOLS), environment.packages()]
    found = hashlib.sha256(json.dumps(versions).encode())
    files += [path for path in ledger.folder().resolve().glob("*") if path.is_file()]  # which STKD_LEDGER may move
    for path in sorted(set(files)):
        found.update(os.path.relpath(path, ROOT).encode() + b"\0" + path.read_bytes() + b"\0")
    return found.hexdigest()


def is_current(html):
    """True when the book in the folder ``html`` shows what the present sources and executed notebooks say."""
    stamp = html / "book.json"
    if not stamp.exists():
        return False
    built = json.loads(stamp.read_text())
    return built["digest"] == digest(built["profile"])


def build(profile, into=ROOT):
    """Build the book of one profile and return its folder of pages. Exits with the reason where that fails."""
    html = Path(into) / "_build" / "html"
    stamp = html / "book.json"
    asked = {"profile": profile, "digest": digest(profile)}
    if stamp.exists() and json.loads(stamp.read_text()) == asked:
        return html
    stamp.unlink(missing_ok=True)
    tool = "from jupyter_book.cli.main import main; main()"  # the one of this Python
    command = [sys.executable, "-c", tool, "build", str(ROOT), "--path-output", str(into)]
    command += ["--all", "-q", "-n", "-W", "--keep-going"]
    variables = {**os.environ, "STKD_BOOK_EXECUTED": str(_executed(profile)), "MPLBACKEND": "agg"}
    done = subprocess.run(command, env=variables, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"{done.stdout}\nThe book was not built; the warnings above say why.")
    first = html / "index.html"  # leads on to the first page; without an icon a browser asks for one that is not there
    first.write_text(f'<link rel="icon" href="_static/favicon.svg">\n{first.read_text()}')
    stamp.write_text(json.dumps(asked) + "\n")
    return html


def _executed(profile):
    return ROOT / "_build" / "executed" / profile


def main():
    """Build the book and print where it is and what its notebooks cost."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--profile", default="quick", choices=notebooks.TIMEOUTS)
    profile = parser.parse_args().profile
    try:
        report = notebooks.collect(profile, root=ROOT)
    except notebooks.NotebookError as error:
        sys.exit(str(error))
    missing = [row["name"] for row in report.notebooks if row["status"] == "missing"]
    if missing:
        names = ", ".join(missing)
        sys.exit(f"Not executed with profile {profile}: {names}. `make book PROFILE={profile}` executes them.")
    html = build(profile)
    print(report)
    print(f"\nThe book: {html / 'index.html'}")


if __name__ == "__main__":
    main()
