"""The paper's three networks: published sizes, any channels and width, seeds, a forward pass without waste."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from stkd_utils import models

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
