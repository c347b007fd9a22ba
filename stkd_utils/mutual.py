"""Deep mutual learning: students without a teacher that learn from each other, from the same batches."""

import torch

from . import engine, losses, models, seeding
from .objectives import Objective, beside


class Mutual(Objective):
    """What a student learns from the labels and from ``peers`` that are trained beside it (Zhang et al. 2018, DML).

    Of K networks, each one k minimises, with softmax outputs p and the others held constant::

        hard_weight * CE(labels, p_k) + soft_weight * tau^2 / (K - 1) * sum over l != k of KL(p_l || p_k), both at tau

    The published form (their section 3) is tau 1, which ``policy`` then fixes, and both weights 1; one draw a batch
    softens all. All networks learn from one and the same forward pass; their algorithm 1 updates them in turn and
    asks again after each update. Nobody is frozen: ``teacher`` is None, the peers are in the ``module`` that learns
    beside the student, and each has batch statistics and optimiser state of its own. ``networks`` are the peers by the
    names that their terms begin with ("peer1"), by which they are judged too. Introduced in notebook 06.

    Parameters
    ----------
    peers : networks, images (N, C, H, W) -> logits (N, classes), on the device of the batches (see `peer`).
    policy : temperature policy, drawn once a batch.
    hard_weight, soft_weight : factors of the two terms, the same for all networks.
    precision : what the peers are computed in, "float32" or "bfloat16"; that of the student.
    macs : MACs of one image's forward pass through all peers, for the bill: they are trained, so forward and backward.

    Raises ValueError without a peer.
    """

    module = None

    def __init__(self, peers, policy, hard_weight=1.0, soft_weight=1.0, *, precision="float32", macs=0):
        super().__init__(None, policy=policy)
        self.networks = {f"peer{number}": network for number, network in enumerate(peers, start=1)}
        if not self.networks:
            raise ValueError("Mutual learning needs at least one peer: name a model for it.")
        self.module = beside(policy, **self.networks)
        self.hard_weight, self.soft_weight, self.precision, self.macs = hard_weight, soft_weight, precision, macs

    def terms(self, batch, logits_s):
        """Named loss terms of one `data.Batch`: "hard" and "soft" of the student, "peer1_hard", "peer1_soft", ...

        ``logits_s`` (N, classes). The sum of all trains all networks: no gradient of one's terms reaches another.
        """
        with engine.autocast(batch.views.device, self.precision):
            logits = {f"{name}_": peer(batch.views).float() for name, peer in self.networks.items()}
        tau, logits = self.policy.draw(batch.epoch), {"": logits_s, **logits}
        terms = {}
        for name, own in logits.items():
            others = [other.detach() for other in logits.values() if other is not own]
            terms[f"{name}hard"] = self.hard_weight * losses.cross_entropy(own, batch.labels)["hard"]
            apart = sum(losses.kl_per_sample(own, other, tau).mean() for other in others)
            terms[f"{name}soft"] = apart / len(others) * tau**2 * self.soft_weight
        return terms


def peer_seed(seed, number=1):
    """The seed of the initial weights of peer ``number`` (1 is the first) in a run with ``seed``: no peer's equals it.

    A peer of the student's architecture that began with its weights would have nothing to teach. Raises ValueError as
    `seeding.stream_seed`.
    """
    return seeding.stream_seed(seed, f"peer {number}")


def peer(name, classes, *, seed, number=1, device="cpu", **size):
    """Peer ``number`` of a run with ``seed``: a fresh network of the model ``name``, made as `models.build` does.

    ``size`` are its ``channels``, ``width`` and ``depth``. Weights by `peer_seed`, channels-last on ``device``.
    """
    network = models.build(name, classes, seed=peer_seed(seed, number), **size)
    return network.to(device, memory_format=torch.channels_last)
