"""Every parameter file of the paper's repository has its experiment here, and every experiment trains."""

import json
import math
from collections import Counter

import originals
import pytest
import torch
from PIL import Image

from stkd_utils import compute, data, experiments, ledger
from stkd_utils.detection import data as detection_data
from stkd_utils.detection import scenes
from stkd_utils.experiments import classification, detection, profiles, recording, tasks
from stkd_utils.splits import Split

ROWS = originals.rows()
each_file = pytest.mark.parametrize("row", ROWS, ids=lambda row: row["original"])
CLASSES = {"cifar10": "10", "cifar100": "100", "tinyimagenet": "200"}
NAMES = {"vgg19": "vgg19bn", "densenet": "densenet121", "mobilenet_v2": "mobilenetv2", "shufflenet_v2": "shufflenetv2"}
SHAPES = {"digits": (10, 1, 8), "mnist": (10, 1, 28), "cifar10": (10, 3, 32), "cifar100": (100, 3, 32)}
SHAPES |= {"tinyimagenet": (200, 3, 64)}
TINY = {"epochs": 1, "batch_size": 4, "width": 0.25, "depth": 0.25, "val_fraction": 1 / 3}
TINY |= {"train_limit": None, "val_limit": None, "test_limit": None}
VOC = {"size": 96, "train_sets": ["2007 train"], "test_sets": ["2007 val"]}


# the table of files


def test_all_73_files_of_the_original_stand_there_once():
    folders = Counter(tuple(row["original"].split("/")[:2]) for row in ROWS)
    bases = {family: count for (kind, family), count in folders.items() if kind == "base_experiments"}
    assert len({row["original"] for row in ROWS}) == len(ROWS) == 73
    assert set(bases.values()) == {4} and len(bases) == 11
    assert sum(count for (kind, _), count in folders.items() if kind == "kd_experiments") == 29
    assert sum(row["original"].endswith("/params.json") for row in ROWS) == 23


def dataset_of(row):
    """The data set that the code would take the file for: by its name; CIFAR-100's where the name says none."""
    named = row["original"].split("/")[-1].removesuffix("params.json").replace("_", "")
    return named or "cifar100"


@each_file
def test_trap_S3_experiments_have_the_values_of_the_file(row):
    for name in row["experiments"]:
        asked = experiments.load(name)
        assert asked["dataset"] == dataset_of(row) and asked["epochs"] == 100
        assert asked["lr"] == float(row["learning_rate"]) and asked["batch_size"] == int(row["batch_size"])
        network = row["model_version"].removesuffix("_distill")
        assert asked["model"] == NAMES.get(network, network)
        assert (asked.get("optimiser"), asked["weight_decay"]) == (("adam", 0) if network == "cnn" else (None, 5e-4))
        if asked["method"].startswith("tfkd-reg"):
            assert asked["reg_weight"] == float(row["reg_alpha"]) == pytest.approx(1 - asked["hard_weight"])
            assert asked["tau"] == float(row["reg_temperature"]) and asked["correct_prob"] == 0.99
        if asked["method"] == "tfkd-reg-as-coded":
            assert asked["reg_multiplier"] == float(row["multiplier"])
        if "teacher" in asked:
            assert asked["soft_weight"] == float(row["alpha"]) == pytest.approx(1 - asked["hard_weight"])
            assert asked["teacher"] == f"{asked['dataset']}/{NAMES.get(row['teacher'], row['teacher'])}-base"
            assert asked.get("tau", 20) == float(row["temperature"])


@each_file
def test_each_file_has_the_experiments_that_it_could_be(row):
    ways = {experiments.load(name)["method"] for name in row["experiments"]}
    if "distill" in row["model_version"]:
        itself = row["model_version"] == f"{row['teacher']}_distill"
        assert ways == ({"tfkd-self"} if itself else {"kd"})
    else:
        assert "base" in ways and row["teacher"] == "none"
        assert ("tfkd-reg" in ways) == bool(row["reg_alpha"])
        assert ("tfkd-reg-as-coded" in ways) == bool(row["reg_alpha"] and row["multiplier"])


@each_file
def test_what_is_said_of_a_file_follows_from_its_values(row):
    code, changed, distilled = row["code"], row["changed"], "distill" in row["model_version"]
    other = row["dataset"].replace("_", "") not in ("", dataset_of(row))
    assert code.startswith("never read") == row["original"].endswith("/params.json")
    assert f"not {row['num_epochs']}" in changed and row["num_epochs"] == "200"
    assert ("as the file's name says" in changed) == other
    assert ("names no data set" in changed) == (not row["dataset"])
    assert ("classes, not" in changed) == (row["num_class"] not in ("", CLASSES[dataset_of(row)]))
    assert ("alpha and temperature are used" in changed) == distilled
    assert ("are left out" in changed) == bool(row["alpha"] and not distilled)
    assert ("multiplier" in changed and distilled) == bool(row["multiplier"] and distilled)
    assert ("ImageNet weights" in changed) == (row["model_version"] in ("densenet121_distill", "resnet50_distill"))


# the page


def test_the_page_counts_files_and_experiments_and_lists_each():
    said = originals.counted()
    ours = {name for row in ROWS for name in row["experiments"]}
    assert f"has {len(ROWS)} parameter files; here they are {len(ours)} experiments." in said
    assert f"of the {len(experiments.names())} experiments" in said
    lines = originals.files().splitlines()
    assert len(lines) == 2 + len(ROWS) and all(line.count("|") == 5 for line in lines)
    for row, line in zip(ROWS, lines[2:], strict=True):
        assert all(f"`{name}`" in line for name in (row["original"], *row["experiments"]))


def test_kinds_of_experiments_sum_to_all_of_them():
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in originals.ways().splitlines()]
    assert sum(map(int, rows[-1][1:])) == len(experiments.names())
    assert {"`-base`", "`-kd`", "`-stochastic`", "`-self`", "`-reg`"} <= {row[0] for row in rows}


# every experiment, on noise


def noise(name, root=None, **_):
    """A data set called ``name`` of 12 images to learn from and 2 to be tested on, all of them noise."""
    classes, channels, size = SHAPES[name]
    chance = torch.Generator().manual_seed(0)
    images = torch.randint(256, (14, channels, size, size), generator=chance, dtype=torch.uint8)
    whole = Split(images, torch.randint(classes, (14,), generator=chance))
    return whole.take(slice(12)), whole.take(slice(12, 14)), [str(number) for number in range(classes)]


def pictures(root, class_names, width, height):
    """``root``, with 14 images of noise in VOC's layout, each with one object: 12 in the list train, 2 in val."""
    base = root / "VOCdevkit" / "VOC2007"
    for part in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (base / part).mkdir(parents=True)
    chance = torch.Generator().manual_seed(0)
    for number in range(14):
        image = torch.randint(256, (height, width, 3), generator=chance, dtype=torch.uint8)
        Image.fromarray(image.numpy()).save(base / "JPEGImages" / f"{number:06d}.jpg")
        box = f"<xmin>5</xmin><ymin>5</ymin><xmax>{width // 2}</xmax><ymax>{height // 2}</ymax>"
        what = f"<name>{class_names[number % len(class_names)]}</name><difficult>0</difficult><bndbox>{box}</bndbox>"
        size = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
        text = f"<annotation>{size}<object>{what}</object></annotation>"
        (base / "Annotations" / f"{number:06d}.xml").write_text(text)
    for part, numbers in (("train", range(12)), ("val", range(12, 14))):
        (base / "ImageSets" / "Main" / f"{part}.txt").write_text("".join(f"{number:06d}\n" for number in numbers))
    return root


@pytest.fixture(scope="module")
def runs(tmp_path_factory, on_cpu):
    """A folder of runs, shared so that a teacher is trained once; whoever trains, trains two steps on noise."""
    folder = tmp_path_factory.mktemp("originals")
    smoke = {**json.loads(profiles.FILE.read_text())["smoke"], "overrides": TINY}
    smoke["detection"] = {**smoke["detection"], "overrides": {**TINY, **VOC}}
    long = {**smoke, "overrides": {**TINY, "epochs": 2}}
    (folder / "profiles.json").write_text(json.dumps({"smoke": smoke, "long": long}))
    digit_scenes = pictures(folder / "scenes", scenes.CLASSES, 96, 96)
    code = recording.environment.code()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(profiles, "FILE", folder / "profiles.json")
        patch.setattr(data, "read", noise)
        patch.setattr(scenes, "ensure", lambda root: digit_scenes)
        patch.setenv("STKD_DATA", str(pictures(folder / "voc", detection_data.VOC_CLASSES, 500, 375)))
        patch.setattr(recording.environment, "code", lambda: code)
        patch.setattr(compute, "count", counted_once(compute.count))
        classification._dataset.cache_clear()
        detection._dataset.cache_clear()
        yield folder / "runs"
    classification._dataset.cache_clear()
    detection._dataset.cache_clear()


def counted_once(count):
    """``count`` of `stkd_utils.compute`, which asks once for networks that look the same, for it takes a pass."""
    known = {}

    def remembered(model, shape):
        look = type(model).__name__, shape, tuple(parameter.shape for parameter in model.parameters())
        if look not in known:
            known[look] = count(model, shape)
        return known[look]

    return remembered


@pytest.mark.parametrize("name", experiments.names())
def test_every_experiment_trains_two_steps_and_leaves_a_valid_record(name, runs):
    profile = "long" if "teacher_stop_after" in experiments.load(name) else "smoke"  # a teacher that ends early
    run = experiments.run(name, profile=profile, runs=runs, progress="none")
    assert ledger.read(run.folder / "record.json") == run.record
    history, steps = run.record["history"], 2 * run.record["asked"]["epochs"]
    losses = [value for row in history for key, value in row.items() if key.startswith("loss_")]
    assert len(history) == steps / 2 and losses and all(map(math.isfinite, losses))
    assert len(run.taus) == (steps if tasks.method(run.record["asked"]).temperature else 0)
