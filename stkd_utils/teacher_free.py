"""Losses whose soft targets come from a rule instead of a network: label smoothing, and a teacher that is made up.

As in `losses`, each is a pure function of logits that returns named scalar terms, already weighted, in nats.
"""

import torch.nn.functional as F

from .losses import cross_entropy, hinton, kl_per_sample, soften


def label_smoothing(logits_s, labels, *, smoothing):
    """Cross-entropy with smoothed labels: {"hard", "smooth"}, two scalars whose sum is the loss.

    hard = (1 - smoothing) * CE(labels, student); smooth = smoothing * CE(uniform, student), both averaged over the
    batch. ``logits_s``: (batch, classes); ``labels``: (batch,) int64; ``smoothing`` from 0 to 1. The sum is that of
    ``torch.nn.functional.cross_entropy(label_smoothing=smoothing)``. Szegedy et al. 2016, section 7. Introduced in
    notebook 07.

    Raises ValueError when shapes or labels do not fit.
    """
    hard = cross_entropy(logits_s, labels)["hard"]
    smooth = -F.log_softmax(logits_s.to(hard.dtype), dim=1).mean()
    return {"hard": (1 - smoothing) * hard, "smooth": smoothing * smooth}


def virtual_teacher(labels, classes, correct_prob, dtype=None):
    """Class probabilities of a teacher that is made up: (batch, classes), rows sum to 1.

    ``correct_prob`` for the class of each label, the rest in equal parts for the others. ``labels``: (batch,) int64.
    Yuan et al. 2020, the virtual teacher of Tf-KD_reg. Introduced in notebook 07.

    Raises ValueError when there are fewer than two classes, or ``correct_prob`` is not between 0 and 1.
    """
    if classes < 2 or not 0 < correct_prob < 1:
        raise ValueError(
            "A virtual teacher needs two classes or more and a correct_prob between 0 and 1; "
            f"got {classes} and {correct_prob!r}."
        )
    others = (1 - correct_prob) / (classes - 1)
    return F.one_hot(labels, classes).to(dtype) * (correct_prob - others) + others


def tfkd_reg(logits_s, labels, tau, *, hard_weight, reg_weight, correct_prob):
    """Teacher-free distillation by regularisation, as published: {"hard", "reg"}, two scalars, already weighted.

    `losses.hinton` with a teacher whose logits are the logarithms of the `virtual_teacher`, its soft term called "reg"
    and weighted by ``reg_weight``: both sides are softened by ``tau``, and the factor tau^2 stays. Shapes and errors as
    there. Yuan et al. 2020, Tf-KD_reg. Introduced in notebook 07.
    """
    hard = hard_weight * cross_entropy(logits_s, labels)["hard"]
    logits_t = virtual_teacher(labels, logits_s.shape[1], correct_prob, hard.dtype).log()
    return {"hard": hard, "reg": kl_per_sample(logits_s, logits_t, tau).mean() * tau**2 * reg_weight}


def tfkd_reg_as_coded(logits_s, labels, tau, *, hard_weight, reg_weight, correct_prob, reg_multiplier):
    """Teacher-free distillation by regularisation, as its authors' code does it: {"hard", "reg"}, already weighted.

    The probabilities of the `virtual_teacher` go through a softmax at ``tau`` as if they were logits, which makes them
    almost uniform (100 classes, tau 20: 0.0105 for the right one instead of 0.99), and the student is not softened;
    reg = reg_weight * reg_multiplier * KL(softened || student at tau 1), averaged over batch and classes, without
    tau^2. So it smooths labels. Their weights were searched for this form; kept to reproduce it. Shapes and errors as
    in `tfkd_reg`. Introduced in notebook 07.
    """
    hard = hard_weight * cross_entropy(logits_s, labels)["hard"]
    classes = logits_s.shape[1]
    softened = soften(virtual_teacher(labels, classes, correct_prob, hard.dtype), tau)
    divergence = kl_per_sample(logits_s, softened.log(), 1).mean() / classes
    return {"hard": hard, "reg": reg_weight * reg_multiplier * divergence}


def tfkd_combined(logits_s, logits_t, labels, tau, *, hard_weight, soft_weight, reg_weight, correct_prob):
    """Self-distillation and a virtual teacher at once: {"hard", "soft", "reg"}, three scalars, already weighted.

    hard and soft are those of `losses.hinton` with the student's own earlier network as teacher, reg is that of
    `tfkd_reg`, all at one ``tau``. Shapes and errors as there. Introduced in notebook 07.
    """
    terms = hinton(logits_s, logits_t, labels, tau, hard_weight=hard_weight, soft_weight=soft_weight)
    reg = {"hard_weight": hard_weight, "reg_weight": reg_weight, "correct_prob": correct_prob}
    return {**terms, "reg": tfkd_reg(logits_s, labels, tau, **reg)["reg"]}
