"""Losses without a network as teacher, matched, standardised and rectified logits: closed forms and equalities."""

import math

import pytest
import torch
import torch.nn.functional as F
from helpers import draw
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from stkd_utils import losses, rectification, teacher_free

WEIGHTS = {"hard_weight": 0.05, "soft_weight": 0.95}
REG = {"hard_weight": 0.05, "reg_weight": 0.95, "correct_prob": 0.99}
taus = st.floats(0.5, 50)
quick = settings(max_examples=40, deadline=None)


@st.composite
def cases(draw_value):
    return draw(
        batch=draw_value(st.integers(1, 6)),
        classes=draw_value(st.integers(2, 12)),
        scale=draw_value(st.floats(0.1, 30)),
        seed=draw_value(st.integers(0, 2**32)),
    )


def close(one, other, rel=1e-9):
    assert one.item() == pytest.approx(other.item(), rel=rel, abs=1e-11)


# standardised logits


@quick
@given(cases())
def test_standardised_rows_have_mean_0_and_deviation_1(case):
    assume(case[0].std(1).min() > 0.02)
    z = losses.standardise(case[0])
    torch.testing.assert_close(z.mean(1), torch.zeros(len(z), dtype=z.dtype), rtol=0, atol=1e-9)
    torch.testing.assert_close(z.std(1, unbiased=False), torch.ones(len(z), dtype=z.dtype), rtol=0, atol=1e-3)


@quick
@given(cases(), taus, st.floats(0.5, 10), st.floats(-50, 50))
def test_size_and_offset_of_logits_do_not_matter_to_the_standardised_soft_term(case, tau, factor, shift):
    logits_s, logits_t, labels = case
    assume(logits_t.std(1).min() > 0.02)
    soft = losses.hinton_standardised(logits_s, logits_t, labels, tau, **WEIGHTS)["soft"]
    other = losses.hinton_standardised(logits_s, factor * logits_t + shift, labels, tau, **WEIGHTS)["soft"]
    assert other.item() == pytest.approx(soft.item(), rel=1e-2, abs=1e-4)
    assert losses.hinton_standardised(logits_t, factor * logits_t, labels, 1.0, **WEIGHTS)["soft"] < 1e-5


@quick
@given(cases(), taus)
def test_trap_P6_standardising_changes_the_soft_term_and_nothing_else(case, tau):
    logits_s, logits_t, labels = case
    terms, plain = losses.hinton_standardised(*case, tau, **WEIGHTS), losses.hinton(*case, tau, **WEIGHTS)
    assert terms["hard"] == plain["hard"]
    centred = [x - x.mean(1, keepdim=True) for x in (logits_s, logits_t)]
    z_s, z_t = (x / (x.square().mean(1, keepdim=True) + 1e-7).sqrt() for x in centred)
    close(terms["soft"], losses.hinton(z_s, z_t, labels, tau, **WEIGHTS)["soft"], rel=1e-6)


def test_equal_logits_in_a_row_give_a_uniform_target_and_finite_gradients():
    logits_s, logits_t, labels = draw()
    flat = torch.full_like(logits_s, 3.0, requires_grad=True)
    assert torch.equal(losses.standardise(flat), torch.zeros_like(flat))
    losses.total(losses.hinton_standardised(flat, logits_t, labels, 4.0, **WEIGHTS)).backward()
    assert flat.grad.isfinite().all()
    soft = losses.hinton_standardised(logits_s, torch.zeros_like(logits_t), labels, 4.0, **WEIGHTS)["soft"]
    uniform = torch.zeros_like(logits_s)
    close(soft, losses.hinton(losses.standardise(logits_s), uniform, labels, 4.0, **WEIGHTS)["soft"])


# logit matching


@quick
@given(cases())
def test_mse_is_the_mean_square_over_batch_and_classes_with_its_gradient(case):
    logits_s, logits_t, labels = case
    ours = logits_s.clone().requires_grad_()
    terms = losses.mse(ours, logits_t.requires_grad_(), labels, **WEIGHTS)
    rows = zip(logits_s.tolist(), logits_t.tolist(), strict=True)
    wanted = sum((s - t) ** 2 for one, other in rows for s, t in zip(one, other, strict=True)) / logits_s.numel()
    assert terms["soft"].item() == pytest.approx(0.95 * wanted, rel=1e-9)
    assert terms["hard"] == 0.05 * losses.cross_entropy(logits_s, labels)["hard"]
    terms["soft"].backward()
    torch.testing.assert_close(ours.grad, 0.95 * 2 * (logits_s - logits_t.detach()) / logits_s.numel())
    assert logits_t.grad is None


def test_mse_has_twice_the_gradient_of_a_very_large_tau_for_centred_logits():
    logits_s, logits_t, labels = (x - x.mean(1, keepdim=True) if x.dim() == 2 else x for x in draw(8, 10, 1.0))
    gradients = []
    for soft in (
        lambda x: losses.mse(x, logits_t, labels, **WEIGHTS)["soft"],
        lambda x: losses.hinton(x, logits_t, labels, 1e5, **WEIGHTS)["soft"],
    ):
        x = logits_s.clone().requires_grad_()
        soft(x).backward()
        gradients.append(x.grad)
    torch.testing.assert_close(gradients[0], 2 * gradients[1], rtol=1e-3, atol=1e-6)


# label smoothing


@quick
@given(cases(), st.floats(0, 1))
def test_label_smoothing_sums_to_that_of_torch(case, smoothing):
    logits_s, _, labels = case
    terms = teacher_free.label_smoothing(logits_s, labels, smoothing=smoothing)
    close(losses.total(terms), F.cross_entropy(logits_s, labels, label_smoothing=smoothing), rel=1e-9)


def test_label_smoothing_of_0_is_cross_entropy_and_of_1_knows_no_label():
    logits_s, _, labels = draw()
    assert teacher_free.label_smoothing(logits_s, labels, smoothing=0.0)["smooth"] == 0
    assert teacher_free.label_smoothing(logits_s, labels, smoothing=0.0)["hard"] == F.cross_entropy(logits_s, labels)
    close(*(losses.total(teacher_free.label_smoothing(logits_s, x, smoothing=1.0)) for x in (labels, labels.flip(0))))


# a teacher that is made up


@pytest.mark.parametrize("classes", [2, 10, 100])
def test_the_virtual_teacher_is_right_with_its_probability_and_else_uniform(classes):
    labels = torch.tensor([0, 1, 1])
    p = teacher_free.virtual_teacher(labels, classes, 0.99, torch.float64)
    torch.testing.assert_close(p.sum(1), torch.ones(3, dtype=torch.float64))
    assert torch.allclose(p.gather(1, labels[:, None]), torch.tensor(0.99, dtype=torch.float64))
    assert p[0, 1:].max() == p[0, 1:].min() == pytest.approx(0.01 / (classes - 1))


@pytest.mark.parametrize("classes, probability", [(1, 0.9), (10, 0), (10, 1), (10, 1.5)])
def test_an_impossible_virtual_teacher_is_refused(classes, probability):
    with pytest.raises(ValueError, match=r"^A virtual teacher needs two classes .* got .*\.$"):
        teacher_free.virtual_teacher(torch.tensor([0]), classes, probability)


@quick
@given(cases(), taus)
def test_published_reg_is_hinton_with_the_logarithms_of_the_virtual_teacher(case, tau):
    logits_s, _, labels = case
    virtual = teacher_free.virtual_teacher(labels, logits_s.shape[1], 0.99, torch.float64).log()
    terms = teacher_free.tfkd_reg(logits_s, labels, tau, **REG)
    plain = losses.hinton(logits_s, virtual, labels, tau, **WEIGHTS)
    assert (terms["hard"], terms["reg"]) == (plain["hard"], plain["soft"])


def test_published_reg_at_tau_1_is_a_kind_of_label_smoothing():
    """At tau 1 the gradient is that of smoothed labels: CE(p^d) and KL(p^d) differ by the entropy of p^d alone."""
    logits_s, _, labels = draw(classes=10)
    ours, torchs = logits_s.clone().requires_grad_(), logits_s.clone().requires_grad_()
    terms = teacher_free.tfkd_reg(ours, labels, 1.0, hard_weight=0.0, reg_weight=1.0, correct_prob=0.91)
    losses.total(terms).backward()
    F.cross_entropy(torchs, labels, label_smoothing=0.1).backward()
    torch.testing.assert_close(ours.grad, torchs.grad)


@pytest.mark.parametrize("classes, probability", [(100, 0.0105), (10, 0.1045)])
def test_trap_P8_as_coded_the_virtual_teacher_is_almost_uniform(classes, probability):
    labels, tau = torch.tensor([3]), 20
    uniform = torch.zeros(1, classes, dtype=torch.float64, requires_grad=True)
    weights = {"hard_weight": 0.0, "reg_weight": 1.0, "correct_prob": 0.99, "reg_multiplier": 1.0}
    teacher_free.tfkd_reg_as_coded(uniform, labels, tau, **weights)["reg"].backward()
    # the gradient of the divergence is the student's 1 / classes minus the target, by element mean
    target = 1 / classes - classes * uniform.grad[0, 3].item()
    others = math.exp((0.01 / (classes - 1)) / tau)
    assert target == pytest.approx(math.exp(0.99 / tau) / (math.exp(0.99 / tau) + (classes - 1) * others))
    assert round(target, 4) == probability


def test_trap_P8_as_coded_is_torchs_divergence_of_an_unsoftened_student():
    logits_s, _, labels = draw(batch=6, classes=7)
    virtual = teacher_free.virtual_teacher(labels, 7, 0.99, torch.float64)
    with pytest.warns(UserWarning, match="reduction: 'mean'"):
        expected = F.kl_div(torch.log_softmax(logits_s, 1), torch.softmax(virtual / 20, 1))
    terms = teacher_free.tfkd_reg_as_coded(logits_s, labels, 20, **REG, reg_multiplier=50)
    close(terms["reg"], 0.95 * 50 * expected)
    assert terms["hard"] == teacher_free.tfkd_reg(logits_s, labels, 20, **REG)["hard"]
    assert abs(terms["reg"] / teacher_free.tfkd_reg(logits_s, labels, 20, **REG)["reg"] - 1) > 0.5


@quick
@given(cases(), taus)
def test_combined_is_the_sum_of_its_parts(case, tau):
    logits_s, logits_t, labels = case
    terms = teacher_free.tfkd_combined(*case, tau, **WEIGHTS, reg_weight=0.3, correct_prob=0.9)
    reg = teacher_free.tfkd_reg(logits_s, labels, tau, hard_weight=0.05, reg_weight=0.3, correct_prob=0.9)
    assert terms == {**losses.hinton(*case, tau, **WEIGHTS), "reg": reg["reg"]}


# rectified logits


@quick
@given(cases())
def test_rectified_logits_are_right_and_hold_the_same_values(case):
    logits, _, labels = case
    found = rectification.rectified(logits, labels)
    assert torch.equal(found.argmax(1), labels)
    assert torch.equal(found.sort(1).values, logits.sort(1).values)
    right = logits.argmax(1) == labels
    assert torch.equal(found[right], logits[right])
    assert all(((row != old).sum() == 2) for row, old in zip(found[~right], logits[~right], strict=True))
    assert torch.equal(rectification.rectified(found, labels), found)


def test_a_row_by_hand_and_its_gradient():
    logits = torch.tensor([[1.0, 5.0, 2.0]], requires_grad=True)
    found = rectification.rectified(logits, torch.tensor([2]))
    assert found.tolist() == [[1.0, 2.0, 5.0]]
    (found * torch.tensor([[1.0, 10.0, 100.0]])).sum().backward()
    assert logits.grad.tolist() == [[1.0, 100.0, 10.0]]


def test_rectified_sides_are_hinton_with_that_side_exchanged():
    logits_s, logits_t, labels = case = draw(16, 5)
    assert (logits_s.argmax(1) != labels).any() and (logits_t.argmax(1) != labels).any()
    right_s, right_t = (rectification.rectified(logits, labels) for logits in case[:2])
    plain = losses.hinton(*case, 4.0, **WEIGHTS)
    for terms, sides in (
        (rectification.rectified_teacher(*case, 4.0, **WEIGHTS), (logits_s, right_t)),
        (rectification.rectified_student(*case, 4.0, **WEIGHTS), (right_s, logits_t)),
    ):
        assert terms["hard"] == plain["hard"] and terms["soft"] != plain["soft"]
        close(terms["soft"], losses.hinton(*sides, labels, 4.0, **WEIGHTS)["soft"])


def test_a_rectified_student_is_held_to_its_mistakes_and_a_plain_one_is_not():
    """The student takes class 0 for 1, the teacher is sure of 0: only the plain soft term lowers the wrong logit."""
    logits_t, labels, wrong = torch.tensor([[9.0, 0.0, 0.0]]), torch.tensor([0]), 1
    slopes = []
    for method in (losses.hinton, rectification.rectified_student, rectification.rectified_teacher):
        logits_s = torch.tensor([[0.0, 2.0, 0.0]], requires_grad=True)
        method(logits_s, logits_t, labels, 4.0, **WEIGHTS)["soft"].backward()
        slopes.append(logits_s.grad[0, wrong].item())
    assert slopes[0] == slopes[2] > 0 > slopes[1]
