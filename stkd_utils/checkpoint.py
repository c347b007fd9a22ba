"""Checkpoints that survive a kill: written whole or not at all, with the one before kept until the next is safe."""

import errno
import os
from pathlib import Path

import torch


class CheckpointDamaged(RuntimeError):
    """Neither the newest checkpoint nor the one before it can be read."""


def previous(path):
    """Path of the checkpoint that was written before the one at ``path``."""
    path = Path(path)
    return path.with_name(f"{path.stem}.previous{path.suffix}")


def save(state, path, *, keep=True):
    """Write ``state`` (tensors, numbers, strings, lists, dicts) to ``path`` atomically; ``keep`` the one before, too.

    A kill at any moment leaves at least one whole checkpoint: the new file is complete on disk before it takes the
    name. Raises OSError, and leaves no part of it behind, where it cannot be written.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(path.name + ".new")
    try:
        with open(fresh, "wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
    except (OSError, RuntimeError) as error:  # PyTorch's writer says RuntimeError where the disk is full
        fresh.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename:
            raise
        raise OSError(errno.ENOSPC, "cannot be written; is the disk full?", str(path)) from error
    if keep and path.exists():
        os.replace(path, previous(path))
    os.replace(fresh, path)


def load(path, device="cpu"):
    """``(state, note)``: the newest readable checkpoint at ``path`` and a remark; ``(None, "")`` without one.

    Read with ``weights_only=True``: a checkpoint cannot run code. ``note`` is empty when the newest one was whole; a
    damaged newest one is passed over for the one before, and the note says so. Raises CheckpointDamaged when none can
    be read.
    """
    candidates = [candidate for candidate in (Path(path), previous(path)) if candidate.exists()]
    failures = []
    for candidate in candidates:
        try:
            state = torch.load(candidate, map_location=device, weights_only=True)
        except Exception as error:  # torch raises RuntimeError, EOFError, UnpicklingError or OSError for a damaged file
            failures.append(f"{candidate} cannot be read ({type(error).__name__})")
            continue
        return state, f"{failures[0]}; continuing from {candidate.name} instead." if failures else ""
    if failures:
        raise CheckpointDamaged(f"{'; '.join(failures)}. Delete the folder {Path(path).parent} to start this run anew.")
    return None, ""


def remove(path):
    """Delete the checkpoint at ``path``, the one before it and any half-written one."""
    for leftover in (Path(path), previous(path), Path(path).with_name(Path(path).name + ".new")):
        leftover.unlink(missing_ok=True)
