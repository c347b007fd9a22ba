"""Mutual learning against the closed form, two optimisers written by hand, and what could leak from one to another."""

import copy
import math
from contextlib import nullcontext

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from stkd_utils import data, engine, losses, models, mutual, seeding, temperature
from stkd_utils.data import Batch
from stkd_utils.protocol import Protocol

NAMES = ("mobilenetv2", "resnet18", "shufflenetv2")


class Says(nn.Module):
    """A network that answers with its only parameter, whatever it is shown."""

    def __init__(self, logits):
        super().__init__()
        self.logits = nn.Parameter(torch.as_tensor(logits, dtype=torch.float32))

    def forward(self, views):
        return self.logits * 1


def batch(labels):
    return Batch(torch.zeros(len(labels), 1, 2, 2), torch.as_tensor(labels), None, None, 1)


def objective(*peers, policy=None, **options):
    return mutual.Mutual(peers, policy or temperature.Fixed(1), **options)


def softmax(row, tau=1.0):
    powers = [math.exp(value / tau) for value in row]
    return [power / sum(powers) for power in powers]


def divergence(p, q):
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def test_published_form_of_two_is_cross_entropy_plus_divergence_each():
    own, other = [0.0, 2.0, -1.0], [1.0, 0.5, 0.0]
    terms = objective(Says([other])).terms(batch([1]), torch.tensor([own]))
    p, q = softmax(own), softmax(other)
    wanted = {
        "hard": -math.log(p[1]), "soft": divergence(q, p),
        "peer1_hard": -math.log(q[1]), "peer1_soft": divergence(p, q),
    }  # fmt: skip
    assert list(terms) == list(wanted)
    assert {name: value.item() for name, value in terms.items()} == pytest.approx(wanted, rel=1e-5)
    assert wanted["soft"] != pytest.approx(wanted["peer1_soft"], rel=0.01), "the case cannot tell the directions apart"


def test_of_more_than_two_each_learns_from_the_mean_over_the_others():
    rows = [0.0, 2.0, -1.0], [1.0, 0.5, 0.0], [3.0, 0.0, 1.0]
    terms = objective(*(Says([row]) for row in rows[1:])).terms(batch([1]), torch.tensor(rows[:1]))
    one, two, three = map(softmax, rows)
    assert terms["soft"].item() == pytest.approx((divergence(two, one) + divergence(three, one)) / 2, rel=1e-5)
    assert terms["peer1_soft"].item() == pytest.approx((divergence(one, two) + divergence(three, two)) / 2, rel=1e-5)
    assert terms["peer2_soft"].item() == pytest.approx((divergence(one, three) + divergence(two, three)) / 2, rel=1e-5)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 3), st.floats(0.5, 30), st.floats(0, 3), st.floats(0, 3))
def test_with_one_peer_the_terms_are_those_of_distillation_in_both_directions(seed, rows, tau, hard, soft):
    generator = torch.Generator().manual_seed(seed)
    own, other = 3 * torch.randn(2, rows, 4, generator=generator)
    labels = torch.randint(4, (rows,), generator=generator)
    both = objective(Says(other), policy=temperature.Fixed(tau), hard_weight=hard, soft_weight=soft)
    terms = both.terms(batch(labels), own)
    for prefix, one, two in (("", own, other), ("peer1_", other, own)):
        wanted = losses.hinton(one, two, labels, tau, hard_weight=hard, soft_weight=soft)
        for name, value in wanted.items():
            assert terms[prefix + name].item() == pytest.approx(value.item(), rel=1e-5, abs=1e-6)


def test_equal_networks_have_nothing_to_teach():
    row = torch.tensor([[0.0, 2.0, -1.0]])
    terms = objective(Says(row)).terms(batch([0]), row)
    assert terms["soft"].item() == pytest.approx(0, abs=1e-6) and terms["hard"] == terms["peer1_hard"]


@pytest.mark.parametrize("name", ["hard", "soft", "peer1_hard", "peer1_soft"])
def test_no_term_of_one_moves_the_other(name):
    own, peer = torch.tensor([[0.0, 2.0]], requires_grad=True), Says([[1.0, 0.0]])
    terms = objective(peer).terms(batch([0]), own)
    moved = torch.autograd.grad(terms[name], [own, peer.logits], allow_unused=True)
    wanted = [False, True] if name.startswith("peer1") else [True, False]
    assert [gradient is not None and bool(gradient.any()) for gradient in moved] == wanted


def test_trap_S2_one_draw_a_batch_softens_everybody():
    policy, alone = temperature.IntegerUniform(seed=5), temperature.IntegerUniform(seed=5)
    rows = [[0.0, 9.0]], [[4.0, 0.0]], [[2.0, 1.0]]
    terms = objective(*map(Says, rows[1:]), policy=policy).terms(batch([1]), torch.tensor(rows[0]))
    tau = alone.draw()
    assert policy.draws == [tau]
    one, two, three = (softmax(row[0], tau) for row in rows)
    wanted = tau**2 * (divergence(one, three) + divergence(two, three)) / 2
    assert terms["peer2_soft"].item() == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize("policy", [
    temperature.Fixed(1), temperature.IntegerUniform(2, 20), temperature.ContinuousUniform(2, 20),
    temperature.LogUniform(2, 20), temperature.Learnable(2, 20),
], ids=lambda policy: policy.name)  # fmt: skip
def test_every_policy_works(policy):
    terms = objective(Says([[1.0, 0.0]]), policy=policy).terms(batch([0]), torch.tensor([[0.0, 2.0]]))
    assert all(value.isfinite() for value in terms.values()) and len(policy.draws) == 1


def test_a_learnable_temperature_learns_from_all_networks():
    row, policy = torch.tensor([[0.0, 2.0]]), temperature.Learnable(2, 20)
    terms = objective(Says([[1.0, 0.0]]), policy=policy).terms(batch([0]), row)
    for name in ("soft", "peer1_soft"):
        assert torch.autograd.grad(terms[name], policy.module.p, retain_graph=True)[0] != 0


def test_no_value_is_read_back_from_a_device(monkeypatch):
    """Tensors on "meta" have no values: who reads one, as an accelerator would have to wait for, raises."""
    monkeypatch.setattr(mutual.engine, "autocast", lambda *_: nullcontext())  # which knows no such device
    policy = temperature.Learnable()
    both = objective(Says([[1.0, 0.0]]), Says([[0.0, 1.0]]), policy=policy)
    both.module.to("meta")
    one = Batch(torch.zeros(1, 1, 2, 2, device="meta"), torch.zeros(1, dtype=torch.int64, device="meta"), None, None, 1)
    losses.total(both.terms(one, torch.zeros(1, 2, device="meta", requires_grad=True))).backward()
    assert all(parameter.grad.is_meta for parameter in both.module.parameters())


def test_the_module_holds_the_peers_and_what_the_policy_learns():
    peers, policy = (Says([[1.0]]), Says([[2.0]])), temperature.Fixed(1)
    assert set(objective(*peers, policy=policy).module.parameters()) == {peer.logits for peer in peers}
    policy.module = nn.Linear(1, 1)
    both = objective(*peers, policy=policy)
    assert set(both.module.parameters()) == {*(peer.logits for peer in peers), *policy.module.parameters()}
    assert list(both.networks.values()) == list(peers)


def test_without_a_peer_there_is_one_clear_sentence():
    with pytest.raises(ValueError, match="needs at least one peer: name a model"):
        objective()


# networks


def network(number, seed=3):
    options = {"channels": 1, "width": 0.125, "depth": 0.25}
    if number == 0:
        return models.build(NAMES[0], 10, seed=seed, **options)
    return mutual.peer(NAMES[number], 10, seed=seed, number=number, **options)


@pytest.fixture(scope="module")
def batches():
    digits = data.load("digits", train_limit=96, val_limit=50, test_limit=50)
    generators = {stream: seeding.generator(0, stream) for stream in ("order", "augment")}
    return list(digits.epoch(32, data.Augmentation(crop_padding=1), generators, 1))


@pytest.mark.parametrize("optimiser", ["sgd", "adam"])
@pytest.mark.parametrize("count", [2, 3])
def test_one_optimiser_over_all_is_to_the_last_bit_one_for_each(batches, count, optimiser):
    protocol = Protocol(optimiser=optimiser, lr=0.05)
    together, apart = ([network(number).train() for number in range(count)] for _ in range(2))

    both = objective(*together[1:], policy=temperature.Fixed(2))
    joint = protocol.optimise(together[0], both.module)
    for one in batches:
        with engine.autocast("cpu", "float32"):
            logits = together[0](one.views)
        losses.total(both.terms(one, logits)).backward()
        joint.step()
        joint.zero_grad()

    own = [protocol.optimise(model) for model in apart]
    for one in batches:
        with engine.autocast("cpu", "float32"):
            logits = [model(one.views) for model in apart]
        for number in range(count):
            others = [values.detach() for values in logits[:number] + logits[number + 1 :]]
            hard = nn.functional.cross_entropy(logits[number], one.labels)
            soft = sum(losses.kl_per_sample(logits[number], other, 2.0).mean() for other in others) / len(others)
            (hard + 4 * soft).backward()
        for optimiser_ in own:
            optimiser_.step()
            optimiser_.zero_grad()

    for number in range(count):
        begun, one, other = (model.state_dict() for model in (network(number), together[number], apart[number]))
        assert all(torch.equal(value, other[key]) for key, value in one.items())
        assert any(not torch.equal(value, begun[key]) for key, value in one.items()), "nothing was learnt"


def test_terms_leave_the_mode_of_a_peer_to_the_training(batches):
    peer = network(1).eval()
    before = copy.deepcopy(peer.state_dict())
    both = objective(peer)
    for mode in (False, True):
        both.module.train(mode)
        both.terms(batches[0], network(0)(batches[0].views))
        moved = {key for key, value in peer.state_dict().items() if not torch.equal(value, before[key])}
        assert moved == {key for key in before if "running" in key or "num_batches" in key} if mode else not moved


def test_a_peer_is_computed_in_the_precision_of_the_student(batches):
    seen = []
    peer = network(1)
    peer.register_forward_hook(lambda module, inputs, logits: seen.append(logits.dtype))
    both = objective(peer, precision="bfloat16")
    terms = both.terms(batches[0], network(0)(batches[0].views))
    assert seen == [torch.bfloat16] and {value.dtype for value in terms.values()} == {torch.float32}


def test_no_network_of_a_run_begins_with_the_weights_of_another():
    student, *peers = (
        models.build("resnet18", 10, channels=1, width=0.125, seed=3),
        *(mutual.peer("resnet18", 10, seed=3, number=number, channels=1, width=0.125) for number in (1, 2)),
        mutual.peer("resnet18", 10, seed=4, channels=1, width=0.125),
    )
    first = [next(model.parameters()) for model in (student, *peers)]
    assert not any(torch.equal(one, other) for i, one in enumerate(first) for other in first[:i])
    again = mutual.peer("resnet18", 10, seed=3, number=2, channels=1, width=0.125)
    assert torch.equal(next(again.parameters()), first[2])
    assert mutual.peer_seed(3) == mutual.peer_seed(3, 1) != mutual.peer_seed(3, 2)
