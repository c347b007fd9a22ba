"""Every page as a reader meets it: in headless Chromium, wide and narrow, bright and dark, without a network."""

import functools
import os
import shutil
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml

from stkd_utils import notebooks

ROOT = Path(__file__).resolve().parents[1]
PAGES = ["index", *notebooks._pages(yaml.safe_load((ROOT / "_toc.yml").read_text())), "search"]
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip

pytestmark = pytest.mark.timeout(1800)  # the first test may have to build the book


@pytest.fixture(scope="module")
def chromium():
    """A running headless Chromium; the tests are skipped, with the reason, where there is none."""
    path = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if not path:
        pytest.skip("no Chromium: install it, or name it by the environment variable CHROMIUM")
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def site(html):
    """Address of the pages on this machine."""
    handler = functools.partial(_Quiet, directory=str(html))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


@pytest.fixture
def visit(chromium):
    """Opens a page; its ``errors`` are what its console complains about, ``asked`` the addresses it asks for."""
    contexts = []

    def opened(address, width=1400, **options):
        contexts.append(chromium.new_context(viewport={"width": width, "height": 900}, **options))
        page = contexts[-1].new_page()
        page.errors, page.asked = [], []
        page.on("console", lambda message: message.type == "error" and page.errors.append(message.text))
        page.on("pageerror", lambda error: page.errors.append(str(error)))
        page.on("response", lambda answer: answer.status >= 400 and page.errors.append(f"{answer.status} {answer.url}"))
        page.on("request", lambda request: page.asked.append(request.url))
        page.goto(address, wait_until="load")
        page.wait_for_load_state("networkidle")
        return page

    yield opened
    for context in contexts:
        context.close()


@pytest.mark.parametrize("name", PAGES)
def test_page_is_sound(visit, site, name):
    page = visit(f"{site}{name}.html")
    assert page.errors == []
    outside = [url for url in page.asked if not url.startswith((site, "data:", "blob:"))]
    assert outside == []

    images = page.eval_on_selector_all("img", "all => all.map(i => [i.alt.trim(), i.src, i.naturalWidth])")
    for alt, source, width in images:
        assert alt, f"{source} has no alternative text"
        assert Path(source).stem not in alt, f"{source} has its file's name as alternative text"
        assert width > 0, f"{source} does not show"

    formulas = page.locator(".bd-article .math").count()
    if formulas:
        page.wait_for_function("n => document.querySelectorAll('.bd-article mjx-container').length >= n", arg=formulas)
        assert page.locator("mjx-container svg").count() >= formulas
        assert page.locator("[data-mml-node=merror]").count() == 0

    for width in (1400, 390):
        page.set_viewport_size({"width": width, "height": 900})
        wide = page.evaluate("document.documentElement.scrollWidth")
        assert wide <= width, f"the page is {wide} px wide in a window of {width}"
        assert clipped(page) == [], f"cut off at {width} px"


def clipped(page):
    """Text that reaches beyond the window without a box that scrolls."""
    return page.evaluate("""() => [...document.querySelectorAll('.bd-article *')].filter(part => {
        const box = part.getBoundingClientRect()
        if (!box.width || part.children.length || !part.textContent.trim() || box.right <= innerWidth + 1) return false
        for (let up = part; up !== document.body; up = up.parentElement)
            if (['auto', 'scroll', 'hidden'].includes(getComputedStyle(up).overflowX)) return false
        return true
    }).map(part => part.textContent.trim().slice(0, 60))""")


@pytest.mark.parametrize("name", PAGES[1:-1])
def test_dark_mode_is_dark_and_figures_stay_legible(visit, site, name):
    page = visit(f"{site}{name}.html", color_scheme="dark")
    light = """part => { const [r, g, b] = getComputedStyle(part)[%r].match(/[0-9.]+/g).map(Number)
                         return (0.2126 * r + 0.7152 * g + 0.0722 * b) / 255 }"""
    assert page.eval_on_selector("body", light % "backgroundColor") < 0.2
    assert page.eval_on_selector(".bd-article h1", light % "color") > 0.7
    for text in page.locator(".bd-article p:visible").all()[:40]:
        assert text.evaluate(light % "color") > 0.4 or text.evaluate("p => p.closest('.cell_output') !== null")
    assert page.errors == []


@pytest.mark.parametrize("by", ["server", "file"])
def test_the_slider_moves_the_bars(visit, site, html, by):
    name = "notebooks/03_classic_kd.html"
    page = visit(f"{site}{name}" if by == "server" else (html / name).as_uri())
    slider = page.locator("input[type=range]").first
    slider.scroll_into_view_if_needed()
    before = shapes(slider)
    assert before, "there is something that could move"
    slider.focus()
    page.keyboard.press("End")
    high = shapes(slider)
    page.keyboard.press("Home")
    assert shapes(slider) != high
    assert len(high) == len(before)


def shapes(slider):
    """Sizes of everything without words in the output that the slider belongs to: the bars."""
    return slider.evaluate("""slider => [...slider.closest('.cell_output').querySelectorAll('*')]
        .filter(part => part !== slider && !part.textContent.trim() && part.getBoundingClientRect().width)
        .map(part => part.getBoundingClientRect()).map(box => [box.width, box.height, box.top, box.left])""")


def test_search_finds_a_word(visit, site):
    page = visit(f"{site}search.html?q=ledger")
    page.wait_for_selector("#search-results li")
    assert page.errors == []
