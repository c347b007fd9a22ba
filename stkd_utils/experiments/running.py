"""From an experiment to a record: trains what has not been trained, continues what was cut off, repeats nothing."""

import itertools
import os
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import filelock
import pandas as pd
import torch

from .. import carbon, checkpoint, data, ledger, losses, models, temperature
from ..progress import Progress
from ..protocol import Protocol
from ..training import Distillation, Supervised, Trainer, default_device, evaluate
from . import recording, settings
from .profiles import profile as find_profile


@dataclass(frozen=True)
class Run:
    """A finished run: its ``folder`` and its ``record`` (see book/ledger/README.md for the fields)."""

    folder: Path
    record: dict
    new: bool

    @property
    def history(self):
        """One row per epoch: learning rate, loss terms, accuracies. A DataFrame."""
        return pd.read_csv(self.folder / "history.csv")

    @property
    def taus(self):
        """The temperatures drawn, one per batch: a DataFrame with ``step`` and ``tau``; empty without a teacher."""
        return pd.read_csv(self.folder / "taus.csv")

    def model(self, epoch="chosen", device="cpu"):
        """The trained network, in evaluation mode; ``epoch`` is "chosen" (by validation) or "last"."""
        return _network(self.folder, self.record["asked"], epoch, device)


def runs_folder(argument=None):
    """Where runs live: ``argument``, else $STKD_RUNS, else ./runs."""
    return Path(argument or os.environ.get("STKD_RUNS") or "runs")


def run(name, seed=0, profile="quick", *, runs=None, progress=None, intensity="world", save_seconds=10.0, **overrides):
    """The `Run` of experiment ``name`` with ``seed`` at the scale of ``profile``; trains only what is not there yet.

    ``overrides`` replace settings (``tau=4``). A finished run is returned from its folder, an interrupted one
    continued; the teacher is trained first if it has to be. ``progress`` is "bar", "lines" or "none"; ``intensity``
    (g/kWh, a name or a `carbon.Intensity`) is how energy becomes CO2e. Raises ExperimentError for settings that are
    not valid, data.DataNotFound when the data set is not there, training.Diverged when the loss is no longer a
    number.
    """
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise settings.ExperimentError(f"A seed is a whole number of 0 or more; got {seed!r}.")
    asked = settings.resolve(name, {**find_profile(profile).overrides, **overrides})
    teacher = _teacher(asked, profile, runs=runs, progress=progress, intensity=intensity, save_seconds=save_seconds)
    asked_hash = settings.digest({**asked, "teacher_run": teacher.record["id"] if teacher else None})
    run_id = f"{name.replace('/', '_')}_s{seed}_{asked_hash[:10]}"
    folder = runs_folder(runs) / run_id
    folder.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(folder / ".lock"):
        record_path = folder / "record.json"
        if record_path.exists():
            return Run(folder, ledger.read(record_path), new=False)
        head = {
            "id": run_id,
            "experiment": name,
            "profile": profile,
            "seed": seed,
            "asked": asked,
            "asked_hash": asked_hash,
        }
        head["teacher_id"] = teacher.record["id"] if teacher else None
        with _threads(find_profile(profile).threads):
            record = _train(folder, head, teacher, intensity, progress, save_seconds)
        ledger.write(record, record_path)
        checkpoint.remove(folder / "checkpoint.pt")
    return Run(folder, record, new=True)


def sweep(name, *, seeds, profile="quick", progress=None, **grid):
    """Runs of ``name`` for every seed and every combination of the lists in ``grid`` (``tau=[2, 3]``), a list of `Run`.

    Values that are not lists are the same for all. One line per combination says how far it is, unless progress is
    "none".
    """
    fixed = {key: value for key, value in grid.items() if not isinstance(value, (list, tuple))}
    varied = {key: value for key, value in grid.items() if key not in fixed}
    done = []
    for values in itertools.product(*varied.values()):
        point = dict(zip(varied, values, strict=True))
        runs = [run(name, seed, profile, progress="none" if varied else progress, **fixed, **point) for seed in seeds]
        done += runs
        if progress != "none":
            print(_line(name, point, runs), flush=True)
    return done


def _line(name, point, runs):
    where = ", ".join(f"{key} {value}" for key, value in point.items()) or name
    accuracy = sum(r.record["result"]["last"]["val_accuracy"] for r in runs) / len(runs)
    seconds = sum(r.record["cost"]["train"]["seconds"] for r in runs)
    old = sum(not r.new for r in runs)
    reused = f" ({old} from before)" if old else ""
    return f"{where}: {len(runs)} seeds, validation {100 * accuracy:.1f} %, {seconds:.1f} s of training{reused}"


@contextmanager
def _threads(count):
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _teacher(asked, profile, **options):
    if asked["method"] == "base":
        return None
    found = settings.load(asked["teacher"])
    if found["method"] != "base":
        raise settings.ExperimentError(
            f"The teacher '{asked['teacher']}' is a distilled student; name a base experiment."
        )
    if found["dataset"] != asked["dataset"]:
        raise settings.ExperimentError(
            f"The teacher '{asked['teacher']}' was trained on other data than {asked['dataset']}; "
            f"name an experiment that begins with {asked['dataset']}/."
        )
    same_data = {key: asked[key] for key in ("val_fraction", "train_limit", "val_limit", "test_limit")}
    return run(asked["teacher"], asked["teacher_seed"], profile, **same_data, **options)


@lru_cache(maxsize=2)
def _dataset(name, root, device, val_fraction, train_limit, val_limit, test_limit):
    limits = {"train_limit": train_limit, "val_limit": val_limit, "test_limit": test_limit}
    try:
        return data.load(name, root=root, device=device, val_fraction=val_fraction, **limits)
    except ValueError as error:
        raise settings.ExperimentError(str(error)) from error


def _network(folder, asked, epoch, device):
    saved = torch.load(folder / "weights.pt", map_location=device, weights_only=True)
    size = {"channels": saved["channels"], "width": asked["width"], "depth": asked["depth"]}
    model = models.build(asked["model"], saved["classes"], **size)
    model.load_state_dict(saved[epoch])
    return model.to(device, memory_format=torch.channels_last).eval()


def _objective(asked, seed, teacher, device):
    if asked["method"] == "base":
        return Supervised()
    taus = {key: asked[key] for key in settings.TAU if key in asked}
    policy = temperature.build(asked["tau_policy"], seed=seed, **taus)
    network = teacher.model(asked["teacher_epoch"], device)
    weights = {"hard_weight": asked["hard_weight"], "soft_weight": asked["soft_weight"]}
    return Distillation(network, policy, loss=losses.METHODS[asked["method"]], **weights)


def _train(folder, head, teacher, intensity, progress, save_seconds):
    asked, seed, device = head["asked"], head["seed"], default_device()
    started = recording.now()
    limits = [asked[key] for key in ("val_fraction", *settings.LIMITS)]
    dataset = _dataset(asked["dataset"], os.environ.get("STKD_DATA"), device, *limits)
    size = {"channels": dataset.channels, "width": asked["width"], "depth": asked["depth"]}
    model = models.build(asked["model"], dataset.classes, seed=seed, **size)
    head["init_checksum"] = recording.checksum(model)
    model = model.to(device, memory_format=torch.channels_last)
    objective = _objective(asked, seed, teacher, device)
    protocol = Protocol(**{key: asked[key] for key in Protocol.__dataclass_fields__})
    augmentation = data.Augmentation(asked["crop_padding"], asked["flip"], asked["rotation_degrees"])
    meter = carbon.Meter(intensity=intensity)
    trainer = Trainer(
        model, dataset, protocol, objective, seed=seed, augmentation=augmentation, meter=meter,
        path=folder / "checkpoint.pt", save_seconds=save_seconds,
    )  # fmt: skip
    with Progress(f"{head['experiment']} seed {seed}", protocol.epochs, progress) as show:
        fit = trainer.fit(on_epoch=show)
    last = {key: value.clone() for key, value in model.state_dict().items()}
    with meter.block("evaluate"):
        result = {"last": _test(model, last, fit.history[-1], dataset)}
        result["chosen"] = _test(model, fit.chosen_weights, fit.history[fit.chosen_epoch - 1], dataset)
    policy = objective.policy
    _save(folder, fit, policy, {"last": last, "chosen": fit.chosen_weights}, dataset)
    return recording.record(head, dataset, model, teacher and teacher.record, policy, fit, result, meter, started)


def _test(model, weights, row, dataset):
    """The one place where the test split is read: after training, once for each of the two epochs that are reported."""
    model.load_state_dict(weights)
    test = evaluate(model, dataset.test, dataset)
    validation = {key: row[key] for key in ("epoch", "val_accuracy", "val_loss")}
    return {**validation, "test_accuracy": test["accuracy"], "test_loss": test["loss"]}


def _save(folder, fit, policy, weights, dataset):
    shape = {"classes": dataset.classes, "channels": dataset.channels}
    checkpoint.save({**weights, **shape}, folder / "weights.pt")
    draws = {"tau": policy.draws if policy else []}
    pd.DataFrame(draws).rename_axis("step").to_csv(folder / "taus.csv")
    # no clock in history.csv: two equal runs on one machine give equal bytes
    pd.DataFrame(fit.history).to_csv(folder / "history.csv", index=False)
    pd.DataFrame(fit.timings).to_csv(folder / "timings.csv", index=False)
