"""The training loop: fit, checkpoint, resume. One loop for teachers and students, for one or for several.

Students that share their batches and views, and often a teacher, train side by side in one pass (`train`): each batch
is prepared once and the teacher answers it once, whoever asks.
"""

import math
import time
import weakref
from functools import partial

import torch

from . import checkpoint, data, engine, environment, losses
from .engine import default_device
from .objectives import Distillation, Objective, Supervised, Teacher
from .seeding import OwnRandom, generator, gpus
from .sharing import metered
from .splits import shown
from .validation import Fit, evaluate

__all__ = [
    "Distillation", "Diverged", "Fit", "Objective", "Supervised", "Teacher", "Trainer", "default_device", "evaluate",
    "train",
]  # fmt: skip


class Diverged(RuntimeError):
    """A loss became NaN or infinite, and training stopped before that epoch was saved; or the answers after the last.

    ``records`` are those of the runs that `experiments` was asked for together with it and that ended well.
    """

    records = ()


class Trainer:
    """One student in training, which can be stopped and continued at any moment.

    ``objective`` gives the named loss terms (`Supervised`, `Distillation`), and its ``module``, if it has one, learns
    beside the student: with the same optimiser and learning rate, in a parameter group of its own, kept in the same
    checkpoint. ``meter`` (a `carbon.Meter`) receives the blocks "train" and "evaluate"; ``path`` is the checkpoint's
    file, written after an epoch when ``save_seconds`` have passed since the last one. On one machine's CPU a run that
    was killed and continued has the same history, to the last digit, as one that was not.

    ``data_seed`` (None: ``seed``) is the seed of batches and augmentation. ``stop_after`` ends the run after that epoch
    of its schedule. ``macs`` (student, teacher) of one image and the ``name`` of the run tell how the cost of a shared
    pass is split. ``evaluate`` judges the model as `evaluate` does, by what the data set calls its ``metric``.
    """

    def __init__(
        self, model, dataset, protocol, objective, *, seed, augmentation, meter, path=None, save_seconds=10.0,
        data_seed=None, precision="float32", stop_after=None, macs=None, name="", evaluate=evaluate,
    ):  # fmt: skip
        self.model, self.dataset, self.protocol, self.objective = model, dataset, protocol, objective
        self.augmentation, self.meter, self.path, self.save_seconds = augmentation, meter, path, save_seconds
        self.data_seed = seed if data_seed is None else data_seed
        self.precision, self.stop_after, self.macs, self.name = precision, stop_after, macs, name
        self.evaluate = evaluate
        self._code = environment.code_digest()  # reading all files takes a while: not at every checkpoint
        self._device = dataset.device
        self._modules = [model, *([objective.module.to(self._device)] if objective.module else [])]
        self.optimiser = protocol.optimise(*self._modules)
        self.generators = {stream: generator(self.data_seed, stream) for stream in ("order", "augment")}
        self.fit_state = Fit()
        self.diverged = ""  # why this student could not go on
        self._sums = {}  # of this epoch, by name: a scalar on the device
        self._own_random = OwnRandom(seed, self._device)
        self._recorded = self._recorder() if self._device.type == "cuda" else None

    @property
    def epoch(self):
        """The last epoch that is done; 0 before the first."""
        return len(self.fit_state.history)

    @property
    def last_epoch(self):
        """The epoch after which this run ends."""
        return self.stop_after or self.protocol.epochs

    def fit(self, on_epoch=None, say=print):
        """Train to the last epoch and return the `Fit`; ``on_epoch(row)`` is called after each. Raises Diverged."""
        train([self], on_epoch=on_epoch and (lambda rows: on_epoch(rows[0])), say=say)
        return self.fit_state

    def start_epoch(self):
        """Get ready for an epoch."""
        for module in self._modules:
            module.train()
        self._seen = 0
        for value in self._sums.values():
            value.zero_()
        self._replays = self._recorded is not None and engine.recordable(self.model)

    def step(self, batch, lr):
        """Learn from one `data.Batch` at learning rate ``lr``; on a GPU, in a lane of `engine.Lanes`."""
        with self._own_random():
            if self.objective.teacher:
                self.objective.teacher(batch)  # it answers now, so that its maps are gone before the student's are kept
            if self._replays:
                self._recorded(batch.views, batch.labels, lr, *self.objective.given(batch))
            else:
                self._learn(batch, lr, self.objective.terms)
        self._set_lr(lr)
        self._seen += len(batch.labels)

    def _recorder(self):
        """`_learn` with its kernels recorded; None for an objective, or an optimiser, that forbids it."""
        if not self.objective.recordable or self.protocol.optimiser != "sgd":
            return None
        return engine.Captured(partial(Trainer._learn_given, weakref.proxy(self)))

    def _learn_given(self, views, labels, lr, *given):
        batch = data.Batch(views, labels, positions=None, moves=None, epoch=None)
        self._learn(batch, lr, lambda batch, outputs: self.objective.compare(outputs, *given))

    def _learn(self, batch, lr, compare):
        """One step of the optimiser; the terms that ``compare`` makes of batch and outputs, and hits, are added up."""
        self._set_lr(lr)
        with engine.autocast(self._device, self.precision):
            outputs = self.model(batch.views).float()
        terms = compare(batch, outputs)
        losses.total(terms).backward()
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)  # now, so that the next student needs no room beside it
        # summed on the device: reading a number here would make a GPU wait for every step
        summed = {f"loss_{name}": value.detach() * len(batch.labels) for name, value in terms.items()}
        hits = {f"train_{name}": count for name, count in batch.hits(outputs.detach()).items()}
        for name, value in (summed | hits).items():
            self._sums.setdefault(name, torch.zeros_like(value)).add_(value)

    def _set_lr(self, lr):
        for group in self.optimiser.param_groups:
            group["lr"] = self._lr = lr

    def learnt(self, epoch):
        """The row of the epoch that was just trained: learning rate, loss terms, hits; sets ``diverged``."""
        means = {name: float(value) / self._seen for name, value in self._sums.items()}
        self._check_finite({name: value for name, value in means.items() if name.startswith("loss_")}, epoch)
        return {"epoch": epoch, "lr": self._lr, **means}

    def end_epoch(self, row, part, seconds):
        """Validate, and add ``row`` to the history with the ``part`` of the pass and its ``seconds``; the whole row."""
        started = time.perf_counter()
        row = row | self._validation()
        fit = self.fit_state
        fit.choose(row, self.model, self.dataset.metric)
        fit.history.append(row)
        fit.parts.append(part)
        evaluated = time.perf_counter() - started
        fit.timings.append({"epoch": row["epoch"], "train_seconds": seconds, "evaluate_seconds": evaluated})
        return row

    def _validation(self):
        """The numbers of student and of those trained beside it: {"val_accuracy", ..., "val_peer1_accuracy", ...}."""
        judged = {"": self.model} | {f"{name}_": network for name, network in self.objective.networks.items()}
        with self.meter.block("evaluate"), self._own_random():
            return {
                f"val_{name}{key}": value
                for name, network in judged.items()
                for key, value in self.evaluate(
                    network, self.dataset.val, self.dataset, precision=self.precision
                ).items()
            }

    def _check_finite(self, means, epoch):
        broken = [name for name, value in means.items() if not math.isfinite(value)]
        if broken:
            saved = "the last checkpoint is untouched" if self.path else "nothing was saved"
            where = ", ".join(broken) + (f" of {self.name}" if self.name else "")
            self.diverged = (
                f"Training stopped in epoch {epoch} at learning rate {self._lr:g}: NaN or Inf in {where} "
                f"({saved}); lower lr or soft_weight and start again."
            )

    def save(self):
        """Write the checkpoint, if this run has a ``path``."""
        if self.path:
            checkpoint.save(self._state(), self.path)

    def _state(self):
        policy, module = self.objective.policy, self.objective.module
        return {
            "model": self.model.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "generators": {name: g.get_state() for name, g in self.generators.items()},
            "random": self._own_random.state_dict(),
            "policy": policy.state_dict() if policy else None,
            "module": module.state_dict() if module else None,
            "meter": self.meter.state_dict(),
            "fit": dict(vars(self.fit_state)),
            "data": self.dataset.checksum,
            "code": self._code,
            "answers": self._answers(),
        }

    def _answers(self):
        """What the teacher answers in; None without one, and for a plain network."""
        teacher = self.objective.teacher
        return getattr(teacher.network, "precision", None) if teacher else None

    def restore(self, say=print):
        """Continue from the checkpoint at ``path``, if one is there; ``say`` is told of a damaged one."""
        state, note = checkpoint.load(self.path) if self.path else (None, "")
        if note:
            say(note)
        if state is not None and "random" not in state:
            say(f"{self.path} is of an earlier version, which cannot be continued: this run starts anew.")
            return
        if state is None:
            return
        if state.get("data", self.dataset.checksum) != self.dataset.checksum:
            raise data.DataError(
                f"The images of {self.dataset.name} are not those that this run began with: bring them back, or delete "
                f"the folder {self.path.parent} to train on these from the start."
            )
        who = self.name or self.path
        if state.get("answers", self._answers()) != self._answers():
            say(f"{who} began with a teacher in {state['answers']} and goes on with it in {self._answers()}.")
        if state.get("code", self._code) != self._code:
            say(f"{who} began with other code of stkd_utils and goes on with this; delete its folder to start anew.")
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        for name, saved in state["generators"].items():
            self.generators[name].set_state(saved)
        self._own_random.load_state_dict(state["random"])
        if state["policy"]:
            self.objective.policy.load_state_dict(state["policy"])
        if state.get("module"):  # runs from before had none
            self.objective.module.load_state_dict(state["module"])
        self.meter.load_state_dict(state["meter"])
        self.fit_state = Fit(**state["fit"])
        self.fit_state.resumed += 1
        if self._recorded:  # the optimiser has other tensors now
            self._recorded = self._recorder()


def train(trainers, meter=None, on_epoch=None, say=print):
    """Train every `Trainer` of the list to its last epoch, all in one pass over the data.

    Each batch and its views are made once. On a CPU the students learn from them one after the other, and the memory of
    one step is never held twice; on a GPU they learn at the same time, and each holds that of its own step. Who is
    ahead after an interruption waits for the others. On one machine's CPU each ends equal, to the last bit, to the run
    that was trained alone with the same ``data_seed``.

    Several need the same data set, batch size, augmentation, data seed and last epoch, and their ``macs``, else
    ValueError; ``meter`` meters what they do together, and each one's own meter gets its share (`sharing.split`).
    ``on_epoch(rows)`` is called after each epoch. A student that diverges is left out from then on; when the others are
    done, Diverged is raised and says who. Introduced in notebook 09.
    """
    needs = {(id(t.dataset), t.protocol.batch_size, t.augmentation, t.data_seed, t.last_epoch) for t in trainers}
    if len(needs) != 1:
        raise ValueError(
            "Students of one pass need the same data set, batch size, augmentation, data seed and last epoch: "
            "train these apart."
        )
    if len(trainers) > 1 and not (meter and all(trainer.macs for trainer in trainers)):
        raise ValueError("The cost of a shared pass is split by FLOPs: give it a meter, and each Trainer its macs.")
    first = trainers[0]
    lanes = engine.Lanes(len(trainers), first.dataset.device)
    with torch.random.fork_rng(devices=gpus(first.dataset.device)):
        for trainer in trainers:
            trainer.restore(say)
        left, saved = trainers, time.monotonic()
        while left and (epoch := 1 + min(trainer.epoch for trainer in left)) <= first.last_epoch:
            active = [trainer for trainer in left if trainer.epoch == epoch - 1]
            rows = _epoch(active, epoch, meter, lanes)
            active, left = ([one for one in group if not one.diverged] for group in (active, left))
            ends = epoch == first.last_epoch and (first.stop_after or len(trainers) > 1)
            if ends or time.monotonic() - saved >= first.save_seconds:
                for trainer in active:
                    trainer.save()
                saved = time.monotonic()
            if on_epoch and rows:
                on_epoch(rows)
    if broken := [trainer.diverged for trainer in trainers if trainer.diverged]:
        raise Diverged("\n".join(broken))
    return [trainer.fit_state for trainer in trainers]


def advance(trainers, batch, rates, lanes):
    """One step of a pass: every trainer learns from one `data.Batch` at its rate, each in its lane."""
    for trainer in trainers:
        if trainer.objective.teacher:
            trainer.objective.teacher(batch)  # outside of the lanes, because others may share the answer
    for number, (trainer, lr) in enumerate(zip(trainers, rates, strict=True)):
        with lanes[number]:
            trainer.step(batch, lr)
    lanes.join()  # the next batch may take the memory of this one


def _epoch(trainers, epoch, meter, lanes):
    started = time.perf_counter()
    with metered(trainers, meter, f"epoch {epoch}") as parts:
        _pass(trainers, epoch, lanes)
        rows = [trainer.learnt(epoch) for trainer in trainers]
    seconds = time.perf_counter() - started
    return [
        trainer.end_epoch(row, part, seconds * part["share"])
        for trainer, row, part in zip(trainers, rows, parts, strict=True)
        if not trainer.diverged
    ]


def _pass(trainers, epoch, lanes):
    """Once over the training images, for all trainers; their generators are in the same state before and after."""
    first = trainers[0]
    size, generators = first.protocol.batch_size, first.generators
    count = math.ceil(shown(len(first.dataset.train), size) / size)
    for trainer in trainers:
        trainer.start_epoch()
    for number, batch in enumerate(first.dataset.epoch(size, first.augmentation, generators, epoch)):
        advance(trainers, batch, [trainer.protocol.lr_at(epoch, number, count) for trainer in trainers], lanes)
    for trainer in trainers[1:]:
        for name, state in generators.items():
            trainer.generators[name].set_state(state.get_state())
