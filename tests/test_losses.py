"""Distillation losses against plain formulas, closed forms and the mistakes of earlier code."""

import inspect
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stkd_utils import losses

WEIGHTS = {"hard_weight": 0.05, "soft_weight": 0.95}
taus = st.floats(0.5, 50)
quick = settings(max_examples=40, deadline=None)


def draw(batch=4, classes=5, scale=3.0, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    logits_s, logits_t = scale * torch.randn(2, batch, classes, generator=generator, dtype=dtype)
    return logits_s, logits_t, torch.randint(classes, (batch,), generator=generator)


@st.composite
def cases(draw_value):
    return draw(
        batch=draw_value(st.integers(1, 6)),
        classes=draw_value(st.integers(2, 12)),
        scale=draw_value(st.floats(0, 30)),
        seed=draw_value(st.integers(0, 2**32)),
    )


def plain_softmax(row, tau):
    powers = [math.exp((value - max(row)) / tau) for value in row]
    return [power / sum(powers) for power in powers]


def plain_hinton(logits_s, logits_t, labels, tau):
    """Hinton's two terms for float64 logits, written out with Python numbers."""
    hard = soft = 0.0
    for row_s, row_t, label in zip(logits_s.tolist(), logits_t.tolist(), labels.tolist(), strict=True):
        hard -= math.log(plain_softmax(row_s, 1)[label])
        pairs = zip(plain_softmax(row_s, tau), plain_softmax(row_t, tau), strict=True)
        soft += sum(p_t * math.log(p_t / p_s) for p_s, p_t in pairs if p_t > 0)
    return {"hard": 0.05 * hard / len(labels), "soft": 0.95 * tau**2 * soft / len(labels)}


@quick
@given(cases(), taus)
def test_values_equal_the_plain_formula(case, tau):
    terms, expected = losses.hinton(*case, tau, **WEIGHTS), plain_hinton(*case, tau)
    assert list(terms) == ["hard", "soft"]
    assert terms["hard"].item() == pytest.approx(expected["hard"], rel=1e-9, abs=1e-12)
    assert terms["soft"].item() == pytest.approx(expected["soft"], rel=1e-7, abs=1e-11)
    assert losses.total(terms).item() == pytest.approx(sum(expected.values()), rel=1e-7, abs=1e-11)


@quick
@given(cases(), taus)
def test_divergence_is_never_negative(case, tau):
    assert losses.kl_per_sample(case[0], case[1], tau).min() >= -1e-12


@quick
@given(cases(), taus)
def test_trap_D4_divergence_is_zero_at_equal_logits(case, tau):
    logits_s = case[0]
    assert losses.kl_per_sample(logits_s, logits_s.clone(), tau).abs().max() <= 1e-12


@quick
@given(cases(), taus, st.floats(-100, 100))
def test_a_constant_added_to_all_logits_changes_nothing(case, tau, shift):
    logits_s, logits_t, _ = case
    shifted = losses.kl_per_sample(logits_s + shift, logits_t, tau)
    torch.testing.assert_close(shifted, losses.kl_per_sample(logits_s, logits_t, tau), rtol=1e-6, atol=1e-9)


@quick
@given(cases(), taus)
def test_soft_gradient_is_tau_times_the_difference_of_probabilities(case, tau):
    logits_s, logits_t, labels = case
    logits_s = logits_s.requires_grad_()
    losses.hinton(logits_s, logits_t, labels, tau, hard_weight=0.0, soft_weight=1.0)["soft"].backward()
    p_s, p_t = torch.softmax(logits_s.detach() / tau, 1), torch.softmax(logits_t / tau, 1)
    torch.testing.assert_close(logits_s.grad, tau * (p_s - p_t) / len(labels), rtol=1e-7, atol=1e-10)


@quick
@given(cases(), taus)
def test_gradient_equals_autograd_of_a_plain_formula(case, tau):
    logits_s, logits_t, labels = case
    ours, plain = logits_s.clone().requires_grad_(), logits_s.clone().requires_grad_()
    losses.total(losses.hinton(ours, logits_t, labels, tau, **WEIGHTS)).backward()
    p_t, log_s = torch.softmax(logits_t / tau, 1), plain / tau - torch.logsumexp(plain / tau, 1, keepdim=True)
    soft = (p_t * (p_t.clamp_min(1e-300).log() - log_s)).sum() / len(labels)
    hard = (torch.logsumexp(plain, 1) - plain[torch.arange(len(labels)), labels]).mean()
    (0.05 * hard + 0.95 * tau**2 * soft).backward()
    torch.testing.assert_close(ours.grad, plain.grad, rtol=1e-7, atol=1e-10)


def test_gradcheck_through_a_learnable_temperature():
    logits_s, logits_t, labels = draw()
    tau = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)

    def loss(logits_s, tau):
        return losses.total(losses.hinton(logits_s, logits_t, labels, tau, **WEIGHTS))

    assert torch.autograd.gradcheck(loss, (logits_s.requires_grad_(), tau))


def test_a_large_tau_matches_centred_logits():
    logits_s, logits_t, labels = draw(batch=8, classes=10, scale=1.0)
    soft = losses.hinton(logits_s, logits_t, labels, 1e4, hard_weight=0.0, soft_weight=1.0)["soft"]
    gap = (logits_s - logits_s.mean(1, keepdim=True)) - (logits_t - logits_t.mean(1, keepdim=True))
    assert soft.item() == pytest.approx((gap.square().sum(1) / 20).mean().item(), rel=1e-3)


def widen(logits, copies):
    """The same softened rows seen ``copies`` times: each class is split into equal parts."""
    return logits.repeat_interleave(copies, dim=1)


@pytest.mark.parametrize("copies", [10, 20])
def test_trap_S4_soft_term_does_not_depend_on_class_count(copies):
    logits_s, logits_t, labels = draw(classes=10)
    narrow = losses.hinton(logits_s, logits_t, labels, 4.0, **WEIGHTS)["soft"]
    wide = losses.hinton(widen(logits_s, copies), widen(logits_t, copies), labels, 4.0, **WEIGHTS)["soft"]
    assert wide.item() == pytest.approx(narrow.item(), rel=1e-9)


@pytest.mark.parametrize("copies", [10, 20])
def test_trap_S4_element_mean_shrinks_with_class_count(copies):
    logits_s, logits_t, labels = draw(classes=10)
    narrow = losses.hinton_element_mean(logits_s, logits_t, labels, 4.0, **WEIGHTS)
    wide = losses.hinton_element_mean(widen(logits_s, copies), widen(logits_t, copies), labels, 4.0, **WEIGHTS)
    assert wide["soft"].item() == pytest.approx(narrow["soft"].item() / copies, rel=1e-9)
    assert narrow["hard"] == losses.hinton(logits_s, logits_t, labels, 4.0, **WEIGHTS)["hard"]


def test_element_mean_is_the_default_reduction_of_torch():
    logits_s, logits_t, labels = draw(batch=6, classes=7)
    log_s, p_t = torch.log_softmax(logits_s / 20, 1), torch.softmax(logits_t / 20, 1)
    with pytest.warns(UserWarning, match="reduction: 'mean'"):
        expected = 0.95 * 400 * torch.nn.functional.kl_div(log_s, p_t)
    ours = losses.hinton_element_mean(logits_s, logits_t, labels, 20, **WEIGHTS)["soft"]
    assert ours.item() == pytest.approx(expected.item(), rel=1e-9)


def test_trap_P3_tau_squared_stays_when_hard_weight_is_zero():
    case = draw()
    without_hard = losses.hinton(*case, 20.0, hard_weight=0.0, soft_weight=0.95)
    assert without_hard["hard"] == 0
    assert without_hard["soft"] == losses.hinton(*case, 20.0, **WEIGHTS)["soft"]
    assert without_hard["soft"].item() == pytest.approx(plain_hinton(*case, 20.0)["soft"], rel=1e-9)


@pytest.mark.parametrize("method", [losses.hinton, losses.hinton_element_mean])
def test_trap_P2_each_weight_belongs_to_the_term_of_its_name(method):
    case = draw()
    unit = method(*case, 4.0, hard_weight=1.0, soft_weight=1.0)
    weighted = method(*case, 4.0, hard_weight=0.25, soft_weight=3.0)
    assert weighted["hard"].item() == pytest.approx(0.25 * unit["hard"].item())
    assert weighted["soft"].item() == pytest.approx(3.0 * unit["soft"].item())
    kinds = {name: parameter.kind for name, parameter in inspect.signature(method).parameters.items()}
    assert kinds["hard_weight"] == kinds["soft_weight"] == inspect.Parameter.KEYWORD_ONLY
    assert not any("alpha" in name for name in kinds)


def test_trap_S3_weights_and_tau_have_no_default():
    parameters = inspect.signature(losses.hinton).parameters
    assert all(parameter.default is inspect.Parameter.empty for parameter in parameters.values())


@pytest.mark.parametrize("method", [losses.hinton, losses.hinton_element_mean])
def test_trap_S5_inputs_stay_as_they_were(method):
    case = draw()
    copies = [part.clone() for part in case]
    versions = [part._version for part in case]
    losses.total(method(*case, 4.0, **WEIGHTS))
    assert all(torch.equal(part, copy) for part, copy in zip(case, copies, strict=True))
    assert versions == [part._version for part in case]


def test_trap_P8_both_sides_are_softened_once():
    logits_s, logits_t, labels = draw()
    p_s, p_t = losses.soften(logits_s, 5.0), losses.soften(logits_t, 5.0)
    torch.testing.assert_close(p_t, torch.softmax(logits_t / 5, 1))
    soft = losses.hinton(logits_s, logits_t, labels, 5.0, hard_weight=0.0, soft_weight=1.0)["soft"]
    assert soft.item() == pytest.approx(25 * (p_t * (p_t / p_s).log()).sum(1).mean().item(), rel=1e-9)


def test_traps_S8_D2_no_gradient_reaches_the_teacher():
    logits_s, logits_t, labels = draw()
    logits_s.requires_grad_()
    logits_t.requires_grad_()
    losses.total(losses.hinton(logits_s, logits_t, labels, 4.0, **WEIGHTS)).backward()
    assert logits_t.grad is None and logits_s.grad.abs().sum() > 0


def test_teacher_logits_from_inference_mode_are_accepted():
    logits_s, logits_t, labels = draw()
    with torch.inference_mode():
        inferred = logits_t * 1.0
    assert inferred.is_inference()
    losses.total(losses.hinton(logits_s.requires_grad_(), inferred, labels, 4.0, **WEIGHTS)).backward()
    assert logits_s.grad.abs().sum() > 0


@pytest.mark.parametrize("size", [1e2, 1e4, 1e6])
@pytest.mark.parametrize("tau", [0.5, 1.0, 20.0])
def test_trap_D7_extreme_logits_stay_finite(size, tau):
    logits_s = torch.tensor([[size, -size, 0.0], [-size, size, 0.0]], requires_grad=True)
    logits_t, labels = -logits_s.detach(), torch.tensor([0, 2])
    loss = losses.total(losses.hinton(logits_s, logits_t, labels, tau, **WEIGHTS))
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(logits_s.grad).all()
    assert torch.isfinite(losses.soften(logits_t, tau)).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_are_computed_in_float32(dtype):
    logits_s, logits_t, labels = draw(batch=16, classes=100, dtype=torch.float32)
    logits_s, logits_t = logits_s.to(dtype), logits_t.to(dtype)
    terms = losses.hinton(logits_s, logits_t, labels, 20.0, **WEIGHTS)
    exact = losses.hinton(logits_s.double(), logits_t.double(), labels, 20.0, **WEIGHTS)
    assert losses.soften(logits_s, 20.0).dtype == torch.float32
    for name, term in terms.items():
        assert term.dtype == torch.float32
        assert term.item() == pytest.approx(exact[name].item(), rel=1e-4)


def test_autocast_does_not_lower_the_precision():
    case = draw(batch=16, classes=100, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = losses.hinton(*case, 20.0, **WEIGHTS)
    assert inside == losses.hinton(*case, 20.0, **WEIGHTS)


def test_tau_may_be_a_number_or_a_scalar_tensor():
    case = draw(dtype=torch.float32)
    values = [losses.hinton(*case, tau, **WEIGHTS)["soft"].item() for tau in (4, 4.0, torch.tensor(4.0))]
    assert values[0] == values[1] == values[2]


def test_soften_at_tau_one_and_at_the_limits():
    row = torch.tensor([2.0, 1.0, -1.0])
    torch.testing.assert_close(losses.soften(row, 1), torch.softmax(row, 0))
    torch.testing.assert_close(losses.soften(row, 1e6), torch.full((3,), 1 / 3))
    torch.testing.assert_close(losses.soften(row, 1e-3), torch.tensor([1.0, 0.0, 0.0]))


@pytest.mark.parametrize("tau", [0, -1.0, math.nan, math.inf, torch.tensor(0.0), torch.tensor([4.0]), "4", None])
def test_a_useless_tau_is_refused(tau):
    case = draw()
    for call in (lambda: losses.soften(case[0], tau), lambda: losses.hinton(*case, tau, **WEIGHTS)):
        with pytest.raises(ValueError, match=r"^The temperature tau must be one finite number above 0; got .*\.$"):
            call()


def test_different_shapes_are_refused():
    logits_s, logits_t, labels = draw()
    with pytest.raises(ValueError, match=r"^Student and teacher must give .* \(4, 5\) and \(4, 4\)\.$"):
        losses.hinton(logits_s, logits_t[:, :4], labels, 4.0, **WEIGHTS)
    for bad in (logits_s[0], logits_s[:0], logits_s[None]):
        with pytest.raises(ValueError, match=r"^Logits must have the shape \(batch, classes\)"):
            losses.kl_per_sample(bad, bad, 4.0)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.tensor([0, 1, 2]), r"^Labels must be 4 class numbers .* got the shape \(3,\) of int64\.$"),
        (torch.tensor([[0], [1], [2], [3]]), r"^Labels must be 4 class numbers .* got the shape \(4, 1\) of int64\.$"),
        (torch.tensor([0.0, 1.0, 2.0, 3.0]), r"^Labels must be 4 class numbers .* of float32\.$"),
        (torch.tensor([0, 1, 2, 5]), r"^Labels must lie between 0 and 4 .* got 0 to 5\.$"),
        (torch.tensor([0, 1, 2, -100]), r"^Labels must lie between 0 and 4 .* got -100 to 2\.$"),
    ],
)
def test_wrong_labels_are_refused_in_one_sentence(labels, message):
    logits_s, logits_t, _ = draw()
    for call in (
        lambda: losses.cross_entropy(logits_s, labels),
        lambda: losses.hinton(logits_s, logits_t, labels, 4.0, **WEIGHTS),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_cross_entropy_is_the_hard_term():
    logits_s, logits_t, labels = draw()
    both = losses.hinton(logits_s, logits_t, labels, 4.0, hard_weight=1.0, soft_weight=0.0)
    assert losses.cross_entropy(logits_s, labels) == {"hard": losses.total(both)} == {"hard": both["hard"]}


def test_float32_has_room_for_tau_20_and_none_for_1000():
    draw = torch.Generator().manual_seed(0)
    z_t = torch.randn(64, 100, generator=draw, dtype=torch.float64)
    near, y = z_t + 0.01 * torch.randn(64, 100, generator=draw, dtype=torch.float64), torch.zeros(64, dtype=torch.int64)

    def gradient(tau, dtype):
        at = near.to(dtype).requires_grad_()
        soft = losses.hinton(at, z_t.to(dtype), y, tau, hard_weight=0.0, soft_weight=1.0)["soft"]
        return torch.autograd.grad(soft, at)[0].double()

    def error(tau):
        exact = gradient(tau, torch.float64)
        return ((gradient(tau, torch.float32) - exact).norm() / exact.norm()).item()

    assert error(20.0) < 0.01 < error(1000.0)
