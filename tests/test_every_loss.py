"""What holds for the loss of every method: gradients, precision, weights, and inputs that stay as they are."""

import pytest
import torch
from helpers import draw

from stkd_utils import losses, temperature
from stkd_utils.experiments import classification

WEIGHTS = {"hard_weight": 0.05, "soft_weight": 0.95}
REG = {"hard_weight": 0.05, "reg_weight": 0.95, "correct_prob": 0.99}
GIVEN = {**WEIGHTS, **REG, "smoothing": 0.1, "reg_multiplier": 2.0}
METHODS = {name: method for name, method in classification.METHODS.items() if method.loss}


def call(method, logits_s, logits_t, labels, tau=4.0, **changed):
    given = [logits_s, *[logits_t] * method.teacher, labels, *[tau] * method.temperature]
    return method.loss(*given, **{key: (GIVEN | changed)[key] for key in method.keys})


@pytest.mark.parametrize("name", METHODS)
def test_traps_S5_S8_inputs_stay_and_the_teacher_gets_no_gradient(name):
    logits_s, logits_t, labels = case = draw()
    copies, versions = [part.clone() for part in case], [part._version for part in case]
    losses.total(call(METHODS[name], logits_s.requires_grad_(), logits_t.requires_grad_(), labels)).backward()
    assert all(torch.equal(part, copy) for part, copy in zip(case, copies, strict=True))
    assert versions == [part._version for part in case]
    assert logits_t.grad is None and logits_s.grad.abs().sum() > 0


@pytest.mark.parametrize("name", METHODS)
def test_gradients_are_right_also_through_a_learnable_temperature(name):
    logits_s, logits_t, labels = draw()
    tau = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)

    def loss(logits_s, tau):
        return losses.total(call(METHODS[name], logits_s, logits_t, labels, tau))

    assert torch.autograd.gradcheck(loss, (logits_s.requires_grad_(), tau))


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(name, dtype):
    logits_s, logits_t, labels = (x.to(dtype) if x.is_floating_point() else x for x in draw(8, 20))
    exact = call(METHODS[name], logits_s.double(), logits_t.double(), labels)
    for key, term in call(METHODS[name], logits_s, logits_t, labels).items():
        assert term.dtype == torch.float32 and term.item() == pytest.approx(exact[key].item(), rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("name", METHODS)
def test_trap_P2_each_weight_belongs_to_the_term_of_its_name(name):
    case, terms = draw(), call(METHODS[name], *draw())
    for key in {"hard_weight", "soft_weight", "reg_weight"} & {*METHODS[name].keys}:
        changed = call(METHODS[name], *case, **{key: 2 * GIVEN[key]})
        own = key.removesuffix("_weight")
        assert {k: v.item() for k, v in changed.items()} == pytest.approx(
            {k: v.item() * (2 if k == own else 1) for k, v in terms.items()}
        )


@pytest.mark.parametrize("name", METHODS)
def test_wrong_labels_and_shapes_are_one_sentence(name):
    logits_s, logits_t, labels = draw()
    with pytest.raises(ValueError, match="^Labels must lie between 0 and 4"):
        call(METHODS[name], logits_s, logits_t, labels + 4)
    with pytest.raises(ValueError, match="^Labels must be 4 class numbers"):
        call(METHODS[name], logits_s, logits_t, labels[:3])
    if METHODS[name].teacher:
        with pytest.raises(ValueError, match="^Student and teacher must give"):
            call(METHODS[name], logits_s, logits_t[:, :4], labels)


@pytest.mark.parametrize("name", METHODS)
def test_no_value_is_read_back_from_a_device(name):
    """Tensors on "meta" have no values: who reads one, as an accelerator would have to wait for, raises."""
    logits_s, logits_t, labels = (part.to("meta") for part in draw())
    policy = temperature.Learnable()
    policy.module.to("meta")
    terms = call(METHODS[name], logits_s.requires_grad_(), logits_t, labels, tau=policy.draw())
    losses.total(terms).backward()
    assert all(term.is_meta for term in terms.values()) and logits_s.grad.is_meta
