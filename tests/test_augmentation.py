"""Random views: exact copies without rotation, torchvision's geometry with it, and no hidden randomness."""

import hashlib
import math

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2.functional import rotate

from stkd_utils import augmentation
from stkd_utils.augmentation import Augmentation, augment, draw, normalise

MEAN, STD = torch.tensor([0.5, 0.4, 0.3]), torch.tensor([0.2, 0.25, 0.3])
RAW_MEAN, RAW_STD = torch.zeros(3), torch.full((3,), 1 / 255)  # normalising with these leaves 0..255
FULL = Augmentation(crop_padding=4, flip=True, rotation_degrees=15.0)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def noise(count, height=8, width=8, channels=3):
    return torch.randint(0, 256, (count, channels, height, width), dtype=torch.uint8, generator=seeded(1))


def views_by_hand(image, padding):
    """Every crop of the padded image, as is and mirrored, by plain loops: {(top, left, mirrored): view}."""
    channels, height, width = image.shape
    padded = np.zeros((channels, height + 2 * padding, width + 2 * padding), dtype=np.uint8)
    padded[:, padding : padding + height, padding : padding + width] = image
    views = {}
    for top in range(2 * padding + 1):
        for left in range(2 * padding + 1):
            crop = padded[:, top : top + height, left : left + width]
            views[top, left, False], views[top, left, True] = crop, crop[:, :, ::-1]
    return views


def fingerprint(*tensors):
    return hashlib.sha256(b"".join(tensor.numpy().tobytes() for tensor in tensors)).hexdigest()[:16]


@pytest.mark.parametrize(
    "some, digits",
    [
        (Augmentation(), "b52f6e80a2438a38"),
        (Augmentation(2), "151e2c32fa36168b"),
        (Augmentation(flip=True), "2fe578ffa30146b9"),
        (Augmentation(4, True), "0425b7220007a35e"),
    ],
)
def test_a_seed_gives_the_views_that_it_always_gave(some, digits):
    assert fingerprint(augment(noise(50, 9, 8), some, MEAN, STD, seeded())) == digits


def test_a_seed_gives_the_moves_that_it_always_gave():
    moves = draw(50, FULL, seeded())
    assert fingerprint(moves.shift_x, moves.shift_y, moves.flip, moves.angle) == "0b55af6fd99a179d"


@pytest.mark.parametrize("some", [Augmentation(), Augmentation(2, True), FULL])
def test_moves_drawn_at_once_are_those_drawn_batch_by_batch(some):
    at_once, in_turn = seeded(), seeded()
    parts = draw(50, some, at_once).split(16)
    for part, count in zip(parts, (16, 16, 16, 2), strict=True):
        moves = draw(count, some, in_turn)
        for name in ("shift_x", "shift_y", "flip", "angle"):
            assert torch.equal(getattr(part, name), getattr(moves, name))
    assert torch.equal(at_once.get_state(), in_turn.get_state())


@pytest.mark.parametrize("some", [Augmentation(), Augmentation(2), Augmentation(2, True), FULL])
def test_augment_is_draw_and_view(some):
    images, together, apart = noise(20), seeded(), seeded()
    views = augmentation.view(images, draw(20, some, apart), MEAN, STD)
    assert torch.equal(augment(images, some, MEAN, STD, together), views)
    assert torch.equal(together.get_state(), apart.get_state())


@pytest.mark.parametrize("some, views", [((0, False), 1), ((0, True), 2), ((1, False), 9), ((4, True), 162)])
def test_equal_view_numbers_are_equal_views_and_all_numbers_occur(some, views):
    some = Augmentation(*some)
    moves = draw(40 * views, some, seeded())
    numbers = moves.number()
    assert some.views == views and numbers.dtype == torch.int64
    assert numbers.unique().tolist() == list(range(views))
    seen = augmentation.view(noise(1).expand(len(numbers), -1, -1, -1), moves, MEAN, STD).flatten(1)
    by_number = [seen[numbers == number] for number in range(views)]
    assert all((group == group[0]).all() for group in by_number)
    assert len(torch.stack([group[0] for group in by_number]).unique(dim=0)) == views


def test_rotated_views_are_infinite_and_have_no_number():
    assert FULL.views == math.inf
    with pytest.raises(ValueError, match="no number: set rotation_degrees to 0"):
        draw(3, FULL, seeded()).number()


@pytest.mark.parametrize("height, width", [(8, 8), (6, 9)])
def test_without_rotation_every_view_is_an_exact_copy_and_all_moves_occur(height, width):
    images = noise(400, height, width)
    views = augment(images, Augmentation(crop_padding=2, flip=True), RAW_MEAN, RAW_STD, seeded())
    moves = []
    for image, view in zip(images.numpy(), views.numpy(), strict=True):
        found = [move for move, expected in views_by_hand(image, 2).items() if np.array_equal(expected, view)]
        assert len(found) == 1
        moves += found
    assert len(set(moves)) == 50  # 5 x 5 offsets, mirrored or not
    assert 0.4 < np.mean([mirrored for _, _, mirrored in moves]) < 0.6


def test_equal_images_in_one_batch_get_different_views():
    images = noise(1, 32, 32).expand(16, -1, -1, -1)
    for some in (Augmentation(crop_padding=4), Augmentation(rotation_degrees=15.0), FULL):
        views = augment(images, some, MEAN, STD, seeded())
        assert len({view.numpy().tobytes() for view in views}) >= 12


def test_crop_offsets_are_uniform_with_both_ends():
    moves = draw(9000, Augmentation(crop_padding=4), seeded())
    for shift in (moves.shift_x, moves.shift_y):
        counts = torch.bincount(shift + 4, minlength=9)
        assert len(counts) == 9 and (counts - 1000).abs().max() < 150
    assert not moves.flip.any() and not moves.angle.any()


@pytest.mark.parametrize("height, width", [(8, 8), (7, 7), (32, 32)])
@pytest.mark.parametrize("quarters", [-1, 1, 2])
def test_rotation_is_counter_clockwise_around_the_centre(height, width, quarters):
    images = noise(3, height, width)
    still = torch.zeros(3, dtype=torch.long)
    moves = augmentation.Moves(Augmentation(), still, still, still.bool(), torch.full((3,), quarters * math.pi / 2))
    turned = augmentation._rotate(images, moves, 0)
    inside = (slice(None), slice(None), slice(1, -1), slice(1, -1))  # the rim mixes with the black outside by rounding
    assert torch.allclose(turned[inside], torch.rot90(images, quarters, (2, 3)).float()[inside], atol=0.02)


def test_rotation_agrees_with_torchvision():
    images = noise(12, 32, 32)
    views = augment(images, Augmentation(rotation_degrees=15.0), RAW_MEAN, RAW_STD, seeded())
    angles = draw(12, Augmentation(rotation_degrees=15.0), seeded()).angle.rad2deg()
    assert angles.abs().max() <= 15 and angles.min() < -5 and angles.max() > 5
    for image, view, angle in zip(images, views, angles.tolist(), strict=True):
        expected = rotate(image.float(), angle, interpolation=InterpolationMode.BILINEAR)
        assert torch.allclose(view, expected, atol=0.05)


def test_crop_flip_rotation_in_one_resampling_agree_with_the_three_steps_inside():
    images = noise(40, 32, 32)
    views = augment(images, FULL, RAW_MEAN, RAW_STD, seeded(3))
    moves = draw(40, FULL, seeded(3))
    steps = augmentation._shift(images, moves, 4).float()
    inside = (slice(None), slice(8, 24), slice(8, 24))
    for step, view, angle in zip(steps, views, moves.angle.rad2deg().tolist(), strict=True):
        expected = rotate(step, angle, interpolation=InterpolationMode.BILINEAR)
        assert torch.allclose(view[inside], expected[inside], atol=0.05)


def test_rotation_by_nothing_is_the_exact_copy():
    images = noise(40, 32, 32)
    moves = draw(40, FULL, seeded())
    moves.angle.zero_()
    assert torch.allclose(
        augmentation._rotate(images, moves, 4), augmentation._shift(images, moves, 4).float(), atol=0.02
    )


@pytest.mark.parametrize("some", [Augmentation(crop_padding=8), Augmentation(8, rotation_degrees=45.0)])
def test_padding_is_black_before_normalising(some):
    white = torch.full((64, 3, 8, 8), 255, dtype=torch.uint8)
    views = augment(white, some, MEAN, STD, seeded())
    for channel in range(3):
        assert views[:, channel].min().item() == pytest.approx(-(MEAN / STD)[channel].item(), abs=1e-4)
        assert views[:, channel].max().item() == pytest.approx(((1 - MEAN) / STD)[channel].item(), abs=1e-4)


def test_normalise_follows_the_formula():
    images = noise(5)
    expected = (images.double() / 255 - MEAN.double().view(-1, 1, 1)) / STD.double().view(-1, 1, 1)
    result = normalise(images, MEAN, STD)
    assert result.dtype == torch.float32
    assert torch.allclose(result.double(), expected, atol=1e-5)


def test_no_augmentation_is_plain_normalising_and_draws_nothing():
    generator = seeded()
    state = generator.get_state()
    assert torch.equal(augment(noise(5), Augmentation(), MEAN, STD, generator), normalise(noise(5), MEAN, STD))
    assert torch.equal(generator.get_state(), state)


def test_randomness_comes_from_the_generator_alone():
    images = noise(8)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = augment(images, FULL, MEAN, STD, seeded(5))
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert torch.equal(augment(images, FULL, MEAN, STD, seeded(5)), first)
    assert not torch.equal(augment(images, FULL, MEAN, STD, seeded(6)), first)


def test_switching_rotation_on_leaves_crops_and_later_draws_as_they_are():
    plain, turning = seeded(), seeded()
    without = draw(50, Augmentation(4, True), plain)
    with_rotation = draw(50, FULL, turning)
    assert torch.equal(without.shift_x, with_rotation.shift_x) and torch.equal(without.flip, with_rotation.flip)
    assert torch.equal(plain.get_state(), turning.get_state())


@pytest.mark.parametrize("some", [Augmentation(), Augmentation(4, True), FULL])
@pytest.mark.parametrize("images", [noise(8), noise(8).float()])
def test_trap_S5_inputs_stay_as_they_are(some, images):
    inputs = (images, MEAN, STD)
    before = [value.clone() for value in inputs]
    augment(images, some, MEAN, STD, seeded())
    assert all(torch.equal(value, old) for value, old in zip(inputs, before, strict=True))


@pytest.mark.parametrize("channels", [1, 3])
def test_shape_and_type_of_a_view(channels):
    images = noise(4, channels=channels)
    views = augment(images, FULL, MEAN[:channels], STD[:channels], seeded())
    assert views.shape == images.shape and views.dtype == torch.float32 and views.device == images.device


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.parametrize("some", [Augmentation(4, True), FULL])
def test_a_gpu_gets_the_same_views(some):
    images = noise(32, 32, 32)
    on_cpu = augment(images, some, MEAN, STD, seeded())
    on_gpu = augment(images.cuda(), some, MEAN, STD, seeded())
    assert on_gpu.is_cuda and torch.allclose(on_gpu.cpu(), on_cpu, atol=1e-3)


@pytest.mark.parametrize("wrong", [{"crop_padding": -1}, {"crop_padding": 1.5}, {"rotation_degrees": 200}])
def test_an_impossible_augmentation_says_what_is_possible(wrong):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} is .* got"):
        Augmentation(**wrong)
