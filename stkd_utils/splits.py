"""A labelled set of images in memory, a stratified choice from it, and batches of it."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True, eq=False)
class Split:
    """Images uint8 (N, C, H, W) in RGB order and labels int64 (N,), both on one device."""

    images: torch.Tensor
    labels: torch.Tensor

    def __len__(self):
        return len(self.labels)

    def take(self, index):
        """The images and labels at ``index`` (positions or a mask), as a Split."""
        return Split(self.images[index], self.labels[index])

    def to(self, device):
        """The same Split on ``device``."""
        return Split(self.images.to(device), self.labels.to(device))


def order(split, batch_size, generator=None):
    """Iterator of positions int64 (B,) of the images of each batch, passing once over ``split``, on its device.

    In the order of the split, or shuffled by ``generator`` (a CPU generator). A shuffled pass is for training, so a
    last batch of a single image is left out: batch normalisation cannot use it.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size is at least 1; got {batch_size!r}.")
    if generator is None:
        positions = torch.arange(len(split))
    else:
        positions = torch.randperm(len(split), generator=generator)[: shown(len(split), batch_size)]
    yield from positions.to(split.labels.device).split(batch_size)


def shown(count, batch_size):
    """How many of ``count`` images a shuffled pass shows: all but one where that would be a batch of its own."""
    return count - 1 if batch_size > 1 and count % batch_size == 1 else count


def batches(split, batch_size, generator=None):
    """Iterator of (images uint8 (B, C, H, W), labels int64 (B,)) in the `order` that the same arguments give."""
    for positions in order(split, batch_size, generator):
        yield split.images[positions], split.labels[positions]


def stratified(labels, count, generator):
    """Positions, ascending, of ``count`` random items whose classes have the same shares as ``labels`` (N,).

    Each class gets its exact share rounded down or up: up where the fraction is largest, ties decided by chance.
    """
    sizes = torch.bincount(labels)
    quota = sizes * count
    take, fraction = quota // len(labels), quota % len(labels)
    by_chance = torch.randperm(len(sizes), generator=generator)
    by_fraction = by_chance[fraction[by_chance].argsort(descending=True, stable=True)]
    take[by_fraction[: count - int(take.sum())]] += 1
    shuffled = torch.randperm(len(labels), generator=generator)
    grouped = shuffled[labels[shuffled].argsort(stable=True)]
    rank = torch.arange(len(labels)) - (sizes.cumsum(0) - sizes).repeat_interleave(sizes)
    return grouped[rank < take.repeat_interleave(sizes)].sort().values
