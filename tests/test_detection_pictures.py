"""Pictures of detection: what is drawn and what is not, how large, and which panel shows what."""

import matplotlib.pyplot as plt
import pytest
import torch
from matplotlib.patches import Rectangle

from stkd_utils.detection import boxes, pictures

GREEN = (0x12, 0x85, 0x5A)
MAPS = (4, 2, 1)
IMAGE = torch.full((3, 48, 48), 90, dtype=torch.uint8)


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def objects(*scores):
    found = {"boxes": torch.tensor([[0.25, 0.25, 0.75, 0.75]] * len(scores)), "labels": torch.ones(len(scores)).long()}
    return found | {"scores": torch.tensor(scores)}


def is_drawn(picture):
    return bool((picture == torch.tensor(GREEN, dtype=torch.uint8)[:, None, None]).all(dim=0).any())


@pytest.mark.parametrize("height, width, wanted", [(96, 96, (240, 240)), (50, 100, (120, 240)), (480, 360, (240, 180))])
def test_a_drawn_picture_has_a_longer_side_of_240_pixels(height, width, wanted):
    image = torch.randint(256, (3, height, width), dtype=torch.uint8)
    before = image.clone()
    for found in (objects(0.9), objects(0.1)):
        picture = pictures.drawn(image, found, ("cat",))
        assert picture.shape == (3, *wanted) and picture.dtype == torch.uint8
    assert torch.equal(image, before)


def test_only_scores_from_the_threshold_on_are_drawn_and_truths_always():
    image = torch.zeros(3, 96, 96, dtype=torch.uint8)
    truth = {key: value for key, value in objects(0.0).items() if key != "scores"}
    assert [is_drawn(pictures.drawn(image, objects(score), ("cat",))) for score in (0.49, 0.5, 0.9)] == [0, 1, 1]
    assert not is_drawn(pictures.drawn(image, objects(0.9), ("cat",), threshold=0.95))
    assert is_drawn(pictures.drawn(image, truth, ("cat",)))
    assert not is_drawn(pictures.drawn(image, objects(), ("cat",)))


def test_a_figure_has_one_column_an_image_and_one_row_a_list():
    images = [torch.zeros(3, 96, 96, dtype=torch.uint8)] * 3
    rows = {"there": [objects(0.9)] * 5, "found": [objects(0.1)] * 5}
    figure = pictures.side_by_side(images, rows, ("cat",))
    assert len(figure.axes) == 6 and [axis.get_ylabel() for axis in figure.axes[::3]] == ["there", "found"]
    shown = [torch.as_tensor(axis.images[0].get_array()).permute(2, 0, 1) for axis in figure.axes]
    assert [is_drawn(picture) for picture in shown] == [True] * 3 + [False] * 3


def test_a_saved_figure_is_closed(tmp_path):
    pictures.save([IMAGE], {"there": [objects(0.9)]}, ("cat",), tmp_path / "one.png")
    assert plt.get_fignums() == [] and (tmp_path / "one.png").read_bytes().startswith(b"\x89PNG")


def panels(figure):
    """(heading, edges of each rectangle as (left, top, right, bottom)) of each panel with a heading."""
    found = []
    for axis in figure.axes:
        if axis.get_title():
            sides = [patch.get_bbox().extents.tolist() for patch in axis.patches if isinstance(patch, Rectangle)]
            found.append((axis.get_title(), torch.tensor(sides, dtype=torch.float32).reshape(-1, 4)))
    return found


def test_each_map_shows_its_places_and_the_six_priors_of_the_middle_one():
    priors = boxes.priors(MAPS)
    figure = pictures.priors_by_map(IMAGE, priors, MAPS)
    shown = panels(figure)
    assert [heading for heading, _ in shown] == ["4 × 4", "2 × 2", "1 × 1"]
    for (_, drawn), middle in zip(shown, (6 * 10, 6 * 16 + 6 * 3, 6 * 20), strict=True):
        torch.testing.assert_close(drawn, priors[middle : middle + 6])
    dots = [line.get_xydata() for axis in figure.axes for line in axis.lines]
    assert [len(places) for places in dots] == [16, 4, 1]
    torch.testing.assert_close(torch.tensor(dots[1]).float(), torch.tensor([[1, 1], [3, 1], [1, 3], [3, 3]]) / 4)


def test_each_object_is_shown_with_the_priors_that_are_to_find_it():
    priors = boxes.priors(MAPS)
    there = {"boxes": torch.stack((priors[0], priors[-6])), "labels": torch.tensor([2, 1])}
    labels, matched = boxes.match(there["boxes"][None], there["labels"][None], priors)
    shown = panels(pictures.matched_priors(IMAGE, there, priors, labels[0], matched[0], ("cat", "dog")))
    for (heading, drawn), name, label, box in zip(shown, ("dog", "cat"), (2, 1), there["boxes"], strict=True):
        own = priors[labels[0] == label]
        assert heading == f"{name}: {len(own)}" and len(own) > 0
        torch.testing.assert_close(drawn, torch.cat((own, box[None])))


def test_heat_is_the_largest_value_of_a_places_priors():
    values = torch.zeros(6 * 21)
    values[6 * 7 + 2], values[-1] = 0.75, 0.5  # row 1, column 3 of the first map, and the last one
    figure = pictures.heat(IMAGE, values, MAPS, "probability")
    first, second, last = (axis.images[-1].get_array() for axis in figure.axes if axis.get_title())
    assert first[1, 3] == 0.75 and first.sum() == 0.75 and second.sum() == 0 and last.tolist() == [[0.5]]
    assert figure.axes[-1].get_ylabel() == "probability"
