"""One step of a detector's distillation, against the same networks trained as torchvision's SSD is: image by image."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.ssd import SSD
from torchvision.ops import box_iou

from stkd_utils import engine
from stkd_utils.detection import boxes, losses, models

FULL = {"size": 300, "classes": 20, "batch": 4, "width": 1.0}
SMALL = {"size": 64, "classes": 3, "batch": 2, "width": 0.125}
# times the images per second of the reference: its teacher out of the graph, and in it as in the original, whose 2.42 s
# were to become 0.75 s
FLOORS = {False: 2.0, True: 2.42 / 0.75}
WEIGHTS = {"hard_weight": 0.5, "soft_weight": 0.5}
TAU = 4.0


class Step:
    """A step of the product: the teacher folded and without a graph, low precision, the whole batch matched at once."""

    def __init__(self, size, classes, batch, width, device, precision="auto"):
        teacher = models.build("ssd300vgg16", classes, size=size, width=width, seed=1)
        self.teacher = engine.frozen(teacher, precision, device)
        student = models.build("mobilenetv2ssdlite", classes, size=size, width=width, seed=0)
        self.student = student.to(device, memory_format=torch.channels_last).train()
        self.optimiser = torch.optim.Adam(self.student.parameters(), 1e-4, fused=True)
        self.images, self.boxes, self.labels = scene(batch, size, classes, device)
        self.device, self.precision = device, precision

    def __call__(self):
        self.optimiser.zero_grad()
        with engine.autocast(self.device, self.precision):
            outputs_s = self.student(self.images.contiguous(memory_format=torch.channels_last))
        labels, matched = boxes.match(self.boxes, self.labels, self.student.priors)
        offsets = boxes.encode(matched, self.student.priors)
        terms = losses.distil(outputs_s, self.teacher(self.images), labels, offsets, TAU, **WEIGHTS)
        sum(terms.values()).backward()
        self.optimiser.step()


class Reference:
    """The same step in ordinary code: float32, a graph of the teacher, torchvision's loops over the images.

    Where ``as_published``, the gradient goes on through that graph and piles up in the teacher, as in the original.
    """

    def __init__(self, size, classes, batch, width, device, as_published=False):
        self.as_published = as_published
        self.teacher = models.build("ssd300vgg16", classes, size=size, width=width, seed=1).to(device).eval()
        self.student = models.build("mobilenetv2ssdlite", classes, size=size, width=width, seed=0).to(device).train()
        self.optimiser = torch.optim.Adam(self.student.parameters(), 1e-4)
        self.images, found, labels = scene(batch, size, classes, device)
        self.targets = [{"boxes": b[t > 0], "labels": t[t > 0]} for b, t in zip(found, labels, strict=True)]
        generator = DefaultBoxGenerator([[2, 3]] * boxes.MOST_MAPS)
        self.ssd = SSD(nn.Identity(), generator, (size, size), classes + 1, head=nn.Identity())

    def __call__(self):
        self.optimiser.zero_grad()
        outputs_s, outputs_t = self.student(self.images), self.teacher(self.images)
        outputs_t = outputs_t if self.as_published else outputs_t.detach()
        priors = [self.student.priors] * len(self.images)
        owners = [
            self.ssd.proposal_matcher(box_iou(target["boxes"], prior))
            for target, prior in zip(self.targets, priors, strict=True)
        ]
        heads = {"bbox_regression": outputs_s[..., :4], "cls_logits": outputs_s[..., 4:]}
        terms = self.ssd.compute_loss(self.targets, heads, priors, owners)
        mimicry = self.mimicry(outputs_s, outputs_t, owners)
        loss = terms["bbox_regression"] + 0.5 * terms["classification"] + 0.5 * mimicry
        loss.backward()
        self.optimiser.step()
        return loss.item()

    def mimicry(self, outputs_s, outputs_t, owners):
        """Softened divergence, teacher-bounded regression and hint of Chen et al. 2017, one image after the other."""
        soft = bound = positives = 0
        for one_s, one_t, owner, target in zip(outputs_s, outputs_t, owners, self.targets, strict=True):
            log_s, p_t = F.log_softmax(one_s[:, 4:] / TAU, 1), F.softmax(one_t[:, 4:] / TAU, 1)
            found = owner >= 0
            soft = soft + F.kl_div(log_s, p_t, reduction="none").sum(1)[found].sum() * TAU**2
            goal = self.ssd.box_coder.encode_single(target["boxes"][owner[found]], self.student.priors[found])
            gap_s, gap_t = ((one[found, :4] - goal).square().sum(1) for one in (one_s, one_t))
            bound, positives = bound + gap_s[gap_s > gap_t].sum(), positives + int(found.sum())
        return (soft + bound) / max(1, positives) + F.mse_loss(outputs_s[..., 4:], outputs_t[..., 4:])


def scene(batch, size, classes, device):
    """Random images with 1 to 5 objects: (N, 3, S, S), boxes (N, 5, 4) and labels (N, 5), padded with zeros."""
    draw = torch.Generator().manual_seed(0)
    images = torch.randn(batch, 3, size, size, generator=draw)
    extent = 0.1 + 0.4 * torch.rand(batch, 5, 2, generator=draw)
    start = torch.rand(batch, 5, 2, generator=draw) * (1 - extent)
    real = torch.arange(5) <= torch.randint(5, (batch, 1), generator=draw)
    labels = torch.randint(1, classes + 1, (batch, 5), generator=draw).where(real, 0)
    found = torch.cat((start, start + extent), dim=2).where(real[..., None], 0.0)
    return images.to(device), found.to(device), labels.to(device)


@pytest.mark.parametrize("as_published", FLOORS)
def test_step(race, quick, device, as_published):
    shape = (SMALL if quick else FULL) | {"device": device}
    low = engine.resolve("auto", device) == "bfloat16"
    race(
        "ssd300vgg16 to mobilenetv2ssdlite" + (": as published" if as_published else ""), "detection", Step(**shape),
        Reference(**shape, as_published=as_published), images=shape["batch"],
        floor=FLOORS[as_published] if low else None,
    )  # fmt: skip
