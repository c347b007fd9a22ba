"""What a frozen teacher answers in: in int8 nearly the same, where its layers were tried, and never by surprise."""

import re

import pytest
import torch
from torch import nn

from stkd_utils import answering, data, engine, models, quantise

needs_kernels = pytest.mark.skipif(bool(quantise.no_kernels()), reason=str(quantise.no_kernels()))
IMAGES = torch.randn(40, 1, 8, 8, generator=torch.Generator().manual_seed(0))


@needs_kernels
@pytest.mark.parametrize(
    "name, why",
    [
        ("resnet18", None), ("resnet34", None), ("vgg19bn", None), ("alexnet", None),
        ("cnn", "pools maps before they are activated"),
        ("resnet50", "calls one of its layers several times"),
        ("mobilenetv2", "stay in int8: relu6"), ("resnext29", "convolutions with groups"),
        ("densenet121", "stay in int8: cat"), ("googlenet", "stay in int8: cat"),
        ("shufflenetv2", "convolutions with groups"), ("wrn16x2", "stay in int8: BatchNorm2d"),
    ],
)  # fmt: skip
def test_whether_maps_can_stay_in_8_bits_is_known_before_anything_is_quantised(name, why):
    said = answering.unable(models.build(name, 10))
    assert said is None if why is None else re.search(why, said), said
    assert "GPU" in answering.unable(models.build("cnn", 10), "cuda")


def test_a_network_that_cannot_be_traced_is_not_quantised_as_a_teacher(monkeypatch):
    class Twofold(nn.Module):
        def forward(self, images):
            return images if images.sum().item() > 0 else -images

    monkeypatch.setattr(quantise, "no_kernels", lambda: None)
    assert "Twofold cannot be traced" in answering.unable(Twofold())


class Doubled(nn.Module):
    def forward(self, images):
        return images + images


@pytest.mark.parametrize(
    "layer, why",
    [
        (nn.Conv2d(3, 4, 3, padding="same"), "groups or named padding"), (nn.Conv2d(3, 3, 3, groups=3), "groups"),
        (Doubled(), "adds a map to itself"), (nn.SiLU(), "SiLU"), (nn.GroupNorm(1, 3), "GroupNorm"),
    ],
)  # fmt: skip
def test_what_was_never_tried_is_not_quantised_as_a_teacher(monkeypatch, layer, why):
    monkeypatch.setattr(quantise, "no_kernels", lambda: None)
    assert re.search(why, answering.unable(nn.Sequential(layer, nn.ReLU())))
    assert answering.unable(nn.Sequential(nn.Conv2d(3, 3, 3), nn.ReLU())) is None


@pytest.fixture(scope="module")
def teacher():
    model = models.build("resnet18", 10, channels=1, width=0.25, depth=0.5, seed=0)
    with torch.no_grad():
        for _ in range(20):
            model(IMAGES)
    return model.eval()


def images_of(split):
    half = torch.full((split.images.shape[1],), 0.5)
    return data.Dataset("random", split, split, split, half, half, tuple("0123456789"), "")


@pytest.fixture(scope="module")
def images():
    return images_of(data.Split((40 * IMAGES + 128).clamp(0, 255).byte(), torch.arange(40) % 10))


@needs_kernels
def test_a_frozen_teacher_in_int8_answers_nearly_the_same_and_the_same_in_every_batch(teacher, images):
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    shown = torch.cat(quantise.calibration(images))
    wanted = engine.frozen(teacher, "float32", "cpu")(shown)
    first, again = (answering.frozen(teacher, "int8", "cpu", images, batch) for batch in (None, 4))
    logits = first(shown[:32])
    assert (logits - wanted[:32]).pow(2).mean().sqrt() < 0.05 * wanted.std(), "nearly the same"
    assert not torch.equal(logits, wanted[:32]), "rounded, so not the same digits"
    assert logits.dtype == torch.float32 and not logits.requires_grad
    assert torch.equal(first(shown[3:5]), logits[3:5]), "an answer does not depend on the rest of its batch"
    assert torch.equal(again(shown[:10]), logits[:10]), "nor on when it was prepared, and for which batch"
    assert (first.program.shape[0], again.program.shape[0]) == (32, 4)
    assert torch.equal(first(shown.to(memory_format=torch.channels_last))[:32], logits)
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert first.precision == ("int8, activations of 7 bits" if quantise.saturates() else "int8")


@needs_kernels
def test_a_teacher_that_cannot_be_prepared_after_all_says_the_way_out(monkeypatch, teacher, images):
    def fail(*_):
        raise RuntimeError("No such kernel\nhere")

    found = quantise._torchao()
    monkeypatch.setattr(quantise, "_torchao", lambda: (*found[:-1], fail))
    with pytest.raises(quantise.QuantiseError, match=r"\(No such kernel\)\. Set teacher_precision to float32\."):
        answering.frozen(teacher, "int8", "cpu", images)(torch.cat(quantise.calibration(images)))


@needs_kernels
@pytest.mark.parametrize("name", ["resnet34", "vgg19bn", "alexnet"])
def test_whatever_is_called_able_can_be_quantised(name):
    network = models.build(name, 10, width=0.125, depth=0.25, seed=0)
    split = data.Split(torch.randint(0, 256, (32, 3, 32, 32), dtype=torch.uint8), torch.arange(32) % 10)
    shown = torch.cat(quantise.calibration(whole := images_of(split)))
    with torch.no_grad():
        for _ in range(20):
            network.train()(shown)
    wanted, logits = (answering.frozen(network, kind, "cpu", whole)(shown) for kind in ("float32", "int8"))
    assert (logits - wanted).pow(2).mean().sqrt() < 0.1 * wanted.std()


@needs_kernels
def test_auto_is_int8_where_neither_the_processor_nor_the_network_stands_against_it(monkeypatch, teacher, images):
    def auto(model, device="cpu"):
        return answering.frozen(model, "auto", device, images).precision

    monkeypatch.setattr(engine, "_cpu_has_bfloat16", lambda: False)
    monkeypatch.setenv("STKD_SMALL_MEMORY", "")
    assert auto(teacher).startswith("int8")
    assert auto(models.build("mobilenetv2", 10, channels=1)) == "float32"
    with monkeypatch.context() as short:
        short.setenv("STKD_SMALL_MEMORY", "1")  # what prepares for int8 stays in memory
        assert auto(teacher) == "float32"
    monkeypatch.setattr(quantise, "missing", lambda: "Quantisation needs torchao.")
    assert auto(teacher) == "float32"
    with pytest.raises(quantise.QuantiseError, match="needs torchao"):
        answering.frozen(teacher, "int8", "cpu", images)
    monkeypatch.undo()
    monkeypatch.setattr(engine, "_cpu_has_bfloat16", lambda: True)
    assert auto(teacher) == "bfloat16"
    with pytest.raises(ValueError, match="Unknown precision 'int4'"):
        answering.frozen(teacher, "int4", "cpu", images)
    with pytest.raises(quantise.QuantiseError, match="MobileNetV2 has layers"):
        answering.frozen(models.build("mobilenetv2", 10, channels=1), "int8", "cpu", images)
