"""Fixtures of all tests. What is specific to one file lives in that file."""

import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from stkd_utils.detection import scenes
from stkd_utils.experiments import together

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def root():
    """The folder of the checkout."""
    return ROOT


@pytest.fixture(scope="module")
def on_cpu():
    """Runs are trained on the CPU even where there is a GPU, on which equal runs are not equal to the last bit."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(together, "default_device", lambda: "cpu")
        yield


@pytest.fixture(scope="session")
def few_scenes(tmp_path_factory):
    """A data folder with few digit scenes, enough for the smoke profile, which everybody takes for the usual ones."""
    folder = tmp_path_factory.mktemp("data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scenes, "write", partial(scenes.write, counts={"train": 120, "val": 20, "test": 8}))
        scenes.ensure(folder)
    return folder


@pytest.fixture(scope="module")
def scenes_data(few_scenes):
    """$STKD_DATA is the folder of `few_scenes`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STKD_DATA", str(few_scenes))
        yield few_scenes


@pytest.fixture(scope="session")
def html(tmp_path_factory):
    """Folder of the built pages: what `make book` left when that is up to date, else a book of the smoke profile."""
    import build

    own = ROOT / "_build" / "html"
    if build.is_current(own):
        return own
    subprocess.run([sys.executable, "-m", "stkd_utils", "notebooks", "--profile", "smoke"], cwd=ROOT, check=True)
    return build.build("smoke", into=tmp_path_factory.mktemp("book"))
