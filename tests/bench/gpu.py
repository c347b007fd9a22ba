"""Tests and benchmarks on a GPU, a line per benchmark in the history; without a GPU a sentence, and no change."""

import subprocess
import sys
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]


def main():
    if not torch.cuda.is_available():
        print("No CUDA device answers, so nothing was measured and nothing was changed.")
        return 0
    run = [sys.executable, "-m", "pytest", "-q"]
    failed = subprocess.run([*run, "-m", "gpu", "tests"], cwd=ROOT).returncode
    bench = ["tests/bench", "-o", "python_files=bench_*.py", "-o", "addopts=", "--benchmark-quiet", "--device", "cuda"]
    return subprocess.run([*run, *bench, "--history", "book/ledger/bench.jsonl"], cwd=ROOT).returncode or failed


if __name__ == "__main__":
    sys.exit(main())
