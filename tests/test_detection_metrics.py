"""Average precision against cases done by hand, VOC's rules written out plainly, and pycocotools."""

import contextlib
import io
import math
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from stkd_utils.detection import metrics

quick = settings(max_examples=30, deadline=None)
seeds = st.integers(0, 2**32)
A, B = [0.0, 0.0, 0.4, 0.4], [0.5, 0.5, 0.9, 0.9]
FAR = [0.6, 0.0, 0.7, 0.1]


def truth(boxes, labels=None, difficult=None):
    return {
        "boxes": torch.tensor(boxes).reshape(-1, 4),
        "labels": torch.tensor(labels or [1] * len(boxes), dtype=torch.int64),
        "difficult": torch.tensor(difficult or [False] * len(boxes), dtype=torch.bool),
    }


def found(boxes, scores, labels=None):
    detection = {**truth(boxes, labels), "scores": torch.tensor(scores)}
    del detection["difficult"]
    return detection


def value(detections, truths, rule="area"):
    return metrics.average_precision(detections, truths, 1, rule).ap[1]


def both(detections, truths):
    return [value(detections, truths, rule) for rule in metrics.RULES]


def test_one_miss_between_two_hits_by_hand():
    # Precision 1, 1/2, 2/3 at recall 1/2, 1/2, 1: the area is (1 + 2/3) / 2, and 6 of 11 points see 1, 5 see 2/3.
    detections, truths = [found([A, FAR, B], [0.9, 0.8, 0.7])], [truth([A, B])]
    assert both(detections, truths) == pytest.approx([5 / 6, (6 + 5 * 2 / 3) / 11])
    curve = metrics.curves(detections, truths, 1)[1]
    assert curve.precision.tolist() == [1, 1 / 2, 2 / 3] and curve.recall.tolist() == [0.5, 0.5, 1]
    assert curve.scores == pytest.approx([0.9, 0.8, 0.7]) and curve.positives == 2


def test_an_object_that_is_never_found_costs_its_share_by_hand():
    # Precision 1/2 at recall 1/3: points 0, 0.1, 0.2 and 0.3 see 1/2.
    assert both([found([FAR, A], [0.9, 0.8])], [truth([A, B, [0.5, 0.0, 0.55, 0.4]])]) == pytest.approx([1 / 6, 2 / 11])


def test_perfect_detections_have_the_value_one():
    detections, truths = [found([A, B], [0.9, 0.8]), found([A], [0.1])], [truth([A, B]), truth([A])]
    assert both(detections, truths) == [1, 1]


@pytest.mark.parametrize("positives", range(1, 41))
def test_recall_reaches_a_tenth_exactly(positives):
    for hits in range(1, positives + 1):
        curve = metrics.Curve(np.linspace(1, 0, hits), np.arange(1, hits + 1), positives)
        assert curve.average_precision("11-point") == pytest.approx((10 * hits // positives + 1) / 11)


def test_images_are_ranked_together():
    detections = [found([FAR], [0.9]), found([A], [0.5])]
    assert value(detections, [truth([]), truth([A])]) == 1 / 2
    assert value([found([FAR], [0.4]), found([A], [0.5])], [truth([]), truth([A])]) == 1


def test_equal_scores_keep_the_order_of_the_images():
    detections = [found([FAR], [0.5]), found([FAR], [0.4])] * 50 + [found([A], [0.5])]
    truths = [truth([])] * 100 + [truth([A])]
    assert value(detections, truths) == pytest.approx(1 / 51) and value(detections[::-1], truths[::-1]) == 1


def test_a_second_detection_of_an_object_is_false():
    assert value([found([A, A, B], [0.9, 0.8, 0.7])], [truth([A, B])]) == pytest.approx((1 + 2 / 3) / 2)
    assert value([found([A, A], [0.9, 0.8])], [truth([A])]) == 1


def test_the_better_score_takes_the_object_not_the_better_overlap():
    loose = [0.0, 0.0, 0.4, 0.3]
    assert metrics.curves([found([A, loose], [0.5, 0.9])], [truth([A])], 1)[1].hits.tolist() == [1, 1]


def test_only_the_object_of_most_overlap_can_be_found():
    # The second detection overlaps the right object at IoU 0.82 and the left one, which is free, at 2/3.
    left, between, right = ([x, 0.0, x + 0.8, 1.0] for x in (0.0, 0.12, 0.2))
    assert metrics.curves([found([right, between], [0.9, 0.8])], [truth([left, right])], 1)[1].hits.tolist() == [1, 1]


def test_an_overlap_of_one_half_is_enough():
    assert value([found([[0.0, 0.0, 0.5, 1.0]], [0.9])], [truth([[0.0, 0.0, 1.0, 1.0]])]) == 1
    assert value([found([[0.0, 0.0, 0.4999, 1.0]], [0.9])], [truth([[0.0, 0.0, 1.0, 1.0]])]) == 0


def test_pixels_of_voc_give_the_overlap_of_its_development_kit():
    # 1-based inclusive 1..10 x 1..10 and 1..5 x 1..10 share 50 of 100 pixels: exactly one half.
    assert value([found([[0.0, 0.0, 5.0, 10.0]], [0.9])], [truth([[0.0, 0.0, 10.0, 10.0]])]) == 1


def test_difficult_objects_are_no_positives_and_their_detections_count_neither_way():
    difficult = [truth([A, B], difficult=[True, False])]
    for boxes in ([B], [A, B], [A, A, B]):
        scores = [0.9 - 0.1 * place for place in range(len(boxes))]
        assert both([found(boxes, scores)], difficult) == [1, 1]
        assert len(metrics.curves([found(boxes, scores)], difficult, 1)[1].scores) == 1
    assert value([found([FAR, B], [0.9, 0.8])], difficult) == 1 / 2


def test_classes_do_not_mix():
    detections, truths = [found([A, B], [0.9, 0.8], [2, 1])], [truth([A, B], [1, 2])]
    assert metrics.average_precision(detections, truths, 2).ap == {1: 0, 2: 0}
    assert metrics.average_precision([found([A, B], [0.9, 0.8], [1, 2])], truths, 2).map50 == 1


def test_classes_without_objects_are_left_out_of_the_mean_and_named():
    detections = [found([A, A, B, FAR], [0.9, 0.8, 0.7, 0.6], [1, 2, 3, 4])]
    result = metrics.average_precision(detections, [truth([A, B, FAR], [1, 3, 4], [False, True, False])], 5)
    assert result.absent == (2, 3, 5) and result.map50 == 1
    assert [label for label, found in result.ap.items() if math.isnan(found)] == [2, 3, 5]


@pytest.mark.parametrize("images", [0, 2])
def test_nothing_at_all_is_nan_and_no_detection_is_zero(images):
    nothing = metrics.average_precision([found([], [])] * images, [truth([])] * images, 2)
    assert math.isnan(nothing.map50) and nothing.absent == (1, 2)
    assert metrics.average_precision([found([], [])], [truth([A])], 1, "11-point").map50 == 0


def test_inputs_that_do_not_fit_are_refused_in_one_sentence():
    with pytest.raises(ValueError, match=r"^Detections and truths must be lists of .* 2 images .* 1 with truths\.$"):
        metrics.average_precision([found([], [])] * 2, [truth([])], 1)
    with pytest.raises(ValueError, match=r"^Labels of truths must lie between 1 and 2; got 1 to 3\.$"):
        metrics.average_precision([found([A], [0.5])], [truth([A, B], [1, 3])], 2)
    with pytest.raises(ValueError, match=r"^Labels of detections must lie between 1 and 2; got 0 to 0\.$"):
        metrics.average_precision([found([A], [0.5], [0])], [truth([A])], 2)
    with pytest.raises(ValueError, match=r"^The rule .* is one of area, 11-point; got '101-point'\.$"):
        metrics.average_precision([found([A], [0.5])], [truth([A])], 2, "101-point")


def scene(generator, disjoint, images=6):
    """Random objects of two classes, some difficult, and noisy copies of them as detections, in 1/64 of an image."""
    detections, truths = [], []
    for _ in range(images):
        cells = torch.randperm(4, generator=generator)[: torch.randint(5, (1,), generator=generator)]
        corner = torch.stack([cells % 2, cells // 2], dim=1) * 32
        corner = corner if disjoint else torch.randint(8, (len(cells), 2), generator=generator)
        boxes = torch.cat([corner, corner + torch.randint(16, 32, (len(cells), 2), generator=generator)], dim=1).float()
        labels = torch.randint(1, 3, (len(cells),), generator=generator)
        difficult = torch.rand(len(cells), generator=generator) < 0.25
        truths.append({"boxes": boxes / 64, "labels": labels, "difficult": difficult})
        source = torch.randint(len(cells), (4 * len(cells),), generator=generator) if len(cells) else cells
        moved = boxes[source] + torch.randint(-5, 6, (len(source), 4), generator=generator)
        scores = (torch.randperm(64, generator=generator)[: len(source)] + len(truths) / (images + 1)) / 64
        other = torch.randint(1, 3, (len(source),), generator=generator)
        labels = labels[source].where(torch.rand(len(source), generator=generator) < 0.8, other)
        detections.append({"boxes": moved / 64, "scores": scores, "labels": labels})
    return detections, truths


def plain_iou(a, b):
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    shared = max(width, 0) * max(height, 0)
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def plain_voc(detections, truths, label):
    """VOCevaldet.m and VOCap.m of the development kit, line by line: (area, 11-point)."""
    ranked, objects = [], []
    for image, (detection, truth) in enumerate(zip(detections, truths, strict=True)):
        of_class = [number == label for number in detection["labels"].tolist()]
        rows = zip(detection["scores"].tolist(), detection["boxes"].tolist(), of_class, strict=True)
        ranked += [(score, image, box) for score, box, mine in rows if mine]
        mine = truth["labels"] == label
        flags = truth["difficult"][mine].tolist()
        objects.append([[box, flag, False] for box, flag in zip(truth["boxes"][mine].tolist(), flags, strict=True)])
    positives = sum(not flag for image in objects for _, flag, _ in image)
    hits = misses = 0
    recall, precision = [], []
    for _, image, box in sorted(ranked, key=lambda row: -row[0]):
        most, best = -math.inf, None
        for candidate in objects[image]:
            overlap = plain_iou(box, candidate[0])
            if overlap > most:
                most, best = overlap, candidate
        if most >= 0.5 and best[1]:
            continue
        if most >= 0.5 and not best[2]:
            hits, best[2] = hits + 1, True
        else:
            misses += 1
        recall.append(hits / positives if positives else math.nan)
        precision.append(hits / (hits + misses))
    if not positives:
        return math.nan, math.nan
    steps, highest = [0.0, *recall, 1.0], [0.0, *precision, 0.0]
    for place in range(len(highest) - 2, -1, -1):
        highest[place] = max(highest[place], highest[place + 1])
    area = sum((steps[i] - steps[i - 1]) * highest[i] for i in range(1, len(steps)))
    reached = [[p for p, r in zip(precision, recall, strict=True) if r >= tenth / 10] for tenth in range(11)]
    return area, sum(max(values, default=0) for values in reached) / 11


@quick
@given(seeds, st.booleans())
def test_values_equal_the_development_kit_written_out(seed, disjoint):
    detections, truths = scene(torch.Generator().manual_seed(seed), disjoint)
    curves = metrics.curves(detections, truths, 2)
    for label in (1, 2):
        values = [curves[label].average_precision(rule) for rule in metrics.RULES]
        assert values == pytest.approx(plain_voc(detections, truths, label), abs=1e-12, nan_ok=True)


class VocOverlap(COCOeval):
    """COCO's evaluation, but a crowd (here: a difficult object) overlaps as any other object does."""

    def computeIoU(self, imgId, catId):
        ranked = sorted(self._dts[imgId, catId], key=lambda detection: -detection["score"])
        objects = self._gts[imgId, catId]
        return mask.iou([d["bbox"] for d in ranked], [o["bbox"] for o in objects], [0] * len(objects))


def coco(images, name, **constants):
    annotations = []
    for number, image in enumerate(images, start=1):
        for row, (box, label) in enumerate(zip(image["boxes"].tolist(), image["labels"].tolist(), strict=True)):
            box = [box[0], box[1], box[2] - box[0], box[3] - box[1]]
            row = {"image_id": number, "category_id": label, "bbox": box, "area": 1.0, name: image[name][row].item()}
            annotations.append({**row, "id": len(annotations) + 1, **constants})
    dataset = COCO()
    dataset.dataset = {
        "images": [{"id": number} for number in range(1, len(images) + 1)],
        "categories": [{"id": 1}, {"id": 2}],
        "annotations": annotations,
    }
    dataset.createIndex()
    return dataset


def coco_precision(detections, truths, label, recalls):
    """Mean over ``recalls`` of COCO's interpolated precision at IoU 0.5; -1 without a positive."""
    crowds = [{**truth, "iscrowd": truth["difficult"].long()} for truth in truths]
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = VocOverlap(coco(crowds, "iscrowd"), coco(detections, "score"), "bbox")
        parameters = evaluation.params
        parameters.catIds, parameters.iouThrs, parameters.recThrs = [label], np.array([0.5]), recalls
        parameters.areaRng, parameters.areaRngLbl, parameters.maxDets = [[0, 1e10]], ["all"], [1000]
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation.eval["precision"].mean()


@quick
@given(seeds)
def test_both_rules_equal_pycocotools_where_objects_are_disjoint(seed):
    detections, truths = scene(torch.Generator().manual_seed(seed), disjoint=True)
    renamed = [{**detection, "score": detection["scores"]} for detection in detections]
    for label, curve in metrics.curves(detections, truths, 2).items():
        if curve.positives:
            # Precision at the recalls 1/n, 2/n … 1 of n objects has the exact area as its mean.
            every = np.arange(1, curve.positives + 1) / curve.positives
            for rule, recalls in (("area", every), ("11-point", np.arange(11) / 10)):
                expected = coco_precision(renamed, truths, label, recalls)
                assert curve.average_precision(rule) == pytest.approx(expected, abs=1e-12)


def test_coco_map_is_one_for_perfect_detections_and_counts_thresholds():
    truths = [truth([A, B], [1, 2]), truth([])]
    assert metrics.coco_map([found([A, B], [0.9, 0.8], [1, 2]), found([], [])], truths) == pytest.approx(1)
    # IoU 0.78 is enough for 6 of the 10 thresholds, 0.5 to 0.75.
    whole, most = [0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 0.78, 1.0]
    assert metrics.coco_map([found([most], [0.9])], [truth([whole])]) == pytest.approx(0.6)


def test_coco_map_need_not_find_difficult_objects():
    assert metrics.coco_map([found([A, B], [0.9, 0.8])], [truth([A, B], difficult=[True, False])]) == pytest.approx(1)
    assert math.isnan(metrics.coco_map([found([A], [0.9])], [truth([A], difficult=[True])]))


@pytest.mark.filterwarnings("error")
def test_coco_map_takes_many_detections_without_a_warning():
    corners = torch.arange(200)[:, None] * torch.ones(4) / 1000 + torch.tensor([0, 0, 0.1, 0.1])
    assert metrics.coco_map([found(corners.tolist(), [0.5] * 200)], [truth([A])]) == 0


@pytest.mark.parametrize("package", ["torchmetrics.detection", "pycocotools.cocoeval"])
def test_coco_map_says_what_to_install(monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ModuleNotFoundError, match=r"^COCO's average precision needs .*: run pip install .*\.$"):
        metrics.coco_map([], [])
