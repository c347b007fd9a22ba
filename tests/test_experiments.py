"""Experiments: valid files, errors that name the key, runs that are recorded, reused and equal."""

import copy
import json
from contextlib import nullcontext

import pytest
import torch
from helpers import equal, same_student

from stkd_utils import answering, engine, experiments, ledger, quantise, stored, temperature, training
from stkd_utils.experiments import ExperimentError, methods, settings, tasks, together

pytestmark = pytest.mark.usefixtures("on_cpu")
STOCHASTIC = "digits/resnet18-mobilenetv2-stochastic"
# what the last part of a name says, where it is not the method
NAMES_OF = {
    "kd": ("kd", "stochastic", "learnable", "defective"), "kd-standardised": ("standardised",), "tfkd-self": ("self",),
    "kd-element-mean": ("element-mean",),
    "kd-rectified-teacher": ("rectified-teacher",), "kd-rectified-student": ("rectified-student",),
    "tfkd-reg": ("reg",), "tfkd-reg-as-coded": ("reg-as-coded",), "tfkd-combined": ("combined",),
    "label-smoothing": ("smoothing",), "dml": ("dml", "dml-stochastic"), "crd": ("crd", "crd-stochastic"),
}  # fmt: skip
TINY = {"progress": "none", "train_limit": 64, "val_limit": 32, "test_limit": 32, "epochs": 1}
LACKING = quantise.no_kernels()


@pytest.mark.parametrize("name", experiments.names())
def test_trap_S11_every_experiment_file_is_valid_and_named_after_what_it_says(name):
    one = experiments.load(name)
    dataset, rest = name.split("/")
    assert one["dataset"] == dataset
    before = [one[key] for key in ("teacher", "start") if key in one]
    other = experiments.load(before[0]) if before else one
    assert other["dataset"] == dataset
    other = {**other, "model": one.get("peer", other["model"])}
    pair = f"{other['model']}-{one['model']}" if other["model"] != one["model"] else one["model"]
    assert rest.removeprefix(f"{pair}-") in NAMES_OF.get(one["method"], (one["method"],))


def test_data_sets_carry_the_same_names():
    datasets = "digits", "cifar10", "cifar100", "tinyimagenet"
    of = {d: {n.split("/")[1] for n in experiments.names() if n.startswith(f"{d}/")} for d in datasets}
    mnist = {name.split("/")[1] for name in experiments.names() if name.startswith("mnist/")}
    reported = {
        f"resnet18-{student}-{way}" for student in ("mobilenetv2", "shufflenetv2") for way in ("kd", "stochastic")
    }
    assert reported <= of["digits"] & of["cifar10"]
    assert {"resnet18-base", "mobilenetv2-base"} | {f"resnet18-mobilenetv2-{w}" for w in ("kd", "stochastic")} == mnist
    assert of["cifar10"] == of["tinyimagenet"] < of["cifar100"], "CIFAR-100 has the pairs of the original's params.json"


@pytest.mark.parametrize("name", [name for name in experiments.names() if name.endswith("-stochastic")])
def test_trap_P6_rivals_differ_in_nothing_but_the_temperature(name):
    def without(one, *left_out):
        return {key: value for key, value in one.items() if key not in left_out}

    method = experiments.load(name)["method"]
    fixed = name.replace("-stochastic", "-kd" if method == "kd" else "")
    random, fixed = experiments.load(name), experiments.load(fixed)
    about_tau = "tau_policy", *settings.taus()
    assert without(random, *about_tau) == without(fixed, *about_tau)
    alone = experiments.load(f"{random['dataset']}/{random['model']}-base")
    of_teacher = *settings.TAUGHT, *tasks.of(random).TAUGHT, *methods.KEYS
    assert without(random, "method", *about_tau, *of_teacher) == without(alone, "method")


@pytest.mark.parametrize("profile", experiments.profile_names())
@pytest.mark.parametrize("name", experiments.names())
def test_every_experiment_resolves_in_every_profile(name, profile):
    experiments.resolve(name, profile)


def test_paper_profile_is_the_protocol_of_the_paper():
    asked = experiments.resolve("cifar100/resnet18-mobilenetv2-stochastic", "paper")
    wanted = {
        "epochs": 100, "batch_size": 128, "lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4, "gamma": 0.2,
        "milestones": [0.3, 0.6, 0.8], "warmup_epochs": 1, "crop_padding": 4, "flip": True, "rotation_degrees": 15,
        "width": 1, "depth": 1, "hard_weight": 0.05, "soft_weight": 0.95, "tau_low": 2, "tau_high": 20,
    }  # fmt: skip
    assert {key: asked[key] for key in wanted} == wanted


# runs


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    runs = tmp_path_factory.mktemp("runs")
    return runs, experiments.run(STOCHASTIC, seed=1, runs=runs, **TINY)


def test_a_run_leaves_a_valid_record_and_its_files(done):
    runs, run = done
    assert ledger.read(run.folder / "record.json") == run.record
    assert run.record["teacher_id"] in {path.name for path in runs.iterdir()}
    names = {path.name for path in run.folder.iterdir()}
    assert {"record.json", "history.csv", "timings.csv", "taus.csv", "weights.pt"} <= names
    assert not any("checkpoint" in name for name in names)
    assert run.record["tau"]["draws"] == len(run.taus) == 64 / run.record["asked"]["batch_size"]
    assert 2 <= run.taus.tau.min() <= run.taus.tau.max() <= 20
    assert run.record["result"]["last"]["epoch"] == len(run.history) == 1


@pytest.mark.parametrize("method", ["base", "kd", "kd-element-mean"])
def test_trap_S1_every_method_survives_its_evaluations(done, method):
    name = "digits/shufflenetv2-base" if method == "base" else STOCHASTIC
    run = experiments.run(name, seed=1, runs=done[0], **{**TINY, "method": method, "epochs": 2})
    assert [row["epoch"] for row in run.record["history"]] == [1, 2]
    assert all(0 <= run.record["result"][epoch]["test_accuracy"] <= 1 for epoch in ("last", "chosen"))


def test_trap_S16_runs_of_one_process_keep_their_files_apart(done):
    runs, run = done
    before = {path.name: path.read_bytes() for path in run.folder.iterdir()}
    other = experiments.run(STOCHASTIC, seed=5, runs=runs, **TINY)
    assert other.folder != run.folder
    assert {path.name: path.read_bytes() for path in run.folder.iterdir()} == before


def test_a_finished_run_is_not_repeated(done):
    runs, run = done
    stamp = (run.folder / "weights.pt").stat().st_mtime_ns
    again = experiments.run(STOCHASTIC, seed=1, runs=runs, **TINY)
    assert not again.new and again.record == run.record
    assert (run.folder / "weights.pt").stat().st_mtime_ns == stamp


def test_equal_runs_give_equal_bytes_and_other_questions_other_ids(done, tmp_path):
    runs, run = done
    twin = experiments.run(STOCHASTIC, seed=1, runs=tmp_path, **TINY)
    assert (twin.folder / "history.csv").read_bytes() == (run.folder / "history.csv").read_bytes()
    assert twin.folder.name == run.folder.name
    others = [
        experiments.run(STOCHASTIC, seed=2, runs=tmp_path, **TINY),
        experiments.run(STOCHASTIC, seed=1, runs=tmp_path, **{**TINY, "lr": 0.2}),
    ]
    assert len({run.record["id"], *(other.record["id"] for other in others)}) == 3


def test_trap_S23_compared_students_start_equal_whatever_the_method(done, tmp_path):
    runs, run = done
    kd = experiments.run("digits/resnet18-mobilenetv2-kd", seed=1, runs=runs, tau=4, **TINY)
    alone = experiments.run("digits/mobilenetv2-base", seed=1, runs=runs, **TINY)
    assert run.record["init_checksum"] == kd.record["init_checksum"] == alone.record["init_checksum"]


def test_model_of_a_run_gives_the_recorded_test_accuracy(done):
    from stkd_utils import data
    from stkd_utils.training import evaluate

    runs, run = done
    limits = {key: TINY[key] for key in ("train_limit", "val_limit", "test_limit")}
    digits = data.load("digits", val_fraction=run.record["asked"]["val_fraction"], **limits)
    for epoch in ("last", "chosen"):
        found = evaluate(run.model(epoch), digits.test, digits)["accuracy"]
        assert found == run.record["result"][epoch]["test_accuracy"]


def test_compute_counts_the_teacher_and_the_backward_pass(done):
    compute = done[1].record["compute"]
    images = 64 * 1
    assert compute["flops_forward"] == 2 * images * (compute["macs_student"] + compute["macs_teacher"])
    assert compute["flops_forward_backward"] == 2 * images * (3 * compute["macs_student"] + compute["macs_teacher"])


def test_sweep_covers_seeds_and_grid_and_reuses(done, capsys):
    runs, _ = done
    options = {key: value for key, value in TINY.items() if key != "progress"}
    found = experiments.sweep("digits/resnet18-mobilenetv2-kd", seeds=[1], tau=[2, 4], runs=runs, **options)
    assert [run.record["asked"]["tau"] for run in found] == [2, 4]
    assert "tau 4: 1 seeds" in capsys.readouterr().out
    again = experiments.sweep("digits/resnet18-mobilenetv2-kd", seeds=[1, 2], tau=[4], runs=runs, **options)
    assert [(run.record["seed"], run.new) for run in again] == [(1, False), (2, True)]
    assert "tau 4: 2 seeds" in (shown := capsys.readouterr().out) and "(1 from before)" in shown


def test_a_policy_with_a_parameter_of_its_own_is_one_class(done, monkeypatch):
    monkeypatch.setattr(temperature, "POLICIES", dict(temperature.POLICIES))

    class Cooling(temperature.Policy):
        name = "cooling"
        parameters = ("tau_first",)

        def __init__(self, first, seed=0):
            super().__init__(seed)
            self.first = first

        def _next(self):
            return self.first / (1 + len(self.draws))

    options = {**TINY, "batch_size": 32, "tau_policy": "cooling"}
    run = experiments.run(STOCHASTIC, seed=1, runs=done[0], tau_first=8, **options)
    assert run.taus.tau.tolist() == [8, 4] and "tau_low" not in run.record["asked"]
    with pytest.raises(ExperimentError, match="'tau_first' is unused, tau_policy 'stochastic' does not read it"):
        experiments.resolve(STOCHASTIC, tau_first=8)
    with pytest.raises(ExperimentError, match="the key 'tau_first' is missing"):
        experiments.resolve(STOCHASTIC, tau_policy="cooling")
    with pytest.raises(ExperimentError, match="unknown key 'tau_frist'; did you mean 'tau_first'"):
        experiments.resolve(STOCHASTIC, tau_policy="cooling", tau_frist=8)


@pytest.mark.parametrize("peer, valid", [("peer1", True), ("peer10", True), ("peer0", False), ("peer01", False)])
def test_a_record_may_hold_any_number_of_peers(done, tmp_path, peer, valid):
    one = copy.deepcopy(done[1].record)
    one["result"]["last"] |= {f"val_{peer}_accuracy": 0.5, f"val_{peer}_loss": 1.0}
    with nullcontext() if valid else pytest.raises(ledger.LedgerError, match=f"val_{peer}_"):
        ledger.write(one, tmp_path / "record.json")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU on this machine")
def test_a_gpu_is_used_when_there_is_one(tmp_path, monkeypatch):
    monkeypatch.setattr(together, "default_device", training.default_device)
    run = experiments.run("digits/shufflenetv2-base", 1, runs=tmp_path, **TINY)
    assert run.record["hardware"]["device"] == "cuda"


def test_small_profiles_train_with_one_thread_and_give_the_others_back(done):
    before = torch.get_num_threads()
    assert done[1].record["hardware"]["threads"] == experiments.profile("quick").threads == 1
    assert torch.get_num_threads() == before


# settings of a frugal run


def test_what_nobody_set_gets_its_default_and_a_teacher_less_run_has_no_stored_teacher():
    asked, alone = (experiments.resolve(name) for name in (STOCHASTIC, "digits/resnet18-base"))
    wanted = {"data_seed": None, "schedule": "steps", "stop_after": None, "train_limit": None, "precision": "float32"}
    assert {key: asked[key] for key in wanted} == {key: alone[key] for key in wanted} == wanted
    assert asked["stored_teacher"] is False and "stored_teacher" not in alone
    assert experiments.resolve("cifar100/resnet18-base")["precision"] == "auto"


@pytest.mark.parametrize("profile", ["quick", "paper"])
def test_no_experiment_does_less_work_by_default_but_detectors_with_one_cycle(profile):
    for asked in (experiments.resolve(name, profile) for name in experiments.names()):
        assert not any(asked.get(key) for key in ("compiled", "train_fraction", "stored_teacher"))
        assert asked["stop_after"] is None and asked["data_seed"] is None
        assert asked["schedule"] == "steps" or tasks.of(asked) is tasks.TASKS["detection"]


@pytest.mark.parametrize("key, value, said", [
    ("data_seed", -1, "'data_seed' is -1; it must be a whole number, or null for the seed of the run"),
    ("schedule", "cosine", "it must be a schedule: steps, one-cycle"),
    ("precision", "float16", "it must be a precision: float32, bfloat16, auto"),
    ("stored_teacher", 1, "it must be true or false"),
    ("stop_after", 0, "it must be an epoch, or null for the last one"),
    ("stop_after", 100, "'stop_after' must be below 'epochs', 100; got 100"),
])  # fmt: skip
def test_settings_of_a_frugal_run_are_checked(key, value, said):
    with pytest.raises(ExperimentError, match=f"^{STOCHASTIC}: .*{said}"):
        experiments.resolve(STOCHASTIC, **{key: value})


def test_a_data_seed_decides_order_and_views_and_nothing_else(done):
    runs, options = done[0], {**TINY, "epochs": 1}
    own = experiments.run(STOCHASTIC, seed=1, runs=runs, data_seed=1, **options)
    assert (own.folder / "history.csv").read_bytes() == (done[1].folder / "history.csv").read_bytes()
    other = experiments.run(STOCHASTIC, seed=1, runs=runs, data_seed=2, **options)
    assert other.record["init_checksum"] == own.record["init_checksum"]
    assert list(other.taus.tau) == list(own.taus.tau)
    assert other.record["history"] != own.record["history"]


def test_stopped_and_continued_equals_a_run_in_one_piece(tmp_path):
    options = {**TINY, "epochs": 5}
    runs = tmp_path / "pieces"
    for stop in (2, 3):
        part = experiments.run(STOCHASTIC, 1, runs=runs, stop_after=stop, **options)
        assert len(part.record["history"]) == stop == part.record["result"]["last"]["epoch"]
    assert part.record["resumed"] == 1
    piece = experiments.run(STOCHASTIC, 1, runs=runs, **options)
    whole = experiments.run(STOCHASTIC, 1, runs=tmp_path / "whole", **options)
    assert piece.record["history"] == whole.record["history"] and piece.record["result"] == whole.record["result"]
    assert piece.record["history"][:3] == part.record["history"]
    assert (piece.record["resumed"], whole.record["resumed"]) == (2, 0)
    assert piece.record["compute"] == whole.record["compute"]
    assert 5 * part.record["compute"]["flops_forward"] == 3 * whole.record["compute"]["flops_forward"]
    assert piece.record["cost"]["train"]["seconds"] > part.record["cost"]["train"]["seconds"]
    assert (part.folder / "checkpoint.pt").exists() and not (piece.folder / "checkpoint.pt").exists()


def test_the_record_says_the_precision_that_it_really_was(tmp_path):
    run = experiments.run("digits/shufflenetv2-base", 1, runs=tmp_path, precision="bfloat16", **TINY)
    assert run.record["hardware"]["precision"] == run.record["asked"]["precision"] == "bfloat16"
    exact = experiments.run("digits/shufflenetv2-base", 1, runs=tmp_path, **TINY)
    assert exact.record["hardware"]["precision"] == "float32"
    assert exact.record["history"] != run.record["history"]


@pytest.mark.parametrize("views", [{"rotation_degrees": 0, "crop_padding": 1}, {"data_seed": 7}], ids=["finite", "all"])
def test_a_stored_teacher_changes_the_bill_and_nothing_else(tmp_path, views, capsys, monkeypatch):
    options = {**TINY, "batch_size": 32, **views}
    plain = experiments.run(STOCHASTIC, 1, runs=tmp_path, **options)
    options["stored_teacher"] = True
    first, second = (
        experiments.run(STOCHASTIC, 1, runs=tmp_path, soft_weight=weight, **options) for weight in (0.95, 0.9)
    )
    assert same_student(first, plain)
    assert first.record["compute"]["flops_forward"] == plain.record["compute"]["flops_forward"]
    again = second.record["compute"]["flops_forward"] / (2 * 64 * second.record["compute"]["macs_student"])
    assert again == 1, "the teacher worked again for views that it had seen"
    assert "Storing" not in capsys.readouterr().out
    before, train = [], together.train
    monkeypatch.setattr(together, "train", lambda *a, **m: before.append(capsys.readouterr().out) or train(*a, **m))
    experiments.run(STOCHASTIC, 1, runs=tmp_path, **{**options, "progress": "lines", "hard_weight": 0.5})
    assert "Storing the teacher's outputs for 64 images" in before[0], "said before the training starts"


@pytest.mark.skipif(bool(LACKING), reason=str(LACKING))
def test_a_teacher_in_int8_is_recorded_and_answers_alike_alone_together_and_from_disk(tmp_path, monkeypatch):
    options = {**TINY, "batch_size": 32, "data_seed": 7}
    exact = experiments.run(STOCHASTIC, 1, runs=tmp_path, **options).record
    assert "teacher_precision" not in exact["hardware"]
    options["teacher_precision"] = "int8"
    single = experiments.run(STOCHASTIC, 1, runs=tmp_path, **options)
    alone = single.record
    assert alone["hardware"]["teacher_precision"].startswith("int8") and alone["hardware"]["precision"] == "float32"
    assert alone["history"] != exact["history"]
    grid = {**options, "teacher_precision": ["int8", "float32"], "tau_high": [20, 10]}
    runs = experiments.sweep(STOCHASTIC, seeds=[1], together=True, runs=tmp_path / "together", **grid)
    of = {(run.record["asked"]["teacher_precision"], run.record["asked"]["tau_high"]): run for run in runs}
    assert equal(single, of["int8", 20]) and alone["history"] != of["int8", 10].record["history"]
    assert of["float32", 20].record["history"] == exact["history"], "each student has the teacher that it asked for"
    frozen, batches = answering.frozen, []
    monkeypatch.setattr(answering, "frozen", lambda *given: batches.append(given[-1]) or frozen(*given))
    assert same_student(experiments.run(STOCHASTIC, 1, runs=tmp_path, stored_teacher=True, **options), single)
    assert batches == [stored.BLOCK], "what is filled up would be computed and not counted"
    [key] = (tmp_path / "stored").glob("*/key.json")
    assert set(json.loads(key.read_text())) >= {"torchao", "precision"}


def test_a_teacher_whose_features_are_wanted_answers_in_float32_and_shares_it(tmp_path, monkeypatch):
    monkeypatch.setattr(engine, "_cpu_has_bfloat16", lambda: False)
    asked = {"data_seed": 7, "precision": "auto", **TINY}
    name = STOCHASTIC.replace("stochastic", "crd")
    assert "teacher_precision" not in experiments.run(name, 1, runs=tmp_path, **asked).record["hardware"]
    monkeypatch.setattr(quantise, "missing", lambda: "Quantisation needs torchao.")
    made, real = [], together._teacher
    monkeypatch.setattr(together, "_teacher", lambda *given: made.append(given) or real(*given))
    tiny = {key: value for key, value in asked.items() if key != "progress"}
    both = [(each, 1, tiny | {"epochs": 2}) for each in (name, STOCHASTIC)]
    experiments.side_by_side(both, runs=tmp_path, progress="none")
    assert len(made) == 1, "two students of one pass asked two copies of one teacher"


def test_a_teacher_that_cannot_answer_in_int8_is_refused_before_the_student_learns(tmp_path, monkeypatch):
    monkeypatch.setattr(quantise, "missing", lambda: "Quantisation needs torchao: run pip install torchao.")
    with pytest.raises(ExperimentError, match="'teacher_precision' cannot be int8: .* run pip install torchao"):
        experiments.run(STOCHASTIC, 1, runs=tmp_path, teacher_precision="int8", **TINY)
    with pytest.raises(
        ExperimentError, match="'teacher_precision' is \"int4\"; it must be null, .*bfloat16, int8"
    ):
        experiments.run(STOCHASTIC, 1, runs=tmp_path, teacher_precision="int4", **TINY)


@pytest.mark.parametrize("change, said", [({}, "set rotation_degrees to 0"), ({"batch_size": 20}, "multiple of 32")])
def test_what_cannot_be_stored_is_refused(tmp_path, change, said):
    with pytest.raises(ExperimentError, match=said):
        experiments.run(STOCHASTIC, 1, runs=tmp_path, **{**TINY, "stored_teacher": True, **change})
