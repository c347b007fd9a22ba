"""What kinds of experiments there are: each a module with the same names, chosen by the data set.

A task says which keys its experiments have (``KEYS``, ``DATASET_KEYS`` for those on one data set, ``TAUGHT`` for those
with a frozen teacher, with ``DEFAULTS``), which of them decide the images (``DATA``, and all of ``DATASET_KEYS``) and
how they are shown (``VIEWS``), which ``METHODS`` there are (name: `methods.Method`), and makes what a run is made of:
``dataset``, ``network``, ``initialise``, ``augmentation``, ``evaluate``, ``tested``.
"""

from . import classification, detection

TASKS = {"classification": classification, "detection": detection}


def datasets():
    """Names of the data sets of all tasks, a list."""
    return [name for task in TASKS.values() for name in task.datasets()]


def name_of(dataset):
    """The name of the task that a data set belongs to; "classification" for one that nobody knows."""
    return next((name for name, task in TASKS.items() if dataset in task.datasets()), "classification")


def of(asked):
    """The task (a module) of the settings ``asked``."""
    return TASKS[name_of(asked.get("dataset"))]


def method(asked):
    """The `methods.Method` of the settings ``asked``; that of "base" where they name none that exists."""
    known = of(asked).METHODS
    return known.get(str(asked.get("method")), known["base"])


def own(asked):
    """key -> (test, what is valid), of the keys that only experiments on the data set of ``asked`` have."""
    return of(asked).DATASET_KEYS.get(str(asked.get("dataset")), {})


def decisive(asked):
    """The keys of ``asked`` that decide which images there are, besides the limits: a list."""
    return [*of(asked).DATA, *own(asked)]
