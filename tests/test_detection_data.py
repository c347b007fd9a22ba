"""Detection data: reading VOC folders and naming what is wrong with them, views for training, batches of an epoch."""

import os
import shutil
import socket
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision import datasets, tv_tensors
from torchvision.ops import box_iou
from torchvision.transforms import v2

from stkd_utils import detection
from stkd_utils.augmentation import normalise
from stkd_utils.detection import augmentation, data, scenes, sources
from stkd_utils.seeding import generator

NAMES = ("cat", "dog")
OBJECT = (
    "<object><name>{name}</name><difficult>{difficult}</difficult><part><name>head</name><bndbox><xmin>1</xmin>"
    "<ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part><bndbox><xmax>{box[2]}</xmax><xmin>{box[0]}</xmin>"
    "<ymin>{box[1]}</ymin><ymax>{box[3]}</ymax></bndbox></object>"
)
quick = settings(max_examples=25, deadline=None)


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
    decoded, decode = [], sources._decode
    monkeypatch.setattr(sources, "_decode", lambda file: (decoded.append(file), decode(file))[1])
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


# Views


@st.composite
def examples(draw):
    """An image, its boxes and labels, a size and a seed."""
    height, width, count = draw(st.integers(8, 80)), draw(st.integers(8, 80)), draw(st.integers(0, 6))
    seed = draw(st.integers(0, 2**63 - 1))
    g = torch.Generator().manual_seed(seed)
    image = torch.randint(256, (3, height, width), dtype=torch.uint8, generator=g)
    start = torch.rand(count, 2, generator=g) * 0.7
    boxes = torch.cat([start, start + 0.1 + 0.2 * torch.rand(count, 2, generator=g)], dim=1)
    return image, boxes, torch.randint(1, 9, (count,), generator=g), draw(st.integers(8, 70)), seed


@quick
@given(examples())
def test_views_have_the_size_and_boxes_inside_with_an_area(example):
    image, boxes, labels, size, seed = example
    view, seen, kept = data.view(image, boxes, labels, size, "ssd", seed)
    assert view.shape == (3, size, size) and view.dtype == torch.uint8 and type(view) is torch.Tensor
    assert seen.shape == (len(kept), 4) and seen.dtype == torch.float32 and type(seen) is torch.Tensor
    assert kept.dtype == torch.int64 and len(kept) <= len(labels)
    assert (seen >= 0).all() and (seen <= 1).all()
    assert (seen[:, 2:] > seen[:, :2]).all()
    assert not Counter(kept.tolist()) - Counter(labels.tolist())


@quick
@given(examples())
def test_equal_seeds_give_equal_views_and_leave_inputs_and_global_chance_alone(example):
    image, boxes, labels, size, seed = example
    before, state = [value.clone() for value in (image, boxes, labels)], torch.random.get_rng_state()
    views = [data.view(image, boxes, labels, size, "ssd", seed) for _ in range(2)]
    assert all(map(torch.equal, *views))
    assert all(map(torch.equal, before, (image, boxes, labels)))
    assert torch.equal(torch.random.get_rng_state(), state)


@quick
@given(examples())
def test_views_without_augmentation_are_resized_and_keep_every_object(example):
    image, boxes, labels, size, seed = example
    view, seen, kept = data.view(image, boxes, labels, size, "none", seed)
    assert torch.equal(view, v2.functional.resize(image, [size, size], antialias=True))
    assert torch.equal(seen, boxes) and torch.equal(kept, labels)


def test_other_seeds_give_other_views():
    image, boxes = torch.zeros(3, 30, 30, dtype=torch.uint8), torch.tensor([[0.3, 0.3, 0.7, 0.7]])
    seen = {tuple(data.view(image, boxes, torch.tensor([1]), 30, "ssd", seed)[1][0].tolist()) for seed in range(20)}
    assert len(seen) > 10


def test_trap_D10_boxes_move_with_the_image_and_labels_stay_with_their_boxes(monkeypatch):
    """A bright and a dark square on grey: whatever a view shows, each box is around its own square."""
    monkeypatch.setattr(v2, "RandomPhotometricDistort", v2.Identity)
    image = torch.full((3, 100, 100), 120, dtype=torch.uint8)
    image[:, 10:40, 20:60], image[:, 60:90, 50:80] = 255, 0
    boxes, labels = torch.tensor([[0.2, 0.1, 0.6, 0.4], [0.5, 0.6, 0.8, 0.9]]), torch.tensor([1, 2])
    kept = Counter()
    for seed in range(60):
        view, seen, found = data.view(image, boxes, labels, 200, "ssd", seed)
        kept.update(found.tolist())
        for box, label in zip((seen * 200).round().int().tolist(), found.tolist(), strict=True):
            left, top, right, bottom = box
            inside = view[:, top + 6 : bottom - 6, left + 6 : right - 6].float()
            assert inside.numel() == 0 or (inside.min() > 245 if label == 1 else inside.max() < 10)
            wrong = view > 200 if label == 1 else view < 60
            marked = wrong[0].nonzero()
            edges = torch.tensor([top, left, bottom - 1, right - 1])
            assert (torch.cat([marked.amin(0), marked.amax(0)]) - edges).abs().max() <= 5  # a pixel was up to 7 wide
    assert kept[1] < 60 and kept[2] < 60  # some crops leave one out


def test_half_of_the_views_are_flipped(monkeypatch):
    for name in ("RandomPhotometricDistort", "RandomZoomOut"):
        monkeypatch.setattr(v2, name, v2.Identity if name == "RandomPhotometricDistort" else lambda fill: v2.Identity())
    monkeypatch.setattr(augmentation, "_IoUCrop", v2.Identity)
    box, flipped = torch.tensor([[0.1, 0.2, 0.4, 0.8]]), torch.tensor([[0.6, 0.2, 0.9, 0.8]])
    image = torch.randint(256, (3, 50, 50), dtype=torch.uint8, generator=generator(0, "flip"))
    count = 0
    for seed in range(40):
        view, seen, _ = data.view(image, box, torch.tensor([1]), 50, "ssd", seed)
        is_flipped = torch.allclose(seen, flipped)
        assert torch.equal(view, image.flip(2) if is_flipped else image)
        assert is_flipped or torch.allclose(seen, box)
        count += is_flipped
    assert 8 < count < 32


def test_images_without_objects_are_shown_whole():
    image = torch.full((3, 40, 60), 255, dtype=torch.uint8)
    image[:, :, :2] = image[:, :, -2:] = image[:, :2] = image[:, -2:] = 0
    for seed in range(20):
        view, boxes, labels = data.view(image, torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), 120, "ssd", seed)
        assert boxes.shape == (0, 4) and labels.shape == (0,)
        dark = (view.amax(dim=0) < 100).nonzero()
        assert len(dark) and dark[:, 0].max() - dark[:, 0].min() > 25  # both of its dark edges are there


def test_crops_have_the_chances_of_torchvisions():
    """Area, corner and number of objects kept, averaged over 400 crops of each kind."""
    boxes = torch.tensor([[10.0, 10, 40, 50], [60, 20, 90, 45], [30, 60, 80, 95]])
    flat = [
        tv_tensors.Image(torch.zeros(3, 100, 120, dtype=torch.uint8)),
        tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=(100, 120)),
    ]
    means = []
    for crop in (v2.RandomIoUCrop(), augmentation._IoUCrop()):
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            drawn = [crop.make_params(flat) for _ in range(400)]
        windows = [one for one in drawn if one]
        values = [[w["width"], w["height"], w["left"], w["top"], w["is_within_crop_area"].sum()] for w in windows]
        means.append([len(windows) / 400, *torch.tensor(values).float().mean(dim=0).tolist()])
    ours, theirs = torch.tensor(means)
    assert (ours - theirs).abs().div(theirs).max() < 0.15
    assert set(windows[0]) == {"top", "left", "height", "width", "is_within_crop_area"}


def test_a_crop_overlaps_an_object_whose_centre_it_holds_as_much_as_asked():
    boxes = torch.tensor([[0.0, 0, 80, 100], [110, 90, 114, 94]])
    flat = [tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=(100, 120))]
    crop = augmentation._IoUCrop(sampler_options=[0.1])
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        for one in (crop.make_params(flat) for _ in range(60)):
            left, top = one["left"], one["top"]
            window = torch.tensor([[left, top, left + one["width"], top + one["height"]]], dtype=torch.float32)
            assert box_iou(window, boxes[one["is_within_crop_area"]]).max() >= 0.1


def test_an_unknown_augmentation_is_an_error():
    with pytest.raises(ValueError, match="none, ssd"):
        data.view(torch.zeros(3, 8, 8, dtype=torch.uint8), torch.zeros(0, 4), torch.zeros(0), 8, "crop", 0)


# Data sets and their batches


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A folder with few scenes, which `data.load` takes for the usual ones."""
    folder = tmp_path_factory.mktemp("data")
    scenes.write(folder, counts={"train": 30, "val": 11, "test": 12})
    return folder


@pytest.fixture
def load(root, monkeypatch):
    monkeypatch.setattr(scenes, "ensure", lambda _: root)
    return lambda **options: data.load("scenes", **{"size": 48, **options})


def generators(seed=0):
    return {stream: generator(seed, stream) for stream in ("order", "augment")}


def same(first, second):
    columns = ("views", "boxes", "labels", "positions")
    return first.epoch == second.epoch and all(torch.equal(getattr(first, c), getattr(second, c)) for c in columns)


def test_splits_are_disjoint_and_cover_the_sets(load):
    dataset = load(val_fraction=0.2)
    assert [len(split) for split in (dataset.train, dataset.val, dataset.test)] == [33, 8, 12]
    ids = [*dataset.train.ids, *dataset.val.ids, *dataset.test.ids]
    assert len(set(ids)) == 53
    assert dataset.classes == 10 and dataset.channels == 3 and dataset.metric == "map50" and dataset.size == 48
    assert detection.data.names() == ["voc", "scenes"]


def test_split_seed_decides_the_validation_images_but_never_the_test_images(load):
    first, again, other = (load(val_fraction=0.3, test_limit=5, split_seed=seed) for seed in (0, 0, 1))
    assert first.val.ids == again.val.ids != other.val.ids
    assert first.test.ids == other.test.ids and len(first.test) == 5


def test_limits_keep_a_random_part_of_the_split_that_there_is_without(load):
    whole, limited = load(), load(train_limit=7, val_limit=2)
    assert len(limited.train) == 7 and len(limited.val) == 2
    assert set(limited.train.ids) < set(whole.train.ids) and limited.train.ids != whole.train.ids[:7]


def test_no_validation_images_are_possible(load):
    dataset = load(val_fraction=0)
    assert len(dataset.val) == 0 and not list(dataset.batches(dataset.val, 4))


@pytest.mark.parametrize(
    "options, text",
    [
        ({"val_fraction": 1}, "val_fraction"),
        ({"train_limit": 0}, "train split of scenes"),
        ({"test_limit": 13}, "which has 12"),
        ({"test_sets": ["2007 val"]}, "11 images"),
        ({"test_sets": ["2012 test"]}, "VOC2012"),
    ],
)
def test_impossible_requests_are_one_sentence(load, options, text):
    with pytest.raises(data.DataError, match=text) as caught:
        load(**options)
    assert one_sentence(caught.value)


def test_an_unknown_data_set_is_an_error_that_lists_the_known(tmp_path):
    with pytest.raises(data.DataError, match="voc, scenes"):
        data.load("coco", root=tmp_path)


def test_absent_voc_says_how_to_get_it(tmp_path):
    with pytest.raises(data.DataNotFound, match="stkd_utils data voc") as caught:
        data.load("voc", root=tmp_path)
    assert one_sentence(caught.value)


def test_checksum_follows_pixels_objects_and_membership(load, root, tmp_path):
    first = load()
    assert len(first.checksum) == 64 and first.checksum == load().checksum
    assert load(split_seed=1).checksum != first.checksum != load(test_limit=11).checksum
    sets = ["2007 trainval", "2007 test"]
    before = data._checksum(sources.read(root, sets, scenes.CLASSES))
    for pattern in ("*.jpg", "*.xml"):
        copy = shutil.copytree(root, tmp_path / pattern[2:])
        file = next(file for file in copy.rglob(pattern) if pattern == "*.jpg" or b"<difficult>0" in file.read_bytes())
        file.write_bytes(file.read_bytes().replace(b"<difficult>0", b"<difficult>1") + b"\n")
        assert data._checksum(sources.read(copy, sets, scenes.CLASSES)) != before


@pytest.mark.parametrize("augment", ["none", "ssd"])
def test_an_epoch_shows_every_image_once(load, augment):
    dataset = load(train_limit=32)
    batches = list(dataset.epoch(10, augment, generators(), 3))
    assert [len(batch.views) for batch in batches] == [10, 10, 10, 2]
    positions = torch.cat([batch.positions for batch in batches])
    assert positions.dtype == torch.int64 and sorted(positions.tolist()) == list(range(32)) != positions.tolist()
    for batch in batches:
        count, room = batch.labels.shape
        assert batch.views.shape == (count, 3, 48, 48) and batch.views.dtype == torch.float32 and batch.epoch == 3
        assert batch.boxes.shape == (count, room, 4) and batch.boxes.dtype == torch.float32 and room >= 1
        assert batch.labels.dtype == torch.int64 and (batch.labels[:, -1] > 0).any() or room == 1
        assert (batch.boxes[batch.labels == 0] == 0).all() and (batch.boxes[batch.labels > 0, 2] > 0).all()


def test_a_last_batch_of_a_single_image_is_left_out(load):
    batches = list(load(train_limit=31).epoch(10, "none", generators(), 1))
    assert [len(batch.views) for batch in batches] == [10, 10, 10]


def test_difficult_objects_are_not_in_batches_but_in_truths(load):
    dataset = load()
    for batch in dataset.epoch(8, "none", generators(), 1):
        for position, boxes, labels in zip(batch.positions.tolist(), batch.boxes, batch.labels, strict=True):
            easy = ~dataset.train.difficult[position]
            assert torch.equal(labels[labels > 0], dataset.train.labels[position][easy])
            assert torch.equal(boxes[labels > 0], dataset.train.boxes[position][easy])
    assert torch.cat([truth["difficult"] for truth in dataset.train.truths()]).any()


def test_trap_D15_a_batch_without_any_object_has_one_empty_row(load):
    dataset = load()
    empty = [i for i in range(len(dataset.train)) if dataset.train.difficult[i].all()]
    assert len(empty) >= 2, "the fixture needs two images without easy objects"
    alone = data.Dataset(**{**vars(dataset), "train": dataset.train.take(torch.tensor(empty))})
    for augment in ("none", "ssd"):
        (batch,) = alone.epoch(len(empty), augment, generators(), 1)
        assert batch.boxes.tolist() == [[[0] * 4]] * len(empty) and batch.labels.tolist() == [[0]] * len(empty)


def test_equal_generators_give_equal_epochs_and_the_next_epoch_differs(load):
    dataset, streams, others = load(train_limit=12), generators(), generators()
    first = [list(dataset.epoch(4, "ssd", streams, number)) for number in (1, 2)]
    second = [list(dataset.epoch(4, "ssd", others, number)) for number in (1, 2)]
    assert all(same(*pair) for epochs in zip(first, second, strict=True) for pair in zip(*epochs, strict=True))
    views = [{int(p): v for b in epoch for p, v in zip(b.positions, b.views, strict=True)} for epoch in first]
    assert not any(torch.equal(views[0][i], views[1][i]) for i in range(12))


def test_an_epoch_draws_everything_before_its_first_batch(load):
    """So the generators can be saved, and a run resumed, between any two epochs; global chance is never used."""
    dataset, streams, others = load(), generators(), generators()
    state = torch.random.get_rng_state()
    epoch = dataset.epoch(4, "ssd", streams, 1)
    between = {name: stream.get_state() for name, stream in streams.items()}
    list(epoch)
    dataset.epoch(16, "ssd", others, 1)
    assert all(torch.equal(streams[name].get_state(), between[name]) for name in streams)
    assert all(torch.equal(others[name].get_state(), between[name]) for name in streams)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_the_order_is_that_of_the_order_generator_alone(load):
    order = generator(0, "order")
    expected = [torch.randperm(12, generator=order).tolist() for _ in range(2)]
    streams, dataset = generators(), load(train_limit=12)
    for number, positions in enumerate(expected, start=1):
        (batch,) = dataset.epoch(12, "ssd", streams, number)
        assert batch.positions.tolist() == positions


def test_views_do_not_depend_on_the_batch_size_or_on_workers(load):
    """Only the order of the images may: their seeds are those of the images."""
    dataset = load(train_limit=8)
    beside = data.Dataset(**{**vars(dataset), "workers": 2})
    epochs = [one.epoch(size, "ssd", generators(), 1) for one, size in ((dataset, 4), (dataset, 8), (beside, 4))]
    views = [{int(p): v for b in epoch for p, v in zip(b.positions, b.views, strict=True)} for epoch in epochs]
    assert all(torch.equal(views[0][i], other[i]) for other in views[1:] for i in range(8))


def test_trap_D14_training_and_evaluation_normalise_alike_with_imagenets_statistics(load):
    dataset = load(train_limit=6)
    everything = torch.cat([batch.views for batch in dataset.batches(dataset.train, 4)])
    (batch,) = dataset.epoch(6, "none", generators(), 1)
    assert torch.equal(everything[batch.positions], batch.views)
    images = dataset.train.resized(torch.arange(6), 48)
    assert torch.equal(everything, normalise(images, torch.tensor(data.MEAN), torch.tensor(data.STD)))
    assert dataset.mean.tolist() == pytest.approx([0.485, 0.456, 0.406])
    assert dataset.std.tolist() == pytest.approx([0.229, 0.224, 0.225])


def test_batches_pass_over_a_split_in_order(load):
    dataset = load()
    batches = list(dataset.batches(dataset.test, 5))
    assert [len(batch.views) for batch in batches] == [5, 5, 2] and {batch.epoch for batch in batches} == {0}
    assert torch.cat([batch.positions for batch in batches]).tolist() == list(range(12))
    labels = [row[row > 0].tolist() for batch in batches for row in batch.labels]
    wanted = [truth["labels"][~truth["difficult"]].tolist() for truth in dataset.test.truths()]
    assert labels == wanted


def test_an_epoch_with_an_unknown_augmentation_is_an_error(load):
    with pytest.raises(ValueError, match="none, ssd"):
        load().epoch(4, "flip", generators(), 1)


def test_real_voc_is_read_where_it_is_at_hand():
    folder = detection.data.root_folder()
    if not (folder / "VOCdevkit" / "VOC2007" / "ImageSets" / "Main" / "trainval.txt").is_file():
        pytest.skip(f"no PASCAL VOC 2007 in {os.fspath(folder)}")
    split = sources.read(folder, ["2007 trainval"], data.VOC_CLASSES)
    assert len(split) > 100 and {len(split.boxes[i]) for i in range(len(split))} > {1, 2}
    assert data.view(split.image(0), *split.objects(0), 300, "ssd", 0)[0].shape == (3, 300, 300)
