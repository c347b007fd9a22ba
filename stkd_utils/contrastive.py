"""Contrastive representation distillation: the student's features of an image beside the teacher's, among many others.

The table of Rafat et al. 2023 has a row "CMC [44]" that nothing at hand explains: no code, no formula. This method is
one candidate for it, from the authors of Contrastive Multiview Coding; nothing is claimed.
"""

import math

import torch
import torch.nn.functional as F

from . import losses, models, seeding
from .objectives import Objective, beside

SIZE = 128  # of an embedding
MOMENTUM = 0.5  # what a row of a bank keeps of itself


class Contrast(Objective):
    """What a student learns from labels and from where a frozen teacher sees an image (Tian et al. 2020, CRD).

    The features that enter the last layers are embedded and compared (`Banks`): {"hard": hard_weight * cross-entropy,
    "contrast": crd_weight * noise-contrastive loss}. Published: hard_weight 1, crd_weight 0.8, crd_negatives 16384 and
    a ``policy`` that fixes tau at 0.07. tau is that of the contrast; a policy that draws it must stay near there, such
    as "stochastic-continuous" from 0.05 to 0.1: no logits are softened. ``module`` holds the `Banks`, whose MACs of one
    image, products with both banks included, are ``macs``. Introduced in notebook 06.

    Parameters
    ----------
    student : the network in training, on the device of the batches; it answers a batch before `terms` are asked.
    teacher : a frozen network (`engine.frozen`), or an `objectives.Teacher` that several students share.
    labels : (n,) int64 of the whole training split, to which ``batch.positions`` refer.
    policy : temperature policy, drawn once a batch.
    crd_negatives : other images that each image is compared with.
    seed : of the run: for embeddings, banks and negatives.

    Raises
    ------
    ValueError
        When the teacher's outputs are stored, which are logits without features, or as `Banks`.
    """

    module = None

    def __init__(self, student, teacher, labels, policy, *, seed, hard_weight=1.0, crd_weight=0.8, crd_negatives=16384):
        super().__init__(None, teacher, policy)
        if self.teacher.stored:
            raise ValueError(
                "The contrastive loss needs the teacher's features, and only its logits are stored: "
                "set stored_teacher to false."
            )
        self.hard_weight, self.crd_weight = hard_weight, crd_weight
        self._student, self._teacher = Features(student), Features(self.teacher.network)
        self._batch = self._features_t = None
        self.banks = Banks(self._student.size, self._teacher.size, labels, crd_negatives, seed).to(labels.device)
        self.module, self.macs = beside(policy, banks=self.banks), self.banks.macs

    @property
    def macs_backward(self):
        """MACs of one image's backward pass through the `Banks`."""
        return self.banks.macs_backward

    def terms(self, batch, logits_s):
        """Named loss terms of one `data.Batch`; ``logits_s`` (N, classes), which the student has just answered."""
        hard = self.hard_weight * losses.cross_entropy(logits_s, batch.labels)["hard"]
        self.teacher(batch)  # works only if no other student asked about this batch before
        if batch is not self._batch:
            self._batch, self._features_t = batch, self._teacher.take()
        tau = self.policy.draw(batch.epoch)
        contrast = self.banks(self._student.take(), self._features_t, batch.labels, batch.positions, tau)
        return {"hard": hard, "contrast": self.crd_weight * contrast}


class Features:
    """What enters the last layer of a ``model`` in its forward passes, read on the way: no second pass is needed.

    ``size`` is the number of features of an image.
    """

    def __init__(self, model):
        layer = model.get_submodule(models.classifier(model))
        self.size = layer.weight.shape[1]
        self._seen = None
        layer.register_forward_pre_hook(self._see)

    def _see(self, layer, inputs):
        self._seen = inputs[0]

    def take(self):
        """Features float32 (N, size) of the latest pass, with its graph if it has one; given once.

        Raises RuntimeError when there was no pass since the last call.
        """
        seen, self._seen = self._seen, None
        if seen is None:
            raise RuntimeError("There are no new features: let the network answer the batch first.")
        # a copy made outside of inference mode, which a loss may keep for its gradient
        return seen.flatten(1).to(torch.float32, copy=seen.is_inference())


class Banks(torch.nn.Module):
    """Two embeddings and, for each training image, what they last gave: the loss that compares one with the other.

    Features go through a linear layer each and are scaled to length 1: v_s, v_t (N, `SIZE`). Both banks hold one such
    vector per training image, random at first; after each batch a row b becomes (b + v) / 2, scaled to length 1
    again. An image's v_t is compared with its own row and with those of ``negatives`` other images in the bank of the
    student, v_s with the same rows in the bank of the teacher: see `noise_contrast`, whose two values are added.

    Negatives are images of other classes, as in the published experiments, each drawn with equal probability and
    independently (so one may come twice) by a CPU generator of the run's ``seed``. The estimate of the normaliser comes
    from the first batch; its similarities are kept, so that it is right for every tau. `state_dict` holds all of this.

    ``labels`` (n,) int64 of the training split. The random rows begin uniform in +-sqrt(3 / `SIZE`), of length 1 on
    average. Raises ValueError for fewer than two classes or one negative.
    """

    def __init__(self, inputs_s, inputs_t, labels, negatives, seed):
        super().__init__()
        counts = labels.bincount()
        if (counts > 0).sum() < 2:
            raise ValueError("The contrastive loss needs training images of at least two classes.")
        if negatives < 1:
            raise ValueError(f"crd_negatives must be a whole number above 0; got {negatives!r}.")
        self.count = negatives
        self._generator, start = seeding.generator(seed, "negatives"), seeding.generator(seed, "contrast")
        self.embed_s, self.embed_t = (_linear(inputs, start) for inputs in (inputs_s, inputs_t))
        for name in ("bank_s", "bank_t"):
            self.register_buffer(name, _uniform((len(labels), SIZE), math.sqrt(3 / SIZE), start))
        self._first = None
        for name, value in {"_sorted": labels.argsort(stable=True), "_counts": counts}.items():
            self.register_buffer(name, value, persistent=False)

    @property
    def macs(self):
        """MACs of one image's forward pass: two embeddings, and two products with a whole bank."""
        return self.embed_s.weight.numel() + self.embed_t.weight.numel() + self.bank_s.numel() + self.bank_t.numel()

    @property
    def macs_backward(self):
        """MACs of one image's backward pass: banks and the teacher's features need no gradient, so one product each."""
        return self.macs + self.embed_s.weight.numel()

    def negatives(self, labels):
        """Positions int64 (N, negatives) in the training split, of images of other classes than ``labels`` (N,)."""
        drawn = torch.randint(2**31 - 1, (len(labels), self.count), dtype=torch.int32, generator=self._generator)
        if labels.is_cuda:  # copied without waiting for the GPU
            drawn = drawn.pin_memory()
        drawn = drawn.to(labels.device, non_blocking=True)
        own, before = (values[labels, None] for values in (self._counts, self._counts.cumsum(0) - self._counts))
        place = drawn % (len(self._sorted) - own)  # among the images sorted by class, without the own one
        return self._sorted[place + own * (place >= before)]

    def forward(self, features_s, features_t, labels, positions, tau):
        """The loss of a batch, a scalar in nats: features (N, inputs), ``labels`` and ``positions`` (N,), ``tau`` > 0.

        The banks are updated with what the embeddings gave.
        """
        v_s, v_t = F.normalize(self.embed_s(features_s)), F.normalize(self.embed_t(features_t))
        compared = torch.cat([positions[:, None], self.negatives(labels)], dim=1)
        # products with all rows, of which the compared ones are taken, instead of gathering so many rows
        pairs = (v_t, self.bank_s), (v_s, self.bank_t)
        similar = torch.stack([(v @ bank.T).gather(1, compared) for v, bank in pairs])
        if self._first is None:
            self._first = similar.detach().flatten(1).clone()
        loss = sum(noise_contrast(*one, tau) for one in zip(similar, self._first, strict=True))
        # new tensors, because the backward pass still needs the old ones
        self.bank_s, self.bank_t = updated(self.bank_s, positions, v_s), updated(self.bank_t, positions, v_t)
        return loss

    def get_extra_state(self):
        """The generator of the negatives, and the similarities of the first batch."""
        return {"generator": self._generator.get_state(), "first": self._first}

    def set_extra_state(self, state):
        """Continue where ``state`` was taken."""
        self._generator.set_state(state["generator"].cpu())
        self._first = None if state["first"] is None else state["first"].to(self.bank_s.device)


def noise_contrast(similar, first, tau):
    """How badly an image is told from its negatives, in nats, the mean over the batch: a scalar.

    ``similar`` (N, 1 + K): cosines with the image's own counterpart, then with K negatives. With h = exp(similar / tau)
    / Z, where Z is the mean of exp(first / tau) over the cosines ``first`` of the first batch, an image is taken for
    the right one with probability D = h / (h + K): -log D of the first column - the sum of log(1 - D) of the others.
    Tian et al. 2020, section 3.1, with the normaliser of their code; computed with logarithms, so that no ``tau``
    overflows. No gradient goes through Z.
    """
    count = similar.shape[1] - 1
    with torch.no_grad():
        log_z = (first / tau).logsumexp(dim=0) - math.log(first.numel())
    odds = similar / tau - log_z - math.log(count)
    return (F.softplus(-odds[:, 0]) + F.softplus(odds[:, 1:]).sum(dim=1)).mean()


@torch.no_grad()
def updated(bank, positions, vectors):
    """A copy of ``bank`` (n, size) whose rows at ``positions`` moved to ``vectors`` by 1 - `MOMENTUM`, at length 1."""
    rows = MOMENTUM * bank[positions] + (1 - MOMENTUM) * vectors
    return bank.index_copy(0, positions, F.normalize(rows))


def _linear(inputs, generator):
    layer = torch.nn.utils.skip_init(torch.nn.Linear, inputs, SIZE)
    for values in layer.parameters():  # as torch.nn.Linear itself does, with random numbers of our own
        torch.nn.init.uniform_(values, -1 / math.sqrt(inputs), 1 / math.sqrt(inputs), generator=generator)
    return layer


def _uniform(shape, limit, generator):
    return (2 * torch.rand(shape, generator=generator) - 1) * limit
