"""What several seeds say about a mean, a difference, and an equivalence."""

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri, stdtr, stdtrit


@dataclass(frozen=True)
class Interval:
    """A mean with its confidence interval, in the unit of the values. Introduced in notebook 02.

    ``low`` and ``high`` bound the mean (Student's t), ``sd`` is the standard deviation of single values (n - 1); the
    three are nan when ``n``, the number of values, is 1.
    """

    mean: float
    low: float
    high: float
    sd: float
    n: int

    @property
    def half_width(self):
        """Distance from the mean to either bound; nan for a single value."""
        return (self.high - self.low) / 2

    def percent(self, digits=1):
        """Text for a fraction shown as per cent: "93.1 ± 0.4 % (n = 3)", without an interval for a single value."""
        return self._text("%", 100, f".{digits}f")

    def points(self, digits=1):
        """Text for a difference of two fractions, in percentage points: "+0.3 ± 0.4 points (n = 3)"."""
        return self._text("points", 100, f"+.{digits}f")

    def __str__(self):
        return self._text("", 1, ".4g")

    def _text(self, unit, factor, form):
        mean = f"{factor * self.mean:{form}}".replace("-", "−")
        half = "" if self.n < 2 else f" ± {factor * self.half_width:{form.lstrip('+')}}"
        return " ".join(f"{mean}{half} {unit} (n = {self.n})".split())


@dataclass(frozen=True)
class Equivalence:
    """Whether two paired sets of values agree within a margin (see `equivalence`). Introduced in notebook 04.

    ``p`` is the larger p-value of the two one-sided tests, ``equivalent`` whether it is below the level, ``interval``
    the confidence interval of the difference that lies inside the margin exactly when they are equivalent, ``margin``
    and ``level`` what was asked. ``equivalent`` False means "not shown", never "different".
    """

    p: float
    equivalent: bool
    interval: Interval
    margin: float
    level: float = 0.05

    def __str__(self):
        verdict = "equivalent" if self.equivalent else "not shown to be equivalent"
        reason = "a single pair decides nothing" if self.interval.n < 2 else f"p = {self.p:.2g}"
        level = f"{100 * (1 - 2 * self.level):g} % interval"
        return f"{verdict} within ± {100 * self.margin:g} points: {self.interval.points(2)}, {level}, {reason}"


def interval(values, confidence=0.95):
    """Mean of ``values`` with its Student-t confidence interval, in their unit: an `Interval`.

    ``values``: (n,) numbers, one per seed. Assumes independent, roughly normal values; with n = 1 the bounds are nan.
    Introduced in notebook 02.

    Raises ValueError when there is no value, or one that is not finite.
    """
    values = _numbers(values)
    mean, n = float(values.mean()), len(values)
    if n < 2:
        return Interval(mean, math.nan, math.nan, math.nan, n)
    sd = float(values.std(ddof=1))
    half = float(stdtrit(n - 1, (1 + confidence) / 2)) * sd / math.sqrt(n)
    return Interval(mean, mean - half, mean + half, sd, n)


def paired(a, b, confidence=0.95):
    """Mean of the differences a - b with its confidence interval: an `Interval`.

    ``a``, ``b``: (n,) numbers, where entry i of both comes from the same seed; pairing removes what the seed does to
    both. Introduced in notebook 04.

    Raises ValueError when the lengths differ, or for values that `interval` refuses.
    """
    a, b = _numbers(a), _numbers(b)
    if a.shape != b.shape:
        raise ValueError(f"Paired values need one pair per seed; got {len(a)} and {len(b)} values.")
    return interval(a - b, confidence)


def equivalence(a, b, margin, level=0.05):
    """Whether the mean of a - b lies within ± ``margin``: an `Equivalence`, by two one-sided paired t-tests (TOST).

    ``a``, ``b``: (n,) fractions, paired by seed; ``margin`` > 0 in their unit, to be chosen before looking at them.
    Schuirmann 1987. Introduced in notebook 04.

    Raises ValueError for a margin that is not above 0, or values that `paired` refuses.
    """
    if not 0 < margin < math.inf:
        raise ValueError(f"The margin of an equivalence must be a finite number above 0; got {margin!r}.")
    gap = paired(a, b, confidence=1 - 2 * level)
    if gap.n < 2:
        return Equivalence(math.nan, False, gap, margin, level)
    slack = margin - abs(gap.mean)
    error = gap.sd / math.sqrt(gap.n)
    t = slack / error if error else (math.inf if slack > 0 else -math.inf)
    p = float(stdtr(gap.n - 1, -t))
    return Equivalence(p, p < level, gap, margin, level)


def seeds_needed(sd, half_width, confidence=0.95):
    """Number of seeds with which an interval would be no wider than ± ``half_width``, if ``sd`` stays what it is.

    ``sd``: standard deviation of single values (of single differences for paired ones), in the unit of ``half_width``.
    At least 2. A planning figure: ``sd`` from few seeds is itself uncertain. Introduced in notebook 04.

    Raises ValueError when ``sd`` is not finite and 0 or more, or ``half_width`` not above 0.
    """
    if not (0 <= sd < math.inf and 0 < half_width < math.inf):
        raise ValueError(f"Planning needs a finite sd of at least 0 and a half-width above 0; got {sd}, {half_width}.")
    n = max(2, math.ceil((ndtri((1 + confidence) / 2) * sd / half_width) ** 2))
    while stdtrit(n - 1, (1 + confidence) / 2) * sd / math.sqrt(n) > half_width:
        n += 1
    return n


def _numbers(values):
    values = np.asarray(values, dtype=float)
    if values.ndim != 1 or values.size == 0 or not np.isfinite(values).all():
        raise ValueError("Statistics need a flat list of at least one value, all of them finite numbers.")
    return values
