"""Boxes, matching and detections against torchvision's SSD, image by image."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.ssd import SSD
from torchvision.ops import box_iou

from stkd_utils.detection import boxes as bx

MAPS, CLASSES = (19, 10, 5, 3, 2, 1), 4
PRIORS = bx.priors(MAPS)
quick = settings(max_examples=25, deadline=None)
seeds = st.integers(0, 2**32)


def torchvision_ssd(**options):
    """torchvision's own matcher, coder and detections; it has no network."""
    generator = DefaultBoxGenerator([[2, 3]] * 6, min_ratio=0.2, max_ratio=0.95)
    return SSD(nn.Identity(), generator, (300, 300), CLASSES + 1, head=nn.Identity(), **options)


THEIRS = torchvision_ssd()


def draw_boxes(*shape, seed=0):
    """Random boxes with sides from 0.02 to 0.6 inside the image."""
    generator = torch.Generator().manual_seed(seed)
    extent = 0.02 + 0.58 * torch.rand(*shape, 2, generator=generator)
    start = torch.rand(*shape, 2, generator=generator) * (1 - extent)
    return torch.cat((start, start + extent), dim=-1)


def draw_objects(images, most, seed=0):
    """A padded batch with 0 to ``most`` objects an image, padding anywhere: boxes (N, M, 4), labels (N, M)."""
    generator = torch.Generator().manual_seed(seed + 1)
    labels = torch.randint(CLASSES + 1, (images, most), generator=generator)
    return draw_boxes(images, most, seed=seed) * (labels > 0)[..., None], labels


def draw_outputs(images=2, seed=0, scale=2.0):
    return scale * torch.randn(images, len(PRIORS), CLASSES + 5, generator=torch.Generator().manual_seed(seed))


def test_there_are_3000_priors_at_300():
    assert PRIORS.shape == (3000, 4) and PRIORS.dtype == torch.float32


def test_first_priors_by_hand():
    size = 0.2
    mean, centre = (0.2 * 0.35) ** 0.5, 0.5 / 19
    sides = [(size, size), (mean, mean), (size * 2**0.5, size / 2**0.5), (size / 2**0.5, size * 2**0.5)]
    sides += [(size * 3**0.5, size / 3**0.5), (size / 3**0.5, size * 3**0.5)]
    expected = [[centre - w / 2, centre - h / 2, centre + w / 2, centre + h / 2] for w, h in sides]
    torch.testing.assert_close(PRIORS[:6], torch.tensor(expected))


def test_priors_stand_row_by_row():
    centres = (PRIORS[:, :2] + PRIORS[:, 2:])[: 19 * 19 * 6 : 6] / 2
    axis = (torch.arange(19) + 0.5) / 19
    torch.testing.assert_close(centres, torch.stack((axis.repeat(19), axis.repeat_interleave(19)), dim=1))


def test_priors_do_not_depend_on_the_default_device():
    with torch.device("meta"):
        assert torch.equal(bx.priors(MAPS), PRIORS)


@pytest.mark.parametrize("maps", [(4, 2, 1), (2, 1)])
def test_scales_of_fewer_maps_reach_from_small_to_large_all_the_same(maps):
    found = bx.priors(maps)
    assert len(found) == 6 * sum(side**2 for side in maps)
    sides = (found[:, 2:] - found[:, :2])[:, 0]
    assert sides[0] == pytest.approx(0.2) and sides[-6] == pytest.approx(0.95)


@pytest.mark.parametrize("maps", [(19,), (19, 10, 5, 3, 2, 0), (1,) * 7])
def test_priors_need_two_to_six_maps(maps):
    with pytest.raises(ValueError, match="2 to 6 feature maps"):
        bx.priors(maps)


@quick
@given(seeds)
def test_decode_undoes_encode(seed):
    wanted = draw_boxes(2, len(PRIORS), seed=seed)
    torch.testing.assert_close(bx.decode(bx.encode(wanted, PRIORS), PRIORS), wanted, rtol=1e-4, atol=1e-5)


def test_a_prior_is_no_offset_from_itself():
    assert bx.encode(PRIORS, PRIORS).abs().max() == 0


def test_offsets_are_torchvisions():
    wanted, offsets = draw_boxes(len(PRIORS), seed=3), draw_outputs(1, scale=9.0)[0, :, :4]
    theirs = THEIRS.box_coder
    torch.testing.assert_close(bx.encode(wanted, PRIORS), theirs.encode_single(wanted, PRIORS))
    torch.testing.assert_close(bx.decode(offsets, PRIORS), theirs.decode_single(offsets, PRIORS))


def test_priors_broadcast_over_leading_shapes():
    wanted = draw_boxes(3, 2, len(PRIORS))
    offsets = bx.encode(wanted, PRIORS)
    assert offsets.shape == wanted.shape
    torch.testing.assert_close(offsets[2, 1], bx.encode(wanted[2, 1], PRIORS))
    torch.testing.assert_close(bx.decode(offsets, PRIORS)[1, 0], bx.decode(offsets[1, 0], PRIORS))


def test_huge_offsets_stay_finite():
    assert bx.decode(torch.full((1, 4), 1e6), PRIORS[:1]).isfinite().all()


@quick
@given(seeds)
def test_overlaps_equal_the_plain_formula(seed):
    objects, priors = draw_boxes(2, 3, seed=seed), draw_boxes(7, seed=seed + 1)
    got = bx.iou(objects, priors)
    for image in range(2):
        torch.testing.assert_close(got[image], box_iou(objects[image], priors))
    left, right = objects[1, 2], priors[4]
    width, height = (torch.minimum(left[2:], right[2:]) - torch.maximum(left[:2], right[:2])).clamp(min=0)
    both = (width * height).item()
    areas = [((box[2] - box[0]) * (box[3] - box[1])).item() for box in (left, right)]
    assert got[1, 2, 4].item() == pytest.approx(both / (sum(areas) - both), abs=1e-6)


def test_a_box_without_area_overlaps_nothing():
    assert bx.iou(torch.zeros(1, 1, 4), PRIORS).max() == 0


@quick
@given(seeds, st.integers(1, 6), st.sampled_from([0.3, 0.5, 0.7]))
def test_matches_are_torchvisions_image_by_image(seed, most, threshold):
    objects, labels = draw_objects(3, most, seed)
    got_labels, got_boxes = bx.match(objects, labels, PRIORS, threshold)
    matcher = torchvision_ssd(iou_thresh=threshold).proposal_matcher
    for image in range(3):
        real = labels[image] > 0
        expected_labels, expected_boxes = torch.zeros(len(PRIORS), dtype=torch.int64), PRIORS.clone()
        if real.any():
            owner = matcher(box_iou(objects[image][real], PRIORS))
            found = owner >= 0
            expected_labels[found] = labels[image][real][owner[found]]
            expected_boxes[found] = objects[image][real][owner[found]]
        assert torch.equal(got_labels[image], expected_labels)
        assert torch.equal(got_boxes[image], expected_boxes)


@quick
@given(seeds)
def test_every_object_is_matched_unless_a_later_one_took_its_best_prior(seed):
    objects, labels = draw_objects(4, 5, seed)
    got_labels, got_boxes = bx.match(objects, labels, PRIORS)
    best = bx.iou(objects, PRIORS).argmax(dim=2)
    for image, number in (labels > 0).nonzero().tolist():
        real = labels[image] > 0
        later = (best[image] == best[image, number]) & real & (torch.arange(5) > number)
        if not later.any():
            assert torch.equal(got_boxes[image, best[image, number]], objects[image, number])
            assert got_labels[image, best[image, number]] == labels[image, number]


def test_of_two_objects_with_one_best_prior_the_later_gets_it():
    prior = PRIORS[1000]
    objects = torch.stack((prior, prior + 0.001))[None]
    assert bx.iou(objects, PRIORS).argmax(dim=2).tolist() == [[1000, 1000]]
    for labels in ([1, 2], [2, 1]):
        assert bx.match(objects, torch.tensor([labels]), PRIORS)[0][0, 1000] == labels[1]


def test_padding_never_matches_and_moves_no_object():
    objects, labels = draw_objects(2, 4, seed=5)
    alone = bx.match(objects, labels, PRIORS)
    padded = torch.cat((objects, torch.zeros(2, 3, 4)), 1), torch.cat((labels, torch.zeros(2, 3).long()), 1)
    for got, expected in zip(bx.match(*padded, PRIORS), alone, strict=True):
        assert torch.equal(got, expected)
    assert bx.match(draw_boxes(2, 4), torch.zeros(2, 4).long(), PRIORS)[0].max() == 0


def test_trap_D6_images_without_objects_have_finite_targets_of_zero():
    labels, matched = bx.match(torch.zeros(2, 1, 4), torch.zeros(2, 1).long(), PRIORS)
    assert labels.max() == 0 and bx.encode(matched, PRIORS).abs().max() == 0


def test_matching_writes_into_no_input():
    objects, labels = draw_objects(2, 4)
    before = objects.clone(), labels.clone(), PRIORS.clone()
    bx.match(objects, labels, PRIORS)
    assert all(torch.equal(now, then) for now, then in zip((objects, labels, PRIORS), before, strict=True))


def same(got, expected):
    """Equal detections; those with equal scores may come in any order, which random outputs do not have."""
    for ours, theirs in zip(got, expected, strict=True):
        for key in ("boxes", "scores", "labels"):
            torch.testing.assert_close(ours[key], theirs[key], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("images, scale", [(1, 2.0), (3, 2.0), (2, 0.5), (1, 3.0)])
@pytest.mark.parametrize("options", [{}, {"top": 37, "per_class": 50}, {"score_threshold": 0.3, "iou_threshold": 0.7}])
def test_detections_are_torchvisions(images, scale, options):
    outputs = draw_outputs(images, scale=scale)
    values = {"score_threshold": 0.01, "iou_threshold": 0.45, "per_class": 400, "top": 200} | options
    names = {"score_threshold": "score_thresh", "iou_threshold": "nms_thresh"}
    names |= {"per_class": "topk_candidates", "top": "detections_per_img"}
    theirs = torchvision_ssd(**{names[key]: value for key, value in values.items()})
    heads = {"bbox_regression": outputs[..., :4], "cls_logits": outputs[..., 4:]}
    expected = theirs.postprocess_detections(heads, [PRIORS] * images, [(1, 1)] * images)
    same(bx.detect(outputs, PRIORS, **options), expected)


def test_an_images_detections_do_not_depend_on_its_neighbours():
    outputs = draw_outputs(5)
    same(bx.detect(outputs, PRIORS), [bx.detect(one[None], PRIORS)[0] for one in outputs])


def test_trap_D12_no_image_has_more_than_the_top_detections():
    outputs = draw_outputs(2)
    few, many = bx.detect(outputs, PRIORS, top=200), bx.detect(outputs, PRIORS, top=10**6)
    assert all(len(one["scores"]) == 200 < len(all_["scores"]) for one, all_ in zip(few, many, strict=True))
    assert all(torch.equal(one["scores"], all_["scores"][:200]) for one, all_ in zip(few, many, strict=True))


def test_detections_come_best_first_inside_the_image_with_labels_of_objects():
    for found in bx.detect(draw_outputs(2), PRIORS):
        assert torch.equal(found["scores"], found["scores"].sort(descending=True).values)
        assert found["boxes"].min() >= 0 and found["boxes"].max() <= 1
        assert found["labels"].dtype == torch.int64 and found["labels"].min() >= 1 and found["labels"].max() <= CLASSES


def test_a_sure_object_is_found_once_and_background_never():
    outputs = torch.zeros(2, len(PRIORS), CLASSES + 5)
    outputs[..., 4] = 20.0
    outputs[0, [1000, 1006], 4 + 3] = torch.tensor([40.0, 39.0])  # the prior beside it overlaps by more than 0.45
    first, second = bx.detect(outputs, PRIORS)
    assert first["labels"].tolist() == [3] and len(second["labels"]) == 0 and second["boxes"].shape == (0, 4)
    torch.testing.assert_close(first["boxes"][0], PRIORS[1000].clamp(0, 1))


def test_detections_carry_no_gradient():
    assert not bx.detect(draw_outputs(1).requires_grad_(), PRIORS)[0]["boxes"].requires_grad
