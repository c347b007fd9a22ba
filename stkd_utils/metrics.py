"""What the answers of a classifier say beyond accuracy: macro means, agreement beyond chance, calibration, each class.

``logits`` float (N, K) are the answers to the N images of a split, ``labels`` int64 (N,) their classes, on any device.
Everything raises ValueError, one sentence, where the two do not fit or a logit is NaN or infinite.
"""

import math

import pandas as pd
import torch
import torch.nn.functional as F

BINS = 15
"""Number of bins of the calibration error."""
PER_CLASS = ("class", "precision", "recall", "f1", "support")


def scores(logits, labels):
    """A dict of numbers: accuracy, loss, macro_f1, macro_precision, macro_recall, kappa, ece.

    All are fractions but ``loss``, the mean cross-entropy in nats, and Cohen's ``kappa``, 1 for answers equal to the
    labels and 0 for what chance would give (-1 to 1, or None). A macro mean is the plain mean over the classes that
    have images here, as in `per_class`: where each class has equally many, macro recall is the accuracy.
    """
    logits, labels, predicted = _checked(logits, labels)
    precision, recall, f1, _ = _by_class(labels, predicted, labels.unique())
    return {
        "accuracy": (predicted == labels).double().mean().item(),
        "loss": F.cross_entropy(logits, labels).item(),
        "macro_f1": float(f1.mean()),
        "macro_precision": float(precision.mean()),
        "macro_recall": float(recall.mean()),
        "kappa": _kappa(labels, predicted),
        "ece": _ece(logits, labels, predicted),
    }


def per_class(logits, labels, class_names):
    """One row per class, in the order of ``class_names`` (K), as a DataFrame with the columns `PER_CLASS`.

    ``precision`` is the share that is right of the images called so (0 for a class that is never predicted),
    ``recall`` the share found of the images of the class, ``f1`` their harmonic mean, ``support`` the number of images
    of the class. The first three are NaN for a class without images.
    """
    logits, labels, predicted = _checked(logits, labels)
    if len(class_names) != logits.shape[1]:
        raise ValueError(f"{logits.shape[1]} classes need a name each; got {len(class_names)} names.")
    *shares, support = _by_class(labels, predicted, range(len(class_names)))
    there = support > 0
    rows = zip(map(str, class_names), *(share.astype(float) for share in shares), support, strict=True)
    table = pd.DataFrame(rows, columns=PER_CLASS)
    return table.assign(**{name: table[name].where(there) for name in ("precision", "recall", "f1")})


def ece(logits, labels, bins=BINS):
    """Expected calibration error: how far confidence is from accuracy, a fraction.

    The confidence of an answer is its largest probability. It falls into one of ``bins`` equal bins (low, high] of
    0..1; the error is the sum over bins of (share of the images) x |accuracy - mean confidence| (Guo et al. 2017,
    eq. 3). torchmetrics gives confidences of exactly 1, which are frequent in float32, a bin of their own.
    """
    return _ece(*_checked(logits, labels), bins)


def reliability(logits, labels, bins=BINS):
    """How often answers of each confidence are right: one row per bin that has images, a DataFrame.

    ``images`` in the bin, their mean ``confidence``, their ``accuracy``; bins as in `ece`, which is the mean of
    |accuracy - confidence| over the images. Guo et al. 2017, section 2. Introduced in notebook 07.
    """
    logits, labels, predicted = _checked(logits, labels)
    confidence = logits.softmax(1).amax(1)
    rows = {"bin": _bins(confidence, bins), "confidence": confidence, "accuracy": (predicted == labels).double()}
    found = pd.DataFrame({key: value.numpy() for key, value in rows.items()}).groupby("bin")
    return found.mean().assign(images=found.size()).reset_index(drop=True)


def calibrating_tau(logits, labels):
    """The temperature that makes these answers as likely as a temperature can: a number, from 0.05 to 20.

    It minimises the cross-entropy of ``softmax(logits / tau)`` (temperature scaling, Guo et al. 2017, section 4.2):
    above 1 the network was too sure, below 1 not sure enough. No answer changes its class. Introduced in notebook 07.
    """
    from scipy.optimize import minimize_scalar

    logits, labels, _ = _checked(logits, labels)
    bounds = math.log(0.05), math.log(20)

    def loss(log_tau):
        return F.cross_entropy(logits / math.exp(log_tau), labels).item()

    return math.exp(minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-6}).x)


def _checked(logits, labels):
    """``logits`` as float64 on the CPU, ``labels`` there, and what is predicted."""
    if logits.ndim != 2 or labels.shape != logits.shape[:1] or not logits.numel():
        raise ValueError(
            f"Metrics need logits (N, K) and labels (N,) of one image or more; got {tuple(logits.shape)} and "
            f"{tuple(labels.shape)}."
        )
    predicted = logits.argmax(1).cpu()  # where the logits are, and so as an evaluation there sees ties
    logits, labels = logits.detach().cpu().double(), labels.cpu()
    if not logits.isfinite().all():
        broken = int((~logits.isfinite()).any(1).sum())
        raise ValueError(f"The network's answers to {broken} of {len(labels)} images are NaN or Inf: lower lr.")
    if labels.min() < 0 or labels.max() >= logits.shape[1]:
        raise ValueError(f"Labels lie in 0..{logits.shape[1] - 1}; got {int(labels.min())}..{int(labels.max())}.")
    return logits, labels, predicted


def _by_class(labels, predicted, classes):
    """Precision, recall, f1 and support of each of ``classes``: four arrays."""
    from sklearn.metrics import precision_recall_fscore_support

    return precision_recall_fscore_support(labels, predicted, labels=list(map(int, classes)), zero_division=0)


def _kappa(labels, predicted):
    """(p_o - p_e) / (1 - p_e), where p_o is the accuracy and p_e that of guessing as often as the network does (Cohen
    1960, eq. 1); None where it is 0 / 0: labels and answers are all of one and the same class.
    """
    from sklearn.metrics import cohen_kappa_score

    classes = torch.cat([labels, predicted]).unique()
    return None if len(classes) == 1 else float(cohen_kappa_score(labels, predicted))


def _ece(logits, labels, predicted, bins=BINS):
    confidence = logits.softmax(1).amax(1)
    gaps = confidence - (predicted == labels).double()
    sums = torch.zeros(bins, dtype=torch.float64).index_add_(0, _bins(confidence, bins), gaps)
    return math.fsum(sums.abs().tolist()) / len(labels)


def _bins(confidence, bins):
    """Number of the bin (low, high] of each confidence, from 0."""
    return torch.bucketize(confidence, torch.linspace(0, 1, bins + 1, dtype=torch.float64)[1:-1])
