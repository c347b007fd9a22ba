"""The contrastive loss against loops over plain numbers, and what its banks, negatives and features must never do."""

import io
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stkd_utils import contrastive, temperature
from stkd_utils.contrastive import Banks, noise_contrast

quick = settings(max_examples=40, deadline=None)
LABELS = torch.tensor([0, 1, 2, 0, 1, 2, 0, 0])


def banks(labels=LABELS, negatives=5, inputs=(3, 4), seed=0):
    return Banks(*inputs, labels, negatives, seed)


def draw(batch=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    positions = torch.randperm(len(LABELS), generator=generator)[:batch]
    return torch.randn(batch, 3, generator=generator), torch.randn(batch, 4, generator=generator), positions


def plain_loss(rows, first, tau, tau_of_rows=None):
    """One side of the loss for lists of cosines, written out with Python numbers."""
    count, z = len(rows[0]) - 1, sum(math.exp(value / tau) for value in first) / len(first)
    loss = 0.0
    for row in rows:
        h = [math.exp(value / (tau_of_rows or tau)) / z for value in row]
        loss -= math.log(h[0] / (h[0] + count)) + sum(math.log(count / (value + count)) for value in h[1:])
    return loss / len(rows)


def plain_step(module, features_s, features_t, positions, compared, first, tau):
    """Loss and new banks of one batch by loops; ``first`` holds the cosines of the first batch, or is empty."""
    v_s, v_t = (
        [unit(layer(row).tolist()) for row in rows]
        for layer, rows in ((module.embed_s, features_s), (module.embed_t, features_t))
    )
    loss = 0.0
    for vectors, bank, kept in zip((v_t, v_s), (module.bank_s, module.bank_t), first, strict=True):
        rows = [[dot(v, bank[p].tolist()) for p in row] for v, row in zip(vectors, compared.tolist(), strict=True)]
        kept += [] if kept else sum(rows, [])
        loss += plain_loss(rows, kept, tau)
    new = []
    for bank, vectors in ((module.bank_s, v_s), (module.bank_t, v_t)):
        rows = bank.tolist()
        for position, v in zip(positions.tolist(), vectors, strict=True):
            rows[position] = unit([(old + now) / 2 for old, now in zip(rows[position], v, strict=True)])
        new.append(torch.tensor(rows))
    return loss, new


def dot(one, other):
    return sum(a * b for a, b in zip(one, other, strict=True))


def unit(row):
    length = math.sqrt(dot(row, row))
    return [value / length for value in row]


@pytest.mark.parametrize("seed", range(4))
def test_three_batches_equal_the_plain_loops(seed):
    module, shadow, first = banks(seed=seed), banks(seed=seed), ([], [])
    for step, tau in enumerate((0.07, 0.05, 0.3)):
        features_s, features_t, positions = draw(3, seed=10 * seed + step)
        labels = LABELS[positions]
        compared = torch.cat([positions[:, None], shadow.negatives(labels)], 1)
        wanted, new = plain_step(module, features_s, features_t, positions, compared, first, tau)
        assert module(features_s, features_t, labels, positions, tau).item() == pytest.approx(wanted, rel=1e-4)
        torch.testing.assert_close(module.bank_s, new[0])
        torch.testing.assert_close(module.bank_t, new[1])


@quick
@given(st.lists(st.lists(st.floats(-1, 1), min_size=4, max_size=4), min_size=1, max_size=5), st.floats(0.05, 5))
def test_one_side_equals_the_plain_formula(rows, tau):
    similar = torch.tensor(rows, dtype=torch.float64)
    found = noise_contrast(similar, similar.flatten(), tau)
    assert found.item() == pytest.approx(plain_loss(rows, sum(rows, []), tau), rel=1e-9)


def test_it_does_not_overflow_at_the_lowest_temperature():
    similar = torch.tensor([[1.0, -1.0, -1.0]], requires_grad=True)
    loss = noise_contrast(similar, similar.flatten(), 1e-3)
    loss.backward()
    assert loss.isfinite() and similar.grad.isfinite().all()


@quick
@given(st.integers(1, 20), st.floats(0.05, 5))
def test_where_all_cosines_are_equal_it_is_that_of_guessing(count, tau):
    # h is 1 everywhere: -log(1 / (1 + K)) - K log(K / (1 + K))
    similar = torch.full((3, 1 + count), 0.3, dtype=torch.float64)
    wanted = math.log(1 + count) + count * math.log((1 + count) / count)
    assert noise_contrast(similar, similar.flatten(), tau).item() == pytest.approx(wanted)


@quick
@given(st.floats(-0.9, 0.9), st.floats(0.2, 2), st.integers(0, 2**32))
def test_nearer_to_its_own_and_further_from_others_is_better(cosine, tau, seed):
    similar = 2 * torch.rand(2, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) - 1
    similar[:, 0], first = cosine, similar.flatten().clone()
    near, far = similar.clone(), similar.clone()
    near[:, 0] += 0.05
    far[:, 3] -= 0.05
    base = noise_contrast(similar, first, tau)
    assert noise_contrast(near, first, tau) < base and noise_contrast(far, first, tau) < base


def test_perfect_alignment_is_better_than_chance():
    # class by class orthogonal, both networks alike
    generator = torch.Generator().manual_seed(0)
    directions = torch.linalg.qr(torch.randn(contrastive.SIZE, contrastive.SIZE, generator=generator)).Q
    aligned, chance = (Banks(contrastive.SIZE, contrastive.SIZE, LABELS, 5, 0) for _ in range(2))
    for module in (aligned, chance):
        for layer in (module.embed_s, module.embed_t):
            torch.nn.init.eye_(layer.weight)
            torch.nn.init.zeros_(layer.bias)
    views, positions = directions[LABELS], torch.arange(len(LABELS))
    others = torch.randn(len(LABELS), contrastive.SIZE, generator=generator)
    values = {}
    for name, module, features in (("aligned", aligned, views), ("chance", chance, others)):
        for _ in range(5):
            values[name] = module(features, views, LABELS, positions, 0.07).item()
    assert values["aligned"] < values["chance"]


def test_banks_begin_at_unit_length_on_average_and_stay_there():
    module = banks(labels=torch.arange(2).repeat(500))
    lengths = torch.cat([module.bank_s, module.bank_t]).square().sum(1)
    assert lengths.mean().item() == pytest.approx(1, abs=0.02)
    module(*draw()[:2], torch.tensor([0, 1]), torch.tensor([40, 7]), 0.07)
    torch.testing.assert_close(module.bank_s[[40, 7]].norm(dim=1), torch.ones(2))


def test_a_bank_moves_half_way_where_the_batch_was_and_nowhere_else():
    bank = torch.eye(3)
    new = contrastive.updated(bank, torch.tensor([2]), torch.tensor([[1.0, 0.0, 0.0]]))
    half = math.sqrt(0.5)
    torch.testing.assert_close(new, torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [half, 0.0, half]]))
    assert torch.equal(bank, torch.eye(3))


# negatives


@quick
@given(st.lists(st.integers(0, 5), min_size=2, max_size=30).filter(lambda labels: len(set(labels)) > 1),
       st.integers(1, 40), st.integers(0, 2**32))  # fmt: skip
def test_negatives_are_never_of_the_same_class_and_so_never_the_image_itself(labels, count, seed):
    labels = torch.tensor(labels)
    found = banks(labels, count, seed=seed).negatives(labels)
    assert found.shape == (len(labels), count) and found.dtype == torch.int64
    assert 0 <= found.min() <= found.max() < len(labels)
    assert (labels[found] != labels[:, None]).all()


def test_every_image_of_another_class_is_drawn_equally_often():
    labels = torch.tensor([3, 0, 3, 1, 1, 3, 0])
    found = banks(labels, 40_000).negatives(torch.tensor([3, 0, 1]))
    for row, label in zip(found, (3, 0, 1), strict=True):
        others = (labels != label).float()
        share = row.bincount(minlength=len(labels)) / len(row)
        torch.testing.assert_close(share, others / others.sum(), atol=0.015, rtol=0)


def test_negatives_depend_on_the_seed_alone():
    one, same, other = banks(seed=1), banks(seed=1), banks(seed=2)
    torch.rand(7)
    first = one.negatives(LABELS)
    assert torch.equal(first, same.negatives(LABELS)) and not torch.equal(first, other.negatives(LABELS))
    assert not torch.equal(first, one.negatives(LABELS))


def test_making_banks_leaves_the_global_random_state_alone():
    before = torch.get_rng_state()
    one, same, other = banks(), banks(), banks(seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    for name in ("bank_s", "bank_t", "embed_s.weight", "embed_t.bias"):
        a, b, c = (module.state_dict()[name] for module in (one, same, other))
        assert torch.equal(a, b) and not torch.equal(a, c)
    assert not torch.equal(one.bank_s, one.bank_t)


@pytest.mark.parametrize("labels, count, message", [
    (torch.zeros(4, dtype=torch.int64), 3, "at least two classes"), (LABELS, 0, "crd_negatives must be .* above 0"),
])  # fmt: skip
def test_what_cannot_be_contrasted_is_refused(labels, count, message):
    with pytest.raises(ValueError, match=message):
        banks(labels, count)


def test_state_continues_to_the_last_bit():
    whole, cut = banks(), banks()
    for module in (whole, cut):
        module(*draw(seed=1)[:2], LABELS[:2], torch.tensor([0, 1]), 0.07)
    file = io.BytesIO()
    torch.save(cut.state_dict(), file)
    file.seek(0)
    continued = banks(seed=9)
    continued.load_state_dict(torch.load(file, weights_only=True))
    for step in (2, 3):
        features = draw(seed=step)[:2]
        values = [one(*features, LABELS[2:4], torch.tensor([2, 3]), 0.2).item() for one in (whole, continued)]
        assert values[0] == values[1]
    assert torch.equal(whole.bank_t, continued.bank_t) and not torch.equal(whole.bank_t, cut.bank_t)


def test_a_temperature_that_learns_gets_the_gradient_at_a_constant_normaliser():
    similar = torch.tensor([[0.9, 0.1, -0.3], [0.2, 0.4, -0.1]], dtype=torch.float64)
    first = torch.tensor([0.5, -0.5, 0.1], dtype=torch.float64)
    tau = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    noise_contrast(similar, first, tau).backward()

    def value(tau):
        return plain_loss(similar.tolist(), first.tolist(), 0.3, tau_of_rows=tau)

    assert tau.grad.item() == pytest.approx((value(0.3 + 1e-5) - value(0.3 - 1e-5)) / 2e-5, rel=1e-6)


def test_no_value_is_read_back_from_a_device():
    """Tensors on "meta" have no values: who reads one, as an accelerator would have to wait for, raises."""
    module, policy = banks().to("meta"), temperature.Learnable()
    policy.module.to("meta")
    features_s, features_t, positions = (part.to("meta") for part in draw())
    for _ in range(2):
        module(features_s.requires_grad_(), features_t, positions, positions, policy.draw()).backward()
    assert features_s.grad.is_meta and module.bank_t.is_meta


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_on_a_gpu_the_negatives_are_those_of_the_cpu():
    module = banks(LABELS.cuda()).cuda()
    assert torch.equal(module.negatives(LABELS.cuda()).cpu(), banks().negatives(LABELS))


def test_its_work_is_counted():
    module = banks(inputs=(3, 4), labels=LABELS)
    assert module.macs == contrastive.SIZE * (3 + 4 + 2 * len(LABELS))
    assert module.macs_backward == contrastive.SIZE * (2 * 3 + 4 + 2 * len(LABELS))
