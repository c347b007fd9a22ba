"""The figure of calibration: whether a network is right as often as it says."""

import matplotlib.pyplot as plt
import numpy as np

from . import plots


def reliability_panels(table, columns=2):
    """Figure with one panel per label: how often answers are right over how sure they are, in per cent.

    ``table``: one row per bin of `metrics.reliability`, with the columns label, role, confidence, accuracy, images.
    A marker is as large as its bin is full, its bar a 95 % Wilson interval; the diagonal is a network that is right as
    often as it says. The mean gap stands in the corner. Guo et al. 2017, section 2. Introduced in notebook 07.

    Raises ValueError for a role that `plots.ROLES` does not have.
    """
    groups = list(table.groupby("label", sort=False))
    unknown = sorted(set(table["role"]) - set(plots.ROLES))
    if unknown:
        raise ValueError(f"There is no role {unknown[0]!r}; known are {', '.join(plots.ROLES)}.")
    rows = -(-len(groups) // columns)
    size = (plots.COLUMN, 0.5 + 1.95 * rows)
    figure, axes = plt.subplots(rows, columns, sharex=True, sharey=True, squeeze=False, figsize=size)
    for ax, (label, bins) in zip(axes.flat, groups, strict=False):
        _panel(ax, label, bins)
    for ax in axes.flat[len(groups) :]:
        ax.set_visible(False)
    axes[0, 0].set(xlim=(0, 104), ylim=(-4, 104), xticks=[0, 50, 100], yticks=[0, 50, 100])
    figure.supxlabel("Confidence (%)", fontsize="medium")
    figure.supylabel("Accuracy (%)", fontsize="medium")
    return figure


def wilson(right, images, z=1.96):
    """Bounds of the 95 % Wilson interval of a share, two arrays: of ``right`` out of ``images`` (> 0 each)."""
    share, slack = right / images, z**2 / images
    middle = (share + slack / 2) / (1 + slack)
    half = z * np.sqrt(share * (1 - share) / images + slack / (4 * images)) / (1 + slack)
    return middle - half, middle + half


def _panel(ax, label, bins):
    colour, _, marker = plots.ROLES[bins["role"].iloc[0]]
    low, high = wilson(bins["accuracy"] * bins["images"], bins["images"])
    share = bins["images"] / bins["images"].sum()
    gap = (share * (bins["accuracy"] - bins["confidence"]).abs()).sum()
    ax.plot([0, 100], [0, 100], color="#555555", linewidth=1, dashes=(3, 2), zorder=1)
    ax.vlines(100 * bins["confidence"], 100 * low, 100 * high, color=colour, linewidth=1.2, alpha=0.7)
    sizes = 20 + 140 * share
    ax.scatter(100 * bins["confidence"], 100 * bins["accuracy"], sizes, color=colour, marker=marker, linewidth=0)
    ax.set_title(label, color=colour, fontsize="medium")
    ax.text(0.97, 0.06, f"gap {100 * gap:.1f}", transform=ax.transAxes, ha="right", color=colour)
