"""Reliability: the bins add up to the calibration error, the temperature that mends it, and the figure shows both."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import binomtest

from stkd_utils import metrics, plots, reliability


def answers(scale=1.0, images=4000, classes=5):
    """Logits whose labels are drawn from them, so that they are calibrated, then times ``scale``."""
    draw = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(images, classes, generator=draw, dtype=torch.float64)
    return scale * logits, torch.multinomial(logits.softmax(1), 1, generator=draw).flatten()


@pytest.mark.parametrize("scale", [0.3, 1.0, 3.0])
def test_the_bins_add_up_to_the_calibration_error_and_the_accuracy(scale):
    logits, labels = answers(scale)
    bins = metrics.reliability(logits, labels)
    share = bins["images"] / bins["images"].sum()
    assert bins["images"].sum() == len(labels) and (bins["images"] > 0).all()
    assert (share * (bins["accuracy"] - bins["confidence"]).abs()).sum() == pytest.approx(metrics.ece(logits, labels))
    assert (share * bins["accuracy"]).sum() == pytest.approx((logits.argmax(1) == labels).double().mean().item())
    assert bins["confidence"].is_monotonic_increasing and bins["confidence"].between(1 / 5, 1).all()


@pytest.mark.parametrize("scale", [0.3, 1.0, 3.0])
def test_the_calibrating_tau_undoes_what_made_answers_too_sure_or_too_timid(scale):
    logits, labels = answers(scale)
    tau = metrics.calibrating_tau(logits, labels)
    assert tau == pytest.approx(scale, rel=0.06)
    assert metrics.ece(logits / tau, labels) < 0.03
    near = [torch.nn.functional.cross_entropy(logits / (tau * by), labels) for by in (0.98, 1.0, 1.02)]
    assert near[1] < near[0] and near[1] < near[2]


def test_wilson_is_that_of_scipy():
    right, images = np.array([0, 3, 10]), np.array([7, 9, 10])
    found = np.transpose(reliability.wilson(right, images))
    for bounds, hits, n in zip(found, right, images, strict=True):
        wanted = binomtest(int(hits), int(n)).proportion_ci(method="wilson")
        assert bounds == pytest.approx([wanted.low, wanted.high], abs=1e-4)


def test_every_way_has_a_panel_in_its_colour_with_its_bins_and_its_gap():
    tables = []
    for label, role, scale in (("a", "no KD", 1.0), ("b", "stochastic tau", 3.0), ("c", "KD fixed tau", 0.3)):
        tables.append(metrics.reliability(*answers(scale)).assign(label=label, role=role))
    figure = reliability.reliability_panels(pd.concat(tables))
    shown = [ax for ax in figure.axes if ax.get_visible()]
    assert [ax.get_title() for ax in shown] == ["a", "b", "c"] and len(figure.axes) == 4
    for ax, bins in zip(shown, tables, strict=True):
        points = ax.collections[-1]
        assert points.get_offsets().data == pytest.approx(100 * bins[["confidence", "accuracy"]].to_numpy())
        assert ax.title.get_color() == plots.ROLES[bins["role"].iloc[0]].colour
    gap = 100 * metrics.ece(*answers(3.0))
    assert f"gap {gap:.1f}" in [text.get_text() for text in shown[1].texts]
    plt.close(figure)


def test_a_role_without_a_look_is_refused():
    with pytest.raises(ValueError, match="no role 'nobody'"):
        reliability.reliability_panels(metrics.reliability(*answers()).assign(label="a", role="nobody"))
