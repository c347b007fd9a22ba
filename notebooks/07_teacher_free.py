# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Teacher-free
#
# What is left of distillation when nobody teaches: a made-up teacher, one's own earlier self, and what a temperature still does there.
#
# [Open in Colab](https://colab.research.google.com/github/stkd-book/stkd-book/blob/main/notebooks/07_teacher_free.ipynb) · [Download](https://github.com/stkd-book/stkd-book/raw/main/notebooks/07_teacher_free.ipynb) · [Report a problem](https://github.com/stkd-book/stkd-book/issues)

# %% [markdown]
# **You will be able to**
#
# 1. write label smoothing as a teacher that has the same doubt about every image,
# 2. build the virtual teacher of Tf-KD, and say what a temperature can change about it and what it cannot,
# 3. prove that its released code smooths labels, and compute by how much,
# 4. design a control for self-distillation, and for the quality of a teacher,
# 5. compare ways by accuracy, by calibration and by the whole bill, earlier trainings included.
#
# **You need**
#
# | concept | how much | where |
# | --- | --- | --- |
# | Hinton's loss, softening, reductions | necessary | [Classic knowledge distillation](03_classic_kd.ipynb) |
# | paired differences, "equivalent", "not decided" | necessary | [Stochastic temperature](04_stochastic_temperature.ipynb) |
# | cost of a whole procedure | helpful | [Classic knowledge distillation](03_classic_kd.ipynb) |

# %% tags=["hide-input", "bootstrap"]
# Finds the helpers of this book, or installs them. What is there already (torch, numpy, ...) stays as it is.
import importlib.metadata
import importlib.util
import subprocess
import sys
import tempfile
from pathlib import Path

repository = "https://github.com/stkd-book/stkd-book"
if importlib.util.find_spec("stkd_utils") is None and Path("../stkd_utils").is_dir():
    sys.path.insert(0, str(Path("..").resolve()))
if not all(map(importlib.util.find_spec, ("stkd_utils", "carbontracker", "ptflops", "jsonschema", "filelock"))):
    kept = Path(tempfile.mkdtemp(), "kept.txt")
    there = {found.metadata["Name"]: found.version for found in importlib.metadata.distributions()}
    never_touched = there.keys() & {"torch", "torchvision", "numpy", "matplotlib"}
    kept.write_text("".join(f"{name}=={there[name]}\n" for name in never_touched))
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--constraint", str(kept), f"git+{repository}"]
    if subprocess.run(pip).returncode:
        raise RuntimeError(f"The helpers of this book could not be installed from {repository}; pip says why above.")
    importlib.invalidate_caches()

# %% tags=["parameters"]
profile = "quick"  # scale: smoke, quick, gpu or paper
intensity = "world"  # gCO2e per kWh: a name of carbon.INTENSITIES or a number

# %% [markdown]
# What executing this page once has cost, as recorded in the ledger:

# %%
import itertools
from functools import partial

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from IPython.display import Markdown
from scipy.optimize import minimize_scalar

from stkd_utils import carbon, data, experiments, ledger, losses, metrics, plots, stats, teacher_free
from stkd_utils.procedures import MARGIN, Procedure, cost_columns, counterparts, made_on, verdict
from stkd_utils.receipt import ENERGY, duration, quantity
from stkd_utils.rectification import rectified
from stkd_utils.reliability import reliability_panels
from stkd_utils.tables import table

scale = experiments.profile(profile)
plots.use_style()
meter = carbon.Meter(intensity=intensity)
meter.start("notebook")
ledger.price_tag("07_teacher_free", profile)


# %% tags=["hide-input"]
caution = " **A smoke run claims nothing but that it runs: ignore its accuracies.**"
caution = caution if profile == "smoke" else ""
Markdown(f"Profile **{profile}**, data set **{scale.dataset}**: results may claim *{scale.claims}*.{caution}")

# %% [markdown]
# ## 1. Can a rule teach?
#
# The simplest teacher is no network at all.
# *Label smoothing* (Szegedy and colleagues) takes a share $\varepsilon$ of the belief away from the label $y$ and spreads it evenly over all $K$ classes; $u$ is that even spread:
#
# $$L = (1-\varepsilon)\,\mathrm{CE}(y, p_s) + \varepsilon\,\mathrm{CE}(u, p_s)$$
#
# It is a cross-entropy with a target that doubts every image by the same amount.
# A real teacher's doubt depends on the image, and that part, the dark knowledge of [chapter 3](03_classic_kd.ipynb), is missing here.
# The next cell computes the two terms for one image, and beside them what PyTorch's own switch gives.

# %%
label = torch.tensor([3])
z_s = torch.tensor([[0.5, -1.0, 0.0, 4.0, 0.0, 1.0, -0.5, 0.0, 2.0, 0.0]], dtype=torch.float64)
terms = teacher_free.label_smoothing(z_s, label, smoothing=0.1)
ours, torchs = losses.total(terms).item(), F.cross_entropy(z_s, label, label_smoothing=0.1).item()
print(", ".join(f"{name} {term:.4f}" for name, term in terms.items()), f"sum {ours:.4f} nats")
print(f"torch.nn.functional.cross_entropy: {torchs:.4f} nats")

# %% [markdown]
# The two agree, so the switch that every library offers is a teacher of the plainest kind.
# It has no temperature: there is one number to choose, $\varepsilon$, and it says outright how much is given away.
#
# ## 2. What is a virtual teacher?
#
# Yuan and colleagues (*Tf-KD*) ask what a teacher's soft targets do when they carry no knowledge of the image.
# Their *virtual teacher* $p_v$ gives the label a fixed probability $a = 0.99$, and every other class an equal part of the rest:
#
# $$p_v(y) = a, \qquad p_v(c \neq y) = \frac{1-a}{K-1}$$
#
# From there on it is treated as any other teacher: its logits are $\log p_v$, and both sides are softened by $\tau$.
#
# $$L = w_h\,\mathrm{CE}(y, p_s(1)) + w_r\,\tau^2\,\mathrm{KL}\big(p_v(\tau)\,\|\,p_s(\tau)\big)$$
#
# So a temperature can be drawn at random here as well, without any teacher.
# The bars show what the softened target looks like.

# %% mystnb={"image": {"alt": "Bar charts of the virtual teacher's class probabilities, one chart per temperature: one tall bar for the label, all others equal, and the tall bar falls as the temperature rises."}, "figure": {"caption": "The virtual teacher of ten classes, label 3, as published.", "name": "figure-virtual"}}
virtual = teacher_free.virtual_teacher(label, 10, 0.99, torch.float64)
plots.softened_bars(virtual[0].log(), [1, 4, 20, 40]);

# %% [markdown]
# Compare them with the bars of a real teacher in chapter 3: the small ones there differ, and here they are all alike at every $\tau$.
# A temperature brings up what a teacher knows of the wrong classes; where it knows nothing, nothing comes up.
#
# Then what does $\tau$ change?
# Not the goal: teacher and student are softened alike, so the KL is zero where the student *unsoftened* says 0.99, whatever $\tau$ is.
# It changes the road there: at $\tau = 1$ a probability is matched, at a high $\tau$ a gap between logits, much as weight decay would pull the student towards fixed logits.
#
# ## 3. What does the released code do?
#
# The code that came with that paper, and that the repository of stochastic KD inherited, differs in three places:
#
# * the *probabilities* $p_v$, not their logarithms, go through a softmax at $\tau$, as if they were logits,
# * the student is not softened, and there is no $\tau^2$,
# * the KL is averaged over all elements, and so divided by $K$ once more.
#
# A probability is at most one, so such "logits" differ by less than one, and a softmax at $\tau = 20$ leaves almost nothing of that.


# %%
def softened_target(form, classes, tau):
    """Probability of the label after softening: "published" or "as coded"."""
    found = teacher_free.virtual_teacher(torch.tensor([0]), classes, 0.99, torch.float64)
    logits = found.log() if form == "published" else found
    return losses.soften(logits, tau)[0, 0].item()


def fitted(form, classes, tau):
    """What a student says of the label, unsoftened, where the regularising term is smallest."""
    coded = partial(teacher_free.tfkd_reg_as_coded, reg_multiplier=1)
    loss = teacher_free.tfkd_reg if form == "published" else coded
    settings = {"hard_weight": 0.0, "reg_weight": 1.0, "correct_prob": 0.99}
    one_hot = F.one_hot(torch.tensor([0]), classes).double()

    def reg(gap):
        return loss(gap * one_hot, torch.tensor([0]), tau, **settings)["reg"].item()

    found = minimize_scalar(reg, bounds=(0, 20), method="bounded", options={"xatol": 1e-8})
    return losses.soften(found.x * one_hot, 1)[0, 0].item()


# %% [markdown]
# The first function says what the target looks like, the second what a student is really asked for: it lets an optimiser find the student at which the term is smallest.

# %%
rows = []
for classes, tau in itertools.product((10, 100, 200), (1, 20, 40)):
    row = [f"{softened_target(form, classes, tau):.4f}" for form in ("published", "as coded")]
    row += [f"{fitted(form, classes, tau):.4f}" for form in ("published", "as coded")]
    rows.append((classes, tau, *row))
heads = ["K", "τ", "target, published", "target, as coded", "asked for, published", "asked for, as coded"]
table(pd.DataFrame(rows, columns=heads), "Probability of the right class")

# %% [markdown]
# Read the last two columns.
# As published, the student is asked for 0.99 in every row.
# As coded, it is asked for the target itself, because nothing softens its side: a belief barely above $1/K$.
# The same over the whole range of $\tau$:

# %% mystnb={"image": {"alt": "Two panels over the temperature on logarithmic axes, published form and coded form. Lines for 10, 100 and 1000 classes: the published target starts at 99 per cent and falls to one divided by the number of classes; the coded one lies near that floor from a temperature of one on."}, "figure": {"caption": "Target for the right class over \u03c4 (lines), its floor 1/K (dotted), and what the student is asked for unsoftened as published (pale band at 99 %).", "name": "figure-targets"}}
taus = np.geomspace(1, 100, 60)
colour = plots.ROLES["teacher"].colour
_, axes = plt.subplots(1, 2, sharey=True, figsize=(plots.COLUMN, 3.0))
for ax, form in zip(axes, ("published", "as coded"), strict=True):
    for classes in (10, 100, 1000):
        target = [100 * softened_target(form, classes, tau) for tau in taus]
        ax.plot(taus, target, color=colour)
        ax.axhline(100 / classes, color=colour, linewidth=0.8, dashes=(1, 2))
        ax.annotate(f"K = {classes}", (100, 100 / classes), (0, -12), textcoords="offset points", ha="right")
    ax.set(xscale="log", yscale="log", xlabel="Temperature τ", xticks=[1, 10, 100], ylim=(0.04, 140))
    ax.set_xticklabels(["1", "10", "100"])
    ax.set_title(form, fontsize="medium")
axes[0].axhline(99, color=colour, alpha=0.25, linewidth=5)
axes[0].set(ylabel="Right class (%)", yticks=[0.1, 1, 10, 100], yticklabels=["0.1", "1", "10", "100"]);

# %% [markdown]
# On the right, $\tau$ has little left to do: a softmax of probabilities is near its floor at $\tau = 1$ already.
# On the left, the fall of the target is met by an equal fall on the student's side.
#
# **It is label smoothing in disguise.**
# A target with one value $q_y$ for the label and one value $q_o$ for all others is a mixture of the label and the even spread: $q = (1-s)\,y + s\,u$ with $s = K q_o$.
# A KL with a fixed target differs from a cross-entropy by a constant, and cross-entropy is linear in its target.
# With $c = w_r m / K$ for a multiplier $m$, the whole loss is therefore, up to that constant,
#
# $$W\,\big[(1-\varepsilon)\,\mathrm{CE}(y, p_s) + \varepsilon\,\mathrm{CE}(u, p_s)\big], \qquad W = w_h + c, \qquad \varepsilon = \frac{c\,s}{W}.$$
#
# A proof may hide a slip, so the next cell compares gradients on random logits, for the settings of this book's experiment and for ten and a hundred classes.

# %%
coded_name = f"{scale.dataset}/mobilenetv2-reg-as-coded"
keys = ("hard_weight", "reg_weight", "correct_prob", "reg_multiplier")
asked = experiments.load(coded_name)
settings = {key: asked[key] for key in keys}


def disguise(classes, tau, *, hard_weight, reg_weight, correct_prob=0.99, reg_multiplier):
    """Weight W and smoothing of the label smoothing that the coded form is."""
    c = reg_weight * reg_multiplier / classes
    others = (1 - softened_target("as coded", classes, tau)) / (classes - 1)
    return hard_weight + c, c * classes * others / (hard_weight + c)


draw, rows = torch.Generator().manual_seed(0), []
for classes in (10, 100):
    z = torch.randn(256, classes, generator=draw, dtype=torch.float64).requires_grad_()
    y = torch.randint(classes, (256,), generator=draw)
    weight, smoothing = disguise(classes, asked["tau"], **settings)
    coded = losses.total(teacher_free.tfkd_reg_as_coded(z, y, asked["tau"], **settings))
    smooth = weight * F.cross_entropy(z, y, label_smoothing=smoothing)
    one, other = (torch.autograd.grad(loss, z)[0] for loss in (coded, smooth))
    rows.append((classes, f"{weight:.4f}", f"{smoothing:.4f}", f"{(one - other).abs().max() / one.abs().max():.1e}"))
heads = ["K", "W", "ε", "largest gradient difference, relative"]
table(pd.DataFrame(rows, columns=heads), f"The coded form at τ = {asked['tau']:g} as label smoothing")

# %% [markdown]
# The last column is rounding error: it is one loss, written in two ways.
# $W$ multiplies every gradient, and so acts as a smaller or larger learning rate; weight decay, which it does not multiply, gains in weight where $W$ is small.
# Both numbers depend on $K$, so the same settings mean another method on another data set.
#
# ## 4. What is a teacher good for?
#
# Four ways to take the teacher apart, each with the question that it asks:
#
# | way | who teaches | the question |
# | --- | --- | --- |
# | Tf-KD self | the same network, trained before | must a teacher be larger, or better? |
# | double training | nobody; the network goes on from its own weights | is it the teaching, or only the longer training? |
# | defective teacher | the large network after one epoch | must a teacher be right? |
# | reversed pair | the small network teaches the large one | does it work upwards? |
#
# Self-distillation costs two trainings.
# So does double training, which is why that is the fair control: nearly the same bill (the teacher's forward passes come on top), no soft targets.
# Here each student's teacher is its own earlier run, of the same seed; both start from the same weights.
# The first two ways are run below for all seeds, the other two are exercises.
#
# **What if the teacher is wrong about an image?**
# *Dynamic rectification* (Amik and colleagues, for a student that is its own teacher) exchanges two of the teacher's logits, the largest one and the one of the label: it is then never wrong, and keeps all its other doubts.
# Three images of class 0 show what is touched:

# %%
z_t = torch.tensor([[4.0, 1.0, 0.0], [1.0, 4.0, 0.0], [0.0, 1.0, 4.0]])
mended = rectified(z_t, torch.tensor([0, 0, 0]))
before = ["teacher's logits", *(" ".join(f"{value:g}" for value in row) for row in z_t)]
after = ["rectified", *(" ".join(f"{value:g}" for value in row) for row in mended)]
heads = ["", "right", "wrong", "wrong by far"]
table(pd.DataFrame([before, after], columns=heads), "Logits of classes 0, 1, 2; the label is 0")

# %% [markdown]
# The first image stays as it is, in the other two the label's logit and the largest one have changed places, and the third value did not move.
# A second form does the same to the student's logits, inside the soft term alone.
#
# ## 5. What does each way reach, and cost?
#
# Now runs, with equal seeds for all.
# The weights and $\tau$ are those of the authors' files where they have any, on other data than this; nothing was tuned for this page.
# Two of the ways are repeated with a temperature that is drawn for every batch, whole numbers from 2 to 20 as in chapter 4.

# %%
options = {"profile": profile, "intensity": intensity, "progress": "none"}
random_tau = {"tau_policy": "stochastic", "tau_low": 2, "tau_high": 20}
fixed, drawn, none = "KD fixed tau", "stochastic tau", "no KD"
small, pair = f"{scale.dataset}/mobilenetv2", f"{scale.dataset}/resnet18-mobilenetv2"
plan = {  # label: (look, experiment, changes, who teaches)
    "no KD": (none, f"{small}-base", {}, "nobody"),
    "label smoothing": (none, f"{small}-smoothing", {}, "a rule"),
    "Tf-KD reg": (fixed, f"{small}-reg", {}, "a rule"),
    "Tf-KD reg, stochastic τ": (drawn, f"{small}-reg", random_tau, "a rule"),
    "Tf-KD reg as coded": (fixed, coded_name, {}, "a rule"),
    "double training": (none, f"{small}-double", {}, "nobody"),
    "Tf-KD self": (fixed, f"{small}-self", {}, "itself"),
    "Tf-KD self, stochastic τ": (drawn, f"{small}-self", random_tau, "itself"),
    "KD, τ = 20": (fixed, f"{pair}-kd", {"tau": 20}, "a larger network"),
    "KD, stochastic τ": (drawn, f"{pair}-stochastic", {}, "a larger network"),
}

# %% [markdown]
# The bill follows the records back: each names the run that taught it, or whose weights it began with.
# A way pays for its own run *and* for those, so the larger teacher is on the bill too, unlike in chapter 4, where all ways shared it.
# Whoever has that teacher already, for another purpose, may take it off.
#
# The bill is that of this page's runs.
# Accuracies, and what is said about their differences, are those of the same ways in the [ledger](../book/ledger.md), which has more seeds; if it lacks a way or a seed, those of this page stand in for all.

# %%
runs, ways = {}, {}
for name, (role, experiment, changes, _) in plan.items():
    for seed in scale.seeds:
        run = experiments.run(experiment, seed=seed, **options, **changes)
        runs.setdefault(name, []).append(run)
    records, before = zip(*((run.record, run.before) for run in runs[name]), strict=True)
    ways[name] = Procedure(name, role, records, before=before)
print(f"Trained on {made_on(ways.values())}.")
more = counterparts(list(ways.values()), ledger.load()[0])
judged = dict(zip(ways, more, strict=True)) if more else ways
seeds = judged["no KD"].seeds
print(f"Judged by {len(seeds)} seeds, {min(seeds)} to {max(seeds)}, of {'the ledger' if more else 'this page'}.")
print(f"These were trained on {made_on(judged.values())}.")

# %%
alone, classic = ways["no KD"], ways["KD, stochastic τ"]


def softness(record):
    """What a record says of the temperature that its run used."""
    drew = record["tau"]
    if not drew:
        return "–"
    return f"{drew['mean']:g}" if drew["min"] == drew["max"] else f"{drew['min']:g} to {drew['max']:g}"


rows = []
for name, way in ways.items():
    reached = stats.interval(judged[name].scores()).percent().split(" %")[0]
    work = f"{way.flops() / alone.flops():.3g} ×"
    rows.append((name, plan[name][3], softness(way.records[0]), reached, way.runs, work))
heads = ["way", "who teaches", "τ", "test accuracy, %", "trainings", "computation"]
table(
    pd.DataFrame(rows, columns=heads),
    f"Test accuracy after the last epoch, {scale.dataset}, n = {len(seeds)}; computation: whole way, no KD = 1\u00a0×",
)

# %% [markdown]
# ± is half a 95 % interval of the mean over seeds; with few seeds it may reach beyond what an accuracy can be.
# *Tf-KD reg as coded* runs with settings that were searched for a hundred classes.
# On ten it is label smoothing with a large $\varepsilon$ and a small $W$ (section 3), that is with a much lower learning rate, in a short training: where its row is low, it says that the settings do not carry over, not what the form can reach.
# In the same way *Tf-KD self* keeps weights that were published for other data.
# The column of trainings counts what must have run before the student is there.
# The same as a picture, and then the amounts behind the ratios:

# %% mystnb={"image": {"alt": "Dots with intervals: test accuracy of every run and its mean over seeds, one row for each way, from the student alone over the teacher-free ways to classic distillation."}, "figure": {"caption": "Test accuracy after the last epoch: every run, the mean over seeds and its 95 % interval.", "name": "figure-teacher-free"}}
looks = {name: {"role": way.role, "label": name} for name, way in ways.items()}
tables = [ledger.table(list(way.records)).assign(**looks[name]) for name, way in judged.items()]
plots.dots_with_intervals(pd.concat(tables, ignore_index=True));
# %%
table(
    cost_columns(list(ways.values()), intensity),
    f"Training of the whole way, earlier trainings included: mean of this page's {len(scale.seeds)} seeds",
)

# %% [markdown]
# Computation is counted; energy that is *modelled* is an assumed power times seconds, so its ratios are ratios of time.
# A rule costs nothing beside the student, so label smoothing and both forms of the virtual teacher stand at the price of no KD.
# Oneself as teacher costs a second training, and the larger teacher costs whatever it costs to train.
#
# **Are the differences there?**
# As in chapter 4, differences are taken within seeds, and the margin of equivalence is one accuracy point.

# %%
said, rows = {}, []
for name, way in judged.items():
    row = [name]
    for other in (judged["no KD"], judged["KD, stochastic τ"]):
        found = verdict(way, other)
        said[name, other.label] = found["the data say"] if profile != "smoke" else "nothing at this scale"
        texts = (found["difference"].split(" points")[0], said[name, other.label])
        row += texts if way is not other else ("–", "–")
    rows.append(row)
heads = ["way", "minus no KD, points", "the data say", "minus KD, stochastic τ, points", "the data say "]
table(pd.DataFrame(rows, columns=heads), f"Paired by seed, n = {len(seeds)}; margin ± {100 * MARGIN:g} point")

# %% [markdown]
# These are many comparisons and they are not adjusted for that, so a single one that just leaves out zero is weak evidence.
# How many seeds the ledger has was planned in [chapter 4](04_stochastic_temperature.ipynb) for its own comparison, not for these; its runs were trained at different times, some by other code, and the scatter that this brings is in the intervals.
# Whether stochastic $\tau$ helps without a teacher can be asked in the same way.
# Where the fixed $\tau$ lies outside of the range that is drawn from, its level differs as well, and the difference may be owed to that.
# And whether a rule does what a larger teacher does, at a part of its price: where it is *equivalent* or *better*, doubt alone reached as much here as what a teacher knows of an image.
# (That question was asked after the table above had been seen.)

# %% tags=["hide-input"]
lines = []
for name in ("Tf-KD reg", "Tf-KD self"):
    found = verdict(judged[f"{name}, stochastic τ"], judged[name])
    word = found["the data say"] if profile != "smoke" else "nothing at this scale"
    usual = softness(ways[name].records[0])
    lines.append(f"* {name}, stochastic τ minus τ = {usual}: {found['difference']}, **{word}**.")
pairs = [("Tf-KD self", "double training", ", its control")]
pairs += [(rule, "KD, τ = 20", "") for rule in ("label smoothing", "Tf-KD reg")]
for name, other, what in pairs:
    found = verdict(judged[name], judged[other])
    word = found["the data say"] if profile != "smoke" else "nothing at this scale"
    lines.append(f"* {name} minus {other}{what}: {found['difference']}, **{word}**.")
Markdown("\n".join(lines))

# %% [markdown]
# **Is a student as sure as it is right?**
# Soft targets ask a student to be less sure, and accuracy does not show whether it became so.
# A network is *calibrated* if, of the answers that it gives with a confidence of 80 %, 80 % are right.
# The *expected calibration error* (ECE) is the mean gap between the two, over bins of confidence.
# Another temperature measures the direction: the $\tau$ by which a finished network's logits must be divided to make its answers as likely as possible.
# Above 1 the network was too sure, below 1 too timid.
# That $\tau$ is fitted to validation images, with the networks of this page; the ECE is that of the test split, from their records.

# %%
asked = alone.records[0]["asked"]
limits = ("val_fraction", "train_limit", "val_limit", "test_limit")
dataset = data.load(scale.dataset, **{key: asked[key] for key in limits})
images, labels = dataset.val.images[:512], dataset.val.labels[:512]
inputs = data.normalise(images, dataset.mean, dataset.std)
rows, bins = [], []
for name, way in ways.items():
    with torch.inference_mode():
        answers = [run.model("last")(inputs) for run in runs[name]]
    needed = [metrics.calibrating_tau(logits, labels) for logits in answers]
    ece = stats.interval([record["result"]["last"]["test_ece"] for record in way.records])
    rows.append((name, ece.percent().split(" %")[0], f"{np.exp(np.mean(np.log(needed))):.2f}"))
    pooled = metrics.reliability(torch.cat(answers), labels.repeat(len(answers)), bins=10)
    images_each = pooled.images / len(answers)  # all seeds see the same images: an interval counts each of them once
    bins.append(pooled.assign(images=images_each, **looks[name]))
heads = ["way", "ECE on test, %", "τ that calibrates"]
table(pd.DataFrame(rows, columns=heads), f"Calibration, n = {len(scale.seeds)}; τ: geometric mean over seeds")

# %% [markdown]
# Some of these ways in full, on the validation images of all seeds together:

# %% mystnb={"image": {"alt": "Panels of accuracy over confidence for the student alone, label smoothing, the virtual teacher as published, the virtual teacher as coded, self-distillation and classic distillation with stochastic temperature; markers above the diagonal mean that a network was less sure than it was right, below it that it was too sure."}, "figure": {"caption": "Reliability: above the diagonal a network is more often right than it says. Marker size: share of the images; bars: 95 % intervals; gap: ECE of these images, in points.", "name": "figure-reliability"}}
chosen = ("no KD", "label smoothing", "Tf-KD reg", "Tf-KD reg as coded", "Tf-KD self", "KD, stochastic τ")
whole = pd.concat(bins, ignore_index=True)
reliability_panels(whole[whole.label.isin(chosen)]);
# %% [markdown]
# Markers above the diagonal belong to networks that doubt more than they need to, which is what smoothed labels ask for.
# The coded form asks for the most doubt of all, as section 3 computed; the published one asks for 0.99.
# How near a network comes to what it is asked for also depends on how long it trains.
#
# ## 6. What did the original code use?
#
# **Read in the repositories, not in a paper.**
# The code of stochastic KD descends from that of Tf-KD, by way of the code for dynamic rectification, and inherited the regularising loss as coded.
# [Asked about it](https://github.com/yuanli2333/Teacher-free-Knowledge-Distillation/issues/19), the author of Tf-KD answered that its weights were searched *for this form*, with multipliers of 1, 10, 50 and 100.
# Of the inherited parameter files, those of four networks have the keys that this loss needs; the others stop with an error.
# The evaluation of runs without a real teacher stops too, at names that do not exist there.
#
# With section 3, those settings, which our experiments `…-reg-as-coded` keep, can be read as what they are, label smoothing:

# %%
keys = "tau", "hard_weight", "reg_weight", "reg_multiplier"
files = {network: experiments.load(f"cifar100/{network}-reg-as-coded") for network in ("resnet18", "mobilenetv2", "shufflenetv2", "googlenet")}
files = {network: {key: asked[key] for key in keys} for network, asked in files.items()}
rows = []
for (network, asked), classes in itertools.product(files.items(), (10, 100)):
    weight, smoothing = disguise(classes, **asked)
    rows.append((network, classes, f"{asked['reg_weight']:g}", asked["tau"], asked["reg_multiplier"], f"{weight:.3f}", f"{smoothing:.3f}"))
heads = ["student", "K", "soft weight", "τ", "multiplier", "W", "ε"]
table(pd.DataFrame(rows, columns=heads), "Files of the authors, and the label smoothing that they amount to")

# %% tags=["hide-input"]
weight, smoothing = disguise(100, **files["resnet18"])
flat, _ = disguise(100, **files["mobilenetv2"])
Markdown(
    f"On a hundred classes, the file for ResNet18 is label smoothing with ε = {smoothing:.4f} and W = {weight:.4f}, "
    "beside the usual default of one tenth and a weight of one. "
    f"The file for MobileNetV2 has W = {flat:.4f}: every gradient of the loss "
    f"is {1 / flat:.0f} times smaller than the learning rate in the file suggests."
)

# %% [markdown]
# So a published gain of that code is a gain of label smoothing with searched weights, and says little about virtual teachers or temperatures.
# This book implements both forms, under two names, and never mixes them.
#
# ## What we learned

# %% tags=["hide-input"]
free = [name for name in ways if plan[name][3] != "a larger network" and name != "no KD"]
groups = {}
for name in free:
    groups.setdefault(said[name, "no KD"], []).append(name)
lines = [f"* Against the student alone, *{word}*: {'; '.join(names)}." for word, names in groups.items()]
groups = {}
for name in free:
    groups.setdefault(said[name, classic.label], []).append(name)
lines += [f"* Against KD with stochastic τ, *{word}*: {'; '.join(names)}." for word, names in groups.items()]
Markdown("\n".join(lines) + f"\n\n{caution.strip()}")

# %% [markdown]
# * A virtual teacher has the same doubt about every image; a temperature softens it and brings nothing up.
# * As published, $\tau$ changes how the student is pulled, not where to; as coded, the loss is label smoothing, exactly.
# * A rule is as cheap as no teacher at all, oneself costs two trainings, and a fair control for the second is to train twice.
#
# ## What would change our mind
#
# * For virtual teachers: a data set where the published form beats label smoothing by an interval beyond the margin, with $\varepsilon$ chosen on validation as carefully as $\tau$.
# * For temperatures without a teacher: a random or a tuned $\tau$ that differs from a fixed one by more than the margin.
# * For self-distillation: a lead over double training, at nearly the same bill.
# * Against all of it: a classic teacher that is better by more than the margin, where its training is shared by enough students.
#
# ## Exercises
#
# **1.** At which $\tau$ is the *published* form label smoothing, and with which $\varepsilon$?
# Cost: none.

# %% tags=["hide-cell"]
reg = {key: experiments.load(f"{small}-reg")[key] for key in ("hard_weight", "reg_weight", "correct_prob")}
share = reg["reg_weight"] * 10 * (1 - reg["correct_prob"]) / 9
weight = reg["hard_weight"] + reg["reg_weight"]
z, y = torch.randn(64, 10, dtype=torch.float64, generator=draw), torch.arange(64) % 10
z.requires_grad_()
published = losses.total(teacher_free.tfkd_reg(z, y, 1, **reg))
smooth = weight * F.cross_entropy(z, y, label_smoothing=share / weight)
one, other = (torch.autograd.grad(loss, z)[0] for loss in (published, smooth))
print(f"τ = 1, ten classes: ε = {share / weight:.4f}; gradients differ by {(one - other).abs().max():.1e}")

# %% [markdown]
# **2.** How large must the multiplier be on ten classes for the coded form at τ = 20 and a soft weight of 0.1 to be a label smoothing of one tenth, as it is on a hundred?
# Cost: none.

# %% tags=["hide-cell"]
for multiplier in (1, 10, 50, 100):
    weight, smoothing = disguise(10, **{**files["resnet18"], "reg_multiplier": multiplier})
    print(f"multiplier {multiplier:3}: W = {weight:.2f}, ε = {smoothing:.3f}")

# %% [markdown]
# **3.** Must a teacher be right?
# Let the large network teach after its first epoch only, with one seed.
# The cell trains it; the line that it prints says what that took.

# %% tags=["hide-cell"]
seed = scale.seeds[0]
run = experiments.run(f"{pair}-kd", seed=seed, tau=20, teacher_stop_after=1, **options)
defective = Procedure("defective teacher", fixed, (run.record,), before=(run.before,))
cost = defective.price(intensity)
energy = "energy not seen" if cost["kwh"] is None else quantity(cost["kwh"], ENERGY)
taught = run.before[0]["result"]["last"]["test_accuracy"]
last = run.record["result"]["last"]
whole = runs["KD, τ = 20"][0].record["result"]["last"]
print(f"The teacher gets {100 * taught:.1f} % of the test images right.")
for who, result in (("its student", last), ("a student of the whole teacher", whole)):
    print(f"{who}: {100 * result['test_accuracy']:.1f} %, ECE {100 * result['test_ece']:.1f} %")
print(f"{duration(cost['seconds'])} of training, {energy}.")

# %% [markdown]
# One seed is an anecdote; `experiments.sweep` with `seeds=scale.seeds` makes it a comparison.
#
# **4.** Does it work upwards?
# Train `experiments.run(f"{scale.dataset}/mobilenetv2-resnet18-kd", seed=seed, profile=profile)` and compare with `resnet18-base` of the same seed, whose runs chapter 2 has made.
# And does rectification help? `method="kd-rectified-teacher"` turns the classic experiment into it.
# The next cell says what a student of the small network costs; the large one as a student costs about what it cost as a teacher.

# %% tags=["hide-input"]
cost = Procedure("one", fixed, classic.records).price(intensity)
energy = "energy not seen" if cost["kwh"] is None else quantity(cost["kwh"], ENERGY)
print(f"about {duration(cost['seconds'])} of training, {energy}, for each seed")

# %% [markdown]
# ## Next
#
# [The footprint after training](08_inference_footprint.ipynb) asks what an answer of teacher and student costs, and when the student has paid for its training.
# [How this book was made](../book/made.md) says what executing these pages took; the [ledger](../book/ledger.md) has every run.
#
# ## References
#
# * C. Szegedy, V. Vanhoucke, S. Ioffe, J. Shlens, Z. Wojna (2016), *Rethinking the Inception architecture for computer vision*, [doi:10.1109/CVPR.2016.308](https://doi.org/10.1109/CVPR.2016.308)
# * L. Yuan, F. E. H. Tay, G. Li, T. Wang, J. Feng (2020), *Revisiting knowledge distillation via label smoothing regularization*, [doi:10.1109/CVPR42600.2020.00396](https://doi.org/10.1109/CVPR42600.2020.00396); code: [yuanli2333/Teacher-free-Knowledge-Distillation](https://github.com/yuanli2333/Teacher-free-Knowledge-Distillation)
# * C. Guo, G. Pleiss, Y. Sun, K. Q. Weinberger (2017), *On calibration of modern neural networks*, [doi:10.48550/arXiv.1706.04599](https://doi.org/10.48550/arXiv.1706.04599)
# * F. R. Amik, A. I. Tasin, S. Ahmed, M. M. L. Elahi, N. Mohammed (2022), *Dynamic rectification knowledge distillation*, [doi:10.48550/arXiv.2201.11319](https://doi.org/10.48550/arXiv.2201.11319)
# * K. Rafat et al. (2023), *Mitigating carbon footprint for knowledge distillation based deep learning model compression*, [doi:10.1371/journal.pone.0285668](https://doi.org/10.1371/journal.pone.0285668); code: [King-Rafat/STKD_CFMitigation](https://github.com/King-Rafat/STKD_CFMitigation)
#
# ## Receipt
#
# What executing this notebook took, training included where a run was not there yet.

# %%
meter.stop("notebook")
title = f"Receipt of 07 Teacher-free, profile {profile}"
receipt = carbon.receipt(meter.cost("notebook"), title=title)
receipt.save(experiments.runs_folder() / "receipts" / "07_teacher_free.json")
receipt
