"""The reference of all ratios: distillation as every tutorial and the paper's code write it. Not to be made faster."""

import itertools

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from stkd_utils import models
from stkd_utils.models import layers

MEAN = STD = (0.5, 0.5, 0.5)


def pipeline():
    """One PIL image -> one normalised view: the paper's augmentation, image by image."""
    steps = [transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip(), transforms.RandomRotation(15)]
    return transforms.Compose([*steps, transforms.ToTensor(), transforms.Normalize(MEAN, STD)])


def arrays(count, size=32):
    """``count`` random images as a data set holds them: uint8 (count, size, size, 3), a NumPy array."""
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def views(images, transform):
    """A batch of views, one image after the other: float32 (count, 3, size, size)."""
    return torch.stack([transform(Image.fromarray(image)) for image in images])


class Images(Dataset):
    """As many random images as CIFAR-100 has to learn from, each made from one of ``batch``, as views."""

    def __init__(self, batch, size, classes):
        self.images, self.transform = arrays(batch, size), pipeline()
        self.transform.transforms[0].size = (size, size)
        self.labels = torch.randint(0, classes, (batch,), generator=torch.Generator().manual_seed(0)).tolist()

    def __len__(self):
        return 50_000

    def __getitem__(self, number):
        number %= len(self.images)
        return self.transform(Image.fromarray(self.images[number])), self.labels[number]


class Step:
    """One step of distillation: default memory format, float32, the teacher in a graph, the loss read at every step.

    Networks are of PyTorch's own layers. Views are made by ``workers`` processes of a `DataLoader` beside the step, or,
    with 0, image by image before it. ``reference`` goes into the row of what is timed against it.
    """

    reference = 2  # raised when this class changes, as ratios to another one do not compare; 1 had this book's layers

    def __init__(self, student, *, classes=100, size=32, batch=128, width=1.0, device="cpu", workers=0):
        self.device, self.batches = device, self._batches(Images(batch, size, classes), batch, workers)
        self.student = layers.plain(models.build(student, classes, width=width, seed=0)).to(device)
        self.teacher = layers.plain(models.build("resnet18", classes, width=width, seed=1)).to(device).eval()
        self.optimiser = torch.optim.SGD(self.student.parameters(), 0.01, momentum=0.9, weight_decay=5e-4)

    def _batches(self, images, batch, workers):
        for _ in itertools.count():
            yield from DataLoader(images, batch, num_workers=workers)

    def __call__(self):
        images, labels = (tensor.to(self.device) for tensor in next(self.batches))
        self.optimiser.zero_grad()
        logits_s, logits_t = self.student(images), self.teacher(images).detach()
        soft = F.kl_div(F.log_softmax(logits_s / 4, 1), F.softmax(logits_t / 4, 1), reduction="batchmean") * 16
        loss = 0.05 * F.cross_entropy(logits_s, labels) + 0.95 * soft
        loss.backward()
        self.optimiser.step()
        return loss.item()
