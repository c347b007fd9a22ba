"""One pass over the data that trains one planned run or several, and leaves a record of each."""

import math
import os
import shutil
from contextlib import contextmanager

import filelock
import pandas as pd
import torch

from .. import answering, carbon, checkpoint, clock, compute, engine, ledger, quantise, scalars, stored, temperature
from ..progress import Progress, mode
from ..protocol import Protocol
from ..training import Diverged, Teacher, Trainer, default_device, train
from . import recording, settings, tasks
from .methods import Parts
from .profiles import profile as find_profile

# what runs that share batches, views and a meter must have in common, besides what their task says
SHARED = (
    "dataset", "val_fraction", *settings.LIMITS, "batch_size", "epochs", "stop_after", "precision", "compiled",
    "data_seed",
)  # fmt: skip


def check(questions):
    """Raise ExperimentError unless runs with these ``questions`` (pairs of seed and settings) can share a pass."""
    (first_seed, first), *others = questions
    task = tasks.of(first)
    for seed, asked in others:
        for key in (*SHARED, *tasks.decisive(first), *task.VIEWS):
            one, other = first.get(key), asked.get(key)
            if key == "data_seed":
                one, other = (s if given is None else given for s, given in ((first_seed, one), (seed, other)))
            if one != other:
                advice = f"set data_seed, such as {first_seed}, for all" if key == "data_seed" else "run them apart"
                raise settings.ExperimentError(
                    f"Runs can be trained together only with equal '{key}'; got {one} and {other}: {advice}."
                )


def finish(plans, *, progress=None, intensity="world", save_seconds=10.0, tensorboard=False):
    """Train the runs of ``plans`` in one pass and write their records; the caller holds their locks.

    Those that go through get their records even when another one diverges; then Diverged is raised.
    """
    started, say = clock.now(), _silent if mode(progress) == "none" else print
    with _threads(find_profile(plans[0].profile, tasks.name_of(plans[0].asked["dataset"])).threads):
        dataset, teachers = tasks.of(plans[0].asked).dataset(plans[0].asked, default_device()), {}
        trainers = [_trainer(plan, dataset, teachers, intensity, save_seconds, say) for plan in plans]
        starts = [_start(plan, trainer, say) for plan, trainer in zip(plans, trainers, strict=True)]
        names = list(dict.fromkeys(plan.name for plan in plans))
        who = f"{names[0]} and others" if len(names) > 1 else names[0]
        who += f" {len(plans)} students" if len(plans) > 1 else f" seed {plans[0].seed}"
        watched = {plan.folder: trainer for plan, trainer in zip(plans, trainers, strict=True)} if tensorboard else {}
        with Progress(who, trainers[0].last_epoch, progress) as show, scalars.watched(watched) as write:
            diverged = []
            try:
                train(trainers, carbon.Meter(intensity=intensity), on_epoch=lambda rows: (show(_mean(rows)), write()))
            except Diverged as error:
                diverged.append(str(error))
        for plan, trainer, start in zip(plans, trainers, starts, strict=True):
            if not trainer.diverged:
                try:
                    _conclude(plan, trainer, start | {"started": started})
                except Diverged as error:  # its last update spoilt it
                    diverged.append(str(error))
        if diverged:
            raise Diverged("\n".join(diverged))


def _silent(*_):
    pass


def _mean(rows):
    """What progress shows: the numbers of the only student, or the means of all."""
    if len(rows) == 1:
        return rows[0]
    losses_ = [sum(value for key, value in row.items() if key.startswith("loss_")) for row in rows]
    common = [key for key in rows[0] if key.startswith("val_") and all(key in row for row in rows)]
    validation = {key: sum(row[key] for row in rows) / len(rows) for key in common}
    return {"epoch": rows[0]["epoch"], "loss_mean": sum(losses_) / len(rows), **validation}


@contextmanager
def _threads(count):
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _trainer(plan, dataset, teachers, intensity, save_seconds, say):
    """The `Trainer` of a plan; ``teachers`` holds those that other students of the pass use already."""
    asked, device, task = plan.asked, default_device(), tasks.of(plan.asked)
    model = task.network(asked, classes=dataset.classes, channels=dataset.channels, seed=plan.seed)
    model = model.to(device, memory_format=torch.channels_last)
    macs = compute.count(model, (dataset.channels, dataset.size, dataset.size)).macs
    precision = engine.resolve(asked["precision"], device)
    augmentation = task.augmentation(asked)
    teacher = None
    if plan.teacher:
        network, answers = plan.teacher.model(asked["teacher_epoch"], device), asked["precision"]
        if settings.reads(asked, "teacher_precision"):  # nothing but its logits is wanted
            answers = answering.resolve(network, asked.get("teacher_precision") or answers, device)
        else:
            answers = engine.resolve(answers, device)
        which = plan.teacher.record["id"], asked["teacher_epoch"], bool(asked.get("stored_teacher")), answers
        if which not in teachers:
            teachers[which] = _teacher(plan, network, answers, dataset, augmentation, say)
        teacher = teachers[which]
    objective = tasks.method(asked).objective(Parts(asked, model, dataset, plan.seed, teacher, _policy(plan)))
    if asked.get("compiled"):
        model.compile()
    _carry_over(plan)
    protocol = Protocol(**{key: asked[key] for key in Protocol.__dataclass_fields__ if key in asked})
    return Trainer(
        model, dataset, protocol, objective,
        seed=plan.seed, data_seed=asked["data_seed"], augmentation=augmentation,
        meter=carbon.Meter(intensity=intensity), path=plan.checkpoint_path, save_seconds=save_seconds,
        precision=precision, stop_after=asked["stop_after"], name=plan.id, evaluate=task.evaluate,
        macs=(macs, plan.teacher.record["compute"]["macs_student"] if plan.teacher else 0),
    )  # fmt: skip


def _policy(plan):
    """The temperature policy of a plan, None for a method without a temperature."""
    if not tasks.method(plan.asked).temperature:
        return None
    taus = {key: plan.asked[key] for key in settings.tau_keys(plan.asked)}
    return temperature.build(plan.asked["tau_policy"], seed=plan.seed, **taus)


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


def _teacher(plan, network, precision, dataset, augmentation, say):
    """The `Teacher` of a plan, which several students may share; its answers kept on disk if the plan says so."""
    asked = plan.asked
    batch = stored.BLOCK if asked.get("stored_teacher") else None  # of a batch it is asked about what is not stored
    try:
        network = answering.frozen(network, precision, default_device(), dataset, batch)
    except quantise.QuantiseError as error:
        raise settings.ExperimentError(f"'teacher_precision' cannot be int8: {error}") from error
    if precision == "int8":
        say(f"The teacher answers in {network.precision}, and is prepared for it before its first batch.")
    if not asked.get("stored_teacher"):
        if asked.get("compiled") and precision != "int8":
            network.network.compile()
        return Teacher(network)
    per_epoch = {"epochs": asked["epochs"]}
    if augmentation.views == math.inf:  # no view comes twice: keep one answer per image and epoch of this data seed
        per_epoch["data_seed"] = asked["data_seed"]
    size = {"batch_size": asked["batch_size"], **per_epoch}
    try:
        say(stored.estimate(len(dataset.train), dataset.classes, augmentation, **size))
        where = plan.runs / "stored"
        answers = stored.StoredTeacher(network, where, dataset, augmentation, network.precision, **per_epoch)
    except stored.StoreError as error:
        raise settings.ExperimentError(str(error)) from error
    return Teacher(network, answers)


def _start(plan, trainer, say):
    """The fields of a record that say where the weights came from."""
    if plan.start:
        trainer.model.load_state_dict(plan.start.model("chosen", trainer.dataset.device).state_dict())
        initial = plan.start.record["id"]
    else:
        initial = tasks.of(plan.asked).initialise(trainer.model, plan.asked, say)
    start = {"init_checksum": recording.checksum(trainer.model), "initial": initial}
    peers = recording.peers(trainer.objective.networks, plan.seed)
    return start | ({"peers": peers} if peers else {})


def _conclude(plan, trainer, start):
    model, dataset, fit = trainer.model, trainer.dataset, trainer.fit_state
    last = {key: value.clone() for key, value in model.state_dict().items()}
    with trainer.meter.block("evaluate"):
        result = {"last": _test(plan, trainer, "last", last, fit.history[-1])}
        row = fit.history[fit.chosen_epoch - 1]  # the test split is not read twice for one and the same network
        chosen = row is not fit.history[-1]
        result["chosen"] = _test(plan, trainer, "chosen", fit.chosen_weights, row) if chosen else result["last"]
    _check_finite(plan, [*fit.history, *result.values()])
    shape = {"classes": dataset.classes, "channels": dataset.channels}
    checkpoint.save({"last": last, "chosen": fit.chosen_weights, **shape}, plan.folder / "weights.pt", keep=False)
    draws = {"tau": trainer.objective.policy.draws if trainer.objective.policy else []}
    pd.DataFrame(draws).rename_axis("step").to_csv(plan.folder / "taus.csv")
    # no clock in history.csv: two equal runs on one machine give equal bytes
    pd.DataFrame(fit.history).to_csv(plan.folder / "history.csv", index=False)
    pd.DataFrame(fit.timings).to_csv(plan.folder / "timings.csv", index=False)
    ledger.write(recording.record(plan.head() | start, trainer, result), plan.record_path)
    if not plan.asked["stop_after"]:
        checkpoint.remove(plan.checkpoint_path)


def _check_finite(plan, rows):
    numbers = [(key, value) for row in rows for key, value in row.items() if isinstance(value, float)]
    if broken := dict.fromkeys(key for key, value in numbers if not math.isfinite(value)):
        raise Diverged(f"{plan.id}: NaN or Inf in {', '.join(broken)}; lower lr and start again.")


def _test(plan, trainer, epoch, weights, row):
    """The one place where the test split is read: after training, once for each of the two epochs that are reported."""
    trainer.model.load_state_dict(weights)
    test = tasks.of(plan.asked).tested(trainer, plan.folder, epoch)
    validation = {key: value for key, value in row.items() if key == "epoch" or key.startswith("val_")}
    return {**validation, **{f"test_{name}": value for name, value in test.items()}}
