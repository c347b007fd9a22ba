"""Fixtures of all tests. What is specific to one file lives in that file."""

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def root():
    """The folder of the checkout."""
    return ROOT
