"""Stored teacher outputs: computed once a view, never used for another one, and a run that does not notice."""

import dataclasses
import json
import multiprocessing
import shutil

import pytest
import torch
from stored_helpers import SHIFT, answers, network, passes, rows_of, store

from stkd_utils import data, engine, models, stored
from stkd_utils.data import Augmentation


@pytest.fixture(scope="module")
def digits():
    return data.load("digits", train_limit=160, val_limit=50, test_limit=50)


class Counting(torch.nn.Module):
    """A teacher that counts the images it sees."""

    def __init__(self, network):
        super().__init__()
        self.network, self.images = network, 0

    def forward(self, images):
        self.images += len(images)
        return self.network(images)


@pytest.mark.parametrize("threads", [1, 2])
def test_an_image_gets_the_same_digits_in_every_batch_of_whole_blocks(threads):
    """For networks and images of the paper's size, too, and with several threads."""
    images, before = torch.randn(96, 3, 32, 32, generator=torch.Generator().manual_seed(0)), torch.get_num_threads()
    teacher = engine.frozen(models.build("resnet18", 100, seed=0), "float32", "cpu")
    torch.set_num_threads(threads)
    try:
        whole, *split = (torch.cat([teacher(part) for part in images.split(size)]) for size in (96, 32, 64))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(parts, whole) for parts in split)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("augmentation", [Augmentation(), Augmentation(flip=True), SHIFT])
def test_a_run_gets_the_same_logits_to_the_last_digit_cold_and_warm(tmp_path, digits, augmentation, precision):
    teacher = network(precision=precision)
    plain = answers(teacher, digits, augmentation, 5)
    for _ in range(2):  # the second time from the disk
        assert torch.equal(
            answers(store(tmp_path, digits, augmentation, teacher, precision), digits, augmentation, 5), plain
        )


@pytest.mark.parametrize(
    "name",
    ["alexnet", "cnn", "densenet121", "googlenet", "mobilenetv2", "resnet18", "resnet50", "shufflenetv2", "vgg19bn"],
)
def test_a_run_with_another_order_gets_its_own_logits_from_rows_of_other_batches(tmp_path, digits, name):
    teacher = engine.frozen(models.build(name, 10, channels=1, width=0.25, seed=0), "float32", "cpu")
    for seed, epochs in ((0, 3), (1, 6)):
        run = [
            (views, positions, moves.number())
            for views, positions, moves, _ in passes(digits, SHIFT, epochs, seed=seed)
        ]
        kept = store(tmp_path, digits, teacher=teacher)
        assert all(torch.equal(kept(*batch), teacher(batch[0])) for batch in run)
    assert kept.computed < 0.9 * kept.asked


def test_every_view_is_computed_once(tmp_path, digits):
    teacher = Counting(network())
    kept = store(tmp_path, digits, Augmentation(), teacher)
    run = (digits, Augmentation(), 4)
    answers(kept, *run)
    assert (kept.asked, kept.computed, teacher.images) == (4 * 160, 160, 160)
    again = store(tmp_path, digits, Augmentation(), teacher)
    answers(again, *run)
    assert (again.asked, again.computed, teacher.images) == (4 * 160, 0, 160)


def test_missing_rows_are_computed_in_blocks_and_small_batches_pass_by(tmp_path, digits):
    kept = store(tmp_path, digits, Augmentation())
    (views, positions, moves, _), *_ = passes(digits, Augmentation(), 1)
    numbers = moves.number()
    small = kept(views[:20], positions[:20], numbers[:20])
    assert kept.computed == 20 and torch.equal(small, kept.teacher(views[:20]))
    kept(views[:32], positions[:32], numbers[:32])
    assert kept.computed == 20 + 32  # the 20 were not stored
    assert torch.equal(kept(views, positions, numbers), kept.teacher(views))
    assert kept.computed == 20 + 32 + 32


def test_logits_are_ready_for_a_loss(tmp_path, digits):
    kept = store(tmp_path, digits)
    (views, positions, moves, _), *_ = passes(digits, SHIFT, 1)
    for cut in (64, 64, 20):
        logits = kept(views[:cut], positions[:cut], moves.number()[:cut])
        assert logits.dtype == torch.float32 and logits.shape == (cut, 10) and not logits.is_inference()
        assert not logits.requires_grad


# trap P1


def test_trap_P1_logits_are_never_used_for_another_view_teacher_data_or_precision(tmp_path, digits):
    first = store(tmp_path, digits)
    answers(first, digits, SHIFT, 3)
    pixels = digits.train.images.clone()
    pixels[0, 0, 0, 0] ^= 1
    edited = dataclasses.replace(digits, train=data.Split(pixels, digits.train.labels), checksum="another")
    others = {
        "teacher": store(tmp_path, digits, teacher=network(1)),
        "data": store(tmp_path, edited),
        "precision": store(tmp_path, digits, precision="bfloat16"),
        "augmentation": store(tmp_path, digits, Augmentation(crop_padding=1, flip=True)),
        "seed": store(tmp_path, digits, data_seed=0, epochs=3),
    }
    assert len({first.folder, *(other.folder for other in others.values())}) == 6
    for other in others.values():
        (views, positions, *_), *_ = passes(digits, SHIFT, 1)
        other(views, positions, torch.zeros_like(positions))
        assert other.computed == 64


def test_trap_P1_a_wrong_view_number_is_noticed_by_the_pixels(tmp_path, digits):
    kept = store(tmp_path, digits)
    (views, positions, moves, _), (others, *_), *_ = passes(digits, SHIFT, 2)
    kept(views, positions, moves.number())
    wrong = kept(others, positions, moves.number())  # the rows are there, but of other pixels
    assert kept.computed == 128 and torch.equal(wrong, kept.teacher(others))
    almost = views.clone()
    almost[5, 0, 3, 3] += 1e-6
    kept = store(tmp_path / "new", digits)
    kept(views, positions, moves.number())
    kept(almost, positions, moves.number())
    assert kept.computed == 64 + 32


def test_trap_P1_rotated_views_are_refused_in_one_sentence(tmp_path, digits):
    turning = Augmentation(rotation_degrees=10.0)
    for ask in (lambda: stored.estimate(160, 10, turning, 5), lambda: store(tmp_path, digits, turning)):
        with pytest.raises(stored.StoreError, match="set rotation_degrees to 0, or data_seed") as caught:
            ask()
        assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


# a kill, a damaged file, a full disk, a neighbour


@pytest.mark.parametrize("part", ["logits", "sum"])
def test_half_written_and_damaged_rows_are_computed_again(tmp_path, digits, part):
    kept = store(tmp_path, digits, Augmentation())
    plain = answers(kept, digits, Augmentation(), 1)
    damaged = rows_of(kept)
    damaged[part][7, 0] = 0  # the other half is there
    damaged[part][8, 0] = damaged[part][9, 0]
    damaged.flush()
    again = store(tmp_path, digits, Augmentation())
    assert torch.equal(answers(again, digits, Augmentation(), 1), plain)
    assert 32 <= again.computed <= 64
    third = store(tmp_path, digits, Augmentation())
    answers(third, digits, Augmentation(), 1)
    assert third.computed == 0


def test_a_row_that_nobody_wrote_is_no_answer_even_when_its_sum_would_be_zero(tmp_path, digits, monkeypatch):
    monkeypatch.setattr(stored.zlib, "crc32", lambda *args: 0)
    kept = store(tmp_path, digits)
    (views, positions, moves, _), *_ = passes(digits, SHIFT, 1)
    assert torch.equal(kept(views, positions, moves.number()), kept.teacher(views))


def test_a_table_whose_making_was_interrupted_is_made_anew(tmp_path, digits, monkeypatch):
    def killed(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(stored.os, "replace", killed)
        store(tmp_path, digits)
    answers(store(tmp_path, digits), digits, SHIFT, 1)
    again = store(tmp_path, digits)
    answers(again, digits, SHIFT, 1)
    assert again.computed == 0 and json.loads((again.folder / "key.json").read_text()) == again.key


def test_a_disk_with_too_little_room_is_refused_before_anything_starts(tmp_path, digits, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
        with pytest.raises(stored.StoreError, match="make room there or set stored_teacher to false") as caught:
            store(tmp_path, digits)
        assert "\n" not in str(caught.value)
    store(tmp_path, digits)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=0))
    store(tmp_path, digits)  # it has its room already


def _work(path, seed, together, wrong):
    torch.set_num_threads(1)
    digits = data.load("digits", train_limit=160, val_limit=50, test_limit=50)
    together.wait(60)
    kept = store(path, digits)
    for views, positions, moves, _ in passes(digits, SHIFT, 8, seed=seed):
        if not torch.equal(kept(views, positions, moves.number()), kept.teacher(views)):
            wrong.put(seed)
    wrong.put(None)


def test_two_processes_at_once_share_a_table_without_harm(tmp_path, digits):
    spawn = multiprocessing.get_context("spawn")
    wrong, together = spawn.Queue(), spawn.Barrier(2)
    workers = [spawn.Process(target=_work, args=(tmp_path, seed, together, wrong)) for seed in (0, 1)]
    for worker in workers:
        worker.start()
    assert [wrong.get(timeout=120) for _ in workers] == [None, None]
    for worker in workers:
        worker.join()
    for seed in (0, 1):
        kept = store(tmp_path, digits)
        answers(kept, digits, SHIFT, 8, seed)
        assert kept.computed == 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_on_a_gpu_stored_logits_come_back_to_it(tmp_path):
    digits = data.load("digits", device="cuda", train_limit=160, val_limit=50, test_limit=50)
    teacher = engine.frozen(network().network, "float32", "cuda")
    for computed in (160, 0):
        kept = store(tmp_path, digits, Augmentation(), teacher)
        for views, positions, moves, _ in passes(digits, Augmentation(), 1):
            logits = kept(views, positions, moves.number())
            assert logits.is_cuda and torch.allclose(logits, teacher(views), atol=1e-3)
        assert kept.computed == computed


# one row an epoch


@pytest.mark.parametrize("augmentation", [SHIFT, Augmentation(1, True, 10.0)])
def test_runs_with_one_data_seed_share_all_passes_with_or_without_rotation(tmp_path, digits, augmentation):
    teacher = network()

    def run(seed):
        kept = store(tmp_path, digits, augmentation, teacher, data_seed=seed, epochs=3)
        for views, positions, _, epoch in passes(digits, augmentation, 3, seed=seed):
            assert torch.equal(kept(views, positions, epoch - 1), teacher(views))
        return kept.computed

    assert [run(0), run(0), run(1), run(1)] == [480, 0, 480, 0]


def test_trap_P1_a_pass_with_other_views_than_its_seed_gave_before_is_computed(tmp_path, digits):
    kept = store(tmp_path, digits, data_seed=0, epochs=1)
    for seed in (0, 1):  # 1: as if the drawing of random numbers had changed since
        for views, positions, _, epoch in passes(digits, SHIFT, 1, seed=seed):
            assert torch.equal(kept(views, positions, epoch - 1), kept.teacher(views))
    assert kept.computed > 240
