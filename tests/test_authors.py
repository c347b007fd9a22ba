"""The authors' published weights: names and shapes agree, what fits is loaded, what does not is one sentence."""

import hashlib
import re

import pytest
import torch

from stkd_utils import data, models, training
from stkd_utils.__main__ import main
from stkd_utils.models.registry import build

PUBLISHED = {  # entries, and SHA-256 of the sorted lines "name sizes", of published checkpoints for 100 classes
    "mobilenetv2": (373, "6c9f9e5b233b808643e7e459c7b7703c6fd40b83a7371413a88615cd2f874852"),
    "resnet18": (122, "88b5451d5441175962942a487f83612279f6657d77bb913e99c08ab349fd6078"),
    "shufflenetv2": (394, "c5d98b0d50d3e4036ad931ae8954c7c650fab64bdb9988bcd44926dd9fa51b77"),
}
every_network = pytest.mark.parametrize("name", PUBLISHED)


def weights(name="shufflenetv2", classes=10, seed=7):
    return build(name, classes, seed=seed).state_dict()


def written(folder, state):
    """Path of a file like those of the authors: weights, epoch and the state of an optimiser."""
    optimiser = torch.optim.SGD([torch.nn.Parameter(torch.ones(3))], lr=0.1, momentum=0.9)
    optimiser.param_groups[0]["params"][0].grad = torch.ones(3)
    optimiser.step()
    path = folder / "best_model.pth.tar"
    torch.save({"epoch": 89, "state_dict": state, "optim_dict": optimiser.state_dict()}, path)
    return path


@every_network
def test_names_and_shapes_are_those_of_the_published_checkpoints(name):
    state = weights(name, 100)
    lines = sorted(f"{key} {'x'.join(map(str, value.shape))}" for key, value in state.items())
    assert (len(lines), hashlib.sha256("\n".join(lines).encode()).hexdigest()) == PUBLISHED[name]


@every_network
@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_checkpoint_becomes_our_network(tmp_path, name, prefix):
    state = weights(name, 100)
    path = written(tmp_path, {prefix + key: value for key, value in state.items()})
    network = models.load_authors(path, name, 100)
    assert not network.training
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())
    found = models.read_authors(path)
    assert (found.name, found.classes, found.epoch) == (name, 100, 89)


def test_the_global_random_state_is_left_alone(tmp_path):
    path, before = written(tmp_path, weights()), torch.get_rng_state()
    models.load_authors(path, "shufflenetv2", 10)
    assert torch.equal(torch.get_rng_state(), before)


def without(state, key):
    return {other: value for other, value in state.items() if other != key}


WRONG = {
    "classes": (weights, "shufflenetv2", 100, "'fc.weight' has shape (10, 1024) instead of (100, 1024)"),
    "network": (weights, "resnet18", 10, "'conv1.weight' is missing"),
    "lost": (lambda: without(weights(), "stage3.0.residual.1.bias"), "shufflenetv2", 10, "residual.1.bias' is missing"),
    "more": (lambda: weights() | {"extra": torch.ones(1)}, "shufflenetv2", 10, "it has 'extra', which that network"),
    "other": (lambda: without(weights(), "fc.bias"), "shufflenetv2", 10, "holds none of resnet18, mobilenetv2"),
    "unknown": (weights, "densenet121", 10, "fit resnet18, mobilenetv2, shufflenetv2; got 'densenet121'"),
    "empty": (dict, "resnet18", 10, "holds none of"),
    "no state": (lambda: None, "resnet18", 10, "no weights under 'state_dict'"),
    "a number as name": (lambda: {0: torch.ones(3)}, "resnet18", 10, "no weights under 'state_dict'"),
    "no classes": (lambda: {"fc.bias": torch.tensor(1.0)}, "shufflenetv2", 10, "holds none of resnet18"),
    "no tensors": (lambda: {"fc.bias": 3}, "resnet18", 10, "no weights under 'state_dict'"),
}


def one_sentence(error):
    return str(error).count("\n") == 0 and str(error).endswith(".") and ". " not in str(error)


@pytest.mark.parametrize("case", WRONG)
def test_what_does_not_fit_is_one_sentence_with_the_first_key(tmp_path, case):
    state, name, classes, said = WRONG[case]
    with pytest.raises(models.WeightsError) as caught:
        models.load_authors(written(tmp_path, state()), name, classes)
    assert said in str(caught.value) and one_sentence(caught.value)


class Code:
    def __reduce__(self):
        return (print, ("a file must not run code",))


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 cut off", Code(), [1, 2], torch.ones(3)])
def test_a_file_that_is_no_checkpoint_is_one_sentence_and_runs_no_code(tmp_path, content, capsys):
    path = tmp_path / "file.pth.tar"
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    with pytest.raises(models.WeightsError, match="is not a checkpoint") as caught:
        models.read_authors(path)
    assert one_sentence(caught.value) and capsys.readouterr().out == ""


def test_an_absent_file_says_where_the_weights_are(tmp_path):
    with pytest.raises(models.WeightsError, match=r"There is no file .*figshare\.com.*22761962\.$"):
        models.read_authors(tmp_path / "absent.pth.tar")
    with pytest.raises(models.WeightsError, match="is not a checkpoint"):
        models.read_authors(tmp_path)


# The command


def test_the_command_says_what_a_file_is(tmp_path, capsys):
    path = str(written(tmp_path, weights()))
    for more in ([], ["--model", "shufflenetv2", "--classes", "10"]):
        assert main(["weights", path, *more]) == 0
        shown = capsys.readouterr().out
        assert shown == "shufflenetv2, 10 classes, 1,268,646 parameters, epoch 89: every weight fits.\n"


@pytest.mark.parametrize(
    "words, said",
    [
        (["--model", "resnet18"], "'conv1.weight' is missing"),
        (["--classes", "100"], "'fc.weight' has shape (10, 1024)"),
        (["--classes", "0"], "at least 1"),
        (["--evaluate", "digits"], "--evaluate takes one of: cifar10, cifar100; got 'digits'"),
        (["--evaluate", "cifar10"], "python -m stkd_utils data cifar10"),
    ],
)
def test_a_wrong_question_gets_one_sentence_and_status_2(tmp_path, monkeypatch, capsys, words, said):
    monkeypatch.setenv("STKD_DATA", str(tmp_path))
    assert main(["weights", str(written(tmp_path, weights())), *words]) == 2
    message = capsys.readouterr().err
    assert said in message and message.count("\n") == 1


def tiny_cifar(name, **_):
    """Sixteen images of CIFAR's shape, whose own mean and standard deviation are not the authors'."""
    images = torch.randint(256, (16, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    split = data.Split(images, torch.arange(16) % 10)
    return data.Dataset(name, split, split, split, torch.zeros(3), torch.ones(3), tuple("abcdefghij"), "")


def test_evaluate_is_the_accuracy_on_the_test_images_normalised_as_the_authors_did(tmp_path, monkeypatch, capsys):
    seen = []

    def evaluate(network, split, dataset):
        seen.append((network, split, dataset))
        return {"accuracy": 0.7603}

    monkeypatch.setattr(data, "load", tiny_cifar)
    monkeypatch.setattr(training, "evaluate", evaluate)
    state = weights()
    assert main(["weights", str(written(tmp_path, state)), "--evaluate", "cifar10"]) == 0
    assert "test 76.03 % of 16 images of cifar10 (accuracy)" in capsys.readouterr().out
    ((network, split, dataset),) = seen
    assert torch.equal(network.fc.weight.cpu(), state["fc.weight"]) and split is dataset.test
    assert dataset.mean.tolist() == pytest.approx([0.5071, 0.4865, 0.4409])
    assert dataset.std.tolist() == pytest.approx([0.2673, 0.2564, 0.2762])


def test_evaluate_runs_the_network_on_the_images(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(data, "load", tiny_cifar)
    assert main(["weights", str(written(tmp_path, weights())), "--evaluate", "cifar10"]) == 0
    assert re.search(r"^test \d+\.\d\d % of 16 images", capsys.readouterr().out, re.MULTILINE)


def test_evaluate_refuses_a_data_set_with_other_classes(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(data, "load", tiny_cifar)
    path = written(tmp_path, weights(classes=100))
    assert main(["weights", str(path), "--evaluate", "cifar10"]) == 2
    assert capsys.readouterr().err == "cifar10 has 10 classes and these weights are for 100.\n"
