"""The scalars of a run for TensorBoard, an option: what history.csv and taus.csv hold, while it trains.

They are derived from those numbers and never read again. Whoever opens a `Board` writes all of it anew from the first
epoch on, so that a run that was interrupted and continued shows every point once.
"""

from contextlib import contextmanager

FOLDER = "tensorboard"
"""Name of the folder, in that of the run."""


class TensorBoardMissing(ImportError):
    """TensorBoard, which the package does not need otherwise, is not installed."""


def check():
    """Raise TensorBoardMissing, one sentence, where no scalars could be written."""
    _writer()


def _writer():
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise TensorBoardMissing(
            "TensorBoard is not installed: run `pip install tensorboard`, or leave tensorboard out."
        ) from error
    return SummaryWriter


class Board:
    """Scalars in ``folder``, begun anew: those of an earlier process are removed. Close it at the end."""

    def __init__(self, folder):
        for old in folder.glob("events.out.tfevents.*"):
            old.unlink()
        self._writer = _writer()(folder, purge_step=0)  # a TensorBoard that watches forgets the removed ones, too
        self._epochs = self._steps = 0

    def update(self, history, taus):
        """Write what is new: ``history`` has one dict per epoch so far, ``taus`` the temperature of each step so far.

        Epochs count from 1 and steps from 0, as in the files of the run.
        """
        for row in history[self._epochs :]:
            for key in row.keys() - {"epoch"}:
                self._writer.add_scalar(tag(key), row[key], int(row["epoch"]))
        for step, tau in enumerate(taus[self._steps :], self._steps):
            self._writer.add_scalar("tau", tau, step)
        self._epochs, self._steps = len(history), len(taus)
        self._writer.flush()

    def close(self):
        """Write what is left and release the file."""
        self._writer.close()


def tag(key):
    """What TensorBoard calls the column ``key`` of a history: "loss/soft", "accuracy/val", "lr"; slashes group."""
    part, _, name = key.partition("_")
    if not name:
        return key
    return f"{name}/{part}" if part in ("train", "val") else f"{part}/{name}"


@contextmanager
def watched(trainers):
    """A function without arguments that writes what is new of every `Trainer`; at the end it is called once more.

    ``trainers`` are keyed by the folders of their runs (paths); none, and nothing is written.
    """
    boards = [(Board(folder / FOLDER), trainer) for folder, trainer in trainers.items()]

    def write():
        for board, trainer in boards:
            policy = trainer.objective.policy
            board.update(trainer.fit_state.history, policy.draws if policy else [])

    try:
        yield write
        write()
    finally:
        for board, _ in boards:
            board.close()


def write(run):
    """Write the scalars of a finished run (an `experiments.Run`)."""
    board = Board(run.folder / FOLDER)
    board.update(run.history.to_dict("records"), list(run.taus.tau))
    board.close()
