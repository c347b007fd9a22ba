"""Losses of an SSD detector, with and without a teacher: pure functions that return named terms.

As in `stkd_utils.losses`, every function returns a dictionary of scalar terms, each already multiplied by its weight,
and the loss is their `stkd_utils.losses.total`. N is the number of images, P of priors, K of object classes. An output
holds 4 box offsets and K + 1 logits, background first, for every prior. Half precision is computed in float32. Nothing
here reads a value back from an accelerator, so a training step never waits for its loss.
"""

import torch
import torch.nn.functional as F

from stkd_utils.losses import soften


def mined(logits, labels, negatives=3):
    """The priors that the classification terms look at: a mask, bool (N, P).

    All positives (label > 0) and, in each image, the ``negatives`` times as many background priors whose cross-entropy
    is highest (fewer where the image has fewer). An image without an object keeps no prior at all. Priors of equal
    loss are taken in their order. ``logits``: (N, P, K + 1); ``labels``: int64 (N, P), 0 is background.
    Liu et al. 2016, section 2.2, "hard negative mining". Introduced in notebook 05.
    """
    positive = labels > 0
    loss = -torch.log_softmax(_at_least_float32(logits.detach()), dim=-1)[..., 0]
    order = loss.masked_fill(positive, -torch.inf).argsort(dim=1, descending=True, stable=True)
    return positive | (order.argsort(dim=1) < negatives * positive.sum(dim=1, keepdim=True))


def multibox(outputs, labels, box_offsets, *, negatives=3, hard_weight=1.0):
    """SSD's loss without a teacher: {"hard", "box"}, two scalars.

    hard = hard_weight * cross-entropy (nats) summed over the `mined` priors; box = smooth L1 of the four offsets summed
    over the positive priors; both divided by the number of positives of the whole batch, or by 1 where there is none: a
    batch without objects has the loss 0 and gradients of 0. Liu et al. 2016, eq. 1 to 3, with alpha = 1; the values are
    those of torchvision's SSD. Introduced in notebook 05.

    Parameters
    ----------
    outputs : (N, P, K + 5) of the network, offsets first.
    labels : int64 (N, P), the class 1..K of each prior's object, 0 for background.
    box_offsets : (N, P, 4) from each prior to its object, encoded as the network's; ignored for background.
    negatives : background priors kept for each positive one.
    hard_weight : factor of the classification term.

    Raises
    ------
    ValueError
        When shapes or labels do not fit.
    """
    _check(outputs, labels, box_offsets)
    return _multibox(outputs, labels, box_offsets, mined(outputs[..., 4:], labels, negatives), hard_weight)


def distil(
    outputs_s,
    outputs_t,
    labels,
    box_offsets,
    tau,
    *,
    hard_weight,
    soft_weight,
    background_weight=1.5,
    bound_weight=0.5,
    bound_margin=0.0,
    hint_weight=0.5,
    negatives=3,
):
    """Distillation of a detector: {"hard", "box", "soft", "bound", "hint"}, five scalars.

    hard and box are those of `multibox`. The others take nothing but numbers from the teacher: no gradient reaches it.
    soft = soft_weight * tau^2 * `divergence`, summed over the priors of the hard term and divided by its normaliser.
    bound = bound_weight * squared L2 distance of the student's offsets from the target's, summed over those positive
    priors where it exceeds the teacher's less ``bound_margin``, divided by the number of positives (at least 1).
    hint = hint_weight * mean squared difference of all logits of all priors.

    Chen et al. 2017, eq. 2 to 6, with three changes: the soft term keeps Hinton's tau^2 and is a divergence, where the
    paper has the weighted cross-entropy; the hint compares logits, which teacher and student share, instead of features
    that would need a learned adaptation. Introduced in notebook 05.

    Parameters
    ----------
    outputs_s, outputs_t : (N, P, K + 5) of student and teacher on the same views and priors.
    labels, box_offsets, negatives : as for `multibox`.
    tau : float or scalar tensor above 0.
    hard_weight, soft_weight, bound_weight, hint_weight : factors of the terms.
    background_weight : factor of the background class within the soft term, at least 0.
    bound_margin : how much better than the teacher a box must be to be left alone, in units of the squared distance.

    Raises
    ------
    ValueError
        When shapes or labels do not fit, or ``tau`` is not one finite number above 0.
    """
    _check(outputs_s, labels, box_offsets, outputs_t)
    outputs_t = outputs_t.detach()
    logits_s, logits_t = outputs_s[..., 4:], outputs_t[..., 4:]
    mask, positive = mined(logits_s, labels, negatives), labels > 0
    soft = divergence(logits_s, logits_t, tau, background_weight).where(mask, 0).sum() / _count(positive)
    distance_s = _gaps(outputs_s, box_offsets, positive).square().sum(dim=-1)
    distance_t = _gaps(outputs_t, box_offsets, positive).square().sum(dim=-1)
    bound = distance_s.where(distance_s + bound_margin > distance_t, 0).sum() / _count(positive)
    hint = (_at_least_float32(logits_s) - _at_least_float32(logits_t)).square().mean()
    return {
        **_multibox(outputs_s, labels, box_offsets, mask, hard_weight),
        "soft": soft_weight * tau**2 * soft,
        "bound": bound_weight * bound,
        "hint": hint_weight * hint,
    }


def divergence(logits_s, logits_t, tau, background_weight):
    """Class-weighted generalised Kullback-Leibler divergence from teacher to student, in nats, one value per prior.

    ``logits_s``, ``logits_t``: (..., K + 1) -> (...,). sum_c w_c (p_t log(p_t / p_s) - p_t + p_s), both softened by
    ``tau``; w is ``background_weight`` for class 0 and 1 for the others. Every summand is at least 0, so the minimum,
    0, lies at equal distributions whatever the weights are; the plain weighted sum of p_t log(p_t / p_s) can fall below
    0 elsewhere. With all weights 1 the two agree. No tau^2 factor. The Bregman divergence of the negative entropy, used
    for the weights of Chen et al. 2017, eq. 3. Introduced in notebook 05.

    Raises ValueError when ``tau`` is not one finite number above 0.
    """
    p_t = soften(logits_t, tau)
    log_s, log_t = (torch.log_softmax(_at_least_float32(logits) / tau, dim=-1) for logits in (logits_s, logits_t))
    weights = F.pad(log_s.new_ones(log_s.shape[-1] - 1), (1, 0), value=background_weight)
    return ((p_t * (log_t - log_s) - p_t + log_s.exp()) * weights).sum(dim=-1)


def _multibox(outputs, labels, box_offsets, mask, hard_weight):
    positive = labels > 0
    logits = _at_least_float32(outputs[..., 4:])
    entropies = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").view_as(labels)
    gaps = _gaps(outputs, box_offsets, positive)
    return {
        "hard": hard_weight * entropies.where(mask, 0).sum() / _count(positive),
        "box": F.smooth_l1_loss(gaps, torch.zeros_like(gaps), reduction="sum") / _count(positive),
    }


def _gaps(outputs, box_offsets, positive):
    """Offsets less target, 0 at background: chosen before any power, so that an infinite target there does no harm."""
    return (_at_least_float32(outputs[..., :4]) - box_offsets).where(positive[..., None], 0)


def _count(positive):
    return positive.sum().clamp_min(1)


def _at_least_float32(values):
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _check(outputs, labels, box_offsets, outputs_t=None):
    if outputs.dim() != 3 or outputs.numel() == 0 or outputs.shape[-1] < 6:
        raise ValueError(
            f"Outputs must have the shape (images, priors, classes + 5), none of them 0; got {tuple(outputs.shape)}."
        )
    if outputs_t is not None and outputs_t.shape != outputs.shape:
        raise ValueError(
            "Student and teacher must give outputs for the same images, priors and classes; "
            f"got the shapes {tuple(outputs.shape)} and {tuple(outputs_t.shape)}."
        )
    images, priors, width = outputs.shape
    if labels.shape != (images, priors) or labels.dtype != torch.int64 or box_offsets.shape != (images, priors, 4):
        raise ValueError(
            f"Targets must be labels of type int64 and shape {(images, priors)} and box offsets of shape "
            f"{(images, priors, 4)}; got {str(labels.dtype).removeprefix('torch.')} {tuple(labels.shape)} "
            f"and {tuple(box_offsets.shape)}."
        )
    # Reading values back from an accelerator would stall it at every step.
    if labels.device.type == "cpu" and not 0 <= labels.min() <= labels.max() <= width - 5:
        raise ValueError(
            f"Labels must lie between 0 and {width - 5} for outputs of {width - 5} classes; "
            f"got {labels.min().item()} to {labels.max().item()}."
        )
