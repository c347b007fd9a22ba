"""Static int8: smaller, nearly the same answers, ranges from training images only; fast where the processor lets it."""

import shutil
import sys

import pytest
import torch
from torch import nn

from stkd_utils import data, inference, models, quantise

needs_torchao = pytest.mark.skipif(bool(quantise.missing()), reason=str(quantise.missing()))
needs_kernels = pytest.mark.skipif(bool(quantise.no_kernels()), reason=str(quantise.no_kernels()))
IMAGES = torch.randn(40, 1, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def network():
    model = models.build("mobilenetv2", 10, channels=1, width=0.5, depth=0.25, seed=0)
    with torch.no_grad():
        for _ in range(20):
            model(IMAGES)
    return model.eval()


@pytest.fixture(scope="module")
def quantised(network):
    return quantise.static(network, IMAGES.split(20))


def small():
    """Two convolutions and a linear layer: little to compile."""
    torch.manual_seed(0)
    layers = nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU(), nn.Flatten()
    return nn.Sequential(*layers, nn.Linear(16 * 36, 10)).eval()


@needs_torchao
def test_int8_takes_about_a_quarter_of_the_bytes(network, quantised):
    ratio = inference.size(quantised).weight_bytes / inference.size(network).weight_bytes
    assert 0.24 < ratio < 0.36, "a byte for four, and some scales"


@needs_torchao
def test_all_weights_of_convolutions_and_linear_layers_are_int8(network, quantised):
    layers = [module for module in network.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    whole = [tensor for tensor in quantised.state_dict().values() if tensor.dtype == torch.int8]
    assert sorted(tensor.numel() for tensor in whole) == sorted(layer.weight.numel() for layer in layers)


@needs_torchao
def test_answers_are_nearly_those_of_the_network(network, quantised):
    found = inference.agreement(network, quantised, IMAGES)
    spread = inference.logits(network, IMAGES).std().item()
    assert found.equal >= 0.9
    assert 0 < found.largest < 0.5 * spread, "rounded, so not the same digits"


@needs_torchao
def test_eight_bits_are_nearer_than_seven():
    network = small()

    def error(bits):
        answers = inference.logits(quantise.static(network, IMAGES.split(20), bits=bits), IMAGES)
        return (answers - inference.logits(network, IMAGES)).square().mean().item()

    assert error(8) < error(7)


@needs_torchao
def test_the_network_is_left_as_it_was(network):
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    network.train()
    try:
        quantise.static(network, IMAGES.split(20))
        assert network.training and all(parameter.requires_grad for parameter in network.parameters())
    finally:
        network.eval()
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


@needs_torchao
def test_every_number_of_images_is_answered_and_training_is_no_mode(quantised):
    whole = quantised(IMAGES)
    for number in (1, 2, 7):
        torch.testing.assert_close(quantised(IMAGES[:number]), whole[:number])
    assert quantised.train() is quantised and not quantised.training


@needs_torchao
def test_bits_are_those_that_the_processor_adds_without_loss(monkeypatch):
    network = small()
    monkeypatch.setattr(quantise, "saturates", lambda: False)
    assert quantise.static(network, [IMAGES[:4]]).bits == 8
    monkeypatch.setattr(quantise, "saturates", lambda: True)
    assert quantise.static(network, [IMAGES[:4]]).bits == 7
    with pytest.raises(ValueError, match="8 bits or 7; got 4"):
        quantise.static(network, [IMAGES[:4]], bits=4)


@pytest.mark.parametrize(("flags", "cut"), [({}, True), ({"avx_vnni": True}, False), ({"avx512_vnni": False}, True)])
def test_saturation_is_read_from_the_processor_and_feared_where_it_is_not_known(monkeypatch, flags, cut):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: flags, raising=False)
    assert quantise.saturates.__wrapped__() is cut
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert quantise.saturates.__wrapped__() is True


def test_calibration_shows_training_images_only():
    dataset = data.load("digits")
    shown = torch.cat(quantise.calibration(dataset, 100, batch_size=32))
    train, *others = (data.normalise(part.images, dataset.mean, dataset.std) for part in (
        dataset.train, dataset.val, dataset.test))  # fmt: skip

    def held(images):
        return {image.numpy().tobytes() for image in images}

    assert len(shown) == 100 and held(shown) <= held(train)
    assert not held(shown) & set.union(*map(held, others))
    again, other = (torch.cat(quantise.calibration(dataset, 100, seed=seed)) for seed in (0, 1))
    assert torch.equal(shown, again) and not torch.equal(shown, other)
    assert sum(map(len, quantise.calibration(dataset))) == min(256, len(train))
    with pytest.raises(ValueError, match=f"between 1 and {len(train)} training images; got 0"):
        quantise.calibration(dataset, 0)


def test_without_torchao_one_sentence_says_what_to_do(monkeypatch, network):
    monkeypatch.setitem(sys.modules, "torchao", None)
    for name in [name for name in sys.modules if name.startswith("torchao.")]:
        monkeypatch.delitem(sys.modules, name)
    sentence = quantise.missing.__wrapped__()
    assert "pip install torchao" in sentence and "\n" not in sentence
    monkeypatch.setattr(quantise, "missing", lambda: sentence)
    with pytest.raises(quantise.QuantiseError, match="pip install torchao"):
        quantise.static(network, [IMAGES[:4]])


def test_without_a_compiler_one_sentence_says_what_to_do(monkeypatch):
    monkeypatch.setattr(quantise, "missing", lambda: None)
    monkeypatch.setattr(quantise.sys, "platform", "linux")
    monkeypatch.setattr(quantise.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    ask = quantise.no_compiler.__wrapped__
    assert "install g++" in ask()
    monkeypatch.setattr(quantise, "no_compiler", ask)
    with pytest.raises(quantise.QuantiseError, match="install g"):
        quantise.lowered(quantise.Quantised(nn.Identity(), 8), IMAGES)
    monkeypatch.setattr(quantise.platform, "machine", lambda: "arm64")
    assert "x86" in ask()


@needs_torchao
def test_a_network_that_cannot_be_exported_is_named():
    class Twofold(nn.Module):
        def forward(self, images):
            return images if images.sum().item() > 0 else -images

    with pytest.raises(quantise.QuantiseError, match="Twofold cannot be exported by torch.export"):
        quantise.static(Twofold(), [IMAGES[:4]])


@needs_torchao
@pytest.mark.skipif(bool(quantise.no_compiler()), reason=str(quantise.no_compiler()))
def test_compiled_int8_multiplies_in_8_bits_and_answers_as_the_reference_does(capfd, recwarn):
    model = small()
    reference = quantise.static(model, IMAGES.split(20))
    lowered = quantise.lowered(reference, IMAGES[:16])
    found = inference.agreement(reference, lowered, IMAGES, batch_size=40)  # 16 + 16 + 8, filled up
    largest = inference.logits(model, IMAGES).abs().max().item()
    assert found.images == 40 and found.largest < 0.05 * largest
    with torch.profiler.profile() as watched:
        lowered(IMAGES[:16])
    done = {event.key: event.count for event in watched.key_averages()}
    assert sum(count for key, count in done.items() if "onednn::qconv" in key) == 2, done.keys()
    small_batch = quantise.lowered(reference, IMAGES[:3])
    for form in (lowered, small_batch):  # neither takes the place of the other, nor is compiled anew
        for mode in (torch.no_grad, torch.inference_mode, torch.enable_grad):
            with mode():
                torch.testing.assert_close(form(IMAGES.clone()), lowered(IMAGES))
    assert not recwarn.list and "KernelPreference" not in capfd.readouterr().err


@needs_kernels
@pytest.mark.parametrize("make", ["lowered", "assembled"])
def test_trap_the_largest_sums_are_not_cut_off(make):
    if make == "lowered" and quantise.no_compiler():
        pytest.skip(quantise.no_compiler())
    model = nn.Sequential(nn.Conv2d(64, 8, 1), nn.Flatten())
    nn.init.ones_(model[0].weight)
    images = torch.ones(8, 64, 2, 2)  # every product is the largest that there is
    fast = getattr(quantise, make)(quantise.static(model, [images]), images)
    torch.testing.assert_close(fast(images), inference.logits(model, images), rtol=0.02, atol=0)


@needs_kernels
def test_assembled_int8_needs_no_compiler_and_answers_as_the_reference_does(monkeypatch, capfd, recwarn):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    model = small()
    reference = quantise.static(model, IMAGES.split(20))
    assembled = quantise.assembled(reference, IMAGES[:16])
    found = inference.agreement(reference, assembled, IMAGES, batch_size=40)  # 16 + 16 + 8, filled up
    assert found.images == 40 and found.largest < 0.05 * inference.logits(model, IMAGES).abs().max().item()
    assert not recwarn.list and not capfd.readouterr().err
    with torch.profiler.profile() as watched:
        assembled(IMAGES[:16])
    done = {event.key: event.count for event in watched.key_averages()}
    assert sum(count for key, count in done.items() if "onednn::qconv" in key) == 2, done.keys()


def test_without_kernels_one_sentence_says_so(monkeypatch):
    monkeypatch.setattr(quantise.platform, "machine", lambda: "arm64")
    with pytest.raises(quantise.QuantiseError, match="for x86 processors with Linux"):
        quantise.assembled(quantise.Quantised(nn.Identity(), 8), IMAGES)


@needs_torchao
def test_quantising_draws_no_random_numbers(network):
    before = torch.get_rng_state()
    quantise.static(network, [IMAGES[:4]])
    assert torch.equal(before, torch.get_rng_state())
