"""Pictures of priors: one panel for each thing, and what is drawn is what the numbers say."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from stkd_utils.detection import boxes, pictures

IMAGE = torch.zeros(3, 40, 60, dtype=torch.uint8)
MAPS = [4, 2, 1]


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def panels(figure):
    return [axis for axis in figure.axes if axis.get_title()]


def drawn(axis):
    """Boxes (xmin, ymin, xmax, ymax) of the rectangles in a panel, and their line widths."""
    corners = [patch.get_bbox().extents for patch in axis.patches]
    return torch.tensor(np.array(corners), dtype=torch.float32), [patch.get_linewidth() for patch in axis.patches]


def test_each_map_shows_all_its_places_and_the_six_priors_of_one():
    priors = boxes.priors(MAPS)
    shown = panels(pictures.priors_by_map(IMAGE, priors, MAPS))
    assert [axis.get_title() for axis in shown] == ["4 × 4", "2 × 2", "1 × 1"]
    places = torch.tensor(shown[0].lines[0].get_xydata())
    assert len(places) == 16 and {round(x, 4) for x in places[:, 0].tolist()} == {0.125, 0.375, 0.625, 0.875}
    for axis, first in zip(shown, (6 * (2 * 4 + 2), 6 * (16 + 1 * 2 + 1), 6 * 20), strict=True):
        torch.testing.assert_close(drawn(axis)[0], priors[first : first + 6])


def test_each_object_is_shown_with_the_priors_that_are_to_find_it():
    priors = boxes.priors(MAPS)
    objects = {"boxes": torch.stack((priors[8], priors[-1])), "labels": torch.tensor([2, 1])}
    labels, matched = boxes.match(objects["boxes"][None], objects["labels"][None], priors)
    figure = pictures.matched_priors(IMAGE, objects, priors, labels[0], matched[0], ("cat", "dog"))
    for axis, box, label in zip(panels(figure), objects["boxes"], (2, 1), strict=True):
        found, widths = drawn(axis)
        expected = priors[labels[0] == label]
        assert axis.get_title() == f"{('cat', 'dog')[label - 1]}: {len(expected)}"
        torch.testing.assert_close(found, torch.cat((expected, box[None])))
        assert widths[-1] > max(widths[:-1])


def test_heat_is_the_largest_value_at_each_place():
    values = torch.zeros(6 * 21)
    values[6 * 7 + 3], values[-1] = 0.75, 0.5
    shown = panels(pictures.heat(IMAGE, values, MAPS, "Probability"))
    first, second, third = (axis.images[-1].get_array() for axis in shown)
    assert first[1, 3] == 0.75 and (first > 0).sum() == 1
    assert (second == 0).all() and third[0, 0] == 0.5


@pytest.mark.parametrize("count, rows", [(1, 1), (3, 1), (4, 1), (6, 2)])
def test_panels_fill_rows_and_leave_room_to_read(count, rows):
    figure, axes = pictures._panels(IMAGE, [str(number) for number in range(count)])
    assert len(axes) == count
    assert len({round(axis.get_position().y0, 3) for axis in axes}) == rows
    assert figure.get_figwidth() <= 7.2
