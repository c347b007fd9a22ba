"""The record of a run: what was asked, what came out, what it cost, on what it ran."""

import hashlib

import torch

from .. import clock, compute, environment, mutual
from ..carbon import hardware
from ..splits import shown


def checksum(model):
    """Hash (16 hex digits) of all weights of ``model``: equal where two students start equal."""
    digest = hashlib.sha256()
    for key, value in sorted(model.state_dict().items()):
        digest.update(key.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def record(head, trainer, result):
    """The record of one finished run, a dict that `ledger.write` accepts; ``head`` holds what was asked, and its start.

    ``trainer`` is the `Trainer` that did it, ``result`` holds the test results of the two epochs that are reported.
    """
    dataset, fit, policy = trainer.dataset, trainer.fit_state, trainer.objective.policy
    device = dataset.device.type
    how = {"device": device, "threads": torch.get_num_threads(), "precision": trainer.precision}
    teacher = trainer.objective.teacher
    if teacher and teacher.network.precision != trainer.precision:
        how["teacher_precision"] = teacher.network.precision
    return {
        "schema": 1,
        **head,
        "code": environment.code(),
        "packages": environment.packages(),
        "hardware": {**hardware(), **how},
        "data_checksum": dataset.checksum,
        "result": result,
        "history": fit.history,
        "cost": {name: trainer.meter.cost(name).to_dict() for name in ("train", "evaluate")},
        "compute": counted(trainer),
        "shared": shared(fit.parts),
        "tau": _taus(head["asked"], policy.draws) if policy else None,
        "finished": clock.now(),
        "resumed": fit.resumed,
    }


def peers(networks, seed):
    """The field "peers" of a record: the seed and the hash of the initial weights of each of ``networks``, a list."""
    return [
        {"name": name, "seed": mutual.peer_seed(seed, number), "init_checksum": checksum(network)}
        for number, (name, network) in enumerate(networks.items(), start=1)
    ]


def counted(trainer):
    """The field "compute" of a record: what the run did itself, with all it trained, and its part of the teacher."""
    student, teacher = trainer.macs
    images, parts = shown(len(trainer.dataset.train), trainer.protocol.batch_size), trainer.fit_state.parts
    beside, back = trainer.objective.macs, trainer.objective.macs_backward
    own = {"student_macs": student, "images": images, "epochs": len(parts)}
    teaching = compute.flops(teacher) * images * sum(part["teacher"] for part in parts)
    forward = teaching + compute.flops(beside) * images * len(parts)
    both = forward + compute.flops(back) * images * len(parts)
    return {
        "parameters": sum(parameter.numel() for parameter in trainer.model.parameters()),
        "macs_student": student,
        "macs_teacher": teacher if trainer.objective.teacher else None,
        **({"macs_beside": beside} if beside else {}),
        "flops_forward": round(compute.run_flops(**own) + forward),
        "flops_forward_backward": round(compute.run_flops(**own, backward=True) + both),
    }


def shared(parts):
    """The field "shared" of a record: how the cost of passes with other runs was split, None for a run alone.

    ``parts`` are those of each epoch (`sharing.split`). "students" trained in the pass at most, "share" of its cost is
    this run's, the mean over epochs, "of" are the ids of all runs that it shared an epoch with, and its own.
    """
    if all(len(part["of"]) == 1 for part in parts):
        return None
    return {
        "students": max(len(part["of"]) for part in parts),
        "share": sum(part["share"] for part in parts) / len(parts),
        "of": sorted({name for part in parts for name in part["of"]}),
    }


def _taus(asked, draws):
    return {
        "policy": asked["tau_policy"],
        "draws": len(draws),
        "mean": sum(draws) / len(draws),
        "min": min(draws),
        "max": max(draws),
    }
