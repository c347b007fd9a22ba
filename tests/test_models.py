"""The paper's three networks: published sizes, any channels and width, seeds, a forward pass without waste."""

import copy

import pytest
import torch
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils.flop_counter import FlopCounterMode

from stkd_utils import engine, models

NAMES = ("mobilenetv2", "resnet18", "shufflenetv2")
DIGITS = {"channels": 1, "width": 0.25}
KEYS = {  # some parameter names and shapes of the paper's checkpoints, 100 classes
    "resnet18": {
        "conv1.weight": (64, 3, 3, 3),
        "layer2.0.shortcut.0.weight": (128, 64, 1, 1),
        "layer4.1.bn2.running_var": (512,),
        "linear.bias": (100,),
    },
    "mobilenetv2": {
        "pre.0.bias": (32,),
        "stage1.residual.6.weight": (16, 32, 1, 1),
        "stage2.0.residual.3.weight": (96, 1, 3, 3),
        "stage6.2.residual.7.running_mean": (160,),
        "stage7.residual.0.weight": (960, 160, 1, 1),
        "conv1.0.weight": (1280, 320, 1, 1),
        "conv2.weight": (100, 1280, 1, 1),
    },
    "shufflenetv2": {
        "pre.0.weight": (24, 3, 3, 3),
        "stage2.0.residual.5.weight": (58, 24, 1, 1),
        "stage3.0.shortcut.2.weight": (116, 116, 1, 1),
        "stage4.3.residual.6.num_batches_tracked": (),
        "conv5.0.weight": (1024, 464, 1, 1),
        "fc.weight": (100, 1024),
    },
}
every_model = pytest.mark.parametrize("name", NAMES)


def parameters(model):
    return sum(parameter.numel() for parameter in model.parameters())


def digits_batch(batch=4):
    return torch.randn(batch, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def meta_macs(name, classes, size):
    with torch.device("meta"):
        model, images = models.build(name, classes).eval(), torch.empty(1, 3, size, size)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(images)
    return counter.get_total_flops() / 2


# What the paper's networks are


@pytest.mark.parametrize(
    ("name", "classes", "expected"),
    [
        ("resnet18", 100, 11_220_132),
        ("mobilenetv2", 100, 2_369_380),
        ("shufflenetv2", 100, 1_360_896),
        ("resnet18", 10, 11_173_962),
        ("mobilenetv2", 10, 2_254_090),
        ("shufflenetv2", 10, 1_268_646),
    ],
)
def test_parameter_counts_are_the_papers(name, classes, expected):
    assert parameters(models.build(name, classes)) == expected


@every_model
def test_parameter_names_and_shapes_are_those_of_the_published_checkpoints(name):
    state = models.build(name, 100).state_dict()
    assert {key: tuple(state[key].shape) for key in KEYS[name]} == KEYS[name]


@pytest.mark.parametrize(("name", "entries"), [("resnet18", 122), ("mobilenetv2", 373), ("shufflenetv2", 394)])
def test_state_has_no_entry_more_or_less(name, entries):
    assert len(models.build(name, 100).state_dict()) == entries


@pytest.mark.parametrize(
    ("name", "at_32", "at_64"),
    [("resnet18", 0.555, 2.222), ("mobilenetv2", 0.065, 0.216), ("shufflenetv2", 0.044, 0.175)],
)
def test_strides_give_the_papers_gmacs(name, at_32, at_64):
    assert meta_macs(name, 100, 32) / 1e9 == pytest.approx(at_32, abs=6e-4)
    assert meta_macs(name, 200, 64) / 1e9 == pytest.approx(at_64, abs=6e-4)


def test_mobilenetv2_stem_widens_the_map_by_its_padding():
    assert models.build("mobilenetv2", 10).pre(torch.zeros(1, 3, 32, 32)).shape == (1, 32, 34, 34)


def test_shufflenetv2_units_alternate_the_channels_of_both_branches():
    unit = models.build("shufflenetv2", 10, **DIGITS).eval().stage2[1]
    images = torch.randn(2, 28, 4, 4)
    with torch.no_grad():
        out = unit(images)
        assert torch.equal(out[:, 0::2], images[:, :14])
        assert torch.equal(out[:, 1::2], unit.residual(images[:, 14:]))


# Sizes


@every_model
def test_quarter_width_is_a_small_network(name):
    assert parameters(models.build(name, 10, **DIGITS)) < parameters(models.build(name, 10)) / 10


@every_model
@pytest.mark.parametrize("width", [0.01, 0.1, 0.33, 1.5])
def test_any_width_works_and_keeps_a_smallest_channel_count(name, width):
    model = models.build(name, 3, channels=1, width=width)
    assert min(layer.num_features for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)) >= 2
    assert model(digits_batch(2)).shape == (2, 3)


@every_model
@pytest.mark.parametrize("size", [{"classes": 0}, {"channels": 0}, {"width": 0.0}, {"width": -1.0}, {"depth": 0.0}])
def test_a_size_that_is_not_positive_is_refused(name, size):
    with pytest.raises(ValueError, match="must be positive"):
        models.build(name, **{"classes": 10} | size)


# Names


@pytest.mark.parametrize("name", ["ResNet18", "resnet51", "", "wrn40", "wrn40x2x", "xwrn40x2"])
def test_trap_S10_unknown_name_lists_the_known_ones(name):
    assert not models.known(name)
    with pytest.raises(ValueError, match=r"alexnet, cnn, .*wrn40x2, or any wrn<depth>x<width>\.$"):
        models.build(name, 10)


def test_registering_adds_a_model_and_never_replaces_one(monkeypatch):
    monkeypatch.setattr(models.registry, "_MODELS", dict(models.registry._MODELS))

    @models.register("mean-pixel")
    class MeanPixel(nn.Module):
        def __init__(self, classes, channels, width, depth):
            super().__init__()
            self.linear = nn.Linear(channels, classes)

        def forward(self, x):
            return self.linear(x.mean((2, 3)))

    assert models.build("mean-pixel", 10, channels=1)(digits_batch()).shape == (4, 10)
    with pytest.raises(ValueError, match="exists already"):
        models.register("resnet18")(nn.Identity)


# Seeds


def test_equal_seeds_give_equal_weights_whatever_was_drawn_before():
    first = models.build("resnet18", 10, **DIGITS, seed=1)
    torch.rand(17)
    assert torch.equal(first.linear.weight, models.build("resnet18", 10, **DIGITS, seed=1).linear.weight)


def test_a_seed_leaves_the_global_random_state_alone(monkeypatch):
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda seed: pytest.fail("reseeded the GPUs"))
    before = torch.get_rng_state()
    models.build("shufflenetv2", 10, **DIGITS, seed=1)
    assert torch.equal(torch.get_rng_state(), before)


def test_without_a_seed_the_global_random_state_decides():
    def weight():
        return models.build("resnet18", 10, **DIGITS).linear.weight

    torch.manual_seed(0)
    first, second = weight(), weight()
    torch.manual_seed(0)
    assert torch.equal(weight(), first)
    assert not torch.equal(first, second)


# Forward and backward


@every_model
def test_traps_S20_and_S22_every_layer_runs_exactly_once_and_through_its_hooks(name):
    model = models.build(name, 10, **DIGITS)
    layers = list(model.modules())
    calls = []
    for layer in layers:
        layer.register_forward_hook(lambda layer, *_: calls.append(layer))
    model(digits_batch())
    assert len(calls) == len(layers) == len(set(calls))


@every_model
def test_trap_S20_every_parameter_takes_part_in_the_logits(name):
    model = models.build(name, 10, **DIGITS, seed=0)
    model(digits_batch()).square().sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@every_model
def test_trap_D11_two_models_share_no_weights(name):
    first, second = models.build(name, 10, **DIGITS), models.build(name, 10, **DIGITS)
    addresses = {parameter.data_ptr() for parameter in first.parameters()}
    assert addresses.isdisjoint(parameter.data_ptr() for parameter in second.parameters())


@pytest.mark.parametrize("name, blocks", [("resnet18", 4), ("mobilenetv2", 7), ("shufflenetv2", 4)])
def test_quarter_depth_keeps_at_least_one_block_a_stage(name, blocks):
    kinds = {"Block", "Bottleneck", "Unit", "DownUnit"}
    model = models.build(name, 10, depth=0.25)
    assert sum(type(module).__name__ in kinds for module in model.modules()) == blocks
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


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
    for module in plain.modules():
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
    with_biases = models.build(name, 10, width=0.25, seed=0).double()
    for module in with_biases.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.3
    without = copy.deepcopy(with_biases)
    for module in with_biases.modules():
        if type(module) is models.layers.Chain:
            module.__class__ = nn.Sequential
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
