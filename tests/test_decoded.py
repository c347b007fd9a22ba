"""Image files as tensors: how one is seen, what is kept of many, and what is wrong with one in a sentence."""

import os

import numpy as np
import pytest
import torch
from PIL import Image

from stkd_utils.readers import decoded
from stkd_utils.readers.fetching import DataDamaged, DataError, DataNotFound


def write(file, pixels, mode=None, **options):
    file.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.asarray(pixels, dtype=np.uint8))
    (image.convert(mode) if mode else image).save(file, **options)
    return file


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3))


def halves(height, width):
    """Left half red, right half blue."""
    pixels = np.zeros((height, width, 3))
    pixels[:, : width // 2, 0] = pixels[:, width // 2 :, 2] = 255
    return pixels


def test_a_picture_is_red_green_blue_and_a_grey_one_has_three_equal_channels(tmp_path):
    pixels = noise(5, 7)
    assert decoded.picture(write(tmp_path / "a.png", pixels)).permute(1, 2, 0).tolist() == pixels.tolist()
    grey = decoded.picture(write(tmp_path / "b.png", pixels, "L"))
    assert grey.shape == (3, 5, 7) and grey.unique(dim=0).shape[0] == 1


def test_a_square_is_the_middle_of_the_image_as_the_camera_held_it(tmp_path):
    wide = decoded.square(write(tmp_path / "a.png", halves(40, 80)), 20)
    assert wide.shape == (3, 20, 20) and wide.dtype == torch.uint8
    assert (wide[0, :, :9] == 255).all() and (wide[2, :, 11:] == 255).all()
    exif = Image.Exif()
    exif[0x0112] = 8  # turn by 90 degrees to see it upright
    turned = decoded.square(write(tmp_path / "b.png", halves(40, 40), exif=exif), 20)
    assert (turned[2, :9] == 255).all() and (turned[0, 11:] == 255).all()


def test_an_image_of_another_size_is_named(tmp_path):
    file = write(tmp_path / "a.png", noise(6, 5))
    assert decoded.exactly(write(tmp_path / "b.png", noise(6, 6)), 6).shape == (3, 6, 6)
    with pytest.raises(DataDamaged, match="a.png is damaged .it has 5 x 6 pixels, not 6 x 6"):
        decoded.exactly(file, 6)


def cut(file):
    file.write_bytes(file.read_bytes()[:-40])


def deep(file):
    Image.fromarray(np.full((9, 9), 1000, dtype=np.uint16)).save(file)


@pytest.mark.parametrize("suffix", ["png", "jpg"])
@pytest.mark.parametrize("damage, error, said", [
    (cut, DataDamaged, "is damaged .not a whole image."),
    (lambda file: file.write_bytes(b""), DataDamaged, "is damaged"),
    (lambda file: file.write_text("text"), DataDamaged, "is damaged"),
    (os.remove, DataNotFound, "is missing"),
])  # fmt: skip
def test_what_is_wrong_with_an_image_is_one_sentence_with_its_name(tmp_path, suffix, damage, error, said):
    damage(file := write(tmp_path / f"a.{suffix}", noise(9, 9)))
    with pytest.raises(error, match=f"a.{suffix} {said}") as told:
        decoded.square(file, 8)
    assert "\n" not in str(told.value) and str(told.value).endswith(".")


def test_an_image_with_16_bits_is_refused_instead_of_clipped(tmp_path):
    deep(tmp_path / "a.png")
    with pytest.raises(DataError, match="a.png has more than 8 bits per channel"):
        decoded.picture(tmp_path / "a.png")


# Many images, kept


@pytest.fixture
def parts(tmp_path):
    """Two parts of 3 and 2 images of 8 x 8, labels 0, 1, 2 and 5, 6."""
    files = [write(tmp_path / f"{i}.png", noise(8, 8, i)) for i in range(5)]
    return [list(zip(files[:3], range(3), strict=True)), list(zip(files[3:], (5, 6), strict=True))]


@pytest.fixture
def splits(parts, tmp_path, capsys):
    """A function: (the two splits, what was said)."""

    def call(size=8, see=decoded.exactly):
        found = decoded.splits("some", parts, see, size, tmp_path / "kept" / "some.pt")
        return found, capsys.readouterr().out

    return call


def equal(one, other):
    pairs = zip(one, other, strict=True)
    return all(torch.equal(a.images, b.images) and torch.equal(a.labels, b.labels) for a, b in pairs)


def test_images_are_decoded_once(splits, parts, tmp_path):
    first, said = splits()
    assert [len(split) for split in first] == [3, 2] and [split.labels.tolist() for split in first] == [
        [0, 1, 2],
        [5, 6],
    ]
    for split, part in zip(first, parts, strict=True):
        for image, (file, _) in zip(split.images, part, strict=True):
            assert torch.equal(image, decoded.picture(file))
    assert said == "Decoding 5 images of some (0 MB), once.\n"
    again, said = splits()
    assert equal(first, again) and said == ""
    assert {file.name for file in (tmp_path / "kept").iterdir()} <= {"some.pt", "some.pt.lock"}


def flipped(content, pixels):
    place = content.index(pixels)
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


@pytest.mark.parametrize(
    "damage", [flipped, lambda content, _: content[:-100], lambda *_: b"", lambda content, _: b"?" + content[1:]]
)
def test_what_is_damaged_is_decoded_anew_and_said(splits, tmp_path, damage):
    first, _ = splits()
    file = tmp_path / "kept" / "some.pt"
    file.write_bytes(damage(file.read_bytes(), first[0].images.numpy().tobytes()))
    again, said = splits()
    assert equal(first, again)
    assert said.startswith(f"{file} is damaged. Decoding 5 images") and splits()[1] == ""


def test_pixels_that_do_not_fit_their_checksum_are_never_used(splits, tmp_path):
    first, _ = splits()
    file = tmp_path / "kept" / "some.pt"
    state = torch.load(file, weights_only=True)
    state["parts"][0][0][0, 0, 0, 0] ^= 1
    torch.save(state, file)
    again, said = splits()
    assert equal(first, again) and "is damaged" in said


def test_images_that_changed_are_decoded_anew(splits, parts):
    first, _ = splits()
    write(parts[0][1][0], noise(8, 8, 77))
    again, said = splits()
    assert not equal(first, again) and "The images are not those in" in said and "Decoding" in said
    parts[1].pop()
    assert [len(split) for split in splits()[0]] == [3, 1]


def test_another_size_or_view_is_not_taken_for_the_same(splits):
    splits()
    assert splits(4, decoded.square)[0][0].images.shape == (3, 3, 4, 4)
    assert "Decoding" in splits(8, decoded.square)[1]


def test_where_nothing_can_be_kept_everything_works_and_is_said(splits, tmp_path):
    (tmp_path / "kept").write_text("a file where the folder should be")
    for _ in range(2):
        found, said = splits()
        assert len(found[0]) == 3 and "Decoding" in said and "could not be kept" in said


def test_an_image_that_is_missing_is_named_though_it_was_decoded_before(splits, parts):
    splits()
    parts[1][1][0].unlink()
    with pytest.raises(DataNotFound, match="4.png is missing"):
        splits()


def test_more_images_than_memory_are_refused_first(splits, monkeypatch):
    monkeypatch.setattr(decoded, "_memory", lambda: 900)
    with pytest.raises(DataError, match="5 images of some with 8 x 8 pixels do not fit into this memory"):
        splits()
