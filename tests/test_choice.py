"""The settings of the digits: chosen by validation alone, and the ones that the experiments have."""

import choose
import pytest

from stkd_utils import experiments, ledger

DIGITS = [name for name in experiments.names() if name.startswith("digits/")]


@pytest.mark.parametrize("name", DIGITS)
def test_every_digits_experiment_has_the_chosen_settings_of_its_own_network(name):
    settings, tried = experiments.load(name), ledger.choice()
    kept = tried[tried.chosen & (tried.model == settings["model"])]
    assert [settings["lr"]] == list(kept.lr)
    assert [settings["milestones"]] == list(kept.milestones)


def test_what_is_chosen_is_what_validation_prefers():
    rows = ledger.choice().to_dict("records")
    assert [row for row in rows if row["chosen"]] == [choose.best(rows, model) for model in choose.MODELS]
    assert len(rows) == len(choose.MODELS) * len(choose.LRS) * len(choose.MILESTONES)


def test_equal_accuracies_are_decided_by_the_loss():
    rows = [{"model": "m", "val_accuracy": [0.5, 0.7], "val_loss": [loss]} for loss in (2.0, 1.0)]
    assert choose.best([*rows, {"model": "n", "val_accuracy": [1.0], "val_loss": [0.0]}], "m") is rows[1]


def test_no_result_uses_a_seed_of_the_choice():
    used = {seed for name in experiments.profile_names() for seed in experiments.profile(name).seeds}
    teachers = {experiments.load(name).get("teacher_seed", 0) for name in DIGITS}
    assert not set(choose.SEEDS) & (used | teachers)


def test_the_test_split_is_not_read(monkeypatch):
    looked_at = []
    load = choose.data.load

    def without_test(*arguments, **options):
        dataset = load(*arguments, **options)
        object.__setattr__(dataset, "test", None)
        looked_at.append(dataset)
        return dataset

    monkeypatch.setattr(choose.data, "load", without_test)
    smoke = {**experiments.profile("smoke").overrides, "epochs": 1}
    row = choose.trained(experiments.resolve("digits/mobilenetv2-base", **smoke), seed=100)
    assert set(row) >= {"val_accuracy", "val_loss"} and len(looked_at) == 1
