"""Records in the ledger: what it accepts, and what it survives."""

import copy
import functools
import json
import math
import operator
import subprocess
import sys

import pytest

from stkd_utils import ledger, ledger_files
from stkd_utils.ledger import LedgerError

COST = {
    "seconds": 12.5,
    "energy_kwh": 0.001,
    "how": "mixed",
    "co2e_g": 0.445,
    "pue": 1.0,
    "intensity": {"g_per_kwh": 445, "source": "world", "date": "2024"},
    "components": {
        "cpu": {"kwh": 0.0006, "how": "modelled", "watts": 60.0, "note": "half of TDP"},
        "gpu": {"kwh": 0.0004, "how": "measured", "watts": None, "note": ""},
        "ram": {"kwh": None, "how": "not seen", "watts": None, "note": "no counter"},
    },
}
METRICS = {"epoch": 2, "val_accuracy": 0.9, "val_loss": 0.3, "test_accuracy": 0.875, "test_loss": 0.4}
FOUND = {
    "epoch": 2, "val_map50": 0.5, "val_loss": 0.3, "test_map50": 0.25, "test_map50_11_point": 0.3, "test_map_coco": 0.2,
    "test_ap50": {"cat": 0.25, "dog": None}, "test_loss": 0.4,
}  # fmt: skip
RECORD = {
    "schema": 1,
    "id": "digits_kd_s0_abc",
    "experiment": "digits/resnet18-mobilenetv2-kd",
    "profile": "smoke",
    "seed": 0,
    "asked": {
        "dataset": "digits", "model": "mobilenetv2", "method": "kd", "tau_policy": "fixed", "tau": 4,
        "epochs": 2, "milestones": [0.3, 0.6], "flip": False, "train_limit": None,
    },
    "asked_hash": "abc",
    "teacher_id": "digits_base_s0_def",
    "init_checksum": "0123",
    "code": {"version": "0.1.0", "commit": None, "modified": None, "digest": "feed"},
    "packages": {"python": "3.11.2", "torch": "2.11.0"},
    "hardware": {"device": "cpu", "cpu": "Some CPU", "cores": 2, "threads": 2, "memory_gib": 8.0, "gpu": None},
    "data_checksum": "4567",
    "result": {"last": METRICS, "chosen": {**METRICS, "epoch": 1, "val_accuracy": 0.95, "test_accuracy": 0.85}},
    "history": [{"epoch": 1, "lr": 0.1, "hard": 2.0}, {"epoch": 2, "lr": 0.1, "hard": 1.0}],
    "cost": {"train": COST, "evaluate": COST},
    "compute": {
        "parameters": 100, "macs_student": 1000, "macs_teacher": None,
        "flops_forward": 2e6, "flops_forward_backward": 6e6,
    },
    "tau": {"policy": "fixed", "draws": 20, "mean": 4.0, "min": 4.0, "max": 4.0},
    "started": "2025-01-02T03:04:05+00:00",
    "finished": "2025-01-02T03:05:05+00:00",
    "resumed": 0,
}  # fmt: skip


def record(name="digits_kd_s0_abc", **changes):
    """A valid record, with values at dotted paths replaced."""
    changed = json.loads(json.dumps({**RECORD, "id": name}))
    for path, value in changes.items():
        *parents, last = path.split("__")
        place = changed
        for key in parents:
            place = place[key]
        place[last] = value
    return changed


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """A ledger of its own for each test."""
    monkeypatch.setenv("STKD_LEDGER", str(tmp_path))
    return tmp_path


def test_a_record_comes_back_as_it_was_written(here):
    ledger.write(record(), here / "run" / "record.json")
    assert ledger.read(here / "run" / "record.json") == record()
    assert [path.name for path in (here / "run").iterdir()] == ["record.json"]


@pytest.mark.parametrize(
    "change, field, complaint",
    [
        ({"seed": "0"}, "seed", "'0', not a JSON integer"),
        ({"seed": True}, "seed", "True, not a JSON integer"),
        ({"schema": 2}, "schema", "1 was expected"),
        ({"resumed": -1}, "resumed", "minimum"),
        ({"result__last__val_accuracy": 93.0}, "result.last.val_accuracy", "maximum of 1"),
        ({"result__chosen__test_loss": math.nan}, "result.chosen.test_loss", "nan, not a JSON number"),
        ({"history": []}, "history", "non-empty"),
        ({"history": [{"epoch": 1, "hard": math.inf}]}, "history.0.hard", "inf, not a JSON number"),
        ({"history": [{"epoch": 1, "hard": None}]}, "history.0.hard", "None, not a JSON number"),
        ({"cost__train__how": "guessed"}, "cost.train.how", "'guessed' is not one of"),
        ({"cost__train__how": "not seen"}, "cost.train.energy_kwh", "not a JSON null"),
        ({"cost__train__energy_kwh": None}, "cost.train.energy_kwh", "not a JSON number"),
        ({"cost__train__components__ram__kwh": 0}, "cost.train.components.ram.kwh", "0, not a JSON null"),
        ({"cost__evaluate__pue": 0.9}, "cost.evaluate.pue", "minimum of 1"),
        ({"tau__draws": 0}, "tau.draws", "minimum of 1"),
        ({"asked__nested": {"a": 1}}, "asked.nested", "not a JSON string"),
        ({"finished": "yesterday"}, "finished", "does not match"),
        ({"finished": "2025-01-02T03:04:05+06:00"}, "finished", "does not match"),
        ({"hardware__memory_gib": math.nan}, "hardware.memory_gib", "nan, not a JSON number"),
        ({"asked__lr": math.inf}, "asked.lr", "inf, not a JSON"),
        ({"hardware__gpus": 1}, "hardware", "'gpus' was unexpected"),
        ({"surprise": 1}, "", "'surprise' was unexpected"),
        ({"initial": "guessed"}, "initial", "'guessed' does not match"),
        ({"result__last": {"epoch": 1, "val_loss": 1, "test_loss": 1}}, "result.last", "not valid under any"),
        ({"result__last": {**METRICS, **FOUND}}, "result.last", "is valid under each of"),
        ({"result__last": {**FOUND, "test_ap50": {"cat": 2}}}, "result.last.test_ap50.cat", "maximum of 1"),
    ],
)
def test_what_is_not_valid_names_the_record_and_the_field(here, change, field, complaint):
    with pytest.raises(LedgerError) as caught:
        ledger.write(record(**change), here / "record.json")
    message = str(caught.value)
    assert message.startswith("Record digits_kd_s0_abc: ") and f"'{field}'" in message or not field
    assert complaint in message and "\n" not in message and len(message) < 400
    assert not list(here.iterdir())


@pytest.mark.parametrize("field", sorted(RECORD))
def test_every_field_is_needed(here, field):
    incomplete = {key: value for key, value in RECORD.items() if key != field}
    with pytest.raises(LedgerError, match=f"'{field}' is a required property"):
        ledger.append([incomplete])


def places(row, path=()):
    """Paths of all values inside ``row``."""
    inside = row.items() if isinstance(row, dict) else enumerate(row) if isinstance(row, list) else ()
    for key, value in inside:
        yield (*path, key)
        yield from places(value, (*path, key))


STRAY = (None, True, -1, 0, 1.0, 0.5, math.nan, math.inf, 1e300, "", "x\n", "measured", "not seen", [], [1], {"a": 1})


@pytest.mark.parametrize("value", [*STRAY, "nothing at all"], ids=repr)
def test_the_quick_validator_lets_nothing_through_that_the_thorough_one_refuses(value):
    for *path, last in places(RECORD):
        changed = copy.deepcopy(RECORD)
        inside = functools.reduce(operator.getitem, path, changed)
        if value == "nothing at all":
            del inside[last]
        else:
            inside[last] = value
        thorough = ledger_files._validator("record").is_valid(changed)
        assert ledger_files._passes(changed, "record") == thorough, f"{path}, {last}"


@pytest.mark.parametrize("value", ["NaN", "1e999"])
def test_a_benchmark_with_a_number_that_is_none_costs_its_line_only(here, value):
    rows = (own := ledger_files.own_folder() / "bench.jsonl").read_text().splitlines()[:2]
    (here / own.name).write_text("\n".join([rows[0], rows[1][:-1] + f', "slope": {value}}}']))
    with pytest.warns(UserWarning, match="line 2: Benchmark .*a value that JSON does not know"):
        assert len(ledger.benchmarks()) == 1


def test_what_is_not_an_object_is_refused(here):
    with pytest.raises(LedgerError, match="without a name.*not a JSON object"):
        ledger.append([[1, 2]])


@pytest.mark.parametrize("text", ["", "{", '{"seed": NaN}', "\x00", '{"a": 1e999}'])
def test_a_record_file_that_is_damaged_says_what_to_do(here, text):
    (here / "record.json").write_text(text)
    with pytest.raises(LedgerError, match="record.json: .*Delete this file"):
        ledger.read(here / "record.json")


def test_an_overflowing_number_is_not_read_as_a_number(here):
    text = json.dumps(record()).replace('"test_loss": 0.4', '"test_loss": 1e999')
    (here / "record.json").write_text(text)
    with pytest.raises(LedgerError, match="test_loss' is inf"):
        ledger.read(here / "record.json")


def test_a_record_file_that_is_absent_is_one_sentence(here):
    with pytest.raises(LedgerError, match="absent.json: No such file"):
        ledger.read(here / "absent.json")


def test_records_are_appended_once(here):
    assert ledger.load() == ([], [])
    assert ledger.append([record("a"), record("b"), record("a", seed=9)]) == 2
    assert ledger.append([record("b"), record("c")]) == 1
    records, problems = ledger.load(here / "runs.jsonl")
    assert [row["id"] for row in records] == ["a", "b", "c"] and problems == []
    assert records[0]["seed"] == 0
    before = (here / "runs.jsonl").stat().st_mtime_ns
    assert ledger.append([record("a")]) == 0 and (here / "runs.jsonl").stat().st_mtime_ns == before


def test_one_record_that_is_not_valid_keeps_all_out(here):
    with pytest.raises(LedgerError, match="Record b: 'seed'"):
        ledger.append([record("a"), record("b", seed=-1)])
    assert not (here / "runs.jsonl").exists()


def test_a_damaged_line_is_reported_by_its_number_and_the_others_load(here):
    good = [json.dumps(record(name)).encode() for name in "abcd"]
    bad = json.dumps(record("e", resumed=-1)).encode()
    lines = [good[0], good[1][:50], b"", b"\xff\xfe", good[2], bad, good[0], good[3]]
    (here / "runs.jsonl").write_bytes(b"\n".join(lines))
    records, problems = ledger.load()
    assert [row["id"] for row in records] == ["a", "c", "d"]
    assert [problem.split(":")[0] for problem in problems] == ["line 2", "line 4", "line 6", "line 7"]
    assert (
        "not valid JSON" in problems[0] and "Record e: 'resumed'" in problems[2] and "a is there already" in problems[3]
    )


def test_a_row_after_a_cut_off_last_line_stands_on_its_own(here):
    ledger.append([record("a"), record("b")])
    whole = (here / "runs.jsonl").read_bytes()
    (here / "runs.jsonl").write_bytes(whole[:-30])
    assert ledger.append([record("b"), record("c")]) == 2
    records, problems = ledger.load()
    assert [row["id"] for row in records] == ["a", "b", "c"]
    assert len(problems) == 1 and problems[0].startswith("line 2:")
    assert (here / "runs.jsonl").read_bytes().startswith(whole[:-30] + b"\n")


def test_a_whole_last_line_without_its_newline_is_kept(here):
    (here / "runs.jsonl").write_text(json.dumps(record("a")))
    ledger.append([record("b")])
    assert [row["id"] for row in ledger.load()[0]] == ["a", "b"] and ledger.load()[1] == []


def test_a_failed_write_leaves_the_old_file_and_no_rest(here, monkeypatch):
    ledger.append([record("a")])

    def full(*args):
        raise OSError("disk full")

    monkeypatch.setattr(ledger_files.os, "fsync", full)
    with pytest.raises(OSError, match="disk full"):
        ledger.append([record("b")])
    assert [row["id"] for row in ledger.load()[0]] == ["a"]
    assert not list(here.glob("*.part")) and not list(here.glob(".*.part"))


def test_writers_at_the_same_time_lose_nothing(here):
    (here / "like.json").write_text(json.dumps(record()))
    code = """
import json, sys
from pathlib import Path
from stkd_utils.ledger_files import append_lines
here, worker = Path(sys.argv[1]), sys.argv[2]
like = json.loads((here / "like.json").read_text())
for number in range(20):
    rows = [{**like, "id": f"{worker}-{number}"}, {**like, "id": "shared"}]
    append_lines(rows, here / "runs.jsonl", "record", lambda row: row["id"])
"""
    workers = [subprocess.Popen([sys.executable, "-c", code, here, str(worker)]) for worker in range(3)]
    assert [worker.wait(60) for worker in workers] == [0, 0, 0]
    records, problems = ledger.load()
    assert problems == [] and len(records) == 61


def test_the_table_has_one_row_a_run():
    base = record("b", tau=None, teacher_id=None)
    base["asked"] = {"dataset": "digits", "model": "resnet18", "method": "base", "epochs": 3}
    base["cost"]["train"] = {**COST, "energy_kwh": None, "how": "not seen", "co2e_g": None}
    table = ledger.table([record(), base])
    assert list(table.columns) == list(ledger.COLUMNS)
    first, second = table.to_dict("records")
    unknown = [key for key in ledger.COLUMNS if "map50" in key or "macro" in key or key in ("test_kappa", "test_ece")]
    assert len(unknown) == 7 and all(math.isnan(first.pop(key)) for key in unknown)
    assert first == {
        "id": "digits_kd_s0_abc", "experiment": "digits/resnet18-mobilenetv2-kd", "dataset": "digits",
        "model": "mobilenetv2", "method": "kd", "tau_policy": "fixed", "tau": 4, "seed": 0, "profile": "smoke",
        "epochs": 2, "val_accuracy": 0.9, "test_accuracy": 0.875, "val_accuracy_chosen": 0.95,
        "test_accuracy_chosen": 0.85, "seconds": 12.5, "energy_kwh": 0.001, "energy_how": "mixed", "co2e_g": 0.445,
        "flops_forward": 2e6, "flops_forward_backward": 6e6, "parameters": 100,
        "device": "cpu", "cpu": "Some CPU", "gpu": None, "code": "feed",
    }  # fmt: skip
    assert math.isnan(second["tau"]) and math.isnan(second["energy_kwh"]) and second["energy_how"] == "not seen"
    assert table.energy_kwh.sum() == 0.001
    assert math.isnan(ledger.table([base]).energy_kwh.mean())  # a column in which nothing is known can be averaged, too


def test_a_detector_has_map50_in_place_of_accuracy(here):
    one = record(result__last=FOUND, result__chosen=FOUND, initial="imagenet")
    ledger.write(one, here / "record.json")
    assert ledger.read(here / "record.json") == one
    for records in ([one], [one, record("other")]):
        table = ledger.table(records)
        first = table.iloc[0]
        assert (first.val_map50, first.test_map50) == (0.5, 0.25)
        scores = [column for column in table if "accuracy" in column]
        assert table.iloc[0][scores].isna().all() and set(map(str, table.dtypes[scores])) == {"float64"}


def test_the_table_of_nothing_has_its_columns():
    table = ledger.table()
    assert table.empty and list(table.columns) == list(ledger.COLUMNS)


def test_the_table_of_a_file_warns_of_damaged_lines(here):
    ledger.append([record("a")])
    with open(here / "runs.jsonl", "a") as file:
        file.write("rubbish\n")
    with pytest.warns(UserWarning, match="damaged line 2"):
        assert len(ledger.table(here / "runs.jsonl")) == 1


def test_a_line_is_validated_once_however_often_it_is_read(tmp_path, monkeypatch):
    checked, real = [], ledger_files.check
    monkeypatch.setattr(ledger_files, "check", lambda row, kind: checked.append(row["id"]) or real(row, kind))
    ledger.append([{**RECORD, "id": f"read often {number}"} for number in (1, 2)], tmp_path / "runs.jsonl")
    checked.clear()
    first, again = ledger.load(tmp_path / "runs.jsonl"), ledger.load(tmp_path / "runs.jsonl")
    assert checked == ["read often 1", "read often 2"] and first == again
    assert first[0][0] is not again[0][0]  # whoever changes a row changes no other reader's
