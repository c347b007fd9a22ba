"""A stratified choice, and batches in order or shuffled."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stkd_utils import data


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=60), st.floats(0, 1), st.integers(0, 99))
def test_a_stratified_choice_has_the_exact_share_of_each_class(labels, fraction, seed):
    labels, count = torch.tensor(labels), round(fraction * len(labels))
    chosen = data.stratified(labels, count, torch.Generator().manual_seed(seed))
    assert len(chosen) == count and (chosen.diff() > 0).all()
    sizes, taken = labels.bincount(minlength=6), labels[chosen].bincount(minlength=6)
    assert (taken <= sizes).all()
    assert ((taken - sizes * count / len(labels)).abs() < 1).all()


def test_ordered_batches_pass_once_over_everything_in_order():
    split = data.Split(torch.arange(10, dtype=torch.uint8).view(10, 1, 1, 1), torch.arange(10))
    parts = list(data.batches(split, 3))
    assert [len(labels) for _, labels in parts] == [3, 3, 3, 1]
    assert torch.cat([labels for _, labels in parts]).tolist() == list(range(10))
    assert all(torch.equal(images.flatten().long(), labels) for images, labels in parts)


def test_shuffled_batches_follow_their_generator_and_drop_a_single_last_image():
    split = data.Split(torch.arange(10, dtype=torch.uint8).view(10, 1, 1, 1), torch.arange(10))

    def order(batch_size, seed):
        return [labels.tolist() for _, labels in data.batches(split, batch_size, torch.Generator().manual_seed(seed))]

    assert [len(part) for part in order(3, 0)] == [3, 3, 3]
    assert [len(part) for part in order(4, 0)] == [4, 4, 2]
    assert [len(part) for part in order(1, 0)] == [1] * 10
    assert sorted(sum(order(4, 0), [])) == list(range(10))
    assert order(4, 0) == order(4, 0) != order(4, 1)
    with pytest.raises(ValueError, match="batch_size"):
        next(data.batches(split, 0))


@pytest.mark.parametrize("seed", [None, 0])
def test_the_order_says_which_images_a_batch_holds(seed):
    split = data.Split(torch.arange(10, dtype=torch.uint8).view(10, 1, 1, 1) * 2, torch.arange(10) * 3)

    def passing(function):
        return list(function(split, 4, None if seed is None else torch.Generator().manual_seed(seed)))

    for positions, (images, labels) in zip(passing(data.order), passing(data.batches), strict=True):
        assert torch.equal(images.flatten(), positions * 2) and torch.equal(labels, positions * 3)
