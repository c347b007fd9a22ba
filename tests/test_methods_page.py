"""The table of all ways of training: complete, and each with a test that exists."""

import re

import methods
import pytest

from stkd_utils import experiments
from stkd_utils.experiments.classification import METHODS


def test_every_method_names_the_test_that_proves_it():
    assert set(methods.PROOFS) == set(METHODS)


@pytest.mark.parametrize("file, test", sorted({*methods.PROOFS.values(), methods.LEARNT}))
def test_that_test_is_there(file, test):
    source = (methods.TESTS / f"{file}.py").read_text(encoding="utf-8")
    assert re.search(rf"^def {test}\(", source, re.MULTILINE)


def test_every_experiment_of_the_student_on_digits_has_a_row():
    names = {name for _, name in methods.listed()}
    digits = [name for name in experiments.names() if name.startswith("digits/")]
    assert {method for method, _ in methods.listed()} == set(METHODS)
    own = {name for name in digits if experiments.load(name)["model"] == methods.STUDENT}
    assert names == own | {"digits/mobilenetv2-resnet18-kd"}


def test_a_method_without_runs_says_so_and_one_with_runs_shows_seeds_and_cost(tmp_path, monkeypatch, root):
    monkeypatch.setenv("STKD_LEDGER", str(tmp_path))
    lines = methods.methods().splitlines()[2:]
    assert len(lines) == len(methods.listed()) and all("not run" in line for line in lines)
    monkeypatch.setenv("STKD_LEDGER", str(root / "book" / "ledger"))
    [kd] = [line for line in methods.methods().splitlines() if "`resnet18-mobilenetv2-kd`" in line]
    assert re.search(r"\(n = \d+\) \| 1 ×, ", kd)
