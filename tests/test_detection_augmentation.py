"""Views of an image and its boxes for training: what they keep, where their chance comes from, what moves with what."""

from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision import tv_tensors
from torchvision.ops import box_iou
from torchvision.transforms import v2

from stkd_utils.detection import augmentation, data
from stkd_utils.seeding import generator

quick = settings(max_examples=25, deadline=None)


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
