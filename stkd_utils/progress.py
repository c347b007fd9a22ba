"""How a run shows that it moves: a bar where somebody watches, plain lines in logs, nothing in tests."""

import os
import sys

from tqdm.std import tqdm


def mode(wanted=None):
    """One of "bar", "lines", "none": ``wanted``, else $STKD_PROGRESS, else a bar where somebody watches."""
    chosen = wanted or os.environ.get("STKD_PROGRESS") or ("bar" if _watched() else "lines")
    if chosen not in ("bar", "lines", "none"):
        raise ValueError(f"Progress is 'bar', 'lines' or 'none'; got {chosen!r}.")
    return chosen


class Progress:
    """Shows the epochs of one run; call it with each epoch's row of numbers. Use as a context manager."""

    def __init__(self, title, epochs, wanted=None):
        self.title, self.epochs, self.mode = title, epochs, mode(wanted)
        self._bar = None

    def __enter__(self):
        return self

    def __call__(self, row):
        if self.mode == "bar":
            if self._bar is None:
                self._bar = tqdm(
                    total=self.epochs, initial=row["epoch"] - 1, desc=self.title, unit="epoch", leave=False
                )
            self._bar.set_postfix_str(_numbers(row), refresh=False)
            self._bar.update()
        elif self.mode == "lines":
            print(f"{self.title}  epoch {row['epoch']}/{self.epochs}  {_numbers(row)}", flush=True)

    def __exit__(self, *error):
        if self._bar is not None:
            self._bar.close()


def _numbers(row):
    loss = sum(value for key, value in row.items() if key.startswith("loss_"))
    return f"loss {loss:.3f}  validation {100 * validated(row):.1f} %"


def validated(row):
    """What validation said in ``row``, besides the loss: accuracy or average precision, a fraction."""
    return next(value for key, value in row.items() if key.startswith("val_") and key != "val_loss")


def _watched():
    return "ipykernel" in sys.modules or sys.stderr.isatty()
