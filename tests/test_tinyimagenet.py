"""Tiny ImageNet: sorted classes, the official labels, the official archive, and what is said of what is wrong."""

import hashlib
import io
import os
import random
import socket
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from stkd_utils import data
from stkd_utils.__main__ import main
from stkd_utils.readers import tinyimagenet

WNIDS = ("n03", "n01", "n02")  # as they stand in wnids.txt
EACH = 10


def jpeg(seed, grey=False):
    """An image of 64 x 64 in red over green over blue."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, [200, 100, 20], (8, 8, 3)).astype(np.uint8).repeat(8, 0).repeat(8, 1)
    image, file = Image.fromarray(pixels), io.BytesIO()
    (image.convert("L") if grey else image).save(file, "JPEG", quality=95)
    return file.getvalue()


def tree(grey="n02_3.JPEG"):
    """{path: content} of a small data set in the official layout; one training image is grey."""
    files = {"wnids.txt": "\n".join(WNIDS), "words.txt": "n01\tgoose\nn02\tking penguin, Aptenodytes\nn99\tunused\n"}
    for number, wnid in enumerate(WNIDS):
        for i in range(EACH):
            name = f"{wnid}_{i}.JPEG"
            files[f"train/{wnid}/images/{name}"] = jpeg((number, i), grey=name == grey)
        files[f"train/{wnid}/{wnid}_boxes.txt"] = f"{wnid}_0.JPEG\t0\t0\t62\t62\n"
    labels = [WNIDS[i % 3] for i in range(6)]
    files |= {f"val/images/val_{i}.JPEG": jpeg((9, i)) for i in range(6)}
    files["val/val_annotations.txt"] = "".join(f"val_{i}.JPEG\t{w}\t0\t0\t62\t62\n" for i, w in enumerate(labels))
    files["test/images/test_0.JPEG"] = jpeg(5)
    return {path: content.encode() if isinstance(content, str) else content for path, content in files.items()}


def unpack(root, name=tinyimagenet.WHOLE):
    for path, content in tree().items():
        file = root / name / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    return root / name


@pytest.fixture
def folder(tmp_path):
    return unpack(tmp_path)


def one_sentence(error):
    return str(error).endswith((".", ")")) and "\n" not in str(error) and str(error).count(". ") == 0


# Reading


def test_the_official_validation_set_is_the_test_split_and_validation_comes_from_train(folder, tmp_path):
    tiny = data.load("tinyimagenet", root=tmp_path, val_fraction=0.2)
    assert [len(split) for split in (tiny.train, tiny.val, tiny.test)] == [24, 6, 6]
    assert (tiny.classes, tiny.channels, tiny.size, tiny.name) == (3, 3, 64, "tinyimagenet")
    assert tiny.train.images.dtype == torch.uint8 and tiny.val.labels.bincount().tolist() == [2, 2, 2]
    assert tiny.test.labels.tolist() == [2, 0, 1, 2, 0, 1]  # n03 n01 n02, in the order of the annotations


def test_trap_S12_classes_are_sorted_whatever_the_folder_lists_first(folder, tmp_path, monkeypatch):
    first = data.load("tinyimagenet", root=tmp_path)
    assert first.class_names == ("goose", "king penguin", "n03")
    scandir = os.scandir

    class Shuffled(list):
        __enter__, __exit__ = list.__iter__, lambda *_: None

    def shuffled(path):
        with scandir(path) as entries:
            return Shuffled(random.Random(1).sample(found := list(entries), len(found)))

    monkeypatch.setattr(os, "scandir", shuffled)
    (tmp_path / "decoded" / f"{tinyimagenet.WHOLE}.pt").unlink()
    assert data.load("tinyimagenet", root=tmp_path).checksum == first.checksum


def test_trap_S12_colours_are_red_green_blue_and_grey_images_have_three_channels(folder, tmp_path):
    tiny = data.load("tinyimagenet", root=tmp_path, val_fraction=0)
    red, green, blue = tiny.mean
    assert red > green > blue
    grey = [i for i, image in enumerate(tiny.train.images) if torch.equal(image[0], image[2])]
    assert [int(tiny.train.labels[i]) for i in grey] == [1]  # n02
    assert torch.allclose(tiny.mean.double(), tiny.train.images.double().mean(dim=(0, 2, 3)) / 255, atol=1e-6)


def test_images_are_decoded_once_and_a_damaged_copy_is_made_anew(folder, tmp_path, capsys):
    first = data.load("tinyimagenet", root=tmp_path)
    assert "Decoding 36 images" in capsys.readouterr().out
    assert data.load("tinyimagenet", root=tmp_path).checksum == first.checksum
    assert capsys.readouterr().out == ""
    kept = tmp_path / "decoded" / f"{tinyimagenet.WHOLE}.pt"
    kept.write_bytes(kept.read_bytes()[:5000])
    assert data.load("tinyimagenet", root=tmp_path).checksum == first.checksum
    assert f"{kept} is damaged. Decoding" in capsys.readouterr().out


def test_a_subset_is_read_where_the_whole_is_absent_and_said(tmp_path, capsys):
    unpack(tmp_path, tinyimagenet.SUBSET)
    subset = data.load("tinyimagenet", root=tmp_path)
    assert f"the subset in {tmp_path / tinyimagenet.SUBSET} is read" in capsys.readouterr().out
    unpack(tmp_path)
    assert data.load("tinyimagenet", root=tmp_path).checksum == subset.checksum
    assert "subset" not in capsys.readouterr().out


def write(path, content):
    return lambda folder: (folder / path).write_text(content)


def remove(path):
    return lambda folder: (folder / path).unlink()


def no_images(folder):
    for file in (folder / "train" / "n01" / "images").iterdir():
        file.unlink()


WRONG = {
    "no wnids": (remove("wnids.txt"), data.DataNotFound, "wnids.txt is missing"),
    "one class": (write("wnids.txt", "n01"), data.DataDamaged, "wnids.txt is damaged .it must name two classes"),
    "class twice": (write("wnids.txt", "n01 n01"), data.DataDamaged, "each once"),
    "no class folder": (write("wnids.txt", "n01 n02 n03 n04"), data.DataNotFound, "n04/images is missing"),
    "empty class": (no_images, data.DataNotFound, "n01/images/.*JPEG is missing"),
    "no annotations": (remove("val/val_annotations.txt"), data.DataNotFound, "val_annotations.txt is missing"),
    "empty annotations": (write("val/val_annotations.txt", ""), data.DataDamaged, "it names no image"),
    "unknown class": (
        write("val/val_annotations.txt", "val_0.JPEG\tn01\nval_1.JPEG\tn7\n"),
        data.DataDamaged,
        "line 2",
    ),
    "no class": (write("val/val_annotations.txt", "val_0.JPEG\n"), data.DataDamaged, "line 1 names no image"),
    "no test image": (remove("val/images/val_3.JPEG"), data.DataNotFound, "val_3.JPEG is missing"),
    "no image": (write("train/n02/images/n02_4.JPEG", "text"), data.DataDamaged, "n02_4.JPEG is damaged"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_wrong_is_one_sentence_with_the_name_of_the_file(folder, tmp_path, wrong):
    damage, error, said = WRONG[wrong]
    damage(folder)
    with pytest.raises(error, match=said) as told:
        data.load("tinyimagenet", root=tmp_path)
    assert one_sentence(told.value)
    if error is data.DataNotFound:
        assert "python -m stkd_utils data tinyimagenet" in str(told.value)


def test_an_image_of_another_size_is_named(folder, tmp_path):
    Image.new("RGB", (32, 64)).save(folder / "train" / "n01" / "images" / "n01_0.JPEG")
    with pytest.raises(data.DataDamaged, match="n01_0.JPEG is damaged .it has 32 x 64 pixels, not 64 x 64"):
        data.load("tinyimagenet", root=tmp_path)


# Fetching


@pytest.fixture
def archive(monkeypatch):
    """The bytes of a small official archive, whose size and checksum the reader takes for the right ones."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as out:
        for path, content in tree().items():
            out.writestr(f"{tinyimagenet.WHOLE}/{path}", content)
    content = file.getvalue()
    monkeypatch.setattr(tinyimagenet, "BYTES", len(content))
    monkeypatch.setattr(tinyimagenet, "MD5", hashlib.md5(content).hexdigest())
    return content


def test_the_command_fetches_once_and_unpacks_what_has_labels(served, archive, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("STKD_DATA", str(tmp_path))
    url, asked = served(archive)
    monkeypatch.setattr(tinyimagenet, "URL", url)
    for _ in range(2):
        assert main(["data", "tinyimagenet"]) == 0
    assert "248 MB, about 3 minutes" in capsys.readouterr().out
    assert len(asked) == 1
    folder = tmp_path / tinyimagenet.WHOLE
    found = {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    assert found == {path: content for path, content in tree().items() if not path.startswith("test/")}
    assert len(data.load("tinyimagenet").test) == 6


def test_an_interrupted_fetch_is_one_sentence_and_goes_on_later(served, archive, tmp_path, monkeypatch):
    monkeypatch.setattr(tinyimagenet, "URL", served(archive, cut=20_000)[0])
    with pytest.raises(
        data.DataNotFound, match="tinyimagenet could not be fetched into .*20,000 of .*are kept"
    ) as told:
        data.load("tinyimagenet", root=tmp_path, download=True)
    assert "\n" not in str(told.value)
    url, asked = served(archive)
    monkeypatch.setattr(tinyimagenet, "URL", url)
    assert len(data.load("tinyimagenet", root=tmp_path, download=True).test) == 6
    assert asked == ["bytes=20000-"]


def test_unpacking_that_was_interrupted_is_not_taken_for_the_whole(served, archive, tmp_path, monkeypatch):
    url, asked = served(archive)
    monkeypatch.setattr(tinyimagenet, "URL", url)
    extract, done = zipfile.ZipFile.extract, []

    def stops(self, *arguments):
        if len(done) == 20:
            raise KeyboardInterrupt
        done.append(extract(self, *arguments))

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(zipfile.ZipFile, "extract", stops)
        data.fetch("tinyimagenet", tmp_path)
    with pytest.raises(data.DataNotFound, match="wnids.txt is missing"):
        data.load("tinyimagenet", root=tmp_path)
    data.fetch("tinyimagenet", tmp_path)
    assert len(data.load("tinyimagenet", root=tmp_path, val_fraction=0).train) == 3 * EACH and len(asked) == 1


def test_a_damaged_image_is_taken_from_the_archive_again(served, archive, tmp_path, monkeypatch):
    url, asked = served(archive)
    monkeypatch.setattr(tinyimagenet, "URL", url)
    first = data.load("tinyimagenet", root=tmp_path, download=True)
    (tmp_path / tinyimagenet.WHOLE / "train" / "n01" / "images" / "n01_2.JPEG").write_bytes(b"?")
    with pytest.raises(data.DataDamaged, match="n01_2.JPEG"):
        data.load("tinyimagenet", root=tmp_path)
    assert data.load("tinyimagenet", root=tmp_path, download=True).checksum == first.checksum and len(asked) == 1


def test_another_archive_than_the_official_one_is_refused(served, archive, tmp_path, monkeypatch):
    monkeypatch.setattr(tinyimagenet, "URL", served(archive + b"more")[0])
    with pytest.raises(data.DataNotFound, match="the server has .* bytes where .* belong"):
        data.fetch("tinyimagenet", tmp_path)
    assert not (tmp_path / tinyimagenet.WHOLE).exists()


def test_fetching_without_network_is_one_sentence(tmp_path, monkeypatch, capsys):
    def unreachable(*_, **__):
        raise socket.gaierror("name resolution failed")

    monkeypatch.setattr(socket, "getaddrinfo", unreachable)
    with pytest.raises(data.DataNotFound, match="could not be fetched into .*name resolution failed.*try again"):
        data.load("tinyimagenet", root=tmp_path / "new", download=True)
    assert "248 MB" in capsys.readouterr().out


# The real one


def test_the_real_images_where_they_are_at_hand():
    try:
        tiny = data.load("tinyimagenet", val_fraction=0.1)
    except data.DataNotFound as absent:
        pytest.skip(str(absent))
    each = {200: 500, 20: 100}[tiny.classes]  # the whole or the subset that tests use
    learn = torch.cat([tiny.train.images, tiny.val.images])
    assert len(learn) == each * tiny.classes and tiny.test.labels.bincount().tolist() == [50] * tiny.classes
    assert tiny.val.labels.bincount().tolist() == [each // 10] * tiny.classes and tiny.size == 64
    assert "goose" in tiny.class_names
    tolerance = 1e-3 if tiny.classes == 200 else 0.03
    assert tiny.mean.tolist() == pytest.approx([0.4802, 0.4481, 0.3975], abs=tolerance)
    within = (learn[::7].float() / 255).std(dim=(2, 3), correction=0).mean(dim=0)
    assert within.tolist() == pytest.approx([0.2302, 0.2265, 0.2262], abs=0.01)  # what the paper's code divides by
    assert (tiny.std > within + 0.03).all()
