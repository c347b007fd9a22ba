"""The figures: legible for everyone, nothing overlaps, and what is drawn is what the data say."""

import itertools

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.colors import to_rgb

from stkd_utils import losses, plots, stats

# Machado et al. 2009, full severity, for linear RGB.
SIGHT = {
    "normal": np.eye(3),
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


@pytest.fixture(autouse=True)
def style():
    with matplotlib.rc_context():
        plots.use_style()
        yield
    plt.close("all")


def runs(role, mean, seeds=3, spread=0.004, energy=2e-4, **columns):
    offsets = np.linspace(-spread, spread, seeds) if seeds > 1 else [0.0]
    rows = {"role": role, "seed": range(seeds), "tau": np.nan, "energy_kwh": energy * (1 + np.array(offsets))}
    return pd.DataFrame(rows | {"val_accuracy": mean + np.array(offsets)} | columns)


def grid(seeds=3):
    return pd.concat([runs("KD fixed tau", 0.93 + 0.001 * tau, seeds, tau=tau) for tau in (2, 4, 8, 20)])


def whole(seeds=3):
    others = [runs("teacher", 0.955, seeds), runs("no KD", 0.91, seeds), runs("stochastic tau", 0.9495, seeds)]
    return pd.concat([grid(seeds), *others, runs("KD tuned tau", 0.95, seeds)])


def history(seeds=3):
    epochs = range(1, 7)
    return pd.concat(
        runs(role, mean * epoch / 6, seeds, epoch=epoch)
        for role, mean in zip(plots.ROLES, (0.95, 0.91, 0.931, 0.932, 0.933), strict=True)
        for epoch in epochs
    )


FIGURES = {
    "tau_curve": lambda seeds=3: plots.tau_curve(whole(seeds)),
    "learning_curves": lambda seeds=3: plots.learning_curves(history(seeds)),
    "dots_with_intervals": lambda seeds=3: plots.dots_with_intervals(whole(seeds), value="val_accuracy"),
    "cost_bars": lambda seeds=3: plots.cost_bars(whole(seeds)),
    "softened_bars": lambda seeds=3: plots.softened_bars(torch.arange(10.0), [1, 4, 20])[0],
}


def linear(colour):
    rgb = np.array(to_rgb(colour))
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def lab(linear_rgb):
    x, y, z = np.cbrt(TO_XYZ @ np.clip(linear_rgb, 0, 1) / [0.9505, 1, 1.089])
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("sight", SIGHT)
def test_colours_differ_for_every_kind_of_colour_vision(sight):
    seen = {role: lab(np.array(SIGHT[sight]) @ linear(look.colour)) for role, look in plots.ROLES.items()}
    for one, other in itertools.combinations(seen, 2):
        assert np.linalg.norm(seen[one] - seen[other]) > 20, (one, other)


def test_colours_are_legible_as_text_on_white():
    for role, look in plots.ROLES.items():
        assert 1.05 / (TO_XYZ[1] @ linear(look.colour) + 0.05) >= 4.5, role


def test_roles_also_differ_without_colour():
    assert len({look.dash for look in plots.ROLES.values()}) == len(plots.ROLES)
    assert len({look.marker for look in plots.ROLES.values()}) == len(plots.ROLES)


def test_figures_have_an_opaque_white_background(tmp_path):
    FIGURES["cost_bars"]().figure.savefig(tmp_path / "figure.png")
    pixels = plt.imread(tmp_path / "figure.png")
    assert pixels[0, 0].tolist() == [1, 1, 1, 1] and (pixels[..., 3] == 1).all()


def texts(figure):
    figure.canvas.draw()
    found = []
    for ax in figure.axes:
        ticks = [*ax.get_xticklabels(), *ax.get_yticklabels()]
        shown = [tick for tick in ticks if ax.get_window_extent().padded(3).containsy(middle(tick)[1])]
        found += [*ax.texts, ax.xaxis.label, ax.yaxis.label]
        found += shown if ax.get_subplotspec().is_last_row() else []
    return [text for text in found if text.get_visible() and text.get_text()]


def middle(text):
    box = text.get_window_extent()
    return (box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2


def box_of(text):
    """The words alone: the extent of an annotation includes its leader line."""
    return matplotlib.text.Text.get_window_extent(text)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("seeds", [1, 3])
@pytest.mark.parametrize("name", FIGURES)
def test_words_do_not_overlap_and_stay_on_the_figure(name, seeds):
    figure = FIGURES[name](seeds).figure
    words = texts(figure)
    assert len(words) >= 5
    for one, other in itertools.combinations(words, 2):
        assert not box_of(one).padded(-1).overlaps(box_of(other).padded(-1)), (one, other)
    whole_figure = figure.bbox.padded(1)
    assert all(whole_figure.contains(*corner) for word in words for corner in (box_of(word).min, box_of(word).max))


@pytest.mark.parametrize("name", FIGURES)
def test_figures_fit_a_column_and_a_phone_name_their_unit_and_have_no_title(name):
    figure = FIGURES[name]().figure
    assert figure.get_figwidth() == plots.COLUMN
    css_pixels_per_point = min(4 / 3, 350 / (72 * plots.COLUMN))
    words = texts(figure)
    assert min(word.get_fontsize() for word in words) * css_pixels_per_point >= 11
    assert any(word.get_text().endswith(("(%)", "(mWh)")) for word in words)
    assert all(ax.get_title() == "" for ax in figure.axes)


def horizontal(ax, colour, level):
    return any(line.get_color() == colour and np.allclose(line.get_ydata(), level) for line in ax.lines)


def test_tau_curve_draws_means_bands_and_references():
    ax = plots.tau_curve(pd.concat([grid(), runs("stochastic tau", 0.9)]))
    curve = next(line for line in ax.lines if line.get_marker() == "o")
    assert curve.get_xdata().tolist() == [2, 4, 8, 20]
    assert curve.get_ydata() == pytest.approx([93.2, 93.4, 93.8, 95.0])
    assert horizontal(ax, plots.ROLES["stochastic tau"].colour, 90)
    band = ax.collections[0].get_paths()[0].get_extents()
    low, high = (stats.interval([0.928, 0.932, 0.936]).low, stats.interval([0.946, 0.95, 0.954]).high)
    assert (band.y0, band.y1) == pytest.approx((100 * low, 100 * high))
    reference = stats.interval([0.896, 0.9, 0.904])
    assert ax.patches[0].get_extents().height > 0
    assert ax.patches[0].get_y() == pytest.approx(100 * reference.low)
    assert ax.patches[0].get_height() == pytest.approx(200 * reference.half_width)
    assert {text.get_text() for text in ax.texts} == {"KD fixed τ", "stochastic τ"}


def test_learning_curves_end_in_their_labels():
    ax = plots.learning_curves(history())
    assert {text.get_text() for text in ax.texts} == {role.replace("tau", "τ") for role in plots.ROLES}
    assert len(ax.collections) == 5
    for text in ax.texts:
        assert text.xy[0] == 6
    teacher = next(text for text in ax.texts if text.get_text() == "teacher")
    assert teacher.xy[1] == pytest.approx(95)


def test_dots_show_every_run_and_the_interval():
    ax = plots.dots_with_intervals(runs("no KD", 0.9), value="val_accuracy")
    singles, bar, mean = ax.lines
    level = stats.interval([0.896, 0.9, 0.904])
    assert singles.get_xdata() == pytest.approx([89.6, 90, 90.4])
    assert bar.get_xdata() == pytest.approx([100 * level.low, 100 * level.high])
    assert mean.get_xdata() == pytest.approx([90])
    assert ax.texts[0].get_text() == "90.0 ± 1.0 %"


def test_labels_tell_rows_of_one_role_apart_in_the_order_of_the_table():
    table = grid().assign(label=lambda rows: "τ = " + rows["tau"].astype(int).astype(str))
    ax = plots.dots_with_intervals(table, value="val_accuracy")
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["τ = 2", "τ = 4", "τ = 8", "τ = 20"]
    assert ax.get_ylim() == (3.5, -0.5)


def test_cost_of_a_grid_is_the_sum_of_its_runs():
    ax = plots.cost_bars(pd.concat([runs("stochastic tau", 0.9), grid().assign(role="KD tuned tau")]))
    widths = [bar.get_width() for bar in ax.patches]
    assert widths == pytest.approx([200] * 5)
    assert [bar.get_x() for bar in ax.patches[1:]] == pytest.approx([0, 200, 400, 600])
    assert [text.get_text() for text in ax.texts] == ["200 mWh, 1 run", "800 mWh, 4 runs"]
    assert ax.get_xlabel() == "Energy (mWh)" and ax.get_xlim()[0] == 0


@pytest.mark.parametrize("unknown", [None, np.nan])
def test_trap_P9_an_unknown_cost_is_not_seen_instead_of_zero(unknown):
    table = pd.concat([runs("no KD", 0.9), runs("teacher", 0.9).assign(energy_kwh=unknown)])
    ax = plots.cost_bars(table)
    assert len(ax.patches) == 1
    assert [text.get_text() for text in ax.texts][1] == "not seen"
    alone = plots.cost_bars(runs("teacher", 0.9).assign(energy_kwh=unknown))
    assert len(alone.patches) == 0 and alone.texts[0].get_text() == "not seen"


@pytest.mark.parametrize(
    ("value", "amount", "text"),
    [
        ("energy_kwh", 3.99, "3.99 kWh, 1 run"),
        ("energy_kwh", 2e-5, "20 mWh, 1 run"),
        ("co2e_g", 1173.44, "1.17 kg, 1 run"),
        ("co2e_g", 61.76, "61.8 g, 1 run"),
        ("seconds", 5400, "1.5 h, 1 run"),
        ("seconds", 12, "12 s, 1 run"),
        ("flops_forward", 6.42e15, "6.42 PFLOPs, 1 run"),
    ],
)
def test_units_suit_the_size_and_never_change_the_amount(value, amount, text):
    ax = plots.cost_bars(runs("no KD", 0.9, seeds=1).assign(**{value: amount}), value=value)
    assert ax.texts[0].get_text() == text
    assert f"({text.split()[1].rstrip(',')})" in ax.get_xlabel()


def test_softened_bars_are_the_softened_probabilities():
    logits, taus = torch.tensor([1.0, 3.0, 2.0]), [1, 4]
    axes = plots.softened_bars(logits, taus, class_names=["cat", "dog", "fox"])
    for ax, tau in zip(axes, taus, strict=True):
        expected = 100 * losses.soften(logits, tau)
        assert [bar.get_height() for bar in ax.patches] == pytest.approx(expected.tolist())
    assert [tick.get_text() for tick in axes[-1].get_xticklabels()] == ["cat", "dog", "fox"]


def test_figures_draw_on_the_axes_they_are_given():
    _, ax = plt.subplots()
    assert plots.tau_curve(whole(), ax=ax) is ax
    _, axes = plt.subplots(2)
    assert plots.softened_bars(torch.arange(3.0), [1, 4], axes=axes) is axes


def test_tables_stay_as_they_were():
    table = whole()
    copy = table.copy()
    plots.tau_curve(table)
    plots.cost_bars(table)
    pd.testing.assert_frame_equal(table, copy)


def test_wrong_tables_are_refused_in_one_sentence_and_leave_no_empty_figure():
    with pytest.raises(ValueError, match="^There is no role 'KD'; known are teacher, no KD, KD fixed tau"):
        plots.dots_with_intervals(runs("KD", 0.9), value="val_accuracy")
    with pytest.raises(ValueError, match="^This figure needs a table with the column 'test_accuracy'"):
        plots.dots_with_intervals(whole())
    with pytest.raises(ValueError, match="^A curve over tau needs runs of the role 'KD fixed tau'"):
        plots.tau_curve(runs("no KD", 0.9))
    with pytest.raises(ValueError, match="^This figure needs a table with the column 'epoch'"):
        plots.learning_curves(whole())
    assert plt.get_fignums() == []


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1, 5, 9], [1, 5, 9]),
        ([5, 5, 5], [5, 6, 7]),
        ([9.5, 9.6, 9.7], [8, 9, 10]),
        ([0, 0.5], [0, 1]),
    ],
)
def test_labels_are_spread_within_the_axes(values, expected):
    assert plots._spread(values, 1, 0, 10) == pytest.approx(expected)
