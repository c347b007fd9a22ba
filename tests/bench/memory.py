"""Peak memory of a process that distils on a data set like CIFAR-100, of its imports (GiB), and seconds of a step.

As in a real run: all of the package is imported, the splits are built from 50,000 and 10,000 (random) images, some
steps are taken, and validation images are evaluated. Arguments: student, precision.
"""

import statistics
import sys

import harness
import torch

from stkd_utils import data, experiments, profiling, training  # noqa: F401 (a run imports experiments: memory)

STEPS = 4


def read(name, root, download):
    """What `data.read` gives for CIFAR-100, with random pixels."""
    draw = torch.Generator().manual_seed(0)
    learn, test = (
        data.Split(
            torch.randint(0, 256, (count, 3, 32, 32), generator=draw, dtype=torch.uint8), torch.arange(count) % 100
        )
        for count in (50_000, 10_000)
    )
    return learn, test, list(map(str, range(100)))


if __name__ == "__main__":
    student, precision = sys.argv[1:]
    imported, data.read = harness.peak_gib(), read
    product = profiling.Pass(student, precision=precision, dataset=data.load("cifar100"))
    taken = [harness.seconds(product) for _ in range(STEPS)]
    some = product.dataset.val.take(slice(1024))  # some batches: more take longer, and no more memory
    training.evaluate(product.trainers[0].model, some, product.dataset, precision=precision)
    print(harness.peak_gib(), imported, statistics.median(taken[1:]))
