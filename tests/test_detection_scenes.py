"""Digit scenes: what they are made of, that they are the same each time, and that a damaged copy is replaced."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from stkd_utils import sources as plain_sources
from stkd_utils.detection import scenes, sources

COUNTS = {"train": 120, "val": 30, "test": 50}


def files(folder):
    """Relative path and bytes of every file below ``folder``."""
    return {file.relative_to(folder): file.read_bytes() for file in Path(folder).rglob("*.*")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    into = tmp_path_factory.mktemp("scenes")
    scenes.write(into, counts=COUNTS)
    return into


@pytest.fixture(scope="module")
def everything(folder):
    return sources.read(folder, ["2007 trainval", "2007 test"], scenes.CLASSES)


@pytest.fixture
def few(monkeypatch):
    """`scenes.ensure` writes a handful of scenes only; the list tells how often it did."""
    write, written = scenes.write, []
    monkeypatch.setattr(
        scenes, "write", lambda into: (written.append(into), write(into, counts={"train": 3, "val": 1, "test": 2}))
    )
    return written


def test_lists_have_the_counts_asked_for_and_share_no_scene(folder):
    lists = {part: sources.read(folder, [f"2007 {part}"], scenes.CLASSES).ids for part in (*COUNTS, "trainval")}
    assert {part: len(lists[part]) for part in COUNTS} == COUNTS
    assert lists["trainval"] == lists["train"] + lists["val"]
    assert len({*lists["trainval"], *lists["test"]}) == sum(COUNTS.values())


def test_equal_seeds_write_equal_bytes_and_others_differ(tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        scenes.write(tmp_path / name, seed=seed, counts={"train": 4, "val": 2, "test": 2})
    first, again, other = (files(tmp_path / name) for name in "abc")
    assert first == again
    assert all(first[file] != other[file] for file in first if file.suffix == ".jpg")


def test_scenes_of_one_list_do_not_depend_on_how_many_the_others_have(tmp_path):
    pictures = []
    for name, train in (("a", 1), ("b", 3)):
        scenes.write(tmp_path / name, counts={"train": train, "val": 1, "test": 2})
        split = sources.read(tmp_path / name, ["2007 test"], scenes.CLASSES)
        pictures.append(torch.stack([split.image(i) for i in range(2)]))
    assert torch.equal(*pictures)


def test_scenes_hold_up_to_three_digits_of_every_class_and_some_none(everything):
    counts = {len(labels) for labels in everything.labels}
    assert counts == {0, 1, 2, 3} and scenes.MOST == 3
    assert set(torch.cat(everything.labels).tolist()) == set(range(1, 11))
    easy = [int((~difficult).sum()) for difficult in everything.difficult]
    assert any(count == 0 < len(labels) for count, labels in zip(easy, everything.labels, strict=True))


def test_digits_are_20_to_56_pixels_high_give_or_take_their_slant(everything):
    boxes = torch.cat(everything.boxes) * 96
    heights = boxes[:, 3] - boxes[:, 1]
    assert 15 <= heights.min() < 22 and 52 < heights.max() <= 68
    assert (boxes[:, 2] - boxes[:, 0]).min() >= 2


def test_about_a_fifth_of_the_digits_is_difficult_and_all_tiny_ones_are(everything):
    difficult = torch.cat(everything.difficult)
    boxes = torch.cat(everything.boxes) * 96
    assert 0.1 < difficult.float().mean() < 0.35
    assert difficult[(boxes[:, 3] - boxes[:, 1]).round() < scenes.TINY].all()


def test_some_scenes_are_grey_and_most_are_not(everything):
    spread = [everything.image(i).float().std(dim=0).mean() for i in range(len(everything))]
    assert 0.05 < np.mean([value < 1 for value in spread]) < 0.3


def test_easy_digits_stand_out_from_what_is_around_them(everything):
    """The pixels of the box of an easy digit differ among themselves; faint ones hardly do."""
    contrast = {True: [], False: []}
    for i, truth in enumerate(everything.truths()):
        for box, difficult in zip((truth["boxes"] * 96).round().int().tolist(), truth["difficult"], strict=True):
            left, top, right, bottom = box
            part = everything.image(i)[:, top:bottom, left:right].float()
            contrast[bool(difficult)].append(part.flatten(1).std(dim=1).norm() / 255)
    assert np.mean(contrast[False]) > 1.15 * np.mean(contrast[True])


def test_digits_are_light_on_a_darker_ground(everything):
    """The brightest pixels of an easy digit's box are brighter than nearly all of a scene without a digit."""
    grounds = [i for i, labels in enumerate(everything.labels) if not len(labels)]
    ground = np.mean([everything.image(i).float().quantile(0.95) for i in grounds])
    for i, truth in enumerate(everything.truths()):
        for box, difficult in zip((truth["boxes"] * 96).round().int().tolist(), truth["difficult"], strict=True):
            left, top, right, bottom = box
            bright = everything.image(i)[:, top:bottom, left:right].float().amax(dim=0).quantile(0.9)
            assert difficult or bright > ground, everything.ids[i]


def test_trap_test_scenes_show_no_digit_of_the_learning_part(monkeypatch, tmp_path):
    """With an empty ink for all digits of the learning part, only the test scenes hold any."""
    learn, test, names = plain_sources.read("digits")
    asked = []
    glyphs = scenes._glyphs
    monkeypatch.setattr(scenes, "_glyphs", lambda split: (asked.append(split.images), glyphs(split))[1])
    scenes.write(tmp_path, counts={"train": 1, "val": 1, "test": 1})
    assert [len(images) for images in asked] == [len(learn), len(learn), len(test)]
    assert torch.equal(asked[0], learn.images) and torch.equal(asked[2], test.images)


@pytest.mark.parametrize("size", [64, 128])
def test_scenes_of_another_size_scale_their_digits(tmp_path, size):
    scenes.write(tmp_path, counts={"train": 20, "val": 0, "test": 0}, size=size)
    split = sources.read(tmp_path, ["2007 train"], scenes.CLASSES)
    assert split.sizes.unique().tolist() == [size]
    heights = (torch.cat(split.boxes)[:, 3] - torch.cat(split.boxes)[:, 1]) * 96
    assert 15 <= heights.min() < 25 and 48 < heights.max() <= 68


def test_pictures_are_jpeg_files_of_quality_95(folder):
    with Image.open(next(Path(folder).rglob("*.jpg"))) as image:
        assert image.format == "JPEG" and image.mode == "RGB"
        assert max(image.quantization[0]) < 20  # 10 % of the standard table, whose largest entry is 121


def test_ensure_writes_once_and_reads_afterwards(tmp_path, few):
    folder = scenes.ensure(tmp_path)
    assert re.fullmatch("digit-scenes-[0-9a-f]{12}", folder.name)
    before = files(folder)
    assert scenes.ensure(tmp_path) == folder and len(few) == 1 and files(folder) == before
    assert sorted(path.name for path in tmp_path.iterdir()) in ([".digit-scenes.lock", folder.name], [folder.name])


@pytest.mark.parametrize("damage", ["change", "remove", "add", "checksum"])
def test_ensure_replaces_a_damaged_copy(tmp_path, few, damage):
    folder = scenes.ensure(tmp_path)
    before, picture = files(folder), next(folder.rglob("*.jpg"))
    if damage == "change":
        content = bytearray(picture.read_bytes())
        content[-20] ^= 1
        picture.write_bytes(content)
    elif damage == "remove":
        picture.unlink()
    elif damage == "add":
        picture.with_name("more.jpg").write_bytes(b"")
    else:
        (folder / "SHA256").unlink()
    assert scenes.ensure(tmp_path) == folder and len(few) == 2 and files(folder) == before


def test_a_failed_writing_leaves_nothing_behind(tmp_path, monkeypatch):
    def fails(into):
        (into / "half.txt").write_text("half")
        raise OSError("disk full")

    monkeypatch.setattr(scenes, "write", fails)
    with pytest.raises(OSError, match="disk full"):
        scenes.ensure(tmp_path)
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]
