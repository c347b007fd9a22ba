"""The keys of an experiment file: which exist, which a method reads, what values they take."""

import difflib
import hashlib
import json
from pathlib import Path

from .. import engine, protocol, temperature
from . import methods, tasks
from .valid import ExperimentError, count, fraction, fractions, limit, number, one_of, positive

FOLDER = Path(__file__).parent

LIMITS = {
    key: (limit, "a number of images, 2 or more, or null for all")
    for key in ("train_limit", "val_limit", "test_limit")
}
# key: (test, what is valid); those of one task stand in its module
COMMON = LIMITS | {
    "dataset": (one_of(tasks.datasets), "a data set"),
    "method": (lambda v: isinstance(v, str), "a method"),
    "width": (positive, "a number above 0 (1 is the full network)"),
    "depth": (positive, "a number above 0 (1 is the full network)"),
    "epochs": (lambda v: count(v) and v > 0, "a whole number above 0"),
    "batch_size": (lambda v: count(v) and v > 1, "a whole number above 1"),
    "lr": (positive, "a number above 0, for batch 128 (it is scaled by batch_size / 128)"),
    "momentum": (fraction, "a number from 0 to 1"),
    "weight_decay": (number, "a number of 0 or more"),
    "milestones": (fractions, "rising fractions of the run, such as [0.3, 0.6, 0.8]"),
    "gamma": (positive, "a number above 0"),
    "warmup_epochs": (count, "a whole number of 0 or more"),
    "val_fraction": (lambda v: fraction(v) and 0 < v < 1, "a fraction of the training images between 0 and 1"),
    "precision": (one_of(lambda: engine.PRECISIONS), "a precision"),
    "schedule": (one_of(lambda: protocol.SCHEDULES), "a schedule"),
    "optimiser": (one_of(lambda: protocol.OPTIMISERS), "an optimiser"),
    "stop_after": (lambda v: v is None or count(v) and v > 0, "an epoch, or null for the last one"),
    "compiled": (lambda v: v is None or v is True, "true, or null for a network that is not compiled"),
    "data_seed": (lambda v: v is None or count(v), "a whole number, or null for the seed of the run"),
}
# of methods with a frozen teacher, and of those with a temperature
TAUGHT = {
    "teacher": (lambda v: isinstance(v, str), "the name of a base experiment"),
    "teacher_seed": (lambda v: v is None or count(v), "a whole number, or null for the seed of the run itself"),
    "teacher_epoch": (lambda v: v in ("chosen", "last"), '"chosen" (by validation) or "last"'),
    "teacher_stop_after": (lambda v: v is None or count(v) and v > 0, "an epoch of the teacher, or null for its last"),
}
POLICY = {"tau_policy": (one_of(temperature.names), "a temperature policy")}
KEYS = [*COMMON, *TAUGHT, *POLICY, *methods.KEYS, *(k for t in tasks.TASKS.values() for k in t.KEYS | t.TAUGHT)]
KEYS += [key for task in tasks.TASKS.values() for own in task.DATASET_KEYS.values() for key in own]
# keys that need not be set: null asks for the same as leaving them out, and a run's settings hold neither
OPTIONAL = ("compiled", "teacher_precision", "teacher_stop_after", "train_fraction")
# keys of a teacher whose logits are all that is wanted of it
ANSWERING = ("stored_teacher", "teacher_precision")
# what holds where nobody set the key
DEFAULTS = {
    **dict.fromkeys(LIMITS),
    "schedule": "steps",
    "stop_after": None,
    "data_seed": None,
    "optimiser": "sgd",
}


def names():
    """Names of all experiments, sorted: ``dataset/teacher-student-method`` or ``dataset/model-base``."""
    return sorted(path.relative_to(FOLDER).with_suffix("").as_posix() for path in FOLDER.glob("*/*.json"))


def load(name):
    """The settings in the experiment file called ``name``, validated. Raises ExperimentError."""
    if name not in names():
        raise ExperimentError(
            f"There is no experiment '{name}'{_nearest(name, names())} `python -m stkd_utils list` shows all."
        )
    path = FOLDER / f"{name}.json"
    try:
        settings = json.loads(path.read_text(), object_pairs_hook=lambda pairs: _once(pairs, f"{name}.json"))
    except json.JSONDecodeError as error:
        raise ExperimentError(f"{name}.json: not valid JSON in line {error.lineno} ({error.msg}).") from error
    validate(settings, f"{name}.json")
    return settings


def resolve(name, overrides):
    """Settings of an experiment after ``overrides`` (a dict), validated and complete: `DEFAULTS` fill what nobody set.

    Overriding ``tau_policy`` drops the temperatures that the new policy does not read, unless they are overridden too.
    A key of `OPTIONAL` that is null is left out, so that the id of a run does not depend on keys that came later, and
    whole numbers are ints, so that it does not depend on how they were written (4, 4.0).
    """
    settings, overrides = load(name), {key: plain(value) for key, value in overrides.items()}
    for key in overrides:
        check_key(key, name)
    if "tau_policy" in overrides:
        kept = tau_keys(overrides)
        settings = {key: value for key, value in settings.items() if key not in taus() or key in kept}
    settings = {**settings, **overrides}
    validate(settings, name)
    defaults = _defaults(settings)
    settings = {key: plain(value) for key, value in settings.items() if value is not None or key not in OPTIONAL}
    return {**{key: defaults[key] for key in _read(settings) if key in defaults}, **settings}


def check_key(key, where):
    """Raise ExperimentError, which says ``where``, if no experiment has the ``key``."""
    if key not in (known := [*KEYS, *taus()]):
        others = f"; known: {', '.join(known)}."
        raise ExperimentError(f"{where}: unknown key '{key}'{_nearest(key, known, others)}")


def validate(settings, file):
    """Raise ExperimentError if a key of ``settings`` is unknown, missing, unused or has a value that is not valid."""
    if not isinstance(settings, dict):
        raise ExperimentError(f"{file}: an experiment is one flat object of keys and values.")
    for key in settings:
        check_key(key, file)
    needed, known_keys, defaults = _read(settings), keys(settings), _defaults(settings)
    for key, value in settings.items():  # before what is missing or unused: some values decide which keys are read
        test, valid = known_keys.get(key, (lambda _: True, ""))
        if not test(value):
            known = f"{valid}: {', '.join(test.names())}" if hasattr(test, "names") else valid
            raise ExperimentError(f"{file}: '{key}' is {json.dumps(value, default=str)}; it must be {known}.")
    for key in needed:
        if key not in settings and key not in defaults and key not in OPTIONAL:
            raise ExperimentError(f"{file}: the key '{key}' is missing{_nearest(key, set(settings) - set(needed))}")
    for key in settings:
        if key not in needed:
            reader = _reader(key, settings)
            raise ExperimentError(
                f"{file}: the key '{key}' is unused, {reader} '{settings[reader]}' does not read it: "
                f"remove it{_nearest(key, needed)}"
            )
    _check_policy(settings, file)
    stop = settings.get("stop_after")
    if stop is not None and stop >= settings["epochs"]:
        raise ExperimentError(f"{file}: 'stop_after' must be below 'epochs', {settings['epochs']}; got {stop}.")


def _check_policy(settings, file):
    """Let the temperature policy itself judge its temperatures, now and not after the teacher was trained."""
    if tasks.method(settings).temperature:
        try:
            temperature.build(settings["tau_policy"], seed=0, **{key: settings[key] for key in tau_keys(settings)})
        except ValueError as error:
            raise ExperimentError(f"{file}: {error}") from error


def digest(settings):
    """Hash (64 hex digits) of what is asked: equal settings give equal hashes, whatever the order of their keys."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def plain(value):
    """``value`` as JSON would give it: lists for tuples and ranges, numbers for NumPy's, and ints for whole floats.

    Floats too large for a tensor's int stay.
    """
    if isinstance(value, (list, tuple, range)):
        return [plain(one) for one in value]
    if getattr(value, "ndim", None) == 0:
        value = value.item()
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 2**53 else value


def _once(pairs, file):
    keys = [key for key, _ in pairs]
    for key in keys:
        if keys.count(key) > 1:
            raise ExperimentError(f"{file}: the key '{key}' stands there twice; keep one.")
    return dict(pairs)


def keys(settings):
    """key -> (test, what is valid), of all keys that experiments on the data set of ``settings`` may have."""
    task = tasks.of(settings)
    method = {"method": (one_of(lambda: sorted(task.METHODS)), "a method")}
    own = {key: methods.KEYS[key] for one in task.METHODS.values() for key in (*one.keys, *one.further)}
    return COMMON | method | task.KEYS | tasks.own(settings) | TAUGHT | task.TAUGHT | POLICY | taus() | own


def taus():
    """key -> (test, what is valid), of the parameters of all temperature policies there are now."""
    return {key: (positive, "a number above 0") for one in temperature.POLICIES.values() for key in one.parameters}


def tau_keys(settings):
    """The keys that the temperature policy of ``settings`` reads; none where it is not known."""
    policy = temperature.POLICIES.get(str(settings.get("tau_policy")))
    return policy.parameters if policy else ()


def _defaults(settings):
    return DEFAULTS | tasks.of(settings).DEFAULTS


def _read(settings):
    """The keys that data set, method, optimiser and temperature policy of ``settings`` read, a list."""
    task = tasks.of(settings)
    adam = settings.get("optimiser") == "adam"
    common = [key for key in (*COMMON, *task.KEYS, *tasks.own(settings)) if not (adam and key == "momentum")]
    method = tasks.method(settings)
    taught = [key for key in (*TAUGHT, *task.TAUGHT) if not (method.features and key in ANSWERING)]
    softened = [*POLICY, *tau_keys(settings)] if method.temperature else []
    return [*common, *(taught if method.teacher else []), *softened, *method.keys, *method.further]


def reads(settings, key):
    """Whether an experiment with these ``settings`` reads the ``key``."""
    return key in _read(settings)


def _reader(key, settings):
    """The key whose value is why ``key`` is not read."""
    if key not in keys(settings):
        return "dataset"
    if key in taus() and tasks.method(settings).temperature:
        return "tau_policy"
    return "optimiser" if key == "momentum" else "method"


def _nearest(word, known, otherwise="."):
    near = difflib.get_close_matches(word, sorted(known), n=1, cutoff=0.5)
    return f"; did you mean '{near[0]}'?" if near else otherwise
