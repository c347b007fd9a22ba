"""The sources of the book, and the pages that are built from them."""

import ast
import importlib.metadata
import importlib.util
import io
import json
import re
import subprocess
import sys
import tokenize
from functools import cache
from pathlib import Path
from urllib.parse import unquote, urlsplit

import jupytext
import nbformat
import pytest
import sync
import yaml
from bs4 import BeautifulSoup

from stkd_utils import notebooks

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)

# Every outside host that a page may link to, reviewed by hand.
HOSTS = {
    "arxiv.org", "colab.research.google.com", "doi.org", "github.com", "jmlr.org", "www.cs.toronto.edu",
    "www.mathjax.org", "d2l.ai", "docs.pytorch.org", "openintro-ims.netlify.app", "pandas.pydata.org", "figshare.com",
}  # fmt: skip
# Repositories that are spoken of and are not this one.
OTHERS = {"King-Rafat/STKD_CFMitigation", "saintslab/carbontracker", "yuanli2333/Teacher-free-Knowledge-Distillation"}

pytestmark = pytest.mark.timeout(1800)  # the first test that needs the pages may have to build them


def code_cells(path):
    return [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]


# The notebooks


def test_the_table_of_contents_lists_every_notebook():
    assert [path.name for path in notebooks.listed(ROOT)] == [path.name for path in NOTEBOOKS]


@each_notebook
def test_pair_has_the_same_content(path):
    def content(notebook):
        return [(cell.cell_type, cell.source, cell.metadata.get("tags", [])) for cell in notebook.cells]

    pair = path.with_suffix(".py")
    assert pair.exists(), f"{path.name} has no {pair.name}"
    assert content(jupytext.read(pair)) == content(nbformat.read(path, 4)), f"run `make sync`: {pair.name} was edited"


@each_notebook
def test_no_outputs_in_git(path):
    dirty = [number for number, cell in enumerate(code_cells(path), 1) if cell.outputs or cell.execution_count]
    assert not dirty, f"{path.name}: clear the outputs of code cells {dirty}"


@each_notebook
def test_cells_are_few_and_short(path):
    cells = code_cells(path)
    lengths = [len(cell.source.splitlines()) for cell in cells]
    assert len(cells) <= 30
    assert max(lengths) <= 40, f"code cell {1 + lengths.index(max(lengths))} has {max(lengths)} lines"
    assert sum(length <= 25 for length in lengths) >= 0.9 * len(lengths)


@each_notebook
def test_every_chapter_has_its_price_tag_exercises_and_receipt(path):
    cells = nbformat.read(path, 4).cells
    code = "\n".join(cell.source for cell in cells if cell.cell_type == "code")
    prose = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    assert f'ledger.price_tag("{path.stem}", profile)' in code
    assert f'"receipts" / "{path.stem}.json"' in code
    for part in (
        "You will be able to",
        "You need",
        "# What we learned",
        "What would change our mind",
        "# Exercises",
        "# Receipt",
    ):
        assert part in prose, f"{path.name} has no part '{part}'"


@each_notebook
def test_parameters_are_commented_literals(path):
    tagged = [cell for cell in code_cells(path) if "parameters" in cell.metadata.get("tags", [])]
    assert len(tagged) == 1
    for statement in ast.parse(tagged[0].source).body:
        assert isinstance(statement, ast.Assign | ast.AnnAssign)
        ast.literal_eval(statement.value)
    comments = [token.start[0] for token in tokenize.generate_tokens(io.StringIO(tagged[0].source).readline)
                if token.type == tokenize.COMMENT]  # fmt: skip
    lines = {statement.lineno for statement in ast.parse(tagged[0].source).body}
    assert lines <= set(comments), "every parameter has a trailing comment"


def test_trap_P12_bootstrap_is_the_same_everywhere_and_leaves_the_big_packages_alone():
    first = [code_cells(path)[0] for path in NOTEBOOKS]
    assert all("bootstrap" in cell.metadata.get("tags", []) for cell in first)
    sources = {cell.source for cell in first}
    assert len(sources) <= 1, "the bootstrap is identical in every notebook"
    for source in sources:
        assert "--no-deps" in source or "--constraint" in source, "pip must not touch what is installed"
        for name in ("torch", "torchvision", "numpy", "matplotlib"):
            assert "--no-deps" in source or f'"{name}"' in source


@pytest.mark.parametrize("status", [0, 1])
def test_trap_P12_bootstrap_installs_the_package_around_what_is_there(monkeypatch, status):
    asked = []

    def pip(command):
        kept = Path(command[command.index("--constraint") + 1]).read_text().splitlines()
        asked.append((command[-1], set(kept)))
        return subprocess.CompletedProcess(command, status)

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(subprocess, "run", pip)
    monkeypatch.setattr(sys, "path", list(sys.path))
    source = code_cells(NOTEBOOKS[0])[0].source
    if status:
        with pytest.raises(RuntimeError, match="could not be installed from https://github.com/"):
            exec(source, {})
    else:
        exec(source, {})
    big = "torch", "torchvision", "numpy", "matplotlib"
    present = {f"{name}=={importlib.metadata.version(name)}" for name in big}
    assert asked == [(f"git+https://github.com/{sync.slug()}", present)]


def test_bootstrap_installs_nothing_where_everything_is(monkeypatch):
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("pip was called"))
    exec(code_cells(NOTEBOOKS[0])[0].source, {})


@each_notebook
def test_every_figure_has_an_alt_text(path):
    for number, cell in enumerate(code_cells(path), 1):
        shown = cell.metadata.get("mystnb", {})
        if "figure" in shown:
            assert len(shown.get("image", {}).get("alt", "")) > 20, f"code cell {number}"


# One place for everything


def test_requirements_cover_the_package():
    listed = {line.strip() for line in (ROOT / "requirements.txt").read_text().splitlines()}
    wanted = re.search(r"dependencies = \[(.*?)\]", (ROOT / "pyproject.toml").read_text(), re.DOTALL)[1]
    assert set(re.findall(r'"(.+)"', wanted)) <= listed


def test_the_address_stands_in_one_place():
    assert sync.carried() == sync.slug(), "the address in _config.yml changed: run `make sync`"
    found = {}
    for path in sync.files():
        for name in re.findall(r"github(?:\.com)?/([\w.-]+/[\w.-]+?)(?=\.git\b|[/\"')\s#@>]|$)", path.read_text()):
            found.setdefault(name, path.name)
    assert {name: place for name, place in found.items() if name not in OTHERS | {sync.slug()}} == {}
    for page in (ROOT / "book").glob("*.md"):
        assert sync.slug() not in page.read_text(), f"{page.name}: write {{{{ repository }}}}"


def test_sync_carries_a_new_address(tmp_path):
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "_config.yml").write_text("repository:\n  url: https://github.com/new/name\n")
    (tmp_path / "CITATION.cff").write_text("repository-code: https://github.com/old/book\n")
    (tmp_path / "README.md").write_text("[x](https://old.github.io/book/a) https://github.com/old/bookends\n")
    (tmp_path / "notebooks" / "01_a.py").write_text("git+https://github.com/old/book@main")
    sync.main(tmp_path)
    assert sync.carried(tmp_path) == "new/name"
    assert (tmp_path / "notebooks" / "01_a.py").read_text() == "git+https://github.com/new/name@main"
    assert (tmp_path / "README.md").read_text() == "[x](https://new.github.io/name/a) https://github.com/old/bookends\n"


def test_the_finding_in_the_readme_is_that_of_the_ledger():
    shown = sync.FINDING.search((ROOT / "README.md").read_text())[0]
    assert sync.finding() in shown, "the ledger changed: run `make sync`"


def test_citation_file_names_the_paper():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert cited["references"][0]["doi"] == "10.1371/journal.pone.0285668"


# The pages


@cache
def page(path):
    return BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")


def pages(html):
    return [path for path in html.rglob("*.html") if "_static" not in path.relative_to(html).parts]


def links(html):
    """(page, address) of everything that the pages refer to."""
    for path in pages(html):
        for tag in page(path).find_all(["a", "link", "img", "script"]):
            address = tag.get("href") or tag.get("src")
            if address and not address.startswith(("data:", "mailto:")):
                yield path, address


def test_the_book_was_built_from_every_source(html):
    built = json.loads((html / "book.json").read_text())
    assert built["profile"] in notebooks.TIMEOUTS
    for path in notebooks.listed(ROOT):
        assert (html / "notebooks" / f"{path.stem}.html").exists()


def test_every_page_has_an_icon(html):
    without = [path.name for path in pages(html) if 'rel="icon"' not in path.read_text(encoding="utf-8")]
    assert without == [], "a browser then asks for one that is not there"


def test_internal_links_and_anchors_lead_somewhere(html):
    broken = []
    for path, address in links(html):
        parts = urlsplit(address)
        if parts.scheme or parts.netloc:
            continue
        target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
        anchor = unquote(parts.fragment) if target.suffix == ".html" else ""
        if not target.exists() or (anchor and not page(target).find(id=anchor)):
            broken.append((path.name, address))
    assert broken == []


def test_outside_links_lead_to_reviewed_hosts(html):
    hosts = {urlsplit(address).netloc for _, address in links(html)} - {""}
    assert hosts <= HOSTS


def test_colab_opens_the_notebook_of_the_repository(html):
    for path in notebooks.listed(ROOT):
        wanted = f"https://colab.research.google.com/github/{sync.slug()}/blob/main/notebooks/{path.name}"
        built = html / "notebooks" / f"{path.stem}.html"
        assert (built, wanted) in set(links(html))


def test_download_is_the_notebook_without_outputs(html):
    for path in notebooks.listed(ROOT):
        assert (html / "_sources" / "notebooks" / path.name).read_bytes() == path.read_bytes()


def test_pages_show_executed_cells_and_no_errors(html):
    for path in notebooks.listed(ROOT):
        shown = page(html / "notebooks" / f"{path.stem}.html")
        assert shown.select(".cell_output"), f"{path.stem} shows no output"
        assert "Traceback (most recent call last)" not in shown.get_text()


def test_how_it_was_made_lists_every_notebook(html):
    text = page(html / "book" / "made.html").get_text()
    for path in notebooks.listed(ROOT):
        assert path.stem in text


def test_a_warning_fails_the_build(tmp_path):
    """The strict flags are in force: a broken link in a page stops the build and leaves no stamp of success."""
    for name in ("book", "stkd_utils"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "book").unlink()
    subprocess.run(["cp", "-r", str(ROOT / "book"), str(tmp_path / "book")], check=True)
    (tmp_path / "_config.yml").write_text((ROOT / "_config.yml").read_text())
    (tmp_path / "_toc.yml").write_text("format: jb-book\nroot: book/broken\n")
    (tmp_path / "book" / "broken.md").write_text("# A page\n\n[nowhere](nowhere.md)\n")
    command = [sys.executable, "book/build.py", "--profile", "smoke"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode != 0
    assert "nowhere" in done.stderr
    assert not (tmp_path / "_build" / "html" / "book.json").exists()


def test_an_unexecuted_notebook_is_named_instead_of_shown_empty(tmp_path):
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "book").symlink_to(ROOT / "book")
    (tmp_path / "_toc.yml").write_text("format: jb-book\nroot: notebooks/01_new\n")
    cell = nbformat.v4.new_code_cell('profile = "quick"  # scale', metadata={"tags": ["parameters"]})
    kernel = {"kernelspec": {"name": "python3", "language": "python", "display_name": "Python 3"}}
    nbformat.write(nbformat.v4.new_notebook(cells=[cell], metadata=kernel), tmp_path / "notebooks" / "01_new.ipynb")
    code = "import build, pathlib, sys; build.ROOT = pathlib.Path(sys.argv.pop()); build.main()"
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT / "book", capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.strip() == "Not executed with profile quick: 01_new. `make book PROFILE=quick` executes them."
