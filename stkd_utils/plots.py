"""The look of the book: one meaning per colour, dash and marker; one function per kind of figure.

Data come tidy, one row per run (or per epoch and run), with a column ``role`` (a key of `ROLES`) that decides colour,
dash and marker, and where several rows need telling apart a column ``label``. Uncertainty is a Student-t interval over
the rows that share a place, drawn wherever there are at least two. Captions and alternative texts belong to the page,
so no figure has a title.
"""

import sys
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns

from stkd_utils import losses, stats

COLUMN, FULL = 4.5, 7.2


class Role(NamedTuple):
    """How one role looks: a colour legible as text on white, a dash pattern (on, off, ... in line widths), a marker."""

    colour: str
    dash: tuple
    marker: str


ROLES = {
    "teacher": Role("#222222", (6, 2), "s"),
    "no KD": Role("#D13D07", (1, 1.2), "v"),
    "KD fixed tau": Role("#0A4BCB", (), "o"),
    "KD tuned tau": Role("#BF2E97", (6, 1.5, 1, 1.5), "D"),
    "stochastic tau": Role("#12855A", (3, 1.2), "^"),
}
_COLOURS, _DASHES, _MARKERS = ({role: style[part] for role, style in ROLES.items()} for part in range(3))

_INK, _PALE = "#222222", "#555555"
_STYLE = {
    "figure.figsize": (COLUMN, 3.0),
    "savefig.dpi": 200,
    "svg.hashsalt": "stkd",
    "axes.grid.axis": "y",
    **dict.fromkeys(["figure.constrained_layout.use", "axes.grid"], True),
    **dict.fromkeys(["axes.spines.top", "axes.spines.right"], False),
    "grid.color": "#E4E4E4",
    "lines.linewidth": 2.0,
    "lines.markersize": 6.5,
    "font.sans-serif": ["DejaVu Sans"],
    **dict.fromkeys(["figure.facecolor", "savefig.facecolor", "axes.facecolor"], "white"),
    **dict.fromkeys(["font.size", "axes.labelsize", "xtick.labelsize", "ytick.labelsize"], 10.5),
    **dict.fromkeys(["axes.edgecolor", "xtick.color", "ytick.color"], _PALE),
    **dict.fromkeys(["text.color", "axes.labelcolor", "xtick.labelcolor", "ytick.labelcolor"], _INK),
}
_LEADER = {"arrowstyle": "-", "linewidth": 0.8, "relpos": (0, 0.5), "shrinkA": 0, "shrinkB": 0}

# Column -> what the axis says, and its units from large to small as (size, unit).
_QUANTITIES = {
    "val_accuracy": ("Validation accuracy", [(0.01, "%")]),
    "test_accuracy": ("Test accuracy", [(0.01, "%")]),
    "accuracy": ("Accuracy", [(0.01, "%")]),
    "val_map50": ("Validation mAP", [(0.01, "%")]),
    "test_map50": ("Test mAP", [(0.01, "%")]),
    "val_loss": ("Validation loss", [(1, "nats")]),
    "energy_kwh": ("Energy", [(1, "kWh"), (1e-3, "Wh"), (1e-6, "mWh")]),
    "co2e_g": ("CO₂e", [(1e3, "kg"), (1, "g"), (1e-3, "mg")]),
    "seconds": ("Time", [(3600, "h"), (60, "min"), (1, "s"), (1e-3, "ms")]),
    "flops": ("Computation", [(1e18, "EFLOPs"), (1e15, "PFLOPs"), (1e12, "TFLOPs"), (1e9, "GFLOPs")]),
}


def use_style():
    """Make the book's look the default of every later figure; in a notebook, show figures as crisp SVG.

    Fonts stay readable when a column-wide figure shrinks to a phone. Introduced in notebook 01.
    """
    sns.set_theme(style="ticks", palette=list(_COLOURS.values()), rc=_STYLE)
    if "IPython" in sys.modules and sys.modules["IPython"].get_ipython() is not None:
        from matplotlib_inline.backend_inline import set_matplotlib_formats

        # A cropped figure would lose its fixed width, and a date would make equal figures differ.
        set_matplotlib_formats("svg", bbox_inches=None, metadata={"Date": None})


def tau_curve(table, *, value="val_accuracy", ax=None):
    """Axes with ``value`` over tau: the fixed-tau runs as a curve, every other role as a horizontal reference.

    ``table``: one row per run with the columns role, ``value``, and tau for the rows of role "KD fixed tau". Bands are
    95 % intervals over the runs. Introduced in notebook 03.

    Raises ValueError for a missing column, a role that `ROLES` does not have, or no run at fixed tau.
    """
    table, name, _ = _scaled(table, value, "role", "tau")
    curve = table[table["role"] == "KD fixed tau"]
    if curve.empty:
        raise ValueError("A curve over tau needs runs of the role 'KD fixed tau'.")
    ax = ax or _axes(3.2)
    _lines(curve, "tau", value, ax, markers=True)
    ends = [_end(curve, "tau", value, "KD fixed tau")]
    for role, rows in table[table["role"] != "KD fixed tau"].groupby("role", sort=False):
        level = stats.interval(rows[value])
        ax.axhline(level.mean, color=_COLOURS[role], dashes=_DASHES[role], zorder=1.5)
        if level.n > 1:
            ax.axhspan(level.low, level.high, color=_COLOURS[role], alpha=0.12, linewidth=0)
        ends.append((ax.get_xlim()[1], level.mean, role))
    taus = sorted(curve["tau"].unique())
    ax.set(xlabel="Temperature τ", ylabel=name, xticks=taus[:: -(-len(taus) // 8)])
    if name.endswith("(%)"):
        ax.set_ylim(top=min(100.5, ax.get_ylim()[1]))
    _label_ends(ax, ends)
    return ax


def learning_curves(history, *, value="val_accuracy", ax=None):
    """Axes with ``value`` over the epochs, one line per role, labelled at its end.

    ``history``: one row per epoch and run with the columns epoch, role and ``value``. Bands are 95 % intervals over the
    runs. Introduced in notebook 02.

    Raises ValueError for a missing column or a role that `ROLES` does not have.
    """
    history, name, _ = _scaled(history, value, "role", "epoch")
    ax = ax or _axes(3.2)
    _lines(history, "epoch", value, ax)
    ax.set(xlabel="Epoch", ylabel=name, xmargin=0)
    ax.xaxis.get_major_locator().set_params(integer=True)
    _label_ends(ax, [_end(rows, "epoch", value, role) for role, rows in history.groupby("role", sort=False)])
    return ax


def dots_with_intervals(table, *, value="test_accuracy", ax=None):
    """Axes with a row per label: every run as a pale dot, the mean with its 95 % interval, and the mean as text.

    ``table``: one row per run with the columns role, ``value`` and, if one role stands for several things, label.
    Rows appear in the order of the table. Introduced in notebook 02.

    Raises ValueError for a missing column or a role that `ROLES` does not have.
    """
    table, name, unit = _scaled(table, value, "role")
    groups = _groups(table)
    ax = ax or _axes(0.75 + 0.45 * len(groups))
    for place, (_, role, rows) in enumerate(groups):
        level, (colour, _, marker) = stats.interval(rows[value]), ROLES[role]
        # Single runs lie below their interval, which would hide them.
        ax.plot(rows[value], [place + 0.25] * level.n, marker, color=colour, alpha=0.4, markersize=5, markeredgewidth=0)
        if level.n > 1:
            ax.plot([level.low, level.high], [place, place], color=colour, solid_capstyle="butt")
        ax.plot(level.mean, place, marker, color=colour, markersize=8, markeredgecolor="white")
        half = f" ± {level.half_width:.1f}" if level.n > 1 else ""
        _beside(ax, place, f"{level.mean:.1f}{half} {unit}", colour)
    ax.set(xlabel=name)
    _name_rows(ax, groups)
    return ax


def cost_bars(table, *, value="energy_kwh", ax=None):
    """Axes with a bar per label: the whole cost of a procedure, one segment for each run that it needs.

    ``table``: one row per run with the columns role, seed, ``value`` and, if one role stands for several things, label.
    The runs of one label and seed add up; segments and bar are means over seeds, the whisker is the 95 % interval of
    the sum. A label with an unknown (missing) cost gets the words "not seen", never a bar. Introduced in notebook 04.

    Raises ValueError for a missing column or a role that `ROLES` does not have.
    """
    table, name, unit = _scaled(table, value, "role", "seed", runs_add_up=True)
    groups = _groups(table)
    ax = ax or _axes(0.75 + 0.45 * len(groups))
    for place, (_, role, rows) in enumerate(groups):
        _beside(ax, place, _cost_bar(ax, place, rows, value, unit), _COLOURS[role])
    ax.set(xlabel=name, xlim=(0, None))
    _name_rows(ax, groups)
    return ax


def _cost_bar(ax, place, rows, value, unit):
    if rows[value].isna().any():
        return "not seen"
    colour = _COLOURS[rows["role"].iloc[0]]
    segments = rows.groupby(rows.groupby("seed").cumcount())[value].mean().to_numpy()
    total = stats.interval(rows.groupby("seed")[value].sum())
    ax.barh(place, segments, 0.6, np.cumsum(segments) - segments, color=colour, edgecolor="white", linewidth=0.7)
    if total.n > 1:
        ax.errorbar(total.mean, place, xerr=total.half_width, color=_INK, capsize=3, linewidth=1.2)
    return f"{total.mean:.3g} {unit}, {len(segments)} {'run' if len(segments) == 1 else 'runs'}"


def softened_bars(logits, taus, *, class_names=None, role="teacher", axes=None):
    """Array of axes, one per temperature, with the softened class probabilities in per cent.

    ``logits``: (classes,) of one image; ``taus``: temperatures, top to bottom; the largest bar carries its value.
    Hinton et al. 2015, eq. 1. Introduced in notebook 03.
    """
    if axes is None:
        _, axes = plt.subplots(len(taus), sharex=True, sharey=True, figsize=(COLUMN, 0.6 + 1.05 * len(taus)))
    axes = np.atleast_1d(axes)
    names = [str(name) for name in (range(len(logits)) if class_names is None else class_names)]
    for ax, tau in zip(axes, taus, strict=True):
        percent = 100 * losses.soften(logits, tau).detach().cpu().numpy()
        top = int(percent.argmax())
        ax.bar(names, percent, color=_COLOURS[role], alpha=0.45)[top].set_alpha(1)
        ax.annotate(f"{percent[top]:.0f} %", (top, percent[top]), (0, 2), textcoords="offset points", ha="center")
        ax.grid(visible=False)
        ax.text(1.02, 0.5, f"τ = {tau:g}", transform=ax.transAxes, va="center")
        ax.set(ylim=(0, 122), yticks=[0, 50, 100])
        ax.tick_params(axis="x", length=0, rotation=90 if max(map(len, names)) > 2 else 0)
    axes[-1].set_xlabel("Class")
    axes[(len(axes) - 1) // 2].set_ylabel("Probability (%)", y=0.5 if len(axes) % 2 else -0.1)
    return axes


def _axes(height):
    return plt.figure(figsize=(COLUMN, height)).add_subplot()


def _scaled(table, value, *columns, runs_add_up=False):
    """The checked table, labelled and with ``value`` in a unit that suits its size; the axis label; the unit."""
    missing = sorted({value, *columns} - set(table))
    if missing:
        raise ValueError(f"This figure needs a table with the column {missing[0]!r}.")
    unknown = sorted(set(table["role"]) - set(ROLES))
    if unknown:
        raise ValueError(f"There is no role {unknown[0]!r}; known are {', '.join(ROLES)}.")
    labels = table.get("label", table["role"].map(_spoken))
    table = table.assign(**{"label": labels, value: table[value].astype(float)})
    sums = table.groupby(["label", "seed"])[value].sum() if runs_add_up else table[value]
    name, units = next((_QUANTITIES[key] for key in _QUANTITIES if value.startswith(key)), (value, [(1, "")]))
    size, unit = next((pair for pair in units if sums.max() >= pair[0]), units[-1])
    return table.assign(**{value: table[value] / size}), f"{name} ({unit})" if unit else name, unit


def _groups(table):
    return [(label, rows["role"].iloc[0], rows) for label, rows in table.groupby("label", sort=False)]


def _spoken(role):
    return role.replace("tau", "τ")


def _lines(table, x, value, ax, markers=False):
    sns.lineplot(
        table,
        x=x,
        y=value,
        hue="role",
        style="role",
        palette=_COLOURS,
        dashes=_DASHES,
        markers=_MARKERS if markers else False,
        errorbar=_band,
        err_kws={"alpha": 0.15, "linewidth": 0},
        legend=False,
        ax=ax,
    )


def _band(values):
    interval = stats.interval(values)
    return interval.low, interval.high


def _end(rows, x, value, role):
    last = rows[x].max()
    return last, rows.loc[rows[x] == last, value].mean(), role


def _beside(ax, place, text, colour):
    ax.text(1.02, place, text, transform=ax.get_yaxis_transform(), color=colour, va="center")


def _name_rows(ax, groups):
    ax.set(ylabel="", ylim=(len(groups) - 0.5, -0.5))
    ax.set_yticks(range(len(groups)), [label for label, _, _ in groups])
    for tick, (_, role, _) in zip(ax.get_yticklabels(), groups, strict=True):
        tick.set_color(_COLOURS[role])
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    ax.grid(visible=False, axis="y")
    ax.grid(visible=True, axis="x")


def _label_ends(ax, ends):
    """Write each role beside the axes, level with its line as far as the other labels leave room."""
    ax.figure.draw_without_rendering()
    low, high = ax.get_ylim()
    per_point = (high - low) / (ax.get_window_extent().height * 72 / ax.figure.dpi)
    ends = sorted(ends, key=lambda end: end[1])
    places = _spread([y for _, y, _ in ends], 1.25 * plt.rcParams["font.size"] * per_point, low, high)
    for (x, y, role), place in zip(ends, places, strict=True):
        style = {"color": _COLOURS[role], "va": "center", "arrowprops": {**_LEADER, "color": _COLOURS[role]}}
        ax.annotate(_spoken(role), (x, y), (1.07, place), textcoords=ax.get_yaxis_transform(), **style)


def _spread(values, gap, low, high):
    """The ascending ``values``, moved as little as needed to lie ``gap`` apart between ``low`` and ``high``."""
    places, floor, ceiling = list(values), low, high
    for index, place in enumerate(places):
        places[index] = max(place, floor)
        floor = places[index] + gap
    for index in reversed(range(len(places))):
        places[index] = min(places[index], ceiling)
        ceiling = places[index] - gap
    return places
