"""One pass over the data that trains one planned run or several, and leaves a record of each."""

import math
import os
import shutil
from contextlib import contextmanager
from functools import lru_cache

import filelock
import pandas as pd
import torch

from .. import carbon, checkpoint, compute, data, engine, ledger, losses, models, stored, temperature
from ..progress import Progress, mode
from ..protocol import Protocol
from ..training import Distillation, Diverged, Supervised, Teacher, Trainer, default_device, evaluate, train
from . import recording, settings
from .profiles import profile as find_profile

# what runs that share batches, views and a meter must have in common
SHARED = (
    "dataset", "val_fraction", *settings.LIMITS, "batch_size", "crop_padding", "flip", "rotation_degrees",
    "epochs", "stop_after", "precision", "data_seed",
)  # fmt: skip


def check(questions):
    """Raise ExperimentError unless runs with these ``questions`` (pairs of seed and settings) can share a pass."""
    (first_seed, first), *others = questions
    for seed, asked in others:
        for key in SHARED:
            one, other = first[key], asked[key]
            if key == "data_seed":
                one, other = (s if given is None else given for s, given in ((first_seed, one), (seed, other)))
            if one != other:
                advice = f"set data_seed, such as {first_seed}, for all" if key == "data_seed" else "run them apart"
                raise settings.ExperimentError(
                    f"Runs can be trained together only with equal '{key}'; got {one} and {other}: {advice}."
                )


def finish(plans, *, progress=None, intensity="world", save_seconds=10.0):
    """Train the runs of ``plans`` in one pass and write their records; the caller holds their locks.

    Those that go through get their records even when another one diverges; then Diverged is raised.
    """
    started, say = recording.now(), _silent if mode(progress) == "none" else print
    with _threads(find_profile(plans[0].profile).threads):
        dataset, teachers = _dataset_of(plans[0].asked), {}
        trainers = [_trainer(plan, dataset, teachers, intensity, save_seconds, say) for plan in plans]
        checksums = [recording.checksum(trainer.model) for trainer in trainers]
        who = f"{plans[0].name} seed {plans[0].seed}" if len(plans) == 1 else f"{plans[0].name} {len(plans)} students"
        with Progress(who, trainers[0].last_epoch, progress) as show:
            diverged = None
            try:
                train(trainers, carbon.Meter(intensity=intensity), on_epoch=lambda rows: show(_mean(rows)))
            except Diverged as error:
                diverged = error
        for plan, trainer, init_checksum in zip(plans, trainers, checksums, strict=True):
            if not trainer.diverged:
                _conclude(plan, trainer, init_checksum, started)
        if diverged:
            raise diverged


def _silent(*_):
    pass


def _mean(rows):
    """What progress shows: the numbers of the only student, or the means of all."""
    if len(rows) == 1:
        return rows[0]
    losses_ = [sum(value for key, value in row.items() if key.startswith("loss_")) for row in rows]
    validation = sum(row["val_accuracy"] for row in rows) / len(rows)
    return {"epoch": rows[0]["epoch"], "loss_mean": sum(losses_) / len(rows), "val_accuracy": validation}


@contextmanager
def _threads(count):
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _dataset_of(asked):
    limits = [asked[key] for key in ("val_fraction", *settings.LIMITS)]
    return _dataset(asked["dataset"], os.environ.get("STKD_DATA"), default_device(), *limits)


@lru_cache(maxsize=2)
def _dataset(name, root, device, val_fraction, train_limit, val_limit, test_limit):
    limits = {"train_limit": train_limit, "val_limit": val_limit, "test_limit": test_limit}
    try:
        return data.load(name, root=root, device=device, val_fraction=val_fraction, **limits)
    except ValueError as error:
        raise settings.ExperimentError(str(error)) from error


def _trainer(plan, dataset, teachers, intensity, save_seconds, say):
    """The `Trainer` of a plan; ``teachers`` holds those that other students of the pass use already."""
    asked, device = plan.asked, default_device()
    size = {"channels": dataset.channels, "width": asked["width"], "depth": asked["depth"]}
    model = models.build(asked["model"], dataset.classes, seed=plan.seed, **size)
    macs = compute.count(model, (dataset.channels, dataset.size, dataset.size)).macs
    precision = engine.resolve(asked["precision"], device)
    augmentation = data.Augmentation(asked["crop_padding"], asked["flip"], asked["rotation_degrees"])
    if plan.teacher:
        which = plan.teacher.record["id"], asked["teacher_epoch"], asked["stored_teacher"]
        if which not in teachers:
            teachers[which] = _teacher(plan, dataset, augmentation, precision, say)
        objective = _distillation(plan, teachers[which])
    else:
        objective = Supervised()
    _carry_over(plan)
    return Trainer(
        model.to(device, memory_format=torch.channels_last), dataset,
        Protocol(**{key: asked[key] for key in Protocol.__dataclass_fields__}), objective,
        seed=plan.seed, data_seed=asked["data_seed"], augmentation=augmentation,
        meter=carbon.Meter(intensity=intensity), path=plan.checkpoint_path, save_seconds=save_seconds,
        precision=precision, stop_after=asked["stop_after"], name=plan.id,
        macs=(macs, plan.teacher.record["compute"]["macs_student"] if plan.teacher else 0),
    )  # fmt: skip


def _carry_over(plan):
    """Let a run begin where the same one ended that was asked for with an earlier ``stop_after``.

    Waits for that one's lock. Locks are taken from late ends of a run to early ones, so nobody waits in a circle.
    """
    own = plan.checkpoint_path
    earlier = plan.stopped()
    if not earlier or own.exists() or checkpoint.previous(own).exists():
        return
    with filelock.FileLock(earlier.parent / ".lock"):
        copy = plan.folder / "checkpoint.pt.new"
        shutil.copyfile(earlier if earlier.exists() else checkpoint.previous(earlier), copy)
        os.replace(copy, own)


def _teacher(plan, dataset, augmentation, precision, say):
    """The `Teacher` of a plan, which several students may share; its answers kept on disk if the plan says so."""
    asked, device = plan.asked, default_device()
    network = engine.frozen(plan.teacher.model(asked["teacher_epoch"], device), precision, device)
    if not asked["stored_teacher"]:
        return Teacher(network)
    per_epoch = {"epochs": asked["epochs"]}
    if augmentation.views == math.inf:  # no view comes twice: keep one answer per image and epoch of this data seed
        per_epoch["data_seed"] = asked["data_seed"]
    size = {"batch_size": asked["batch_size"], **per_epoch}
    try:
        say(stored.estimate(len(dataset.train), dataset.classes, augmentation, **size))
        answers = stored.StoredTeacher(network, plan.runs / "stored", dataset, augmentation, precision, **per_epoch)
    except stored.StoreError as error:
        raise settings.ExperimentError(str(error)) from error
    return Teacher(network, answers)


def _distillation(plan, teacher):
    asked = plan.asked
    taus = {key: asked[key] for key in settings.TAU if key in asked}
    policy = temperature.build(asked["tau_policy"], seed=plan.seed, **taus)
    weights = {"hard_weight": asked["hard_weight"], "soft_weight": asked["soft_weight"]}
    return Distillation(teacher, policy, loss=losses.METHODS[asked["method"]], **weights)


def _conclude(plan, trainer, init_checksum, started):
    model, dataset, fit = trainer.model, trainer.dataset, trainer.fit_state
    last = {key: value.clone() for key, value in model.state_dict().items()}
    with trainer.meter.block("evaluate"):
        result = {"last": _test(trainer, last, fit.history[-1])}
        result["chosen"] = _test(trainer, fit.chosen_weights, fit.history[fit.chosen_epoch - 1])
    shape = {"classes": dataset.classes, "channels": dataset.channels}
    checkpoint.save({"last": last, "chosen": fit.chosen_weights, **shape}, plan.folder / "weights.pt")
    draws = {"tau": trainer.objective.policy.draws if trainer.objective.policy else []}
    pd.DataFrame(draws).rename_axis("step").to_csv(plan.folder / "taus.csv")
    # no clock in history.csv: two equal runs on one machine give equal bytes
    pd.DataFrame(fit.history).to_csv(plan.folder / "history.csv", index=False)
    pd.DataFrame(fit.timings).to_csv(plan.folder / "timings.csv", index=False)
    head = plan.head() | {"init_checksum": init_checksum}
    ledger.write(recording.record(head, trainer, result, started), plan.record_path)
    if not plan.asked["stop_after"]:
        checkpoint.remove(plan.checkpoint_path)


def _test(trainer, weights, row):
    """The one place where the test split is read: after training, once for each of the two epochs that are reported."""
    trainer.model.load_state_dict(weights)
    test = evaluate(trainer.model, trainer.dataset.test, trainer.dataset, precision=trainer.precision)
    validation = {key: row[key] for key in ("epoch", "val_accuracy", "val_loss")}
    return {**validation, "test_accuracy": test["accuracy"], "test_loss": test["loss"]}
