# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Teacher training
#
# Before anything is distilled, somebody has to know something.
# This chapter trains the teacher and both students alone, several times each, and asks what an accuracy is worth and what a network costs to use.
#
# [Open in Colab](https://colab.research.google.com/github/stkd-book/stkd-book/blob/main/notebooks/02_teacher_training.ipynb) · [Download](https://github.com/stkd-book/stkd-book/raw/main/notebooks/02_teacher_training.ipynb) · [Report a problem](https://github.com/stkd-book/stkd-book/issues)

# %% [markdown]
# **You will be able to**
#
# 1. divide a data set so that its test part stays honest, and see what augmentation does to an image;
# 2. compare three networks by parameters, MACs and FLOPs;
# 3. train them by a schedule that is data, over several seeds;
# 4. explain why the test part is read only after training, and measure how much choosing by it would flatter;
# 5. report accuracy with an interval and cost with how it is known, and tell computation from time at inference.
#
# **You need**
#
# | Concept | | Where |
# | --- | --- | --- |
# | Energy, CO₂e, MACs, FLOPs | necessary | [The carbon problem](01_carbon_problem.ipynb) |
# | Gradient descent with momentum | helpful | [Dive into deep learning, chapter 12](https://d2l.ai/chapter_optimization/index.html) |
# | Confidence intervals | helpful | [Introduction to modern statistics, chapter 19](https://openintro-ims.netlify.app/inference-one-mean) |

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
intensity = "world"  # gCO2e per kWh: a name in carbon.INTENSITIES or a number
repeats = 15  # timed forward passes per network and batch size in section 6

# %% [markdown]
# What executing this page once has cost, as recorded in the ledger:

# %%
import itertools

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
import torch
from IPython.display import Markdown
from scipy.stats import t as student_t

from stkd_utils import carbon, compute, data, experiments, hardware, ledger, models, plots, stats
from stkd_utils.procedures import made_on, recorded
from stkd_utils.protocol import Protocol
from stkd_utils.receipt import ENERGY, MASS, duration, quantity
from stkd_utils.seeding import generator
from stkd_utils.training import Supervised, Trainer, default_device

scale = experiments.profile(profile)
grid = carbon.find_intensity(intensity)
NAMES = {"resnet18": "ResNet-18", "mobilenetv2": "MobileNetV2"}
NAMES |= {"shufflenetv2": "ShuffleNetV2"}
ROLE = {"resnet18": "teacher", "mobilenetv2": "no KD", "shufflenetv2": "no KD"}
plots.use_style()
meter = carbon.Meter(intensity=intensity)
meter.start("notebook")
ledger.price_tag("02_teacher_training", profile)

# %% tags=["hide-input"]
Markdown(
    f"This page was executed with profile **{profile}**: {scale.dataset}, {len(scale.seeds)} seeds. "
    f"Results at this scale may claim {scale.claims}."
)

# %% [markdown]
# ## 1. The data
#
# An experiment of this book is a small file of settings; a profile replaces some of them.
# Those of the teacher decide which images there are and how they are divided:

# %%
asked = experiments.resolve(f"{scale.dataset}/resnet18-base", profile)
keys = ("val_fraction", "train_limit", "val_limit", "test_limit")
dataset = data.load(asked["dataset"], **{key: asked[key] for key in keys})
rows = [
    ("train", len(dataset.train), "learns the weights"),
    ("validation", len(dataset.val), "looked at after every epoch; decides"),
    ("test", len(dataset.test), "read only after training; reported"),
]
splits = pd.DataFrame(rows, columns=["part", "images", "use"])
shape = f"{dataset.channels} × {dataset.size} × {dataset.size}"
caption = f"{dataset.name}: {dataset.classes} classes, images of {shape}."
splits.style.hide().set_caption(caption)

# %% [markdown]
# The test part is the official one, or a fixed one where the data set has none.
# Validation is taken from the rest, with the same share of every class.
# Which images go where is decided by a seed of the data, not by that of a training, so every run in this book sees the same division.
# No image is in two parts: a network that has seen a test image during training would be examined on its own homework.
#
# One training image of each class (the first ten classes):


# %% mystnb={"image": {"alt": "A grid of small images, one training image for each of ten classes, with the name of the class above it."}, "figure": {"caption": "One training image per class.", "name": "fig-classes"}}
def picture(ax, pixels):
    """Show one image (C, H, W) on the scale 0..1 without axes."""
    ax.imshow(pixels.clamp(0, 1).permute(1, 2, 0).cpu(), cmap="gray", vmin=0, vmax=1)
    ax.axis("off")


figure, axes = plt.subplots(2, 5, figsize=(plots.COLUMN, 2.2))
for label, ax in enumerate(axes.flat):
    first = int((dataset.train.labels == label).nonzero()[0, 0])
    picture(ax, dataset.train.images[first] / 255)
    ax.set_title(dataset.class_names[label], fontsize=10.5)

# %% [markdown]
# Networks learn better from numbers around zero, so images are shifted by the mean and divided by the standard deviation, of all pixels of the training and validation parts.
# These belong to the data: with the statistics of another data set the result is no longer centred.
# (The code behind the paper uses those of CIFAR-100 for CIFAR-10 too.)

# %%
learn = torch.cat([dataset.train.images, dataset.val.images])
ready = data.normalise(learn, dataset.mean, dataset.std)
for what, values in (("mean", dataset.mean), ("standard deviation", dataset.std)):
    print(f"{what} of {dataset.name}: {[round(value, 3) for value in values.tolist()]}")
print(f"pixels after normalising: mean {ready.mean():+.3f}, deviation {ready.std():.3f}")

# %% [markdown]
# *Augmentation* shows the network a new view of an image each time: moved, mirrored or turned a little, whatever leaves the label true.
# A mirrored 2 is no 2, so digits are not flipped; photographs are.
# Each image of a batch gets its own view, from a generator that belongs to the run.
# Validation and test images are never augmented: they are the same for every network and every epoch.
#
# On eight pixels a rotation by ten degrees is a slight thing, and it is read off by interpolation, which blurs (the paper's code takes the nearest pixel instead).
# Compare the first picture with the others:

# %% mystnb={"image": {"alt": "Ten views of one and the same training image, each rotated or shifted a little differently; the first is the original."}, "figure": {"caption": "One image as it is (top left), and nine augmented views of it.", "name": "fig-views"}}
moves = ("crop_padding", "flip", "rotation_degrees")
augmentation = data.Augmentation(*(asked[key] for key in moves))
original = dataset.train.images[(dataset.train.labels == 7).nonzero()[0]]
copies = original.expand(9, -1, -1, -1)
draws = generator(0, "augment")
views = data.augment(copies, augmentation, dataset.mean, dataset.std, draws)
pixels = views * dataset.std.view(-1, 1, 1) + dataset.mean.view(-1, 1, 1)
figure, axes = plt.subplots(2, 5, figsize=(plots.COLUMN, 1.8))
for ax, view in zip(axes.flat, [original[0] / 255, *pixels], strict=True):
    picture(ax, view)

# %% [markdown]
# ## 2. The networks
#
# The teacher is a ResNet-18 in its form for small images: no pooling at the start, so that 32 × 32 pixels are not thrown away.
# The students replace its convolutions by cheaper ones.
# MobileNetV2 looks at each channel apart and mixes channels with 1 × 1 convolutions; ShuffleNetV2 also leaves half of the channels alone and shuffles them.
# By the formula of chapter 1, a 3 × 3 convolution from $C$ to $C$ channels takes $9\,C^2$ MACs for each pixel; apart and then mixed it takes $9\,C + C^2$, almost nine times fewer for large $C$.
#
# A profile may also make the networks narrower (fewer channels) and shallower (fewer blocks), so that they suit small images and a laptop.
# The kinds of layers stay, so what is learned here about procedure carries over; accuracies do not.
# At the paper's size, and at the size that this profile trains:

# %%
rows = []
for name, spoken in NAMES.items():
    settings = experiments.resolve(f"{scale.dataset}/{name}-base", profile)
    slim = {key: settings[key] for key in ("width", "depth")}
    small = models.build(name, dataset.classes, channels=dataset.channels, **slim)
    image = (dataset.channels, dataset.size, dataset.size)
    for where, counts in (
        ("paper, CIFAR-100", compute.count(models.build(name, 100), (3, 32, 32))),
        (f"here, {dataset.name}", compute.count(small, image)),
    ):
        sums = (counts.parameters, counts.macs, compute.flops(counts.macs))
        rows.append((where, spoken, *(number / 1e6 for number in sums)))
columns = ["size", "network", "parameters, M", "MACs, M", "FLOPs, M"]
sizes = pd.DataFrame(rows, columns=columns)
sizes = sizes.sort_values("size", ascending=False, kind="stable")
caption = "Parameters, and computation of one image's forward pass."
sizes.style.format(precision=3, thousands=",").hide().set_caption(caption)

# %% tags=["hide-input"]
printed = ledger.paper("Fig 1").query("metric == 'parameters_millions'").value.item()
counted = {name: compute.count(models.build(name, 100), (3, 32, 32)) for name in NAMES}
teacher = counted["resnet18"]
Markdown(
    f"The paper's Fig 1 states {printed} M parameters for the teacher; counted are {teacher.parameters / 1e6:.2f} M. "
    f"The students keep {100 * counted['mobilenetv2'].parameters / teacher.parameters:.0f} % and "
    f"{100 * counted['shufflenetv2'].parameters / teacher.parameters:.0f} % of its parameters, but only "
    f"{100 * counted['mobilenetv2'].macs / teacher.macs:.0f} % and {100 * counted['shufflenetv2'].macs / teacher.macs:.0f} % of its MACs."
)

# %% [markdown]
# ## 3. A schedule, and the training
#
# Stochastic gradient descent with momentum needs a learning rate at every step.
# The authors' code warms up over the first epoch and then lowers the rate by a factor of five, three times.
# Here the schedule is data: the milestones are shares of the run, so a short run has a schedule of the same kind.
# The rate is also scaled with the batch size, because a small batch takes more steps for each pass over the data.

# %% mystnb={"image": {"alt": "Two step curves of the learning rate over the share of the run, on a logarithmic axis: the paper's schedule and that of this profile. Both rise during the first epoch and then fall in steps."}, "figure": {"caption": "Learning rate over the run: the protocol in the authors' code, and the one of this page.", "name": "fig-schedule"}}
fields = {key: asked[key] for key in Protocol.__dataclass_fields__}
figure, ax = plt.subplots(figsize=(plots.COLUMN, 3))
lines = [
    (Protocol(), 50_000, "paper's code", "#222222", "-", "bottom"),
    (Protocol(**fields), len(dataset.train), "this page", "#0A4BCB", "--", "top"),
]
for protocol, images, label, colour, dash, side in lines:
    steps = -(-images // protocol.batch_size)
    places = [(1 + step // steps, step % steps) for step in range(protocol.epochs * steps)]
    rates = [protocol.lr_at(epoch, step, steps) for epoch, step in places]
    shares = np.linspace(0, 1, len(rates))
    top = max(rates)
    end = shares[len(rates) - 1 - rates[::-1].index(top)]
    ax.plot(shares, rates, color=colour, linestyle=dash)
    ax.annotate(f" {label}, {protocol.epochs} epochs", (end, top), color=colour, va=side)
_ = ax.set(yscale="log", xlabel="Share of the run", ylabel="Learning rate")

# %% [markdown]
# Both curves climb, stay, and step down: large steps find the region, small ones settle in it.
# The first step is small because fresh weights answer with large and useless gradients.
#
# ### Two settings that had to be chosen
#
# A learning rate for colour images need not suit digits, and a run of few epochs may want its steps later.
# So for the digits two settings were chosen, once, by a script (`book/choose.py`): the rate, and the milestones at which it is lowered.
# Every network learned *alone*, with seeds that no result of this book uses, and the highest mean validation accuracy won, at a tie the lower validation loss.
# The test split was not read, and distillation had no say: later it takes the settings at which its student learns best without a teacher.
#
# One row is a network with one choice of milestones, one column a learning rate (stated for a batch of 128):

# %% tags=["hide-input"]
choice = ledger.choice()
choice["network"] = choice.model.map(NAMES)
choice["rate lowered at"] = [", ".join(f"{100 * at:g}" for at in row) + " %" for row in choice.milestones]
choice["lr"] = [f"{rate:g}" for rate in choice.lr]
choice["percent"] = [100 * np.mean(values) for values in choice.val_accuracy]
place = ["network", "rate lowered at"]
kept = choice[choice.chosen].set_index(place).lr
tried = choice.pivot(index=place, columns="lr", values="percent").rename_axis(columns=None)
tried = tried.loc[choice.set_index(place).index.unique()].reset_index()


def mark(row):
    """The chosen cell of a row in bold."""
    return ["font-weight: bold" * (head == kept.get((row.iloc[0], row.iloc[1]))) for head in row.index]


caption = f"Validation accuracy on digits, %: means of {len(choice.val_accuracy[0])} seeds; bold: chosen."
tried.style.format(precision=1).hide().apply(mark, axis=1).set_caption(caption)

# %% [markdown]
# The first row of each network lowers the rate where the authors' code does.
# Cells that differ by a few tenths differ by a handful of images, so bold marks a setting that works, not one that is proven best.
#
# Now the training: every network, every seed of the profile.
# Runs that exist are returned as they are, so this cell is free the second time.
# (The teacher of the later chapters is a ResNet-18 too, of seed 0, which [chapter 1](01_carbon_problem.ipynb) trained.)

# %% tags=["hide-output"]
options = {"seeds": scale.seeds, "profile": profile}
start = f"{scale.dataset}/"
runs = {name: experiments.sweep(f"{start}{name}-base", **options) for name in NAMES}

# %% [markdown]
# After every epoch the network is measured on the validation part.
# The bands are 95 % intervals over seeds; with few seeds they are wide, and that is what is known.
# An interval of this kind assumes that the seeds are independent and roughly normal.
# Two or three values are too few to check that, which is one more reason not to read differences that are smaller than a band.

# %% mystnb={"image": {"alt": "Two panels of learning curves, validation accuracy over epochs with bands over seeds: the teacher with MobileNetV2 above, the teacher with ShuffleNetV2 below."}, "figure": {"caption": "Validation accuracy over the epochs: mean over seeds with its 95 % interval. Above with MobileNetV2, below with ShuffleNetV2.", "name": "fig-curves"}}
history = pd.concat(
    run.history.assign(role=ROLE[name], network=name)
    for name, group in runs.items()
    for run in group
)
figure, axes = plt.subplots(2, 1, figsize=(plots.COLUMN, 5), sharex=True, sharey=True)
for ax, student in zip(axes, ("mobilenetv2", "shufflenetv2"), strict=True):
    plots.learning_curves(history[history.network.isin(["resnet18", student])], ax=ax)
    ax.text(0, 1.04, f"Student: {NAMES[student]}", transform=ax.transAxes)
_ = axes[0].set(xlabel="", ylim=(0, 100.5))
# %% [markdown]
# ## 4. What an accuracy is worth
#
# ### Seeds
#
# A training has random numbers in it: initial weights, the order of images, their views.
# Another seed gives another network, and a result that holds for one seed only is an anecdote.
# The three sources are separate streams of random numbers, all derived from one seed: drawing more numbers for one leaves the others alone.
# So seeds must differ, and the record of each run shows that they did, by a checksum of its first weights:

# %%
rows = []
for name, group in runs.items():
    for run in group:
        reached = 100 * run.record["result"]["last"]["val_accuracy"]
        start = run.record["init_checksum"][:8]
        rows.append((NAMES[name], run.record["seed"], start, reached))
columns = ["network", "seed", "first weights", "validation, %"]
seeds = pd.DataFrame(rows, columns=columns)
caption = "Every run: seed, start, accuracy after the last epoch."
seeds.style.format(precision=2).hide().set_caption(caption)

# %% [markdown]
# Different checksums mean different starts; the same seed, asked twice, must give the same one.
# The next cell tries that, counts the starts above, and looks up which seeds the stored runs of the authors had:

# %%
twice = [models.build("mobilenetv2", 10, width=0.25, seed=0) for _ in range(2)]
pairs = zip(*(network.state_dict().values() for network in twice), strict=True)
same = all(torch.equal(first, second) for first, second in pairs)
stored = ledger.paper(None)
stored = stored[stored.table.str.startswith("Repository notebook, run")]
five = stored.pivot(index="table", columns="metric", values="value")
print(f"{seeds['first weights'].nunique()} different starts in {len(seeds)} runs")
print(f"one seed twice gives equal weights: {same}")
print(f"five stored runs of the authors: {stored.note.iloc[0].split('; ')[1]}")

# %% [markdown]
# The five repetitions in the authors' repository set one and the same seed each time.
# Their spread is what the hardware's rounding leaves to chance; it does not say how much another start would change.
# Whether the paper's printed spread comes from runs of that kind, its table does not say.
#
# ### Epochs
#
# Accuracy goes up and down from epoch to epoch.
# Whoever keeps the *best* epoch has chosen, and must not choose by the numbers that are reported.
# The authors' code chooses on the test set; in its stored runs (CIFAR-10, MobileNetV2) that made this difference, here beside the effect that the paper is about:

# %%
difference = five.test_accuracy_best_epoch - five.test_accuracy_last_epoch
gain = stats.interval(difference / 100)
tuned = ledger.paper_table("cifar10").set_index(["loss", "method"]).accuracy
effect = 100 * (tuned["HKD", "tuned"] - tuned["HKD", "ours"])
print(f"best epoch on the test set minus last epoch: {gain.points(2)}")
print(f"tuned minus random τ, Table 4 (HKD):         {effect:+.2f} points")

# %% [markdown]
# How much of such a gain is flattery can be measured without touching a test set.
# Cut the *validation* images into halves A and B, at random.
# Choose the best network by A, then look at it on B.
# For a network fixed beforehand, A and B agree on average.
# For the chosen one, A flatters.
#
# This needs the answers of every epoch, which a run does not keep.
# So here is the loop that `experiments.run` wraps, with a function called after each epoch; always on digits, to stay cheap:

# %%
small = experiments.profile(profile if scale.dataset == "digits" else "quick")
settings = experiments.resolve("digits/shufflenetv2-base", small.name)
digits = data.load("digits", **{key: settings[key] for key in keys})
size = {key: settings[key] for key in ("width", "depth")}
turned = data.Augmentation(*(settings[key] for key in moves))
protocol = Protocol(**{key: settings[key] for key in Protocol.__dataclass_fields__})
validation = data.normalise(digits.val.images, digits.mean, digits.std)
torch.set_num_threads(scale.threads or torch.get_num_threads())  # as many as the runs of this profile
correct = []  # one row per candidate (epoch and seed): which images it gets right
for seed in small.seeds:
    model = models.build(
        "shufflenetv2", digits.classes, channels=digits.channels, seed=seed, **size
    )

    def remember(row, model=model):
        with torch.inference_mode():
            correct.append(model.eval()(validation).argmax(1) == digits.val.labels)

    given = {"seed": seed, "augmentation": turned, "meter": meter}
    Trainer(model, digits, protocol, Supervised(), **given).fit(on_epoch=remember)
correct = torch.stack(correct).float()
price = meter.cost("train")
print(f"{len(correct)} candidates, {len(digits.val)} validation images")
print(f"price: {duration(price.seconds)} of training, energy {price.how}")

# %% [markdown]
# Each row of `correct` is a candidate that somebody might have kept, and each column an image of the validation part.
# Two thousand random halvings of the same images:

# %% mystnb={"image": {"alt": "Two smooth distributions of accuracy on half A minus accuracy on half B over random halvings. One, for a network fixed beforehand, is centred on zero. The other is for the best candidate by half A."}, "figure": {"caption": "Accuracy on the half that chose (A) minus accuracy on the other (B), over 2,000 random halvings: for the best candidate by A, and for one fixed beforehand (the last epoch of the first seed). Lines: means.", "name": "fig-halves"}}
random = torch.rand(2000, correct.shape[1], generator=generator(0, "halves"))
half = correct.shape[1] // 2
in_a = (random.argsort(1) < half).float()
on_a = correct @ in_a.T / half
on_b = correct @ (1 - in_a).T / (correct.shape[1] - half)
chosen = on_a.argmax(0)
gap = on_a - on_b
gaps = {"fixed": gap[protocol.epochs - 1], "best by A": gap.gather(0, chosen[None])[0]}

figure, ax = plt.subplots(figsize=(plots.COLUMN, 2.8))
looks = (("#222222", 0.02, "left"), ("#D13D07", 0.98, "right"))
for (label, gap), (colour, place, side) in zip(gaps.items(), looks, strict=True):
    sns.kdeplot(x=100 * gap.numpy(), bw_adjust=2, color=colour, ax=ax)
    ax.axvline(100 * gap.mean(), color=colour, linestyle="--", linewidth=1)
    ax.text(place, 0.92, label, transform=ax.transAxes, color=colour, ha=side)
ax.set(xlabel="Accuracy on A minus accuracy on B (points)")
_ = ax.set(ylabel="Halvings (smoothed)", yticks=[])
# %% tags=["hide-input"]
flattery = 100 * float(gaps["best by A"].mean())
honest = 100 * float(on_b.gather(0, chosen[None]).mean())
Markdown(
    f"Choosing among {len(correct)} candidates by {half} images, half A shows {honest + flattery:.1f} % on average and half B "
    f"{honest:.1f} %: choosing flattered by **{flattery:.1f} points**. "
    f"For the network fixed beforehand the mean gap is {100 * float(gaps['fixed'].mean()):+.1f}. "
    "Candidates and images are the same in both; only the right to choose differs. "
    "More images make the flattery smaller, more candidates larger: a grid of temperatures times a hundred epochs is many."
)

# %% [markdown]
# The rule of this book follows: validation decides, and the test part is read only after training.
# It is read for the last epoch, which nobody chose, and, where that is another one, for the epoch that validation chose.
# The last epoch is the one that tables report.

# %% [markdown]
# ## 5. Accuracy and cost
#
# The test part, as read after training:

# %% mystnb={"image": {"alt": "Three rows of dots with intervals, one per network: test accuracy of every run after the last epoch, with the mean over seeds and its 95 % interval."}, "figure": {"caption": "Test accuracy after the last epoch: every run, the mean over seeds, and its 95 % interval.", "name": "fig-accuracy"}}
table = ledger.table([run.record for group in runs.values() for run in group])
shown = table.assign(role=table.model.map(ROLE), label=table.model.map(NAMES))
ax = plots.dots_with_intervals(shown)
# %% [markdown]
# The pale marks are single runs, the dark one is their mean.
# The row's text repeats the mean and half the width of its interval.
#
# And what each cost, as recorded when it was trained.
# Evaluation is metered apart and is not in these columns, because how often one looks is a choice of the observer:

# %% tags=["hide-input"]
rows = []
for name, group in table.groupby("model", sort=False):
    energy = group.energy_kwh.mean()
    both = group[["test_accuracy", "test_accuracy_chosen"]]
    accuracy = [stats.interval(both[key]).percent().split(" %")[0] for key in both]
    work = f"{group.flops_forward_backward.mean() / 1e9:.3g}"
    cost = quantity(energy, ENERGY), quantity(energy * grid.g_per_kwh, MASS).removesuffix(" CO₂e")
    rows.append((NAMES[name], *accuracy, work, duration(group.seconds.mean()), *cost))
columns = ["network", "last epoch, %", "chosen epoch, %", "GFLOPs"]
columns += ["time", "energy", "CO₂e"]
how = ", ".join(sorted(set(table.energy_how)))
caption = f"Test accuracy and price of one run, {len(scale.seeds)} seeds; energy: {how}."
costs = pd.DataFrame(rows, columns=columns).style.hide().set_caption(caption)
costs.set_properties(**{"white-space": "normal"})

# %% tags=["hide-input"]
lead = {
    name: stats.paired(
        *(table[table.model == which].sort_values("seed").test_accuracy for which in ("resnet18", name))
    )
    for name in ("mobilenetv2", "shufflenetv2")
}
decided = [NAMES[name] for name, gap in lead.items() if gap.low > 0]
verdict = (
    f"the interval excludes zero for {' and '.join(decided)}" if decided else "neither interval excludes zero"
)
work, clock = (table.groupby("model")[key].mean() for key in ("flops_forward_backward", "seconds"))
modelled = set(table.energy_how) == {"modelled"}
where = table.gpu.iloc[0] or table.cpu.iloc[0]
Markdown(
    f"Trained on {where}; ± is half a 95 % interval (n = {len(scale.seeds)}), GFLOPs are forward and backward. "
    f"The teacher's lead is {lead['mobilenetv2'].points()} over MobileNetV2 and {lead['shufflenetv2'].points()} over ShuffleNetV2; {verdict}. "
    f"MobileNetV2 took {clock.mobilenetv2 / clock.resnet18:.2g} times the teacher's time for "
    f"{work.mobilenetv2 / work.resnet18:.2g} times its FLOPs. "
    f"All {len(table)} trainings together took {duration(table.seconds.sum())}. "
    + ("Energy is modelled here, so the column says the same as the seconds. " if modelled else "")
    + f"What may be claimed at profile {profile}: {scale.claims}."
)

# %% [markdown]
# ## 6. What a network costs to use
#
# A network is trained once and may be used a billion times.
# The price of tuning is paid once, the price of size with every answer; that is the reason to distil at all.
#
# How long does an image take?
# Weights do not matter for that, so networks of the paper's size with random weights will do, on 32 × 32 images, one at a time and in batches:

# %%
rows = {}
for name in NAMES:
    network = models.build(name, 100, seed=0).to(default_device())
    one = compute.latency(network, (3, 32, 32), batch_size=1, repeats=repeats)
    fewer = {"repeats": max(3, repeats // 3), "warmup": 1}
    many = compute.latency(network, (3, 32, 32), batch_size=32, **fewer)
    rows[name] = {"macs": counted[name].macs, "one": one.median, "many": many.median}
    rows[name] |= {"low": one.low, "high": one.high}
inference = pd.DataFrame(rows).T
ms = 1e3 * inference[["one", "low", "high", "many"]]
ms.columns = ["ms, alone", "lower quartile", "upper quartile", "ms, in a batch of 32"]
ms.insert(0, "network", inference.index.map(NAMES))
ms.insert(1, "MACs, M", inference.macs / 1e6)
caption = f"Time for one 32 × 32 image: alone, median and quartiles of {repeats}; in a batch, median of {fewer['repeats']}."
ms.style.format(precision=1).hide().set_caption(caption)

# %% [markdown]
# The quartiles say how steady the clock was; a difference smaller than their distance is noise.
# As shares of the teacher, beside the time that the paper's Fig 1b shows for the whole CIFAR-100 test set (its students' bars were measured in the picture):

# %% mystnb={"image": {"alt": "Horizontal bars in two groups, MobileNetV2 and ShuffleNetV2: MACs, time for a single image, time in a batch, and time in the paper, each as a percentage of the teacher's."}, "figure": {"caption": "What a student needs, as a share of the teacher: MACs, time alone, time in a batch of 32, and time in the paper's Fig 1b.", "name": "fig-inference"}}
needs = inference[["macs", "one", "many"]]
share = needs / needs.loc["resnet18"]
bars = ledger.paper("Fig 1b").query("method == 'ours'").set_index("student").value
seconds = ledger.paper("Fig 1").query("metric == 'inference_seconds'").value.item()
figure, ax = plt.subplots(figsize=(plots.COLUMN, 3.9))
labels, place = [], 0
for name in ("mobilenetv2", "shufflenetv2"):
    percent = [100 * value for value in (*share.loc[name], bars[NAMES[name]] / seconds)]
    colours = ["#9AA3AD", "#0A4BCB", "#0A4BCB", "#12855A"]
    drawn = ax.barh(range(place, place + 4), percent, color=colours, height=0.7)
    ax.bar_label(drawn, fmt="{:.0f} %", padding=3)
    labels += [f"{NAMES[name]}: MACs", "time alone", "time in a batch", "time, paper"]
    place += 5
ax.set_yticks([*range(4), *range(5, 9)], labels)
ax.axvline(100, color="#222222", linewidth=1)
ax.text(98, 4, "teacher", ha="right", va="center")
ax.set(xlabel="Share of the teacher (%)", xlim=(0, None), ylim=(8.6, -0.6))
ax.tick_params(axis="y", length=0)
ax.grid(False)

# %% tags=["hide-input"]
times = 1 / share
students = ("mobilenetv2", "shufflenetv2")
slower = all(share.loc[name, ["one", "many"]].min() > 1.25 * share.loc[name, "macs"] for name in students)
machine = hardware.hardware()
processor = machine["gpu"] or f"{hardware.processor(machine)}, CPU threads: {torch.get_num_threads()}"
says = (
    "MACs and time are not proportional"
    if slower
    else "on this machine MACs and time are close to proportional"
)
Markdown(
    f"On {processor}: MobileNetV2 needs {times.loc['mobilenetv2', 'macs']:.1f} times fewer MACs than the teacher, and is {times.loc['mobilenetv2', 'one']:.1f} "
    f"times faster alone and {times.loc['mobilenetv2', 'many']:.1f} times in a batch; ShuffleNetV2 {times.loc['shufflenetv2', 'macs']:.1f}, "
    f"{times.loc['shufflenetv2', 'one']:.1f} and {times.loc['shufflenetv2', 'many']:.1f}. So {says}. "
    f"In the paper's figure the students are {seconds / bars['MobileNetV2']:.1f} and {seconds / bars['ShuffleNetV2']:.1f} times faster."
)

# %% [markdown]
# A likely reason: a convolution of one channel at a time does little arithmetic for each number that it fetches, and many small layers each have a fixed price.
# So a saving in MACs is a promise, and time (or metered energy) is what is delivered.
# It differs by machine, which is why every table here names its own, and by form: these networks are as trained, and [chapter 8](08_inference_footprint.ipynb) folds them first.

# %% [markdown]
# ## At the paper's scale
#
# A student can hardly be judged without its teacher's own figure.
# The teachers of the paper, and those in this book's ledger (profiles `gpu` and `paper`):

# %% tags=["hide-input"]
abstract = ledger.paper("Abstract").query("method == 'teacher' and metric == 'accuracy'")
rows = [(row.dataset, "paper, abstract", f"{row.value:.2f} %", "") for row in abstract.itertuples()]
logged = ledger.paper("Repository notebook").query("method == 'teacher'").iloc[0]
rows.append((logged.dataset, "authors' repository", f"{logged.value:.2f} %", "best epoch on the test set"))
for (spoken, name), size in itertools.product({"CIFAR-10": "cifar10", "CIFAR-100": "cifar100"}.items(), ("gpu", "paper")):
    base = f"{name}/resnet18-base"
    settings = experiments.resolve(base, size)
    way = recorded(ledger.load()[0], settings, base, size, "teacher", "teacher")
    label = f"this book, {size}, {settings['epochs']} epochs"
    if way is None:
        rows.append((spoken, label, "not run yet", ""))
    else:
        where = made_on([way]).split(", CPU threads")[0]
        rows.append((spoken, label, stats.interval(way.scores()).percent(2), f"last epoch, {where}"))
teachers = pd.DataFrame(rows, columns=["data", "source", "teacher's accuracy", "note"]).sort_values(
    "data", kind="stable"
)
teachers.style.hide().set_caption("ResNet-18 as a teacher, test accuracy.")

# %% [markdown]
# For CIFAR-10 the abstract and the stored logs differ a little.
# Students trained alone do not appear in what was available of the paper; without them one cannot tell how much of an accuracy is owed to the teacher, so this book always trains them.

# %% [markdown]
# ## What we learned
#
# * A result needs seeds that differ, and an interval; one number from one run is an anecdote.
# * Choosing by a set of images spoils it for reporting. The halves of section 4 show by how much, on this page.
# * Parameters, MACs and time are different sizes of one network, and a saving in one is not the same saving in another; state which one is meant.
# * Costs are those of the recorded run, with how they are known.
#
# **What would change our mind.**
# A student whose interval reaches the teacher's at the paper's scale would take away the reason to distil it.
# A machine on which time follows MACs would make section 6 a remark about other machines.

# %% [markdown]
# ## Exercises
#
# **Exercise 1.** How many seeds would make the interval of MobileNetV2's test accuracy half as wide, if the spread stays? What would they cost?
#
# **Exercise 2.** MobileNetV2 with half the width: by what factor do MACs and time fall?
#
# **Exercise 3.** How much would validation accuracy scatter between seeds if all networks were equally good and only the number of images were to blame? Compare with the scatter seen.

# %% tags=["hide-input"]
each = table.groupby("model").seconds.mean()
energy = table[table.model == "mobilenetv2"].energy_kwh.mean()
worth = "" if np.isnan(energy) else f", {quantity(energy, ENERGY)} ({table.energy_how.iloc[0]})"
Markdown(
    "What running them costs, from the recorded runs and this machine's clock: one more training of MobileNetV2 takes "
    f"{duration(each.mobilenetv2)}{worth}; exercise 2 takes {duration(4 * repeats * inference.one.mobilenetv2)}; 3 is arithmetic. "
    "The folded solutions train nothing."
)

# %% tags=["hide-cell"]
with meter.block("exercises"):
    level = stats.interval(table[table.model == "mobilenetv2"].test_accuracy)
    factor = {
        n: student_t.ppf(0.975, n - 1) / n**0.5 for n in range(2, 200)
    }  # half width / standard deviation
    wanted = next(n for n in factor if factor[n] <= factor[level.n] / 2)
    print(f"1. {wanted} seeds instead of {level.n}, {duration(wanted * each.mobilenetv2)} of training in all")

    half_wide = models.build("mobilenetv2", 100, width=0.5, seed=0).to(default_device())
    fewer = counted["mobilenetv2"].macs / compute.count(half_wide, (3, 32, 32)).macs
    faster = inference.one.mobilenetv2 / compute.latency(half_wide, (3, 32, 32), repeats=repeats).median
    print(f"2. {fewer:.1f} times fewer MACs, {faster:.1f} times faster")

    for name, group in table.groupby("model", sort=False):
        p = group.val_accuracy.mean()
        by_chance = 100 * (p * (1 - p) / len(dataset.val)) ** 0.5
        print(
            f"3. {NAMES[name]}: {by_chance:.1f} points from {len(dataset.val)} images, {100 * group.val_accuracy.std():.1f} seen"
        )

# %% [markdown]
# All seeds here share one validation part, so a hard image is hard for every seed: the scatter seen may be smaller than that of fresh images.
#
# **Next:** [Classic distillation](03_classic_kd.ipynb), where a network of the first kind starts to teach.
#
# **References**
#
# * K. He et al., *Deep residual learning for image recognition*, CVPR 2016, [doi:10.1109/CVPR.2016.90](https://doi.org/10.1109/CVPR.2016.90)
# * M. Sandler et al., *MobileNetV2: inverted residuals and linear bottlenecks*, CVPR 2018, [doi:10.1109/CVPR.2018.00474](https://doi.org/10.1109/CVPR.2018.00474)
# * N. Ma et al., *ShuffleNet V2: practical guidelines for efficient CNN architecture design*, ECCV 2018, [doi:10.1007/978-3-030-01264-9_8](https://doi.org/10.1007/978-3-030-01264-9_8)
# * E. Alpaydin, C. Kaynak, *Optical recognition of handwritten digits*, 1998, [doi:10.24432/C50P49](https://doi.org/10.24432/C50P49)
# * K. Rafat et al., *Mitigating carbon footprint for knowledge distillation based deep learning model compression*, PLOS ONE 18(5), 2023, [doi:10.1371/journal.pone.0285668](https://doi.org/10.1371/journal.pone.0285668)

# %% [markdown]
# ## Receipt
#
# What executing this page took.
# Trainings that were finished before are not part of it; section 5 has their recorded cost.

# %%
meter.stop("notebook")
title = f"Teacher training, profile {profile}"
receipt = carbon.receipt(meter.cost("notebook"), title=title)
receipt.save(experiments.runs_folder() / "receipts" / "02_teacher_training.json")
receipt
