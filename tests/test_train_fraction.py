"""A share of the training images: exact by class, of the data set asked for, and the same for teacher and student."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stkd_utils import data, experiments, ledger
from stkd_utils.experiments import ExperimentError

STUDENT = "digits/resnet18-mobilenetv2-kd"
TINY = {"progress": "none", "val_limit": 32, "test_limit": 32, "epochs": 1, "tau": 4}


def keys(split):
    return {image.numpy().tobytes() for image in split.images}


@settings(max_examples=25, deadline=None)
@given(st.floats(0.02, 1), st.integers(0, 99))
def test_every_class_keeps_its_exact_share(fraction, seed):
    whole, part = (data.load("digits", split_seed=seed, train_fraction=f) for f in (None, fraction))
    assert len(part.train) == round(fraction * len(whole.train))
    before, after = (one.train.labels.bincount(minlength=10) for one in (whole, part))
    assert ((after - before * len(part.train) / len(whole.train)).abs() < 1).all()
    assert keys(part.train) <= keys(whole.train)


def test_nothing_but_the_training_images_changes():
    whole, part = (data.load("digits", train_fraction=f) for f in (None, 0.3))
    for name in ("val", "test"):
        one, other = getattr(whole, name), getattr(part, name)
        assert torch.equal(one.images, other.images) and torch.equal(one.labels, other.labels)
    assert torch.equal(whole.mean, part.mean) and torch.equal(whole.std, part.std)


def test_everything_is_as_without_a_fraction_and_a_seed_decides_the_rest():
    whole, all_of_it = data.load("digits"), data.load("digits", train_fraction=1)
    assert whole.checksum == all_of_it.checksum
    one, again, other = (data.load("digits", train_fraction=0.5, split_seed=seed) for seed in (0, 0, 1))
    assert one.checksum == again.checksum != other.checksum


def test_the_digits_are_still_divided_as_in_the_recorded_runs():
    lines = (ledger.own_folder() / "runs.jsonl").read_text().splitlines()
    records = [record for record in map(json.loads, lines) if record["experiment"] == STUDENT]
    asked = records[0]["asked"]
    found = data.load("digits", **{key: asked[key] for key in ("val_fraction", *experiments.settings.LIMITS)})
    assert found.checksum == records[0]["data_checksum"]


def test_a_limit_counts_after_the_fraction():
    assert len(data.load("digits", train_fraction=0.5, train_limit=100).train) == 100
    with pytest.raises(data.DataError, match="A limit of 700 images does not fit .*, which has 647"):
        data.load("digits", train_fraction=0.5, train_limit=700)


@pytest.mark.parametrize("fraction", [0, -0.5, 1.5])
def test_an_impossible_fraction_is_refused(fraction):
    with pytest.raises(data.DataError, match=f"train_fraction is above 0 and at most 1; got {fraction}"):
        data.load("digits", train_fraction=fraction)


def test_a_fraction_that_leaves_a_class_without_images_names_it():
    with pytest.raises(data.DataError, match="leaves 5 of the 1294 training .* none of the class .; raise"):
        data.load("digits", train_fraction=0.004)


# Experiments


@pytest.mark.parametrize("value", [0, -1, 1.5, True, "half"])
def test_a_value_that_is_no_share_is_refused_by_name(value):
    with pytest.raises(ExperimentError, match="'train_fraction' is .*; it must be a share of the training images"):
        experiments.resolve(STUDENT, train_fraction=value)


def test_detectors_have_no_such_key():
    with pytest.raises(ExperimentError, match="'train_fraction' is unused, dataset 'scenes' does not read it"):
        experiments.resolve("scenes/mobilenetv2ssdlite-base", train_fraction=0.5)


def test_what_leaves_a_class_empty_is_refused_before_training(tmp_path):
    with pytest.raises(data.DataError, match="none of the class"):
        experiments.run("digits/resnet18-base", runs=tmp_path, train_fraction=0.004, val_limit=32, progress="none")
    assert not list(tmp_path.rglob("checkpoint.pt"))


@pytest.mark.usefixtures("on_cpu")
def test_trap_S14_teacher_and_student_learn_from_the_same_images_of_the_data_set_asked_for(tmp_path):
    student = experiments.run(STUDENT, runs=tmp_path, train_fraction=0.1, **TINY).record
    teacher = ledger.read(tmp_path / student["teacher_id"] / "record.json")
    limits = {key: TINY[key] for key in ("val_limit", "test_limit")}
    wanted = data.load("digits", train_fraction=0.1, val_fraction=student["asked"]["val_fraction"], **limits)
    assert teacher["asked"]["train_fraction"] == student["asked"]["train_fraction"] == 0.1
    assert teacher["data_checksum"] == student["data_checksum"] == wanted.checksum
    assert len(wanted.train) == 122


def test_runs_that_learn_from_different_shares_cannot_share_a_pass(tmp_path):
    with pytest.raises(ExperimentError, match="together only with equal 'train_fraction'; got 0.1 and 0.2"):
        experiments.sweep(STUDENT, seeds=[3], together=True, runs=tmp_path, train_fraction=[0.1, 0.2], **TINY)
