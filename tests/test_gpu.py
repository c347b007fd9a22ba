"""What only a GPU can show: recorded steps, students side by side, the energy counter. `make bench-gpu` runs it."""

import itertools

import pytest
import torch

from stkd_utils import carbon, data, engine, experiments, models, temperature, training
from stkd_utils.data import Augmentation
from stkd_utils.experiments import classification, together
from stkd_utils.objectives import Distillation, Supervised, Teacher
from stkd_utils.protocol import Protocol
from stkd_utils.training import Trainer, train

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU on this machine"),
]
TINY = {"profile": "smoke", "progress": "none", "epochs": 6}
MOVES = Augmentation(1, True, 10.0)


@pytest.fixture(scope="module")
def digits():
    return data.load("digits", device="cuda", train_limit=200, val_limit=60, test_limit=60)


def trainer(digits, student="mobilenetv2", seed=0, teacher=None, policy="stochastic", precision="float32", **protocol):
    model = models.build(student, digits.classes, channels=1, width=0.25, depth=0.25, seed=seed).to("cuda")
    asked = {"tau": 4.0} if policy == "fixed" else {"tau_low": 2, "tau_high": 20}
    objective = Supervised()
    if teacher:
        objective = Distillation(teacher, temperature.build(policy, seed=seed, **asked), 0.05, 0.95)
    return Trainer(
        model, digits, Protocol(**{"epochs": 6, "batch_size": 64, "lr": 0.05, **protocol}), objective, seed=seed,
        data_seed=0, augmentation=MOVES, meter=carbon.Meter(), precision=precision, macs=(1, 1), name=str(seed),
    )  # fmt: skip


def a_teacher(digits):
    network = models.build("resnet18", digits.classes, channels=1, width=0.25, depth=0.25, seed=9)
    return Teacher(engine.frozen(network, "float32", "cuda"))


def losses(history):
    return torch.tensor([sum(value for key, value in row.items() if key.startswith("loss_")) for row in history])


def idle_weights(trainer):
    """The parameters that never had a gradient."""
    state = trainer.optimiser.state
    return [weight for weight in trainer.model.parameters() if not state[weight]["momentum_buffer"].any()]


@pytest.fixture
def deterministic(monkeypatch):
    """Convolutions add in one order, so that a run and its repetition differ by little else than nothing."""
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)


def test_numbers_and_tensors_reach_a_recorded_function():
    weight, seen = torch.zeros(3, device="cuda"), []

    def function(x, factor):
        seen.append(factor)
        weight.add_(x * factor)
        return weight * 2

    captured, lanes, expected = engine.Captured(function), engine.Lanes(1, "cuda"), torch.zeros(3)
    for number in range(10):
        x = torch.full((3,), float(number))
        with lanes[0]:
            out = captured(x.cuda(), number / 2)
        lanes.join()
        expected += x * number / 2
        assert torch.equal(out.cpu(), 2 * expected) and torch.equal(weight.cpu(), expected)
    assert len(seen) == engine.WARM_UP + 1  # Python was not asked again


def test_a_graph_for_every_shape():
    captured, lanes = engine.Captured(lambda x: x.sum()), engine.Lanes(1, "cuda")
    for turn in range(6):
        for count in (3, 5):
            with lanes[0]:
                total = captured(torch.full((count,), float(turn), device="cuda"))
            lanes.join()
            assert total.item() == count * turn
    assert captured.graphs == 2


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("policy", ["fixed", "stochastic", "learnable", None])
def test_recorded_steps_learn_as_those_started_one_by_one(digits, deterministic, monkeypatch, policy, precision):
    found = []
    for warm_up in (3, 10**9):
        monkeypatch.setattr(engine, "WARM_UP", warm_up)
        one = trainer(digits, teacher=a_teacher(digits) if policy else None, policy=policy, precision=precision)
        found.append(losses(one.fit().history))
        recorded = one._recorded.graphs if one._recorded else 0
        assert recorded == (2 if warm_up == 3 and policy != "learnable" else 0)
    assert torch.allclose(*found, rtol=0.02)  # the same kernels; some add in an order that changes from run to run


@pytest.mark.timeout(900)
def test_a_compiled_network_is_recorded_too_and_learns_the_same(digits, deterministic):
    plain, compiled = (trainer(digits, teacher=a_teacher(digits)) for _ in range(2))
    for network in (compiled.model, compiled.objective.teacher.network.network):
        network.compile()
    assert torch.allclose(*(losses(one.fit().history) for one in (plain, compiled)), rtol=0.05)
    assert compiled._recorded.graphs == plain._recorded.graphs == 2


@pytest.mark.parametrize("student", ["mobilenetv2", "shufflenetv2"])
def test_a_bias_that_is_left_out_changes_nothing(digits, deterministic, monkeypatch, student):
    left_out, added = (trainer(digits, student, teacher=a_teacher(digits)) for _ in range(2))
    models.layers.plain(added.model)
    assert torch.allclose(*(losses(one.fit().history) for one in (left_out, added)), rtol=0.02)
    idle = idle_weights(left_out)
    assert len(idle) == sum(isinstance(module, torch.nn.BatchNorm2d) for module in left_out.model.modules())
    answers = [one.model.eval()(digits.val.images.float() / 255) for one in (left_out, added)]
    assert (answers[0] - answers[1]).norm() <= 0.1 * answers[1].norm()


def test_the_learning_rate_of_each_step_reaches_the_graph(digits):
    one = trainer(digits, epochs=20)
    train([one])
    before = {name: value.clone() for name, value in one.model.named_parameters()}
    batch = next(iter(digits.epoch(64, MOVES, one.generators, 21)))
    one.start_epoch()
    training.advance([one], batch, [0.0], engine.Lanes(1, "cuda"))
    assert all(torch.equal(value, before[name]) for name, value in one.model.named_parameters())
    training.advance([one], batch, [0.1], engine.Lanes(1, "cuda"))
    idle = idle_weights(one)
    for name, value in one.model.named_parameters():
        assert torch.equal(value, before[name]) == any(value is weight for weight in idle), name


@pytest.mark.parametrize("student", ["mobilenetv2", "googlenet"])
def test_side_by_side_each_learns_as_alone(digits, deterministic, student):
    seeds = (0, 1, 2)
    alone = [losses(trainer(digits, student, seed, a_teacher(digits)).fit().history) for seed in seeds]
    shared = a_teacher(digits)
    several = [trainer(digits, student, seed, shared) for seed in seeds]
    fits = train(several, carbon.Meter())
    for fit, expected in zip(fits, alone, strict=True):
        assert torch.allclose(losses(fit.history), expected, rtol=0.02)


@pytest.mark.parametrize("same", [True, False], ids=["the same trainer", "another one"])
def test_an_interrupted_run_goes_on(digits, deterministic, tmp_path, same):
    whole = trainer(digits, teacher=a_teacher(digits), milestones=())
    whole.fit()
    first = trainer(digits, teacher=a_teacher(digits), milestones=())
    first.path, first.save_seconds = tmp_path / "c.pt", 0.0

    def stop(row):
        if row["epoch"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        first.fit(on_epoch=stop)
    second = first if same else trainer(digits, teacher=a_teacher(digits), milestones=())
    second.path = first.path
    assert torch.allclose(losses(second.fit().history), losses(whole.fit_state.history), rtol=0.02)
    for mine, expected in zip(second.model.parameters(), whole.model.parameters(), strict=True):
        assert (mine - expected).norm() <= 0.05 * expected.norm() + 1e-3


@pytest.mark.parametrize("name", models.names())
def test_every_network_can_be_recorded(digits, name):
    one = trainer(digits, student=name, precision="bfloat16")
    history = one.fit().history
    assert torch.isfinite(losses(history)).all()
    assert one._recorded.graphs == (2 if engine.recordable(one.model.train()) else 0)


@pytest.mark.parametrize("method", classification.METHODS)
def test_every_way_to_teach_runs(method, tmp_path, monkeypatch):
    monkeypatch.setattr(together, "default_device", training.default_device)
    name = next(n for n in experiments.names() if n.startswith("digits/") and experiments.load(n)["method"] == method)
    run = experiments.run(name, 0, runs=tmp_path, **TINY)
    assert run.record["hardware"]["device"] == "cuda"
    assert torch.isfinite(losses(run.record["history"])).all()


def test_the_energy_of_a_run_is_read_from_the_gpu(tmp_path, monkeypatch):
    monkeypatch.setattr(together, "default_device", training.default_device)
    run = experiments.run("digits/resnet18-mobilenetv2-stochastic", 0, runs=tmp_path, **TINY)
    gpu = run.record["cost"]["train"]["components"]["gpu"]
    assert gpu["how"] == "measured" and gpu["kwh"] > 0
    assert run.record["hardware"]["gpu"]


def test_no_step_waits_for_the_gpu(digits):
    one = trainer(digits, teacher=a_teacher(digits))
    train([one])
    one.start_epoch()
    lanes, batches = engine.Lanes(1, "cuda"), digits.epoch(64, MOVES, one.generators, 7)
    first = next(batches)  # with it, what is drawn for the whole pass is copied to the GPU, and may wait
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for batch in itertools.chain([first], batches):
            training.advance([one], batch, [0.01], lanes)
    finally:
        torch.cuda.set_sync_debug_mode(before)
