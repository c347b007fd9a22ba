"""What the tests of several files need: random logits, and the comparison of two runs."""

import torch


def draw(batch=4, classes=5, scale=3.0, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    logits_s, logits_t = scale * torch.randn(2, batch, classes, generator=generator, dtype=dtype)
    return logits_s, logits_t, torch.randint(classes, (batch,), generator=generator)


def equal(one, other):
    """Whether two runs ended the same, to the last bit, whatever they cost."""
    return same_student(one, other) and one.record["id"] == other.record["id"]


def same_student(one, other):
    """Whether two runs, whatever was asked of them, ended with the same student, to the last bit."""
    for file in ("history.csv", "taus.csv"):
        assert (one.folder / file).read_bytes() == (other.folder / file).read_bytes()
    a, b = (torch.load(run.folder / "weights.pt", weights_only=True) for run in (one, other))
    for epoch in ("last", "chosen"):
        assert all(torch.equal(value, b[epoch][key]) for key, value in a[epoch].items())
    return one.record["result"] == other.record["result"]

# words of the command line for a training of no time
TINY = [word for key in ("train_limit=64", "val_limit=32", "test_limit=32", "epochs=1") for word in ("--set", key)]
