"""The fast teacher gives the teacher's logits, precision is a switch, and nothing that was given is changed."""

import time
from contextlib import nullcontext
from copy import deepcopy

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from stkd_utils import engine, experiments, models

NAMES = models.names()
FAMILIES = (  # one network of each kind; the deeper ones take longer and round more
    "alexnet", "cnn", "densenet121", "googlenet", "mobilenetv2", "resnet18", "resnet50", "shufflenetv2", "vgg19bn",
    "wrn16x2",
)  # fmt: skip


def trained(name, classes=10):
    """A network whose batch statistics are those of real activations, so that folding them matters."""
    model = models.build(name, classes, width=0.25, depth=0.25, seed=0)
    with torch.no_grad():
        for _ in range(5):
            model(images(32, 1) * 3 + 1)
        for layer in model.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.weight.uniform_(0.5, 1.5, generator=torch.Generator().manual_seed(1))
                layer.bias.normal_(0, 0.5, generator=torch.Generator().manual_seed(2))
    return model


def images(count=16, seed=0):
    return torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


def logits_of(model):
    with torch.no_grad():
        return deepcopy(model).eval()(images())


@pytest.mark.parametrize("name", NAMES)
def test_frozen_gives_the_same_logits(name):
    model = trained(name)
    fast = engine.frozen(model, "float32", "cpu")(images())
    torch.testing.assert_close(fast, logits_of(model), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_bfloat16_teacher_is_close_and_hardly_ever_changes_its_mind(name):
    model = trained(name)
    wanted, low = logits_of(model), engine.frozen(model, "bfloat16", "cpu")(images())
    assert low.dtype == torch.float32
    assert 0 < (low - wanted).abs().max() < 0.05 * wanted.std() + 0.02 * wanted.abs().max()
    assert (low.softmax(1) - wanted.softmax(1)).abs().max() < 0.03


def test_batch_normalisation_is_folded():
    fast = engine.frozen(trained("resnet18"), "float32", "cpu")
    assert not [layer for layer in fast.modules() if isinstance(layer, nn.BatchNorm2d)]


def test_a_network_that_cannot_be_traced_answers_unfolded():
    class Choosy(nn.Module):
        def __init__(self):
            super().__init__()
            self.network = trained("resnet18")

        def forward(self, x):
            return self.network(x) if x.sum() == x.sum() else x

    model = Choosy()
    torch.testing.assert_close(engine.frozen(model, "float32", "cpu")(images()), logits_of(model), rtol=1e-4, atol=1e-4)


def test_the_given_model_stays_as_it_is():
    model = trained("mobilenetv2").train()
    before = deepcopy(model.state_dict())
    fast = engine.frozen(model, "bfloat16", "cpu")
    fast(images())
    assert model.training and all(parameter.requires_grad for parameter in model.parameters())
    assert list(model.state_dict()) == list(before)
    assert all(torch.equal(model.state_dict()[key], value) for key, value in before.items())
    assert {p.data_ptr() for p in model.parameters()}.isdisjoint(p.data_ptr() for p in fast.parameters())


def test_frozen_stays_in_evaluation_mode():
    fast = engine.frozen(trained("resnet18"), "float32", "cpu")
    assert not any(layer.training for layer in fast.train().modules())
    assert not any(parameter.requires_grad for parameter in fast.parameters())


def test_a_loss_may_keep_the_logits_for_its_gradient():
    logits_t = engine.frozen(trained("resnet18"), "float32", "cpu")(images())
    assert not logits_t.requires_grad
    logits_s = torch.zeros_like(logits_t, requires_grad=True)
    (logits_s * logits_t).sum().backward()
    assert torch.equal(logits_s.grad, logits_t)


def test_images_stay_as_they_are():
    given = images()
    engine.frozen(trained("resnet18"), "bfloat16", "cpu")(given)
    assert torch.equal(given, images()) and given.dtype == torch.float32 and given.is_contiguous()


# Precision


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_named_precision_means_itself(precision):
    assert engine.resolve(precision, "cpu") == engine.resolve(precision, torch.device("cuda")) == precision


@pytest.mark.parametrize(("native", "expected"), [(True, "bfloat16"), (False, "float32")])
def test_auto_asks_the_processor(monkeypatch, native, expected):
    monkeypatch.setattr(engine, "_cpu_has_bfloat16", lambda: native)
    assert engine.resolve("auto", "cpu") == expected


@pytest.mark.parametrize(("native", "expected"), [(True, "bfloat16"), (False, "float32")])
def test_auto_asks_the_gpu_and_does_not_count_emulation(monkeypatch, native, expected):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation or native)
    assert engine.resolve("auto", "cuda") == expected


def test_auto_is_float32_where_nothing_is_known():
    assert engine.resolve("auto", "meta") == "float32"


@pytest.mark.parametrize("precision", ["fp16", "", None, "Float32"])
@pytest.mark.parametrize("call", [engine.resolve, lambda p, d: engine.autocast(d, p).__enter__()])
def test_unknown_precision_lists_the_known_ones(call, precision):
    with pytest.raises(ValueError, match=r"^Unknown precision .*; choose one of: float32, bfloat16, auto\.$"):
        call(precision, "cpu")


def test_autocast_computes_in_bfloat16_and_keeps_weights_in_float32():
    layer = nn.Linear(4, 4)
    with engine.autocast("cpu", "bfloat16"):
        out = layer(torch.ones(1, 4))
    out.float().sum().backward()
    assert (out.dtype, layer.weight.dtype, layer.weight.grad.dtype) == (torch.bfloat16, torch.float32, torch.float32)


def test_autocast_in_float32_changes_nothing():
    with engine.autocast("cpu", "float32"):
        assert nn.Linear(4, 4)(torch.ones(1, 4)).dtype == torch.float32


class Convolutions(TorchDispatchMode):
    """Notes (groups, stride, type) of every convolution whose gradient is computed, and the smallest padded map."""

    def __init__(self):
        super().__init__()
        self.seen, self.padded = set(), set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.convolution_backward.default:
            if args[9] > 1 and max(args[5]) > 0:
                self.padded.add(min(args[1].shape[2:]))
            self.seen.add((args[9] > 1, args[4][0], args[1].dtype))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", ["mobilenetv2", "shufflenetv2"])
def test_the_gradient_without_a_fast_kernel_is_avoided(name):
    model = models.build(name, 10, width=0.25, depth=0.25, seed=0)
    with engine.autocast("cpu", "bfloat16"):
        logits = model(images())
    with Convolutions() as convolutions:
        logits.float().square().sum().backward()
    assert convolutions.seen == {(depthwise, 1, torch.bfloat16) for depthwise in (False, True)}


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_no_depthwise_gradient_is_taken_of_a_map_smaller_than_the_kernel(precision):
    model = models.build("mobilenetv2", 10, channels=1, width=0.25, depth=0.25, seed=0)
    plain, ours = Convolutions(), Convolutions()
    for convolutions, way in ((plain, nullcontext()), (ours, engine.autocast("cpu", precision))):
        with way:
            logits = model(images()[:, :1, :8, :8])
        with convolutions:
            logits.float().square().sum().backward()
    assert min(plain.padded) == 2 and min(ours.padded) == 3


@pytest.mark.parametrize("options", [{}, {"stride": 2}, {"kernel_size": 5, "padding": 2}, {"padding": (1, 0)}])
@pytest.mark.parametrize("size", [(1, 1), (2, 2), (1, 3), (3, 3), (2, 7)])
def test_a_map_padded_first_has_the_same_convolution_and_gradients(size, options):
    options = {"kernel_size": 3, "padding": 1} | options
    layer = nn.Conv2d(8, 8, groups=8, **options)
    maps = torch.randn(4, 8, *size, generator=torch.Generator().manual_seed(0)).requires_grad_()
    if any(side + 2 * pad < options["kernel_size"] for side, pad in zip(size, layer.padding, strict=True)):
        pytest.skip("too small a map for this kernel")
    wanted = layer(maps)
    with engine.autocast("cpu", "float32"):
        found = layer(maps)
    torch.testing.assert_close(found, wanted)
    gradients = (torch.autograd.grad(out.square().sum(), [maps, *layer.parameters()]) for out in (found, wanted))
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    "layer",
    [nn.Conv2d(8, 8, 3, padding="same", groups=8), *(nn.Conv2d(8, 16, 3, stride, 1, groups=2) for stride in (1, 2))],
)
def test_other_grouped_convolutions_are_left_alone(layer, precision):
    maps = torch.randn(2, 8, 2, 2, generator=torch.Generator().manual_seed(0))
    with engine.autocast("cpu", precision):
        found = layer(maps)
    rounding = {"rtol": 0.02, "atol": 0.02} if precision == "bfloat16" else {}
    torch.testing.assert_close(found.float(), layer(maps), **rounding)
    with Convolutions() as convolutions:
        found.float().sum().backward()
    assert convolutions.seen == {(True, layer.stride[0], found.dtype)}, "computed without its stride"


@pytest.mark.parametrize(("size", "stride"), [(8, 2), (7, 2), (9, 3), (8, (2, 1))])
def test_a_thinned_out_convolution_is_the_one_with_a_stride(size, stride):
    maps = torch.randn(2, 4, size, size, generator=torch.Generator().manual_seed(0)).bfloat16().float()
    layer = nn.Conv2d(4, 4, 3, stride=stride, padding=1, groups=4)
    layer.weight.data = layer.weight.data.bfloat16().float()
    wanted = torch.autograd.grad(layer(maps.requires_grad_()).square().sum(), [maps, layer.weight])
    with engine.autocast("cpu", "bfloat16"):
        out = layer(maps)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), layer(maps), rtol=0.02, atol=0.01)
    for low, full in zip(torch.autograd.grad(out.float().square().sum(), [maps, layer.weight]), wanted, strict=True):
        assert (low - full).norm() < 0.02 * full.norm()


@pytest.mark.parametrize("name", FAMILIES)
def test_bfloat16_gradient_points_roughly_where_the_float32_gradient_does(name):
    def gradient(precision):
        model = models.build(name, 10, width=0.25, depth=0.25, seed=0)
        with engine.autocast("cpu", precision), torch.random.fork_rng():
            torch.manual_seed(0)  # of dropout
            logits = model(images(64))
        nn.functional.cross_entropy(logits.float(), torch.arange(64) % 10).backward()
        return torch.cat([parameter.grad.flatten() for parameter in model.parameters()])

    low, full = gradient("bfloat16"), gradient("float32")
    assert low.dtype == torch.float32
    assert nn.functional.cosine_similarity(low, full, dim=0) > 0.9


def test_compiling_is_a_switch_that_leaves_run_ids_and_answers_alone(monkeypatch, on_cpu, tmp_path):
    compiled_ones, compile_ = [], torch.nn.Module.compile

    def eager(self):  # dynamo's tracing without a compiler, so that the arithmetic stays as it was
        compiled_ones.append(self)
        compile_(self, backend="eager")

    monkeypatch.setattr(torch.nn.Module, "compile", eager)
    options = {"profile": "smoke", "progress": "none", "train_limit": 64, "batch_size": 32, "val_limit": 32}
    name = "digits/resnet18-mobilenetv2-stochastic"
    plain = experiments.run(name, runs=tmp_path, **options)
    again = experiments.run(name, runs=tmp_path, compiled=None, **options)
    assert compiled_ones == [] and again.record["id"] == plain.record["id"] and not again.new
    compiled = experiments.run(name, runs=tmp_path, compiled=True, **options)
    assert len(compiled_ones) == 2 and compiled.record["asked"]["compiled"] is True  # teacher and student
    assert compiled.record["history"] == plain.record["history"]
    assert compiled.record["result"] == plain.record["result"]
    torch.compiler.reset()


def test_the_time_of_compiling_is_part_of_the_bill(monkeypatch, on_cpu, tmp_path):
    compile_, compiled = torch.nn.Module.compile, []

    def slowly(graph, inputs):
        compiled.append(graph)
        if len(compiled) == 1:
            time.sleep(2.0)
        return graph

    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: compile_(self, backend=slowly))
    options = {"profile": "smoke", "progress": "none", "train_limit": 64, "batch_size": 32, "val_limit": 32}
    record = experiments.run("digits/mobilenetv2-base", runs=tmp_path, compiled=True, epochs=1, **options).record
    assert compiled and record["cost"]["train"]["seconds"] > 2.0
    torch.compiler.reset()


def test_on_a_cpu_a_captured_function_is_just_called():
    asked = []
    captured = engine.Captured(lambda *given: asked.append(given) or "answer")
    batch = torch.ones(2)
    assert [captured(batch, 0.5) for _ in range(engine.WARM_UP + 2)] == ["answer"] * (engine.WARM_UP + 2)
    assert captured.graphs == 0 and all(given[0] is batch and given[1] == 0.5 for given in asked)


def test_a_network_that_python_watches_or_that_draws_random_numbers_is_not_recorded():
    network = nn.Sequential(nn.Linear(1, 1), nn.ReLU())
    assert engine.recordable(network)
    handle = network[1].register_forward_pre_hook(lambda *_: None)
    assert not engine.recordable(network)
    handle.remove()
    assert engine.recordable(network) and not engine.recordable(nn.Sequential(network, nn.Dropout(0.5)))
