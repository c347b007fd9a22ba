"""Detection as experiments: valid files, one sentence for what is wrong, the command line, a run on real images."""

import hashlib
import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from stkd_utils import detection, experiments, ledger
from stkd_utils.__main__ import main
from stkd_utils.experiments import ExperimentError, settings, tasks, together
from stkd_utils.sources import root_folder

pytestmark = pytest.mark.usefixtures("on_cpu")
BASE, KD, STOCHASTIC = (
    f"scenes/{name}"
    for name in (
        "mobilenetv2ssdlite-base",
        "ssd300vgg16bn-mobilenetv2ssdlite-kd",
        "ssd300vgg16bn-mobilenetv2ssdlite-stochastic",
    )
)
NAMES = [name for name in experiments.names() if name.split("/")[0] in detection.data.names()]
TINY = {"profile": "smoke", "progress": "none", "epochs": 1, "train_limit": 8, "val_limit": 8, "test_limit": 8}
VOC = root_folder() / "VOCdevkit" / "VOC2007"


# files


def test_both_data_sets_have_a_student_alone_its_teacher_and_both_ways_to_distil():
    methods = {name.split("/")[0]: [] for name in NAMES}
    for name in NAMES:
        methods[name.split("/")[0]].append(experiments.load(name)["method"])
    assert methods == {"scenes": ["base", "base", "kd", "kd"], "voc": ["base", "base", "kd", "kd"]}
    assert all(tasks.of(experiments.load(name)) is tasks.TASKS["detection"] for name in NAMES)


@pytest.mark.parametrize("profile", experiments.profile_names())
@pytest.mark.parametrize("name", NAMES)
def test_every_file_resolves_and_its_networks_fit_each_other(name, profile):
    asked = experiments.resolve(name, profile)
    assert sorted(settings.validate(asked, name) or asked) == sorted(asked)
    if asked["method"] != "base":
        teacher = experiments.resolve(asked["teacher"], profile)
        same = ("dataset", "size", "train_sets", "test_sets", "augment", "match_iou")
        assert {key: teacher[key] for key in same} == {key: asked[key] for key in same}
        assert asked["width"] == teacher["width"] and asked["imagenet"] == teacher["imagenet"]
    assert len(detection.models.maps(asked["size"])) > 1


def test_the_profiles_of_detection_are_its_own():
    smoke, digits = (experiments.profile("smoke", task) for task in ("detection", "classification"))
    assert smoke.dataset == "scenes" and digits.dataset == "digits"
    assert smoke.overrides["size"] == 96 and "size" not in digits.overrides
    assert experiments.profile("paper", "detection").dataset == "voc"
    assert (smoke.seeds, smoke.claims) == (digits.seeds, digits.claims)


@pytest.mark.parametrize("change, said", [
    ({"flip": True}, "the key 'flip' is unused, dataset 'scenes' does not read it: remove it"),
    ({"crop_padding": 1}, "the key 'crop_padding' is unused, dataset 'scenes' does not read it: remove it"),
    ({"stored_teacher": True}, "the key 'stored_teacher' is unused, dataset 'scenes' does not read it: remove it"),
    ({"momentum": 0.9}, "the key 'momentum' is unused, optimiser 'adam' does not read it: remove it"),
    ({"tau": 4}, "the key 'tau' is unused, tau_policy 'stochastic' does not read it: remove it"),
    ({"hint_wieght": 1}, "unknown key 'hint_wieght'; did you mean 'hint_weight'"),
    ({"model": "resnet18"}, "it must be a detector: mobilenetv2ssdlite, ssd300vgg16, ssd300vgg16bn"),
    ({"method": "dkd"}, "it must be a method: base, kd"),
    ({"augment": "flip"}, "it must be an augmentation: none, ssd"),
    ({"optimiser": "adamw"}, "it must be an optimiser: sgd, adam"),
    ({"train_sets": "2007 train"}, "it must be lists of VOC layout, such as"),
    ({"test_sets": []}, "it must be lists of VOC layout, such as"),
    ({"size": 0}, "it must be the side of an image in pixels"),
    ({"imagenet": 1}, "it must be true (where the weights are at hand) or false"),
    ({"match_iou": 1.5}, "it must be an overlap between 0 and 1"),
    ({"background_weight": -1}, "it must be a number of 0 or more"),
])  # fmt: skip
def test_trap_S3_a_wrong_key_or_value_is_one_sentence_with_key_and_file(change, said):
    for check in (
        lambda: experiments.resolve(STOCHASTIC, **change),
        lambda: settings.validate({**experiments.load(STOCHASTIC), **change}, STOCHASTIC),
    ):
        with pytest.raises(ExperimentError) as caught:
            check()
        message = str(caught.value)
        assert message.startswith(f"{STOCHASTIC}: ") and said in message and message.count("\n") == 0
        assert message[-1] in ".?" and next(iter(change)) in message


@pytest.mark.parametrize("key", ["size", "train_sets", "augment", "imagenet", "bound_weight", "background_weight"])
def test_a_missing_key_is_named(key):
    one = experiments.load(STOCHASTIC)
    del one[key]
    with pytest.raises(ExperimentError, match=f"^here.json: the key '{key}' is missing"):
        settings.validate(one, "here.json")


def test_sgd_reads_momentum_and_a_student_alone_no_weight_of_a_teacher():
    with pytest.raises(ExperimentError, match="the key 'momentum' is missing"):
        experiments.resolve(BASE, optimiser="sgd")
    assert experiments.resolve(BASE, optimiser="sgd", momentum=0.9)["momentum"] == 0.9
    with pytest.raises(ExperimentError, match="'hint_weight' is unused, method 'base' does not read it"):
        experiments.resolve(BASE, hint_weight=1)
    with pytest.raises(ExperimentError, match="'size' is unused, dataset 'digits' does not read it"):
        experiments.resolve("digits/resnet18-base", size=96)


def test_a_teacher_of_another_task_is_refused(tmp_path):
    with pytest.raises(ExperimentError, match="trained on other data than scenes"):
        experiments.run(STOCHASTIC, runs=tmp_path, teacher="digits/resnet18-base", **TINY)


@pytest.mark.parametrize("key, values", [
    ("train_sets", [["2007 train"], ["2007 trainval"]]), ("size", [64, 96]), ("augment", ["none", "ssd"])
])  # fmt: skip
def test_runs_on_other_images_or_views_cannot_share_a_pass(tmp_path, key, values):
    with pytest.raises(ExperimentError, match=f"together only with equal '{key}'; got .*: run them apart.$"):
        experiments.sweep(KD, seeds=[0], together=True, runs=tmp_path, tau=4, **{key: values}, **TINY)
    assert not list(tmp_path.iterdir())


def test_lists_of_images_are_one_value_and_not_a_grid(scenes_data, tmp_path):
    options = {"runs": tmp_path, "train_sets": ["2007 trainval"], "test_sets": ["2007 test"], "size": 64}
    found = experiments.sweep(BASE, seeds=[0], **options, **TINY)
    assert [run.record["asked"]["train_sets"] for run in found] == [["2007 trainval"]]


# ImageNet weights


@pytest.mark.usefixtures("scenes_data")
@pytest.mark.parametrize("full, said", [
    (False, "a network of another width or depth has no ImageNet weights."),
    (True, "mobilenet_v2-b0353104.pth is not in {}."),
], ids=["scaled", "absent"])  # fmt: skip
def test_without_imagenet_weights_the_record_and_one_sentence_say_scratch(tmp_path, monkeypatch, capsys, full, said):
    monkeypatch.setattr(together, "train", lambda *_, **__: pytest.fail("stop before training"))
    size = {"size": 64, "imagenet": True} | ({"width": 1, "depth": 1} if full else {})
    options = {**TINY, **size, "progress": "lines"}
    starts, real = [], together._start
    monkeypatch.setattr(together, "_start", lambda *given: starts.append(real(*given)) or starts[-1])
    with pytest.raises(pytest.fail.Exception):
        experiments.run(BASE, runs=tmp_path, **options)
    shown = capsys.readouterr().out
    where = root_folder() / "weights"
    assert shown == f"mobilenetv2ssdlite: trained from scratch: {said.format(where)}\n"
    assert [start["initial"] for start in starts] == ["scratch"]


@pytest.mark.usefixtures("scenes_data")
def test_imagenet_weights_that_are_at_hand_are_where_the_student_starts(tmp_path, monkeypatch, capsys):
    network = detection.models.build("mobilenetv2ssdlite", 10, size=64, seed=5)
    state = {f"features.{key}": value for key, value in network.body.features.state_dict().items()}
    (tmp_path / "weights").mkdir()
    torch.save(state, tmp_path / "file.pth")
    digest = hashlib.sha256((tmp_path / "file.pth").read_bytes()).hexdigest()
    file = (tmp_path / "file.pth").rename(tmp_path / "weights" / f"net-{digest[:8]}.pth")
    monkeypatch.setattr(detection.models, "_file", lambda weights, root: file)
    full = {"size": 64, "width": 1, "depth": 1, **TINY, "progress": "lines"}
    scratch, found = (experiments.run(BASE, runs=tmp_path, imagenet=asked, **full) for asked in (False, True))
    assert [run.record["initial"] for run in (scratch, found)] == ["scratch", "imagenet"]
    assert scratch.record["init_checksum"] != found.record["init_checksum"]
    assert capsys.readouterr().out.count(f"mobilenetv2ssdlite: ImageNet weights loaded: {file.name}.\n") == 1


# the command line


@pytest.mark.usefixtures("scenes_data")
def test_command_line_trains_a_detector_and_says_its_map50(tmp_path, capsys):
    words = [word for key, value in TINY.items() if "_limit" in key for word in ("--set", f"{key}={value}")]
    asked = ["run", STOCHASTIC, "--profile", "smoke", "--runs", str(tmp_path), *words, "--set", "size=64"]
    assert main(asked) == 0
    shown = capsys.readouterr().out
    record = ledger.read(shown.strip().splitlines()[-1])
    last = record["result"]["last"]
    line = f"test {100 * last['test_map50']:.2f} %, validation {100 * last['val_map50']:.2f} % (map50)"
    assert f"last   epoch 2: {line}" in shown and "Emissions" in shown
    assert f"{STOCHASTIC} seed 0  epoch 1/2" in shown
    assert main(asked) == 0
    again = capsys.readouterr().out
    assert "finished before; nothing was trained" in again and line in again
    assert json.loads(json.dumps(record)) == record


def test_fetching_data_that_nobody_knows_is_one_sentence(capsys):
    assert main(["data", "nosuch"]) == 2
    message = capsys.readouterr().err
    assert "nosuch" in message and "cifar10" in message and message.count("\n") == 1


def test_without_voc_the_sentence_says_how_to_get_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("STKD_DATA", str(tmp_path))
    assert main(["run", "voc/mobilenetv2ssdlite-base", "--profile", "smoke", "--runs", str(tmp_path / "runs")]) == 2
    message = capsys.readouterr().err
    assert str(tmp_path) in message and "python -m stkd_utils data voc" in message and message.count("\n") == 1


def voc(root, annotation):
    """A folder in VOC layout with one grey image and its ``annotation``, in the lists train and val."""
    base = root / "VOCdevkit" / "VOC2007"
    for part in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (base / part).mkdir(parents=True)
    Image.new("RGB", (20, 10)).save(base / "JPEGImages" / "000012.jpg")
    (base / "Annotations" / "000012.xml").write_text(annotation)
    for part in ("train", "val"):
        (base / "ImageSets" / "Main" / f"{part}.txt").write_text("000012\n")


@pytest.mark.parametrize("annotation", ["<annotation><object>", "", "<annotation></annotation>"])
def test_a_malformed_annotation_stops_before_training_with_its_name(tmp_path, monkeypatch, capsys, annotation):
    voc(tmp_path, annotation)
    monkeypatch.setenv("STKD_DATA", str(tmp_path))
    monkeypatch.setattr(together, "train", lambda *_, **__: pytest.fail("it was trained"))
    asked = ["run", "voc/mobilenetv2ssdlite-base", "--profile", "smoke", "--runs", str(tmp_path / "runs")]
    assert main(asked) == 2
    message = capsys.readouterr().err
    assert str(Path("Annotations") / "000012.xml") in message and message.count("\n") == 1


# real images


@pytest.mark.skipif(not VOC.is_dir(), reason=f"real VOC images are needed: {VOC} is missing")
def test_real_voc_from_teacher_to_record(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("STKD_DATA", str(root_folder(VOC.parents[1])))
    limits = ["--set", "train_limit=12", "--set", "val_limit=8", "--set", "test_limit=8"]
    asked = ["run", "voc/ssd300vgg16-mobilenetv2ssdlite-stochastic", "--profile", "smoke", "--runs", str(tmp_path)]
    assert main([*asked, *limits]) == 0
    path = Path(capsys.readouterr().out.strip().splitlines()[-1])
    record = ledger.read(path)
    assert record["asked"]["dataset"] == "voc" and record["teacher_id"].startswith("voc_ssd300vgg16-base")
    assert record["asked"]["augment"] == "ssd" and record["initial"] == "scratch"
    assert len(record["result"]["last"]["test_ap50"]) == 20
    assert 2 <= record["tau"]["min"] <= record["tau"]["max"] <= 20 and record["tau"]["draws"] == 4
    with Image.open(path.parent / "last" / "pictures.png") as picture:
        assert picture.format == "PNG"
    assert len(list((path.parent / "last").glob("comp4_det_test_*.txt"))) == 20


def test_a_train_split_of_nothing_is_refused(tmp_path):
    with pytest.raises(experiments.ExperimentError, match="fewer than 2 images; lower val_fraction"):
        options = {"val_fraction": 0.9999, "train_limit": None, "progress": "none", "runs": tmp_path}
        experiments.run("scenes/mobilenetv2ssdlite-base", 0, "smoke", **options)
