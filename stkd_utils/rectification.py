"""Dynamic rectification: what is learnt where a network is wrong, with the two logits that make it so exchanged.

As in `losses`, the losses are pure functions of logits that return named scalar terms, already weighted, in nats.
"""

from .losses import hinton, kl_per_sample


def rectified(logits, labels):
    """``logits`` with the largest of each row and that of its label exchanged: a new tensor (batch, classes).

    Where the largest is the label's, the row stays. Of equal largest ones the first counts. ``labels``: (batch,) int64.
    Gradients follow the values to their new places. Introduced in notebook 07.
    """
    top, right = logits.argmax(dim=1, keepdim=True), labels.unsqueeze(1)
    return logits.scatter(1, top, logits.gather(1, right)).scatter(1, right, logits.gather(1, top))


def rectified_teacher(logits_s, logits_t, labels, tau, *, hard_weight, soft_weight):
    """`losses.hinton` with a teacher that is never wrong: its logits are `rectified` first. {"hard", "soft"}.

    Arguments and errors are those of `losses.hinton`. Introduced in notebook 07.
    """
    terms = hinton(logits_s, logits_t, labels, tau, hard_weight=hard_weight, soft_weight=soft_weight)
    divergence = kl_per_sample(logits_s, rectified(logits_t.detach(), labels), tau)
    return {**terms, "soft": divergence.mean() * tau**2 * soft_weight}


def rectified_student(logits_s, logits_t, labels, tau, *, hard_weight, soft_weight):
    """`losses.hinton` whose soft term sees the `rectified` logits of the student: {"hard", "soft"}.

    The hard term sees the student as it is. Where the student is wrong, its wrong logit stands in the place of the
    right class, and so is drawn to what the teacher says of the right one: the soft term then holds the student to its
    mistakes, against the hard term. With the weights of classic distillation a student may learn nothing; kept because
    the code of Rafat et al. 2023 offers it. Arguments and errors are those of `losses.hinton`.
    Introduced in notebook 07.
    """
    terms = hinton(logits_s, logits_t, labels, tau, hard_weight=hard_weight, soft_weight=soft_weight)
    divergence = kl_per_sample(rectified(logits_s, labels), logits_t.detach(), tau)
    return {**terms, "soft": divergence.mean() * tau**2 * soft_weight}
