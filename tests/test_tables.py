"""Tables of the notebooks: units of a column, caption, no broken cells."""

from stkd_utils import tables

UNITS = ((1, "kWh"), (1e-3, "Wh"), (1e-6, "mWh"))


def test_a_column_has_one_unit_in_which_its_smallest_value_is_readable():
    assert tables.column([0.002, 0.3], UNITS) == ("Wh", ["2", "300"])
    assert tables.column([4.0, 12345.6], UNITS) == ("kWh", ["4", "12,346"])
    assert tables.column([1e-9], UNITS) == ("mWh", ["0.001"])


def test_what_was_not_seen_is_said_and_never_a_number():
    assert tables.column([None, 0.002], UNITS) == ("Wh", ["not seen", "2"])
    assert tables.column([None], UNITS) == ("mWh", ["not seen"])


def test_a_table_takes_rows_or_columns_and_shows_its_caption():
    for content in ([{"a": "x y"}], {"a": ["x y"]}):
        html = tables.table(content, "What it says").to_html()
        assert "<caption>What it says</caption>" in html and "nowrap" in html
