"""Metrics of a classifier: numbers by hand, the definition in plain loops, libraries, and the edges."""

import math
import warnings

import numpy as np
import pytest
import sklearn.metrics
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.functional.classification import multiclass_calibration_error

from stkd_utils import metrics


def answers(predicted, classes, margin=3.0):
    """Logits (N, classes) that predict the classes in ``predicted``."""
    return margin * torch.nn.functional.one_hot(torch.tensor(predicted), classes).float()


def with_confidence(confidences):
    """Logits (N, 2) float64 of class 0 with the given probabilities, 0.5 or more."""
    p = torch.tensor(confidences, dtype=torch.float64)
    return torch.stack([p.log(), (1 - p).log()], 1).clamp(min=-1e4)


@st.composite
def cases(draw):
    """Logits and labels of a small split, some of whose classes may be absent or never predicted."""
    images, classes = draw(st.integers(1, 40)), draw(st.integers(2, 6))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    logits = draw(st.sampled_from([0.1, 1, 20])) * torch.randn(images, classes, generator=generator)
    return logits, torch.randint(0, draw(st.integers(1, classes)), (images,), generator=generator)


# by hand

LABELS = torch.tensor([0, 0, 0, 1, 1, 2])
PREDICTED = [0, 0, 1, 1, 2, 2]


def test_scores_by_hand():
    found = metrics.scores(answers(PREDICTED, 3), LABELS)
    assert found["accuracy"] == pytest.approx(4 / 6)
    assert found["macro_precision"] == pytest.approx((1 + 1 / 2 + 1 / 2) / 3)
    assert found["macro_recall"] == pytest.approx((2 / 3 + 1 / 2 + 1) / 3)
    assert found["macro_f1"] == pytest.approx((4 / 5 + 1 / 2 + 2 / 3) / 3)
    chance = (3 * 2 + 2 * 2 + 1 * 2) / 36
    assert found["kappa"] == pytest.approx((4 / 6 - chance) / (1 - chance))
    right, wrong = math.log(1 + 2 * math.exp(-3)), math.log(math.exp(3) + 2)
    assert found["loss"] == pytest.approx((4 * right + 2 * wrong) / 6)
    assert found["ece"] == pytest.approx(abs(math.exp(-right) - 4 / 6))
    assert list(found) == ["accuracy", "loss", "macro_f1", "macro_precision", "macro_recall", "kappa", "ece"]


def test_classes_by_hand():
    table = metrics.per_class(answers(PREDICTED, 3), LABELS, ["ant", "bee", "cat"])
    assert list(table.columns) == list(metrics.PER_CLASS)
    assert table["class"].tolist() == ["ant", "bee", "cat"] and table["support"].tolist() == [3, 2, 1]
    assert table["precision"].tolist() == pytest.approx([1, 1 / 2, 1 / 2])
    assert table["recall"].tolist() == pytest.approx([2 / 3, 1 / 2, 1])
    assert table["f1"].tolist() == pytest.approx([4 / 5, 1 / 2, 2 / 3])


def test_calibration_error_by_hand_has_one_gap_a_bin():
    # bins of a fifth: 0.65 and 0.75 share one, where the accuracy is 1/2; 0.95 is alone and right
    logits, labels = with_confidence([0.65, 0.75, 0.95]), torch.tensor([0, 1, 0])
    assert metrics.ece(logits, labels, bins=5) == pytest.approx(2 / 3 * 0.2 + 1 / 3 * 0.05)
    assert metrics.ece(logits, labels, bins=1) == pytest.approx(abs(2.35 / 3 - 2 / 3))


def test_a_bin_holds_its_upper_edge_and_a_certain_answer_lies_in_the_last():
    # 0.8 is the upper edge of (0.6, 0.8]: with 0.7 it has a mean of 0.75; in a bin of its own the error would be larger
    edge, labels = with_confidence([0.7, 0.8]), torch.tensor([1, 0])
    assert metrics.ece(edge, labels, bins=5) == pytest.approx(abs(0.75 - 1 / 2))
    certain = with_confidence([0.96, 1.0])
    assert metrics.ece(certain, torch.tensor([0, 1])) == pytest.approx(abs(0.98 - 1 / 2))
    assert metrics.ece(with_confidence([1.0, 1.0]), torch.tensor([0, 0])) == 0


# against definitions and libraries


def plain_ece(logits, labels, bins):
    """Guo et al. 2017, eq. 3, bin by bin."""
    confidence, predicted = logits.double().softmax(1).max(1)
    total = 0.0
    for number in range(bins):
        low, high = np.linspace(0, 1, bins + 1)[[number, number + 1]]
        inside = (confidence > low) & (confidence <= high)
        if inside.any():
            right = (predicted == labels)[inside].double().mean()
            total += inside.double().mean() * (right - confidence[inside].mean()).abs()
    return float(total)


@settings(max_examples=60, deadline=None)
@given(cases(), st.sampled_from([1, 10, 15]))
def test_calibration_error_is_its_definition(case, bins):
    assert metrics.ece(*case, bins) == pytest.approx(plain_ece(*case, bins), abs=1e-12)


@settings(max_examples=30, deadline=None)
@given(cases())
def test_calibration_error_is_that_of_torchmetrics_where_no_confidence_is_1(case):
    logits, labels = case
    probabilities = (logits / 20).double().softmax(1)
    theirs = multiclass_calibration_error(probabilities, labels, logits.shape[1], n_bins=metrics.BINS)
    assert metrics.ece(logits.double() / 20, labels) == pytest.approx(float(theirs), abs=1e-6)


@settings(max_examples=60, deadline=None)
@given(cases())
def test_means_are_those_of_scikit_learn_over_the_classes_that_have_images(case):
    logits, labels = case
    found, predicted = metrics.scores(logits, labels), logits.argmax(1)
    with warnings.catch_warnings(record=True):
        for name in ("f1", "precision", "recall"):
            theirs = getattr(sklearn.metrics, f"{name}_score")
            wanted = theirs(labels, predicted, average="macro", labels=labels.unique(), zero_division=0)
            assert found[f"macro_{name}"] == pytest.approx(wanted)
        kappa = sklearn.metrics.cohen_kappa_score(labels, predicted)
    assert found["kappa"] == (pytest.approx(kappa) if math.isfinite(kappa) else None)
    assert all(0 <= found[key] <= 1 for key in ("macro_f1", "macro_precision", "macro_recall", "ece"))
    means = metrics.per_class(logits, labels, range(logits.shape[1])).mean(numeric_only=True)
    assert means[["precision", "recall", "f1"]].tolist() == pytest.approx(
        [found[f"macro_{name}"] for name in ("precision", "recall", "f1")]
    )


@settings(max_examples=30, deadline=None)
@given(cases(), st.randoms(use_true_random=False))
def test_no_metric_depends_on_the_order_of_images(case, chance):
    logits, labels = case
    order = chance.sample(range(len(labels)), len(labels))
    found = metrics.scores(logits, labels)
    assert metrics.scores(logits[order], labels[order]) == pytest.approx(found, abs=1e-12)


# the edges


def test_a_class_that_is_never_predicted_counts_with_precision_0():
    found = metrics.scores(answers([0, 0, 0, 0], 2), torch.tensor([0, 0, 0, 1]))
    assert found["macro_precision"] == pytest.approx((3 / 4 + 0) / 2)
    assert (found["macro_recall"], found["kappa"]) == (0.5, 0)
    row = metrics.per_class(answers([0, 0], 2), torch.tensor([0, 1]), "ab").iloc[1]
    assert (row.precision, row.recall, row.f1, row.support) == (0, 0, 0, 1)


def test_a_class_without_images_is_left_out_of_the_means_and_empty_in_the_table():
    logits, labels = answers([0, 1, 2, 1], 4), torch.tensor([0, 1, 1, 1])
    found = metrics.scores(logits, labels)
    assert found["macro_recall"] == pytest.approx((1 + 2 / 3) / 2) and found["macro_precision"] == 1
    table = metrics.per_class(logits, labels, "abcd")
    assert table["support"].tolist() == [1, 3, 0, 0]
    assert table.loc[2:, ["precision", "recall", "f1"]].isna().all(axis=None)
    assert table.loc[:1].notna().all(axis=None)


@pytest.mark.parametrize("classes", [1, 3])
def test_one_class_only_has_no_kappa_and_gives_no_warning(classes):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = metrics.scores(torch.zeros(5, classes), torch.zeros(5, dtype=torch.int64))
    assert found["kappa"] is None
    assert (found["accuracy"], found["macro_f1"]) == (1, 1)
    assert found["ece"] == pytest.approx(1 - 1 / classes) and found["loss"] == pytest.approx(math.log(classes))


def test_huge_logits_are_no_problem():
    found = metrics.scores(1e30 * answers([0, 1, 1], 2), torch.tensor([0, 1, 0]))
    assert math.isfinite(found["loss"]) and found["ece"] == pytest.approx(1 / 3)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("ask", [metrics.scores, metrics.ece, lambda *x: metrics.per_class(*x, "ab")])
def test_answers_that_are_no_numbers_are_one_sentence(ask, bad):
    logits = torch.zeros(3, 2)
    logits[1, 1] = bad
    with pytest.raises(ValueError, match="^The network's answers to 1 of 3 images are NaN or Inf: lower lr.$"):
        ask(logits, torch.tensor([0, 1, 0]))


@pytest.mark.parametrize("logits, labels, said", [
    (torch.zeros(3, 2), torch.zeros(2, dtype=torch.int64), r"got \(3, 2\) and \(2,\)"),
    (torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64), "one image or more"),
    (torch.zeros(3), torch.zeros(3, dtype=torch.int64), r"logits \(N, K\)"),
    (torch.zeros(2, 2), torch.tensor([0, 2]), r"Labels lie in 0\.\.1; got 0\.\.2"),
])  # fmt: skip
def test_what_does_not_fit_is_one_sentence(logits, labels, said):
    with pytest.raises(ValueError, match=said):
        metrics.scores(logits, labels)


def test_every_class_needs_a_name():
    with pytest.raises(ValueError, match="3 classes need a name each; got 2"):
        metrics.per_class(answers(PREDICTED, 3), LABELS, "ab")
