# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Other losses, one temperature
#
# The same student, five other ways to compare it with somebody who knows more, and one question: does a temperature drawn at random work there too, at the price of one run?
#
# [Open in Colab](https://colab.research.google.com/github/stkd-book/stkd-book/blob/main/notebooks/06_other_losses.ipynb) · [Download](https://github.com/stkd-book/stkd-book/raw/main/notebooks/06_other_losses.ipynb) · [Report a problem](https://github.com/stkd-book/stkd-book/issues)

# %% [markdown]
# **You will be able to**
#
# 1. say what a distillation loss compares, and what it therefore cannot see,
# 2. show that logit matching by MSE is what Hinton's loss becomes at a high temperature,
# 3. read a contrastive loss from the similarities that it produces,
# 4. tell who profits when two networks teach each other,
# 5. set a temperature that is learnt beside one that is drawn,
# 6. compare fixed and random τ inside each loss, at a stated price.
#
# **You need**
#
# | Concept | | Where |
# | --- | --- | --- |
# | Hinton's loss and its gradient | necessary | [Classic knowledge distillation](03_classic_kd.ipynb) |
# | The random temperature, paired differences, the margin | necessary | [Stochastic temperature](04_stochastic_temperature.ipynb) |
# | What ResNet-18 and MobileNetV2 reach alone | helpful | [Teacher training](02_teacher_training.ipynb) |

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

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from IPython.display import Markdown, display

from stkd_utils import carbon, checkpoint, data, experiments, ledger, losses, plots, stats, temperature
from stkd_utils.procedures import MARGIN, Procedure, cost_columns, counterparts, made_on, recorded, verdict
from stkd_utils.receipt import ENERGY, duration, quantity
from stkd_utils.tables import table

scale = experiments.profile(profile)
plots.use_style()
meter = carbon.Meter(intensity=intensity)
meter.start("notebook")
ledger.price_tag("06_other_losses", profile)


# %% tags=["hide-input"]
caution = " **A smoke run claims nothing but that it runs: ignore its accuracies.**"
caution = caution if profile == "smoke" else ""
Markdown(f"Profile **{profile}**, data set **{scale.dataset}**: results may claim *{scale.claims}*.{caution}")

# %% [markdown]
# ## 1. What does each loss compare?
#
# Every method of this chapter adds two terms, one for the labels $y$ and one for somebody else's answer:
#
# $$L = w_h \, \mathrm{CE}(y, p_s) + w_s \, D$$
#
# They differ in $D$:
#
# | loss | $D$ compares | where τ enters |
# | --- | --- | --- |
# | KD (Hinton et al. 2015) | softened probabilities, by $\tau^2\,\mathrm{KL}$ | divides the logits |
# | MSE (Kim et al. 2021) | logits, by their squared distance | nowhere |
# | standardised (Sun et al. 2024) | softened probabilities of z-scores | divides the z-scores |
# | CTKD (Li et al. 2023) | as KD | divides the logits, and is learnt |
# | CRD (Tian et al. 2020) | features: one image's own pair against many others | divides cosines |
# | DML (Zhang et al. 2018) | probabilities of two students, both ways | divides the logits |
#
# A z-score is a logit minus the mean of its image's logits, divided by their standard deviation.
#
# So the same letter stands for three things: a softness of beliefs, a softness of z-scores, and a sharpness of similarities.
# A random τ in one of them says nothing about a random τ in another, and each needs its own range.
#
# First the teacher of the chapters before, and the student that learnt from it by KD with τ = 20.
# The function below carries a way out with every seed of the profile, and keeps it for the comparison at the end; a run that is there already is read, not repeated.

# %%
options = {"profile": profile, "intensity": intensity, "progress": "none"}
pair, ways = f"{scale.dataset}/resnet18-mobilenetv2", {}


def carry_out(label, role, name, **settings):
    """The runs of experiment ``name`` with every seed; the way goes to ``ways``."""
    runs = experiments.sweep(name, seeds=scale.seeds, **options, **settings)
    ways[label] = Procedure(label, role, tuple(run.record for run in runs))
    return runs


kd_runs = carry_out("KD, τ = 20", "KD fixed tau", f"{pair}-kd", tau=20)
asked = kd_runs[0].record["asked"]
teacher_run = experiments.run(asked["teacher"], seed=asked["teacher_seed"], **options)
limits = ("val_fraction", "train_limit", "val_limit", "test_limit")
dataset = data.load(scale.dataset, **{key: asked[key] for key in limits})
y = dataset.val.labels[:512]
inputs = data.normalise(dataset.val.images[:512], dataset.mean, dataset.std)
with torch.inference_mode():
    answers = [run.model()(inputs).double() for run in (teacher_run, kd_runs[0])]
z_t, z_s = (answer.clone() for answer in answers)  # may now take part in gradients

# %% [markdown]
# What a loss compares can be found out from outside.
# Pretend that a student gives the teacher's very logits: $D$ is zero.
# Then add 3 to all its logits, or double them, and look whether $D$ notices.

# %%
alone = {"hard_weight": 0.0, "soft_weight": 1.0}
measures = {
    "KD, τ = 4": lambda s: losses.hinton(s, z_t, y, 4.0, **alone),
    "standardised, τ = 4": lambda s: losses.hinton_standardised(s, z_t, y, 4.0, **alone),
    "MSE": lambda s: losses.mse(s, z_t, y, **alone),
}
pretended = {"teacher's logits": z_t, "plus 3": z_t + 3, "times 2": 2 * z_t}
rows = {"D of a student with": list(pretended)}
for name, measure in measures.items():
    found = (measure(logits)["soft"].item() for logits in pretended.values())
    rows[name] = [f"{max(value, 0):.3f}" for value in found]
table(rows, f"What a loss notices, {len(y)} validation images")

# %% [markdown]
# A zero below the first row means that the loss does not see this change: the student is free to make it.
# The KL leaves it the level of its logits, standardising leaves it their size as well, and MSE leaves it nothing.
# Neither change moves the class that is first, so using such a freedom costs no accuracy by itself.
# CTKD compares as KD does; the other two losses do not fit into the table: CRD never looks at logits, and in DML the other side moves too.
#
# ## 2. Where does a high temperature lead?
#
# In [chapter 3](03_classic_kd.ipynb) the gradient of $\tau^2\,\mathrm{KL}$ for one image and $K$ classes was seen to approach that of logit matching:
#
# $$\tau\,\big(p_s(\tau) - p_t(\tau)\big) \;\longrightarrow\; \frac{1}{K}\Big((z_s - \bar z_s) - (z_t - \bar z_t)\Big), \qquad \tau \to \infty$$
#
# The right side is half the gradient of an MSE between centred logits.
# So MSE is the far end of the temperature scale: a loss without a τ behaves like one with a very large τ, except that it also pulls on the mean, which the KL leaves free.
# How far the KL is from that end depends on τ *and on the size of the logits*, which standardising makes the same for every image.
# The next cell measures the distance for both, with the logits of a teacher and its student.

# %%
def gradient(loss):
    """Gradient of ``loss(logits)`` at the student's logits."""
    at = z_s.clone().requires_grad_()
    return torch.autograd.grad(loss(at)["soft"], at)[0]


def centred(logits):
    return logits - logits.mean(dim=1, keepdim=True)


half, distance = {**alone, "soft_weight": 0.5}, {}
grid = np.geomspace(1, 1000, 49)
kinds = ("logits", losses.hinton, centred), ("z-scores", losses.hinton_standardised, losses.standardise)
for kind, softened, plain in kinds:
    limit = gradient(lambda s, plain=plain: losses.mse(plain(s), plain(z_t), y, **half))
    found = [gradient(lambda s, t=tau, f=softened: f(s, z_t, y, t, **alone)) for tau in grid]
    distance[kind] = np.array([((one - limit).norm() / limit.norm()).item() for one in found])

# %% mystnb={"image": {"alt": "Two curves on logarithmic axes that fall with the temperature: how far the gradient of the softened loss is from that of logit matching, for plain logits and for z-scores; a band marks the range from which the stochastic temperature is drawn."}, "figure": {"caption": "Distance of the softened loss's gradient from logit matching, relative to the latter's size. Band: \u03c4 from 2 to 20.", "name": "figure-limit"}}
low, high = 2, 20
_, ax = plt.subplots(figsize=(plots.COLUMN, 2.8))
ax.axvspan(low, high, color=plots.ROLES["stochastic tau"].colour, alpha=0.12, linewidth=0)
for kind, dashes in (("logits", ()), ("z-scores", (3, 1.2))):
    line = {"color": plots.ROLES["KD fixed tau"].colour, "dashes": dashes, "label": kind}
    ax.plot(grid, 100 * distance[kind], **line)
ax.set(xscale="log", yscale="log", xlim=(grid[0], grid[-1]))
ax.set(xlabel="Temperature τ", ylabel="Distance (%)")
for axis in (ax.xaxis, ax.yaxis):
    axis.set_major_formatter("{x:g}")
ax.legend(frameon=False);

# %% tags=["hide-input"]
def off(kind, tau):
    """Distance from logit matching at ``tau``, as text."""
    return f"{100 * np.interp(np.log(tau), np.log(grid), distance[kind]):.0f} %"


Markdown(
    f"On plain logits the loss is {off('logits', low)} away from logit matching at τ = {low} "
    f"and {off('logits', high)} at τ = {high}; "
    f"on z-scores {off('z-scores', low)} and {off('z-scores', high)}."
)

# %% [markdown]
# Towards the right both lines fall in proportion to $1/\tau$: the limit is reached slowly, never at a point.
# What lies between them is the size of the logits: twice as large ones need twice the τ to get as near.
# A loss that is near its limit at both ends of the band teaches nearly the same wherever in the band τ is drawn.
# So a random τ can only matter where different τ teach different things, and how different they are depends on the networks.
#
# ## 3. What does a contrastive loss see?
#
# CRD looks at the layer below the logits.
# Features of student and teacher go through one linear map each, to vectors $v_s$, $v_t$ of length 1.
# For one image, its own pair has to be told from pairs with $N$ images of other classes, the *negatives*:
#
# $$h(c) = \frac{e^{c/\tau}}{Z}, \qquad P(c) = \frac{h(c)}{h(c) + N}, \qquad D = -\log P(c_{\text{own}}) - \sum_{\text{negatives}} \log\big(1 - P(c_{\text{negative}})\big)$$
#
# Here $c = v_s \cdot v_t$ is the cosine of a pair, and $Z$ the mean of $e^{c/\tau}$ over the cosines of the first batch, so it changes with τ but not during the training.
# The loss is the sum of two such $D$: the student's vector among the teacher's, and the teacher's among the student's.
# A cosine lies between −1 and 1, so a τ of 20 would make all pairs alike.
# The published value is 0.07; the random way draws it evenly from a range around that, once per batch.
# The digits have few images, so there are fewer negatives than the published number, which the experiments on CIFAR use.
#
# The vectors live in two *banks*, one row per training image, which are thrown away when a run is done.
# The setting `stop_after` ends a run early and keeps its checkpoint; the whole run then goes on from there, so looking into the banks costs no training.

# %%
crd = experiments.resolve(f"{pair}-crd", profile)
early = {"seed": scale.seeds[0], "stop_after": crd["epochs"] - 1}
stopped = experiments.run(f"{pair}-crd", **early, **options)
saved, _ = checkpoint.load(stopped.folder / "checkpoint.pt")
crd_runs = carry_out(f"CRD, τ = {crd['tau']:g}", "KD fixed tau", f"{pair}-crd")
moving = experiments.resolve(f"{pair}-crd-stochastic", profile)
carry_out("CRD, random τ", "stochastic tau", f"{pair}-crd-stochastic")
print(f"Random τ: from {moving['tau_low']:g} to {moving['tau_high']:g}.")
published = experiments.resolve("cifar100/resnet18-mobilenetv2-crd")["crd_negatives"]
print(f"Negatives for each image: {crd['crd_negatives']:,}; published: {published:,}.")

# %% [markdown]
# Now all pairs of a student's vector with a teacher's, among up to a thousand training images: an image's own pair, pairs with others of its class, and pairs with other classes.
# Only the first and the last kind take part in the loss.

# %% mystnb={"image": {"alt": "Three histograms of cosine similarities between vectors of the student and of the teacher, one above the other: pairs of one and the same image, pairs of two images of one class, pairs of two classes."}, "figure": {"caption": "Cosines between student's and teacher's vectors in the banks of one CRD run, one epoch before its end.", "name": "figure-similarities"}}
v_s, v_t = (saved["module"][f"banks.bank_{side}"][:1000].cpu() for side in "st")
classes = dataset.train.labels[: len(v_s)].cpu()
cosines, own = v_s @ v_t.T, torch.eye(len(v_s), dtype=torch.bool)
alike = classes[:, None] == classes
kinds = {"own pair": own, "same class": alike & ~own, "other classes": ~alike}
_, axes = plt.subplots(3, sharex=True, sharey=True, figsize=(plots.COLUMN, 3.2))
look = {"color": plots.ROLES["teacher"].colour, "linewidth": 0}
for ax, (kind, which) in zip(axes, kinds.items(), strict=True):
    values = cosines[which].numpy()
    share = np.full(len(values), 100 / len(values))
    ax.hist(values, np.linspace(-1, 1, 51), weights=share, **look)
    ax.text(1.02, 0.5, kind, transform=ax.transAxes, va="center")
axes[1].set_ylabel("Share of pairs (%)")
axes[2].set(xlabel="Cosine similarity", xlim=(-1, 1));

# %% tags=["hide-input"]
middle = {kind: cosines[which].median().item() for kind, which in kinds.items()}
lead = middle["own pair"] - middle["other classes"]
parts = ", ".join(f"{kind} {value:.2f}".replace("-", "−") for kind, value in middle.items())
weights = ", ".join(
    f"{np.exp(lead / tau):,.3g} at τ = {tau:g}"
    for tau in (moving["tau_low"], crd["tau"], moving["tau_high"])
)
Markdown(
    f"Medians: {parts}. "
    f"In the exponential, an ordinary own pair then weighs as much as this many ordinary negatives: {weights}."
)

# %% [markdown]
# Where the upper histogram lies to the right of the lowest, the student has learnt where the teacher sees an image.
# Where the middle one lies beside the upper, it has learnt the class more than the image: the loss asks only that other classes be far away.
# The last numbers show how strongly even a narrow range of τ acts here, because it stands in an exponent.
#
# ## 4. Two students: who profits?
#
# Deep mutual learning needs no teacher.
# Two networks start from scratch, see the same batches, and each is taught by the labels and by what the other believes at that moment:
#
# $$L_1 = \mathrm{CE}(y, p_1) + \tau^2\,\mathrm{KL}\big(p_2(\tau)\,\|\,p_1(\tau)\big), \qquad L_2 \text{ the other way round}$$
#
# The published τ is 1; the random way draws it as for KD.
# Here the MobileNetV2 learns beside a ResNet-18 of the teacher's size, and both are trained, so both are paid for.

# %%
dml = experiments.resolve(f"{pair}-dml", profile)
big = f"{scale.dataset}/resnet18-base"
carry_out("no KD", "no KD", f"{scale.dataset}/mobilenetv2-base")
carry_out("ResNet-18 alone", "teacher", big)
carry_out(f"DML, τ = {dml['tau']:g}", "KD fixed tau", f"{pair}-dml")
carry_out("DML, random τ", "stochastic tau", f"{pair}-dml-stochastic")
big_way, lonely = ways.pop("ResNet-18 alone"), ways["no KD"]
mutual = {f"τ = {dml['tau']:g}": ways[f"DML, τ = {dml['tau']:g}"]}
mutual["random τ"] = ways["DML, random τ"]


def validated(records, who="val_"):
    """Validation accuracy after the last epoch of the student or of its peer, one a run."""
    return np.array([record["result"]["last"][f"{who}accuracy"] for record in records])


# %% [markdown]
# Peers are judged on the validation split only, because only the student is used in the end; so this figure shows validation for both.

# %% mystnb={"image": {"alt": "Dots with intervals: validation accuracy of MobileNetV2 and of ResNet-18, each alone and learning beside the other with fixed and with random temperature."}, "figure": {"caption": "Validation accuracy after the last epoch, alone and beside the other network: every run, mean and 95 % interval.", "name": "figure-mutual"}}
groups = [("MobileNetV2 alone", "no KD", validated(lonely.records))]
for label, way in mutual.items():
    groups.append((f"with peer, {label}", way.role, validated(way.records)))
groups.append(("ResNet-18 alone", "teacher", validated(big_way.records)))
for label, way in mutual.items():
    groups.append((f"as peer, {label}", way.role, validated(way.records, "val_peer1_")))
rows = [pd.DataFrame({"label": a, "role": b, "val_accuracy": c}) for a, b, c in groups]
plots.dots_with_intervals(pd.concat(rows, ignore_index=True), value="val_accuracy");

# %% tags=["hide-input"]
def gained(after, before):
    """A paired difference on validation, in words."""
    gap = stats.paired(after, before)
    said = "gain" if gap.low > 0 else "loss" if gap.high < 0 else "not decided"
    return f"{gap.points()} (**{said if profile != 'smoke' else 'nothing at this scale'}**)"


reached = {label: values for label, _, values in groups}
lines = [
    f"* {label}: MobileNetV2 {gained(reached[f'with peer, {label}'], reached['MobileNetV2 alone'])}, "
    f"ResNet-18 {gained(reached[f'as peer, {label}'], reached['ResNet-18 alone'])}."
    for label in mutual
]
rates = dml["lr"], experiments.resolve(big, profile)["lr"]
said = "with equal rates" if rates[0] == rates[1] else "so the rate may have a part in the difference"
lines.append(f"* Learning rate of ResNet-18: {rates[0]:g} as a peer, {rates[1]:g} alone; {said}.")
Markdown("Beside the other, minus alone, paired by seed:\n\n" + "\n".join(lines))

# %% [markdown]
# Alone or with a peer, the MobileNetV2 of one seed starts from the same weights; the ResNet-18 does not, because a peer gets weights of its own.
# And a peer takes the student's learning rate, which need not be the one that suits it.
# Whoever is listed with a gain has profited on these seeds; *not decided* means that the interval reaches zero.
#
# ## 5. Learn τ, or draw it?
#
# CTKD makes τ a parameter that is trained *against* the student, so that it moves to where the loss is higher:
#
# $$\tau = \tau_{\text{low}} + (\tau_{\text{high}} - \tau_{\text{low}})\,\sigma(p), \qquad p \leftarrow p + \lambda\,\eta\,\frac{\partial L}{\partial p}$$
#
# The strength λ rises from 0 towards 1, by the clock of CTKD's code and not by the length of the run (momentum and weight decay are left out of the formula; σ is the logistic function, η the learning rate).
# One run, like the random way, and one number more to learn: a temperature that follows the student in place of one that ignores it.

# %% mystnb={"image": {"alt": "Temperature over training steps: a cloud of dots for the draws of the stochastic run, and one line for each seed for the temperature that was learnt."}, "figure": {"caption": "\u03c4 over the steps: drawn (dots, one run) and learnt (lines, one a seed).", "name": "figure-path"}}
learnt_runs = carry_out("KD, learnt τ", "KD tuned tau", f"{pair}-learnable")
drawn_runs = carry_out("KD, random τ", "stochastic tau", f"{pair}-stochastic")
paths = [run.taus["tau"] for run in learnt_runs]
_, ax = plt.subplots(figsize=(plots.COLUMN, 2.8))
colour = plots.ROLES["stochastic tau"].colour
ax.plot(drawn_runs[0].taus["tau"], ".", color=colour, alpha=0.5, markersize=4, label="drawn")
for path, label in itertools.zip_longest(paths, ["learnt"]):
    ax.plot(path, color=plots.ROLES["KD tuned tau"].colour, label=label)
ax.set(xlabel="Step", ylabel="Temperature τ")
ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False);

# %% tags=["hide-input"]
ends = [path.iloc[-1] for path in paths]
drawn, epochs = drawn_runs[0].taus["tau"], learnt_runs[0].record["asked"]["epochs"]
Markdown(
    f"The learnt τ begins at {paths[0].iloc[0]:.1f} and ends between {min(ends):.1f} and {max(ends):.1f} "
    f"after {len(paths[0])} steps in {epochs} epochs; "
    f"in the last one λ was {temperature.reversal(epochs):.2f}. "
    f"The drawn one has the mean {drawn.mean():.1f} and a standard deviation of {drawn.std():.1f}."
)

# %% [markdown]
# The shorter the run, the less a learnt τ can leave its start, and the more it is a fixed one by another name.
# What a line covers from end to end, against the height of the cloud, says how much variety of τ a student has met.
#
# ## 6. Does a random temperature work in every loss?
#
# The remaining ways, and then all of them together: the same student, the same schedule, the same seeds, and one training each.
# Weights of the terms are the published ones for CRD and DML, and those of KD for what only changes the comparison (MSE, standardised, learnt): nothing was tuned for this page.
#
# Costs are those of this page's runs.
# Accuracies and verdicts are those of the same ways in the [ledger](../book/ledger.md), which has more seeds; if it lacks a way or a seed, those of this page stand in for all:

# %%
law = {"tau_policy": "stochastic", "tau_low": low, "tau_high": high}
carry_out("MSE", "KD fixed tau", f"{pair}-mse")
carry_out("standardised, τ = 20", "KD fixed tau", f"{pair}-standardised")
carry_out("standardised, random τ", "stochastic tau", f"{pair}-standardised", **law)
carry_out("DML, τ = 20", "KD fixed tau", f"{pair}-dml", tau=20)
order = ("no", "KD, τ", "KD, r", "KD, l", "MSE", "st", "CRD, τ", "CRD", "DML, τ", "DML")
ranked = sorted(ways, key=lambda label: next(i for i, o in enumerate(order) if label.startswith(o)))
ways = {label: ways[label] for label in ranked}
print(f"Trained on {made_on(ways.values())}.")
more = counterparts(list(ways.values()), ledger.load()[0])
judged = dict(zip(ways, more, strict=True)) if more else ways
seeds = judged["KD, random τ"].seeds
print(f"Judged by {len(seeds)} seeds, {min(seeds)} to {max(seeds)}, of {'the ledger' if more else 'this page'}.\nThese were trained on {made_on(judged.values())}.")

# %% [markdown]
# Cost is that of one training on this page, relative to KD with τ = 20: *computation* counts FLOPs, forward and backward, *energy* is the recorded one, or time where no energy was seen.
# Peers and the embeddings of CRD are in it, and so are the frozen teacher's forward passes; the teacher's own training is not.

# %% tags=["hide-input"]
def weights_of(way):
    """The factors of the two terms, as in the record."""
    asked = way.records[0]["asked"]
    soft = asked.get("soft_weight", asked.get("crd_weight"))
    return "labels only" if soft is None else f"{asked['hard_weight']:g}, {soft:g}"


one, columns = ways["KD, τ = 20"], cost_columns(list(ways.values()), intensity)
prices = [way.price(intensity) for way in ways.values()]
metered = "seconds" if any(price["kwh"] is None for price in prices) else "kwh"
unit = one.price(intensity)[metered]
reached = [stats.interval(way.scores()).percent() for way in judged.values()]
rows = {
    "": list(ways),
    "weights": [weights_of(way) for way in ways.values()],
    "test accuracy, %": [text.split(" %")[0] for text in reached],
    "computation": [f"{way.flops() / one.flops():.3g} ×" for way in ways.values()],
    "energy": [f"{price[metered] / unit:.3g} ×" for price in prices],
}
energy = list(columns)[-2]
rows[f"energy, {energy}"] = columns[energy]
table(rows, f"Test accuracy on {scale.dataset} after the last epoch (n = {len(seeds)}); cost: mean of this page's {len(scale.seeds)} trainings")

# %% tags=["hide-input"]
schooling = Procedure("teacher", "teacher", (teacher_run.record,)).flops()
beside = ways[f"DML, τ = {dml['tau']:g}"].flops()
how = {record["cost"]["train"]["how"] for way in ways.values() for record in way.records}
Markdown(
    f"Energy is {' and '.join(sorted(how))}. "
    "DML pays for its ResNet-18 in its row, KD had it from elsewhere: with the teacher's own training added, "
    f"one KD run takes {(one.flops() + schooling) / one.flops():.3g} × in FLOPs, DML {beside / one.flops():.3g} ×."
)

# %% [markdown]
# ± is half a 95 % interval of the mean over seeds.
# Inside one loss, a fixed and a random τ do the same work for each batch: where their computation agrees and their energy does not, the gap is the clock's.

# %% mystnb={"image": {"alt": "Dots with intervals: test accuracy of every run and its mean over seeds, one row for each combination of loss and temperature."}, "figure": {"caption": "Test accuracy after the last epoch: every run, the mean over seeds and its 95 % interval. Colours: fixed \u03c4 or none, learnt, random, no teacher.", "name": "figure-losses"}}
rows = [ledger.table(list(way.records)).assign(role=way.role, label=way.label) for way in judged.values()]
plots.dots_with_intervals(pd.concat(rows, ignore_index=True));

# %% [markdown]
# Rows of different losses differ in more than τ: in weights, in what they compare, in cost.
# The question of this chapter is asked *within* a loss, paired by seed: random minus fixed.
# Verdicts are those of [chapter 4](04_stochastic_temperature.ipynb), with its margin of one accuracy point.
#
# Learning τ and standardising the logits are rivals of drawing it: each changes one thing in KD, keeps its weights, and costs one run.
# So the second table sets them against KD with a random τ.
# In DML the published τ of 1 lies below all that is drawn: that alone could make a difference, so a fixed τ = 20 is asked, too (added after the comparison with τ = 1 had been seen).
# (The learnt τ may move a little further, from 1 to 21, which are the published bounds.)

# %% tags=["hide-input"]
fixed = [label for label in judged if ", τ = " in label]
asked_of = [(label.split(",")[0], "random", label) for label in fixed] + [("KD", "learnt", "KD, τ = 20")]
verdicts = []
for name, kind, other in asked_of:
    row = verdict(judged[f"{name}, {kind} τ"], judged[other])
    if profile == "smoke":
        row["the data say"] = "nothing at this scale"
    row["difference, points"] = row.pop("difference").split(" points")[0]
    verdicts.append({"loss": name, "τ": kind, **row})
heads = ["loss", "τ", "against", "difference, points", "p of equivalence", "the data say"]
rows = pd.DataFrame(verdicts)[heads]
terms = f"n = {len(seeds)}; margin ± {100 * MARGIN:g} point"
display(table(rows, f"Test accuracy against the fixed τ, {terms}"))
rivals = ("KD, learnt τ", "standardised, τ = 20", "standardised, random τ")
rows = pd.DataFrame({"way": way, **verdict(judged[way], judged["KD, random τ"])} for way in rivals)
rows["difference"] = rows["difference"].str.split(" points").str[0]
if profile == "smoke":
    rows["the data say"] = "nothing at this scale"
rows = rows.drop(columns="against").rename(columns={"difference": "difference, points"})
table(rows, f"Rivals against KD with a random τ, {terms}")

# %% [markdown]
# *Not decided* is no finding: the interval is wider than the question.
# *No spread* stands where all seeds happen to differ by the same number of test images.
# Accuracies come in steps of one image, so with few seeds this is a coincidence, and an interval of width zero would claim more than they can know.
# Where a random τ beats a fixed one that it never draws, but not one from its range, the gain is the range's and not the draw's.
# The comparisons are not adjusted for being several, so a single one that just leaves out zero is weak evidence.
# None of the fixed values was tuned on these data, so nothing here says what a tuned τ would reach.
# Runs of the ledger were trained at different times, some by other code; the scatter that this brings is in the intervals.
# How many seeds it has was planned in [chapter 4](04_stochastic_temperature.ipynb) for its own comparison, not for these.
#
# ## 7. Beside the paper
#
# The paper puts a random τ into three losses, and compares each with a tuned τ (its Table 4; VOC is detection, in mAP).

# %%
rows, beyond = [], {}
for name in ("CIFAR-10", "CIFAR-100", "Tiny ImageNet", "VOC"):
    for loss, block in ledger.paper_table(name).set_index("method").groupby("loss", sort=False):
        score, spread = 100 * block.get("accuracy", block.get("map50")), 100 * block.spread
        both = [f"{score[way]:.2f} ± {spread[way]:.2f}" for way in ("tuned", "ours")]
        gap = score["ours"] - score["tuned"]
        beyond.setdefault(loss, []).append(abs(gap) > spread.sum())
        rows.append((loss, name, *both, f"{gap:+.2f}", f"{spread.sum():.2f}"))
rows = pd.DataFrame(rows, columns=["loss", "data", "tuned, %", "random, %", "gap", "spreads added"])
rows["gap"] = rows["gap"].str.replace("-", "−")
table(rows.sort_values("loss", key=lambda loss: loss.map(list(beyond).index), kind="stable"), "The paper's rows")

# %% tags=["hide-input"]
counts = "; ".join(f"{loss} {sum(found)} of {len(found)}" for loss, found in beyond.items())
cmc = ledger.paper_table("Tiny ImageNet").query("loss == 'CMC'").set_index("method").accuracy
Markdown(
    f"Gaps wider than the two printed spreads added: **{counts}**. "
    f"The widest of all is that of CMC on Tiny ImageNet, {100 * (cmc['tuned'] - cmc['ours']):.2f} points lost."
)

# %% [markdown]
# Two of the three rows cannot be placed with what is at hand.
#
# * **CMC [44]**: the table does not say what is done, and the authors' code has nothing of the kind. Elsewhere the letters stand for contrastive multiview coding, whose authors also wrote CRD; and the first revision of the code returns a squared distance of logits. So CRD and MSE are *candidates* for that row, and this page claims neither.
# * **DML [80]**: mutual learning has no pre-trained teacher as a rule. Then what a grid over τ covers, and why a run costs the same FLOPs as one of KD, is unclear.
#
# What this book's ledger holds of CRD and DML at larger scale, with their published τ and a random one:

# %% tags=["hide-input"]
records, _ = ledger.load()
rows = []
for name, loss, size in itertools.product(("cifar10", "cifar100"), ("crd", "dml"), ("gpu", "paper")):
    found = []
    for ending in ("", "-stochastic"):
        which = f"{name}/resnet18-mobilenetv2-{loss}{ending}"
        settings = experiments.resolve(which, size)
        found.append(recorded(records, settings, which, size, loss, "KD fixed tau"))
    if any(found):
        reached = [stats.interval(way.scores()).percent(2) if way else "not run yet" for way in found]
        rows.append((loss.upper(), name, size, *reached))
heads = ["loss", "data", "profile", "published τ", "random τ"]
rows = pd.DataFrame(rows, columns=heads)
table(rows, "From the ledger") if len(rows) else Markdown("Nothing yet: these rows wait for a GPU.")

# %% [markdown]
# The paper's tuned τ and the fixed τ of this page are different opponents, and digits are not CIFAR.
# What can be set side by side is the pattern: in which losses a random τ holds its own.
#
# ## What we learned

# %% tags=["hide-input"]
spoken = [
    f"* {row['loss']}: a {row['τ']} τ against {row['against'].split(', ')[1]}, for the same number of runs: "
    f"{row['difference, points']} points, **{row['the data say']}**."
    for row in verdicts
]
Markdown("\n".join(spoken) + f"\n\n{caution.strip()}")

# %% [markdown]
# * A temperature is not one thing: it softens beliefs, z-scores or similarities, and each has its own scale.
# * MSE is the end of the scale at which τ no longer matters; the nearer a loss is to that end, the less a draw can change.
# * Equal runs are not equal budgets: what CRD compares and whom DML trains stands in the cost column.
#
# ## What would change our mind
#
# * For a random τ in every loss: intervals on more than one data set, with more seeds, that lie within the margin of a *tuned* τ in each.
# * Against it in contrastive losses: a loss of accuracy with CRD that stays for several ranges around the published τ.
# * About the paper's CMC row: the authors' code or a sentence of theirs that says which loss it was.
# * For learning τ over drawing it: a run long enough for the learnt one to move, and a difference beyond the margin.
#
# ## Exercises
#
# **1.** From which τ on is Hinton's loss within 10 % of logit matching, for these logits and for their z-scores?
# Cost: none.

# %% tags=["hide-cell"]
for kind, found in distance.items():
    near = grid[found < 0.1]
    print(f"{kind}: τ ≥ {near[0]:.0f}" if len(near) else f"{kind}: beyond {grid[-1]:g}")

# %% [markdown]
# **2.** A small τ lets few negatives decide. How many of them carry the weight, at the ends and in the middle of the random range?
# Take the exponential of the entropy of their softmax, the mean over images.
# Cost: none.

# %% tags=["hide-cell"]
others = cosines.masked_fill(alike, -torch.inf)
for tau in (moving["tau_low"], crd["tau"], moving["tau_high"]):
    share = torch.softmax(others / tau, dim=1)
    carried = torch.special.entr(share).sum(dim=1).exp().mean()
    print(f"τ = {tau:g}: {carried:.0f} of about {(~alike).sum(dim=1).float().mean():.0f}")

# %% [markdown]
# **3.** Is it the peer's size that helps, or its company?
# Train with a peer of the student's own kind: `experiments.run(f"{pair}-dml", profile=profile, peer="mobilenetv2")`.
# The next cell says what one seed takes with the large peer; the small one needs less.

# %% tags=["hide-input"]
cost = ways["DML, random τ"].price(intensity)
energy = "energy not seen" if cost["kwh"] is None else quantity(cost["kwh"], ENERGY)
print(f"at most about {duration(cost['seconds'])} of training, {energy}")

# %% [markdown]
# ## Next
#
# [Teacher-free](07_teacher_free.ipynb) asks what is left when nobody teaches, and what a temperature still does there.
# [How this book was made](../book/made.md) says what executing these pages took.
#
# ## References
#
# * G. Hinton, O. Vinyals, J. Dean (2015), *Distilling the knowledge in a neural network*, [doi:10.48550/arXiv.1503.02531](https://doi.org/10.48550/arXiv.1503.02531)
# * T. Kim, J. Oh, N. Kim, S. Cho, S.-Y. Yun (2021), *Comparing Kullback-Leibler divergence and mean squared error loss in knowledge distillation*, [doi:10.24963/ijcai.2021/362](https://doi.org/10.24963/ijcai.2021/362)
# * S. Sun, W. Ren, J. Li, R. Wang, X. Cao (2024), *Logit standardization in knowledge distillation*, [doi:10.48550/arXiv.2403.01427](https://doi.org/10.48550/arXiv.2403.01427)
# * Z. Li et al. (2023), *Curriculum temperature for knowledge distillation*, [doi:10.1609/aaai.v37i2.25236](https://doi.org/10.1609/aaai.v37i2.25236)
# * Y. Tian, D. Krishnan, P. Isola (2020), *Contrastive representation distillation*, [doi:10.48550/arXiv.1910.10699](https://doi.org/10.48550/arXiv.1910.10699)
# * Y. Tian, D. Krishnan, P. Isola (2020), *Contrastive multiview coding*, [doi:10.1007/978-3-030-58621-8_45](https://doi.org/10.1007/978-3-030-58621-8_45)
# * Y. Zhang, T. Xiang, T. M. Hospedales, H. Lu (2018), *Deep mutual learning*, [doi:10.1109/CVPR.2018.00454](https://doi.org/10.1109/CVPR.2018.00454)
# * K. Rafat et al. (2023), *Mitigating carbon footprint for knowledge distillation based deep learning model compression*, [doi:10.1371/journal.pone.0285668](https://doi.org/10.1371/journal.pone.0285668); code: [King-Rafat/STKD_CFMitigation](https://github.com/King-Rafat/STKD_CFMitigation)
#
# ## Receipt
#
# What executing this notebook took, training included where a run was not there yet.

# %%
meter.stop("notebook")
title = f"Receipt of 06 Other losses, profile {profile}"
receipt = carbon.receipt(meter.cost("notebook"), title=title)
receipt.save(experiments.runs_folder() / "receipts" / "06_other_losses.json")
receipt
