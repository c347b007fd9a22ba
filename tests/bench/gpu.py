"""Tests and benchmarks on a GPU, a line per benchmark in the history; without a GPU a sentence, and no change."""

import subprocess
import sys
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]
HISTORY = "book/ledger/bench.jsonl"


def main():
    if not torch.cuda.is_available():
        print("No CUDA device answers, so nothing was measured and nothing was changed.")
        return 0
    run = [sys.executable, "-m", "pytest", "-q"]
    bench = ["tests/bench", "-o", "python_files=bench_*.py", "-o", "addopts=", "--timeout", "3600", "--benchmark-quiet"]
    record = ["--device", "cuda", "--history", HISTORY]
    try:
        failed = subprocess.run([*run, "-m", "gpu", "tests"], cwd=ROOT).returncode
        return subprocess.run([*run, *bench, *record], cwd=ROOT).returncode or failed
    except KeyboardInterrupt:
        print(f"\nInterrupted. What was measured until now stands in {HISTORY}.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
