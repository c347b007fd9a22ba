"""Helpers of the executable book on knowledge distillation with a stochastic temperature.

Where a line belongs. Parts know nothing of `training`, nor it of `experiments` and `notebooks`, which stand on it:

* data: `sources` (which data sets there are) and `readers`, `data`, `splits`, `augmentation`
* networks: `models`; `compute` counts what they cost, `quantise` and `inference` what using them costs
* losses, pure functions: `losses`, `teacher_free`, `rectification`; of `temperature` their tau
* one step: `objectives` (what a student learns from a batch; those with modules of their own: `contrastive`,
  `mutual`), `engine` (how fast), `answering` (in how many bits a teacher does), `stored` (answers kept on
  disk)
* a training, with its `protocol`, `validation`, `metrics`, `checkpoint`, `seeding`, `sharing`, `progress`,
  `scalars`; `profiling` stands on it and says where the time goes
* time and energy: `clock`, `carbon` (the meter), `hardware`, `counters`, `intensities`, `receipt`
* a run and its record (settings, running, recording): `environment`; `detection` is the second task
* what runs say: `ledger` and `ledger_files` (rows), `procedures` (ways to a student), `stats` (intervals)
* pages, beside their execution: `plots`, `reliability`, `slider`, `tables`
* the command line: ``__main__`` and `catalogue`
* a benchmark belongs in tests/bench, outside the package
"""

__version__ = "0.1.0"

from . import environment  # which reads the version

if environment.memory_counts():
    environment.give_memory_back()
