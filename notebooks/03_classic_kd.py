# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Classic knowledge distillation
#
# Soften a teacher's belief by hand, take Hinton's loss apart, and pay for a temperature grid that is run for real.
#
# [Open in Colab](https://colab.research.google.com/github/stkd-book/stkd-book/blob/main/notebooks/03_classic_kd.ipynb) · [Download](https://github.com/stkd-book/stkd-book/raw/main/notebooks/03_classic_kd.ipynb) · [Report a problem](https://github.com/stkd-book/stkd-book/issues)

# %% [markdown]
# **You will be able to**
#
# 1. explain what a temperature does to the class probabilities of a trained teacher,
# 2. derive the gradient of Hinton's loss, and say what it becomes at a high temperature,
# 3. recognise how the reduction of the KL term shifts the balance of the loss with the number of classes,
# 4. run a temperature grid and choose from it without touching the test split,
# 5. state what such a grid costs as a whole, in seconds, FLOPs, energy and CO₂e.
#
# **You need**
#
# | concept | how much | where |
# | --- | --- | --- |
# | softmax and cross-entropy | necessary | [Dive into Deep Learning, section 4.1](https://doi.org/10.48550/arXiv.2106.11342) |
# | a trained teacher, intervals over seeds | necessary | [Teacher training](02_teacher_training.ipynb) |
# | FLOPs, energy, carbon intensity | helpful | [The carbon problem](01_carbon_problem.ipynb) |

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
# The parameters above are all that a batch machine changes.
# The next cell starts the meter, and says what executing this page once has cost when that was last recorded.

# %%
import itertools

import pandas as pd
import torch
from IPython.display import Markdown

from stkd_utils import carbon, data, experiments, ledger, losses, models, plots, stats
from stkd_utils.procedures import Procedure, cost_columns, made_on, recorded
from stkd_utils.receipt import ENERGY, duration, quantity
from stkd_utils.slider import TauSlider
from stkd_utils.tables import table

scale = experiments.profile(profile)
plots.use_style()
meter = carbon.Meter(intensity=intensity)
meter.start("notebook")
ledger.price_tag("03_classic_kd", profile)


# %% tags=["hide-input"]
Markdown(f"Profile **{profile}**, data set **{scale.dataset}**: results may claim *{scale.claims}*.")

# %% [markdown]
# ## 1. What does a temperature do?
#
# A teacher ends in *logits* $z$, one number a class.
# A softmax turns them into probabilities, and a temperature $\tau$ divides them first:
#
# $$p_c(\tau) = \frac{\exp(z_c/\tau)}{\sum_k \exp(z_k/\tau)}$$
#
# At $\tau = 1$ this is the ordinary softmax.
# A larger $\tau$ shrinks the gaps between the logits, so the belief spreads; the order of the classes never changes.
#
# The teacher is the ResNet-18 of seed 0 from [chapter 1](01_carbon_problem.ipynb).
# If its run is not there, the next cell trains it.
# From the validation images that it gets right, the cell takes the one about which its confidence is the median: an ordinary image.

# %%
options = {"profile": profile, "intensity": intensity, "progress": "none"}
teacher_run = experiments.run(f"{scale.dataset}/resnet18-base", seed=0, **options)
asked = teacher_run.record["asked"]
limits = ("val_fraction", "train_limit", "val_limit", "test_limit")
dataset = data.load(scale.dataset, **{key: asked[key] for key in limits})
images, labels = dataset.val.images[:512], dataset.val.labels[:512]
inputs = data.normalise(images, dataset.mean, dataset.std)
teacher = teacher_run.model()
with torch.inference_mode():
    logits_t = teacher(inputs)
confidence, belief = losses.soften(logits_t, 1).max(dim=1)
right = (belief == labels).nonzero().flatten()
example = right[confidence[right].argsort()[len(right) // 2]]
print(f"The teacher gets {len(right)} of {len(labels)} validation images right.")
print(f"The example is of class {dataset.class_names[labels[example]]}.")

# %% [markdown]
# Move the slider, by mouse, finger or arrow keys.
# The bars are the teacher's probabilities for this one image; the line above them says how many equally likely classes would be as uncertain.

# %%
TauSlider(logits_t[example], class_names=dataset.class_names, image=images[example])

# %% [markdown]
# The surer the teacher is, the less it says at $\tau = 1$ that the label does not.
# Higher up, the small bars grow: which wrong classes look a little like the right one is what Hinton and colleagues call *dark knowledge*.
# For a page that does not move, the same image at three temperatures:

# %% mystnb={"image": {"alt": "Bar charts of the teacher's class probabilities for one image, one chart per temperature: the belief spreads over the classes as the temperature rises."}, "figure": {"caption": "One image, one teacher, three temperatures.", "name": "figure-softened"}}
plots.softened_bars(logits_t[example], [1, 4, 20], class_names=dataset.class_names);

# %% [markdown]
# Nothing was trained for these pictures: one vector of logits was divided by three numbers.
# From top to bottom the highest bar falls and the lowest one rises, and no two ever change places.
#
# ## 2. Which loss, and which gradient?
#
# Hinton, Vinyals and Dean add two terms: the cross-entropy of the labels $y$ at $\tau = 1$, and the divergence of the softened student $p_s$ from the softened teacher $p_t$:
#
# $$L = w_h \, \mathrm{CE}(y, p_s(1)) + w_s \, \tau^2 \, \mathrm{KL}\big(p_t(\tau) \,\|\, p_s(\tau)\big)$$
#
# The derivative of the KL by a student logit is $(p_s - p_t)/\tau$.
# The factor $\tau^2$ makes that, for one image,
#
# $$\frac{\partial\, \tau^2\, \mathrm{KL}}{\partial z_s} = \tau\,\big(p_s(\tau) - p_t(\tau)\big)$$
#
# For large $\tau$, $\exp(z/\tau) \approx 1 + z/\tau$, and the gradient over $K$ classes tends to
#
# $$\frac{1}{K}\Big((z_s - \bar z_s) - (z_t - \bar z_t)\Big),$$
#
# a regression of the student's centred logits on the teacher's: *logit matching*.
# The next cell checks both statements with automatic differentiation, on the teacher's logits and those of an untrained student.

# %%
size = {"channels": dataset.channels, "width": 0.25}
student = models.build("mobilenetv2", dataset.classes, seed=0, **size).eval()
with torch.inference_mode():
    logits_s = student(inputs).double().clone()
z_t, batch = logits_t.double().clone(), len(labels)


def centred(logits):
    return logits - logits.mean(dim=1, keepdim=True)


rows = []
for tau in (1, 2, 4, 20, 100, 1000):
    z_s = logits_s.clone().requires_grad_()
    terms = losses.hinton(z_s, z_t, labels, tau, hard_weight=0.0, soft_weight=1.0)
    terms["soft"].backward()
    formula = tau * (losses.soften(logits_s, tau) - losses.soften(z_t, tau)) / batch
    matching = (centred(logits_s) - centred(z_t)) / dataset.classes / batch
    apart = (z_s.grad - formula).abs().max()
    distance = 100 * (z_s.grad - matching).norm() / z_s.grad.norm()
    rows.append((tau, f"{apart:.1e}", f"{distance:.2g} %"))
rows = pd.DataFrame(rows, columns=["τ", "largest error of the formula", "off logit matching"])
table(rows, f"Gradient of the soft term, {batch} validation images, double precision")

# %% [markdown]
# The second column is rounding error: the formula is the gradient.
# The last column, relative to the size of the gradient, tends to zero as $\tau$ grows.
# So a temperature is not only a degree of softness; it chooses between matching probabilities, where only the likely classes count, and matching logits, where all count alike.
#
# ## 3. What does the reduction of the KL do?
#
# The KL of one image is a *sum* over classes, and a batch takes the mean over images.
# PyTorch's `kl_div` by default takes the mean over *all elements*, and so divides by the number of classes $K$ once more.
# The repository of the paper uses that default (read in its code, not in the paper).
# Nothing breaks, and that is the danger: the weights mean something else on every data set.
#
# The next cell counts it, in two ways: by the factor that stands before the KL, and by the size of the gradient that each term sends to the student's logits.
# The factor is $w_s\,\tau^2$ for the batch mean, and $w_s\,\tau^2 / K$ for the element mean.
# Random logits stand in for a student and a teacher, so that only the class count differs; the weights are those of this book's experiments, which follow the original code.

# %%
kd = experiments.load(f"{scale.dataset}/resnet18-mobilenetv2-kd")
weights = {key: kd[key] for key in ("hard_weight", "soft_weight")}


def pull(loss, classes, tau):
    """Size of the soft gradient over that of the hard one, mean of 2,000 random images."""
    draw = torch.Generator().manual_seed(0)
    z_s, z_t = torch.randn(2, 2000, classes, generator=draw, dtype=torch.float64)
    y = torch.randint(classes, (2000,), generator=draw)
    z_s = z_s.requires_grad_()
    terms = loss(z_s, 3 * z_t, y, tau, **weights)
    both = (terms["hard"], terms["soft"])
    hard, soft = (torch.autograd.grad(term, z_s, retain_graph=True)[0] for term in both)
    return (soft.norm() / hard.norm()).item()


rows = []
for classes, tau in itertools.product((10, 100, 200), (2, 4, 20)):
    factor = weights["soft_weight"] * tau**2
    reductions = (losses.hinton, losses.hinton_element_mean)
    ratios = [pull(loss, classes, tau) for loss in reductions]
    rows.append((classes, tau, factor, factor / classes, *ratios))
heads = ["K", "τ", "weight, batch mean", "weight, element mean"]
heads += ["gradients, batch mean", "gradients, element mean"]
rows = pd.DataFrame(rows, columns=heads).map("{:.3g}".format)
table(rows, "Factor of the KL, and soft gradient over hard gradient")

# %% [markdown]
# Two things can be read here.
# Down the temperatures of one $K$, the weight of the KL grows with $\tau^2$, while the balance of the gradients moves far less: keeping it is what $\tau^2$ is for.
# Down the class counts, the balance falls, because more classes share the belief; under the element mean each value is smaller by a further factor of $K$.
# A setting in which the teacher leads on ten classes (a ratio above one) can leave it a whisper on two hundred.
# So weights that were found on one data set do not carry over to another as they are; under the batch mean the balance moves less, and where the reduction is not stated they mean nothing.
# From here on this book uses the batch mean.
#
# ## 4. Which temperature is best?
#
# There is no formula for a good $\tau$, so people try a grid.
# The next cell does: one whole training for every temperature and seed, all with the same teacher, and with equal starting weights for equal seeds.
# Runs that exist already are read, not repeated.

# %% tags=["hide-output"]
options = {"seeds": scale.seeds, "profile": profile, "intensity": intensity}
kd_name = f"{scale.dataset}/resnet18-mobilenetv2-kd"
grid_runs = experiments.sweep(kd_name, tau=list(scale.taus), **options)
alone_runs = experiments.sweep(f"{scale.dataset}/mobilenetv2-base", **options)

# %% [markdown]
# Temperatures are compared on the *validation* split, because one of them is about to be chosen.
# The student that never saw the teacher is the reference.
# A `Procedure` is a way to one student: the runs that it takes, the run that it keeps, and what all of them cost.

# %% mystnb={"image": {"alt": "Validation accuracy of the student over the temperature of the teacher, a curve with an interval band over seeds, and the student without distillation as a horizontal line with its band."}, "figure": {"caption": "Validation accuracy after the last epoch over \u03c4: mean over seeds with its 95 % interval.", "name": "figure-grid"}}
grid = Procedure("KD, tuned τ", "KD tuned tau", tuple(run.record for run in grid_runs))
alone = Procedure("no KD", "no KD", tuple(run.record for run in alone_runs))
points = ledger.table(list(grid.records)).assign(role="KD fixed tau")
reference = ledger.table(list(alone.records)).assign(role="no KD")
plots.tau_curve(pd.concat([points, reference], ignore_index=True));

# %% [markdown]
# The band is what the seeds disagree about; with few seeds it may reach beyond what an accuracy can be, and the axis ends at 100 %.
# The eye finds a peak in every curve.
# Whether it is there, or only noise, is a question for the numbers: does the best temperature beat the others by more than the seeds scatter?
# Differences are taken within seeds, because equal seeds share their starting weights and the order of their images.

# %% tags=["hide-input"]
by_tau = points.pivot(index="seed", columns="tau", values="val_accuracy")
best, worst = by_tau.mean().idxmax(), by_tau.mean().idxmin()
level = {tau: stats.interval(by_tau[tau]) for tau in by_tau}
gaps = {tau: stats.paired(by_tau[best], by_tau[tau]) for tau in by_tau if tau != best}
rivals = [tau for tau, gap in gaps.items() if not gap.low > 0]
Markdown(
    f"The means run from {level[worst].percent()} at τ = {worst:g} "
    f"to {level[best].percent()} at τ = {best:g}. "
    f"Of the {len(gaps)} other temperatures, **{len(rivals)}** cannot be told from the best one "
    "with these seeds: the 95 % interval of the paired difference reaches zero. "
    "(The intervals are not adjusted for the number of comparisons.)"
)

# %% [markdown]
# ## 5. What would a tuner have chosen, and got?
#
# Somebody who tunes does not average over seeds: they train the grid once, keep the $\tau$ with the highest validation accuracy (at a tie, the lower validation loss), and report its test accuracy.
# Every seed here is one such person, and `grid.kept()` holds what each of them kept.
# They look at the test split once, after the choice.

# %%
rows = []
for record in grid.kept():
    last = record["result"]["last"]
    reached = [100 * last[key] for key in ("val_accuracy", "test_accuracy")]
    rows.append((record["seed"], record["asked"]["tau"], *reached))
heads = ["seed", "τ chosen", "validation, %", "test, %"]
rows = pd.DataFrame(rows, columns=heads).map("{:.3g}".format)
table(rows, f"What each seed's grid of {grid.runs} temperatures chooses")

# %% [markdown]
# In one sentence, computed from the table:

# %% tags=["hide-input"]
chosen = sorted({record["asked"]["tau"] for record in grid.kept()})
held, hoped = stats.interval(grid.scores("test")), stats.interval(grid.scores("val"))
listed = ", ".join(f"{tau:g}" for tau in chosen)
agree = "the same τ" if len(chosen) == 1 else f"{len(chosen)} different τ"
Markdown(
    f"The {len(grid.seeds)} tuners choose {agree}: {listed}. "
    f"Their students reach **{held.percent()}** on the test split ({len(dataset.test)} images). "
    f"On validation ({len(dataset.val)} images), where the choice was made, "
    f"the same students show {hoped.percent()}. "
    "That figure is the largest of many noisy ones, and so leans upwards; "
    "the test figure took no part in the choice."
)

# %% [markdown]
# ## 6. What does the procedure cost?
#
# The student that is kept is one run, but the procedure that found it is the whole grid.
# Whoever reports only the run that was kept leaves out most of what was spent.
# The next table adds up the recorded cost of training, whether or not this execution trained anything.
# Evaluation is not in it, and the teacher, which all students share, has a row of its own.

# %%
last = scale.taus[-1]
of_last = tuple(record for record in grid.records if record["asked"]["tau"] == last)
one = Procedure(f"KD, τ = {last}", "KD fixed tau", of_last)
teacher_alone = Procedure("the teacher, once", "teacher", (teacher_run.record,))
ways = [alone, one, grid, teacher_alone]
print(f"Trained on {made_on(ways)}.")
table(cost_columns(ways, intensity), f"What training takes: mean of {len(grid.seeds)} seeds, the teacher of one run")

# %% [markdown]
# Forward passes only is how the paper counts; training also runs backward through the student, not through the frozen teacher.
# The grid's row is as many times the row above it as the grid has temperatures: exactly so in FLOPs, and within the scatter of a busy machine in seconds.
# *Modelled* energy is an assumed power times seconds: ratios of it are ratios of time, no more.
# The table of the [fourth chapter](04_stochastic_temperature.ipynb) sets these rows against a way that needs one run.
#
# ## 7. At the paper's scale
#
# The paper prints such tuned rows for four data sets (its Table 4, Hinton's loss; VOC is object detection, in mean average precision, mAP).

# %%
rows = []
for name in ("CIFAR-10", "CIFAR-100", "Tiny ImageNet", "VOC"):
    row = ledger.paper_table(name).query("loss == 'HKD' and method == 'tuned'").iloc[0]
    score, spread = 100 * row.get("accuracy", row.get("map50")), 100 * row.spread
    cost = (f"{row.gflops_millions:g}", f"{row.energy_kwh:.2f}", f"{row.co2e_g:,.0f}")
    rows.append((name, f"{score:.2f} ± {spread:.2f}", *cost))
heads = ["data", "accuracy or mAP, %", "10⁶ GFLOPs", "kWh", "g CO₂e"]
rows = pd.DataFrame(rows, columns=heads)
table(rows, "The paper's tuned KD, as printed")

# %% [markdown]
# What its ± is, is not printed beside it.
# Beside these rows, what this book's ledger holds for the same networks on CIFAR at the two larger profiles.

# %% tags=["hide-input"]
records, _ = ledger.load()
rows = []
for name, size in itertools.product(("cifar10", "cifar100"), ("gpu", "paper")):
    pair = f"{name}/resnet18-mobilenetv2-kd"
    asked = experiments.resolve(pair, size)
    found = recorded(records, asked, pair, size, "KD, tuned τ", "KD tuned tau")
    whole = found and found.runs == len(experiments.profile(size).taus)
    reached = (found.runs, stats.interval(found.scores()).percent()) if whole else ("–", "no grid yet")
    rows.append((name, size, *reached))
rows = pd.DataFrame(rows, columns=["data", "profile", "temperatures", "test accuracy, tuned"])
table(rows, "This book's tuned KD at larger scale, from the ledger")

# %% [markdown]
# Two things are needed to read the paper's rows.
# The authors' code has no validation split: the epoch is chosen on the test split and, if it was tuned with that code, so is the temperature.
# And the tuned costs look multiplied, not metered, as [chapter 1](01_carbon_problem.ipynb) shows.
#
# ## What we learned

# %% tags=["hide-input"]
whole, cheap = (way.price()["seconds"] for way in (grid, alone))
gain = stats.paired(grid.scores(), alone.scores())
decided = "better than" if gain.low > 0 else "worse than" if gain.high < 0 else "not to be told from"
speaks = " (A smoke run claims nothing but that it runs.)" if profile == "smoke" else ""
Markdown(
    f"* A tuned grid of {grid.runs} temperatures reaches {held.percent()} on the test split, "
    f"**{decided}** the student alone: {gain.points()}, paired by seed.{speaks}\n"
    f"* It takes {whole / cheap:.3g} times the training time of the student alone (means of {len(scale.seeds)} seeds, without the teacher's training).\n"
    f"* {len(rivals)} of {len(gaps)} temperatures could not be told from the best one with "
    f"{len(scale.seeds)} seeds: the runs spent on telling these apart changed nothing that they can show."
)

# %% [markdown]
# * Temperature sets what is matched, from the likely classes to all logits alike.
# * The reduction of the KL is part of the method: leave it unsaid, and the weights mean nothing.
#
# ## What would change our mind
#
# * About tuning at all: a curve over $\tau$ with a peak that stands out of its band says that tuning buys something that a default cannot; with enough seeds, a flat one says that it does not. For the digits the ledger has more seeds than this page: [chapter 4](04_stochastic_temperature.ipynb), section 6, sets the grid against two defaults.
# * About handing on a tuned $\tau$: where seeds agree on a $\tau$, and the choice carries over to the test split, it is worth using again; where they scatter, the choice was mostly chance.
#
# ## Exercises
#
# **1.** What does $p_c(\tau)$ tend to as $\tau$ grows without end, and what is then left of the gradient $\tau (p_s - p_t)$?
# Cost: none.

# %% tags=["hide-cell"]
far = 1e6
limit = losses.soften(z_t, far)
difference = far * (losses.soften(logits_s, far) - limit)
print(f"Every class gets {limit.max():.4f}, that is 1/{dataset.classes}.")
print(f"The gradient stays, with a mean size of {difference.abs().mean():.3f}.")

# %% [markdown]
# The probabilities all become $1/K$, and still the gradient does not vanish: the factor $\tau^2$ keeps the logit matching alive.
#
# **2.** How much would a coarser grid cost, and what would it give?
# Take only the lowest, a middle and the highest temperature.
# Cost: none, the runs are there.

# %% tags=["hide-cell"]
few = sorted({scale.taus[0], scale.taus[len(scale.taus) // 2], scale.taus[-1]})
part = tuple(record for record in grid.records if record["asked"]["tau"] in few)
coarse = Procedure("coarse", "KD tuned tau", part)
print(f"τ in {few}: {stats.interval(coarse.scores()).percent()}")
print(f"{100 * coarse.flops() / grid.flops():.0f} % of the grid's FLOPs")
print(f"difference to the whole grid: {stats.paired(coarse.scores(), grid.scores()).points()}")

# %% [markdown]
# **3.** Suppose that temperature had been chosen on the test split, as in the original code.
# How much better would the reported number look?
# Cost: none.

# %% tags=["hide-cell"]
peeked = points.groupby("seed").test_accuracy.max()
optimism = stats.paired(peeked, grid.scores())
print(f"chosen on test: {stats.interval(peeked).percent()}")
print(f"against chosen on validation: {optimism.points()}")

# %% [markdown]
# That difference can never be negative, and it is not accuracy: it is the reward for having looked.
#
# **4.** Repeat one temperature with the element mean: `experiments.run(f"{scale.dataset}/resnet18-mobilenetv2-kd", profile=profile, method="kd-element-mean", tau=4)`.
# The next cell says what that takes.

# %% tags=["hide-input"]
cost = one.price(intensity)
energy = "energy not seen" if cost["kwh"] is None else quantity(cost["kwh"], ENERGY)
print(f"about {duration(cost['seconds'])} of training, {energy}, for each seed, on {made_on([one])}")

# %% [markdown]
# ## Next
#
# [Stochastic temperature](04_stochastic_temperature.ipynb) replaces the grid by one run that draws a new $\tau$ for every batch.
#
# ## References
#
# * G. Hinton, O. Vinyals, J. Dean (2015), *Distilling the knowledge in a neural network*, [doi:10.48550/arXiv.1503.02531](https://doi.org/10.48550/arXiv.1503.02531)
# * K. Rafat et al. (2023), *Mitigating carbon footprint for knowledge distillation based deep learning model compression*, [doi:10.1371/journal.pone.0285668](https://doi.org/10.1371/journal.pone.0285668); code: [King-Rafat/STKD_CFMitigation](https://github.com/King-Rafat/STKD_CFMitigation)
#
# ## Receipt
#
# What executing this notebook took, training included where a run was not there yet.

# %%
meter.stop("notebook")
title = f"Receipt of 03 Classic KD, profile {profile}"
receipt = carbon.receipt(meter.cost("notebook"), title=title)
receipt.save(experiments.runs_folder() / "receipts" / "03_classic_kd.json")
receipt
