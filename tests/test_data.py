"""Data sets: splits, statistics, limits, batches, and what is said when the files are absent or damaged."""

import hashlib
import pickle
import socket
from collections import Counter

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torchvision import datasets

from stkd_utils import data

CIFAR = {  # folder, train files, test file, label key, meta file, name key, classes
    "CIFAR10": (
        "cifar-10-batches-py",
        [f"data_batch_{i}" for i in range(1, 6)],
        "test_batch",
        "labels",
        "batches.meta",
        10,
    ),
    "CIFAR100": ("cifar-100-python", ["train"], "test", "fine_labels", "meta", 100),
}


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(content))
    return hashlib.md5(path.read_bytes()).hexdigest()


def fabricate(class_name, root, monkeypatch):
    """A folder in the official layout, 10 train and 4 test images a class, all unique, that torchvision accepts."""
    folder, train_files, test_file, key, meta, classes = CIFAR[class_name]
    official = getattr(datasets, class_name)
    rng = np.random.default_rng(classes)
    sums = {}
    for file in [*train_files, test_file]:
        each = 4 if file == test_file else 10 // len(train_files)
        labels = np.repeat(np.arange(classes), each)
        colours = rng.integers(0, [[200], [100], [20]], size=(len(labels), 3, 1024))  # red over green over blue
        raw = {"data": colours.astype(np.uint8).reshape(len(labels), 3072), key: labels.tolist()}
        sums[file] = write(root / folder / file, raw)
    sums[meta] = write(root / folder / meta, {official.meta["key"]: [f"{class_name} {i}" for i in range(classes)]})
    monkeypatch.setattr(official, "train_list", [[file, sums[file]] for file in train_files])
    monkeypatch.setattr(official, "test_list", [[test_file, sums[test_file]]])
    monkeypatch.setattr(official, "meta", {**official.meta, "md5": sums[meta]})


@pytest.fixture
def root(tmp_path, monkeypatch):
    """Data root with a fabricated CIFAR-10 and CIFAR-100, also named by STKD_DATA."""
    for class_name in CIFAR:
        fabricate(class_name, tmp_path, monkeypatch)
    monkeypatch.setenv("STKD_DATA", str(tmp_path))
    return tmp_path


def images_of(*splits):
    return Counter(image.tobytes() for split in splits for image in split.images.numpy())


def per_class(split, classes):
    return split.labels.bincount(minlength=classes)


@pytest.mark.parametrize("name, sizes", [("cifar10", (90, 10, 40)), ("cifar100", (900, 100, 400))])
def test_splits_are_disjoint_stratified_and_cover_everything(root, name, sizes):
    dataset = data.load(name)
    splits = (dataset.train, dataset.val, dataset.test)
    assert tuple(map(len, splits)) == sizes
    assert len(images_of(*splits)) == sum(sizes)  # every fabricated image is unique
    for split in splits:
        assert per_class(split, dataset.classes).unique().numel() == 1
        assert split.images.dtype == torch.uint8 and split.labels.dtype == torch.int64
        assert split.images.is_contiguous() and split.images.shape[1:] == (dataset.channels, dataset.size, dataset.size)


def test_digits_are_all_there_divided_by_class():
    digits, raw = data.load("digits"), load_digits()
    assert (len(digits.train), len(digits.val), len(digits.test)) == (1294, 144, 359)
    assert (digits.classes, digits.channels, digits.size) == (10, 1, 8)
    assert digits.class_names == tuple("0123456789")
    everything = Counter(np.rint(image * 255 / 16).astype(np.uint8).tobytes() for image in raw.images)
    assert images_of(digits.train, digits.val, digits.test) == everything
    shares = torch.from_numpy(np.bincount(raw.target)) / len(raw.target)
    for split in (digits.train, digits.val, digits.test):
        assert (per_class(split, 10) - shares * len(split)).abs().max() < 2


def test_labels_stay_with_their_images():
    digits, raw = data.load("digits"), load_digits()
    label = {
        np.rint(image * 255 / 16).astype(np.uint8).tobytes(): int(y)
        for image, y in zip(raw.images, raw.target, strict=True)
    }
    for split in (digits.train, digits.val, digits.test):
        assert [label[image.tobytes()] for image in split.images.numpy()] == split.labels.tolist()


def test_the_split_follows_its_seed_and_the_test_part_never_does():
    first, again, other = (data.load("digits", split_seed=seed, test_limit=50) for seed in (3, 3, 4))
    assert first.checksum == again.checksum != other.checksum
    assert images_of(first.val) != images_of(other.val)
    assert torch.equal(first.test.images, other.test.images)
    larger = data.load("digits", val_fraction=0.3, test_limit=50)
    assert torch.equal(first.test.images, larger.test.images) and len(larger.val) == 431


def test_splitting_leaves_the_global_random_numbers_alone():
    state = torch.get_rng_state()
    digits = data.load("digits", train_limit=20)
    list(data.batches(digits.train, 8, torch.Generator().manual_seed(0)))
    assert torch.equal(torch.get_rng_state(), state)


def test_trap_S13_a_data_set_carries_the_statistics_of_its_own_train_part(root):
    ten, hundred = data.load("cifar10"), data.load("cifar100")
    for dataset in (ten, hundred):
        pixels = torch.cat([dataset.train.images, dataset.val.images]).double() / 255
        assert torch.allclose(dataset.mean.double(), pixels.mean(dim=(0, 2, 3)), atol=1e-6)
        assert torch.allclose(dataset.std.double(), pixels.std(dim=(0, 2, 3), correction=0), atol=1e-6)
    assert not torch.equal(ten.mean, hundred.mean)


def test_statistics_do_not_move_with_split_or_limits(root):
    whole, part = (
        data.load("cifar10"),
        data.load("cifar10", split_seed=7, val_fraction=0.5, train_limit=10, val_limit=10),
    )
    assert torch.equal(whole.mean, part.mean) and torch.equal(whole.std, part.std)


def test_trap_S14_the_data_set_asked_for_is_the_one_that_comes(root):
    for name in ("cifar10", "cifar100"):
        dataset = data.load(name)
        assert dataset.name == name and dataset.class_names[0] == f"{name.upper()} 0"
        assert dataset.classes == int(name.removeprefix("cifar")) == dataset.train.labels.max() + 1
        part = data.load(name, train_fraction=1 / 3)
        assert part.class_names == dataset.class_names and torch.equal(part.mean, dataset.mean)
        assert per_class(part.train, dataset.classes).tolist() == [3] * dataset.classes


def test_trap_S12_colours_come_as_red_green_blue_and_every_load_is_equal(root):
    first, again = data.load("cifar100"), data.load("cifar100")
    red, green, blue = first.mean
    assert red > green > blue
    assert first.checksum == again.checksum and torch.equal(first.train.images, again.train.images)


def test_the_checksum_moves_when_one_pixel_does(root, monkeypatch):
    before = data.load("cifar10").checksum
    path = root / "cifar-10-batches-py" / "test_batch"
    raw = pickle.loads(path.read_bytes())
    raw["data"][0, 0] ^= 1
    monkeypatch.setattr(datasets.CIFAR10, "test_list", [["test_batch", write(path, raw)]])
    assert data.load("cifar10").checksum != before


def test_limits_keep_the_shares_of_the_classes(root):
    limited = data.load("cifar10", train_limit=35, val_limit=10, test_limit=20)
    assert (len(limited.train), len(limited.val), len(limited.test)) == (35, 10, 20)
    assert sorted(per_class(limited.train, 10).tolist()) == [3] * 5 + [4] * 5
    assert per_class(limited.test, 10).tolist() == [2] * 10
    assert not images_of(limited.train) & images_of(limited.val, limited.test)


@pytest.mark.parametrize("limit", [0, 91, -3])
def test_a_limit_that_does_not_fit_names_the_split_and_its_size(root, limit):
    with pytest.raises(data.DataError, match=f"{limit} images does not fit the train split of cifar10, which has 90"):
        data.load("cifar10", train_limit=limit)


@pytest.mark.parametrize("fraction", [-0.1, 1.0, 1.5])
def test_an_impossible_validation_fraction_is_refused(fraction):
    with pytest.raises(data.DataError, match="val_fraction"):
        data.load("digits", val_fraction=fraction)


def test_without_validation_everything_is_for_training():
    digits = data.load("digits", val_fraction=0)
    assert len(digits.val) == 0 and len(digits.train) == 1438


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(data.DataError, match="'cifar'; known: digits, cifar10, cifar100"):
        data.load("cifar")


def test_absent_data_says_what_where_and_how(tmp_path):
    with pytest.raises(data.DataNotFound) as caught:
        data.load("cifar100", root=tmp_path)
    for part in ("cifar100", str(tmp_path), "train is missing", "python -m stkd_utils data cifar100", "STKD_DATA"):
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_root_is_the_argument_then_the_variable_then_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("STKD_DATA", str(tmp_path / "variable"))
    assert data.root_folder(tmp_path) == tmp_path
    assert data.root_folder() == tmp_path / "variable"
    monkeypatch.delenv("STKD_DATA")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert data.root_folder() == tmp_path / ".cache" / "stkd"


@pytest.mark.parametrize("file", ["train", "test", "meta"])
def test_a_missing_or_damaged_file_is_named(root, file):
    path = root / "cifar-100-python" / file
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(data.DataDamaged, match=f"{path} is damaged.*data cifar100"):
        data.load("cifar100")
    path.unlink()
    with pytest.raises(data.DataNotFound, match=f"{path} is missing"):
        data.load("cifar100")


def test_fetching_without_network_is_one_sentence(tmp_path, monkeypatch, capsys):
    def unreachable(*args, **kwargs):
        raise socket.gaierror("name resolution failed")

    monkeypatch.setattr(socket, "getaddrinfo", unreachable)
    with pytest.raises(
        data.DataNotFound, match="cifar10 could not be fetched into .*name resolution failed.*try again"
    ):
        data.load("cifar10", root=tmp_path / "new", download=True)
    assert "170 MB" in capsys.readouterr().out
    assert socket.getdefaulttimeout() is None


def test_download_fetches_what_is_absent_or_damaged_and_nothing_else(tmp_path, monkeypatch, capsys):
    calls = []

    def deliver(url, root, **kwargs):
        calls.append(url)
        fabricate("CIFAR10", tmp_path, monkeypatch)

    fabricate("CIFAR10", tmp_path / "elsewhere", monkeypatch)
    monkeypatch.setattr(datasets.cifar, "download_and_extract_archive", deliver)
    assert len(data.load("cifar10", root=tmp_path, download=True).train) == 90
    assert len(data.load("cifar10", root=tmp_path, download=True).train) == 90
    assert len(calls) == 1 and calls[0].endswith("cifar-10-python.tar.gz")
    (tmp_path / "cifar-10-batches-py" / "test_batch").write_bytes(b"half")
    assert data.fetch("cifar10", tmp_path) == tmp_path
    assert len(calls) == 2


def test_digits_need_no_fetching(tmp_path, capsys):
    assert data.fetch("digits", tmp_path) == tmp_path
    assert "nothing to fetch" in capsys.readouterr().out


def test_the_real_cifar100():
    try:
        dataset = data.load("cifar100")
    except data.DataNotFound as absent:
        pytest.skip(str(absent))
    assert (len(dataset.train), len(dataset.val), len(dataset.test)) == (45_000, 5_000, 10_000)
    assert per_class(dataset.val, 100).tolist() == [50] * 100 and per_class(dataset.test, 100).tolist() == [100] * 100
    assert dataset.class_names[:2] == ("apple", "aquarium_fish")
    assert dataset.mean.tolist() == pytest.approx([0.5071, 0.4865, 0.4409], abs=1e-4)
    assert dataset.std.tolist() == pytest.approx([0.2673, 0.2564, 0.2762], abs=1e-4)
