"""Data sets for detection: splits and limits, checksums, and the batches of an epoch."""

import shutil

import pytest
import torch

from stkd_utils.augmentation import normalise
from stkd_utils.detection import data, scenes, sources
from stkd_utils.seeding import generator


def one_sentence(error):
    return str(error).endswith(".") and "\n" not in str(error)


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
    assert data.names() == ["voc", "scenes"]


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
