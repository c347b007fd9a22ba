"""What a run leaves of the one look at the test split: metrics in its record, a table per class beside it."""

import copy
import math
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from torch import nn

from stkd_utils import data, experiments, ledger, metrics, training
from stkd_utils.experiments import ExperimentError, classification
from stkd_utils.training import Diverged, evaluate

pytestmark = pytest.mark.usefixtures("on_cpu")
NAME = "digits/mobilenetv2-base"
TINY = {
    "profile": "smoke", "progress": "none", "train_limit": 128, "val_limit": 64, "test_limit": 60, "epochs": 6,
    "batch_size": 32, "width": 0.125,
}  # fmt: skip
NEW = {"test_macro_f1", "test_macro_precision", "test_macro_recall", "test_kappa", "test_ece"}


@pytest.fixture(scope="module")
def seen():
    """The splits that were evaluated, in order."""
    splits, batches = [], data.batches
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training.data, "batches", lambda split, *size: splits.append(len(split)) or batches(split, *size))
        yield splits


@pytest.fixture(scope="module")
def runs(seen, tmp_path_factory):
    """A run whose chosen epoch is not its last one, and one whose chosen epoch is, with the splits that each read.

    Which learning rate gives the former depends on the processor, whose rounding decides between epochs.
    """
    found, folder = {}, tmp_path_factory.mktemp("runs")
    for lr, epochs in ((0.1, 1), *((rate, epochs) for epochs in (6, 8, 10) for rate in (0.1, 0.3, 0.5, 1.0, 2.0))):
        if len(found) == 2:
            break
        seen.clear()
        run = experiments.run(NAME, 2, runs=folder, **{**TINY, "lr": lr, "epochs": epochs})
        result = run.record["result"]
        found.setdefault(result["last"]["epoch"] == result["chosen"]["epoch"], (run, list(seen)))
    return found


@pytest.fixture(scope="module", params=[True, False], ids=["chosen is last", "chosen is earlier"])
def done(request, runs):
    return runs[request.param]


def digits(run):
    limits = {key: TINY[key] for key in ("train_limit", "val_limit", "test_limit")}
    return data.load("digits", val_fraction=run.record["asked"]["val_fraction"], **limits)


def test_the_test_split_is_read_once_for_each_network(done):
    run, splits = done
    networks = len({row["epoch"] for row in run.record["result"].values()})
    assert splits.count(TINY["test_limit"]) == networks
    assert splits.count(TINY["val_limit"]) == len(run.history)


def test_accuracy_and_loss_are_to_the_last_bit_those_of_a_plain_evaluation(done):
    run, _ = done
    for epoch, row in run.record["result"].items():
        found = evaluate(run.model(epoch), digits(run).test, digits(run))
        assert (row["test_accuracy"], row["test_loss"]) == (found["accuracy"], found["loss"])


def test_the_record_has_the_metrics_of_the_very_network(done):
    run, _ = done
    test = digits(run)
    for epoch, row in run.record["result"].items():
        answers = []
        evaluate(run.model(epoch), test.test, test, answers=answers)
        found = metrics.scores(torch.cat(answers), test.test.labels)
        assert row["test_accuracy"] == found.pop("accuracy")
        assert row["test_loss"] == pytest.approx(found.pop("loss"), rel=1e-5)
        assert {f"test_{key}": value for key, value in found.items()} == {key: row[key] for key in NEW}


def test_each_epoch_keeps_accuracy_and_loss_alone(done):
    run, _ = done
    assert [name for name in run.history if name.startswith("val_")] == ["val_accuracy", "val_loss"]


def test_both_tables_per_class_lie_in_the_folder_and_fit_the_record(done):
    run, _ = done
    for epoch, row in run.record["result"].items():
        table = pd.read_csv(run.folder / f"per_class_{epoch}.csv")
        for name in ("f1", "precision", "recall"):
            assert row[f"test_macro_{name}"] == pytest.approx(table[name].mean())
        assert table.support.sum() == TINY["test_limit"]
    pd.testing.assert_frame_equal(run.report, pd.read_csv(run.folder / "per_class_last.csv", dtype={"class": str}))
    assert run.report["class"].tolist() == [str(digit) for digit in range(10)]


def test_a_run_without_a_table_says_so(tmp_path):
    with pytest.raises(ExperimentError, match=r"^run has no table per class: .*[^.]\.$"):
        experiments.Run(tmp_path / "run", {}, False).report  # noqa: B018


def test_names_of_classes_stay_texts(tmp_path):
    logits = torch.tensor([[1.0, 0, 0], [1, 0, 0]])
    metrics.per_class(logits, torch.tensor([0, 1]), ["None", "007", "a, b"]).to_csv(
        tmp_path / "per_class_last.csv", index=False
    )
    report = experiments.Run(tmp_path, {}, False).report
    assert report["class"].tolist() == ["None", "007", "a, b"]
    assert report.f1.isna().tolist() == [False, False, True]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_answers_that_are_no_numbers_end_the_run_with_its_name(tmp_path, bad):
    class Broken(nn.Module):
        def forward(self, views):
            return torch.full((len(views), 10), bad)

    few = data.load("digits", train_limit=20, val_limit=20, test_limit=20)
    trainer = SimpleNamespace(model=Broken(), dataset=few, precision="float32", name="digits_x_s0")
    with pytest.raises(Diverged, match=r"^digits_x_s0, last epoch: The network's answers to 20 of 20 .* lower lr\.$"):
        classification.tested(trainer, tmp_path, "last")
    assert not list(tmp_path.iterdir())


# the ledger


def test_records_with_and_without_the_metrics_share_a_table(runs, tmp_path):
    new = runs[True][0].record
    old = copy.deepcopy(new) | {"id": "old"}
    for row in old["result"].values():
        for key in NEW:
            del row[key]
    assert ledger.append([new, old], tmp_path / "runs.jsonl") == 2
    table = ledger.table(tmp_path / "runs.jsonl")
    assert set(ledger.COLUMNS) > NEW and set(map(str, table.dtypes[[*NEW]])) == {"float64"}
    assert table.iloc[0][[*NEW]].to_dict() == {key: new["result"]["last"][key] for key in NEW}
    assert table.iloc[1][[*NEW]].isna().all() and table.test_accuracy.notna().all()


@pytest.mark.parametrize("key, value, valid", [
    ("test_kappa", None, True), ("test_kappa", -0.2, True), ("test_kappa", -1.2, False), ("test_ece", 1.2, False),
    ("test_ece", None, False), ("test_macro_f1", -0.1, False), ("test_f1", 0.5, False),
])  # fmt: skip
def test_the_ledger_checks_the_metrics(runs, tmp_path, key, value, valid):
    record = copy.deepcopy(runs[True][0].record)
    record["result"]["last"][key] = value
    if valid:
        ledger.write(record, tmp_path / "record.json")
        assert math.isnan(ledger.table([record]).test_kappa[0]) == (value is None)
    else:
        with pytest.raises(ledger.LedgerError, match=key):
            ledger.write(record, tmp_path / "record.json")
