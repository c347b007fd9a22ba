"""What the pages read from the ledger: tables and the figure, from records made for the test."""

import json

import finding
import pytest

from stkd_utils import experiments, ledger

COST = {
    "seconds": 10.0, "pue": 1.0, "intensity": {"g_per_kwh": 400.0, "source": "test", "date": "2024"},
    "energy_kwh": 0.001, "how": "modelled", "co2e_g": 0.4,
    "components": {"cpu": {"kwh": 0.001, "how": "modelled", "watts": 60.0, "note": ""}},
}  # fmt: skip


def record(experiment, seed, accuracy, tau=None, policy=None, **changes):
    metrics = {"epoch": 2, "val_accuracy": accuracy, "val_loss": 0.3, "test_accuracy": accuracy, "test_loss": 0.4}
    asked = experiments.resolve(experiment, "quick", **({"tau": tau} if tau else {}))
    drawn = {"policy": policy, "draws": 20, "mean": 4.0, "min": 2.0, "max": 20.0} if policy else None
    return {
        "schema": 1, "id": f"{experiment}-{tau}-{seed}", "experiment": experiment, "profile": "quick", "seed": seed,
        "asked": asked, "asked_hash": "abc", "teacher_id": "t" if policy else None, "init_checksum": "0123",
        "code": {"version": "0.1.0", "commit": None, "modified": None, "digest": "feed"},
        "packages": {"python": "3.11", "torch": "2.11"}, "data_checksum": "4567",
        "hardware": {"device": "cpu", "cpu": "Some CPU", "cores": 2, "threads": 2, "memory_gib": 8.0, "gpu": None},
        "result": {"last": metrics, "chosen": metrics}, "history": [{"epoch": 1, "hard": 2.0}],
        "cost": {"train": COST, "evaluate": COST},
        "compute": {"parameters": 100, "macs_student": 1000, "macs_teacher": None,
                    "flops_forward": 2e6, "flops_forward_backward": 6e6},
        "tau": drawn, "started": "2025-01-02T03:04:05+00:00", "finished": "2025-01-02T03:05:05+00:00", "resumed": 0,
        **changes,
    }  # fmt: skip


@pytest.fixture
def filled(tmp_path, monkeypatch):
    """A ledger with two seeds of: no KD, a grid of three temperatures, stochastic."""
    monkeypatch.setenv("STKD_LEDGER", str(tmp_path))
    kd = "digits/resnet18-mobilenetv2"
    rows = []
    for seed in (0, 1):
        rows.append(record("digits/mobilenetv2-base", seed, 0.80 + 0.02 * seed))
        rows += [record(f"{kd}-kd", seed, 0.90 - abs(tau - 4) / 100, tau, "fixed") for tau in (2, 4, 20)]
        rows.append(record(f"{kd}-stochastic", seed, 0.91, None, "stochastic"))
    ledger.append(rows)
    return tmp_path


def cells(table):
    """The cells of a Markdown table, row by row."""
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()]


def test_headline_counts_the_whole_grid(filled):
    rows = cells(finding.headline())
    table = {row[0]: row[1:] for row in rows[2:]}
    assert list(table) == ["no KD", "KD, τ = 4", "KD, τ = 20", "KD, tuned τ", "KD, stochastic τ"]
    assert table["KD, tuned τ"] == ["90.0 ± 0.0", "3", "3 ×", "3 ×"]
    assert table["KD, τ = 20"][0].startswith("74.0 ")
    assert table["KD, stochastic τ"][1:] == ["1", "1 ×", "1 ×"]
    assert table["no KD"][0].startswith("81.0 ± 12.7")
    assert rows[0][1] == "Test accuracy, % (n = 2)"


def test_energy_that_nobody_saw_is_not_a_number(filled):
    unseen = {**COST, "energy_kwh": None, "how": "not seen", "co2e_g": None, "components": {}}
    late = {"finished": "2026-01-02T03:05:05+00:00", "cost": {"train": unseen, "evaluate": unseen}}
    name = "digits/mobilenetv2-base"
    ledger.append([{**record(name, seed, 0.8), **late, "id": f"late-{seed}"} for seed in (0, 1)])
    row = next(line for line in finding.headline().splitlines() if line.startswith("| no KD"))
    assert row.endswith("| 1 × | not seen |")
    assert "not seen" in finding.all_runs()


def test_figure_has_words_for_those_who_do_not_see_it(filled):
    drawn = finding.headline_figure()
    assert "KD, tuned τ 90.0 %" in drawn.alt and drawn.caption
    assert drawn.figure.axes


def test_every_run_has_its_row(filled):
    assert len(finding.all_runs().splitlines()) == 2 + 10
    assert len(finding.groups().splitlines()) == 2 + 5


def test_an_empty_ledger_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("STKD_LEDGER", str(tmp_path))
    assert finding.headline() == finding.groups() == finding.all_runs() == finding.NOT_RUN
    assert finding.headline_figure() is None


def test_a_damaged_ledger_stops_the_book(filled):
    with (filled / "runs.jsonl").open("a") as lines:
        lines.write(json.dumps({"id": "half"})[:-3] + "\n")
    with pytest.raises(ValueError, match="is damaged: line 11"):
        finding.headline()


def test_verdicts_are_sentences_computed_from_the_runs(filled):
    lead, _, first, second, bought, third, rest = finding.verdicts().splitlines()
    assert lead == (
        "**The saving is certain: one training instead of 3, and a fixed temperature saves as much. "
        "Its price in accuracy is not: 2 seeds do not decide.**"
    )
    assert "random minus grid +1.00 ± 0.00 points (n = 2)" in first
    assert "reached 91.0 %; a grid of 3 temperatures, for 3 times the computation, 90.0 %" in first
    assert "τ = 20" in second and "74.0 %" in second and "**not decided (no spread)**" in second
    assert "Grid minus fixed +16.00 ± 0.00 points (n = 2)" in bought and "validation chose +16.00" in bought
    assert bought.endswith("Of the 3 fixed temperatures τ = 4 has the highest mean, 90.0 %.")
    assert "Random minus a fixed τ = 4 +1.00" in rest and "minus no KD +10.00" in rest
    assert "mean of all 3 fixed temperatures" in third and "random minus mean +7.00 ± 0.00 points (n = 2)" in third


def test_a_rule_in_place_of_the_teacher_is_set_beside_a_random_temperature(filled):
    assert "smoothing" not in finding.verdicts(), "no row, no claim"
    name = "digits/mobilenetv2-smoothing"
    ledger.append([record(name, seed, 0.93 + seed / 100) for seed in (0, 1)] + [record(name, 7, 0.10)])
    said = next(line for line in finding.verdicts().splitlines() if "smoothing" in line)
    assert "reached 93.5 % for 1 times the computation" in said
    assert "random minus label smoothing −2.50" in said and "(n = 2)" in said


def test_a_decided_difference_is_not_called_open(tmp_path, monkeypatch):
    monkeypatch.setenv("STKD_LEDGER", str(tmp_path))
    kd = "digits/resnet18-mobilenetv2"
    rows = [record(f"{kd}-kd", seed, 0.90 - tau / 100, tau, "fixed") for seed in range(3) for tau in (2, 4)]
    rows += [record(f"{kd}-stochastic", seed, 0.95 + seed / 1000, None, "stochastic") for seed in range(3)]
    ledger.append(rows)
    lead, _, first, *_ = finding.verdicts().splitlines()
    assert lead == (
        "**The saving is certain: one training instead of 2. "
        "Over 3 seeds a random temperature ends 7.1 points above the grid.**"
    )
    assert "**better**" in first


@pytest.mark.parametrize("random, lead", [
    ((0.88, 0.881, 0.882), "1.9 points below the grid and 18.1 points above a fixed τ"),
    ((0.898, 0.8985, 0.8975), "0.2 points below the grid, within the margin of one and 19.8 points above a fixed τ"),
    ((0.901, 0.899, 0.9), "within one point of the grid and 20.0 points above a fixed τ"),
    ((0.86, 0.92, 0.9), "not decided against the grid and 19.3 points above a fixed τ"),
])  # fmt: skip
def test_the_price_in_accuracy_is_said_as_the_data_say(tmp_path, monkeypatch, random, lead):
    monkeypatch.setenv("STKD_LEDGER", str(tmp_path))
    kd = "digits/resnet18-mobilenetv2"
    rows = [record(f"{kd}-kd", seed, {4: 0.9, 20: 0.7}[tau], tau, "fixed") for seed in range(3) for tau in (4, 20)]
    rows += [record(f"{kd}-stochastic", seed, random[seed], None, "stochastic") for seed in range(3)]
    ledger.append(rows)
    assert finding.verdicts().splitlines()[0].endswith(f"Over 3 seeds a random temperature ends {lead} = 20.**")


def test_how_far_equal_runs_move_is_said_where_some_were_trained_again(filled):
    (filled / "repeats.csv").write_text(
        "id,experiment,seed,test_accuracy,ledger,cpu\n"
        "digits/resnet18-mobilenetv2-stochastic-None-0,x,0,0.94,a,b\n"
        "digits/resnet18-mobilenetv2-stochastic-None-1,x,1,0.95,a,b\nunknown,x,1,0.1,a,b\n"
    )
    assert "moved by 3.5 points (root of the mean square, 2 pairs); such scatter" in finding.verdicts()


def test_a_run_with_a_seed_that_the_rival_lacks_does_not_enter_the_finding(filled):
    before = finding.headline()
    ledger.append([record("digits/mobilenetv2-base", 7, 0.10, None, None, id="teacher of itself")])
    assert finding.headline() == before


def test_verdicts_without_rows_say_so(tmp_path, monkeypatch):
    monkeypatch.setenv("STKD_LEDGER", str(tmp_path))
    assert finding.verdicts() == finding.NOT_RUN


def test_a_run_with_changed_settings_is_named_and_does_not_enter_the_finding(filled):
    before = finding.headline()
    shorter = record("digits/resnet18-mobilenetv2-stochastic", 0, 0.10, None, "stochastic", id="short")
    shorter["asked"]["epochs"] = 3
    ledger.append([shorter])
    assert finding.headline() == before
    assert "`digits/resnet18-mobilenetv2-stochastic` epochs=3" in finding.groups()


def at_larger(name, seed, accuracy, tau=None, **changes):
    asked = experiments.resolve(name, "paper", **({"tau": tau} if tau else {}))
    return record(name, seed, accuracy, tau, profile="paper", asked=asked, **changes)


CIFAR = "cifar100/resnet18-mobilenetv2"


@pytest.fixture
def larger(tmp_path, monkeypatch):
    """A ledger at the paper's size: random τ with two seeds, τ = 4 with both, τ = 20 and no KD with one of them."""
    monkeypatch.setenv("STKD_LEDGER", str(tmp_path))
    random = [at_larger(f"{CIFAR}-stochastic", seed, accuracy) for seed, accuracy in enumerate((0.67, 0.676))]
    fixed = [at_larger(f"{CIFAR}-kd", *row) for row in ((0, 0.68, 4), (1, 0.69, 4), (1, 0.71, 20))]
    ledger.append([at_larger("cifar100/mobilenetv2-base", 1, 0.65), *random, *fixed])
    return tmp_path


def larger_rows():
    return {row[0]: row[1:] for row in cells(finding.larger().split("\n\n")[0])}


def test_each_way_at_the_papers_size_has_the_seeds_it_has(larger):
    table = larger_rows()
    assert table["no KD"][:2] == ["65.00 (n = 1)", "+2.60<br>not decided"]
    assert table["KD, τ = 20"][:2] == ["71.00 (n = 1)", "−3.40<br>not decided"]
    assert table["KD, τ = 4"][0].endswith("(n = 2)") and table["KD, τ = 4"][1].startswith("−1.20 ± ")
    assert table["KD, stochastic τ"][1:] == ["", "1.00 Wh", "69.40 ± 0.37"]
    assert "up to 1.00 points apart" in finding.larger()
    said = finding.larger_verdict()
    assert "has reached 67.3 % so far (n = 2)" in said
    assert said.endswith("minus τ = 20 −3.40 points (n = 1), **not decided**.")


def test_part_of_a_grid_is_no_grid(larger):
    ledger.append([at_larger(f"{CIFAR}-kd", 0, 0.70, 20)])  # two temperatures that both seeds have
    assert larger_rows()["KD, tuned τ"] == ["not run yet", "", "", "69.70 ± 0.12"]
    rest = [at_larger(f"{CIFAR}-kd", seed, 0.5, tau) for seed in (0, 1) for tau in range(2, 20) if tau != 4]
    ledger.append(rest)
    assert larger_rows()["KD, tuned τ"][0].startswith("70.50 ± ")
    assert larger_rows()["KD, tuned τ"][2:] == ["19.0 Wh", "69.70 ± 0.12"]


def test_the_energy_of_a_gpu_that_was_not_seen_is_not_the_processors(larger):
    components = {**COST["components"], "gpu": {"kwh": None, "how": "not seen", "watts": None, "note": ""}}
    unseen = {**COST, "components": components}
    machine = {"device": "cuda", "cpu": "Some CPU", "cores": 2, "threads": 2, "memory_gib": 8.0, "gpu": "Some GPU"}
    cost = {"train": unseen, "evaluate": unseen}
    ledger.append([at_larger("cifar100/mobilenetv2-base", 0, 0.65, hardware=machine, cost=cost)])
    assert larger_rows()["no KD"][2] == "not seen"


def test_random_runs_alone_at_the_papers_size(tmp_path, monkeypatch):
    monkeypatch.setenv("STKD_LEDGER", str(tmp_path))
    ledger.append([at_larger(f"{CIFAR}-stochastic", 0, 0.67)])
    assert finding.larger_verdict().endswith("has reached 67.0 % so far (n = 1).")
    assert list(larger_rows())[2:] == ["KD, stochastic τ", "KD, tuned τ"]


def test_a_seed_that_the_others_lack_is_left_out_of_the_differences(filled):
    kd = "digits/resnet18-mobilenetv2"
    before = finding.verdicts().split("random minus ")[1:]
    ledger.append([record(f"{kd}-stochastic", 7, 0.20, None, "stochastic")])
    assert finding.verdicts().split("random minus ")[1].split(",")[0] == before[0].split(",")[0]


def test_a_temperature_with_a_seed_of_its_own_leaves_the_grid_whole(filled):
    before = finding.headline()
    ledger.append([record("digits/resnet18-mobilenetv2-kd", 7, 0.20, 4, "fixed")])
    assert finding.headline() == before


def test_a_seed_whose_grid_is_half_trained_leaves_the_finding_as_it_was(filled):
    kd = "digits/resnet18-mobilenetv2"
    ledger.append([record(f"{kd}-stochastic", 7, 0.91, None, "stochastic"), record(f"{kd}-kd", 7, 0.20, 2, "fixed")])
    found = {row[0]: row[1:] for row in cells(finding.headline())[2:]}
    assert found["KD, tuned τ"] == ["90.0 ± 0.0 % (n = 2)", "3", "3 ×", "3 ×"], "the seeds that have all of it"
    assert "one training instead of 3" in finding.verdicts()


def test_the_papers_size_without_runs_says_so(filled):
    assert finding.larger() == finding.larger_verdict() == finding.NOT_RUN


def test_every_table_and_figure_stands_on_a_page(root):
    pages = "".join(path.read_text() for path in (root / "book").glob("*.md"))
    asked = {f"{{ledger-table}} {name}\n" for name in finding.TABLES}
    asked |= {f"{{ledger-figure}} {name}\n" for name in finding.FIGURES}
    assert {line for line in asked if line not in pages} == set()
