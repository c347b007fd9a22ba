"""What an experiment has to know of a method: what it needs, which keys it reads, and how its objective is made."""

from collections.abc import Callable
from dataclasses import dataclass

from .. import models
from ..objectives import Objective
from .valid import count, fraction, number, one_of, one_or_more

# key: (test, what is valid), of the keys that some methods read
KEYS = {
    "hard_weight": (fraction, "a number from 0 to 1"),
    "soft_weight": (number, "a number of 0 or more"),
    "background_weight": (number, "a number of 0 or more"),
    "bound_weight": (number, "a number of 0 or more"),
    "hint_weight": (number, "a number of 0 or more"),
    "smoothing": (fraction, "a number from 0 to 1"),
    "correct_prob": (lambda v: fraction(v) and 0 < v < 1, "a probability between 0 and 1"),
    "reg_weight": (number, "a number of 0 or more"),
    "reg_multiplier": (number, "a number of 0 or more"),
    "start": (lambda v: isinstance(v, str), "the name of a base experiment"),
    "peer": (one_or_more(one_of(models.names, models.known)), "a model, of the student's width and depth, or a list"),
    "crd_weight": (number, "a number of 0 or more"),
    "crd_negatives": (lambda v: count(v) and v > 0, "a whole number above 0"),
}


@dataclass(frozen=True, eq=False)
class Parts:
    """What an objective can be made of.

    ``asked`` are all settings of the run, ``model`` the student on its device, ``dataset`` what it learns from,
    ``seed`` that of the run; ``teacher`` an `objectives.Teacher` and ``policy`` a temperature policy, None where the
    method has none.
    """

    asked: dict
    model: object
    dataset: object
    seed: int
    teacher: object = None
    policy: object = None


@dataclass(frozen=True)
class Method:
    """One way to train a student, as a task's table ``METHODS`` lists them by name.

    Attributes
    ----------
    loss : a pure function of logits as `objectives.Objective` calls it; None where ``make`` needs none.
    teacher : whether it needs a frozen teacher, and so the keys that say which.
    temperature : whether it softens by a temperature, and so needs a policy and reads that policy's keys.
    keys : the settings that ``loss`` takes by name, keys of `KEYS`.
    further : other keys of `KEYS` that it reads.
    alike : the key, "teacher" or "start", of a run whose network must be of the student's model, width and depth.
    features : whether it reads the teacher's features, so that stored logits cannot serve it.
    make : ``make(method, parts)``, the objective of a run made of `Parts`; without it one of ``loss``.
    """

    loss: Callable | None = None
    teacher: bool = False
    temperature: bool = False
    keys: tuple = ()
    further: tuple = ()
    alike: str | None = None
    features: bool = False
    make: Callable | None = None

    def objective(self, parts):
        """The objective of a run, which has the attributes of `objectives.Objective`."""
        if self.make:
            return self.make(self, parts)
        return Objective(self.loss, parts.teacher, parts.policy, self.settings(parts.asked))

    def settings(self, asked):
        """What ``loss`` takes by name: the values of ``keys`` in the settings ``asked`` of a run."""
        return {key: asked[key] for key in self.keys}
