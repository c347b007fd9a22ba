"""The loop: the paper's schedule, a frozen teacher, one draw per batch, honest evaluation, clear stops."""

import gc
import math
import weakref
from dataclasses import replace

import pytest
import torch
from torch import nn

from stkd_utils import carbon, compute, data, losses, models, temperature
from stkd_utils.experiments import recording
from stkd_utils.protocol import Protocol
from stkd_utils.training import Distillation, Diverged, Supervised, Trainer, evaluate


@pytest.fixture(scope="module")
def digits():
    return data.load("digits", train_limit=100, val_limit=50, test_limit=50)


def network(seed=0):
    return models.build("resnet18", 10, channels=1, width=0.0625, seed=seed)


def trainer(digits, objective=None, *, model=None, seed=0, path=None, **protocol):
    protocol = Protocol(**{"epochs": 2, "batch_size": 32, **protocol})
    return Trainer(
        model or network(), digits, protocol, objective or Supervised(), seed=seed,
        augmentation=data.Augmentation(crop_padding=1), meter=carbon.Meter(), path=path, save_seconds=0,
    )  # fmt: skip


def distillation(policy, loss=losses.hinton):
    return Distillation(network(7), policy, hard_weight=0.05, soft_weight=0.95, loss=loss)


def test_a_run_is_not_continued_on_other_images(digits, tmp_path):
    path = tmp_path / "checkpoint.pt"
    trainer(digits, path=path, epochs=1).fit(say=lambda _: None)
    with pytest.raises(data.DataError, match=f"not those that this run began with: .* delete the folder {tmp_path}"):
        trainer(replace(digits, checksum="other"), path=path, epochs=2).fit(say=lambda _: None)


# schedule


def test_learning_rate_of_the_paper_protocol():
    paper = Protocol()
    seen = {epoch: paper.lr_at(epoch, 0, 391) for epoch in (2, 30, 31, 60, 61, 80, 81, 100)}
    wanted = {2: 0.1, 30: 0.1, 31: 0.02, 60: 0.02, 61: 0.004, 80: 0.004, 81: 0.0008, 100: 0.0008}
    assert seen == pytest.approx(wanted)


def test_warm_up_rises_linearly_to_the_full_rate():
    rates = [Protocol().lr_at(1, batch, 10) for batch in range(10)]
    assert rates == pytest.approx([0.01 * (batch + 1) for batch in range(10)])


def test_rate_scales_with_batch_and_shape_scales_with_epochs():
    short = Protocol(epochs=10, batch_size=64)
    assert short.lr_at(2, 0, 5) == pytest.approx(0.05)
    assert short.lr_at(4, 0, 5) == pytest.approx(0.01)


def test_one_epoch_trains_at_the_full_rate():
    assert Protocol(epochs=1).lr_at(1, 0, 5) == pytest.approx(0.1)


@pytest.mark.parametrize("images, steps, seen", [(64, 2, 64), (65, 2, 64), (66, 3, 66)])
def test_a_schedule_counts_the_steps_that_are_taken(monkeypatch, images, steps, seen):
    asked, rate = [], Protocol.lr_at

    def lr_at(self, epoch, batch, batches):
        asked.append((epoch, batch, batches))
        return rate(self, epoch, batch, batches)

    monkeypatch.setattr(Protocol, "lr_at", lr_at)
    some = data.load("digits", train_limit=images, val_limit=10, test_limit=10)
    one = trainer(some, epochs=1, schedule="one-cycle")
    one.fit(say=lambda _: None)
    assert {batches for _, _, batches in asked} == {steps}
    assert max(batch for _, batch, _ in asked) == steps - 1, "the last step of the schedule is one that is taken"
    one.macs = 100, 0
    assert recording.counted(one)["flops_forward"] == compute.run_flops(student_macs=100, images=seen, epochs=1)


def test_optimiser_is_the_one_of_the_paper():
    group = Protocol().optimise(nn.Linear(2, 2)).param_groups[0]
    assert (group["momentum"], group["weight_decay"], group["nesterov"]) == (0.9, 5e-4, False)


# evaluation


def test_evaluate_counts_a_known_answer(digits):
    class Always3(nn.Module):
        def forward(self, x):
            return torch.nn.functional.one_hot(torch.full((len(x),), 3), 10) * 5.0

    found = evaluate(Always3(), digits.val, digits)
    share = (digits.val.labels == 3).float().mean().item()
    assert found["accuracy"] == pytest.approx(share)
    right, wrong = -5 + math.log(math.exp(5) + 9), math.log(math.exp(5) + 9)
    assert found["loss"] == pytest.approx(share * right + (1 - share) * wrong, rel=1e-5)


@pytest.mark.parametrize("training", [True, False])
def test_trap_S18_evaluation_builds_no_graph_and_restores_the_mode(digits, training):
    model, seen = network().train(training), []
    model.register_forward_hook(lambda module, _, logits: seen.append((module.training, logits.requires_grad)))
    assert evaluate(model, digits.val, digits)["loss"] > 0
    assert set(seen) == {(False, False)}
    assert model.training == training


def test_evaluate_does_not_depend_on_its_batch_size(digits):
    model = network()
    a, b = (evaluate(model, digits.val, digits, batch_size=size) for size in (7, 50))
    assert a == pytest.approx(b, rel=1e-5)


# distillation


def test_trap_S8_teacher_is_frozen_in_eval_mode_and_outside_the_graph(digits):
    objective = distillation(temperature.Fixed(4.0))
    before = {key: value.clone() for key, value in objective.teacher.state_dict().items()}
    modes = []
    objective.teacher.network.register_forward_hook(lambda *_: modes.append(torch.is_grad_enabled()))
    trainer(digits, objective).fit()
    assert modes and not any(modes)
    assert not objective.teacher.training
    assert all(p.grad is None and not p.requires_grad for p in objective.teacher.parameters())
    assert all(torch.equal(value, before[key]) for key, value in objective.teacher.state_dict().items())


def test_the_teacher_answers_before_the_student_so_that_their_maps_need_no_room_together(digits):
    objective, model, order = distillation(temperature.Fixed(4.0)), network(), []
    objective.teacher.network.register_forward_hook(lambda *_: order.append("teacher"))
    model.register_forward_hook(lambda *_: order.append("student") if model.training else None)
    trainer(digits, objective, model=model, epochs=1).fit()
    assert order == ["teacher", "student"] * math.ceil(100 / 32)


def test_trap_S2_one_draw_per_batch_reaches_the_loss(digits):
    used = []

    def spy(logits_s, logits_t, labels, tau, **weights):
        used.append(tau)
        return losses.hinton(logits_s, logits_t, labels, tau, **weights)

    policy = temperature.IntegerUniform(seed=5)
    trainer(digits, distillation(policy, spy)).fit()
    assert len(used) == 2 * math.ceil(100 / 32)
    alone = temperature.IntegerUniform(seed=5)
    assert used == policy.draws == [alone.draw() for _ in used]
    assert len(set(used)) > 1


def test_drawn_temperatures_change_what_is_learnt(digits):
    ends = []
    for tau in (2.0, 20.0):
        run = trainer(digits, distillation(temperature.Fixed(tau)))
        run.fit()
        ends.append(run.model.linear.weight.detach().clone())
    assert not torch.equal(*ends)


def test_terms_are_logged_apart(digits):
    history = trainer(digits, distillation(temperature.Fixed(4.0))).fit().history
    assert {"epoch", "lr", "loss_hard", "loss_soft", "train_accuracy", "val_accuracy", "val_loss"} == set(history[0])


# what is kept


def test_trap_S7_the_test_split_is_not_read_while_training(digits):
    class Forbidden:
        def __getattr__(self, name):
            raise AssertionError("the test split was read during training")

    blind = replace(digits, test=Forbidden())
    trainer(blind).fit()


def test_chosen_epoch_is_the_best_on_validation_and_its_weights_are_kept(digits):
    run = trainer(digits, epochs=4, lr=0.3)
    fit = run.fit()
    ranks = [(row["val_accuracy"], -row["val_loss"]) for row in fit.history]
    assert fit.chosen_epoch == 1 + ranks.index(max(ranks))
    run.model.load_state_dict(fit.chosen_weights)
    assert evaluate(run.model, digits.val, digits)["accuracy"] == max(ranks)[0]


def test_training_and_evaluation_are_metered_apart(digits):
    run = trainer(digits)
    run.fit()
    train, check = run.meter.cost("train").seconds, run.meter.cost("evaluate").seconds
    assert train > 0 and check > 0
    assert train == pytest.approx(sum(row["train_seconds"] for row in run.fit_state.timings), abs=0.05)


def test_callers_random_numbers_are_left_alone(digits):
    torch.manual_seed(1)
    wanted = torch.rand(3)
    torch.manual_seed(1)
    trainer(digits).fit()
    assert torch.equal(torch.rand(3), wanted)


def test_same_seed_same_history_other_seed_another(digits):
    a, b, c = (trainer(digits, seed=seed).fit().history for seed in (0, 0, 1))
    assert a == b != c


def test_trap_S6_compared_students_start_equal_and_seeds_differ():
    def weights(seed):
        return torch.cat([p.detach().flatten() for p in network(seed).parameters()])

    assert torch.equal(weights(3), weights(3))
    assert not torch.equal(weights(3), weights(4))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_no_number_stops_with_a_clear_error_and_keeps_the_checkpoint(digits, tmp_path, bad):
    calls = []

    def breaks(logits_s, logits_t, labels, tau, **weights):
        calls.append(tau)
        factor = bad if len(calls) > 4 else 1.0
        return {"hard": logits_s.sum() * 0, "soft": logits_s.square().mean() * factor}

    run = trainer(digits, distillation(temperature.Fixed(4.0), breaks), path=tmp_path / "c.pt")
    with pytest.raises(Diverged, match="stopped in epoch 2 .*NaN or Inf in .*loss_soft.*lower lr"):
        run.fit()
    saved = torch.load(tmp_path / "c.pt", weights_only=True)
    assert len(saved["fit"]["history"]) == 1
    assert all(value.isfinite().all() for value in saved["model"].values() if value.is_floating_point())


def test_a_checkpoint_of_an_earlier_version_is_said_and_the_run_starts_anew(digits, tmp_path, capsys):
    path = tmp_path / "c.pt"
    whole = trainer(digits, path=path).fit().history
    state = torch.load(path, weights_only=True)
    del state["random"]
    torch.save(state, path)
    fit = trainer(digits, path=path).fit()
    assert (fit.history, fit.resumed) == (whole, 0)
    said = capsys.readouterr().out
    assert "of an earlier version" in said and said.count("\n") == 1


def test_a_step_as_a_gpu_would_record_it_is_the_same_step(digits):
    plain, recorded = (trainer(digits) for _ in range(2))
    recorded._recorded = recorded._recorder()
    assert plain._recorded is None and plain.fit().history == recorded.fit().history


def test_a_trainer_is_gone_when_nobody_needs_it(digits):
    one = trainer(digits)
    one._recorded = one._recorder()
    gone = weakref.ref(one)
    gc.disable()  # which would find circles, if late
    try:
        del one
        assert gone() is None
    finally:
        gc.enable()
