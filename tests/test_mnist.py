"""MNIST by torchvision's reader and downloader, and what is said when a file is missing or damaged."""

import gzip
import hashlib
import socket
from urllib.error import URLError

import numpy as np
import pytest
import torch
from torchvision import datasets

from stkd_utils import data
from stkd_utils.__main__ import main
from stkd_utils.readers import official

COUNTS = {"train": 40, "t10k": 20}


def files():
    """{name: bytes} of a small MNIST in the official format (idx), 4 train and 2 test images a digit."""
    made, rng = {}, np.random.default_rng(0)
    for part, count in COUNTS.items():
        images = rng.integers(0, 256, (count, 28, 28)).astype(np.uint8)
        labels = np.arange(count, dtype=np.uint8) % 10
        for kind, values in (("images", images), ("labels", labels)):
            sizes = b"".join(size.to_bytes(4, "big") for size in values.shape)
            made[f"{part}-{kind}-idx{values.ndim}-ubyte"] = bytes([0, 0, 8, values.ndim]) + sizes + values.tobytes()
    return made


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A data root without MNIST, for whose files the checksums of the small one hold; named by STKD_DATA."""
    monkeypatch.setattr(
        official, "MNIST", {name: hashlib.md5(content).hexdigest() for name, content in files().items()}
    )
    monkeypatch.setenv("STKD_DATA", str(tmp_path))
    return tmp_path


@pytest.fixture
def mnist(root):
    """A data root with the small MNIST."""
    folder = root / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for name, content in files().items():
        (folder / name).write_bytes(content)
    return root


@pytest.fixture
def network(root, monkeypatch):
    """torchvision's downloader finds the small files at its addresses; the list of those it asked for."""
    asked = []

    def deliver(url, download_root, filename, md5):
        asked.append(filename)
        content = files()[filename.removesuffix(".gz")]
        (root / "MNIST" / "raw" / filename).write_bytes(gzip.compress(content))
        (root / "MNIST" / "raw" / filename.removesuffix(".gz")).write_bytes(content)

    monkeypatch.setattr(datasets.mnist, "download_and_extract_archive", deliver)
    return asked


def test_mnist_is_grey_28_by_28_with_a_split_of_its_own(mnist):
    digits = data.load("mnist", val_fraction=0.25)
    assert [len(split) for split in (digits.train, digits.val, digits.test)] == [30, 10, 20]
    assert (digits.name, digits.classes, digits.channels, digits.size) == ("mnist", 10, 1, 28)
    assert digits.class_names == tuple("0123456789") and digits.val.labels.bincount().tolist() == [1] * 10
    assert digits.train.images.dtype == torch.uint8 and digits.train.labels.dtype == torch.int64


def test_pixels_and_labels_are_those_that_torchvision_reads(mnist):
    whole = data.load("mnist", val_fraction=0)
    for train, split in ((True, whole.train), (False, whole.test)):
        known = datasets.MNIST(mnist, train=train)
        assert torch.equal(split.images[:, 0], known.data) and torch.equal(split.labels, known.targets)


@pytest.mark.parametrize("name", sorted(files()))
def test_a_missing_or_damaged_file_is_named(mnist, name):
    path = mnist / "MNIST" / "raw" / name
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(data.DataDamaged, match=f"{path} is damaged.*data mnist"):
        data.load("mnist")
    path.unlink()
    with pytest.raises(data.DataNotFound, match=f"{path} is missing.*data mnist"):
        data.load("mnist")


def test_the_command_fetches_what_is_absent_or_damaged_and_nothing_else(root, network, capsys):
    for _ in range(2):
        assert main(["data", "mnist"]) == 0
    assert "12 MB, a minute or less" in capsys.readouterr().out
    assert sorted(network) == sorted(f"{name}.gz" for name in files())
    (root / "MNIST" / "raw" / "t10k-labels-idx1-ubyte").write_bytes(b"half")
    assert len(data.load("mnist", download=True).test) == COUNTS["t10k"]


def test_fetching_without_network_is_one_sentence(tmp_path, monkeypatch, capsys):
    def unreachable(*_, **__):
        raise URLError(socket.gaierror("name resolution failed"))

    monkeypatch.setattr(datasets.utils.urllib.request, "urlopen", unreachable)
    with pytest.raises(
        data.DataNotFound, match="mnist could not be fetched into .*name resolution.*try again."
    ) as told:
        data.load("mnist", root=tmp_path / "new", download=True)
    assert "\n" not in str(told.value)


def test_the_known_checksums_are_of_the_files_that_torchvision_fetches():
    assert [name + ".gz" for name in official.MNIST] == [file for file, _ in datasets.MNIST.resources]


def test_the_real_mnist_where_it_is_at_hand():
    try:
        digits = data.load("mnist")
    except data.DataNotFound as absent:
        pytest.skip(str(absent))
    assert (len(digits.train), len(digits.val), len(digits.test)) == (54_000, 6_000, 10_000)
    assert digits.mean.item() == pytest.approx(0.1307, abs=1e-4)
    assert digits.std.item() == pytest.approx(0.3081, abs=1e-4)
