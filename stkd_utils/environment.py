"""What code ran, with which packages: the part of a record that lets somebody else repeat it."""

import ctypes
import hashlib
import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path

from . import __version__

PACKAGE = Path(__file__).parent
M_MMAP_THRESHOLD = -3  # of glibc's malloc.h
PACKAGES = (
    "torch", "torchvision", "numpy", "scikit-learn", "carbontracker", "ptflops", "torchmetrics", "pycocotools",
    "torchao",
)  # fmt: skip

# Source that changes how results look, not what they are: editing it does not make finished runs stale.
NOT_RESULTS = {
    "__main__.py", "notebooks.py", "plots.py", "slider.py", "stats.py", "progress.py", "receipt.py", "ledger.py",
    "ledger_files.py", "procedures.py", "tables.py", "profiling.py", "clock.py",
    "detection/pictures.py", "scalars.py", "catalogue.py", "inference.py", "reliability.py",
}  # fmt: skip


def give_way():
    """Let threads that wait for each other sleep soon, for this process and those that it starts.

    By default GNU's OpenMP, which PyTorch computes with on Linux, lets them spin: where something else has a core, two
    threads then take many times as long as one for a small network. Call it before torch is imported; whoever has set
    OMP_WAIT_POLICY or GOMP_SPINCOUNT keeps that.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")


def memory_counts():
    """Whether memory is short: the environment variable STKD_SMALL_MEMORY says so, and less of it goes before time."""
    return bool(os.environ.get("STKD_SMALL_MEMORY"))


def give_memory_back():
    """Let what this process frees go back to the system at once, in blocks of 4 MiB and more, which come as huge pages.

    By default glibc, on Linux, keeps freed blocks of up to 32 MiB at hand for the next step. Done when the package is
    imported, where `memory_counts`; whoever has set MALLOC_MMAP_THRESHOLD_ or THP_MEM_ALLOC_ENABLE keeps that.
    """
    if not sys.platform.startswith("linux"):
        return
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # PyTorch reads it when it first allocates
    allocator = ctypes.CDLL(None)
    if "MALLOC_MMAP_THRESHOLD_" not in os.environ and hasattr(allocator, "mallopt"):  # musl has none
        allocator.mallopt(M_MMAP_THRESHOLD, 4 * 2**20)


def check():
    """Raise RuntimeError with one sentence if torch and torchvision were not built for each other."""
    import torch

    try:
        import torchvision  # noqa: F401
    except Exception as error:
        version = importlib.metadata.version("torchvision")
        raise RuntimeError(
            f"torchvision {version} does not work with torch {torch.__version__} ({error}); install a pair that "
            "belongs together with `pip install --upgrade --force-reinstall torch torchvision`."
        ) from error


def packages():
    """Versions of Python and of the packages that results depend on, a dict of strings."""
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def code_digest():
    """Hash (16 hex digits) of the package source that determines results; a run's own settings are in its record."""
    digest = hashlib.sha256()
    for path in sorted(PACKAGE.rglob("*")):
        name = path.relative_to(PACKAGE).as_posix()
        if path.suffix == ".py" and name not in NOT_RESULTS:
            digest.update(name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def code():
    """Version, git commit and whether it was modified (None where there is no git checkout), and `code_digest`."""
    status = _git("status", "--porcelain", "--", "stkd_utils")
    return {
        "version": __version__,
        "commit": _git("rev-parse", "HEAD") or None,
        "modified": bool(status) if status is not None else None,
        "digest": code_digest(),
    }


def _git(*arguments):
    if not (PACKAGE.parent / ".git").exists():
        return None
    try:
        done = subprocess.run(["git", *arguments], cwd=PACKAGE.parent, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
