"""The table of networks counts ours and sets beside them what is known of the repository's."""

import re

import networks
import pytest

from stkd_utils import models


@pytest.mark.parametrize("name", networks.originals())
def test_ours_have_the_repositorys_size_and_work(name):
    assert networks.equal(name, networks.originals()[name]) == (name != "shufflenetv2x15", True)


def test_a_size_that_differs_is_seen():
    known = networks.originals()["resnet18"]
    assert networks.equal("resnet18", {**known, "million_parameters": "11.23"}) == (False, True)
    assert networks.equal("resnet18", {**known, "gflops": "1.12"}) == (True, False)


def test_the_sentence_counts_and_names_the_exception():
    known = len(networks.originals())
    said = rf"^Of the {known} networks .* {known - 1} have .* `shufflenetv2x15`, 2\.58 million here and 2\.59 there\.$"
    assert re.search(said, networks.sentence())


def test_the_table_has_every_network_once():
    lines = networks.table().splitlines()
    assert [re.match(r"\| `(\w+)`", line)[1] for line in lines if "`" in line] == models.names()
