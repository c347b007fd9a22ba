"""The record of a run: what was asked, what came out, what it cost, on what it ran."""

import hashlib
from datetime import datetime, timezone

import torch

from .. import compute, environment
from ..carbon import hardware


def now():
    """This moment in UTC, ISO 8601, to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def checksum(model):
    """Hash (16 hex digits) of all weights of ``model``: equal where two students start equal."""
    digest = hashlib.sha256()
    for key, value in sorted(model.state_dict().items()):
        digest.update(key.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def record(head, dataset, model, teacher, policy, fit, result, meter, started):
    """The record of one finished run, a dict that `ledger.write` accepts; ``head`` holds what was asked.

    ``teacher`` is the record of the teacher's run, ``policy`` the temperature policy; both None for a student alone.
    """
    return {
        "schema": 1,
        **head,
        "code": environment.code(),
        "packages": environment.packages(),
        "hardware": {**hardware(), "device": dataset.train.images.device.type, "threads": torch.get_num_threads()},
        "data_checksum": dataset.checksum,
        "result": result,
        "history": fit.history,
        "cost": {name: meter.cost(name).to_dict() for name in ("train", "evaluate")},
        "compute": _compute(head["asked"], dataset, model, teacher),
        "tau": _taus(head["asked"], policy.draws) if policy else None,
        "started": started,
        "finished": now(),
        "resumed": fit.resumed,
    }


def _compute(asked, dataset, model, teacher):
    shape = (dataset.channels, dataset.size, dataset.size)
    student = compute.count(model, shape)
    teacher_macs = teacher["compute"]["macs_student"] if teacher else None
    cost = {"student_macs": student.macs, "teacher_macs": teacher_macs or 0}
    cost |= {"images": len(dataset.train), "epochs": asked["epochs"]}
    return {
        "parameters": student.parameters,
        "macs_student": student.macs,
        "macs_teacher": teacher_macs,
        "flops_forward": compute.run_flops(**cost),
        "flops_forward_backward": compute.run_flops(**cost, backward=True),
    }


def _taus(asked, draws):
    return {
        "policy": asked["tau_policy"],
        "draws": len(draws),
        "mean": sum(draws) / len(draws),
        "min": min(draws),
        "max": max(draws),
    }
