# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Stochastic temperature
#
# One run that draws a new temperature for every batch, against the whole grid, against a fixed default at the same price, and against no teacher at all.
#
# [Open in Colab](https://colab.research.google.com/github/stkd-book/stkd-book/blob/main/notebooks/04_stochastic_temperature.ipynb) · [Download](https://github.com/stkd-book/stkd-book/raw/main/notebooks/04_stochastic_temperature.ipynb) · [Report a problem](https://github.com/stkd-book/stkd-book/issues)

# %% [markdown]
# **You will be able to**
#
# 1. describe the sampler of a stochastic temperature, and check a recorded run against it,
# 2. say which loss it minimises in expectation,
# 3. compare ways of training at equal seeds, equal starting weights and a stated budget,
# 4. tell apart "different", "equivalent" and "not decided", and plan the seeds that a decision needs,
# 5. read a cost ratio for what it is.
#
# **You need**
#
# | Concept | | Where |
# | --- | --- | --- |
# | Hinton's loss and the temperature grid | necessary | [Classic knowledge distillation](03_classic_kd.ipynb) |
# | Intervals over seeds | necessary | [Teacher training](02_teacher_training.ipynb) |
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
# What executing this page once has cost after the chapters before it, whose runs it reads; opened alone it trains those, too, and section 4 has their price:

# %%
import itertools

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from IPython.display import Markdown, display

from stkd_utils import carbon, compute, data, experiments, ledger, losses, plots, stats
from stkd_utils.procedures import MARGIN, Procedure, cost_columns, counterparts, made_on, outcome, recorded, verdict
from stkd_utils.receipt import ENERGY, duration, quantity
from stkd_utils.tables import table
from stkd_utils.temperature import build

scale = experiments.profile(profile)
plots.use_style()
meter = carbon.Meter(intensity=intensity)
meter.start("notebook")
ledger.price_tag("04_stochastic_temperature", profile)


# %% tags=["hide-input"]
caution = " **A smoke run claims nothing but that it runs: ignore its accuracies.**"
caution = caution if profile == "smoke" else ""
Markdown(f"Profile **{profile}**, data set **{scale.dataset}**: results may claim *{scale.claims}*.{caution}")

# %% [markdown]
# ## 1. Which temperature does a batch get?
#
# Rafat and colleagues propose not to choose $\tau$ at all: draw it anew for every batch, and train once.
# In the first revision of their code the law is a whole number, uniform on 2 to 20, both ends included.
# (Which range the paper's runs used could not be read.)
# In that revision the drawn value is then not used: the loss returns the squared difference of the logits, which knows no temperature; the present code has a constant in place of the draw.
# So no code of the method itself was there to be checked, and what follows is the method as the abstract describes it.
#
# $$\tau_b \sim \mathrm{Uniform}\{2, 3, \dots, 20\}$$
#
# Teacher and student of one batch share the value.
# The sampler has a random generator of its own, so the sequence depends on the seed alone: not on the device, the weights or the order of the images.

# %%
stochastic_name = f"{scale.dataset}/resnet18-mobilenetv2-stochastic"
setting = experiments.load(stochastic_name)
low, high = setting["tau_low"], setting["tau_high"]
law = {"tau_low": low, "tau_high": high}
sampler = build("stochastic", seed=0, **law)
print(sampler, "draws", *(f"{sampler.draw():g}" for _ in range(12)), "...")

# %% [markdown]
# Now real runs, one for every seed.
# Each keeps the temperatures it drew, so what a run did can be compared with what the sampler would draw again.

# %%
options = {"profile": profile, "intensity": intensity, "progress": "none"}
options["seeds"] = scale.seeds
stochastic_runs = experiments.sweep(stochastic_name, **options)
drawn = stochastic_runs[0].taus["tau"]
fresh = build("stochastic", seed=scale.seeds[0], **law)
same = all(fresh.draw() == tau for tau in drawn)
print(f"{len(drawn)} draws in the run of seed {scale.seeds[0]}.")
print(f"Drawn again from the seed alone, they are {'the same' if same else 'DIFFERENT'}.")

# %% [markdown]
# If all values are equally likely, each of the $m$ possible ones is expected $n/m$ times in $n$ draws, with a standard deviation of $\sqrt{n \frac{1}{m}(1-\frac{1}{m})}$.

# %% mystnb={"image": {"alt": "Histogram of the temperatures that one run drew, one bar a value, with the expected count as a line and the range within which a count falls in about 95 of 100 cases as a band."}, "figure": {"caption": "How often each \u03c4 was drawn in one run; line and band: the expected count and \u00b1 1.96 standard deviations.", "name": "figure-draws"}}
values = np.arange(low, high + 1)
counts = drawn.value_counts().reindex(values, fill_value=0)
expected = len(drawn) / len(values)
spread = 1.96 * np.sqrt(expected * (1 - 1 / len(values)))
colour = plots.ROLES["stochastic tau"].colour
_, ax = plt.subplots(figsize=(plots.COLUMN, 2.6))
ax.bar(values, counts, color=colour, alpha=0.7)
ax.axhline(expected, color="#222222", linewidth=1.2)
look = {"color": "#222222", "alpha": 0.1, "linewidth": 0}
ax.axhspan(max(0, expected - spread), expected + spread, **look)
ax.set(xlabel="Temperature τ", ylabel="Batches", xticks=values[::3]);

# %% tags=["hide-input"]
outside = int(((counts - expected).abs() > spread).sum())
Markdown(
    f"{outside} of {len(values)} counts lie outside the band; about one in twenty is what chance gives. "
    f"The mean of the draws is {drawn.mean():.2f}, that of the law {(low + high) / 2:g}."
)

# %% [markdown]
# ## 2. Which loss does that minimise?
#
# Every batch follows the gradient of its own $L(\tau_b)$.
# That looks restless: the same batch would pull the student towards hard targets at one step and towards matched logits at another.
# But the draw is independent of the batch, so on average the step is along the gradient of the mean loss over the range:
#
# $$\mathbb{E}_\tau\big[L(\tau)\big] = \frac{1}{m} \sum_{\tau} L(\tau)$$
#
# So the method is ordinary stochastic gradient descent on the *average* of the losses that a grid would minimise one by one, with some more noise than usual.
# It does not search for a good temperature, and it does not find one; it trains for all of them at once.
# The next cell takes one batch with fixed logits, draws many temperatures, and lets the running mean of the loss find that average.

# %% mystnb={"image": {"alt": "Running mean of the distillation loss over random temperatures against the number of draws; it settles on the horizontal line of the mean over the grid, inside a funnel that narrows with the square root of the number of draws."}, "figure": {"caption": "Running mean of the loss of one batch over random \u03c4. Line: mean over all values; funnel: \u00b1 1.96 standard errors.", "name": "figure-expectation"}}
draw = torch.Generator().manual_seed(0)
z_s, z_t = torch.randn(2, 64, 10, generator=draw)
y = torch.randint(10, (64,), generator=draw)
weights = {key: setting[key] for key in ("hard_weight", "soft_weight")}
loss = {
    float(tau): losses.total(losses.hinton(z_s, 3 * z_t, y, float(tau), **weights)).item()
    for tau in values
}
average = np.mean(list(loss.values()))
sampler = build("stochastic", seed=0, **law)
seen = np.array([loss[sampler.draw()] for _ in range(5000)])
steps = np.arange(1, len(seen) + 1)
running = np.cumsum(seen) / steps

_, ax = plt.subplots(figsize=(plots.COLUMN, 2.6))
funnel = 1.96 * np.std(list(loss.values())) / np.sqrt(steps)
ax.fill_between(steps, average - funnel, average + funnel, **look)
ax.axhline(average, color="#222222", linewidth=1.2)
ax.plot(steps, running, color=colour)
ax.set(xlabel="Draws", ylabel="Loss (nats)", xscale="log", xlim=(1, len(seen)))
ax.set(ylim=(average - 2 * funnel[9], average + 2 * funnel[9]));

# %% tags=["hide-input"]
middle = (low + high) / 2
Markdown(
    f"After {len(seen):,} draws the running mean is {running[-1]:.4f}, the mean over the grid {average:.4f}. "
    f"The loss at the mean temperature, L({middle:g}) = {loss[middle]:.4f}, is another number: "
    "drawing at random is not the same as fixing τ in the middle, although it may well be close."
)

# %% [markdown]
# ## 3. What is compared with what?
#
# Five ways to get the same student from the same teacher:
#
# | way | runs | why it is here |
# | --- | --- | --- |
# | no KD | one | what the teacher has to beat |
# | KD, τ = 4 | one | a common default, at the price of one run |
# | KD, τ = 20 | one | the constant in the authors' code, at the price of one run |
# | KD, tuned τ | the grid | what the paper sets out to replace |
# | KD, stochastic τ | one | the proposal |
#
# All five run with the same seeds; a finished run is read, not repeated.
# The tuned way is carried out as in the [chapter before](03_classic_kd.ipynb): each seed keeps the τ with its own highest validation accuracy, at a tie the one with the lower validation loss.

# %%
kd_name, taus = f"{scale.dataset}/resnet18-mobilenetv2-kd", list(scale.taus)
found = {
    ("no KD", "no KD"): experiments.sweep(f"{scale.dataset}/mobilenetv2-base", **options),
    ("KD, τ = 4", "KD fixed tau"): experiments.sweep(kd_name, tau=4, **options),
    ("KD, τ = 20", "KD fixed tau"): experiments.sweep(kd_name, tau=20, **options),
    ("KD, tuned τ", "KD tuned tau"): experiments.sweep(kd_name, tau=taus, **options),
    ("KD, stochastic τ", "stochastic tau"): stochastic_runs,
}
ways = {
    label: Procedure(label, role, tuple(run.record for run in runs))
    for (label, role), runs in found.items()
}
stochastic, tuned = ways["KD, stochastic τ"], ways["KD, tuned τ"]

# %% [markdown]
# A fair comparison starts equal.
# Were one way to start from luckier weights than another, its lead would say nothing about its loss.
# Every record holds a checksum of the weights before the first step, so this can be shown.

# %%
starts = {}
every_run = {record["id"]: record for way in ways.values() for record in way.records}
for record in every_run.values():
    starts.setdefault(record["seed"], []).append(record["init_checksum"])
rows = [(seed, len(sums), len(set(sums)), sums[0]) for seed, sums in starts.items()]
rows = pd.DataFrame(rows, columns=["seed", "runs", "different starts", "checksum"])
table(rows, "Starting weights of the student")

# %% [markdown]
# Where the third column says one, the runs of that seed differ in their loss, and in nothing before it.
#
# ## 4. What does each way reach, and what does it cost?
#
# A student is one run, but the way to it may be many.
# So the costs in the next two tables are those of the whole procedure, as recorded when its runs were trained.
# Evaluation is left out, and so is the teacher, which all share.
# The columns *computation* and *energy* divide by the stochastic way: the first counts FLOPs, forward and backward, the second is the recorded energy, or time where no energy was seen.
# The first table has what is reached and the two ratios, the second the amounts behind the ratios.

# %% tags=["hide-input"]
prices = {label: way.price(intensity) for label, way in ways.items()}
metered = "seconds" if any(price["kwh"] is None for price in prices.values()) else "kwh"
single = prices[stochastic.label][metered]
columns = cost_columns(list(ways.values()), intensity)
for epoch in ("last", "chosen"):
    reached = [stats.interval(way.scores(epoch=epoch)).percent() for way in ways.values()]
    columns[f"{epoch} epoch, %"] = [text.split(" %")[0] for text in reached]
work = [way.flops() / stochastic.flops() for way in ways.values()]
columns["computation"] = [f"{ratio:.3g} ×" for ratio in work]
columns["energy"] = [f"{price[metered] / single:.3g} ×" for price in prices.values()]
first = ["", "last epoch, %", "chosen epoch, %", "computation", "energy"]
second = ["", *(head for head in columns if head not in first and "forward" not in head)]
second.insert(2, next(head for head in columns if head.endswith("with backward")))
print(f"Trained on {made_on(ways.values())}.")
caption = f"Test accuracy on {scale.dataset} (n = {len(scale.seeds)}), cost of the whole way"
display(table({head: columns[head] for head in first}, caption))
amounts = {head.replace("with", "forward and"): columns[head] for head in second}
table(amounts, "The amounts behind it: mean over seeds")

# %% [markdown]
# ± is half a 95 % interval of the mean over seeds; with few seeds it may reach beyond what an accuracy can be.
# *Chosen epoch* is the epoch that validation prefers; the tuned way then chooses τ by that epoch too.
# Energy marked *modelled* is an assumed power times seconds, so its ratios are ratios of time.
# A fixed τ and a random one do the same work for each batch: where the ratios of their computation agree and those of their energy do not, the gap is the machine's, not the method's.
# These runs were trained for this build, those on [the first page](../book/intro.md) are in the ledger: their seconds differ with the load of the machine, and so do modelled energies.
# No epoch and no temperature in these tables was chosen on the test split.
# Neither were the settings of the digits experiments: [chapter 2](02_teacher_training.ipynb) shows how validation chose them for students that learn alone.
# Read the accuracies and the ratios as one statement: the first say what a procedure delivers, the second what it takes to have it delivered.

# %% mystnb={"image": {"alt": "Dots with intervals: test accuracy of every run and its mean over seeds, one row for each of the five ways to train the student."}, "figure": {"caption": "Test accuracy after the last epoch: every run, the mean over seeds and its 95 % interval.", "name": "figure-ways"}}
def rows_of(records_of):
    """The runs that ``records_of`` takes of each way, as tidy rows for a figure."""
    looks = {way: {"role": way.role, "label": way.label} for way in ways.values()}
    tables = [ledger.table(list(records_of(way))).assign(**looks[way]) for way in looks]
    return pd.concat(tables, ignore_index=True)


plots.dots_with_intervals(rows_of(Procedure.kept));

# %% mystnb={"image": {"alt": "Horizontal bars of the whole cost of each way to train the student, divided into one segment for each run; the tuned way is as long as all runs of its grid together."}, "figure": {"caption": "What one student costs, one segment a run: mean over seeds, whisker: 95 % interval of the sum.", "name": "figure-costs"}}
value = "energy_kwh" if metered == "kwh" else "seconds"
plots.cost_bars(rows_of(lambda way: way.records), value=value);

# %% [markdown]
# The two figures belong together: the upper one says what is bought, the lower one the price.
# A long bar is worth its price where its dots lie clearly to the right; where the intervals overlap widely, these seeds do not show what the extra runs bought.
#
# ## 5. Is one run as good as the grid?
#
# Equal seeds share starting weights and the order of the images, so differences are taken *within* seeds.
# To be *different*, the 95 % interval of the mean difference must leave out zero.
# To be *equivalent*, the difference must be shown to lie within a margin, by two one-sided tests.
# Neither follows from the other's absence: few seeds give wide intervals, and a wide interval is no evidence of equality.
#
# The margin is the same in the whole book, **one accuracy point**: the smallest loss at which somebody who deploys the student might rather pay for the grid.
# The paper's own numbers let us judge that choice.

# %%
gaps = {}
for name in ("CIFAR-10", "CIFAR-100", "Tiny ImageNet"):
    for loss_name, pair in ledger.paper_table(name).set_index("method").groupby("loss"):
        gaps[f"{loss_name} on {name}"] = abs(pair.accuracy["ours"] - pair.accuracy["tuned"])
widest = max(gaps, key=gaps.get)
within = sum(gap < MARGIN for gap in gaps.values())
hinton = max(gap for pair, gap in gaps.items() if pair.startswith("HKD"))
Markdown(
    f"Of the paper's {len(gaps)} classification pairs, {within} differ "
    "by less than the margin; "
    f"the widest gap is {100 * gaps[widest]:.2f} points ({widest}). "
    f"For Hinton's loss all lie within {100 * hinton:.2f} points."
)

# %% [markdown]
# So the margin lies between what the paper prints for Hinton's loss and the widest gap of another loss.
# Now the differences on this page: the stochastic way minus each of the others.

# %%
others = [way for way in ways.values() if way is not stochastic]
verdicts = {way.label: verdict(stochastic, way) for way in others}
if profile == "smoke":
    for row in verdicts.values():
        row["the data say"] = "nothing at this scale"
rows = pd.DataFrame(verdicts.values())
rows["difference"] = rows["difference"].str.split(" points").str[0]
rows = rows.rename(columns={"difference": "difference, points"})
table(rows, f"Stochastic τ minus each, n = {len(scale.seeds)}; margin ± {100 * MARGIN:g} point")

# %% [markdown]
# The *p of equivalence* is the larger of the two one-sided tests': below 0.05 the difference lies within the margin.
# Two such tests at 5 % belong to an interval of 90 %, so the 95 % interval beside them may reach a little beyond the margin.
# *Better* or *worse* and *equivalent* can both be true: a difference that is there and too small to matter.
# The comparisons, here and in the next section, are not adjusted for being several, so a single one that just leaves out zero is weak evidence.
#
# ## 6. What do the data not decide?
#
# An interval can be narrowed by more seeds.
# With the spread that the differences show here, these many seeds would bring the half-width down to half a point:

# %%
rows = []
for way in others:
    gap = stats.paired(stochastic.scores(), way.scores())
    planned = stats.seeds_needed(gap.sd, 0.005) if gap.n > 1 and gap.sd > 1e-9 else "unknown"
    rows.append((way.label, f"± {100 * gap.half_width:.2f}", gap.n, planned))
heads = ["against", "interval now, points", "seeds now", "seeds for ± 0.5 points"]
rows = pd.DataFrame(rows, columns=heads)
display(table(rows, "Planning, from a spread that few seeds know only roughly"))

known, _ = ledger.load()
more, *found = counterparts([stochastic, *others], known) or [None]
there, later = {way.label: way for way in found}, {}
if more:
    later = {label: verdict(more, way) for label, way in there.items()}
    grid = there[tuned.label]
    pairs = {"mean of all fixed τ": (more.scores(), grid.averages())}
    for label in ("KD, τ = 4", "KD, τ = 20"):
        pairs[f"tuned minus {label.removeprefix('KD, ')}"] = grid.scores(), there[label].scores()
    later |= {label: {"against": label, **outcome(*pair)} for label, pair in pairs.items()}
rows = pd.DataFrame(later.values()).replace(r" points.*", "", regex=True)
rows = rows.rename(columns={"difference": "difference, points"})
caption = f"The ledger, n = {len(more.seeds) if more else 0}: stochastic τ minus each; last, tuned τ minus a default"
table(rows, caption) if later else Markdown("The ledger has no runs of this scale.")

# %% [markdown]
# For the digits such a plan was carried out: the seeds of this page asked for about as many against the grid and the fixed τ of 20, the others were then trained, and all of them are in the second table, those of this page included.
# Its last three rows were added when the results were known: the mean of all fixed temperatures, which is what somebody can expect who takes one blindly, and the grid minus two defaults.
# These runs are those of [the first page](../book/intro.md); any of them can be repeated with the command in [the ledger](../book/ledger.md).
# More seeds do not help against what all seeds share: one teacher, one split, and one test set of a limited number of images.

# %% tags=["hide-input"]
asked = stochastic_runs[0].record["asked"]
limits = {key: asked[key] for key in ("val_fraction", "train_limit", "val_limit", "test_limit")}
images = len(data.load(scale.dataset, **limits).test)
level = stochastic.scores().mean()
luck = 1.96 * np.sqrt(level * (1 - level) / images)
unclear = ("not decided", "nothing at this scale")
open_ones = [label for label, row in verdicts.items() if row["the data say"] in unclear]
reached = ""
if later:
    gaps_later = [stats.paired(more.scores(), way.scores()).half_width for way in there.values()]
    still = [label for label, row in later.items() if row["the data say"] in unclear]
    reached = (
        f"* Not decided with the {len(more.seeds)} of the ledger: **{'; '.join(still) or 'nothing'}**. The intervals "
        f"of all comparisons are ± {100 * min(gaps_later):.2f} to ± {100 * max(gaps_later):.2f} points wide, where ± 0.5 was the aim: "
        "a spread that three seeds tell is a rough one.\n"
    )
Markdown(
    f"* Not decided with this page's {len(scale.seeds)} seeds: **{'; '.join(open_ones) or 'nothing'}**.\n{reached}"
    f"* The test split has {images:,} images: one image is {100 / images:.2f} points, "
    f"and another draw of as many would move an accuracy of {100 * level:.1f} % "
    f"by about ± {100 * luck:.1f} points. "
    "Paired differences feel less of that, but not nothing.\n"
    "* One pair of networks, one data set, one schedule, one range of τ: nothing here speaks about others."
)

# %% [markdown]
# **A seed is no fixed point either.**
# Another processor, or another order of the same sums, rounds the last digit of a gradient differently, and a training of many steps lets that grow.
# The ledger keeps what the very same runs, with equal settings, seeds, images and starting weights, reached when an earlier state of it was trained:

# %%
repeats = ledger.repeats().pivot(index="id", columns="ledger", values="test_accuracy")
rows, moved = [], []
for label, way in ways.items():
    if way is tuned:
        continue
    scores = way.scores()
    earlier = repeats.reindex([record["id"] for record in way.kept()]).to_numpy(float)
    changes = earlier - scores[:, None]
    moved += list(changes[np.isfinite(changes)])
    means = [scores.mean(), *earlier.mean(axis=0)]
    rows.append((label, *(f"{100 * mean:.1f}".replace("nan", "–") for mean in means)))
rows = pd.DataFrame(rows, columns=["way", "now, %", *(f"{commit}, %" for commit in repeats)])
display(table(rows, "Mean test accuracy of equal seeds, by the ledger's commit"))
far = "not known at this scale"
if moved:
    far = f"{100 * np.sqrt(np.mean(np.square(moved))):.1f} points"
Markdown(
    f"How far one and the same run moves, root of the mean square: **{far}** "
    f"(n = {len(moved)} pairs). Only rounding should differ between the columns: "
    "of a difference as small between two ways, few seeds cannot say whether it is the method."
)

# %% [markdown]
# ## 7. What is the cost ratio worth?
#
# Three remarks, each computed from the records above or from the ledger.
#
# **The ratio is the number of grid points.**
# Every run of the grid does the same work as the one stochastic run, so the ratio of computation is fixed before anything is trained.
# It says how large a grid somebody else would have run, not how efficient a random temperature is.
# Against a grid of five it would be five.

# %% tags=["hide-input"]
row, default = (list(ways).index(label) for label in (tuned.label, "KD, τ = 20"))
Markdown(
    f"Grid points: **{tuned.runs}**. Ratio of computation: **{columns['computation'][row]}**, "
    f"of energy: **{columns['energy'][row]}**. "
    f"One run with a fixed τ = 20, computation: {columns['computation'][default]}."
)

# %% [markdown]
# **A default costs as little.**
# A temperature that nobody tunes needs one run too, whether it is fixed or random.
# The output stored in the authors' own notebook is of this kind: five runs with the constant τ = 20.

# %% tags=["hide-input"]
extra = ledger.paper(None)
stored = extra[(extra.origin == "repository") & (extra.tau == "20")]
best = stats.interval(stored[stored.metric == "test_accuracy_best_epoch"].value.astype(float) / 100)
last = stats.interval(stored[stored.metric == "test_accuracy_last_epoch"].value.astype(float) / 100)
hkd = ledger.paper_table("CIFAR-10").query("loss == 'HKD'").set_index("method")
Markdown(
    f"Fixed τ = 20, stored runs, CIFAR-10: mean {100 * best.mean:.2f} %, standard deviation {100 * best.sd:.2f} "
    f"(n = {best.n}; best epoch by the test split), {100 * last.mean:.2f} % at the last epoch. "
    f"The paper's *tuned* row is {100 * hkd.accuracy['tuned']:.2f} ± {100 * hkd.spread['tuned']:.2f} %, "
    f"its *stochastic* row {100 * hkd.accuracy['ours']:.2f} ± {100 * hkd.spread['ours']:.2f} %. "
    "This suggests, and does not prove, that one fixed temperature gives the tuned figure. "
    "(All stored runs share one seed, so their spread leaves out what a seed changes.)"
)

# %% [markdown]
# **A grid can be run more cheaply.**
# The students of a grid could be trained side by side on the same batches, and share one forward pass of the teacher.
# This works because the grid's runs differ in what they make of the teacher's answer, not in what they ask it.
# For $G$ students of $s$ MACs and a teacher of $t$ MACs, forward and backward, the ratio to one stochastic run is then
#
# $$\frac{3 G s + t}{3 s + t}$$

# %%
def shared(student, teacher, points):
    """FLOPs of a grid over those of one run, if its students share the teacher's passes."""
    alone = compute.run_flops(student_macs=student, images=1, epochs=1, backward=True)
    forward = compute.flops(teacher)
    return compute.procedure_flops(alone, points, once=forward) / (alone + forward)


def paper_macs(name):
    """GMACs of the paper's student and teacher for one image of a data set."""
    here = extra[(extra.metric == "gmacs_per_image") & (extra.dataset == name)]
    networks = (("student", "MobileNetV2"), ("teacher", "ResNet18"))
    return [float(here[here[who] == network].value.item()) for who, network in networks]


# %%
macs = stochastic.records[0]["compute"]
here = (macs["macs_student"], macs["macs_teacher"])
cases = {f"this page, {scale.dataset}": (*here, tuned.runs)}
for name in ("CIFAR-100", "Tiny ImageNet"):
    cases[f"the paper's, {name}"] = (*paper_macs(name), len(values))
rows = [(label, f"{case[2]} ×", f"{shared(*case):.3g} ×") for label, case in cases.items()]
rows = pd.DataFrame(rows, columns=["networks", "separate runs", "shared teacher"])
table(rows, "FLOPs of the grid over those of one stochastic run")

# %% [markdown]
# The larger the teacher beside the student, the more of the grid's price is a repetition that nobody needs.
# A fair statement names the grid it was compared with, and how that grid was run.
#
# ## 8. At the paper's scale
#
# The paper's rows for Hinton's loss, as printed (its Table 4; VOC is object detection, in mAP), and this page's beside them.

# %% tags=["hide-input"]
rows = []
for name in ("CIFAR-10", "CIFAR-100", "Tiny ImageNet", "VOC"):
    block = ledger.paper_table(name).query("loss == 'HKD'").set_index("method")
    block = block.loc[["tuned", "ours"]]
    score = 100 * block.get("accuracy", block.get("map50"))
    both = zip(score, 100 * block.spread, strict=True)
    reached = [f"{value:.2f} ± {spread:.2f}" for value, spread in both]
    costs = [block[key] for key in ("gflops_millions", "co2e_g")]
    ratios = [f"{cost['tuned'] / cost['ours']:.1f} ×" for cost in costs]
    gap = score["ours"] - score["tuned"]
    rows.append((f"{name} (paper)", *reached, f"{gap:+.2f}".replace("-", "−"), *ratios))


def beside(label, grid, one):
    """The same columns from two procedures of this book, or "no grid yet"."""
    if grid is None or one is None:
        return label, "no grid yet", *[""] * 4
    reached = [stats.interval(way.scores()).percent(2).split(" %")[0] for way in (grid, one)]
    grams = [way.price(intensity)["grams"] for way in (grid, one)]
    emissions = "not seen" if None in grams else f"{grams[0] / grams[1]:.1f} ×"
    gap = 100 * (one.scores().mean() - grid.scores().mean())
    ratios = f"{grid.flops() / one.flops():.1f} ×", emissions
    return label, *reached, f"{gap:+.2f}".replace("-", "−"), *ratios


rows.append(beside(f"{scale.dataset}, {profile} (this page)", tuned, stochastic))
if later:
    rows.append(beside(f"{scale.dataset}, {profile} (ledger, n = {len(more.seeds)})", there[tuned.label], more))
for name, size in itertools.product(("cifar10", "cifar100"), ("gpu", "paper")):
    ways_there = []
    for way, kind in ((tuned, "kd"), (stochastic, "stochastic")):
        pair = f"{name}/resnet18-mobilenetv2-{kind}"
        asked = experiments.resolve(pair, size)
        ways_there.append(recorded(known, asked, pair, size, way.label, way.role))
    searched, drawn = ways_there
    whole = searched and searched.runs == len(experiments.profile(size).taus)
    rows.append(beside(f"{name}, {size} (ledger)", searched if whole else None, drawn))
heads = ["data", "tuned, %", "stochastic, %", "difference", "FLOPs", "CO₂e"]
rows = pd.DataFrame(rows, columns=heads)
rows.style.hide().set_caption("Tuned against stochastic").set_properties(**{"white-space": "normal"})

# %% [markdown]
# This book's ± is half a 95 % interval; what the paper's is, is not printed beside it.
# The paper's ratios of emissions differ between data sets although a grid has one number of points; [chapter 1](01_carbon_problem.ipynb) shows why they look multiplied.
# This book's are measured or modelled run by run, and scatter with the clock.
# Its accuracies come from code that chooses the epoch on the test split, this book's do not.
# What fixed temperatures and a random one reached on CIFAR-100 with the hundred epochs of the paper's code, with few seeds so far, stands on [the first page](../book/intro.md).
#
# ## What we learned

# %% tags=["hide-input"]
extra_work = stochastic.flops() / ways["no KD"].flops()
prices_said = {
    "KD, tuned τ": f"for one run instead of {tuned.runs}",
    "KD, τ = 20": "at the same price",
    "KD, τ = 4": "at the same price",
    "no KD": f"for {extra_work:.3g} times the computation",
}
told = "{difference}, **{the data say}**".format_map
lines = [
    f"* Against *{label}*, {price}: {told(verdicts[label])}"
    + (f"; in the ledger, these seeds included, {told(later[label])}" if label in later else "")
    for label, price in prices_said.items()
]
Markdown("\n".join(lines) + f"\n\n{caution.strip()}")

# %% [markdown]
# * A random temperature minimises the average of the grid's losses and tunes nothing; the lines above say what is known of the accuracy that this keeps or loses.
# * It can be expected near the mean of what the temperatures of its range reach, not at the best of them; the row of their mean in the second table of section 6 says how near it came.
# * The saving is the price of the grid that is not run. A fixed default saves the same, and may keep more or less than a random temperature: the second table of section 6 has one of each.
#
# ## What would change our mind
#
# * For a random τ over a fixed default: a data set where the default loses by more than the margin, and the random one does not.
# * For the grid: a tuned student whose lead over one run is an interval beyond the margin, with τ and epoch chosen on validation.
# * Against the grid: one run that is shown to be equivalent to it within the margin, or better.
# * For neither: intervals that stay open after the seeds planned above.
#
# On the digits some of this can be looked up: the last rows of the second table in section 6 say by how much a grid leads one default, and whether it leads another.
#
# ## Exercises
#
# **1.** Somebody tunes with five temperatures in place of nineteen. What is the cost ratio of the stochastic way then, with separate runs and with a shared teacher, for the paper's networks on CIFAR-100?
# Cost: none.

# %% tags=["hide-cell"]
ratio = shared(*paper_macs("CIFAR-100"), 5)
print(f"separate: 5 ×, shared teacher: {ratio:.2f} ×")

# %% [markdown]
# **2.** The policy `stochastic-log` draws τ evenly on a logarithmic scale. How does its mean differ, and what share of its draws lies below 6?
# Cost: none.

# %% tags=["hide-cell"]
for name in ("stochastic", "stochastic-log"):
    policy = build(name, seed=0, **law)
    many = np.array([policy.draw() for _ in range(10000)])
    print(f"{name:15} mean {many.mean():.1f}, below 6: {100 * (many < 6).mean():.0f} %")

# %% [markdown]
# **3.** Train with that policy: `experiments.run(stochastic_name, profile=profile, tau_policy="stochastic-log", tau_low=2, tau_high=20)`.
# Does it differ from the uniform law by more than the seeds do?
# The next cell says what one seed costs.

# %% tags=["hide-input"]
cost = stochastic.price(intensity)
energy = "energy not seen" if cost["kwh"] is None else quantity(cost["kwh"], ENERGY)
print(f"about {duration(cost['seconds'])} of training, {energy}")

# %% [markdown]
# ## Next
#
# [Distilling a detector](05_detection_kd.ipynb) asks the same of networks that say what is in a picture and where.
# [How this book was made](../book/made.md) says what executing these pages took; the [ledger](../book/ledger.md) has every run, and waits for yours.
#
# ## References
#
# * K. Rafat et al. (2023), *Mitigating carbon footprint for knowledge distillation based deep learning model compression*, [doi:10.1371/journal.pone.0285668](https://doi.org/10.1371/journal.pone.0285668); code: [King-Rafat/STKD_CFMitigation](https://github.com/King-Rafat/STKD_CFMitigation)
# * G. Hinton, O. Vinyals, J. Dean (2015), *Distilling the knowledge in a neural network*, [doi:10.48550/arXiv.1503.02531](https://doi.org/10.48550/arXiv.1503.02531)
# * D. J. Schuirmann (1987), *A comparison of the two one-sided tests procedure and the power approach for assessing the equivalence of average bioavailability*, [doi:10.1007/BF01068419](https://doi.org/10.1007/BF01068419)
#
# ## Receipt
#
# What executing this notebook took, training included where a run was not there yet.

# %%
meter.stop("notebook")
title = f"Receipt of 04 Stochastic temperature, profile {profile}"
receipt = carbon.receipt(meter.cost("notebook"), title=title)
receipt.save(experiments.runs_folder() / "receipts" / "04_stochastic_temperature.json")
receipt
