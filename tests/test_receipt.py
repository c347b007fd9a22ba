"""The receipt: well-formed, accessible, readable, and saved whole or not at all."""

import json
import os
from html.parser import HTMLParser

import pytest

from stkd_utils import carbon
from stkd_utils.carbon import Cost, Reading
from stkd_utils.receipt import ENERGY, duration, quantity


def cost(seconds=10.0, cpu=None, gpu=None, **more):
    unseen = Reading(None, "not seen")
    return Cost(seconds, {"cpu": cpu or unseen, "gpu": gpu or unseen, "ram": unseen}, **more)


class Strict(HTMLParser):
    """Collects tags and text, and fails on tags that do not close in order."""

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.cells = [], [], []

    def handle_starttag(self, tag, attributes):
        self.open.append(tag)
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if data.strip():
            self.cells.append(data)


def example():
    cpu = Reading(0.0123456, "modelled", 35.612, "half of 71.22 W & <more>")
    gpu = Reading(0.5, "measured", None, "NVML energy counter of a GPU")
    return carbon.receipt(cost(3725.0, cpu, gpu, pue=1.2), title="Notebook <01>")


def test_the_receipt_is_a_well_formed_accessible_table():
    markup = example()._repr_html_()
    page = Strict()
    page.feed(markup)
    page.close()
    assert page.open == []
    assert "\n\n" not in markup and "<script" not in markup and "<style" not in markup
    tags = [tag for tag, _ in page.tags]
    assert tags.count("table") == tags.count("caption") == 1
    scopes = [attributes.get("scope") for tag, attributes in page.tags if tag == "th"]
    assert scopes.count("col") == 3 and scopes.count("row") == 8 and None not in scopes
    assert {"Notebook <01>", "1 h 02 min", "12.3 Wh", "500 Wh", "512 Wh", "1.20", "445 g/kWh", "274 g CO₂e"} <= set(
        page.cells
    )
    assert "modelled, 35.6 W assumed: half of 71.22 W & <more>" in page.cells
    assert "color:inherit" in markup and "#" not in markup.replace("&#", "")


def test_the_receipt_as_text_has_the_same_rows():
    receipt = example()
    text = str(receipt)
    for what, amount, _ in receipt.rows():
        assert any(line.startswith(what) and amount in line for line in text.splitlines())
    assert "not seen" in text and "mixed" in text and "IEA" in text and "2024" in text
    assert max(map(len, text.splitlines())) <= 120


def test_the_receipt_is_saved_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "receipts" / "01.json"
    assert example().save(path) == path
    saved = json.loads(path.read_text(encoding="utf-8"))
    assert saved == example().to_dict()
    assert saved["title"] == "Notebook <01>"
    assert Cost.from_dict(saved) == example().cost

    def full(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="disk full"):
        carbon.receipt(cost(), title="second").save(path)
    assert json.loads(path.read_text(encoding="utf-8")) == saved
    assert [p.name for p in path.parent.iterdir()] == ["01.json"]


@pytest.mark.parametrize(
    ("value", "text"),
    [(1.0, "1.00 kWh"), (12.34, "12.3 kWh"), (1234.5, "1,230 kWh"), (0.0999999, "100 Wh"), (0.9999, "1.00 kWh"),
     (1e-6, "1.00 mWh"), (2.344e-5, "23.4 mWh"), (5e-9, "5.00 µWh"), (5e-12, "0.00500 µWh"), (0.0, "0 µWh")],
)  # fmt: skip
def test_numbers_have_three_significant_digits_and_a_fitting_unit(value, text):
    assert quantity(value, ENERGY) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0123, "12.3 ms"), (12.345, "12.3 s"), (119.6, "2 min 00 s"), (3599.6, "1 h 00 min"), (3661, "1 h 01 min")],
)
def test_durations_are_said_as_people_say_them(seconds, text):
    assert duration(seconds) == text
