"""One's own images: a folder becomes a data set, what is wrong is one sentence, and the page's example works."""

import json
import re

import numpy as np
import pytest
import torch
from PIL import Image

from stkd_utils import data, experiments, ledger
from stkd_utils.__main__ import main
from stkd_utils.experiments import ExperimentError, settings

COLOURS = {"b rose": (200, 30, 30), "a violet": (60, 30, 200), "c lily": (220, 220, 200)}
EACH = {"train": 20, "test": 5}
PLAIN = {"folder": "flowers", "image_size": 16}


def draw(file, colour, seed):
    file.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    height, width = rng.integers(20, 60, 2)
    pixels = np.clip(np.array(colour) + rng.integers(-30, 30, (height, width, 3)), 0, 255)
    Image.fromarray(pixels.astype(np.uint8)).save(file)


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A data root, named by STKD_DATA, with a folder of three kinds of flowers in several formats and sizes."""
    for part, count in EACH.items():
        for number, (name, colour) in enumerate(COLOURS.items()):
            for i in range(count):
                suffix = ("jpg", "png", "JPEG")[i % 3]
                draw(tmp_path / "flowers" / part / name / f"{i}.{suffix}", colour, (number, i))
    monkeypatch.setenv("STKD_DATA", str(tmp_path))
    return tmp_path


def test_a_folder_is_a_data_set_with_sorted_classes_square_images_and_its_own_statistics(root):
    flowers = data.load("folder", **PLAIN)
    assert flowers.class_names == tuple(sorted(COLOURS))
    assert [len(split) for split in (flowers.train, flowers.val, flowers.test)] == [54, 6, 15]
    assert (flowers.classes, flowers.channels, flowers.size) == (3, 3, 16)
    learn = torch.cat([flowers.train.images, flowers.val.images]).double() / 255
    assert torch.allclose(flowers.mean.double(), learn.mean(dim=(0, 2, 3)), atol=1e-6)
    assert torch.allclose(flowers.std.double(), learn.std(dim=(0, 2, 3), correction=0), atol=1e-6)
    for image, label in zip(flowers.train.images, flowers.train.labels, strict=True):
        colour = torch.tensor(COLOURS[flowers.class_names[label]])
        assert (image.double().mean(dim=(1, 2)) - colour).abs().max() < 12


def test_images_are_decoded_once_for_each_size(root, capsys):
    first = data.load("folder", **PLAIN)
    assert "Decoding 75 images of flowers" in capsys.readouterr().out
    assert data.load("folder", **PLAIN).checksum == first.checksum
    assert capsys.readouterr().out == ""
    assert data.load("folder", folder="flowers", image_size=8).size == 8
    draw(root / "flowers" / "train" / "c lily" / "new.png", (0, 0, 0), 0)
    assert len(data.load("folder", **PLAIN, val_fraction=0).train) == 61


def test_the_folder_may_be_elsewhere_and_two_of_one_name_are_kept_apart(root, tmp_path_factory, capsys):
    elsewhere = tmp_path_factory.mktemp("other") / "flowers"
    (root / "flowers").rename(elsewhere)
    first = data.load("folder", folder=str(elsewhere), image_size=16)
    for part in EACH:
        for name in COLOURS:
            draw(root / "flowers" / part / name / "0.png", (9, 9, 9), 1)
    assert data.load("folder", **PLAIN, val_fraction=0).checksum != first.checksum
    capsys.readouterr()
    assert data.load("folder", folder=str(elsewhere), image_size=16).checksum == first.checksum
    assert "Decoding" not in capsys.readouterr().out


def test_val_is_the_test_split_where_there_is_no_other_and_unread_otherwise(root, capsys):
    (root / "flowers" / "test").rename(root / "flowers" / "val")
    assert len(data.load("folder", **PLAIN).test) == 15 and "is not read" not in capsys.readouterr().out
    for name in COLOURS:
        draw(root / "flowers" / "test" / name / "0.png", (9, 9, 9), 1)
    assert len(data.load("folder", **PLAIN).test) == 3
    assert f"{root / 'flowers' / 'val'} is not read" in capsys.readouterr().out


def test_what_is_no_image_and_hidden_folders_are_passed_over(root):
    before = data.load("folder", **PLAIN).checksum
    (root / "flowers" / "train" / "a violet" / "notes.txt").write_text("no image")
    (root / "flowers" / "train" / ".cache").mkdir()
    (root / "flowers" / "train" / "README").write_text("no class")
    assert data.load("folder", **PLAIN).checksum == before


def renamed(old, new):
    return lambda flowers: (flowers / old).rename(flowers / new)


def without(*paths):
    def call(flowers):
        for path in paths:
            for file in (flowers / path).iterdir():
                file.unlink()

    return call


def one_class(flowers):
    for part in EACH:
        for name in ("b rose", "c lily"):
            without(f"{part}/{name}")(flowers)
            (flowers / part / name).rmdir()


def damaged(flowers):
    (flowers / "train" / "b rose" / "1.png").write_bytes(b"no image")


WRONG = {
    "no folder": (lambda flowers: flowers.rename(flowers.parent / "gone"), "flowers/train is missing; the folder of a"),
    "no test": (renamed("test", "exam"), "flowers/test is missing"),
    "no sub-folders": (lambda flowers: renamed("train", "x")(flowers) and (flowers / "train").mkdir(), "no sub-folder"),
    "one class": (one_class, "has the one class a violet; a classifier needs two or more"),
    "other classes": (renamed("test/b rose", "test/b rosa"), "The class b rosa is only in one of"),
    "empty class": (without("train/b rose"), "train/b rose has no image; known are .jpg"),
    "damaged": (damaged, "b rose/1.png is damaged"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_wrong_is_one_sentence_before_training(root, tmp_path, wrong):
    damage, said = WRONG[wrong]
    damage(root / "flowers")
    with pytest.raises((data.DataError, ExperimentError), match=re.escape(said)) as told:
        experiments.run("digits/resnet18-base", runs=tmp_path / "runs", dataset="folder", progress="none", **PLAIN)
    assert "\n" not in str(told.value) and not list((tmp_path / "runs").rglob("*.pt"))


def test_too_few_images_for_a_validation_split_are_refused(root, tmp_path):
    asked = {"dataset": "folder", "progress": "none", "val_fraction": 0.005, **PLAIN}
    with pytest.raises(ExperimentError, match="The validation split of folder has no image; raise val_fraction"):
        experiments.run("digits/resnet18-base", runs=tmp_path / "runs", **asked)


@pytest.mark.parametrize("own", [{}, {"folder": "flowers"}, {**PLAIN, "colour": 1}])
def test_a_folder_needs_its_two_settings(root, own):
    with pytest.raises(data.DataError, match="the data set folder needs folder, image_size; got"):
        data.load("folder", **own)


def test_nothing_is_fetched(capsys, root):
    assert main(["data", "folder"]) == 0
    assert "nothing to fetch" in capsys.readouterr().out


# The keys of an experiment

BASE = {**experiments.load("digits/resnet18-base"), "dataset": "folder", **PLAIN}


@pytest.mark.parametrize("change, said", [
    ({"folder": ""}, "'folder' is \"\"; it must be a folder with train"),
    ({"folder": 3}, "'folder' is 3"),
    ({"image_size": 4}, "'image_size' is 4; it must be a side in pixels, 8 or more"),
    ({"image_size": 16.5}, "'image_size' is 16.5"),
    ({"image_side": 16}, "unknown key 'image_side'; did you mean 'image_size'"),
    ({"dataset": "digits"}, "the key 'folder' is unused, dataset 'digits' does not read it"),
])  # fmt: skip
def test_a_bad_key_is_named(change, said):
    settings.validate(BASE, "here.json")
    with pytest.raises(ExperimentError, match=f"^here.json: {re.escape(said)}"):
        settings.validate(BASE | change, "here.json")


@pytest.mark.parametrize("key", PLAIN)
def test_a_missing_key_is_named(key):
    with pytest.raises(ExperimentError, match=f"here.json: the key '{key}' is missing"):
        settings.validate({name: value for name, value in BASE.items() if name != key}, "here.json")


# The page


def example(root):
    """The lines of JSON in "How to run it" that make an experiment of a folder."""
    text = (root / "book" / "how_to_run.md").read_text()
    return re.search(r"```json\n(\{.*?\"folder\".*?\})\n```", text, re.DOTALL)[1]


@pytest.mark.usefixtures("on_cpu")
def test_the_example_of_the_page_trains_teacher_and_student(request, root, tmp_path, monkeypatch):
    shown = json.loads(example(request.config.rootpath))
    assert len(shown) <= 6 and shown["dataset"] == "folder"
    files = tmp_path / "experiments"
    (files / "folder").mkdir(parents=True)
    for name in ("mobilenetv2-base", "resnet18-base", "resnet18-mobilenetv2-stochastic"):
        changed = {**experiments.load(f"cifar100/{name}"), **{key: shown[key] for key in shown if key != "teacher"}}
        if "teacher" in changed:
            changed["teacher"] = shown["teacher"]
        (files / "folder" / f"{name}.json").write_text(json.dumps(changed))
    monkeypatch.setattr(settings, "FOLDER", files)
    small = {"profile": "smoke", "epochs": 1, "image_size": 16, "batch_size": 16, "width": 0.125}
    limits = dict.fromkeys(settings.LIMITS)
    run = experiments.run(
        "folder/resnet18-mobilenetv2-stochastic", runs=tmp_path / "runs", progress="none", **small, **limits
    )
    teacher = ledger.read(tmp_path / "runs" / run.record["teacher_id"] / "record.json")
    assert teacher["asked"]["folder"] == run.record["asked"]["folder"] == "flowers"
    assert teacher["asked"]["image_size"] == 16 and teacher["data_checksum"] == run.record["data_checksum"]
    draw(root / "flowers" / "train" / "c lily" / "0.jpg", (0, 0, 0), 7)
    with pytest.raises(ExperimentError, match=f"not those that .*{teacher['id']} was trained on: .* delete that fol"):
        experiments.run(
            "folder/resnet18-mobilenetv2-stochastic", runs=tmp_path / "runs", progress="none", **small, **limits
        )
