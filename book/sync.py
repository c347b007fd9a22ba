"""Carries what stands in one place to where it is repeated: the repository's address, and the finding in the README."""

import re
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
FINDING = re.compile(r"(<!-- finding -->\n).*?(\n<!-- /finding -->)", re.DOTALL)


def slug(root=ROOT):
    """Owner and name of the repository, from _config.yml, such as "stkd-book/stkd-book"."""
    return yaml.safe_load((root / "_config.yml").read_text())["repository"]["url"].removeprefix("https://github.com/")


def carried(root=ROOT):
    """Owner and name of the repository as the other files have it, read in CITATION.cff."""
    cited = yaml.safe_load((root / "CITATION.cff").read_text())["repository-code"]
    return cited.removeprefix("https://github.com/")


def files(root=ROOT):
    """Files that need the address themselves, because nothing builds them."""
    return [root / "README.md", root / "CITATION.cff", *sorted((root / "notebooks").glob("[0-9]*"))]


def finding():
    """The README's results, Markdown, from the ledger."""
    sys.path[:0] = [str(ROOT), str(ROOT / "book" / "_ext")]
    import finding as tables

    return f"{tables.verdicts()}\n\n{tables.larger_verdict()}\n\n{tables.headline()}"


def main(root=ROOT):
    """Rewrite what is out of step; print the files that changed."""
    moves = {carried(root): slug(root)}
    moves |= {old.replace("/", ".github.io/"): new.replace("/", ".github.io/") for old, new in moves.items()}
    for path in files(root):
        text = before = path.read_text(encoding="utf-8")
        for old, new in moves.items():
            text = re.sub(rf"/{re.escape(old)}(?![\w-])", f"/{new}", text)
        if path.name == "README.md":
            text = FINDING.sub(lambda found: found[1] + finding() + found[2], text)
        if text != before:
            path.write_text(text, encoding="utf-8")
            print(path.relative_to(root))


if __name__ == "__main__":
    main()
