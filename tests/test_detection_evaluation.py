"""What is said of a detector: numbers that agree with the metrics, files that VOC's kit reads, pictures."""

import dataclasses
import math
from xml.etree import ElementTree

import matplotlib.pyplot as plt
import pytest
import torch
from PIL import Image
from torch import nn

from stkd_utils import detection, experiments
from stkd_utils.detection import boxes, metrics
from stkd_utils.detection.evaluation import SHOWN, detections, write

pytestmark = pytest.mark.usefixtures("on_cpu", "scenes_data")
SETTINGS = {"profile": "smoke", "progress": "none", "size": 64, "train_limit": 24, "val_limit": 16, "test_limit": 16}


@pytest.fixture(scope="module")
def run(scenes_data, tmp_path_factory):
    runs = tmp_path_factory.mktemp("runs")
    return experiments.run("scenes/mobilenetv2ssdlite-base", 3, runs=runs, lr=0.3, epochs=3, **SETTINGS)


@pytest.fixture(scope="module")
def scenes(run):
    return experiments.detection.dataset(run.record["asked"], "cpu")


class Oracle(nn.Module):
    """Gives the easy objects of ``split``, whose images it is shown in order; one class further when ``wrong``."""

    def __init__(self, split, dataset, wrong=False):
        super().__init__()
        self.register_buffer("priors", boxes.priors([12, 6, 3, 2, 1]), persistent=False)
        self.answers = (self._answer(batch, dataset.classes, wrong) for batch in dataset.batches(split, 32))
        self.layer = nn.BatchNorm2d(3)
        self.modes = []

    def _answer(self, batch, classes, wrong):
        labels, offsets = detection.objectives.targets(batch, self.priors)
        labels = torch.where(labels > 0, (labels - 1 + wrong) % classes + 1, 0)
        return torch.cat((offsets, 20.0 * nn.functional.one_hot(labels, classes + 1)), dim=2)

    def forward(self, views):
        self.modes.append(self.training)
        self.layer(views)  # would learn from what it sees
        return next(self.answers)


@pytest.fixture
def oracle(scenes):
    return Oracle(scenes.test, scenes)


# numbers


def test_map50_of_the_record_is_that_of_the_metrics_by_both_rules(run, scenes):
    for epoch in ("last", "chosen"):
        model, result = run.model(epoch), run.record["result"][epoch]
        found, loss = detections(model, scenes.test, scenes)
        by_rule = {rule: metrics.average_precision(found, scenes.test.truths(), 10, rule) for rule in metrics.RULES}
        assert result["test_map50"] == pytest.approx(by_rule["area"].map50) and result["test_map50"] > 0
        assert result["test_map50_11_point"] == pytest.approx(by_rule["11-point"].map50)
        assert result["test_map_coco"] == pytest.approx(metrics.coco_map(found, scenes.test.truths()))
        assert result["test_loss"] == pytest.approx(loss)
        ap = by_rule["area"].ap
        said = [math.nan if value is None else value for value in result["test_ap50"].values()]
        assert list(result["test_ap50"]) == list(scenes.class_names)
        assert said == pytest.approx([ap[label] for label in range(1, 11)], nan_ok=True)
    row = run.record["history"][-1]
    again = detection.evaluate(run.model("last"), scenes.val, scenes)
    assert (row["val_map50"], row["val_loss"]) == pytest.approx((again["map50"], again["loss"]))
    assert run.record["result"]["last"]["val_map50"] == row["val_map50"]


def test_finding_everything_is_1_and_calling_it_something_else_0(scenes, oracle):
    assert detection.evaluate(oracle, scenes.test, scenes)["map50"] == pytest.approx(1)
    wrong = detection.report(Oracle(scenes.test, scenes, wrong=True), scenes)
    assert [wrong[key] for key in ("map50", "map50_11_point", "map_coco")] == pytest.approx([0, 0, 0])


def test_a_class_without_objects_is_null_and_left_out_of_the_mean(scenes):
    first = next(i for i in range(len(scenes.test)) if len(scenes.test.objects(i)[1]))
    one = dataclasses.replace(scenes, test=scenes.test.take(torch.tensor([first])))
    said = detection.report(Oracle(one.test, one), one)
    there = {scenes.class_names[label - 1] for label in one.test.objects(0)[1].tolist()}
    assert {name for name, value in said["ap50"].items() if value is not None} == there
    assert 0 < len(there) < 10 and said["map50"] == said["map50_11_point"] == pytest.approx(1)


@pytest.mark.parametrize("training", [True, False])
def test_evaluation_restores_the_training_mode_and_learns_nothing(scenes, oracle, training):
    oracle.train(training)
    before = {key: value.clone() for key, value in oracle.state_dict().items()}
    detection.evaluate(oracle, scenes.test, scenes)
    assert oracle.training == oracle.layer.training == training and oracle.modes == [False]
    assert all(torch.equal(value, before[key]) for key, value in oracle.state_dict().items())


@pytest.mark.parametrize("batch_size", [1, 5])
def test_the_size_of_a_batch_does_not_matter(run, scenes, batch_size):
    model = run.model("last")
    whole = detection.evaluate(model, scenes.val, scenes)
    parts = detection.evaluate(model, scenes.val, scenes, batch_size=batch_size)
    assert parts["map50"] == pytest.approx(whole["map50"], abs=1e-3)


# files of VOC


def lines(folder):
    """(class, image, score, box) of every line in the files of a folder."""
    rows = []
    for path in sorted(folder.glob("comp4_det_test_*.txt")):
        for line in path.read_text().splitlines():
            image, *numbers = line.split(" ")
            score, *box = map(float, numbers)
            rows.append((path.stem.removeprefix("comp4_det_test_"), image, score, box))
    return rows


def test_files_hold_pixels_that_start_at_1_by_hand(tmp_path):
    split = detection.data.Split(("2007/000007",), (None,), torch.tensor([[100, 200]]), (), (), ())
    found = {
        "boxes": torch.tensor([[0.0, 0.0, 1.0, 1.0], [0.1, 0.2, 0.5, 0.9]]),
        "scores": torch.tensor([0.75, 0.25]),
        "labels": torch.tensor([2, 1]),
    }
    write([found], split, ("cat", "dog", "cow"), tmp_path / "new")
    texts = {path.name: path.read_text() for path in (tmp_path / "new").iterdir()}
    assert texts == {
        "comp4_det_test_cat.txt": "000007 0.250000 21.0 21.0 100.0 90.0\n",
        "comp4_det_test_dog.txt": "000007 0.750000 1.0 1.0 200.0 100.0\n",
        "comp4_det_test_cow.txt": "",
    }


def test_boxes_of_the_files_are_those_of_the_annotations(scenes, oracle, tmp_path):
    detection.report(oracle, scenes, folder=tmp_path)
    written = {(name, image, *map(round, box)) for name, image, score, box in lines(tmp_path) if score > 0.9}
    noted = set()
    for file in scenes.test.files:
        annotation = ElementTree.parse(file.parents[1] / "Annotations" / f"{file.stem}.xml")
        for one in annotation.findall("object"):
            box = [int(one.findtext(f"bndbox/{edge}")) for edge in ("xmin", "ymin", "xmax", "ymax")]
            if one.findtext("difficult") == "0":
                noted.add((one.findtext("name"), file.stem, *box))
    assert written == noted and len(noted) > 10


def test_files_of_a_run_hold_what_the_record_counts(run, scenes):
    """Read again as VOC's development kit reads them, they give the average precision of the record."""
    places = {name.split("/")[1]: i for i, name in enumerate(scenes.test.ids)}
    found = [{"boxes": [], "scores": [], "labels": []} for _ in scenes.test.ids]
    for name, image, score, (left, top, right, bottom) in lines(run.folder / "last"):
        one = found[places[image]]
        one["boxes"].append([(left - 1) / 96, (top - 1) / 96, right / 96, bottom / 96])
        one["scores"].append(score)
        one["labels"].append(1 + scenes.class_names.index(name))
    tensors = [
        {
            "boxes": torch.tensor(one["boxes"]).view(-1, 4),
            "scores": torch.tensor(one["scores"]),
            "labels": torch.tensor(one["labels"], dtype=torch.int64),
        }
        for one in found
    ]
    said = metrics.average_precision(tensors, scenes.test.truths(), 10)
    assert said.map50 == pytest.approx(run.record["result"]["last"]["test_map50"], abs=0.01)


# pictures


def test_the_picture_of_a_run_can_be_opened_and_no_figure_stays_open(run, scenes, oracle, tmp_path):
    before = plt.get_fignums()
    detection.report(oracle, scenes, folder=tmp_path)
    assert plt.get_fignums() == before
    for path in (tmp_path / "pictures.png", run.folder / "last" / "pictures.png"):
        with Image.open(path) as picture:
            assert picture.format == "PNG" and picture.width > 100 * SHOWN and picture.height > 200
