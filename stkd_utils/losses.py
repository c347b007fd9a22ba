"""Distillation losses: pure functions of logits that return named terms.

Every method returns a dictionary of scalar terms, each already multiplied by its weight, so that a log can show them
apart; the loss is their `total`. Half-precision logits are computed in float32, float64 stays float64.
"""

import math
from numbers import Real

import torch
import torch.nn.functional as F


def soften(logits, tau):
    """Class probabilities at temperature ``tau``.

    ``logits``: (..., classes) -> same shape, rows sum to 1. ``tau`` > 0, a float or a scalar tensor; 1 leaves the
    ordinary softmax. softmax(logits / tau), Hinton et al. 2015, eq. 1. Introduced in notebook 03.

    Raises ValueError when ``tau`` is not one finite number above 0.
    """
    return _log_soften(logits, tau).exp()


def kl_per_sample(logits_s, logits_t, tau):
    """Kullback-Leibler divergence from teacher to student, in nats, one value per sample.

    ``logits_s``, ``logits_t``: (batch, classes) -> (batch,). sum_c p_t log(p_t / p_s) with both distributions softened
    by the same ``tau``; no tau^2 factor. Zero exactly where the softened distributions agree. Rounding can leave a
    value of about -1e-7. Introduced in notebook 03.

    Raises ValueError when the shapes differ or ``tau`` is not one finite number above 0.
    """
    _check_logits(logits_s, logits_t)
    log_s, log_t = _log_soften(logits_s, tau), _log_soften(logits_t, tau)
    return F.kl_div(log_s, log_t, reduction="none", log_target=True).sum(dim=1)


def cross_entropy(logits_s, labels):
    """The student's loss without a teacher: {"hard": mean cross-entropy of the labels, in nats}.

    ``logits_s``: (batch, classes); ``labels``: (batch,) int64 class numbers. The term is a scalar.
    Introduced in notebook 02.

    Raises ValueError when shapes or labels do not fit.
    """
    _check_logits(logits_s)
    _check_labels(labels, *logits_s.shape)
    return {"hard": F.cross_entropy(_at_least_float32(logits_s), labels)}


def hinton(logits_s, logits_t, labels, tau, *, hard_weight, soft_weight):
    """Classic knowledge distillation: {"hard", "soft"}, two scalars in nats, already weighted.

    hard = hard_weight * CE(labels, student at tau 1); soft = soft_weight * tau^2 * KL(teacher || student at ``tau``),
    both averaged over the batch. The factor tau^2 keeps the soft gradient's size, tau (p_s - p_t) / batch, comparable
    between temperatures, and stays whatever the weights are. No gradient reaches ``logits_t``. In float32 the rounding
    of the soft term grows with tau^2 too: below 1 % of its gradient at tau 20, above it at 1000; float64 has room.
    Hinton et al. 2015, section 2. Introduced in notebook 03.

    Parameters
    ----------
    logits_s, logits_t : (batch, classes) raw outputs of student and teacher, before any softmax.
    labels : (batch,) int64 class numbers.
    tau : float or scalar tensor above 0, shared by teacher and student.
    hard_weight, soft_weight : factors of the two terms, usually with sum 1.

    Raises
    ------
    ValueError
        When shapes or labels do not fit, or ``tau`` is not one finite number above 0.
    """
    hard = hard_weight * cross_entropy(logits_s, labels)["hard"]
    soft = kl_per_sample(logits_s, logits_t.detach(), tau).mean() * tau**2 * soft_weight
    return {"hard": hard, "soft": soft}


def hinton_element_mean(logits_s, logits_t, labels, tau, *, hard_weight, soft_weight):
    """`hinton` with its soft term averaged over batch x classes instead of over the batch.

    The reduction found in the code of Rafat et al. 2023: the soft term shrinks by the number of classes, so the balance
    of the two terms depends on the data set. Kept to reproduce that code; arguments, terms and errors are those of
    `hinton`. Introduced in notebook 03.
    """
    terms = hinton(logits_s, logits_t, labels, tau, hard_weight=hard_weight, soft_weight=soft_weight)
    return {**terms, "soft": terms["soft"] / logits_s.shape[1]}


def hinton_standardised(logits_s, logits_t, labels, tau, *, hard_weight, soft_weight):
    """`hinton` whose soft term compares standardised logits: {"hard", "soft"}, with the same weights and factor tau^2.

    Both sides are made z-scores (`standardise`) before they are softened, so that the student need not match the size
    of the teacher's logits; the hard term sees them as they are. Arguments and errors are those of `hinton`.
    Sun et al. 2024; their published comparison changes the weights as well, this function does not.
    Introduced in notebook 06.
    """
    hard = hard_weight * cross_entropy(logits_s, labels)["hard"]
    soft = kl_per_sample(standardise(logits_s), standardise(logits_t.detach()), tau).mean() * tau**2 * soft_weight
    return {"hard": hard, "soft": soft}


def standardise(logits):
    """Z-scores of each row: (..., classes) -> same shape, rows with mean 0 and standard deviation 1.

    (logits - mean) / sqrt(variance + 1e-7), the variance being that of the row itself (divided by the number of
    classes). The small number keeps gradients finite where all logits of a row are equal: such a row becomes zeros, and
    so a uniform distribution; rows with a standard deviation above 0.01 change by less than 0.05 %.
    Introduced in notebook 06.
    """
    return F.layer_norm(_at_least_float32(logits), logits.shape[-1:], eps=1e-7)


def mse(logits_s, logits_t, labels, *, hard_weight, soft_weight):
    """Logit matching without a temperature: {"hard", "soft"}, two scalars, already weighted.

    hard = hard_weight * CE(labels, student), in nats; soft = soft_weight * (logits_s - logits_t)^2, averaged over batch
    and classes, as in the code of Kim et al. 2021, whose formula leaves the reduction open. The gradient for one logit
    is 2 (logits_s - logits_t) / (batch * classes): twice that of `hinton` at tau -> infinity for centred logits. No
    gradient reaches ``logits_t``. Shapes and errors as in `hinton`. Introduced in notebook 06.
    """
    _check_logits(logits_s, logits_t)
    hard = hard_weight * cross_entropy(logits_s, labels)["hard"]
    soft = F.mse_loss(_at_least_float32(logits_s), _at_least_float32(logits_t.detach())) * soft_weight
    return {"hard": hard, "soft": soft}


def total(terms):
    """The loss to minimise, a scalar in nats: the sum of the ``terms`` that a method returned."""
    return sum(terms.values())


def _log_soften(logits, tau):
    _check_tau(tau)
    return torch.log_softmax(_at_least_float32(logits) / tau, dim=-1)


def _at_least_float32(logits):
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def _check_tau(tau):
    scalar = tau.dim() == 0 if isinstance(tau, torch.Tensor) else isinstance(tau, Real)
    # Reading a value back from an accelerator would stall it at every step.
    elsewhere = isinstance(tau, torch.Tensor) and tau.device.type != "cpu"
    if not scalar or not (elsewhere or 0 < tau < math.inf):
        raise ValueError(f"The temperature tau must be one finite number above 0; got {tau!r}.")


def _check_logits(logits_s, logits_t=None):
    if logits_s.dim() != 2 or logits_s.numel() == 0:
        raise ValueError(
            f"Logits must have the shape (batch, classes), neither of them 0; got {tuple(logits_s.shape)}."
        )
    if logits_t is not None and logits_t.shape != logits_s.shape:
        raise ValueError(
            "Student and teacher must give logits for the same images and classes; "
            f"got the shapes {tuple(logits_s.shape)} and {tuple(logits_t.shape)}."
        )


def _check_labels(labels, batch, classes):
    if labels.shape != (batch,) or labels.dtype != torch.int64:
        raise ValueError(
            f"Labels must be {batch} class numbers of type int64, one per image; "
            f"got the shape {tuple(labels.shape)} of {str(labels.dtype).removeprefix('torch.')}."
        )
    # Reading values back from an accelerator would stall it at every step.
    if labels.device.type == "cpu" and not 0 <= labels.min() <= labels.max() < classes:
        raise ValueError(
            f"Labels must lie between 0 and {classes - 1} for logits of {classes} classes; "
            f"got {labels.min().item()} to {labels.max().item()}."
        )
