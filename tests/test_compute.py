"""Parameters, MACs, FLOPs and latency against a second counter, hand counts and the paper's printed cost."""

from math import prod

import pytest
import torch
from ptflops import get_model_complexity_info
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from stkd_utils import compute, models

NAMES = ("mobilenetv2", "resnet18", "shufflenetv2")
SIZES = [(100, (3, 32, 32), 1.0), (200, (3, 64, 64), 1.0), (10, (1, 8, 8), 0.25)]
TINY = {"images": 100_000, "epochs": 100}
aten = torch.ops.aten
every_model = pytest.mark.parametrize("name", NAMES)
every_size = pytest.mark.parametrize(("classes", "shape", "width"), SIZES)


class DirectCall(nn.Module):
    """One convolution, called the way that skips hooks."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 3, padding=1)

    def forward(self, x):
        return self.conv.forward(x).mean((2, 3))


def on_meta(name, classes, shape, width):
    """A model and one image that have shapes but no numbers."""
    with torch.device("meta"):
        return models.build(name, classes, channels=shape[0], width=width).eval(), torch.empty(1, *shape)


def torch_macs(model, images, backward=False, mapping=None):
    """MACs of a pass by PyTorch's own counter."""
    with FlopCounterMode(display=False, custom_mapping=mapping) as counter:
        logits = model(images)
        if backward:
            logits.sum().backward()
    return counter.get_total_flops() / 2


# Counting


@every_model
@every_size
def test_macs_agree_with_pytorchs_own_counter(name, classes, shape, width):
    model, image = on_meta(name, classes, shape, width)
    assert compute.count(model, shape).macs == torch_macs(model, image)


@every_model
def test_trap_S22_hooks_fire_on_our_models_too(name):
    """A counter that works by hooks sees at least what we count: no layer is called behind its back."""
    model = models.build(name, 10, channels=1, width=0.25)
    by_hooks, _ = get_model_complexity_info(
        model, (1, 8, 8), as_strings=False, print_per_layer_stat=False, backend="pytorch"
    )
    macs = compute.count(model, (1, 8, 8)).macs
    assert macs <= by_hooks < 1.25 * macs


def test_trap_S22_a_direct_forward_call_hides_from_hooks_but_not_from_us():
    by_hooks, _ = get_model_complexity_info(
        DirectCall(), (3, 8, 8), as_strings=False, print_per_layer_stat=False, backend="pytorch"
    )
    macs = 8 * 8 * 5 * 3 * 9
    assert by_hooks < macs / 10
    assert compute.count(DirectCall(), (3, 8, 8)).macs == macs


@pytest.mark.parametrize(
    ("model", "shape", "macs"),
    [
        (nn.Conv2d(3, 8, 3, padding=1), (3, 5, 5), 25 * 8 * 3 * 9),
        (nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=8), (8, 4, 4), 4 * 8 * 9),
        (nn.ConvTranspose2d(4, 6, 2, stride=2), (4, 3, 3), 9 * 4 * 6 * 4),
        (nn.Sequential(nn.Flatten(), nn.Linear(12, 7)), (3, 2, 2), 12 * 7),
        (nn.Sequential(nn.Flatten(), nn.Linear(12, 7, bias=False)), (3, 2, 2), 12 * 7),
        (nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(), nn.AvgPool2d(2)), (3, 4, 4), 0),
    ],
    ids=["conv", "depthwise", "transposed", "linear", "linear without bias", "left out"],
)
def test_hand_counts_of_single_layers(model, shape, macs):
    assert compute.count(model, shape).macs == macs


def test_parameters_include_frozen_ones():
    model = models.build("resnet18", 100).requires_grad_(False)
    assert compute.count(model, (3, 32, 32)).parameters == 11_220_132


def test_counts_do_not_depend_on_an_enclosing_inference_mode():
    model = models.build("shufflenetv2", 10, channels=1, width=0.25)
    outside = compute.count(model, (1, 8, 8))
    with torch.inference_mode():
        assert compute.count(model, (1, 8, 8)) == outside


def test_trap_P11_counting_leaves_the_model_as_it_was():
    model = models.build("mobilenetv2", 10, channels=1, width=0.25)
    model.stage1.eval()
    modes = [module.training for module in model.modules()]
    state = {key: value.clone() for key, value in model.state_dict().items()}
    compute.count(model, (1, 8, 8))
    compute.latency(model, (1, 8, 8), repeats=1, warmup=0)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_trap_P11_counting_says_nothing(capsys):
    compute.count(models.build("resnet18", 10, channels=1, width=0.25), (1, 8, 8))
    assert capsys.readouterr() == ("", "")


def test_an_image_that_does_not_fit_is_one_clear_error(capsys):
    with pytest.raises(ValueError, match=r"Cannot count ResNet18 on images of shape \(3, 8, 8\): \w+"):
        compute.count(models.build("resnet18", 10, channels=1, width=0.25), (3, 8, 8))
    assert capsys.readouterr() == ("", "")


# From MACs to a run and a procedure


def test_a_mac_is_two_flops():
    assert compute.flops(21) == 42


def test_the_papers_tiny_imagenet_cost_is_forward_passes_of_both_networks():
    teacher, student = (
        compute.count(models.build(name, 200), (3, 64, 64)).macs for name in ("resnet18", "mobilenetv2")
    )
    printed = compute.paper_gflops_millions(student_macs=student, teacher_macs=teacher, **TINY)
    assert f"{printed:.2f}" == "48.75"
    grid = compute.procedure_flops(compute.run_flops(student_macs=student, teacher_macs=teacher, **TINY), 20)
    assert f"{grid / 1e15:.0f}" == "975"


def test_the_papers_cifar_cost_is_not_quite_the_same_rule():
    cost = compute.paper_gflops_millions(
        student_macs=compute.count(models.build("mobilenetv2", 100), (3, 32, 32)).macs,
        teacher_macs=compute.count(models.build("resnet18", 100), (3, 32, 32)).macs,
        images=50_000,
        epochs=100,
    )
    assert cost == pytest.approx(6.20, abs=0.005)


def test_a_frozen_teacher_has_no_backward_pass():
    run = {"student_macs": 10, "teacher_macs": 100, "images": 7, "epochs": 3}
    assert compute.run_flops(**run) == 2 * 110 * 21
    assert compute.run_flops(**run, backward=True) == 2 * (100 + 3 * 10) * 21


def test_a_run_without_a_teacher():
    assert compute.run_flops(student_macs=10, images=7, epochs=3, backward=True) == 2 * 30 * 21


def test_a_procedure_is_its_runs_and_what_they_share():
    assert compute.procedure_flops(5, 19) == 95
    assert compute.procedure_flops(5, 19, once=4) == 99


def backward_flops(grad, image, weight, *options, out_shape=None):
    """FLOPs of a convolution's backward pass by autograd's own list of wanted gradients.

    Sizes come as shapes. PyTorch's counter takes the weight gradient of a grouped convolution for that of a dense one:
    seven times too much for a training step of MobileNetV2.
    """
    wants_image, wants_weight, _ = options[-1]
    return 2 * (wants_image + wants_weight) * prod(grad) * prod(weight[1:])


@every_model
def test_backward_is_twice_forward_but_for_the_first_layer(name):
    model, image = on_meta(name, *SIZES[0])
    forward = torch_macs(model, image)
    stem = next(layer for layer in model.modules() if isinstance(layer, nn.Conv2d))
    first = torch_macs(stem, image)
    trained = torch_macs(model, image, backward=True, mapping={aten.convolution_backward: backward_flops})
    assert trained == 3 * forward - first
    assert trained == pytest.approx(3 * forward, rel=0.0051)


def test_backward_rule_holds_by_pytorchs_own_count_where_nothing_is_grouped():
    model, image = on_meta("resnet18", *SIZES[0])
    by_rule = compute.run_flops(student_macs=torch_macs(model, image), images=1, epochs=1, backward=True) / 2
    assert by_rule == pytest.approx(torch_macs(model, image, backward=True), rel=0.002)


def test_a_frozen_teacher_costs_one_forward_pass_by_pytorchs_own_count():
    (teacher, image), (student, _) = (on_meta("resnet18", 10, (1, 8, 8), width) for width in (0.5, 0.25))
    teacher.requires_grad_(False)
    with FlopCounterMode(display=False) as counter:
        with torch.no_grad():
            target = teacher(image)
        (student(image) - target).square().sum().backward()
    macs = {"student_macs": torch_macs(student, image), "teacher_macs": torch_macs(teacher, image)}
    by_rule = compute.run_flops(**macs, images=1, epochs=1, backward=True)
    assert by_rule == pytest.approx(counter.get_total_flops(), rel=0.005)


# Latency


def test_latency_is_seconds_per_image_with_its_quartiles(monkeypatch):
    seconds = iter([9.0, 1.0, 2.0, 3.0, 4.0, 5.0])
    monkeypatch.setattr(compute.clock, "seconds", lambda call, device: next(seconds))
    measured = compute.latency(nn.Conv2d(1, 1, 1), (1, 2, 2), batch_size=10, repeats=5, warmup=1)
    assert measured == compute.Latency(median=0.3, low=0.2, high=0.4)


def test_latency_of_a_larger_network_is_longer():
    small, large = (
        compute.latency(models.build("resnet18", 10, channels=1, width=width), (1, 16, 16), repeats=5, batch_size=4)
        for width in (0.0625, 1.0)
    )
    assert 0 < small.low <= small.median <= small.high
    assert large.median > small.median


def test_latency_runs_in_eval_mode_without_gradients():
    seen = []

    class Spy(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, x):
            seen.append((self.training, (x * self.scale).requires_grad, tuple(x.shape)))
            return x

    compute.latency(Spy(), (1, 2, 2), batch_size=3, repeats=2, warmup=1)
    assert seen == [(False, False, (3, 1, 2, 2))] * 3
