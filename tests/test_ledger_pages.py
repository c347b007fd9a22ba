"""What pages read from the ledger: its folder, price tags of notebooks, and the paper's numbers."""

import json
import warnings
from pathlib import Path

import pytest

from stkd_utils import ledger, ledger_files
from stkd_utils.ledger import LedgerError

EXECUTION = {
    "notebook": "03_classic_kd", "profile": "quick", "seconds": 300.0, "energy_kwh": 0.00123, "how": "modelled",
    "co2e_g": 0.547, "hardware": {"cpu": "Some CPU", "cores": 2, "threads": 2, "memory_gib": 8.0, "gpu": None},
    "date": "2025-03-04T05:06:07+00:00", "code": {"version": "0.1", "commit": None, "modified": None, "digest": "feed"},
}  # fmt: skip


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """A ledger of its own for each test."""
    monkeypatch.setenv("STKD_LEDGER", str(tmp_path))
    return tmp_path


def test_the_folder_is_the_argument_then_the_variable_then_the_one_of_the_code(here, monkeypatch):
    assert ledger.folder("x") == Path("x")
    assert ledger.folder() == here
    monkeypatch.delenv("STKD_LEDGER")
    assert ledger.folder() == Path(ledger.__file__).parents[1] / "book" / "ledger"
    monkeypatch.setattr(ledger_files, "PACKAGE", here)
    assert ledger.folder() == here.parent / "book" / "ledger"
    (here / "_ledger").mkdir()
    assert ledger.folder() == here / "_ledger"


def test_a_price_tag_without_a_row_says_so():
    tag = ledger.price_tag("03_classic_kd", "gpu")
    assert str(tag) == "Price of 03_classic_kd with profile gpu: not recorded yet."
    assert tag._repr_html_() == f'<p class="price-tag">{tag}</p>'


def test_a_price_tag_reads_the_newest_execution(here):
    older = {**EXECUTION, "seconds": 200.0, "date": "2025-01-02T03:04:05+00:00"}
    other = {**EXECUTION, "notebook": "04_stochastic", "date": "2025-05-05T05:06:07+00:00"}
    report = [EXECUTION, older, other, {"name": "01_carbon", "profile": "quick", "status": "missing"}]
    assert ledger.append_executions(report) == 3
    assert ledger.append_executions(report) == 0
    tag = str(ledger.price_tag("03_classic_kd", "quick"))
    assert tag == (
        "Price of 03_classic_kd with profile quick: 5 min 00 s, 1.23 Wh (modelled), 547 mg CO₂e; "
        "recorded 2025-03-04 on Some CPU, 2 CPU threads."
    )
    assert list(ledger.executions().columns) == list(ledger.EXECUTION)
    assert ledger.executions().date.is_monotonic_increasing


def test_a_price_tag_does_not_turn_unseen_energy_into_zero(here):
    unseen = {**EXECUTION, "energy_kwh": None, "how": "not seen", "co2e_g": None}
    unseen["hardware"] = {**EXECUTION["hardware"], "gpu": "GPU <1>"}
    ledger.append_executions([unseen])
    tag = ledger.price_tag("03_classic_kd", "quick")
    assert "energy not seen" in str(tag) and "on GPU <1>, 2 CPU threads" in str(tag)
    assert "GPU &lt;1&gt;" in tag._repr_html_()


def test_rows_of_a_notebook_report_fit(here):
    row = {key: value for key, value in EXECUTION.items() if key != "notebook"}
    assert ledger.append_executions([{"name": "03_classic_kd", "status": "executed", "hash": "1", **row}]) == 1
    with pytest.raises(LedgerError, match="Execution 03_classic_kd: 'energy_kwh' is a required"):
        ledger.append_executions([{"name": "03_classic_kd", "seconds": 1.0, "profile": "quick"}])


# the paper


def test_table_4_of_the_paper_is_whole_and_every_number_has_a_source():
    everything = ledger.paper(None)
    assert (everything.source.str.len() > 0).all()
    assert set(everything.origin) == {"paper", "figure", "repository", "third party", "computed"}
    assert everything.value.dtype == float and everything.value.notna().all()
    table = ledger.paper()
    assert len(table) == 4 * 3 * 2 * 5 and (table.origin == "paper").all()
    assert not table.duplicated(["dataset", "loss", "method", "metric"]).any()


@pytest.mark.parametrize("dataset", ["CIFAR-100", "cifar100", "Cifar 100"])
def test_a_block_of_table_4_in_the_order_of_print(dataset):
    block = ledger.paper_table(dataset)
    assert list(zip(block.loss, block.method, strict=True)) == [
        (loss, method) for loss in ("HKD", "CMC", "DML") for method in ("tuned", "ours")
    ]
    assert block.iloc[0].to_dict() == {
        "loss": "HKD", "method": "tuned", "accuracy": 0.697, "spread": 0.0012,
        "gflops_millions": 128.4, "energy_kwh": 3.8, "co2e_g": 1170.4,
    }  # fmt: skip


def test_detection_is_scored_by_map():
    voc = ledger.paper_table("voc").set_index(["loss", "method"])
    assert "accuracy" not in voc and voc.map50["HKD", "ours"] == 0.6548


def test_the_printed_costs_of_tuning_are_multiples_of_one_run():
    ratios = []
    for dataset in ("CIFAR-10", "CIFAR-100", "Tiny ImageNet", "PASCAL VOC"):
        block = ledger.paper_table(dataset).set_index(["loss", "method"])
        ratios += [block.co2e_g[loss, "tuned"] / block.co2e_g[loss, "ours"] for loss in ("HKD", "CMC", "DML")]
    assert sum(abs(ratio - round(ratio, 1)) < 0.0002 for ratio in ratios) == 10
    assert min(ratios) >= 18 and max(ratios) < 20.31


def test_the_paper_is_there_with_a_ledger_of_ones_own(here):
    assert not (here / "paper.csv").exists() and len(ledger.paper()) == 120


@pytest.mark.parametrize(
    "ask, known", [(lambda: ledger.paper("Table 9"), "Table 4"), (lambda: ledger.paper_table("mnist"), "CIFAR-10")]
)
def test_an_unknown_table_lists_the_known_ones(ask, known):
    with pytest.raises(LedgerError, match=known):
        ask()


def test_the_ledger_of_the_book_is_valid(monkeypatch):
    monkeypatch.delenv("STKD_LEDGER")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ledger.table()
        ledger.executions()
        ledger.benchmarks(newest=False)


def benchmark(**changes):
    hardware = {"cpu": "A", "cores": 2, "threads": 2, "memory_gib": 8.0, "gpu": None}
    row = {"name": "plain", "group": "step", "threads": 1, "n": 5, "median_seconds": 1.0, "hardware": hardware}
    return json.dumps(row | changes)


def test_of_a_benchmark_the_newest_row_on_each_machine_counts(tmp_path, monkeypatch):
    monkeypatch.setenv("STKD_LEDGER", str(tmp_path))
    other = {"cpu": "B", "cores": 2, "threads": 2, "memory_gib": 8.0, "gpu": None}
    rows = [benchmark(), benchmark(median_seconds=2.0), benchmark(threads=2), benchmark(hardware=other, note="x")]
    (tmp_path / "bench.jsonl").write_text("\n".join(rows) + "\n")
    found = ledger.benchmarks()
    assert list(found.median_seconds) == [2.0, 1.0, 1.0]
    assert list(found.note) == ["", "", "x"] and found.machine.nunique() == 2
    assert set(found.device) == {"cpu"}  # rows from before GPUs were timed do not say
    assert list(ledger.benchmarks(newest=False).median_seconds) == [1.0, 2.0, 1.0, 1.0]
    (tmp_path / "bench.jsonl").write_text("\n".join([*rows, benchmark(median_seconds=3.0)]) + "\n")
    assert list(ledger.benchmarks().median_seconds) == [1.0, 1.0, 3.0], "measured again, it comes last"


def test_processors_of_one_name_with_other_instructions_are_two_machines(tmp_path, monkeypatch):
    monkeypatch.setenv("STKD_LEDGER", str(tmp_path))
    rows = [json.loads(benchmark()) for _ in range(3)]
    for row, instructions in zip(rows[1:], ("AVX2", "AVX512"), strict=True):
        row["hardware"]["instructions"] = instructions
    (tmp_path / "bench.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    names = ["A, 2 CPU threads", "A (AVX2), 2 CPU threads", "A (AVX512), 2 CPU threads"]
    assert list(ledger.benchmarks().machine) == names


def test_a_benchmark_of_the_gpu_does_not_replace_one_of_the_processor_beside_it(tmp_path, monkeypatch):
    monkeypatch.setenv("STKD_LEDGER", str(tmp_path))
    rows = [benchmark(device="cpu", median_seconds=2.0), benchmark(device="cuda")]
    (tmp_path / "bench.jsonl").write_text("\n".join(rows) + "\n")
    found = ledger.benchmarks()
    assert list(zip(found.device, found.median_seconds, strict=True)) == [("cpu", 2.0), ("cuda", 1.0)]


def test_what_a_processor_computed_beside_a_gpu_is_named_by_the_processor(tmp_path, monkeypatch):
    monkeypatch.setenv("STKD_LEDGER", str(tmp_path))
    hardware = {"cpu": "A", "cores": 2, "threads": 2, "memory_gib": 8.0, "gpu": "G"}
    rows = [benchmark(device=device, hardware=hardware) for device in ("cpu", "cuda")]
    (tmp_path / "bench.jsonl").write_text("\n".join(rows) + "\n")
    assert list(ledger.benchmarks().machine) == ["A, 2 CPU threads", "G, 2 CPU threads"]


def test_of_each_group_of_benchmarks_a_page_shows_the_machine_that_ran_most_of_it(tmp_path, monkeypatch):
    monkeypatch.setenv("STKD_LEDGER", str(tmp_path))
    a, b = ({"cpu": name, "cores": 2, "threads": 2, "memory_gib": 8.0, "gpu": None} for name in "AB")
    days = [f"2026-11-0{day}T00:00:00+00:00" for day in range(1, 6)]
    rows = [
        benchmark(hardware=a, date=days[0]),
        benchmark(hardware=a, date=days[0], name="grown", group="growth"),
        benchmark(hardware=a, date=days[1], note="again"),
        benchmark(hardware=a, date=days[2], name="other"),
        *(benchmark(hardware=b, date=days[3], threads=threads) for threads in (1, 2, 4)),  # newer, but less
    ]
    path = tmp_path / "bench.jsonl"
    path.write_text("\n".join(rows) + "\n")
    shown = ledger.main_machine(ledger.benchmarks())
    assert sorted(zip(shown.name, shown.note, strict=True)) == [("grown", ""), ("other", ""), ("plain", "again")]
    path.write_text("\n".join([*rows, benchmark(hardware=b, date=days[4], name="other")]) + "\n")
    shown = ledger.main_machine(ledger.benchmarks())
    assert list(shown.machine.str[0]) == ["A", "B", "B", "B", "B"], "of two that ran as much of a group, the newer"


def test_a_damaged_benchmark_costs_its_own_line(tmp_path, monkeypatch):
    monkeypatch.setenv("STKD_LEDGER", str(tmp_path))
    rows = [benchmark(), '{"name": "cut', benchmark(n=-1), benchmark(threads=2)]
    (tmp_path / "bench.jsonl").write_text("\n".join(rows))
    with pytest.warns(UserWarning) as warned:
        found = ledger.benchmarks()
    assert list(found.threads) == [1, 2]
    damaged, wrong = (str(one.message) for one in warned)
    assert "line 2: not valid JSON" in damaged and "line 3: Benchmark plain: 'n'" in wrong


def test_without_benchmarks_the_table_is_empty(tmp_path, monkeypatch):
    (tmp_path / "bench.jsonl").write_text("")
    monkeypatch.setenv("STKD_LEDGER", str(tmp_path))
    assert ledger.benchmarks().empty and "group" in ledger.benchmarks()
    assert ledger.main_machine(ledger.benchmarks()).empty
