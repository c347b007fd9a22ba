"""How the cost of a pass over the data is divided among the students that were trained in it."""

from contextlib import contextmanager
from dataclasses import replace

from . import carbon


def split(trainers):
    """What part of a pass each trainer is: a dict each with "share", "teacher" and "of".

    "share" goes by counted FLOPs: three passes of its own network (forward, and twice that backward), those of what its
    objective trains beside it (``objective.macs`` and ``macs_backward`` of one image), and its part of the teacher's
    forward pass, "teacher": 1 for a student that has its teacher alone, 1/k where k students share it, less where
    answers were stored. "of" names all runs in the pass. The shares sum to 1. Introduced in notebook 09.
    """
    teachers = [trainer.objective.teacher for trainer in trainers]
    computed = {teacher: teacher.computed() for teacher in set(teachers) - {None}}  # once each: it starts a new count
    parts = [
        computed[teacher] / sum(other is teacher for other in teachers) if teacher else 0.0 for teacher in teachers
    ]
    work = [1.0]
    if len(trainers) > 1:
        work = [_trained(t) + part * t.macs[1] for t, part in zip(trainers, parts, strict=True)]
    names = [trainer.name for trainer in trainers]
    return [{"share": w / sum(work), "teacher": part, "of": names} for w, part in zip(work, parts, strict=True)]


def _trained(trainer):
    """MACs of one image in all that the trainer trains, forward and backward."""
    return 3 * trainer.macs[0] + trainer.objective.macs + trainer.objective.macs_backward


@contextmanager
def metered(trainers, meter, name):
    """Meter the body as "train" of each trainer; gives a list that holds the parts of the pass (`split`) afterwards.

    A trainer that is alone uses its own meter. Of several, ``meter`` meters the block ``name``, which must be a new
    one, and each trainer's own meter gets its share.
    """
    parts = []
    alone = len(trainers) == 1
    with trainers[0].meter.block("train") if alone else meter.block(name):
        yield parts
    parts += split(trainers)
    if not alone:
        for trainer, part in zip(trainers, parts, strict=True):
            _add(trainer.meter, _scaled(meter.cost(name), part["share"]))


def _add(meter, cost):
    costs = meter.state_dict()
    if "train" in costs:
        cost = carbon.Cost.from_dict(costs["train"]) + cost
    meter.load_state_dict({**costs, "train": cost.to_dict()})


def _scaled(cost, share):
    components = {
        name: reading if reading.kwh is None else replace(reading, kwh=reading.kwh * share)
        for name, reading in cost.components.items()
    }
    return replace(cost, seconds=cost.seconds * share, components=components)
