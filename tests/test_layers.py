"""The layers that keep fewer maps: equal to PyTorch's to the last bit, or as close as rounding allows."""

import copy

import pytest
import torch
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef

from stkd_utils import engine, models


@pytest.fixture(autouse=True)
def memory_counts(monkeypatch):
    monkeypatch.setenv("STKD_SMALL_MEMORY", "1")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_relu6_is_that_of_torch_to_the_last_bit_and_keeps_one_map(dtype):
    kept = []
    x = torch.linspace(-3, 9, 49, dtype=dtype).view(1, 1, 7, 7)  # with 0 and 6 themselves
    results = []
    for layer in (nn.ReLU6(inplace=True), models.layers.ReLU6(inplace=True)):
        leaf = x.clone().requires_grad_()
        kept.clear()
        with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
            out = layer(leaf * 1)
        out.backward(torch.ones_like(out))
        results.append((out.detach(), leaf.grad))
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))
    assert len(kept) == 1 and kept[0].data_ptr() == out.data_ptr()


def test_relu6_out_of_place_leaves_its_input_alone():
    x = torch.full((2,), 7.0)
    assert models.layers.ReLU6()(x).tolist() == [6, 6] and x.tolist() == [7, 7]


@pytest.mark.parametrize("size", [32, 8])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["mobilenetv2", "shufflenetv2"])
def test_a_chain_learns_the_same_from_fewer_maps(name, precision, size):
    chained = models.build(name, 10, width=0.5, seed=0).to(memory_format=torch.channels_last)
    plain = copy.deepcopy(chained)
    for module in plain.modules():  # but not ReLU6, which saves memory of its own
        if type(module) is models.layers.Chain:
            module.__class__ = nn.Sequential
    images, results, kept = torch.randn(16, 3, size, size, generator=torch.Generator().manual_seed(0)), [], []
    for model in (chained, plain):
        storages = {}

        def keep(tensor, storages=storages):
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with engine.autocast("cpu", precision), torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
            logits = model(images).float()
        logits.square().sum().backward()
        kept.append(sum(storages.values()))
        results.append([logits.detach(), *(weight.grad for weight in model.parameters()), *model.buffers()])
    assert torch.equal(results[0][0], results[1][0])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
    assert kept[0] < 0.6 * kept[1]


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("name", ["mobilenetv2", "shufflenetv2"])
def test_a_chain_leaves_out_a_bias_that_a_normalisation_takes_away(monkeypatch, name, compiled):
    with_biases = models.build(name, 10, width=0.25, depth=0.5, seed=0).double()
    for module in with_biases.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.3
    without = copy.deepcopy(with_biases)
    models.layers.plain(with_biases)
    monkeypatch.setattr(models.layers.Chain, "forward", models.layers.Chain.unbiased)  # as in training on a GPU
    images = torch.randn(8, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    if compiled:
        torch.compiler.reset()
        without.compile(backend="aot_eager")
    answers = [model(images) for model in (with_biases, without)]
    torch.testing.assert_close(*answers)
    for answer in answers:
        answer.square().sum().backward()
    idle = 0
    for (key, one), other in zip(with_biases.named_parameters(), without.parameters(), strict=True):
        if other.grad is None:
            assert key.endswith("bias") and one.grad.abs().max() < 1e-9
            idle += 1
        else:
            torch.testing.assert_close(one.grad, other.grad, rtol=1e-6, atol=1e-9)
    assert idle == sum(isinstance(module, nn.BatchNorm2d) for module in without.modules())
    for one, other in zip(with_biases.buffers(), without.buffers(), strict=True):
        torch.testing.assert_close(one, other)


def test_a_chain_on_a_gpu_adds_the_bias_where_it_matters(monkeypatch):
    monkeypatch.setattr(models.layers.Chain, "_frugal", models.layers.Chain.unbiased)
    x, seen = torch.randn(4, 1, 4, 4), []
    for change in ("nothing", "frozen normalisation", "hook", "hook of the normalisation"):
        chain = models.layers.Chain(*models.layers.conv_bn_relu(1, 4), nn.Conv2d(4, 2, 1))
        if change == "frozen normalisation":
            chain[1].eval()
        if change == "hook":
            chain[0].register_forward_hook(lambda layer, images, maps: seen.append(maps))
        if change == "hook of the normalisation":
            chain[1].register_forward_pre_hook(lambda layer, inputs: seen.append(inputs))
        plain = copy.deepcopy(nn.Sequential(*chain))
        torch.testing.assert_close(chain(x), plain(x))
        torch.testing.assert_close(chain[1].running_mean, plain[1].running_mean)
        chain(x).square().sum().backward()
        assert (chain[0].bias.grad is None) == (change == "nothing") and chain[3].bias.grad is not None
    assert len(seen) > 4


def test_a_chain_on_a_gpu_answers_twice_before_it_learns(monkeypatch):
    monkeypatch.setattr(models.layers.Chain, "_frugal", models.layers.Chain.unbiased)
    chain, x = depthwise_chain().double(), torch.randn(4, 1, 4, 4, dtype=torch.float64)
    plain = copy.deepcopy(nn.Sequential(*chain))
    for network in (chain, plain):
        (network(x).square().sum() + network(2 * x).sum()).backward()
    for one, other in zip(chain.parameters(), plain.parameters(), strict=True):
        if one.grad is not None:
            torch.testing.assert_close(one.grad, other.grad)
    torch.testing.assert_close(chain[1].running_mean, plain[1].running_mean)


@pytest.mark.parametrize("precision, asked, fewer", [("float32", "", 0), ("float32", "1", 1), ("bfloat16", "", 1)])
def test_maps_are_computed_again_in_16_bits_or_where_memory_counts(monkeypatch, precision, asked, fewer):
    monkeypatch.setenv("STKD_SMALL_MEMORY", asked)
    kept, chain = [], depthwise_chain()
    for network in (chain, nn.Sequential(*chain)):
        tensors = []  # alive, so that no address comes twice
        hooks = torch.autograd.graph.saved_tensors_hooks(tensors.append, lambda tensor: tensor)
        with engine.autocast("cpu", precision), hooks:
            network(torch.randn(8, 1, 8, 8))
        kept.append(len({tensor.untyped_storage().data_ptr() for tensor in tensors}))
    assert (kept[0] < kept[1]) == bool(fewer)


def test_a_chain_lets_go_of_its_maps_during_the_backward_pass():
    chain, maps = models.layers.Chain(*models.layers.conv_bn_relu(1, 4), nn.Conv2d(4, 1, 1)), []
    chain[0].register_forward_hook(lambda layer, images, y: maps.append(StorageWeakRef(y.untyped_storage())))
    outputs = chain(torch.ones(2, 1, 4, 4))
    assert not maps[0].expired()
    outputs.sum().backward()
    assert maps[0].expired(), "kept as long as the outputs live"


def depthwise_chain(kind=models.layers.Chain):
    layers = models.layers
    torch.manual_seed(0)
    return kind(
        *layers.conv_bn_relu(1, 4), *layers.conv_bn(4, 4, 3, groups=4), *layers.conv_bn_relu(4, 4), nn.Conv2d(4, 1, 1)
    )


def test_a_chain_with_a_frozen_normalisation_learns_the_same():
    images, results = torch.randn(2, 1, 4, 4), []
    for kind in (models.layers.Chain, nn.Sequential):
        chain = depthwise_chain(kind)
        for number in (1, 4):
            chain[number].eval()
        results.append(torch.autograd.grad(chain(images).square().sum(), list(chain.parameters())))
    assert all(torch.allclose(one, other, rtol=1e-5, atol=1e-6) for one, other in zip(*results, strict=True))


@pytest.mark.parametrize("side", [4, 2])  # the second is smaller than the kernel
@pytest.mark.parametrize("length", [8, 9])  # ends with an activation, with a convolution
def test_a_chain_can_be_asked_twice_for_its_gradient(side, length):
    chain, images = depthwise_chain()[:length], torch.randn(2, 1, side, side)
    with engine.autocast("cpu", "float32"):
        loss = chain(images).square().sum()
    first, second = (torch.autograd.grad(loss, list(chain.parameters()), retain_graph=True) for _ in range(2))
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


@pytest.mark.parametrize("first, last", [(0, 3), (3, 6)])  # with an activation, without
def test_a_chain_gives_no_second_derivative_and_says_so(first, last):
    chain, images = depthwise_chain()[first:last], torch.ones(2, 4 if first else 1, 4, 4, requires_grad=True)
    with pytest.raises(RuntimeError, match="once_differentiable|has no second derivative"):
        [gradient] = torch.autograd.grad(chain(images).square().sum(), images, create_graph=True)
        gradient.sum().backward()


@pytest.mark.parametrize("name", ["mobilenetv2", "shufflenetv2"])
def test_a_plain_network_is_the_same_of_pytorchs_own_layers(name):
    own = models.build(name, 10, width=0.25, seed=0)
    plain = models.layers.plain(copy.deepcopy(own))
    kinds = {type(module) for module in plain.modules()}
    assert models.layers.Chain not in kinds and models.layers.ReLU6 not in kinds
    assert kinds & {nn.ReLU6, nn.ReLU} and plain.state_dict().keys() == own.state_dict().keys()
    images, gradients = torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(0)), []
    answers = [model(images) for model in (own, plain)]
    assert torch.equal(*answers)
    for model, answer in zip((own, plain), answers, strict=True):
        answer.square().sum().backward()
        gradients.append(torch.cat([weight.grad.flatten() for weight in model.parameters()]))
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-4)
