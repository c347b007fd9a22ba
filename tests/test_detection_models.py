"""Detectors: their published sizes, maps that agree, outputs in the order of the priors, and their ImageNet weights."""

import hashlib
import inspect
from types import SimpleNamespace
from urllib.error import URLError

import pytest
import torch
import torchvision
from torch import nn

from stkd_utils import compute, engine, sources
from stkd_utils.detection import boxes, models
from stkd_utils.models.layers import ReLU6

NAMES = ("mobilenetv2ssdlite", "ssd300vgg16", "ssd300vgg16bn")
SMALL = {"size": 64, "width": 0.125, "depth": 0.3, "seed": 0}
each_name = pytest.mark.parametrize("name", NAMES)


def small(name, classes=3, **options):
    return models.build(name, classes, **SMALL | options)


def views(count=2, size=64, seed=0):
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def warmed(model, rounds=20):
    """The model in evaluation mode with batch statistics that fit its activations."""
    model.train()
    with torch.no_grad():
        for number in range(rounds):
            model(views(8, model.size, seed=number))
    return model.eval()


def test_names_are_sorted():
    assert models.names() == sorted(NAMES)


@pytest.mark.parametrize(
    "name, parameters, macs",
    [
        ("mobilenetv2ssdlite", 3_382_468, 660_828_976),
        ("ssd300vgg16", 26_728_388, 30_711_987_712),
        ("ssd300vgg16bn", 26_745_540, 30_711_987_712),
    ],
)
def test_size_and_cost_with_20_classes_at_300(name, parameters, macs):
    with torch.device("meta"):
        model = models.build(name, 20)
    assert compute.count(model, (3, 300, 300)) == compute.Counts(parameters, macs)
    assert f"{parameters / 1e6:.2f} M" in inspect.getdoc(models.build) or name == "ssd300vgg16bn"
    assert f"{compute.flops(macs) / 1e9:.2f}" in inspect.getdoc(models.build)


def test_the_layer_for_hints_between_features_explains_the_counts_of_the_original():
    with torch.device("meta"):
        student, teacher = (models.build(name, 20) for name in ("mobilenetv2ssdlite", "ssd300vgg16"))
        hint_s, hint_t = nn.Conv2d(192, 512, 1), nn.Conv2d(512, 192, 1)
    heads = [*student.box_heads.modules(), *student.class_heads.modules()]
    depthwise = [layer for layer in heads if getattr(layer, "groups", 1) > 1]
    assert all(layer.bias is None for layer in depthwise)
    counts = [compute.count(model, (3, 300, 300)) for model in (student, teacher)]
    hint = compute.count(hint_s, (192, 38, 38))
    biases = sum(layer.out_channels for layer in depthwise)
    assert f"{(counts[0].parameters + hint.parameters + biases) / 1e6:.2f}" == "3.49"
    assert f"{compute.flops(counts[0].macs + hint.macs) / 1e9:.2f}" == "1.61"
    assert f"{(counts[1].parameters + sum(p.numel() for p in hint_t.parameters())) / 1e6:.2f}" == "26.83"
    assert f"{compute.flops(counts[1].macs) / 1e9:.2f}" == "61.42"
    # and the maps it joins are there: 192 channels, 38 x 38, where the student's first block of stride 16 begins
    expansion = student.body.features[7].conv[0]
    assert expansion[0].out_channels == 192 and student.body.features[7].conv[1][0].stride == (2, 2)


@pytest.mark.parametrize(
    "size, expected", [(300, [19, 10, 5, 3, 2, 1]), (96, [6, 3, 2, 1]), (64, [4, 2, 1]), (32, [2, 1])]
)
def test_maps_by_hand(size, expected):
    assert models.maps(size) == expected


@each_name
@pytest.mark.parametrize("size", [32, 64, 96, 128, 300, 301])
def test_networks_have_the_maps_that_are_said(name, size):
    model = small(name, size=size).eval()
    with torch.no_grad():
        found = model.body(views(1, size))
    assert [tuple(one.shape[2:]) for one in found] == [(side, side) for side in models.maps(size)]
    assert [one.shape[1] for one in found] == model.body.channels


@each_name
def test_sizes_without_equal_maps_or_with_one_only_are_refused(name):
    for size in (1, 8, 16, 24, 298, 305):
        with pytest.raises(ValueError, match=f"{size} pixels"):
            small(name, size=size)


@each_name
def test_outputs_are_offsets_and_logits_of_every_prior(name):
    model = small(name, classes=7)
    outputs = model(views())
    assert outputs.shape == (2, len(model.priors), 4 + 1 + 7) and outputs.dtype == torch.float32
    assert torch.equal(model.priors, boxes.priors(models.maps(64)))
    assert model.classes == 7 and model.size == 64 and "priors" not in model.state_dict()


def test_at_300_there_are_3000_priors():
    with torch.device("meta"):
        assert all(models.build(name, 20).priors.shape == (3000, 4) for name in NAMES)


class Places(nn.Module):
    """A body whose maps hold the centres (x, y) of their pixels."""

    channels = [2] * 6

    def forward(self, images):
        found = []
        for side in models.maps(300):
            axis = (torch.arange(side) + 0.5) / side
            found.append(torch.stack(torch.meshgrid(axis, axis, indexing="xy"))[None])
        return found

    @staticmethod
    def head(channels, outputs, last):
        """Value v of prior a at (x, y): x, y, or 10 a + v."""
        values = outputs // 6
        head = nn.Conv2d(2, outputs, 1)
        with torch.no_grad():
            head.weight.zero_()
            for prior in range(6):
                head.weight[prior * values : prior * values + 2, :, 0, 0] = torch.eye(2)
                head.bias[prior * values :][:values] = 10.0 * prior + torch.arange(values)
                head.bias[prior * values :][:2] = 0
        return head


def test_outputs_stand_in_the_order_of_the_priors():
    model = models.SSD(Places(), 2, 300)
    outputs = model(None)[0]
    centres = (model.priors[:, :2] + model.priors[:, 2:]) / 2
    prior = torch.arange(3000) % 6 * 10.0
    torch.testing.assert_close(outputs[:, :2], centres)
    torch.testing.assert_close(outputs[:, 4:6], centres)
    torch.testing.assert_close(outputs[:, [2, 3, 6]], torch.stack((prior + 2, prior + 3, prior + 2), dim=1))


@each_name
def test_trap_D11_no_weight_is_shared(name):
    first, second = small(name), small(name)
    places = [p.data_ptr() for model in (first, second) for p in model.parameters() if p.numel()]
    assert len(set(places)) == len(places)
    assert len(first.box_heads) == len(first.class_heads) == len(models.maps(64)) == 3


@each_name
def test_equal_seeds_give_equal_weights_and_touch_no_global_state(name):
    before = torch.get_rng_state()
    first, same, other = small(name), small(name), small(name, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), same.parameters(), strict=True))
    weights = [key for key, value in first.named_parameters() if value.dim() > 1]
    assert not any(torch.equal(first.get_parameter(key), other.get_parameter(key)) for key in weights)


@each_name
def test_every_weight_learns(name):
    model = small(name).train()
    model(views(4)).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    silent = [key for key, p in model.named_parameters() if p.grad.abs().sum() == 0 and key.endswith("weight")]
    assert silent == []


@each_name
def test_the_frozen_copy_answers_the_same_without_batch_norm(name):
    model = warmed(small(name))
    copy = engine.frozen(model, "float32", "cpu")
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in copy.modules())
    with torch.no_grad():
        expected = model(views())
    assert expected.std() > 1e-3
    torch.testing.assert_close(copy(views()), expected, rtol=1e-3, atol=1e-4 * expected.abs().max().item())


def test_the_student_learns_as_with_torchs_own_activation():
    model, plain = small(NAMES[0]), small(NAMES[0])
    layers = {key: layer for key, layer in plain.named_modules() if isinstance(layer, ReLU6)}
    assert layers and not any(isinstance(layer, nn.ReLU6) for layer in model.modules())
    for key in layers:
        plain.set_submodule(key, nn.ReLU6())
    for one in (model, plain):
        one(views(4)).square().sum().backward()
    for ours, theirs in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)


@each_name
def test_channels_last_changes_nothing_and_low_precision_gives_float32(name):
    model = warmed(small(name))
    with torch.no_grad():
        plain = model(views())
        last = model.to(memory_format=torch.channels_last)(views().to(memory_format=torch.channels_last))
        with engine.autocast("cpu", "bfloat16"):
            low = model(views())
    torch.testing.assert_close(last, plain, rtol=1e-3, atol=1e-4 * plain.abs().max().item())
    assert low.dtype == torch.float32 and not torch.equal(low, plain)


@each_name
def test_width_and_depth_shrink_the_network(name):
    full, narrow, flat = (
        sum(p.numel() for p in models.build(name, 3, size=64, width=w, depth=d).parameters())
        for w, d in ((0.25, 1.0), (0.125, 1.0), (0.25, 0.3))
    )
    assert narrow < 0.5 * full and flat < full


@pytest.mark.parametrize("change", [{"name": "ssd"}, {"classes": 0}, {"size": 0}, {"width": 0.0}, {"depth": -1.0}])
def test_impossible_networks_are_refused(change):
    with pytest.raises(ValueError, match="choose one of|must be positive"):
        models.build(**{"name": NAMES[0], "classes": 3} | SMALL | change)


@pytest.mark.parametrize("name, theirs", [*zip(NAMES, ("mobilenet_v2", "vgg16", "vgg16_bn"), strict=True)])
def test_backbones_are_torchvisions(name, theirs):
    with torch.device("meta"):
        ours = models.build(name, 20).body.features.state_dict()
        state = torchvision.models.get_model(theirs, weights=None).features.state_dict()
    assert {key: value.shape for key, value in ours.items()} == {key: value.shape for key, value in state.items()}


@each_name
def test_without_a_file_the_backbone_is_trained_from_scratch(name, tmp_path):
    model = small(name, width=1.0, depth=1.0)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    sentence = models.load_backbone(model, tmp_path)
    assert sentence.startswith("trained from scratch: ") and sentence.endswith(f"is not in {tmp_path / 'weights'}.")
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_a_scaled_network_has_no_imagenet_weights(tmp_path):
    assert models.load_backbone(small(NAMES[0]), tmp_path).startswith("trained from scratch: ")


def stored(model, folder):
    """A file of weights as torchvision would have it, named after its checksum, which ``model`` is told to want."""
    state = torchvision.models.mobilenet_v2(weights=None).state_dict()
    (folder / "weights").mkdir()
    torch.save(state, folder / "weights" / "new.pth")
    digest = hashlib.sha256((folder / "weights" / "new.pth").read_bytes()).hexdigest()
    name = f"mobilenet_v2-{digest[:8]}.pth"
    (folder / "weights" / "new.pth").rename(folder / "weights" / name)
    model.weights = SimpleNamespace(url=f"https://example.org/models/{name}")
    return state, folder / "weights" / name


def test_a_file_of_weights_fills_the_backbone_only(tmp_path):
    model = small(NAMES[0], width=1.0, depth=1.0)
    state, file = stored(model, tmp_path)
    heads = {key: value.clone() for key, value in model.state_dict().items() if not key.startswith("body.features.")}
    assert models.load_backbone(model, tmp_path) == f"ImageNet weights loaded: {file.name}."
    now = model.state_dict()
    assert all(torch.equal(now[f"body.{key}"], value) for key, value in state.items() if key.startswith("features."))
    assert all(torch.equal(now[key], value) for key, value in heads.items())


def test_a_damaged_file_of_weights_is_named(tmp_path):
    model = small(NAMES[0], width=1.0, depth=1.0)
    _, file = stored(model, tmp_path)
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(sources.DataDamaged, match=file.name):
        models.load_backbone(model, tmp_path)


def test_a_backbone_is_fetched_once_with_its_checksum(tmp_path, monkeypatch, capsys):
    calls = []

    def download(url, file, hash_prefix, progress):
        calls.append((url, hash_prefix))
        file.write_text("weights")

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    file = models.fetch_backbone("ssd300vgg16", tmp_path)
    assert models.fetch_backbone("ssd300vgg16", tmp_path) == file == tmp_path / "weights" / "vgg16-397923af.pth"
    assert calls == [("https://download.pytorch.org/models/vgg16-397923af.pth", "397923af")]
    assert "528 MB" in capsys.readouterr().out


@pytest.mark.parametrize("error", [URLError("no network"), RuntimeError("invalid hash value")])
def test_a_backbone_that_cannot_be_fetched_is_said_in_one_sentence(error, tmp_path, monkeypatch):
    def download(*args, **options):
        raise error

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    with pytest.raises(sources.DataNotFound, match="mobilenet_v2.* could not be fetched .* check the network"):
        models.fetch_backbone("mobilenetv2ssdlite", tmp_path)
    with pytest.raises(ValueError, match="choose one of"):
        models.fetch_backbone("ssd", tmp_path)
