"""The temperature slider: well-formed HTML, the right bars at once, and bars that move in a browser."""

import re
import shutil
from html.parser import HTMLParser

import pytest
import torch

from stkd_utils import losses
from stkd_utils.slider import TauSlider

LOGITS = torch.tensor([2.0, 9.0, -3.0, 4.5])
VOID = {"input", "img"}


class Nesting(HTMLParser):
    """Fails at the first end tag that does not close the innermost open element."""

    def __init__(self):
        super().__init__()
        self.open, self.seen = [], []

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def parsed(slider):
    parser = Nesting()
    parser.feed(slider._repr_html_())
    assert parser.open == []
    return parser.seen


def widths(slider):
    return [float(value) for value in re.findall(r'data-bar style="width:([\d.]+)%', slider._repr_html_())]


def test_html_is_well_formed_labelled_and_fetches_nothing():
    image = torch.zeros(1, 8, 8, dtype=torch.uint8)
    seen = parsed(TauSlider(LOGITS, class_names=["<a>", 'b"', "c", "d&"], image=image))
    tags = dict(seen)
    assert {"label", "output", "input"} <= tags.keys()
    assert tags["input"]["type"] == "range" and (tags["input"]["min"], tags["input"]["max"]) == ("1", "20")
    assert tags["output"]["aria-live"] == "polite"
    assert tags["img"]["alt"] and tags["img"]["src"].startswith("data:")
    assert "http" not in TauSlider(LOGITS)._repr_html_()


@pytest.mark.parametrize("tau", [1, 7])
def test_bars_are_right_before_any_script_runs(tau):
    assert widths(TauSlider(LOGITS, tau=tau)) == pytest.approx((100 * losses.soften(LOGITS, tau)).tolist(), abs=0.01)


def test_many_classes_show_the_most_probable_with_probabilities_over_all():
    logits = torch.linspace(0, 1, 100)
    expected = (100 * losses.soften(logits, 1)).flip(0)[:10].tolist()
    assert widths(TauSlider(logits)) == pytest.approx(expected, abs=0.01)


def test_logits_of_several_images_are_refused():
    with pytest.raises(ValueError, match="one image"):
        TauSlider(torch.zeros(2, 3))


@pytest.fixture(scope="module")
def browser_page():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as tool:
        try:
            browser = tool.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        except playwright.Error:
            pytest.skip("no Chromium is installed")
        yield browser.new_page()
        browser.close()


def test_keyboard_moves_every_slider_of_a_page(browser_page):
    page, errors = browser_page, []
    page.on("pageerror", lambda error: errors.append(error))
    page.set_content(f"<body>{TauSlider(LOGITS)._repr_html_()}{TauSlider(LOGITS.flip(0))._repr_html_()}</body>")
    for number, logits in enumerate((LOGITS, LOGITS.flip(0))):
        box = page.locator(".tau-slider").nth(number)
        before = box.locator("[data-bar]").first.bounding_box()["width"]
        box.locator("input").focus()
        for _ in range(4):
            page.keyboard.press("ArrowRight")
        styles = [float(bar.evaluate("bar => parseFloat(bar.style.width)")) for bar in box.locator("[data-bar]").all()]
        assert styles == pytest.approx((100 * losses.soften(logits, 5)).tolist(), abs=0.01)
        assert box.locator("output").inner_text().startswith("τ = 5:")
        assert box.locator("[data-bar]").first.bounding_box()["width"] > before
    assert errors == []
