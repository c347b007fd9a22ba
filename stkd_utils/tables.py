"""Small tables of the notebooks: a caption, no row numbers, numbers of one column in one unit."""

import pandas as pd

FLOPS = ((1e18, "EFLOPs"), (1e15, "PFLOPs"), (1e12, "TFLOPs"), (1e9, "GFLOPs"))
TIME = ((3600, "h"), (1, "s"))


def table(rows, caption):
    """``rows`` (dicts of one row each, or one dict of columns) as a table that a notebook shows.

    No cell is broken over lines: a wide table scrolls in its own box. Introduced in notebook 03.
    """
    whole = {"selector": "td", "props": "white-space: nowrap"}
    small = {"selector": "", "props": "font-size: 0.9em"}
    return pd.DataFrame(rows).style.hide(axis="index").set_caption(caption).set_table_styles([whole, small])


def column(values, units):
    """One unit for all ``values``, and the values as texts in it: (unit, list of str). None becomes "not seen".

    ``units`` are pairs of size and name, largest first; chosen is the largest in which the smallest value is 1 or more.
    """
    seen = [value for value in values if value is not None]
    size, unit = next((pair for pair in units if seen and min(seen) >= pair[0]), units[-1])
    return unit, ["not seen" if value is None else _digits(value / size) for value in values]


def _digits(number):
    return f"{number:,.0f}" if number >= 99.95 else f"{number:.3g}"
