"""What keeping teacher outputs is said to take and to save, before it starts: what then happens."""

import dataclasses

import pytest
import torch
from stored_helpers import SHIFT, answers, passes, rows_of, store

from stkd_utils import data, stored
from stkd_utils.data import Augmentation


@pytest.fixture(scope="module")
def digits():
    return data.load("digits", train_limit=160, val_limit=50, test_limit=50)


def test_the_estimate_is_what_then_happens(tmp_path, digits):
    for augmentation, epochs in ((Augmentation(), 3), (Augmentation(flip=True), 6), (SHIFT, 20)):
        kept = store(tmp_path, digits, augmentation)
        answers(kept, digits, augmentation, epochs)
        guess = stored.estimate(160, 10, augmentation, epochs, batch_size=64)
        assert guess.bytes == (kept.folder / "rows").stat().st_size
        filled = (rows_of(kept)["sum"] != 0).sum() / 160
        assert guess.filled == pytest.approx(filled, rel=0.05)
        assert guess.views == augmentation.views


@pytest.mark.parametrize("images", [128, 150])  # 150: the last batch has 22, which pass by
@pytest.mark.parametrize("augmentation, epochs", [(Augmentation(), 4), (Augmentation(flip=True), 8), (SHIFT, 12)])
def test_the_saving_of_the_estimate_is_the_one_that_runs_count(tmp_path, digits, images, augmentation, epochs):
    digits = dataclasses.replace(digits, train=digits.train.take(torch.arange(images)))
    asked = computed = 0
    for seed in range(5):
        kept = store(tmp_path / str(seed), digits, augmentation)
        for views, positions, moves, _ in passes(digits, augmentation, epochs, seed, batch_size=64):
            kept(views, positions, moves.number())
        asked, computed = asked + kept.asked, computed + kept.computed
    guess = stored.estimate(images, 10, augmentation, epochs, batch_size=64)
    assert 1 - computed / asked == pytest.approx(guess.saved, abs=0.03)


def test_the_estimate_is_one_sentence_with_size_and_saving():
    cifar = stored.estimate(45_000, 100, Augmentation(flip=True), 100)
    assert cifar.bytes == 45_000 * 2 * 404 and cifar.filled == pytest.approx(2, abs=1e-9) and 0.9 < cifar.saved < 0.98
    assert "45,000 images x 2 views takes 36.4 MB" in str(cifar) and f"{cifar.saved:.0%}" in str(cifar)
    assert "\n" not in str(cifar) and str(cifar).count(". ") == 0 and str(cifar)[-1] == "."
    taped = stored.estimate(45_000, 100, Augmentation(4, True, 15.0), 100, data_seed=0)
    assert (taped.views, taped.filled, taped.saved) == (100, pytest.approx(99.84), 0)


def test_a_batch_size_that_would_never_be_stored_is_refused():
    with pytest.raises(stored.StoreError, match="multiple of 32; got 100"):
        stored.estimate(45_000, 100, SHIFT, 10, batch_size=100)
