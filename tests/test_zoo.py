"""Every network of the zoo by name: published sizes, every data set's images, and what the other rooms ask of it."""

import inspect
import subprocess
import sys

import pytest
import torch
from torch import nn
from torchvision.models import VGG, vgg19_bn
from torchvision.models.vgg import make_layers

from stkd_utils import compute, engine, models
from stkd_utils.experiments import classification
from stkd_utils.models.layers import resized
from stkd_utils.models.shufflenetv2 import interleave

SIZES = {  # parameters for 100 classes; what is known of the original's stands in book/ledger/networks.csv
    "alexnet": 2_495_396,
    "cnn": 369_124,
    "densenet121": 7_048_548,
    "densenet161": 26_681_188,
    "densenet169": 12_643_172,
    "densenet201": 18_277_220,
    "googlenet": 6_258_500,
    "mobilenetv2": 2_369_380,
    "resnet101": 42_697_380,
    "resnet152": 58_341_028,
    "resnet18": 11_220_132,
    "resnet34": 21_328_292,
    "resnet50": 23_705_252,
    "resnext101": 86_939_556,
    "resnext29": 34_518_948,
    "shufflenetv2": 1_360_896,
    "shufflenetv2x05": 448_268,
    "shufflenetv2x15": 2_584_716,
    "shufflenetv2x2": 5_550_976,
    "vgg19bn": 39_327_652,
    "wrn16x1": 180_916,
    "wrn16x2": 703_284,
    "wrn40x1": 569_780,
    "wrn40x2": 2_255_156,
}
FAMILIES = (
    "alexnet", "cnn", "densenet121", "googlenet", "mobilenetv2", "resnet18", "resnet50", "resnext29", "shufflenetv2",
    "vgg19bn", "wrn16x2",
)  # fmt: skip
SMALL = {"channels": 1, "width": 0.25, "depth": 0.25}
every_model = pytest.mark.parametrize("name", models.names())


def batch(count=2, channels=1, size=8):
    return torch.randn(count, channels, size, size, generator=torch.Generator().manual_seed(0))


def on_meta(name, classes, **size):
    with torch.device("meta"):
        return models.build(name, classes, **size)


def weighted(model):
    return [layer for layer in model.modules() if list(layer.parameters(recurse=False))]


def test_the_table_has_every_name():
    assert list(SIZES) == models.names()


@every_model
def test_every_network_has_the_published_size_and_its_docstring_says_so(name):
    model = on_meta(name, 100)
    assert compute.count(model, (3, 32, 32)).parameters == SIZES[name]
    assert f"{SIZES[name]:,}" in inspect.getdoc(type(model))
    logits = model(torch.empty(2, 3, 32, 32, device="meta"))
    logits.sum().backward()
    assert logits.shape == (2, 100)
    assert all(parameter.grad is not None for parameter in model.parameters())


@every_model
@pytest.mark.parametrize(("classes", "channels", "size"), [(200, 3, 64), (10, 1, 28)])
def test_trap_S21_every_network_takes_the_images_of_the_other_data_sets(name, classes, channels, size):
    model = on_meta(name, classes, channels=channels)
    logits = model(torch.empty(2, channels, size, size, device="meta"))
    logits.sum().backward()
    assert logits.shape == (2, classes)
    assert all(parameter.grad is not None for parameter in model.parameters())


@every_model
def test_trap_S21_a_small_network_trains_on_every_image_size(name):
    for classes, channels, sizes in ((200, 3, (32, 64)), (10, 1, (28, 8))):
        model = models.build(name, classes, channels=channels, width=0.25, depth=0.25)
        for size in sizes:
            model.zero_grad()
            logits = model(batch(2, channels, size))
            logits.square().sum().backward()
            assert logits.shape == (2, classes) and logits.isfinite().all()
            assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


@every_model
def test_equal_seeds_give_equal_weights_and_other_seeds_others(name):
    first, again, other = (models.build(name, 10, **SMALL, seed=seed).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


@every_model
def test_width_and_depth_make_a_network_smaller_and_larger(name):
    def size(**factors):
        return sum(parameter.numel() for parameter in on_meta(name, 10, **factors).parameters())

    whole = size()
    assert size(width=0.25) < whole / 8
    assert size(depth=0.25) < whole or name == "cnn"  # which has one convolution a stage
    assert size(depth=2) > whole


@every_model
@pytest.mark.parametrize("width", [0.01, 0.33])
def test_any_width_keeps_a_smallest_channel_count(name, width):
    model = models.build(name, 3, channels=1, width=width, depth=0.25)
    norms = [layer.num_features for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)]
    assert min(norms, default=4) >= 2
    assert model(batch()).shape == (2, 3)


@every_model
def test_traps_S20_and_S22_every_layer_with_weights_runs_exactly_once_and_through_its_hooks(name):
    model = models.build(name, 10, **SMALL)
    calls = []
    for layer in model.modules():
        layer.register_forward_hook(lambda layer, *_: calls.append(layer))
    images = batch()
    model(images)
    assert set(calls) == set(model.modules())
    assert sorted(map(id, weighted(model))) == sorted(id(layer) for layer in calls if layer in set(weighted(model)))
    assert torch.equal(images, batch())


@every_model
def test_trap_S20_channels_last_gives_the_same_logits_and_survives_every_layer(name):
    model = models.build(name, 10, width=0.25, depth=0.25, seed=0).eval()
    images = batch(2, 3, 32)
    plain, lost = model(images), []

    def check(layer, inputs, output):
        if output.dim() == 4 and not output.is_contiguous(memory_format=torch.channels_last):
            lost.append(layer)

    for layer in model.to(memory_format=torch.channels_last).modules():
        layer.register_forward_hook(check)
    last = model(images.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(last, plain, rtol=1e-4, atol=1e-5)
    assert not lost


@every_model
def test_bfloat16_gives_almost_the_same_logits_and_gradients_for_all(name):
    model = models.build(name, 10, **SMALL, seed=0)
    with torch.no_grad():
        model.eval()
        full = model(batch(4))
        with engine.autocast("cpu", "bfloat16"):
            low = model(batch(4))
    assert (low.float() - full).abs().max() < 0.1 * full.abs().max()
    with engine.autocast("cpu", "bfloat16"):
        model.train()(batch(4)).float().square().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize("name", FAMILIES)
def test_a_small_network_learns_a_batch_by_heart(name):
    model = models.build(name, 4, **SMALL, seed=0)
    images, labels = batch(16), torch.arange(16) % 4
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses = []
    with torch.random.fork_rng():
        torch.manual_seed(0)  # of dropout
        for _ in range(24):
            loss = nn.functional.cross_entropy(model(images), labels)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
    assert losses[-1] < losses[0] / 2


# Features


@every_model
@pytest.mark.parametrize("ready", [lambda model: model.eval(), lambda model: engine.frozen(model, "float32", "cpu")])
def test_the_classifier_turns_the_features_of_the_same_pass_into_the_logits(name, ready):
    model = ready(models.build(name, 7, **SMALL, seed=0))
    layer = model.get_submodule(models.classifier(model))
    seen = []
    layer.register_forward_hook(lambda _, inputs, output: seen.append((inputs[0], output)))
    with torch.inference_mode():
        logits = model(batch())
        ((features, output),) = seen
        again = nn.functional.linear(features.flatten(1), layer.weight.flatten(1), layer.bias)
    assert features.flatten(1).shape == (2, layer.weight[0].numel())
    assert torch.equal(output.flatten(1), logits)
    torch.testing.assert_close(again, logits)


@every_model
def test_folding_keeps_the_name_of_the_classifier(name):
    model = models.build(name, 7, **SMALL)
    folded = engine.folded(model)
    assert isinstance(folded, torch.fx.GraphModule)
    assert models.classifier(folded) == models.classifier(model)


def test_a_network_without_such_a_layer_is_refused():
    with pytest.raises(ValueError, match=r"^ReLU has no linear layer or convolution"):
        models.classifier(nn.ReLU())


# Families


@pytest.mark.parametrize(("name", "blocks", "channels"), [("wrn10x1", 1, 64), ("wrn28x10", 4, 640)])
def test_every_wide_network_is_known_by_its_depth_and_width(name, blocks, channels):
    assert models.known(name) and name not in models.names()
    model = on_meta(name, 10)
    assert [len(stage) for stage in (model.block1, model.block2, model.block3)] == [blocks] * 3
    assert model.fc.in_features == channels


@pytest.mark.parametrize("name", ["wrn17x2", "wrn4x1", "wrn0x1", "wrn16x0"])
def test_a_depth_or_width_that_no_wide_network_has_is_refused_in_one_sentence(name):
    assert not models.known(name)
    with pytest.raises(ValueError, match=rf"^There is no {name}: its depth is 6 n \+ 4, .*\.$"):
        models.build(name, 10)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_interleaving_is_torchs_shuffle_in_either_memory_format(layout):
    draw = torch.Generator().manual_seed(0)
    both = torch.randn(2, 10, 4, 3, generator=draw).contiguous(memory_format=layout).requires_grad_()
    left, right = both.chunk(2, dim=1)  # the left one is a part of a map, as in the network
    mixed = interleave(left, right.clone())
    expected = nn.functional.channel_shuffle(both, 2)
    assert torch.equal(mixed, expected) and mixed.is_contiguous(memory_format=layout)
    weights = torch.randn(mixed.shape, generator=draw)
    grads = [torch.autograd.grad((maps * weights).sum(), both)[0] for maps in (mixed, expected)]
    assert torch.equal(*grads)


def test_an_experiment_may_ask_for_any_wide_network():
    valid, _ = classification.KEYS["model"]
    assert valid("wrn28x2") and valid("vgg19bn") and not valid("wrn17x2") and not valid("resnet51")


@pytest.mark.parametrize("value", [None, 18, ["resnet18"], {}])
def test_no_other_value_names_a_network(value):
    assert not models.known(value)


@pytest.mark.parametrize(("depth", "rows"), [(0.1, "a"), (0.5, "ab"), (1, "abc"), (1.4, "abcc"), (2, "abcccc")])
def test_a_stage_of_different_blocks_is_cut_or_continued(depth, rows):
    assert "".join(resized("abc", depth)) == rows


def test_the_plain_network_sees_larger_maps_averaged_and_never_as_more_images():
    model = models.build("cnn", 10, seed=0).eval()
    maps = []
    model.features[-2].register_forward_hook(lambda _, inputs, output: maps.append((inputs[0], output)))
    assert model(batch(2, 3, 64)).shape == (2, 10) and model(batch(2, 3, 32)).shape == (2, 10)
    (large, averaged), (exact, same) = maps
    torch.testing.assert_close(averaged, nn.functional.avg_pool2d(large, 2))
    assert torch.equal(exact, same)


def test_the_head_of_vgg_is_torchvisions_with_the_weights_of_equal_pixels_added():
    with torch.device("meta"):
        whole = sum(parameter.numel() for parameter in vgg19_bn(num_classes=100).parameters())
        theirs = VGG(make_layers([32, "M"]), num_classes=10).eval()
    assert whole - 48 * 512 * 4096 == SIZES["vgg19bn"]
    ours = models.build("vgg19bn", 10, width=0.0625, seed=0).eval()
    theirs.features, theirs.classifier = ours.features, nn.Sequential(nn.Linear(32 * 49, 256), *ours.classifier[1:])
    weight, first = theirs.classifier[0].weight, ours.classifier[0]
    first.weight.data, first.bias.data = weight.data.view(256, 32, 49).sum(2), theirs.classifier[0].bias.data
    torch.testing.assert_close(ours(batch(2, 3, 32)), theirs(batch(2, 3, 32)))


def test_importing_the_zoo_does_not_import_torchvision(root):
    code = "import sys, stkd_utils.models; sys.exit('torchvision' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=root).returncode == 0
