"""A run before and after it is trained: what is asked and where it will live, and what came out."""

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd
import torch

from .. import ledger
from . import settings, tasks


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
        """The temperatures drawn, one per batch: a DataFrame with ``step`` and ``tau``; empty without a temperature."""
        return pd.read_csv(self.folder / "taus.csv")

    @property
    def report(self):
        """One row per class of the test split, after the last epoch: a DataFrame as `metrics.per_class` gives it.

        That of the epoch that validation chose lies beside it in per_class_chosen.csv. Raises ExperimentError where
        there is none.
        """
        path = self.folder / "per_class_last.csv"
        if not path.exists():
            raise settings.ExperimentError(
                f"{self.folder.name} has no table per class: it is a detector's, or from before there were any; "
                "train a classifier anew."
            )
        empty = {name: "" for name in ("precision", "recall", "f1")}  # a class may be called 7, or None
        return pd.read_csv(path, dtype={"class": str}, keep_default_na=False, na_values=empty)

    @property
    def before(self):
        """The records of the runs that this one builds on, a tuple: the one that taught it, the one it began from.

        Introduced in notebook 07. Raises ledger.LedgerError where one is not in the same folder of runs any more.
        """
        ids = (self.record["teacher_id"], self.record["initial"])
        wanted = (name for name in ids if name not in (None, "scratch", "imagenet"))
        return tuple(ledger.read(self.folder.parent / name / "record.json") for name in wanted)

    def model(self, epoch="chosen", device="cpu"):
        """The trained network, in evaluation mode; ``epoch`` is "chosen" (by validation) or "last".

        Raises ExperimentError where its weights are missing or damaged.
        """
        try:
            saved = torch.load(self.folder / "weights.pt", map_location=device, weights_only=True)
        except Exception as error:  # torch raises RuntimeError, EOFError, UnpicklingError or OSError for a damaged file
            raise settings.ExperimentError(
                f"{self.folder / 'weights.pt'} is missing or damaged ({type(error).__name__}); delete the folder "
                f"{self.folder} to train this run anew."
            ) from error
        asked = self.record["asked"]
        model = tasks.of(asked).network(asked, classes=saved["classes"], channels=saved["channels"])
        model.load_state_dict(saved[epoch])
        return model.to(device, memory_format=torch.channels_last).eval()


@dataclass(frozen=True, eq=False)
class Plan:
    """One run that is asked for: experiment ``name`` with ``seed`` and all settings ``asked``, in the folder ``runs``.

    ``teacher`` is the `Run` whose network teaches, ``start`` the one whose chosen weights it begins with, or None.
    """

    name: str
    profile: str
    seed: int
    asked: dict
    teacher: Run | None
    runs: Path
    start: Run | None = None

    @cached_property
    def asked_hash(self):
        """Hash of what is asked, the runs of teacher and start included."""
        return self._hash(self.asked)

    @property
    def id(self):
        """The run's id: equal for equal questions."""
        return self._id(self.asked)

    @property
    def folder(self):
        """Where the run's files are."""
        return self.runs / self.id

    @property
    def record_path(self):
        """The file that a finished run has."""
        return self.folder / "record.json"

    @property
    def checkpoint_path(self):
        """The file that an interrupted run has, and one that was stopped by ``stop_after``."""
        return self.folder / "checkpoint.pt"

    def finished(self, new=False):
        """The `Run` in the folder."""
        return Run(self.folder, ledger.read(self.record_path), new)

    def head(self):
        """The fields of a record that say what was asked."""
        return {
            "id": self.id,
            "experiment": self.name,
            "profile": self.profile,
            "seed": self.seed,
            "asked": self.asked,
            "asked_hash": self.asked_hash,
            "teacher_id": self.teacher.record["id"] if self.teacher else None,
        }

    def stopped(self):
        """Checkpoint of the same run as far as it was trained before with ``stop_after``; None where it was not."""
        end = self.asked["stop_after"] or self.asked["epochs"]
        for epoch in range(end - 1, 0, -1):
            path = self.runs / self._id({**self.asked, "stop_after": epoch}) / "checkpoint.pt"
            if path.exists():
                return path
        return None

    def _id(self, asked):
        return f"{self.name.replace('/', '_')}_s{self.seed}_{self._hash(asked)[:10]}"

    def _hash(self, asked):
        start = {"start_run": self.start.record["id"]} if self.start else {}
        return settings.digest({**asked, "teacher_run": self.teacher.record["id"] if self.teacher else None, **start})


def runs_folder(argument=None):
    """Where runs live: ``argument``, else $STKD_RUNS, else ./runs."""
    return Path(argument or os.environ.get("STKD_RUNS") or "runs")
