"""Folders in VOC layout: what their files say, what is wrong with them in one sentence, and fetching them."""

import os
import socket

import pytest
import torch
from PIL import Image
from torchvision import datasets
from torchvision.transforms import v2

from stkd_utils.detection import data, sources
from stkd_utils.seeding import generator

NAMES = ("cat", "dog")
OBJECT = (
    "<object><name>{name}</name><difficult>{difficult}</difficult><part><name>head</name><bndbox><xmin>1</xmin>"
    "<ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part><bndbox><xmax>{box[2]}</xmax><xmin>{box[0]}</xmin>"
    "<ymin>{box[1]}</ymin><ymax>{box[3]}</ymax></bndbox></object>"
)


def annotate(root, stem, objects=(), size=(20, 10)):
    """Writes the annotation of an image of ``size`` (width, height); ``objects``: (name, box, difficult) each."""
    folder = root / "VOCdevkit" / "VOC2007" / "Annotations"
    folder.mkdir(parents=True, exist_ok=True)
    inside = "".join(OBJECT.format(name=name, box=box, difficult=int(hard)) for name, box, hard in objects)
    sides = "<size><width>{}</width><height>{}</height></size>".format(*size)
    (folder / f"{stem}.xml").write_text(f"<annotation>{sides}{inside}</annotation>")
    return folder / f"{stem}.xml"


def picture(root, stem, size=(20, 10), mode="RGB"):
    folder = root / "VOCdevkit" / "VOC2007" / "JPEGImages"
    folder.mkdir(parents=True, exist_ok=True)
    pixels = torch.randint(256, (size[1], size[0], 3), dtype=torch.uint8, generator=generator(0, stem))
    Image.fromarray(pixels.numpy()).convert(mode).save(folder / f"{stem}.jpg")
    return folder / f"{stem}.jpg"


def listed(root, part, stems):
    file = root / "VOCdevkit" / "VOC2007" / "ImageSets" / "Main" / f"{part}.txt"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(f"{stem}\n" for stem in stems))


@pytest.fixture
def voc(tmp_path):
    """Three images: one with a cat and a difficult dog, one grey and empty, one with a dog as large as itself."""
    annotate(tmp_path, "000001", [("cat", (1, 1, 10, 5), False), ("dog", (11, 3, 20, 10), True)])
    annotate(tmp_path, "000002")
    annotate(tmp_path, "000003", [("dog", (1, 1, 8, 16), False)], size=(8, 16))
    picture(tmp_path, "000001")
    picture(tmp_path, "000002", mode="L")
    picture(tmp_path, "000003", size=(8, 16))
    listed(tmp_path, "trainval", ["000001", "000002"])
    listed(tmp_path, "test", ["000003"])
    return tmp_path


def read(root, sets=("2007 trainval",), names=NAMES):
    return sources.read(root, sets, names)


def one_sentence(error):
    return str(error).endswith(".") and "\n" not in str(error)


# Reading


def test_a_split_holds_names_sizes_and_objects_in_the_order_of_the_lists(voc):
    split = read(voc, ["2007 test", "2007 trainval"])
    assert split.ids == ("2007/000003", "2007/000001", "2007/000002") and len(split) == 3
    assert split.sizes.tolist() == [[16, 8], [10, 20], [10, 20]]
    assert [labels.tolist() for labels in split.labels] == [[2], [1, 2], []]
    assert [difficult.tolist() for difficult in split.difficult] == [[False], [False, True], []]
    assert split.files[0].name == "000003.jpg"
    assert all(boxes.shape == (len(boxes), 4) and boxes.dtype == torch.float32 for boxes in split.boxes)


def test_trap_inclusive_pixels_from_1_become_continuous_fractions(voc):
    split = read(voc, ["2007 trainval", "2007 test"])
    assert split.boxes[0].tolist() == [pytest.approx([0, 0, 0.5, 0.5]), pytest.approx([0.5, 0.2, 1, 1])]
    assert split.boxes[2].tolist() == [[0, 0, 1, 1]]


def test_boxes_with_fractions_of_pixels_are_read_as_they_are(voc):
    """VOC 2012 has some."""
    annotate(voc, "000001", [("cat", (1.5, 2.25, 19.75, 10), False)])
    expected = [0.5 / 20, 1.25 / 10, 19.75 / 20, 1]
    assert read(voc).boxes[0].tolist() == [pytest.approx(expected)]


def test_an_object_that_does_not_say_whether_it_is_difficult_is_not(voc):
    file = annotate(voc, "000001", [("cat", (1, 1, 10, 5), True)])
    file.write_text(file.read_text().replace("<difficult>1</difficult>", ""))
    assert read(voc).difficult[0].tolist() == [False]


def test_objects_equal_those_that_torchvision_reads(voc):
    split = read(voc, ["2007 test", "2007 trainval"])
    official = [*datasets.VOCDetection(voc, "2007", "test"), *datasets.VOCDetection(voc, "2007", "trainval")]
    for i, (image, target) in enumerate(official):
        assert torch.equal(split.image(i), v2.functional.pil_to_tensor(image))
        objects = target["annotation"]["object"]
        assert [NAMES[label - 1] for label in split.labels[i]] == [entry["name"] for entry in objects]
        for box, entry in zip(split.boxes[i] * split.sizes[i].flip(0).repeat(2), objects, strict=True):
            edges = [float(entry["bndbox"][edge]) for edge in ("xmin", "ymin", "xmax", "ymax")]
            assert (box + torch.tensor([1, 1, 0, 0])).tolist() == pytest.approx(edges, abs=1e-5)


def test_grey_images_have_three_equal_channels(voc):
    image = read(voc).image(1)
    assert image.shape == (3, 10, 20) and image.dtype == torch.uint8
    assert torch.equal(image[0], image[1]) and torch.equal(image[0], image[2])


def test_take_keeps_an_image_and_its_objects_together(voc):
    split = read(voc, ["2007 trainval", "2007 test"]).take(torch.tensor([2, 0]))
    assert split.ids == ("2007/000003", "2007/000001") and split.sizes.tolist() == [[16, 8], [10, 20]]
    assert [labels.tolist() for labels in split.labels] == [[2], [1, 2]]
    assert split.image(0).shape == (3, 16, 8)
    assert [truth["difficult"].tolist() for truth in split.truths()] == [[False], [False, True]]
    assert torch.equal(split.truths()[1]["boxes"], split.boxes[1])


def test_images_are_decoded_once_when_they_fit_into_memory_and_each_time_otherwise(voc, monkeypatch):
    decoded, decode = [], sources.picture
    monkeypatch.setattr(sources, "picture", lambda file: (decoded.append(file), decode(file))[1])
    for limit, expected in ((sources.KEEP_BYTES, 2), (1000, 9)):
        monkeypatch.setattr(sources, "KEEP_BYTES", limit)
        split, everything = read(voc), torch.arange(2)
        images = [[split.image(0), split.image(1)] for _ in range(2)]
        views = [split.resized(everything, 24) for _ in range(2)]
        assert all(map(torch.equal, *images)) and torch.equal(*views)
        assert torch.equal(split.resized(torch.tensor([1]), 24), views[0][1:])
        assert len(decoded) == expected
        decoded.clear()


# What is wrong with a folder


def no_list(root):
    listed(root, "trainval", [])
    file = root / "VOCdevkit" / "VOC2007" / "ImageSets" / "Main" / "trainval.txt"
    file.unlink()
    return file


def no_picture(root):
    file = picture(root, "000001")
    file.unlink()
    return file


def no_annotation(root):
    file = annotate(root, "000001")
    file.unlink()
    return file


def written(root, text):
    file = annotate(root, "000001")
    file.write_text(text)
    return file


def no_image(root):
    file = picture(root, "000001")
    file.write_bytes(b"no image")
    return file


def with_box(*box):
    return lambda root: annotate(root, "000001", [("cat", box, False)])


SIZE = "<size><width>20</width><height>10</height></size>"
WRONG = {
    "no list": (no_list, data.DataNotFound),
    "no image": (no_picture, data.DataNotFound),
    "no annotation": (no_annotation, data.DataNotFound),
    "not an image": (no_image, data.DataDamaged),
    "cut short": (lambda root: written(root, f"<annotation>{SIZE}<obj"), data.DataDamaged),
    "no size": (lambda root: written(root, "<annotation></annotation>"), data.DataDamaged),
    "no box": (lambda root: written(root, f"<annotation>{SIZE}<object/></annotation>"), data.DataDamaged),
    "no number": (with_box(1, 1, "wide", 5), data.DataDamaged),
    "nan": (with_box(1, 1, "nan", 5), data.DataDamaged),
    "too wide": (with_box(1, 1, 21, 5), data.DataDamaged),
    "too high": (with_box(1, 1, 5, 10.5), data.DataDamaged),
    "too far left": (with_box(0, 1, 5, 5), data.DataDamaged),
    "too far up": (with_box(1, 0, 5, 5), data.DataDamaged),
    "empty": (with_box(6, 1, 5, 5), data.DataDamaged),
    "other size": (lambda root: annotate(root, "000001", size=(10, 20)), data.DataDamaged),
    "class": (lambda root: annotate(root, "000001", [("unicorn", (1, 1, 5, 5), False)]), data.DataError),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_wrong_is_said_in_one_sentence_with_the_name_of_the_file(voc, wrong):
    damage, expected = WRONG[wrong]
    file = damage(voc)
    with pytest.raises(expected) as caught:
        read(voc)
    assert str(file) in str(caught.value) and one_sentence(caught.value)


def test_a_picture_that_is_cut_short_is_named_when_it_is_decoded(voc):
    file = voc / "VOCdevkit" / "VOC2007" / "JPEGImages" / "000001.jpg"
    file.write_bytes(file.read_bytes()[:-150])
    with pytest.raises(data.DataDamaged, match="000001.jpg") as caught:
        read(voc).image(0)
    assert one_sentence(caught.value)


def test_an_image_that_is_listed_twice_is_an_error(voc):
    listed(voc, "train", ["000001"])
    with pytest.raises(data.DataError, match="2007/000001 is listed more than once"):
        read(voc, ["2007 trainval", "2007 train"])


# Fetching


def test_fetch_downloads_only_what_is_absent_and_says_how_much_first(tmp_path, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(datasets, "VOCDetection", lambda root, **wanted: asked.append(wanted))
    monkeypatch.setattr(sources, "_is_here", lambda root, part: part == "2007 test")
    assert data.fetch("voc", tmp_path) == tmp_path
    assert [(one["year"], one["image_set"], one["download"]) for one in asked] == [
        ("2007", "trainval", True),
        ("2012", "trainval", True),
    ]
    assert "2460 MB, about 33 minutes" in capsys.readouterr().out
    assert socket.getdefaulttimeout() is None


def test_fetch_says_so_when_there_is_nothing_to_do(voc, monkeypatch, capsys):
    monkeypatch.setattr(sources, "VOC_CLASSES", NAMES)
    monkeypatch.setattr(sources, "_MEGABYTES", {"2007 trainval": 1})
    monkeypatch.setattr(datasets, "VOCDetection", None)
    data.fetch("voc", voc)
    assert "nothing to fetch" in capsys.readouterr().out


def test_fetch_without_a_network_is_one_sentence(tmp_path, monkeypatch):
    def fails(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr(datasets, "VOCDetection", fails)
    with pytest.raises(data.DataNotFound, match="no route to host") as caught:
        data.fetch("voc", tmp_path)
    assert one_sentence(caught.value)


def test_only_voc_can_be_fetched(tmp_path):
    with pytest.raises(data.DataError, match="Only voc"):
        data.fetch("coco", tmp_path)


def test_real_voc_is_read_where_it_is_at_hand():
    folder = data.root_folder()
    if not (folder / "VOCdevkit" / "VOC2007" / "ImageSets" / "Main" / "trainval.txt").is_file():
        pytest.skip(f"no PASCAL VOC 2007 in {os.fspath(folder)}")
    split = sources.read(folder, ["2007 trainval"], data.VOC_CLASSES)
    assert len(split) > 100 and {len(split.boxes[i]) for i in range(len(split))} > {1, 2}
    assert data.view(split.image(0), *split.objects(0), 300, "ssd", 0)[0].shape == (3, 300, 300)
