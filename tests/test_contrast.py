"""The contrastive objective with networks: whose features it reads, whom it teaches, and how it shares a teacher."""

import pytest
import torch

from stkd_utils import contrastive, data, engine, losses, models, seeding, temperature
from stkd_utils.contrastive import Contrast
from stkd_utils.objectives import Teacher

STUDENTS = ("mobilenetv2", "shufflenetv2", "resnet18")


@pytest.fixture(scope="module")
def digits():
    return data.load("digits", train_limit=96, val_limit=50, test_limit=50)


@pytest.fixture
def batches(digits):
    generators = {stream: seeding.generator(0, stream) for stream in ("order", "augment")}
    return list(digits.epoch(32, data.Augmentation(crop_padding=1), generators, 1))


def network(name="mobilenetv2", seed=0):
    return models.build(name, 10, channels=1, width=0.125, depth=0.25, seed=seed)


def frozen(precision="float32"):
    return engine.frozen(network("resnet18", 7), precision, "cpu")


def contrast(digits, student, teacher=None, policy=None, **options):
    options = {"seed": 3, "crd_negatives": 16, **options}
    return Contrast(student, teacher or frozen(), digits.train.labels, policy or temperature.Fixed(0.07), **options)


@pytest.mark.parametrize("name", models.names())
def test_features_are_what_the_last_layer_of_each_network_reads(name):
    model = network(name).eval()
    features = contrastive.Features(model)
    logits = model(torch.randn(2, 1, 32, 32, generator=torch.Generator().manual_seed(0)))
    layer = model.get_submodule(models.classifier(model))
    seen = features.take()
    assert seen.shape == (2, features.size)
    torch.testing.assert_close(seen @ layer.weight.flatten(1).T + layer.bias, logits)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", STUDENTS)
def test_features_of_a_frozen_network_are_read_through_its_fusion(name, precision, batches):
    model, teacher = network(name).eval(), engine.frozen(network(name), precision, "cpu")
    features, wanted = contrastive.Features(teacher), contrastive.Features(model)
    teacher(batches[0].views), model(batches[0].views)
    seen = features.take()
    assert seen.dtype == torch.float32 and not seen.is_inference() and not seen.requires_grad
    tolerance = {"atol": 1e-4, "rtol": 1e-4} if precision == "float32" else {"atol": 0.1, "rtol": 0.1}
    torch.testing.assert_close(seen, wanted.take().detach(), **tolerance)


def test_features_are_given_once_and_asking_early_is_one_clear_sentence(batches):
    model = network()
    features = contrastive.Features(model)
    model(batches[0].views)
    features.take()
    with pytest.raises(RuntimeError, match="let the network answer the batch first"):
        features.take()


@pytest.mark.parametrize("name", STUDENTS)
def test_gradient_reaches_student_and_embeddings_and_never_the_teacher(name, digits, batches):
    student = network(name)
    objective = contrast(digits, student)
    before = {key: value.clone() for key, value in objective.teacher.state_dict().items()}
    terms = objective.terms(batches[0], student(batches[0].views))
    assert list(terms) == ["hard", "contrast"]
    terms["contrast"].backward()
    last = models.classifier(student)
    for key, parameter in student.named_parameters():
        assert (parameter.grad is None) == key.startswith(last), key
    assert all(parameter.grad.any() for parameter in objective.module.parameters())
    assert set(objective.module.parameters()) == set(objective.banks.parameters())
    assert len(list(objective.module.parameters())) == 4
    assert not any(p.requires_grad or p.grad is not None for p in objective.teacher.parameters())
    assert all(torch.equal(value, before[key]) for key, value in objective.teacher.state_dict().items())


def test_the_terms_carry_their_weights(digits, batches):
    found = []
    for weights in ({}, {"hard_weight": 0.5, "crd_weight": 1.6}):
        student = network()
        found.append(contrast(digits, student, **weights).terms(batches[0], student(batches[0].views)))
    one, other = found
    assert other["hard"].item() == pytest.approx(0.5 * one["hard"].item())
    assert other["contrast"].item() == pytest.approx(2 * one["contrast"].item())


def test_a_shared_teacher_answers_once_a_batch_whoever_asks_first(digits, batches):
    teacher, answered = Teacher(frozen()), []
    teacher.network.register_forward_hook(lambda *_: answered.append(1))
    students = [network(seed=seed) for seed in (0, 1)]
    both = [contrast(digits, student, teacher) for student in students]
    for one in batches:
        teacher(one)  # as a student that reads logits alone
        found = [objective.terms(one, student(one.views)) for objective, student in zip(both, students, strict=True)]
        assert found[0]["contrast"] != found[1]["contrast"]
    assert len(answered) == len(batches)


def test_a_student_beside_others_sees_the_features_of_its_own_batch(digits, batches):
    def values(others):
        teacher, student = Teacher(frozen()), network(seed=1)
        objective = contrast(digits, student, teacher)
        crowd = [(one, contrast(digits, one, teacher, seed=8)) for one in map(network, others)]
        found = []
        for one in batches:
            for model, theirs in crowd:
                theirs.terms(one, model(one.views))
            found.append(objective.terms(one, student(one.views))["contrast"].item())
        return found

    assert values([]) == values(["mobilenetv2", "resnet18"])


def test_stored_outputs_are_refused_in_one_clear_sentence(digits):
    with pytest.raises(ValueError, match="only its logits are stored: set stored_teacher to false") as caught:
        contrast(digits, network(), Teacher(frozen(), stored=object()))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("policy", [
    temperature.Fixed(0.07), temperature.ContinuousUniform(0.05, 0.1), temperature.LogUniform(0.05, 0.1),
    temperature.IntegerUniform(1, 2), temperature.Learnable(0.05, 0.1),
], ids=lambda policy: policy.name)  # fmt: skip
def test_every_policy_works_and_is_drawn_once_a_batch(policy, digits, batches):
    student = network()
    objective = contrast(digits, student, policy=policy)
    for one in batches:
        losses.total(objective.terms(one, student(one.views))).backward()
    assert len(policy.draws) == len(batches)
