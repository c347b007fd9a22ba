"""Sphinx extension of the book: it shows executed notebooks, and lets pages read results instead of typing them."""

import os
from pathlib import Path

import finding
import methods
import networks
import originals
from docutils import nodes
from docutils.parsers.rst import directives
from docutils.statemachine import StringList
from sphinx.errors import ExtensionError
from sphinx.util.docutils import SphinxDirective

IMAGES = "_build/figures"
TABLES = finding.TABLES | originals.TABLES | methods.TABLES | networks.TABLES


def setup(app):
    """Register with Sphinx; $STKD_BOOK_EXECUTED is the folder of executed notebooks that this build shows."""
    app.connect("source-read", read_source)
    app.connect("html-page-context", tidy_scripts, priority=900)
    app.add_directive("ledger-table", LedgerTable)
    app.add_directive("ledger-figure", LedgerFigure)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def executed_folder():
    """The folder of executed notebooks that this build shows. Raises ExtensionError where none was given."""
    folder = os.environ.get("STKD_BOOK_EXECUTED")
    if not folder:
        raise ExtensionError("Build the book with `make book` or `make html`: they know what was executed.")
    return Path(folder)


def read_source(app, docname, source):
    """Show the executed copy of a notebook; on a page, put the repository's address for ``{{ repository }}``.

    The source itself stays the source: download, edit and Colab buttons lead to the notebook without outputs.
    """
    path = Path(app.env.doc2path(docname))
    if path.suffix == ".ipynb":
        copy = executed_folder() / path.name
        if not copy.exists():
            raise ExtensionError(f"{path.stem} has no executed copy in {copy.parent}; `make book` executes it.")
        source[0] = copy.read_text(encoding="utf-8")
        return
    address = app.config.html_theme_options["repository_url"]
    slug = address.removeprefix("https://github.com/")
    source[0] = source[0].replace("{{ repository }}", address).replace("{{ slug }}", slug)


def tidy_scripts(app, pagename, templatename, context, doctree):
    """Load each script once, and none of Thebe, which Jupyter Book adds to every page with an address in a CDN."""
    kept = {}
    for script in context.get("script_files", []):
        body = (getattr(script, "attributes", None) or {}).get("body") or ""
        if "thebe" not in f"{getattr(script, 'filename', script)} {body}".lower():
            kept.setdefault((getattr(script, "filename", script), body), script)
    context["script_files"] = list(kept.values())


class LedgerTable(SphinxDirective):
    """What a function of `TABLES` returns, as Markdown: ```` ```{ledger-table} headline ````."""

    required_arguments = 1

    def run(self):
        name = self.arguments[0]
        lines = TABLES[name](executed_folder()).splitlines()
        box = nodes.container(classes=["book-table", f"book-{name}"])
        self.state.nested_parse(StringList(lines, source=finding.__file__), self.content_offset, box)
        return [box]


class LedgerFigure(SphinxDirective):
    """What a function of ``finding.py`` draws, with caption and alt text; nothing while there is nothing to draw."""

    required_arguments = 1
    option_spec = {"name": directives.unchanged}

    def run(self):
        name = self.arguments[0]
        drawn = finding.FIGURES[name]()
        if drawn is None:
            return []
        path = Path(self.env.srcdir) / IMAGES / f"{name}.svg"
        path.parent.mkdir(parents=True, exist_ok=True)
        drawn.figure.savefig(path, bbox_inches="tight")
        figure = nodes.figure()
        figure += nodes.image(uri=f"/{IMAGES}/{path.name}", alt=drawn.alt)
        figure += nodes.caption(drawn.caption, drawn.caption)
        self.add_name(figure)
        return [figure]
