"""Detection losses against torchvision's SSD, plain formulas and the mistakes of earlier code."""

import inspect
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torchvision.models.detection.ssd import SSD

from stkd_utils.detection import losses
from stkd_utils.losses import kl_per_sample, total

WEIGHTS = {"hard_weight": 0.5, "soft_weight": 0.5}
UNIT = {"hard_weight": 1.0, "soft_weight": 1.0}
quick = settings(max_examples=25, deadline=None)
seeds, taus = st.integers(0, 2**32), st.floats(0.5, 20)


def draw(images=3, priors=40, classes=4, objects=0.1, scale=3.0, seed=0, dtype=torch.float64):
    """Outputs of student and teacher, labels and box offsets; each prior is an object with probability ``objects``."""
    generator = torch.Generator().manual_seed(seed)
    outputs_s, outputs_t = scale * torch.randn(2, images, priors, classes + 5, generator=generator, dtype=dtype)
    labels = torch.randint(1, classes + 1, (images, priors), generator=generator)
    labels = labels.where(torch.rand(images, priors, generator=generator) < objects, 0)
    return outputs_s, outputs_t, labels, torch.randn(images, priors, 4, generator=generator, dtype=dtype)


def boxes(count, generator):
    corner, size = torch.rand(2, count, 2, generator=generator)
    return torch.cat([corner, corner + 0.1 + size], dim=1)


@quick
@given(seeds, st.integers(1, 4), st.sampled_from([0.0, 0.01, 0.05]), st.integers(0, 4))
def test_values_and_gradients_are_those_of_torchvision(seed, images, objects, negatives):
    generator = torch.Generator().manual_seed(seed)
    outputs, _, labels, _ = draw(images, priors=200, objects=objects, seed=seed, dtype=torch.float32)
    priors, truths = boxes(200, generator), [boxes(3, generator) for _ in range(images)]
    classes = torch.randint(1, 5, (images, 3), generator=generator)
    matched = torch.randint(3, labels.shape, generator=generator).where(labels > 0, -1)
    reference = SSD(nn.Identity(), None, (8, 8), 5, head=nn.Identity(), positive_fraction=1 / (1 + negatives))
    ours, theirs = outputs.clone().requires_grad_(), outputs.clone().requires_grad_()
    expected = reference.compute_loss(
        [{"boxes": objects, "labels": numbers} for objects, numbers in zip(truths, classes, strict=True)],
        {"bbox_regression": theirs[..., :4], "cls_logits": theirs[..., 4:]},
        [priors] * images,
        list(matched),
    )
    labels = classes.gather(1, matched.clamp_min(0)).where(matched >= 0, 0)
    found = [objects[row.clamp_min(0)] for objects, row in zip(truths, matched, strict=True)]
    offsets = torch.stack([reference.box_coder.encode_single(objects, priors) for objects in found])
    terms = losses.multibox(ours, labels, offsets, negatives=negatives)
    torch.testing.assert_close(terms["hard"], expected["classification"])
    torch.testing.assert_close(terms["box"], expected["bbox_regression"])
    total(terms).backward()
    sum(expected.values()).backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


def plain_mask(logits, labels, negatives):
    """Hard negatives, picked image by image from a sorted list of Python numbers."""
    mask = labels > 0
    for row, classes, chosen in zip(torch.log_softmax(logits, -1)[..., 0].tolist(), labels.tolist(), mask, strict=True):
        background = sorted((value, prior) for prior, value in enumerate(row) if not classes[prior])
        for _, prior in background[: negatives * sum(label > 0 for label in classes)]:
            chosen[prior] = True
    return mask


@quick
@given(seeds, st.sampled_from([0.0, 0.02, 0.1, 0.5, 1.0]), st.integers(0, 4))
def test_the_hardest_negatives_are_mined_in_each_image(seed, objects, negatives):
    outputs, _, labels, _ = draw(seed=seed, objects=objects)
    logits = outputs[..., 4:]
    assert torch.equal(losses.mined(logits, labels, negatives), plain_mask(logits, labels, negatives))


def test_priors_of_equal_loss_are_mined_in_their_order():
    labels, logits = torch.zeros(1, 3000, dtype=torch.int64), torch.zeros(1, 3000, 4)
    labels[0, 4], logits[0, ::2, 0] = 2, -1.0
    assert losses.mined(logits, labels)[0].nonzero().flatten().tolist() == [0, 2, 4, 6]


def test_one_image_does_not_lend_its_negatives_to_another():
    outputs, _, labels, _ = draw(images=2)
    labels[1] = 0
    mask = losses.mined(outputs[..., 4:], labels)
    assert mask[0].sum() == 4 * (labels[0] > 0).sum() > 0 and not mask[1].any()


def plain_terms(outputs_s, outputs_t, labels, offsets, tau, background_weight, margin):
    """The five unit-weight terms for float64, prior by prior."""
    mask = losses.mined(outputs_s[..., 4:], labels)
    p_s, p_t = (torch.softmax(outputs[..., 4:] / tau, -1) for outputs in (outputs_s, outputs_t))
    hard = box = soft = bound = 0.0
    for place in mask.nonzero().tolist():
        image, prior = place
        label = labels[image, prior]
        hard -= torch.log_softmax(outputs_s[image, prior, 4:], -1)[label].item()
        for c, (s, t) in enumerate(zip(p_s[image, prior].tolist(), p_t[image, prior].tolist(), strict=True)):
            soft += (background_weight if c == 0 else 1.0) * (t * math.log(t / s) - t + s)
        if label > 0:
            gap_s, gap_t = (o[image, prior, :4] - offsets[image, prior] for o in (outputs_s, outputs_t))
            box += sum(0.5 * g * g if abs(g) < 1 else abs(g) - 0.5 for g in gap_s.tolist())
            bound += (gap_s @ gap_s).item() if gap_s @ gap_s + margin > gap_t @ gap_t else 0.0
    count = max(1, int((labels > 0).sum()))
    sums = {"hard": hard, "box": box, "soft": tau**2 * soft, "bound": bound}
    hint = (outputs_s[..., 4:] - outputs_t[..., 4:]).square().mean().item()
    return {**{name: value / count for name, value in sums.items()}, "hint": hint}


@quick
@given(seeds, taus, st.floats(0, 3), st.floats(0, 5), st.sampled_from([0.0, 0.1, 0.9]))
def test_values_equal_the_plain_formulas(seed, tau, background_weight, margin, objects):
    case = draw(seed=seed, objects=objects, scale=1.5)
    weights = {"hard_weight": 0.3, "soft_weight": 0.7, "bound_weight": 0.2, "hint_weight": 0.9}
    terms = losses.distil(*case, tau, **weights, background_weight=background_weight, bound_margin=margin)
    expected = plain_terms(*case, tau, background_weight, margin)
    assert list(terms) == ["hard", "box", "soft", "bound", "hint"]
    for name, term in terms.items():
        assert term.item() == pytest.approx(weights.get(f"{name}_weight", 1.0) * expected[name], rel=1e-7, abs=1e-9)


def test_hard_and_box_are_those_of_training_without_a_teacher():
    outputs_s, outputs_t, labels, offsets = draw()
    terms = losses.distil(outputs_s, outputs_t, labels, offsets, 4.0, **WEIGHTS)
    alone = losses.multibox(outputs_s, labels, offsets, hard_weight=0.5)
    assert {name: terms[name] for name in alone} == alone
    assert losses.multibox(outputs_s, labels, offsets)["hard"] == 2 * alone["hard"]


@quick
@given(seeds, taus, st.floats(0, 30), st.floats(0, 10))
def test_divergence_is_never_negative_whatever_the_weight(seed, tau, scale, weight):
    outputs_s, outputs_t, *_ = draw(seed=seed, scale=scale)
    assert losses.divergence(outputs_s[..., 4:], outputs_t[..., 4:], tau, weight).min() >= -1e-12


@quick
@given(seeds, taus, st.floats(0, 30), st.floats(0, 10), st.floats(-50, 50))
def test_divergence_and_its_gradient_are_zero_at_equal_distributions(seed, tau, scale, weight, shift):
    logits = draw(seed=seed, scale=scale)[0][..., 4:]
    assert (losses.divergence(logits, logits.clone(), tau, weight) == 0).all()
    student = (logits + shift).requires_grad_()
    found = losses.divergence(student, logits, tau, weight)
    found.sum().backward()
    assert found.abs().max() <= 1e-12 and student.grad.abs().max() <= 1e-12


def test_divergence_is_above_zero_at_different_distributions():
    logits_s, logits_t = torch.tensor([[0.0, 0.0], [3.0, 0.0]]), torch.tensor([[0.1, 0.0], [0.0, 3.0]])
    assert (losses.divergence(logits_s, logits_t, 1.0, 1.5) > 0).all()


@quick
@given(seeds, taus, st.floats(0, 10))
def test_divergence_without_weights_is_kullback_leibler(seed, tau, scale):
    logits_s, logits_t = (outputs[0, :, 4:] for outputs in draw(seed=seed, scale=scale)[:2])
    expected = kl_per_sample(logits_s, logits_t, tau)
    torch.testing.assert_close(losses.divergence(logits_s, logits_t, tau, 1.0), expected, rtol=1e-9, atol=1e-12)


def test_the_plain_weighted_sum_would_be_negative():
    p_t, p_s = torch.tensor([0.5, 0.5], dtype=torch.float64), torch.tensor([0.6, 0.4], dtype=torch.float64)
    assert (torch.tensor([1.5, 1.0]) * p_t * (p_t / p_s).log()).sum() < -0.02
    assert losses.divergence(p_s.log(), p_t.log(), 1.0, 1.5) > 0.02


def test_trap_D5_each_box_is_bounded_by_its_own_teacher():
    labels, target = torch.tensor([[1, 1, 0]]), torch.zeros(1, 3, 4)
    outputs_s, outputs_t = torch.zeros(2, 1, 3, 6)
    outputs_s[0, :, 0], outputs_t[0, :, 0] = torch.tensor([1.0, 3.0, 9.0]), torch.tensor([2.0, 1.0, 0.0])
    first, second = (
        losses.distil(outputs_s, outputs_t, labels, target, 1.0, **UNIT, bound_weight=1.0, bound_margin=margin)["bound"]
        for margin in (0.0, 3.5)
    )
    assert first == 9 / 2, "the first box beats its teacher, the third is background"
    assert second == (1 + 9) / 2, "a margin asks for more than the teacher's distance"


def test_bound_is_silent_where_the_student_is_better():
    outputs_s, outputs_t, labels, offsets = draw()
    outputs_s[..., :4] = offsets + 0.5 * (outputs_t[..., :4] - offsets)
    assert losses.distil(outputs_s, outputs_t, labels, offsets, 4.0, **UNIT)["bound"] == 0


@pytest.mark.parametrize("empty", ["one image", "all images"])
def test_traps_D6_D15_images_without_objects_train(empty):
    outputs_s, outputs_t, labels, offsets = draw(objects=0.2)
    labels[: 1 if empty == "one image" else None] = 0
    offsets = offsets.where(labels[..., None] > 0, -math.inf)
    outputs_s.requires_grad_()
    terms = losses.distil(outputs_s, outputs_t, labels, offsets, 4.0, **WEIGHTS, hint_weight=0.0)
    total(terms).backward()
    assert all(torch.isfinite(term) for term in terms.values()) and torch.isfinite(outputs_s.grad).all()
    assert (outputs_s.grad[0] == 0).all()
    assert (outputs_s.grad != 0).any() == (empty == "one image")
    assert empty == "one image" or set(term.item() for term in terms.values()) == {0.0}


@pytest.mark.parametrize("size", [1e2, 1e4, 1e6])
@pytest.mark.parametrize("tau", [0.5, 20.0])
def test_trap_D7_rows_of_very_different_magnitude_stay_finite(size, tau):
    outputs_s, outputs_t, labels, offsets = draw(objects=0.5, scale=1.0, dtype=torch.float32)
    outputs_s[:, ::2, 4:] *= size
    outputs_t[:, ::3, 4:] *= -size
    outputs_s.requires_grad_()
    terms = losses.distil(outputs_s, outputs_t, labels, offsets, tau, **WEIGHTS)
    total(terms).backward()
    assert all(torch.isfinite(term) for term in terms.values()) and torch.isfinite(outputs_s.grad).all()


def test_a_small_row_next_to_a_huge_one_keeps_its_divergence():
    huge, small = [1e6, 0.0, -1e6], [0.2, 0.1, 0.0]
    logits_s, logits_t = torch.tensor([huge, small]), torch.tensor([huge, [0.0, 0.1, 0.2]])
    alone = losses.divergence(logits_s[1:], logits_t[1:], 1.0, 1.5)
    assert alone > 0.01 and losses.divergence(logits_s, logits_t, 1.0, 1.5).tolist() == [0.0, alone.item()]


def test_gradcheck():
    outputs_s, outputs_t, labels, offsets = draw(images=2, priors=6, objects=0.4, scale=1.0)
    tau = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)

    def loss(outputs_s, tau):
        return total(losses.distil(outputs_s, outputs_t, labels, offsets, tau, **WEIGHTS))

    assert torch.autograd.gradcheck(loss, (outputs_s.requires_grad_(), tau))


def test_no_gradient_reaches_the_teacher():
    outputs_s, outputs_t, labels, offsets = draw()
    outputs_s.requires_grad_()
    outputs_t.requires_grad_()
    total(losses.distil(outputs_s, outputs_t, labels, offsets, 4.0, **WEIGHTS)).backward()
    assert outputs_t.grad is None and outputs_s.grad.abs().sum() > 0


def test_teacher_outputs_from_inference_mode_are_accepted():
    outputs_s, outputs_t, labels, offsets = draw()
    with torch.inference_mode():
        inferred = outputs_t * 1.0
    found = losses.distil(outputs_s.requires_grad_(), inferred, labels, offsets, 1.0, **WEIGHTS)
    total(found).backward()
    assert found == losses.distil(outputs_s, outputs_t, labels, offsets, 1.0, **WEIGHTS)


def test_inputs_stay_as_they_were():
    case = draw()
    versions = [part._version for part in case]
    losses.distil(*case, 4.0, **WEIGHTS)
    assert versions == [part._version for part in case]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(dtype):
    outputs_s, outputs_t, labels, offsets = draw(dtype=torch.float32)
    outputs_s, outputs_t, offsets = outputs_s.to(dtype), outputs_t.to(dtype), offsets.to(dtype)
    terms = losses.distil(outputs_s, outputs_t, labels, offsets, 4.0, **WEIGHTS)
    assert terms == losses.distil(outputs_s.float(), outputs_t.float(), labels, offsets.float(), 4.0, **WEIGHTS)


def test_tau_squared_and_the_weights_belong_to_their_terms():
    case = draw(images=1, priors=12, objects=0.4)
    unit = losses.distil(*case, 3.0, **UNIT, bound_weight=1.0, hint_weight=1.0)
    weighted = losses.distil(*case, 3.0, hard_weight=2.0, soft_weight=3.0, bound_weight=5.0, hint_weight=7.0)
    factors = {"hard": 2, "box": 1, "soft": 3, "bound": 5, "hint": 7}
    assert all(weighted[name].item() == pytest.approx(factor * unit[name].item()) for name, factor in factors.items())
    parameters = inspect.signature(losses.distil).parameters
    assert all(parameters[name].default is inspect.Parameter.empty for name in ("tau", *WEIGHTS))


@pytest.mark.parametrize("tau", [0, -1.0, math.nan, math.inf, torch.tensor([4.0])])
def test_a_useless_tau_is_refused(tau):
    with pytest.raises(ValueError, match=r"^The temperature tau must be one finite number above 0; got .*\.$"):
        losses.distil(*draw(), tau, **WEIGHTS)


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        (0, lambda x: x[0], r"^Outputs must have the shape .* got \(40, 9\)\.$"),
        (0, lambda x: x[:0], r"^Outputs must have the shape .* got \(0, 40, 9\)\.$"),
        (0, lambda x: x[..., :5], r"^Outputs must have the shape .* got \(3, 40, 5\)\.$"),
        (1, lambda x: x[:, :39], r"^Student and teacher must give outputs .* \(3, 40, 9\) and \(3, 39, 9\)\.$"),
        (2, lambda x: x[:1], r"^Targets must be labels of type int64 .* got int64 \(1, 40\) and \(3, 40, 4\)\.$"),
        (2, lambda x: x.float(), r"^Targets must be labels of type int64 .* got float32 .*\.$"),
        (2, lambda x: x + 4, r"^Labels must lie between 0 and 4 .* got 4 to 8\.$"),
        (2, lambda x: x - 1, r"^Labels must lie between 0 and 4 .* got -1 to 3\.$"),
        (3, lambda x: x[:, :1], r"^Targets must be labels .* and \(3, 1, 4\)\.$"),
    ],
)
def test_wrong_inputs_are_refused_in_one_sentence(part, change, message):
    case = list(draw(objects=0.3))
    case[part] = change(case[part])
    with pytest.raises(ValueError, match=message):
        losses.distil(*case, 4.0, **WEIGHTS)
