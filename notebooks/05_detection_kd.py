# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Distilling a detector
#
# One run with a random temperature against a tuned one, where the network has to say what is in a picture *and where*.
#
# [Open in Colab](https://colab.research.google.com/github/stkd-book/stkd-book/blob/main/notebooks/05_detection_kd.ipynb) · [Download](https://github.com/stkd-book/stkd-book/raw/main/notebooks/05_detection_kd.ipynb) · [Report a problem](https://github.com/stkd-book/stkd-book/issues)

# %% [markdown]
# **You will be able to**
#
# 1. read the outputs of a single-shot detector, and say which of its boxes learn from which object,
# 2. compute average precision by the rules of PASCAL VOC, and say what it hides,
# 3. name the terms of a distillation loss for detectors, and test whether a weighted one is still a divergence,
# 4. compare ways of distilling at equal seeds, with intervals and beside the level of chance,
# 5. look at single pictures without fooling yourself.
#
# **You need**
#
# | Concept | | Where |
# | --- | --- | --- |
# | Hinton's loss, "different", "equivalent", "not decided" | necessary | [Stochastic temperature](04_stochastic_temperature.ipynb) |
# | The temperature grid as a procedure | necessary | [Classic knowledge distillation](03_classic_kd.ipynb) |
# | Convolutional feature maps | helpful | [Dive into Deep Learning, chapter 7](https://doi.org/10.48550/arXiv.2106.11342) |

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
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from IPython.display import Markdown, display

from stkd_utils import carbon, compute, detection, experiments, ledger, losses, plots, stats
from stkd_utils.procedures import MARGIN, Procedure, cost_columns, made_on, recorded, verdict
from stkd_utils.receipt import ENERGY, duration, quantity
from stkd_utils.tables import table
from stkd_utils.training import default_device

scale = experiments.profile(profile, "detection")
plots.use_style()
meter = carbon.Meter(intensity=intensity)
meter.start("notebook")
device = default_device()
ledger.price_tag("05_detection_kd", profile)


# %% tags=["hide-input"]
caution = " **A smoke run claims nothing but that it runs: ignore its numbers and its pictures.**"
caution = caution if profile == "smoke" else ""
Markdown(f"Profile **{profile}**, data set **{scale.dataset}**: results may claim *{scale.claims}*.{caution}")

# %% [markdown]
# ## 1. What does a detector say?
#
# A classifier gives one answer an image.
# A detector gives a list: boxes, each with a class and a score, and nobody tells it how long the list should be.
# The *single-shot detector* of Liu and colleagues turns this into a problem with a fixed number of answers.
# It lays a fixed set of boxes over every image, the *priors*, and asks the same two questions of each:
#
# * what is in you? (one logit for each of the $K$ classes, and one more for *background*)
# * how should you move and stretch to fit it? (four *offsets*)
#
# So its output for an image is a table of $P$ rows and $K + 1 + 4$ columns, and one pass through the network fills it.
#
# The paper reports mAP on PASCAL VOC.
# Its repository points to an implementation that distils a detector with a VGG16 into one with a MobileNetV2; that the paper used this pair is our inference (section 7).
# This page distils that pair at two scales.
# The large profiles use VOC; the small ones use *digit scenes*, pictures that this book composes of scikit-learn's handwritten digits on coloured grounds, written in VOC's own file format.
# The scenes are easy to make and hard to mistake for photographs: what they show is how the method behaves, not what it is worth on a street.
#
# The next cell fetches the teacher and the students that learn without it, or trains them if they are not there yet.

# %%
options = {"profile": profile, "intensity": intensity, "progress": "none"}
teacher_network = {"scenes": "ssd300vgg16bn", "voc": "ssd300vgg16"}[scale.dataset]
pair = f"{scale.dataset}/{teacher_network}-mobilenetv2ssdlite"
kd = experiments.load(f"{pair}-kd")
teacher_run = experiments.run(kd["teacher"], seed=kd["teacher_seed"], **options)
alone_name = f"{scale.dataset}/mobilenetv2ssdlite-base"
alone_runs = experiments.sweep(alone_name, seeds=scale.seeds, **options)

asked = teacher_run.record["asked"]
needed = ["val_fraction", "train_limit", "val_limit", "test_limit"]
needed += ["size", "train_sets", "test_sets"]
dataset = detection.load(scale.dataset, device=device, **{key: asked[key] for key in needed})
teacher = teacher_run.model(kd["teacher_epoch"], device)
priors, maps = teacher.priors.cpu(), detection.models.maps(dataset.size)
for part in ("train", "val", "test"):
    print(f"{part}: {len(getattr(dataset, part)):,} images")
print(f"{dataset.classes} classes; {len(priors):,} priors an image of {dataset.size} pixels")

# %% [markdown]
# Where do the priors stand?
# The network ends in several feature maps, each coarser than the one before.
# Every place of every map owns six priors: two squares, two wide and two tall boxes.
# The figure shows the places of each map as dots, and the six priors of one of them.

# %% mystnb={"image": {"alt": "One image once for each feature map; dots mark the places of the map, from a fine lattice to a single dot, and six boxes of different shapes stand around one place, larger from map to map."}, "figure": {"caption": "The priors of a single-shot detector: places of each feature map, and the six boxes of one place.", "name": "figure-priors"}}
counts = [len(dataset.val.objects(i)[1]) for i in range(min(50, len(dataset.val)))]
example = counts.index(max(count for count in counts if count <= 3))
view = dataset.val.resized(torch.tensor([example]), dataset.size)[0]
detection.pictures.priors_by_map(view, priors, maps);

# %% [markdown]
# Fine maps have small boxes, coarse maps large ones; some reach over the edge.
# Nothing here has been learned: the priors are fixed before the first image is seen, and the same for teacher and student.
# That is what makes distillation simple for this detector: row 17 of the student's table and row 17 of the teacher's are answers to the same question.
#
# For training, every prior needs an answer to learn.
# A prior is *positive* for an object when the two overlap enough, measured as intersection over union (IoU); each object also gets the prior that overlaps it most, however little that is.
# All others are to say *background*.
# The next figure shows the objects of the same image, and the priors that are to find them.

# %% mystnb={"image": {"alt": "One image once for each of its objects; the object's box is drawn thick, and the priors that are matched to it thin, with their number above the picture."}, "figure": {"caption": "Each object (thick) and the priors that learn to find it (thin); above: the object's class and the number of its priors.", "name": "figure-matching"}}
there = dict(zip(("boxes", "labels"), dataset.val.objects(example), strict=True))
boxes, labels = there["boxes"][None], there["labels"][None]
labels, matched = detection.boxes.match(boxes, labels, priors, asked["match_iou"])
names = dataset.class_names
detection.pictures.matched_priors(view, there, priors, labels[0], matched[0], names);

# %% [markdown]
# Objects that suit the shapes of the priors get several, a small or unlucky one a single prior, and each of these counts as much as any other in the loss.
# The rest of the table is background; the next cell counts how lopsided that is.

# %%
some = dataset.val.take(torch.arange(min(64, len(dataset.val))))
batch = next(dataset.batches(some, len(some)))
labels, offsets = detection.objectives.targets(batch, teacher.priors, asked["match_iou"])
positive = labels > 0
objects = int((batch.labels > 0).sum())
print(f"{len(some)} validation images hold {objects} objects and {labels.numel():,} priors.")
print(f"Positive: {int(positive.sum()):,} priors, {100 * positive.float().mean():.2f} %.")
print(f"That is {positive.sum() / objects:.1f} for an object; all others are background.")
print(f"(Enough is an IoU of {asked['match_iou']:g}; the article's is 0.5.)")

# %% [markdown]
# If every prior had one vote, a network that always says *background* would be right nearly everywhere.
# So the loss looks at all positives and, in each image, at three times as many background priors: those that the network is most wrong about (*hard negative mining*).
#
# What has the teacher learned?
# Its probability that a prior holds *any* object is one minus that of the background.
# The next figure shows the highest of these at each place.

# %% mystnb={"image": {"alt": "The same image in grey once for each feature map, each place of the map coloured by the highest probability of an object that the teacher gives to one of its priors."}, "figure": {"caption": "The teacher's highest probability of an object at each place of each feature map.", "name": "figure-heat"}}
with torch.inference_mode():
    outputs_t = teacher(batch.views)
logits_t = outputs_t[..., 4:].clone()
objectness = 1 - losses.soften(logits_t, 1)[example, :, 0].cpu()
detection.pictures.heat(view, objectness, maps, "Probability of an object");

# %% [markdown]
# Where a trained teacher is warm, some prior of that place and size claims an object.
# Several neighbours often claim the same one.
# *Non-maximum suppression* then keeps the best of those that overlap and say the same class, and what remains is the list of detections.
#
# ## 2. How good is a list of boxes?
#
# A detection is right when it overlaps an object of its class with an IoU of one half or more, and no better-scored one has found that object.
# Lower the score from which a detection counts, and more objects are found (*recall* rises) while more of the claims are wrong (*precision* mostly falls).
# *Average precision* is the area below that curve, after each precision is replaced by the best at that recall or any higher one; its mean over classes is the *mAP*.
# VOC has had two rules for it: since 2010 the exact area, before that the mean at eleven recalls.
# COCO's rule averages over ten overlaps from one half to 0.95, so that it also asks how well a box fits.
#
# The next figure shows both rules of VOC for the class on which the teacher is middling, on validation images.

# %% mystnb={"image": {"alt": "Precision over recall of the teacher for one class: the curve as measured, its falling envelope, and eleven dots on the envelope at recalls from 0 to 1."}, "figure": {"caption": "Precision over recall of one class: as measured (pale), its envelope (line, whose area is the average precision), and the eleven points of VOC 2007.", "name": "figure-precision"}}
found_t, _ = detection.detections(teacher, dataset.val, dataset)
curves = detection.metrics.curves(found_t, dataset.val.truths(), dataset.classes)
area, eleven = (detection.metrics.summary(curves, rule) for rule in detection.metrics.RULES)
present = sorted((value, label) for label, value in area.ap.items() if label not in area.absent)
middling = present[len(present) // 2][1]
curve = curves[middling]
best = np.maximum.accumulate(np.append(curve.precision, 0)[::-1])[::-1]
points = np.linspace(0, 1, 11)
at = np.searchsorted(curve.recall, points - 1e-9)
_, ax = plt.subplots(figsize=(plots.COLUMN, 2.8))
colour = plots.ROLES["teacher"].colour
ax.plot(100 * curve.recall, 100 * curve.precision, color=colour, alpha=0.3)
recall = np.concatenate(([0], curve.recall, [1]))
ax.step(100 * recall, 100 * np.append(best[0], best), color=colour, where="pre")
ax.plot(100 * points, 100 * best[at], "o", color=colour, markerfacecolor="white")
ax.set(xlabel="Recall (%)", ylabel="Precision (%)", xlim=(-3, 103), ylim=(-3, 103))
name = dataset.class_names[middling - 1]
print(f"{name}: area {100 * area.ap[middling]:.1f} %, 11 points {100 * eleven.ap[middling]:.1f} %")
print(f"mAP of the teacher: {100 * area.map50:.1f} % and {100 * eleven.map50:.1f} %")

# %% [markdown]
# The two rules differ by what lies between the eleven points, so scores by one are not to be set beside scores by the other.
# Where nothing more is said, mAP on this page is the area, at an IoU of one half.
#
# ## 3. What changes when a detector is distilled?
#
# Chen and colleagues add three terms of a teacher to the two that a detector learns by anyway; with Hinton's factor $\tau^2$ their sum is, in this book,
#
# $$L = w_h\,L_\text{class} + L_\text{box} + w_s\,\tau^2 L_\text{soft} + w_b\,L_\text{bound} + w_i\,L_\text{hint}$$
#
# The first two learn from the objects, the other three from the teacher.
# The $w$ are fixed ([the experiments](../book/experiments.md) have them); in this book's all four are equal, and half of the $w_h$ of a student without a teacher, so a distilled student hears the classes of the objects half as loudly beside their boxes.
# Only one of them has a temperature.
# The next cell softens the teacher's class probabilities for one prior: of the positive ones that the teacher gets right, the one of median confidence.

# %% mystnb={"image": {"alt": "Bar charts of the teacher's probabilities for one prior, background and all classes, one chart per temperature: the belief spreads as the temperature rises."}, "figure": {"caption": "One prior, one teacher, three temperatures; the first bar is the background.", "name": "figure-softened-prior"}}
confidence, said = losses.soften(logits_t, 1).max(dim=-1)
pool = positive & (said == labels)
pool = pool if pool.any() else positive
order = confidence[pool].argsort()
prior = logits_t[pool][order[len(order) // 2]].cpu()
plots.softened_bars(prior, [1, 4, 20], class_names=("background", *dataset.class_names));

# %% [markdown]
# It works as for an image, with one difference: *background* is a class, and over all priors by far the commonest.
# So the soft term would mostly repeat that there is nothing here, were it not for the mining, which it shares with the class term.
# Chen and colleagues also weight the classes within it: 1.5 for the background, 1 for all others, as a remedy for the imbalance between the two.
#
# **A trap.**
# Put such weights $w_c$ into the sum of a Kullback–Leibler divergence, and it is none any more:
#
# $$\sum_c w_c\, p_t \log \frac{p_t}{p_s}$$
#
# is zero where the student equals the teacher, but it is not smallest there.
# It falls below zero where the student gives *more* to the classes of high weight, until $p_s$ is proportional to $w\,p_t$.
# A weighted cross-entropy has the same gradient, so it has the same minimum.
# The remedy keeps the weights and adds what makes each summand non-negative:
#
# $$\sum_c w_c \Big( p_t \log \frac{p_t}{p_s} - p_t + p_s \Big)$$
#
# With all weights one, the added terms cancel, and it is the ordinary divergence.
# The next cell takes the prior about whose background the teacher is least decided, moves the background logit of a student away from the teacher's, and plots both.

# %% mystnb={"image": {"alt": "Two curves over the difference between the student's background logit and the teacher's: the plain weighted sum dips below zero to the right of zero, the generalised divergence touches zero at zero and is positive elsewhere."}, "figure": {"caption": "The soft term of one prior when the student's background logit is off by so much. Dots: the minima; dashed: the plain weighted sum.", "name": "figure-divergence"}}
weight = kd["background_weight"]
background = losses.soften(logits_t, 1)[..., 0]
unsure = (background - 0.5).abs().argmin()
target = logits_t.flatten(0, 1)[unsure].cpu().double()
shift = torch.linspace(-2, 2, 401, dtype=torch.float64)
moved = target + shift[:, None] * torch.eye(len(target), dtype=torch.float64)[0]
p_t, p_s = losses.soften(target, 1), losses.soften(moved, 1)
weights = torch.ones(len(target)).index_fill(0, torch.tensor([0]), weight)
plain = (weights * p_t * (p_t / p_s).log()).sum(dim=1)
proper = detection.losses.divergence(moved, target.expand_as(moved), 1, weight)
_, ax = plt.subplots(figsize=(plots.COLUMN, 2.8))
for label, values, dash in (("weighted sum", plain, "--"), ("divergence", proper, "-")):
    lowest = shift[values.argmin()].item()
    ax.plot(shift, values, dash, color=colour)
    ax.plot(lowest, values.min(), "o", color=colour)
    ax.text(1.02, values[-1], label, transform=ax.get_yaxis_transform(), va="center")
    print(f"{label}: smallest, {values.min():.4f} nats, at {abs(lowest):.2f}")
ax.axhline(0, color="#222222", linewidth=0.8)
ax.set(xlabel="Background logit, student less teacher", ylabel="Soft term (nats)");

# %% [markdown]
# Minimising the weighted sum teaches the student to say *background* more readily than the teacher does, by the logarithm of the weight in the logit; the divergence asks it to agree.
# The difference is small for one prior, and of one sign for all.
#
# **The box bound.**
# A teacher's box is no probability, and may be worse than the student's.
# So the teacher is not a target there, but a bar: the student's offsets are drawn towards the object's own, with an extra squared loss, as long as they are farther from them than the teacher's are.
# "As long as" has to be asked of each box.
# Asked once of the means of a batch, it is all or nothing.

# %%
student = alone_runs[0].model("last", device)
with torch.inference_mode():
    outputs_s = student(batch.views)
gaps = [(outputs[..., :4] - offsets)[positive] for outputs in (outputs_s, outputs_t)]
far_s, far_t = (gap.square().sum(dim=1) for gap in gaps)
bounded = (far_s > far_t).float().mean().item()
means = "all" if far_s.mean() > far_t.mean() else "none"
print(f"{len(far_s)} positive priors; squared distance of the offsets, mean:")
print(f"student alone {far_s.mean():.3g}, teacher {far_t.mean():.3g}")
print(f"bounded when each box is asked: {100 * bounded:.0f} %; when the means are: {means}")

# %% [markdown]
# **The hint** is a mean squared difference of all logits of all priors, mined or not.
# In the article it compares feature maps, through a layer that learns to translate between their widths; here teacher and student have equal outputs, and nothing needs a translator.
#
# The README of the authors' repository points to an implementation for detection, `SsisyphusTao/Object-Detection-Knowledge-Distillation` (branch `mbv2-lite`).
# There, as read in its code, the soft term is the weighted cross-entropy at $\tau = 1$ without $\tau^2$, the bound is asked of means, and the hint is taken of logits, too.
# What was changed there for a random $\tau$ could not be read: the authors' repository has no detection code of its own.
#
# ## 4. What does each way reach, and what does it cost?
#
# Four ways to get the same student, as in the [chapter before](04_stochastic_temperature.ipynb): without a teacher, with the constant $\tau = 20$ of the authors' classification code, with a tuned $\tau$, and with one drawn for every batch from 2 to 20.
# The grid is shorter than 2 to 20 at the small profiles, because every point of it is a training.
# Equal seeds share starting weights and the order of the images.

# %%
options["seeds"] = scale.seeds
grid_runs = experiments.sweep(f"{pair}-kd", tau=list(scale.taus), **options)
stochastic_runs = experiments.sweep(f"{pair}-stochastic", **options)
fixed_runs = [run for run in grid_runs if run.record["asked"]["tau"] == 20]
found = {
    ("no KD", "no KD"): alone_runs,
    ("KD, τ = 20", "KD fixed tau"): fixed_runs,
    ("KD, tuned τ", "KD tuned tau"): grid_runs,
    ("KD, stochastic τ", "stochastic tau"): stochastic_runs,
}
ways = {
    label: Procedure(label, role, tuple(run.record for run in runs))
    for (label, role), runs in found.items()
}
alone, fixed, tuned, stochastic = ways.values()
starts = {(r["seed"], r["init_checksum"]) for way in ways.values() for r in way.records}
print(f"{len(scale.seeds)} seeds, {len(starts)} different starts of the student")

# %% [markdown]
# A low mAP is hard to read without a floor.
# The next cell takes a student that has learned nothing, from a seed that no run uses, and lets it detect on the validation images.

# %%
sizes = {key: alone.records[0]["asked"][key] for key in ("size", "width", "depth")}
untrained = detection.models.build(kd["model"], dataset.classes, seed=max(scale.seeds) + 1, **sizes)
chance = detection.evaluate(untrained.to(device), dataset.val, dataset)["map50"]
print(f"untrained student: mAP {100 * chance:.2f} % (validation)")
reached = [stats.interval(way.scores("val")).percent() for way in ways.values()]
print(*(f"{label}: {text}" for label, text in zip(ways, reached, strict=True)), sep="\n")
print(f"teacher: {100 * teacher_run.record['result']['chosen']['val_map50']:.1f} %")

# %% [markdown]
# What a student reaches beyond the first line, it has learned.
# All numbers there are of the validation split, on which the tuned way chooses its $\tau$.
# How that choice looks:

# %% mystnb={"image": {"alt": "Validation mAP of the student over the temperature of the teacher, a curve with an interval band over seeds; the student without distillation and the one with a random temperature as horizontal lines with bands."}, "figure": {"caption": "Validation mAP after the last epoch over \u03c4: mean over seeds with its 95 % interval; dashed: ways without a fixed \u03c4.", "name": "figure-detection-grid"}}
def rows_of(way, role=None):
    """One row a run of ``way``, as figures take it."""
    return ledger.table(list(way.records)).assign(role=role or way.role, label=way.label)


shown = [rows_of(tuned, "KD fixed tau"), rows_of(alone), rows_of(stochastic)]
plots.tau_curve(pd.concat(shown, ignore_index=True), value="val_map50");

# %% [markdown]
# Each seed keeps the $\tau$ that is highest there for itself.
# Its test mAP, read only now, is set beside those of the other ways, in the next table.
# The three scores are of the runs that are kept, after the last epoch; *computation* and *energy* are of all runs that a way needs, relative to the stochastic one (energy in time, where none was seen).

# %%
def percent(way, key):
    """Result ``key`` of the kept runs on the test split, in per cent: mean ± half a 95 % interval."""
    values = [record["result"]["last"][key] for record in way.kept()]
    return stats.interval(values).percent().split(" %")[0]


prices = {label: way.price(intensity) for label, way in ways.items()}
metered = "seconds" if any(price["kwh"] is None for price in prices.values()) else "kwh"
single = prices[stochastic.label][metered]
metrics = {"VOC area, %": "test_map50", "VOC 11 points, %": "test_map50_11_point"}
metrics |= {"COCO, %": "test_map_coco"}
columns = {"": list(ways)}
columns |= {head: [percent(way, key) for way in ways.values()] for head, key in metrics.items()}
columns["runs"] = [way.runs for way in ways.values()]
work = [way.flops() / stochastic.flops() for way in ways.values()]
columns["computation"] = [f"{ratio:.3g} ×" for ratio in work]
columns["energy"] = [f"{price[metered] / single:.3g} ×" for price in prices.values()]
print(f"Trained on {made_on(ways.values())}.")
caption = f"Test mAP on {scale.dataset} (n = {len(scale.seeds)}), cost of the whole way"
display(table(columns, caption))
amounts = cost_columns(list(ways.values()), intensity)
table(amounts, "The amounts behind it: mean over seeds")

# %% [markdown]
# The scores stand for one and the same detections: the columns differ in the rule, and COCO's is lower because it wants better boxes.
# Computation is counted: a teacher that is many times the student makes a distilled run dearer by its forward passes, and the grid dearer by the number of its temperatures.
# *Modelled* energy is an assumed power times seconds, so that its ratios are ratios of time; the teacher's own training is in no row.
# All distilled runs do the same work: where *energy* is out of proportion to *computation*, the machine was busy with something else, and *computation* is the price to believe.

# %% mystnb={"image": {"alt": "Dots with intervals: test mAP of every kept run and its mean over seeds, one row for each of the four ways to train the student."}, "figure": {"caption": "Test mAP after the last epoch: every kept run, the mean over seeds and its 95 % interval.", "name": "figure-detection-ways"}}
kept = [Procedure(way.label, way.role, tuple(way.kept())) for way in ways.values()]
plots.dots_with_intervals(
    pd.concat([rows_of(way) for way in kept], ignore_index=True), value="test_map50"
);

# %% [markdown]
# Read the figure by its intervals, not by its means.
# Where the intervals of two ways overlap widely, the seeds do not tell them apart, although the paired differences below may.
#
# The terms of the loss say what the students were busy with.
# The next table has their means in the last epoch, with all weights and with $\tau^2$.

# %%
groups = {f"KD, τ = {tau:g}": [] for tau in scale.taus}
for run in grid_runs:
    groups[f"KD, τ = {run.record['asked']['tau']:g}"].append(run)
groups[stochastic.label] = stochastic_runs
terms = ("hard", "box", "soft", "bound", "hint")
rows = []
for label, runs in groups.items():
    last = pd.concat([run.history.tail(1) for run in runs]).mean()
    rows.append((label, *(f"{last[f'loss_{term}']:.3g}" for term in terms)))
rows = pd.DataFrame(rows, columns=["", *terms])
table(rows, "Terms of the loss in the last epoch, mean over batches and seeds")

# %% [markdown]
# The divergence shrinks as $\tau$ grows, and in the column *soft* $\tau^2$ has made up for that: the size of the term, which is not the size of its gradient ([chapter 3](03_classic_kd.ipynb) separates the two).
# Whatever a way gains can come from any of the three terms of the teacher, and only one of them has a temperature: the larger the others are beside it, the less can $\tau$ matter.
#
# ## 5. Is one run as good as the grid?
#
# Differences are taken within seeds, as in the chapter before, and the margin of equivalence is the same: **one point**, here of mAP.
# Where mAP is low, one point is a large part of it, and *equivalent* says no more than that the difference is small in points.
# The last column plans: with the spread of these differences, so many seeds would bring the interval down to half a point on either side.

# %%
verdicts = {way.label: verdict(stochastic, way) for way in (alone, fixed, tuned)}
for way in (alone, fixed, tuned):
    gap, row = stats.paired(stochastic.scores(), way.scores()), verdicts[way.label]
    row["seeds for ± 0.5"] = stats.seeds_needed(gap.sd, 0.005) if gap.n > 1 and gap.sd > 1e-9 else "unknown"
    if profile == "smoke":
        row["the data say"] = "nothing at this scale"
rows = pd.DataFrame(verdicts.values())
rows["difference"] = rows["difference"].str.split(" points").str[0]
rows = rows.rename(columns={"difference": "difference, points"})
table(rows, f"Stochastic τ minus each, n = {len(scale.seeds)}; margin ± {100 * MARGIN:g} point")

# %% [markdown]
# *Not decided* is no finding: neither a difference nor equality within the margin has been shown.
# The three comparisons are not adjusted for being three, all of them share one teacher and one test split, and a planned number from so few seeds is itself a guess.
#
# ## 6. Where do they disagree?
#
# Pictures persuade more than they prove, so they are chosen by a rule, not by eye.
# A network that has trained little gives low scores, right or wrong, and one threshold for all would show its scores and not its boxes.
# So each network shows its surest boxes, as many over all *validation* images as there are objects; the pictures are those on which teacher, student alone and student with random $\tau$ differ most in the number of objects that they find with them.
# The test split has been read for the scores above, and is not opened for this.

# %%
def surest(found, number):
    """The ``number`` detections of the highest scores of all images, one entry an image."""
    scores = torch.cat([one["scores"] for one in found])
    bar = scores.topk(min(number, len(scores))).values.min()
    return [{key: part[one["scores"] >= bar] for key, part in one.items()} for one in found]


def finds(found):
    """How many objects of each validation image are among the detections: an array."""
    numbers = []
    for there, one in zip(dataset.val.truths(), found, strict=True):
        overlap = detection.boxes.iou(there["boxes"][None], one["boxes"])[0]
        same = there["labels"][:, None] == one["labels"]
        numbers.append(((overlap >= 0.5) & same).any(dim=1).sum().item())
    return np.array(numbers)


total = sum(map(len, dataset.val.labels))
rows = {"teacher": surest(found_t, total)}
for label, run in {"student alone": alone_runs[0], "random τ": stochastic_runs[0]}.items():
    found, _ = detection.detections(run.model("last", device), dataset.val, dataset)
    rows[label] = surest(found, total)
hits = {label: finds(found) for label, found in rows.items()}
for label, numbers in hits.items():
    print(f"{label}: finds {numbers.sum()} of {total} objects with as many boxes")

# %% [markdown]
# Difficult objects count here, too.
# The pictures that the rule picks:

# %% mystnb={"image": {"alt": "Four validation images, one a column; in rows below each other: the objects that are there, and what the teacher, the student without distillation and the student with a random temperature found, with boxes, classes and scores."}, "figure": {"caption": "The validation images on which the three networks differ most: what is there, and which of its surest boxes each network puts there.", "name": "figure-disagree"}}
numbers = np.stack(list(hits.values()))
apart = numbers.max(axis=0) - numbers.min(axis=0)
few = np.argsort(-apart, kind="stable")[:4].tolist()
images = [dataset.val.image(i) for i in few]
shown = {"what is there": dataset.val.truths(), **rows}
shown = {label: [found[i] for i in few] for label, found in shown.items()}
detection.pictures.side_by_side(images, shown, dataset.class_names, threshold=0);

# %% [markdown]
# These images are the exception: they were chosen for disagreement, and say nothing about how common it is.
# The counts above them are of all validation images, but of one seed each.
# A claim about a class needs all images and all seeds.
# Here are the classes, on the test split, as recorded when the runs ended.

# %% tags=["hide-input"]
fair = ~torch.cat(dataset.test.difficult)
number = torch.cat(dataset.test.labels)[fair].bincount(minlength=dataset.classes + 1)
rows = []
for label, name in enumerate(dataset.class_names, 1):
    both = [
        [record["result"]["last"]["test_ap50"][name] for record in way.kept()]
        for way in (alone, stochastic)
    ]
    if None not in both[0]:
        means = [f"{100 * np.mean(values):.1f}" for values in both]
        gap = stats.paired(*both[::-1]).points().split(" points")[0]
        rows.append((name, number[label].item(), *means, gap))
heads = ["class", "objects", "no KD, %", "stochastic τ, %", "difference, points"]
rows = pd.DataFrame(rows, columns=heads)
table(rows, f"Average precision of each class, mean of {len(scale.seeds)} seeds")

# %% [markdown]
# A single class has few objects, so its score varies more than the mean over classes does, and among many intervals some leave out zero by chance.
# Do not pick the best row.
#
# ## 7. At the paper's scale
#
# The networks of the VOC experiments, counted for images of 300 × 300 pixels and 20 classes.
# Beside ours stands what was counted in the published code of the implementation named above.
# Its maps and priors are the same, but its networks carry one layer more: a 1 × 1 convolution that takes feature maps of 38 × 38 places from the width of one network to that of the other, for a hint between features.
# The student's has 192 channels to 512 and runs in every pass; the teacher's has 512 to 192 and does not count in its passes.
# The depthwise convolutions of its student's heads also have biases, which the batch normalisation behind them takes out again.
# The next cell adds these pieces to our networks.

# %%
def parameters(*modules):
    """Number of parameters of all ``modules``."""
    return sum(weight.numel() for module in modules for weight in module.parameters())


sizes = {"student": "mobilenetv2ssdlite", "teacher": "ssd300vgg16"}
built = {who: detection.models.build(network, 20) for who, network in sizes.items()}
counts = {who: compute.count(network, (3, 300, 300)) for who, network in built.items()}
ours = {who: compute.flops(count.macs) for who, count in counts.items()}
hint = torch.nn.Conv2d(192, 512, 1), torch.nn.Conv2d(512, 192, 1)
biases = 2 * sum(built["student"].body.channels[:-1])  # two heads a map; that of the last has no depthwise convolution
extra = {"student": parameters(hint[0]) + biases, "teacher": parameters(hint[1])}
passes = {"student": compute.flops(compute.count(hint[0], (192, 38, 38)).macs), "teacher": 0}
implementation = ledger.paper("Detection implementation").set_index("metric")
original = {who: implementation[implementation[who].ne("") & implementation.method.eq("")].value for who in sizes}
rows = []
for who, network in sizes.items():
    own = counts[who].parameters, ours[who]
    whole = own[0] + extra[who], own[1] + passes[who]
    said = [f"{one[0] / 1e6:.2f}; {one[1] / 1e9:.2f}" for one in (own, whole)]
    rows.append((who, network, *said, "; ".join(f"{value:.2f}" for value in original[who])))
heads = ["", "network", "ours", "with the added pieces", "original"]
table(pd.DataFrame(rows, columns=heads), "10⁶ parameters; GFLOPs of an image of 300 × 300, 20 classes")

# %% [markdown]
# With the added pieces the counts agree to the last digit that is known of the original's.
# Ours leaves them out: teacher and student here compare their outputs, which need no translator, and a bias in front of a batch normalisation changes nothing.
#
# The paper's rows for VOC (its Table 4, Hinton's loss), and what this book has beside them:

# %% tags=["hide-input"]
def beside(label, grid, one):
    """A row from two procedures of this book, or "not run yet"."""
    if grid is None or one is None:
        return label, "not run yet", *[""] * 3
    scores = [stats.interval(way.scores()).percent(2).split(" %")[0] for way in (grid, one)]
    gap = 100 * (one.scores().mean() - grid.scores().mean())
    return label, *scores, f"{gap:+.2f}".replace("-", "−"), f"{grid.flops() / one.flops():.1f} ×"


voc = ledger.paper_table("voc").query("loss == 'HKD'").set_index("method")
images = 5011 + 11540  # VOC 2007 and 2012 trainval
epochs = voc.gflops_millions["ours"] * compute.PAPER_UNIT / (images * sum(ours.values()))
print(f"The paper's FLOPs of one run are those of {epochs:.1f} epochs of forward passes.")
scores = implementation.loc["map50"].set_index("method").value
print(f"mAP in the implementation's README: {scores['base']:g} without distillation, {scores['best']:g} distilled.")
reached = [f"{100 * voc.map50[way]:.2f} ± {100 * voc.spread[way]:.2f}" for way in ("tuned", "ours")]
gap = f"{100 * (voc.map50['ours'] - voc.map50['tuned']):+.2f}".replace("-", "−")
ratio = f"{voc.gflops_millions['tuned'] / voc.gflops_millions['ours']:.1f} ×"
rows = [("VOC (paper)", *reached, gap, ratio)]
rows.append(beside(f"{scale.dataset}, {profile} (this page)", tuned, stochastic))
records, _ = ledger.load()
for size in ("gpu", "paper"):
    there = []
    for way, kind in ((tuned, "kd"), (stochastic, "stochastic")):
        name = f"voc/ssd300vgg16-mobilenetv2ssdlite-{kind}"
        wanted = experiments.resolve(name, size)
        there.append(recorded(records, wanted, name, size, way.label, way.role))
    searched, drawn = there
    whole = searched and searched.runs == len(experiments.profile(size, "detection").taus)
    rows.append(beside(f"VOC, {size} (ledger)", searched if whole else None, drawn))
heads = ["data", "tuned, %", "stochastic, %", "difference", "FLOPs"]
table(pd.DataFrame(rows, columns=heads), "Tuned against stochastic, mAP")

# %% [markdown]
# The epochs in the line above the table are near the 70 that the implementation trains by default, which suggests that the paper's FLOPs are those of forward passes of this pair.
# Digit scenes are no photographs, so the scores of these rows must not be set beside each other; the *FLOPs* are the sizes of the grids, and section 5 has the interval of this page's difference.
# What the paper's ± is, and by which of the two rules its mAP is taken, is not printed beside it.
# One more number belongs here.
# The README of the implementation that the authors point to gives this student, *without* distillation, the first score above the table, and its best distilled one the second: both lie above the paper's distilled rows.
# Schedules or starting weights may well differ, and which of them do could not be read.
# It does mean that the paper's VOC rows compare two ways of choosing $\tau$, and that nothing printed beside them says what distilling was worth.
#
# ## What we learned

# %% tags=["hide-input"]
prices_said = {
    tuned.label: f"for one run instead of {tuned.runs}",
    fixed.label: "at the same price",
    alone.label: f"for {stochastic.flops() / alone.flops():.3g} times the computation",
}
lines = [
    f"* Against *{label}*, {price}: {verdicts[label]['difference']}, **{verdicts[label]['the data say']}**."
    for label, price in prices_said.items()
]
Markdown("\n".join(lines) + f"\n\n{caution.strip()}")

# %% [markdown]
# * A detector is distilled by several terms at once, and the temperature sits in one of them.
# * A class-weighted divergence has to be checked: weights alone move its minimum away from the teacher.
# * A bar that a teacher's box sets has to be asked of each box; whether it was, decides what the term does.
# * All of this is from digit scenes where the profile says so: a few seeds, one teacher, one pair of networks.
#
# ## What would change our mind
#
# * For a random τ in detection: an interval on VOC that shows it within the margin of the grid, from seeds that differ, with τ chosen on validation.
# * Against any choice of τ here: a curve over τ that stays flat while the student gains over no teacher at all; then the bound and the hint do the work.
# * About distilling at all: a student alone that trains for as much computation as the distilled one had, teacher's passes included, and reaches as much.
#
# ## Exercises
#
# **1.** How many priors has a detector for 300 × 300 pixels, and what share of them stands on its finest map?
# Cost: none.

# %% tags=["hide-cell"]
sides = detection.models.maps(300)
each = [detection.boxes.PER_LOCATION * side**2 for side in sides]
print(f"maps {sides}: {sum(each):,} priors, {100 * each[0] / sum(each):.0f} % on the finest")

# %% [markdown]
# Most priors are small ones, although most photographs show large objects: another reason why background is everywhere.
#
# **2.** Section 3 claims that the weighted sum is smallest where the background logit is raised by the logarithm of the weight. Check it.
# Cost: none.

# %% tags=["hide-cell"]
tilted = torch.log_softmax(target + weights.log(), dim=0)
lowest = (weights * p_t * (p_t.log() - tilted)).sum()
print(f"log({weight}) = {np.log(weight):.3f}; the curve's minimum is at {shift[plain.argmin()]:.3f}")
print(f"there {lowest:.5f} nats, lowest of the curve {plain.min():.5f}")

# %% [markdown]
# **3.** Does the temperature matter once the other two terms of the teacher are gone?
# Train with `experiments.run(f"{pair}-stochastic", profile=profile, bound_weight=0, hint_weight=0)`, and compare over all seeds.
# The next cell says what one seed costs.

# %% tags=["hide-input"]
cost = stochastic.price(intensity)
energy = "energy not seen" if cost["kwh"] is None else quantity(cost["kwh"], ENERGY)
print(f"about {duration(cost['seconds'])} of training, {energy}")

# %% [markdown]
# ## Next
#
# [Other losses, one temperature](06_other_losses.ipynb) returns to classification, and asks whether a random τ works in other losses too.
#
# ## References
#
# * W. Liu et al. (2016), *SSD: single shot multibox detector*, [doi:10.1007/978-3-319-46448-0_2](https://doi.org/10.1007/978-3-319-46448-0_2)
# * G. Chen, W. Choi, X. Yu, T. Han, M. Chandraker (2017), *Learning efficient object detection models with knowledge distillation*, Advances in Neural Information Processing Systems 30
# * M. Everingham et al. (2010), *The PASCAL visual object classes (VOC) challenge*, [doi:10.1007/s11263-009-0275-4](https://doi.org/10.1007/s11263-009-0275-4)
# * T.-Y. Lin et al. (2014), *Microsoft COCO: common objects in context*, [doi:10.1007/978-3-319-10602-1_48](https://doi.org/10.1007/978-3-319-10602-1_48)
# * M. Sandler et al. (2018), *MobileNetV2: inverted residuals and linear bottlenecks*, [doi:10.1109/CVPR.2018.00474](https://doi.org/10.1109/CVPR.2018.00474)
# * K. Rafat et al. (2023), *Mitigating carbon footprint for knowledge distillation based deep learning model compression*, [doi:10.1371/journal.pone.0285668](https://doi.org/10.1371/journal.pone.0285668); code: [King-Rafat/STKD_CFMitigation](https://github.com/King-Rafat/STKD_CFMitigation)
#
# ## Receipt
#
# What executing this notebook took, training included where a run was not there yet.

# %%
meter.stop("notebook")
title = f"Receipt of 05 Distilling a detector, profile {profile}"
receipt = carbon.receipt(meter.cost("notebook"), title=title)
receipt.save(experiments.runs_folder() / "receipts" / "05_detection_kd.json")
receipt
