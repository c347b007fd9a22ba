"""Every way of training, beside each other: what it reached on the digits, what a run costs, which test proves it."""

import re

from finding import ROOT, _markdown, paired, records

from stkd_utils import experiments, stats
from stkd_utils.experiments import tasks
from stkd_utils.experiments.classification import METHODS
from stkd_utils.procedures import recorded
from stkd_utils.receipt import duration

TESTS = ROOT / "tests"
STUDENT, PROFILE = "mobilenetv2", "quick"
PROOFS = {  # method: the file and the test that hold its formula to another way of computing it
    "base": ("test_losses", "test_cross_entropy_is_the_hard_term"),
    "label-smoothing": ("test_teacher_free", "test_label_smoothing_sums_to_that_of_torch"),
    "tfkd-reg": ("test_teacher_free", "test_published_reg_is_hinton_with_the_logarithms_of_the_virtual_teacher"),
    "tfkd-reg-as-coded": (
        "test_teacher_free", "test_trap_P8_as_coded_is_torchs_divergence_of_an_unsoftened_student"
    ),
    "double": (
        "test_methods", "test_double_training_begins_with_the_chosen_weights_of_its_own_seeds_run_and_says_so"
    ),
    "kd": ("test_losses", "test_values_equal_the_plain_formula"),
    "kd-element-mean": ("test_losses", "test_element_mean_is_the_default_reduction_of_torch"),
    "kd-standardised": ("test_teacher_free", "test_trap_P6_standardising_changes_the_soft_term_and_nothing_else"),
    "kd-rectified-teacher": ("test_teacher_free", "test_rectified_sides_are_hinton_with_that_side_exchanged"),
    "kd-rectified-student": ("test_teacher_free", "test_rectified_sides_are_hinton_with_that_side_exchanged"),
    "mse": ("test_teacher_free", "test_mse_is_the_mean_square_over_batch_and_classes_with_its_gradient"),
    "tfkd-self": ("test_losses", "test_values_equal_the_plain_formula"),
    "tfkd-combined": ("test_teacher_free", "test_combined_is_the_sum_of_its_parts"),
    "crd": ("test_contrastive", "test_three_batches_equal_the_plain_loops"),
    "dml": ("test_mutual", "test_published_form_of_two_is_cross_entropy_plus_divergence_each"),
}  # fmt: skip
LEARNT = ("test_learnable", "test_the_gradient_of_p_is_turned_round_and_scaled_by_the_strength")


def methods(_executed=None):
    """Markdown table: each method and its experiments on the digits: accuracy, cost of one run, the proving test."""
    known = records()
    reference = _runs(known, f"digits/resnet18-{STUDENT}-stochastic")
    heads = ["Method and experiment", "Random τ", "Test accuracy, %", "Cost of one run", "Test of the formula"]
    return _markdown(heads, [_line(method, name, known, reference) for method, name in listed()])


def listed():
    """(method, experiment) of the digits' experiments that train the student of this book, or are taught by it."""
    names = [name for name in experiments.names() if name.startswith("digits/")]
    loaded = [(experiments.load(name), name) for name in names]
    order = list(METHODS)
    own = [(one["method"], name) for one, name in loaded if STUDENT in f"{one['model']} {one.get('teacher')}"]
    return sorted(own, key=lambda pair: (order.index(pair[0]), pair[1]))


def _line(method, name, known, reference):
    asked = experiments.load(name)
    takes = "is what it draws" if asked.get("tau_policy", "").startswith("stochastic") else "possible"
    tau = takes if tasks.method(asked).temperature else "has no τ"
    file, test = LEARNT if asked.get("tau_policy") == "learnable" else PROOFS[method]
    proof = f"`{file}`: {re.sub('^test_(trap_[A-Z][0-9]+_)?', '', test).replace('_', ' ')}"
    who = f"{method}: `{name.split('/')[1]}`"
    runs = _runs(known, name)
    runs = paired(runs, reference) if runs and reference else runs
    if runs is None:
        return [who, tau, "not run", "", proof]
    n = len(runs.seeds)
    accuracy = f"{stats.interval(runs.scores()).percent().split(' %')[0]} (n = {n})"
    work = f"{runs.flops() / reference.flops():.3g} ×, " if reference else ""
    return [who, tau, accuracy, work + duration(sum(cost.seconds for cost in runs.costs()) / n), proof]


def _runs(known, name):
    """The recorded runs of an experiment as its file asks for it, or None."""
    tau = experiments.load(name).get("tau")
    there = [record for record in known if record["asked"].get("tau") == tau]
    return recorded(there, experiments.resolve(name, PROFILE), name, PROFILE, name, "KD fixed tau")


TABLES = {"methods": methods}
