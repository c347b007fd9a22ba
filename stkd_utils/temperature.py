"""Temperature policies: small objects that say which tau a batch is softened with.

A policy draws once per batch; teacher and student share the value. Its random numbers come from a generator of its own,
on the CPU, so that the sequence depends on the run's seed alone: not on the device, nor on weights, order or
augmentation. All that was drawn is kept in ``draws``.

A new policy is one class: give it a ``name``, the ``parameters`` that an experiment must set, and ``_next``.
"""

import math
from numbers import Real

import torch

from stkd_utils import seeding

POLICIES = {}


class Policy:
    """Base of all temperature policies. Introduced in notebook 04.

    A subclass with a ``name`` can be built by that name. Its constructor takes the values of ``parameters`` in their
    order, then ``seed``, and keeps them as public attributes, by which `load_state_dict` knows the policy again;
    ``_next`` returns one temperature and takes random numbers from ``self._generator`` only.

    Attributes
    ----------
    name : what experiments call the policy.
    parameters : names of the settings that it needs, numbers above 0, in the constructor's order.
    module : a torch.nn.Module with what the policy learns, or None.
    """

    name = None
    parameters = ()
    module = None

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        if "name" in vars(cls):
            POLICIES[cls.name] = cls

    def __init__(self, seed=0):
        self._drawn = []
        self._generator = seeding.generator(seed, "tau")

    @property
    def draws(self):
        """A list of float, every temperature drawn so far; only looking at it waits for a GPU that made some."""
        if fresh := [value for value in self._drawn if isinstance(value, torch.Tensor)]:
            self._drawn[-len(fresh) :] = torch.stack(fresh).tolist()
        return self._drawn

    def draw(self, epoch=1):
        """The temperature of the next batch, of ``epoch`` (1-based): a float above 0, also appended to ``draws``."""
        self._drawn.append(float(self._next()))
        return self._drawn[-1]

    def state_dict(self):
        """All that is needed to continue the sequence; ``torch.load(..., weights_only=True)`` reads it back."""
        return {"policy": repr(self), "generator": self._generator.get_state(), "draws": list(self.draws)}

    def load_state_dict(self, state):
        """Continue where ``state`` was taken. Raises ValueError when it belongs to a policy with other settings."""
        if state["policy"] != repr(self):
            raise ValueError(f"This state was saved by {state['policy']}; build that policy instead of {self!r}.")
        self._generator.set_state(state["generator"].cpu())
        self._drawn = list(state["draws"])

    def _next(self):
        raise NotImplementedError(f"{type(self).__name__} needs a method _next that returns one temperature.")

    def __repr__(self):
        settings = (f"{key}={value}" for key, value in vars(self).items() if key[0] != "_")
        return f"{type(self).__name__}({', '.join(settings)})"


class Fixed(Policy):
    """The same ``tau`` for every batch, as in classic distillation (Hinton et al. 2015). Introduced in notebook 03.

    Raises ValueError when ``tau`` is not a finite number above 0.
    """

    name = "fixed"
    parameters = ("tau",)

    def __init__(self, tau, seed=0):
        super().__init__(seed)
        self.tau = _positive("tau", tau)

    def _next(self):
        return self.tau


class _Range(Policy):
    parameters = ("tau_low", "tau_high")

    def __init__(self, low=2, high=20, seed=0):
        super().__init__(seed)
        self.low, self.high = _positive("tau_low", low), _positive("tau_high", high)
        if not low < high:
            raise ValueError(f"tau_low must be below tau_high; got {low} and {high}.")

    def _fraction(self):
        return torch.rand((), dtype=torch.float64, generator=self._generator).item()


class IntegerUniform(_Range):
    """Whole-numbered tau from ``low`` to ``high``, both included and equally likely; 2..20 has 19 values.

    The law of Rafat et al. 2023, as drawn in the first revision of their code. Introduced in notebook 04.
    Raises ValueError unless 0 < ``low`` < ``high`` and both are whole numbers.
    """

    name = "stochastic"

    def __init__(self, low=2, high=20, seed=0):
        super().__init__(low, high, seed)
        if low % 1 or high % 1:
            raise ValueError(
                f"The policy {self.name!r} needs whole numbers for tau_low and tau_high; got {low}, {high}."
            )

    def _next(self):
        return torch.randint(int(self.low), int(self.high) + 1, (), generator=self._generator).item()


class ContinuousUniform(_Range):
    """Real-valued tau, uniform between ``low`` and ``high``. Introduced in notebook 04.

    Raises ValueError unless 0 < ``low`` < ``high``.
    """

    name = "stochastic-continuous"

    def _next(self):
        return self.low + (self.high - self.low) * self._fraction()


class LogUniform(_Range):
    """Real-valued tau whose logarithm is uniform: as often below sqrt(low * high) as above. Introduced in notebook 04.

    Raises ValueError unless 0 < ``low`` < ``high``.
    """

    name = "stochastic-log"

    def _next(self):
        return self.low * (self.high / self.low) ** self._fraction()


class Learnable(_Range):
    """A tau between ``low`` and ``high`` that is learnt against the student: it moves to where the loss is higher.

    tau = low + (high - low) * sigmoid(p). The number p begins at 1, so that tau begins at 0.73 of the range (15.6 of
    1..21, as in CTKD's code), and is trained with the student, by the same optimiser; its gradient is turned round and
    multiplied by `reversal`, which rises over the epochs: easy temperatures first. ``draw`` gives a scalar tensor
    through which the gradient reaches p; the student's own gradient is as with the same tau fixed. Nothing is random.
    Li et al. 2023, the global temperature. Introduced in notebook 06.

    ``module`` holds p, in float32 whatever the precision of the networks. Raises ValueError unless 0 < ``low`` <
    ``high``.
    """

    name = "learnable"

    def __init__(self, low=1, high=21, seed=0):
        super().__init__(low, high, seed)
        self._module = _Learnt(self.low, self.high)

    @property
    def module(self):
        """The torch.nn.Module that learns tau."""
        return self._module

    def draw(self, epoch=1):
        """The temperature of the next batch, of ``epoch`` (1-based): a scalar tensor, also added to ``draws``."""
        tau = self._module(reversal(epoch))
        self._drawn.append(tau.detach())
        return tau


class _Learnt(torch.nn.Module):
    def __init__(self, low, high):
        super().__init__()
        self.low, self.high = low, high
        self.p = torch.nn.Parameter(torch.tensor(1.0))

    def forward(self, strength):
        return self.low + (self.high - self.low) * torch.sigmoid(_Reversed.apply(self.p, strength))


class _Reversed(torch.autograd.Function):
    """The same value, with a gradient of the opposite sign, ``strength`` times as large."""

    @staticmethod
    def forward(ctx, value, strength):
        ctx.strength = strength
        return value.view_as(value)

    @staticmethod
    def backward(ctx, gradient):
        return -ctx.strength * gradient, None


def reversal(epoch, epochs=10):
    """How strongly a learnable temperature works against the student in ``epoch`` (1-based): from 0 rising to 1.

    (1 - cos(pi * epoch / epochs)) / 2 over the first ``epochs``, then 1. Li et al. 2023, the cosine schedule; the ten
    epochs are those of their code. Introduced in notebook 06.
    """
    return (1 - math.cos(math.pi * min(max(epoch / epochs, 0), 1))) / 2


def names():
    """The names that `build` knows, a sorted list."""
    return sorted(POLICIES)


def build(name, *, seed, **settings):
    """The temperature policy called ``name``, with the generator of the run's ``seed``.

    ``settings`` are the policy's own parameters (``tau`` for "fixed"; ``tau_low`` and ``tau_high`` for the stochastic
    ones); a setting of None counts as not given. Introduced in notebook 04.

    Raises ValueError for an unknown name, a setting that is missing, or one that the policy would not use.
    """
    if name not in POLICIES:
        raise ValueError(f"There is no temperature policy {name!r}; known are {', '.join(names())}.")
    needed = POLICIES[name].parameters
    given = {key: value for key, value in settings.items() if value is not None}
    for problem, keys in (("needs", set(needed) - given.keys()), ("does not use", given.keys() - set(needed))):
        if keys:
            raise ValueError(f"The temperature policy {name!r} {problem} {', '.join(sorted(keys))}.")
    return POLICIES[name](*(given[key] for key in needed), seed=seed)


def _positive(name, value):
    if not isinstance(value, Real) or not 0 < value < math.inf:
        raise ValueError(f"{name} must be a finite number above 0; got {value!r}.")
    return value
