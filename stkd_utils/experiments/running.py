"""From an experiment to a record: trains what has not been trained, continues what was cut off, repeats nothing."""

import itertools
from contextlib import ExitStack

import filelock

from .. import scalars
from ..data import DataNotFound
from ..progress import mode, validated
from ..training import Diverged, default_device
from . import settings, tasks, together
from .plans import Plan, runs_folder
from .profiles import profile as find_profile

OPTIONS = ("runs", "intensity", "save_seconds", "tensorboard")


def run(
    name, seed=0, profile="quick", *, runs=None, progress=None, intensity="world", save_seconds=10.0, tensorboard=False,
    **overrides,
):  # fmt: skip
    """The `Run` of experiment ``name`` with ``seed`` at the scale of ``profile``; trains only what is not there yet.

    ``overrides`` replace settings (``tau=4``). A finished run is returned from its folder, an interrupted one, or one
    that ``stop_after`` ended earlier, continued; the teacher is trained first if it has to be. ``progress`` is "bar",
    "lines" or "none"; ``intensity`` (g/kWh, a name or a `carbon.Intensity`) is how energy becomes CO2e;
    ``tensorboard`` writes scalars into a folder of that name in each run's own, also its teacher's. Raises
    ExperimentError for settings that are not valid, data.DataError for data that are not there, damaged or too few,
    training.Diverged when the loss is no longer a number, scalars.TensorBoardMissing, checkpoint.CheckpointDamaged for
    one that cannot be read, and quantise.QuantiseError for a teacher that cannot be prepared for int8 after all.
    """
    options = {"runs": runs, "progress": progress, "intensity": intensity, "save_seconds": save_seconds}
    return _runs([(name, seed, overrides)], profile, tensorboard=tensorboard, **options)[0]


def side_by_side(wanted, profile="quick", **options):
    """The `Run` of each (name, seed, overrides) in the list ``wanted``; what is not there yet is trained in one pass.

    The runs may be of several experiments, such as students with and without a teacher, on the same batches and views;
    with several seeds all need one ``data_seed``. Each ends as if trained alone, and pays its share of the pass.
    ``options`` are those of `run`. Raises ExperimentError for runs that cannot share a pass, and as `run`. Introduced
    in notebook 09.
    """
    return _runs(wanted, profile, **options) if wanted else []


def sweep(name, *, seeds, profile="quick", progress=None, together=False, **grid):
    """Runs of ``name`` for every seed and every combination of the lists in ``grid`` (``tau=[2, 3]``), a list of `Run`.

    Values that are not lists are the same for all, and so is a list that is itself a valid value (``milestones``). One
    line per combination says how far it is, unless progress is "none".

    ``together`` trains what is not there yet in one pass over the data, which costs one augmentation and one teacher
    forward pass per batch for all; several seeds need one ``data_seed`` for that. Each run ends as if trained alone.
    Raises ExperimentError for runs that cannot share a pass, and as `run`.
    """
    varied = lists(name, grid)
    for key, values in {"seeds": seeds, **varied}.items():
        if not values:
            raise settings.ExperimentError(f"'{key}' is an empty list; give it one value or more.")
    fixed = {key: value for key, value in grid.items() if key not in varied}
    points = [dict(zip(varied, values, strict=True)) for values in itertools.product(*varied.values())]
    if together:
        options = {key: fixed.pop(key) for key in OPTIONS if key in fixed}
        asked = [(name, seed, {**fixed, **point}) for point in points for seed in seeds]
        found = iter(side_by_side(asked, profile, progress=progress, **options))
    done = []
    for point in points:
        if together:
            runs = [next(found) for _ in seeds]
        else:
            runs = [run(name, s, profile, progress="none" if varied else progress, **fixed, **point) for s in seeds]
        done += runs
        if mode(progress) != "none":
            print(_line(name, point, runs), flush=True)
    return done


def lists(name, grid):
    """Those of ``grid`` that are lists of values, and not themselves a valid value of experiment ``name``: a dict."""
    known = settings.keys(settings.load(name))
    found = {key: value for key, value in grid.items() if isinstance(value, (list, tuple, range))}
    return {key: value for key, value in found.items() if not (key in known and known[key][0](settings.plain(value)))}


def _runs(wanted, profile, *, runs=None, **options):
    try:
        mode(options.get("progress"))
    except ValueError as error:
        raise settings.ExperimentError(str(error)) from error
    questions = [(_whole(seed), resolve(name, profile, **overrides)) for name, seed, overrides in wanted]
    together.check(questions)
    if options.get("tensorboard"):
        scalars.check()
    plans = []
    for (name, *_), (seed, asked) in zip(wanted, questions, strict=True):
        before = {"profile": profile, "runs": runs, **options}
        teacher, start = _teacher(asked, seed, **before), _start(asked, seed, **before)
        plans.append(Plan(name, profile, seed, asked, teacher, runs_folder(runs), start))
    once = {plan.id: plan for plan in plans}
    with ExitStack() as locks:
        for _, plan in sorted(once.items()):
            plan.folder.mkdir(parents=True, exist_ok=True)
            locks.enter_context(_lock(plan, options.get("progress")))
        missing = {id: plan for id, plan in once.items() if not plan.record_path.exists()}
        for id in once.keys() - missing.keys():
            _check_images(once[id])
        if missing:
            try:
                together.finish(list(missing.values()), **options)
            except Diverged as error:
                error.records = [plan.finished().record for plan in once.values() if plan.record_path.exists()]
                raise
        if options.get("tensorboard"):
            for id in once.keys() - missing.keys():
                scalars.write(once[id].finished())
    return [plan.finished(new=plan.id in missing) for plan in plans]


def _lock(plan, progress):
    """A context in which the folder of ``plan`` is locked; says so while another process has it."""
    lock = filelock.FileLock(plan.folder / ".lock")
    try:
        return lock.acquire(timeout=0)
    except filelock.Timeout:
        if mode(progress) != "none":
            print(f"{plan.id}: waiting for another process that trains it", flush=True)
    return lock.acquire()


def _check_images(plan):
    """Raise ExperimentError where somebody's own images are no longer those that a finished run was trained on."""
    task = tasks.of(plan.asked)
    if plan.asked["dataset"] not in task.DATASET_KEYS:
        return  # its files are checked when they are read
    try:
        now = task.dataset(plan.asked, default_device()).checksum
    except DataNotFound:
        return  # the record is all that is left
    if plan.finished().record["data_checksum"] != now:
        raise settings.ExperimentError(
            f"The images of {plan.asked['dataset']} are not those that {plan.folder} was trained on: bring them back, "
            "or delete that folder to train on these."
        )


def _whole(seed):
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise settings.ExperimentError(f"A seed is a whole number of 0 or more; got {seed!r}.")
    return seed


def resolve(name, profile=None, /, **overrides):
    """The settings of experiment ``name`` at the scale of ``profile``, with ``overrides``: "asked" of a record, a dict.

    Without a profile they are those of the file. Raises ExperimentError as `settings.resolve`.
    """
    task = tasks.name_of(settings.load(name)["dataset"])
    scale = find_profile(profile, task).overrides if profile else {}
    return settings.resolve(name, {**scale, **overrides})


def _line(name, point, runs):
    where = ", ".join(f"{key} {value}" for key, value in point.items()) or name
    reached = sum(validated(r.record["result"]["last"]) for r in runs) / len(runs)
    seconds = sum(r.record["cost"]["train"]["seconds"] for r in runs)
    old = sum(not r.new for r in runs)
    reused = f" ({old} from before)" if old else ""
    return f"{where}: {len(runs)} seeds, validation {100 * reached:.1f} %, {seconds:.1f} s of training{reused}"


def _teacher(asked, seed, profile, **options):
    """The run whose network teaches, of ``teacher_seed`` or, where that is null, of the run's own seed; or None."""
    if not tasks.method(asked).teacher:
        return None
    seed = seed if asked["teacher_seed"] is None else asked["teacher_seed"]
    return _base(asked, "teacher", seed, profile, **_teacher_end(asked, profile), **options)


def _start(asked, seed, profile, **options):
    """The run of the same seed whose chosen weights a run begins with, or None."""
    return _base(asked, "start", seed, profile, **options) if "start" in asked else None


def _base(asked, key, seed, profile, **options):
    """The run of the base experiment that ``key`` of ``asked`` names, on the same images."""
    name = asked[key]
    found = settings.load(name)
    if found["method"] != "base":
        raise settings.ExperimentError(f"The {key} '{name}' is of method {found['method']}; name a base experiment.")
    if found["dataset"] != asked["dataset"]:
        raise settings.ExperimentError(
            f"The {key} '{name}' was trained on other data than {asked['dataset']}; "
            f"name an experiment that begins with {asked['dataset']}/."
        )
    if tasks.method(asked).alike == key:
        _check_alike(asked, key, resolve(name, profile))
    same_data = {key: asked.get(key) for key in ("val_fraction", *settings.LIMITS, *tasks.decisive(asked))}
    return run(name, seed, profile, **same_data, **options)


def _check_alike(asked, key, other):
    for part in ("model", "width", "depth"):
        if asked[part] != other[part]:
            raise settings.ExperimentError(
                f"The method {asked['method']} needs a {key} that is the same network; '{asked[key]}' has the {part} "
                f"{other[part]}, this run {asked[part]}."
            )


def _teacher_end(asked, profile):
    """What ends the teacher's run before its schedule does, for a defective teacher: settings of that run."""
    stop = asked.get("teacher_stop_after")
    if stop is None:
        return {}
    epochs = resolve(asked["teacher"], profile)["epochs"]
    if stop >= epochs:
        raise settings.ExperimentError(
            f"'teacher_stop_after' must be below the {epochs} epochs of '{asked['teacher']}'; got {stop}."
        )
    return {"stop_after": stop}
