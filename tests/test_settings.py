"""Settings: bad ones are refused before anything is trained, in one sentence with file, key and what would be valid.

Equal ones ask for one run.
"""

import json

import numpy as np
import pytest

from stkd_utils import experiments
from stkd_utils.experiments import ExperimentError, running, settings

pytestmark = pytest.mark.usefixtures("on_cpu")
STOCHASTIC = "digits/resnet18-mobilenetv2-stochastic"
TINY = {"progress": "none", "train_limit": 64, "val_limit": 32, "test_limit": 32, "epochs": 1}


def broken(change):
    one = experiments.load(STOCHASTIC)
    change(one)
    with pytest.raises(ExperimentError) as caught:
        settings.validate(one, "here.json")
    return str(caught.value)


def test_unknown_key_names_file_key_and_the_nearest():
    message = broken(lambda one: one.update(sof_weight=1))
    assert message == "here.json: unknown key 'sof_weight'; did you mean 'soft_weight'?"


@pytest.mark.parametrize("key", ["lr", "teacher", "tau_low", "model"])
def test_missing_key_is_named(key):
    assert f"here.json: the key '{key}' is missing" in broken(lambda one: one.pop(key))


def test_trap_S3_unused_key_is_an_error():
    message = broken(lambda one: one.update(tau=4))
    assert "here.json: the key 'tau' is unused, tau_policy 'stochastic' does not read it" in message
    assert "did you mean 'tau_low'" in message


def test_trap_S3_temperature_of_a_base_experiment_is_an_error():
    one = {**experiments.load("digits/resnet18-base"), "tau": 4}
    with pytest.raises(ExperimentError, match="'tau' is unused, method 'base' does not read it"):
        settings.validate(one, "here.json")


@pytest.mark.parametrize(
    "key, value",
    [("lr", "fast"), ("lr", -1), ("epochs", 0), ("epochs", 1.5), ("flip", 1), ("model", "resnet19"),
     ("tau_low", 0), ("batch_size", 1), ("milestones", [0.8, 0.3]), ("dataset", "cifar"), ("tau_policy", "random"),
     ("val_fraction", 0), ("train_limit", 1), ("method", ["kd", "mse"]), ("tau_policy", ["fixed"]),
     ("soft_weight", float("nan")), ("width", True)],
)  # fmt: skip
def test_bad_value_names_key_and_value(key, value):
    message = broken(lambda one: one.update({key: value}))
    assert f"'{key}' is {json.dumps(value)}; it must be" in message


def test_bad_name_lists_the_known():
    assert "resnet18" in broken(lambda one: one.update(model="resnet19"))


def test_unknown_experiment_and_profile_say_the_nearest():
    with pytest.raises(ExperimentError, match="did you mean 'digits/resnet18-base'"):
        experiments.run("digits/resnet-18-base")
    with pytest.raises(ExperimentError, match="did you mean 'quick'"):
        experiments.profile("quik")


def test_damaged_file_names_file_and_line(tmp_path, monkeypatch):
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "broken.json").write_text('{\n "lr": 0.1,\n}')
    monkeypatch.setattr(settings, "FOLDER", tmp_path)
    with pytest.raises(ExperimentError, match="x/broken.json: not valid JSON in line"):
        settings.load("x/broken")


def test_a_key_that_stands_twice_in_a_file_is_named(tmp_path, monkeypatch):
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "twice.json").write_text('{"lr": 0.1, "lr": 0.2}')
    monkeypatch.setattr(settings, "FOLDER", tmp_path)
    with pytest.raises(ExperimentError, match="x/twice.json: the key 'lr' stands there twice"):
        settings.load("x/twice")


def test_teacher_of_another_data_set_is_refused(tmp_path):
    with pytest.raises(ExperimentError, match="trained on other data than digits"):
        experiments.run(STOCHASTIC, runs=tmp_path, teacher="cifar10/resnet18-base", **TINY)


def test_teacher_that_is_a_student_is_refused(tmp_path):
    with pytest.raises(ExperimentError, match="is of method kd; name a base experiment"):
        experiments.run(STOCHASTIC, runs=tmp_path, teacher=STOCHASTIC, **TINY)


@pytest.mark.parametrize("key", ["method", "tau_policy", "dataset"])
def test_a_list_where_one_value_is_needed_is_refused(key):
    with pytest.raises(ExperimentError, match=f"'{key}' is .*; it must be"):
        experiments.resolve(STOCHASTIC, **{key: ["kd", "mse"]})


def test_overriding_the_policy_drops_the_temperatures_it_does_not_read():
    asked = experiments.resolve(STOCHASTIC, tau_policy="fixed", tau=4)
    assert asked["tau"] == 4 and "tau_low" not in asked


@pytest.mark.parametrize("name, overrides", [
    ("digits/resnet18-mobilenetv2-stochastic", {"tau_low": 2.5}),
    ("digits/resnet18-mobilenetv2-crd-stochastic", {"tau_policy": "stochastic", "tau_low": 0.05, "tau_high": 0.1}),
    ("digits/resnet18-mobilenetv2-kd", {"tau": float("inf")}),
])  # fmt: skip
def test_temperatures_that_a_policy_refuses_are_one_sentence_before_anything_is_trained(name, overrides):
    with pytest.raises(experiments.ExperimentError, match="tau"):
        experiments.resolve(name, **overrides)


@pytest.mark.parametrize("key", ["width", "depth", "lr", "weight_decay", "soft_weight"])
@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_a_number_that_is_not_finite_is_refused(key, value):
    with pytest.raises(ExperimentError, match=f"'{key}' is"):
        experiments.resolve("digits/resnet18-mobilenetv2-kd", **{key: value})


def test_run_ids_do_not_depend_on_the_order_of_keys():
    asked = experiments.resolve(STOCHASTIC)
    assert settings.digest(asked) == settings.digest(dict(reversed(asked.items())))


@pytest.mark.parametrize("whole, other", [
    ({"tau": 4}, {"tau": 4.0}), ({"rotation_degrees": 0}, {"rotation_degrees": -0.0}),
    ({"milestones": [0, 0.5, 1]}, {"milestones": [0.0, 0.5, 1.0]}),
])  # fmt: skip
def test_numbers_that_are_equal_ask_for_one_run(whole, other):
    one, two = (experiments.resolve("digits/resnet18-mobilenetv2-kd", **change) for change in (whole, other))
    assert settings.digest(one) == settings.digest(two)
    assert one["flip"] is two["flip"] is False, "a truth value became a number"


def test_a_number_too_large_for_tensors_as_an_int_stays_a_float():
    assert isinstance(experiments.resolve(STOCHASTIC, lr=1e30)["lr"], float)


def test_values_from_python_are_those_of_json():
    name = "digits/resnet18-mobilenetv2-kd"
    given = {"tau": np.int64(4), "lr": np.float64(0.5), "milestones": (0.5, 0.75, 1), "epochs": 2.0}
    written = {"tau": 4, "lr": 0.5, "milestones": [0.5, 0.75, 1], "epochs": 2}
    found = settings.resolve(name, given)
    assert found == settings.resolve(name, written) and json.dumps(found)
    assert running.lists(name, {"milestones": (0.5, 0.75), "tau": (2, 3)}) == {"tau": (2, 3)}
    assert running.lists(name, {"seed": 3, "tau": range(2, 21)}) == {"tau": range(2, 21)}


@pytest.mark.parametrize("name, key, value", [
    ("digits/resnet18-mobilenetv2-kd", "rotation_degrees", 200), ("scenes/mobilenetv2ssdlite-base", "size", 100),
    ("scenes/mobilenetv2ssdlite-base", "size", 16), ("scenes/mobilenetv2ssdlite-base", "size", "wide"),
])  # fmt: skip
def test_what_a_network_or_a_view_cannot_take_is_said_before_training(name, key, value):
    with pytest.raises(ExperimentError, match=f"'{key}' is "):
        settings.resolve(name, {key: value})
