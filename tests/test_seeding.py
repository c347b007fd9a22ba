"""Random streams: stable across machines, independent of each other and of the global generator."""

import pytest
import torch

from stkd_utils import seeding


def test_stream_seeds_never_change():
    assert seeding.stream_seed(0, "tau") == 1898432395321778927
    assert seeding.stream_seed(2320, "order") == 6947197203741040234


def test_streams_and_seeds_differ():
    seeds = {seeding.stream_seed(seed, stream) for seed in range(50) for stream in ("init", "order", "augment", "tau")}
    assert len(seeds) == 200
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_neighbouring_seeds_are_uncorrelated():
    draws = torch.stack([torch.rand(2000, generator=seeding.generator(seed, "tau")) for seed in range(5)])
    off_diagonal = torch.corrcoef(draws) - torch.eye(5)
    assert off_diagonal.abs().max() < 0.1


def test_generator_repeats_and_ignores_the_global_one():
    first = torch.rand(5, generator=seeding.generator(3, "order"))
    torch.manual_seed(99)
    torch.rand(17)
    assert torch.equal(first, torch.rand(5, generator=seeding.generator(3, "order")))


def test_making_a_generator_leaves_the_global_one_alone():
    before = torch.get_rng_state()
    seeding.generator(0, "init")
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("seed", [-1, 1.0, "1", None, True])
def test_trap_C13_a_seed_that_is_not_a_whole_number_is_an_error(seed):
    with pytest.raises(ValueError, match="A seed is an integer of 0 or more"):
        seeding.stream_seed(seed, "tau")
