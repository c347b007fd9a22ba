# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # The frugal engine
#
# Where the joules of one distillation step go, which of them can be saved without changing the answer, and what the paper's experiment would cost with each saving.
#
# [Open in Colab](https://colab.research.google.com/github/stkd-book/stkd-book/blob/main/notebooks/09_frugal_engine.ipynb) · [Download](https://github.com/stkd-book/stkd-book/raw/main/notebooks/09_frugal_engine.ipynb) · [Report a problem](https://github.com/stkd-book/stkd-book/issues)

# %% [markdown]
# **You will be able to**
#
# 1. find where the time of a training step goes, before changing anything,
# 2. tell savings that leave every result as it was, bit by bit, from savings that need a verdict of equivalence,
# 3. train a whole grid in one pass, and count what it really costs,
# 4. say what a bill is made of: method, grid, engine and device.
#
# **You need**
#
# | Concept | | Where |
# | --- | --- | --- |
# | Hinton's loss and the temperature grid | necessary | [Classic knowledge distillation](03_classic_kd.ipynb) |
# | "Different", "equivalent", "not decided" | necessary | [Stochastic temperature](04_stochastic_temperature.ipynb) |
# | FLOPs and energy | helpful | [The carbon problem](01_carbon_problem.ipynb) |

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
import shutil
import tempfile
import textwrap
import time

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from IPython.display import Markdown, display
from matplotlib.ticker import LogLocator

from stkd_utils import answering, carbon, compute, data, experiments, ledger, models, plots, profiling, stats, stored
from stkd_utils.engine import resolve
from stkd_utils.procedures import Procedure, counterparts, differing, verdict
from stkd_utils.tables import FLOPS, column, table
from stkd_utils.temperature import IntegerUniform
from stkd_utils.training import default_device

scale = experiments.profile(profile)
plots.use_style()
meter = carbon.Meter(intensity=intensity)
meter.start("notebook")
device = default_device()
ledger.price_tag("09_frugal_engine", profile)

# %% tags=["hide-input"]
caution = " **A smoke run claims nothing but that it runs: ignore its numbers.**" if profile == "smoke" else ""
Markdown(f"Profile **{profile}**, data set **{scale.dataset}**, device **{device}**.{caution}")

# %% [markdown]
# ## 1. Where the time goes
#
# The paper saves by not searching.
# Engineering saves on top of that, however τ is chosen.
#
# One step of distillation has six parts: make new views of the images, ask the teacher, let the student answer, compare, send the gradient back, update.
# Here is that step at the paper's size, colour images of 32 × 32 pixels and 100 classes, as most tutorials write it (but for the views, which are made as one batch here, too), and as this book takes it.
# The pictures are random: speed does not depend on what they show.
# Each part is timed alone, then scaled so that the parts sum to a measured whole step: for this book, one step of its training loop (on a GPU, their shares are those without a CUDA graph).
# On a CPU both are timed with as many threads as the profile trains with: with more, on a busy machine, threads would wait for each other, and that waiting would be timed too.

# %%
torch.set_num_threads(scale.threads or torch.get_num_threads())
batch = 16 if profile == "smoke" else 128
plainly = {"precision": None, "teacher_precision": None, "channels_last": False, "fused": False}
steps = {"plain": profiling.Step(batch=batch, device=device, **plainly)}
steps["this book"] = profiling.Step(batch=batch, device=device)
loops = {"plain": steps["plain"], "this book": profiling.Pass(batch=batch, device=device)}
parts = {
    name: profiling.breakdown(step, rounds=3, whole=loops[name]).set_index("part")
    for name, step in steps.items()
}
whole = {name: found.attrs["whole"] for name, found in parts.items()}
# a GPU waits after each part when parts are timed, and not within a whole step
seconds = {
    name: found.seconds * whole[name] / found.seconds.sum() for name, found in parts.items()
}
answering_in = loops["this book"].trainers[0].objective.teacher.network.precision.split(",")[0]
bits = {"student": resolve("auto", device), "teacher": answering_in}  # of this book's step
print(*(f"{name}: {batch / taken:.0f} images/s" for name, taken in whole.items()), sep="\n")
gain = whole["plain"] / whole["this book"]
print(f"{gain:.2f} times as fast, CPU threads: {torch.get_num_threads()}")

# %% [markdown]
# What a step draws is metered over some seconds of steps, for either kind.

# %%
def power(name, for_seconds=3.0 if device == "cuda" else 1.0):
    """Watts while such steps are taken (None where nothing was seen), and how they are known."""
    with meter.block(f"power of {name}"):
        for _ in range(max(2, round(for_seconds / whole[name]))):
            loops[name]()
        loops[name].wait()
    cost = meter.cost(f"power of {name}")
    return (None if cost.energy_kwh is None else 3.6e6 * cost.energy_kwh / cost.seconds), cost.how


watts, how = {}, {}
for name in steps:
    watts[name], how[name] = power(name)
    print(f"{name}: {watts[name]:.0f} W, {how[name]}" if watts[name] else f"{name}: {how[name]}")

# %% tags=["hide-input"] mystnb={"image": {"alt": "Two stacked horizontal bars, the plain step above and this book's below, cut into the parts of a step: augmentation, teacher, student forward, loss, backward, optimiser."}, "figure": {"caption": "One distillation step by its parts on this machine: energy where it is known, else time; median of three rounds.", "name": "figure-breakdown"}}
known = all(watts.values())
_, ax = plt.subplots(figsize=(plots.COLUMN, 3.4))
shades = plt.get_cmap("cividis")(np.linspace(0, 0.95, len(profiling.PARTS)))
for name, taken in seconds.items():
    sizes = taken * (watts[name] if known else 1000)
    ax.barh([name] * len(taken), sizes, left=sizes.cumsum() - sizes, color=shades, edgecolor="white")
ax.invert_yaxis()
ax.set(xlabel=f"Energy of one step (J), {how['plain']}" if known else "Time of one step (ms)")
patches = [plt.Rectangle((0, 0), 1, 1, color=shade) for shade in shades]
_ = ax.figure.legend(patches, profiling.PARTS, ncols=2, loc="outside lower center", frameon=False)

# %% tags=["hide-input"]
share = parts["plain"].share
method = share["loss"]
teaching = share["teacher"]
student = share["student forward"] + share["backward"]
policy, draws = IntegerUniform(), 1000
started = time.perf_counter()
for _ in range(draws):
    policy.draw()
drawing = (time.perf_counter() - started) / draws
Markdown(
    f"Of the plain step, the teacher takes {teaching:.0%}, the student's way there and back {student:.0%}, "
    f"and the loss, where the temperature lives, {method:.2%}. "
    f"To draw a temperature takes {1e6 * drawing:.0f} µs, {drawing / whole['this book']:.4%} of this book's step."
)

# %% [markdown]
# The temperature lives in the loss alone: a random one is drawn once per batch, and nothing else of the step changes.
# Savings are to be looked for where the bar is long.
# (Where energy is modelled, it is time in other units.)
#
# ## 2. Savings that change nothing, or next to nothing
#
# A frozen teacher can be prepared for answering: no graph, batch normalisation folded into the convolution before it, channels stored last, numbers of 16 bits, or whole numbers of 8 ([chapter 8](08_inference_footprint.ipynb) explains those).
# Folding is exact algebra, up to rounding; fewer bits are not.
# So they are looked at apart, on the trained teacher of the earlier chapters.

# %%
pair = experiments.load(f"{scale.dataset}/resnet18-mobilenetv2-kd")
trained = experiments.run(pair["teacher"], pair["teacher_seed"], profile, progress="none")
settings = trained.record["asked"]
keys = ("val_fraction", "train_limit", "val_limit", "test_limit")
dataset = data.load(scale.dataset, device=device, **{key: settings[key] for key in keys})
images = data.normalise(dataset.val.images[:512], dataset.mean, dataset.std)
with torch.inference_mode():
    unprepared = trained.model(device=device)(images)
rows = []
able = answering.unable(trained.model(), device) is None
for precision in ("float32", "bfloat16", "int8") if able else ("float32", "bfloat16"):
    started = time.perf_counter()
    logits = answering.frozen(trained.model(device=device), precision, device, dataset)(images)
    ready = time.perf_counter() - started
    same = (logits.argmax(1) == unprepared.argmax(1)).float().mean()
    gap = (logits - unprepared).abs().max() / unprepared.abs().max()
    found = {"largest change": f"{gap:.1e}", "same answer": f"{100 * same:.1f} %"}
    rows.append({"prepared, in": precision, **found, "first answers after": f"{ready:.1f} s"})
table(rows, f"Prepared against plain: {len(images)} validation images; change relative to the largest logit")

# %% [markdown]
# A float32 number has 24 significant bits, a bfloat16 number eight: two to three decimal digits.
# An int8 number is one of 256 steps, or of 128 on older processors, over a range found with training images; it works for a teacher like ResNet-18, whose maps can stay in 8 bits from layer to layer.
# To find the range and put the network together anew takes some seconds, before its first answer, and a run pays for them.
# Whether that matters is not a question of single answers but of what students learn from them, so it needs seeds and an interval, like any other claim; section 7 has them.
#
# ## 3. One teacher for a whole grid
#
# The students of a grid see the same images, in the same order, in the same views, when they share a seed.
# The teacher therefore says the same thing to each of them.
# Trained side by side, in one pass, they need one set of views and one answer of the teacher for each batch.
# With $s$ MACs of a student, $t$ of its teacher, and a backward pass counted as two forward ones, a grid of $G$ then costs, relative to $G$ runs:
#
# $$\frac{3Gs + t}{G\,(3s + t)}$$

# %%
def relative_cost(s, t, grid):
    """Computation of a grid that shares its teacher, as a part of separate runs."""
    return (3 * grid * s + t) / (grid * (3 * s + t))

# %% [markdown]
# First the test that nothing else changes: a few temperatures of the grid, trained in one pass and in an empty folder, against the runs of [chapter 3](03_classic_kd.ipynb).
# On a CPU they are equal to the last digit; on a GPU some kernels add in an order that changes from run to run, alone or not.

# %%
name, seed = f"{scale.dataset}/resnet18-mobilenetv2-kd", scale.seeds[0]
few = list(scale.taus[:: max(1, len(scale.taus) // 4)])
options = {"seeds": [seed], "profile": profile, "tau": few, "progress": "none"}
apart = experiments.sweep(name, **options)
with tempfile.TemporaryDirectory() as folder:
    shutil.copytree(trained.folder, Path(folder, trained.folder.name))
    together = experiments.sweep(name, runs=folder, together=True, **options)
    equal = [one.history.equals(other.history) for one, other in zip(apart, together, strict=True)]
print(f"τ = {', '.join(map(str, few))}: histories equal to the last digit: {sum(equal)} of {len(few)}")

# %% [markdown]
# The record of a run that shared a pass carries its part of the bill, and says so: the parts of a pass sum to one pass.

# %%
rows = []
for label, found in {"chapter 3": apart, "one pass": together}.items():
    records = [run.record for run in found]
    shares = [record["shared"]["share"] for record in records if record["shared"]]
    flops = sum(record["compute"]["flops_forward_backward"] for record in records)
    taken = sum(record["cost"]["train"]["seconds"] for record in records)
    rows.append([label, len(records), flops, f"{taken:.1f}", f"{sum(shares):.3f}" if shares else "alone"])
labels, counts, flops, taken, sums = zip(*rows, strict=True)
unit, texts = column(flops, FLOPS)
bill = {"": labels, "students": counts, unit: texts, "s": taken}
table({**bill, "sum of shares": sums}, "The same students; the rows were timed at different moments")

# %% [markdown]
# What is saved depends on the teacher's part of a run, $t / (3s + t)$: on this page's networks, and on those of the paper.

# %%
zoo = ("resnet18", "mobilenetv2", "shufflenetv2")
macs = {key: compute.count(models.build(key, 100), (3, 32, 32)).macs for key in zoo}
here = trained.record["compute"]["macs_student"], apart[0].record["compute"]["macs_student"]
pairs = {f"{scale.dataset}, MobileNetV2": here}
pairs |= {f"paper's size, {key}": (macs["resnet18"], macs[key]) for key in zoo[1:]}
points = len(experiments.profile("paper").taus)
rows = [
    {
        "networks": label,
        "teacher's part": f"{t / (3 * s + t):.0%}",
        f"grid of {points}, of separate runs": f"{relative_cost(s, t, points):.3f}",
    }
    for label, (t, s) in pairs.items()
]
table(rows, "Computation of a grid that shares its teacher, forward and backward")

# %% [markdown]
# ## 4. Answers kept on disk
#
# If a view comes again, the teacher's answer can be kept.
# How many views there are is decided by the augmentation: a flip has two, a crop with four pixels of padding has 81, a rotation has no end of them.
# What keeping would take and save can be said before anything is stored, here for CIFAR-100 with the epochs of the paper's code:

# %%
paper = experiments.resolve("cifar100/resnet18-mobilenetv2-kd", "paper")
photos = round((1 - paper["val_fraction"]) * 50_000)  # CIFAR-100 has 50,000 images for training
moves = {"flip": (0, True), "crop": (4, False), "crop and flip": (4, True)}
rows = []
for label, (padding, flip) in moves.items():
    rows.append((label, stored.estimate(photos, 100, data.Augmentation(padding, flip, 0.0), paper["epochs"])))
protocol = data.Augmentation(paper["crop_padding"], paper["flip"], paper["rotation_degrees"])
rows.append(("as in the paper, one a seed and epoch", stored.estimate(photos, 100, protocol, paper["epochs"], data_seed=0)))
rows = [
    {"views": label, "number": plan.views, "GB on disk": f"{plan.bytes / 1e9:.3g}", "answers saved": f"{100 * plan.saved:.0f} %"}
    for label, plan in rows
]
table(rows, f"Keeping answers: {photos:,} images, 100 classes, {paper['epochs']} epochs, first run")

# %% [markdown]
# The more views, the larger the table and the rarer a view that comes again; the paper's code rotates, so the first three rows are what-ifs.
#
# Runs that share the seed of their data (`data_seed`) meet the same views epoch by epoch, rotation or not: for them one answer per image and epoch is enough, and all but the first run find them all, except for the last batch of an epoch where its size is no multiple of 32.
# The table is read by the processor: on a GPU every step waits for it.
# A stored answer is used only if the pixels match exactly: one that was given for another view would teach wrongly, without an error.

# %% [markdown]
# ## 5. Less work, and perhaps another answer
#
# The savings so far leave the method as it is.
# The next two change it, so no classifier of this book uses them by default (the detectors of chapter 5 do use one cycle), and each needs the verdict of chapter 4.
#
# **Tuning cheaply.** *Successive halving* (Jamieson and Talwalkar 2016) trains the whole grid a little, keeps the better half by validation, trains those on, and so forth.
# It is the fair rival of a random temperature: tuning, for less than the whole grid, though for more than one fixed temperature.
# A grid that was trained to the end holds in its histories what halving would have kept, and looking it up costs nothing.
# (`experiments.halving` does the same without training the rest; its runs are equal to the last digit.)
#
# **A shorter schedule.** One cycle of the learning rate, up and down by a cosine, is meant to reach a good place in fewer epochs (Smith and Topin 2017).
# Here it is tried for the run with a random temperature, at the full length and at half of it, beside half the length without it.
#
# The first cell trains what this page needs.
# Verdicts are those of the same ways in the [ledger](../book/ledger.md), which has more seeds; if any is missing there, all verdicts use this page's runs.

# %%
asked = {"seeds": scale.seeds, "profile": profile, "progress": "none"}
grid = experiments.sweep(name, tau=list(scale.taus), **asked)
last = grid[0].record["result"]["last"]["epoch"]
lengths = {"": {}, ", one cycle": {"schedule": "one-cycle"}}
lengths[", half"] = {"epochs": max(1, last // 2)}
lengths[", one cycle, half"] = lengths[", one cycle"] | lengths[", half"]
rival = f"{scale.dataset}/resnet18-mobilenetv2-stochastic"


def way(label, role, runs):
    """A way of getting a student, of these runs."""
    return Procedure(label, role, tuple(run.record for run in runs))


ways = [way("tuned τ", "KD tuned tau", grid)]
for label, changed in lengths.items():
    runs = experiments.sweep(rival, **asked, **changed)
    ways.append(way(f"random τ{label}", "stochastic tau", runs))

# %% tags=["hide-input"]
more = counterparts(ways, ledger.load()[0])
tuned, random, *shorter = more or ways
stops = sorted({max(1, last // 3), max(1, 2 * last // 3)} - {last})
by_seed = [[one for one in tuned.records if one["seed"] == seed] for seed in tuned.seeds]
chosen, epochs_paid = zip(*(experiments.halved(one, stops) for one in by_seed), strict=True)
halving = Procedure("τ by halving", "KD tuned tau", chosen)
print(f"Stops after epochs {stops} of {last}; {epochs_paid[0] / last:.1f} runs paid instead of {tuned.runs}.")
low, middle, high = np.quantile([one["asked"]["tau"] for one in chosen], (0, 0.5, 1))
print(f"τ kept, {len(chosen)} seeds of {'the ledger' if more else 'this page'}: {low:g} to {high:g}, median {middle:g}.")
nothing = {"against": "", "difference": "", "the data say": ""}
rows = [{"way": tuned.label, "cost": float(tuned.runs), **nothing}]
compared = [(halving, tuned), (random, tuned), (random, halving), *((way, random) for way in shorter), (shorter[-1], shorter[-2])]
if at_20 := tuple(one for one in tuned.records if one["asked"]["tau"] == 20):
    compared.insert(1, (halving, Procedure("τ = 20", "KD fixed tau", at_20)))
for one, other in compared:
    cost = np.mean(epochs_paid) / last if one is halving else one.flops() / random.flops()
    said = verdict(one, other)
    told = {"against": other.label, "difference": said["difference"].split(" points")[0]}
    rows.append({"way": one.label, "cost": cost, **told, "the data say": said["the data say"]})
for row in rows:
    row["cost"] = f"{row['cost']:.3g} ×"
table(rows, f"Test accuracy, differences in points, 95 % interval over {len(tuned.seeds)} seeds; cost: counted FLOPs, one run with random τ = 1; half: of the epochs")

# %% [markdown]
# Runs of the ledger were trained at different times, some by other code; the scatter that this brings is in the intervals.
# A row that says *not decided* recommends nothing, in either direction, and a cheap row whose verdict is neither *equivalent* nor *better* is no saving yet.
# One cycle at the full length saves nothing by itself; the last row compares runs of half the length with and without the cycle, and so shows its own effect.
# The comparisons are not adjusted for being several, and the number of seeds was planned for others (see [chapter 4](04_stochastic_temperature.ipynb)).
#
# ## 6. The bill of the paper's experiment
#
# Now the size of the paper's code, CIFAR-100 with all its epochs and a grid of its temperatures.
# Its price on *this* device, with the threads of section 1, follows from the parts of the step: some are paid by each student, some once for all.
# On a CPU the profile `quick` uses one thread; with all cores the hours, and with them the modelled energy, would be fewer.
# Nothing in this table was run to the end; it is a price list. (Section 9 has whole runs, on a GPU.)

# %% tags=["hide-input"]
peaks = {name: profiling.matmul_peak(name, device, size=2048 if device == "cpu" else None) for name in set(bits.values())}
images_shown = paper["epochs"] * -(-photos // batch) * batch
macs_of = {"student": 3 * macs["mobilenetv2"], "teacher": macs["resnet18"]}  # forward and backward; forward
views, teacher = seconds["this book"][["augmentation", "teacher"]]
own = whole["this book"] - views - teacher
halved = points * np.mean(epochs_paid) / (last * len(scale.taus))  # runs
bills = {  # seconds a batch, how many students, how many teachers, kind of step
    "grid, plain step": (points * whole["plain"], points, points, "plain"),
    "grid, this book's step": (points * whole["this book"], points, points, "this book"),
    "grid, answers on disk": (points * (own + views) + teacher, points, 1, "this book"),
    "grid, side by side": (points * own + views + teacher, points, 1, "this book"),
    "halving, this book's step": (halved * whole["this book"], halved, halved, "this book"),
    "one τ, random or fixed, plain step": (whole["plain"], 1, 1, "plain"),
    "one τ, this book's step": (whole["this book"], 1, 1, "this book"),
    "no teacher, this book's step": (whole["this book"] - teacher, 1, 0, "this book"),
}
rows, first = [], bills["grid, plain step"][0]
for label, (taken, *networks, kind) in bills.items():
    hours = taken * images_shown / batch / 3600
    flops = {who: compute.flops(count * macs_of[who]) * images_shown for who, count in zip(bits, networks, strict=True)}
    limit = sum(flops[who] / peaks[bits[who]] for who in bits) / 3600
    energy = "not seen" if watts[kind] is None else f"{watts[kind] * hours / 1000:.1f}"
    rows.append({"": label, "EFLOPs": f"{sum(flops.values()) / 1e18:.3g}", "hours": f"{hours:,.1f}", "at the limit": f"{limit:,.1f}", "kWh": energy, "of the first row": f"{taken / first:.3f}"})
print(*(f"{who} in {name}, at the limit {peaks[name] / 1e12:.2g} TFLOPs per second" for who, name in bits.items()), f"CPU threads: {torch.get_num_threads()}; energy: {how['plain']}", sep="\n")
table(rows, f"ResNet-18 to MobileNetV2 at the paper's size, {points} temperatures; reading the answers from disk is left out (section 7 times it)")

# %% [markdown]
# Three savings are in these rows: not searching (the method), sharing what is the same (the grid), and a faster step (the engine).
# Students side by side are counted one after the other; what the queues of a GPU gain besides is in section 8.
# The three do not multiply: who does not search has no grid to share, and a faster teacher leaves less to share, so sharing saves less time than FLOPs.
# A fixed $\tau$ costs what a random one does, and learning without a teacher costs least: whether paying more is worth it is a question of accuracy, and the earlier chapters answer it.
# *At the limit* is what the device would need if it did nothing but multiply matrices, in the precisions of this book's step: the gap between *hours* and *at the limit* is what a better engine could still save.
#
# ## 7. What the benchmarks recorded
#
# A page that is executed once, on a machine that others use too, is no benchmark.
# `make bench` times every rung in turn with the plain step, several times, and adds its rows to `book/ledger/bench.jsonl`.
# Each *rung* adds one saving to the rung before it; *the product* is the whole training loop of this book.
# Ratios are those of one machine, the one that ran most of their kind, with the most threads that it used (but for the table of all sessions); *load* is how many programs wanted to run at once.
#
# ### The step
#
# What each saving leaves of the answer stands beside it, with the tests that show it:

# %% tags=["hide-input"]
bench = ledger.benchmarks()
layers = {1: "this book's", 2: "PyTorch's"}  # of the plain step, by its version
STUDENTS = {"mobilenetv2": "MobileNetV2", "shufflenetv2": "ShuffleNetV2"}
proofs = {  # of each benchmark by the end of its name: what is left of the answer, and which tests show it
    "batched augmentation": ("the same moves, interpolated, not the nearest pixel", "test_augmentation"),
    "crop, flip, rotation": ("the same moves, interpolated, not the nearest pixel", "test_augmentation"),
    "teacher folded, no graph": ("same logits, up to rounding", "test_engine"),
    "student channels-last": ("same update, up to rounding", "test_profiling"),
    "in low precision": ("rounded more coarsely: see Fewer bits", "test_engine"),
    "teacher in int8": ("rounded more coarsely: see Fewer bits", "test_answering"),
    "fused optimiser": ("same update, up to rounding", "test_profiling"),
    "the product": ("the loop that trains every run", "test_profiling"),
    "compiled": ("an update of nearly the same direction", "bench/bench_step"),
    "together": ("same students, on a CPU to the last digit", "test_together"),
    "answers on disk": ("same students, on a CPU to the last digit", "test_experiments"),
}


def kept(name):
    """What a saving leaves of the answer, linked to the tests that show it."""
    at = f"{repository}/blob/main/tests/"
    return "".join(f'<a href="{at}{file}.py">{said}</a>' for end, (said, file) in proofs.items() if name.endswith(end))


bench["kept"] = bench.name.map(kept)


# %% tags=["hide-input"]
def span(values, form=".2f"):
    """The smallest and the largest of some values."""
    low, high = (f"{value:{form}}" for value in (min(values), max(values)))
    return low if low == high else f"{low} to {high}"


def measured(groups, timed="cpu"):
    """The rows of some groups of benchmarks on a device, of the machine that ran most of them."""
    rows = ledger.main_machine(bench[bench.group.isin(groups.split("|")) & (bench.device == timed)])
    return rows[rows.threads == rows.groupby("group").threads.transform("max")] if len(rows) else rows


def made(rows):
    """On which machine, how often, under what load and when some rows were recorded."""
    return f"Recorded on {'; '.join(rows.machine.unique())}; n = {span(rows.n, '.0f')}; load {span(rows.load, '.1f')}; {span(rows.date.str[:10], 's')}"


def recorded(rows, head="", source=None, **columns):
    """These columns of some rows as a table, without those that nothing fills, or a sentence where there are no rows."""
    if rows.empty:
        return Markdown("*Not measured yet.*")
    shown = rows.reindex(columns=list(columns)).rename(columns=columns).dropna(axis="columns", how="all")
    return shown.style.hide(axis="index").format(precision=2, na_rep="").set_caption(head + made(rows if source is None else source))


def rungs(timed="cpu", *more):
    """Every rung a row: how many times as fast as the plain step, and the images it takes a second, for each student."""
    steps, found = measured("step", timed), {}
    for row in steps[steps.name.str.contains(": ")].to_dict("records"):
        student, rung = row["name"].split(": ", 1)
        first = "" if pd.isna(row.get("first_seconds")) else f"; first step {row['first_seconds']:.0f} s"
        said = f"{row['ratio']:.2f} × ({row['images_per_second']:,.0f}/s{first})"
        bits = None if pd.isna(row.get("teacher")) else row["teacher"].split(",")[0]
        found.setdefault(rung, {"step": rung}).update({STUDENTS[student]: said, "teacher in": bits, "the answer": row["kept"]})
    columns = {name: name for name in ("step", *STUDENTS.values(), *more)}
    whose = " and ".join(sorted({layers[version] for version in steps.reindex(columns=["reference"]).reference.fillna(1)}))
    return recorded(pd.DataFrame(found.values()), f"Times the plain step of {whose} layers (images a second). ", steps, **columns)


rungs("cpu", "teacher in", "the answer")

# %% [markdown]
# On a processor without sixteen bits *low precision* is a teacher in eight; the student keeps thirty-two there, and its rung shows no more than this book's layers.
# *Compiled* is the product with `--set compiled=true`, which is paid in its first step; a teacher in eight bits is not compiled.
# Plain step and rung were timed in turn, under the same load, so the ratio says more than the seconds.
# Every rung was raced against the plain step, not against the rung before it, so small differences between rungs are load.
# A ratio still moves, from one day to the next and within an hour: a machine is shared with neighbours, and what they do cannot be seen here.
# A single large one is therefore no promise; this is what the product reached in all sessions:

# %% tags=["hide-input"]
every = ledger.benchmarks(newest=False)
products = every[(every.group == "step") & every.name.str.endswith("the product")]
products = products.assign(layers=products.get("reference", pd.Series(1.0, products.index)).fillna(1).map(layers))
products = products.assign(machine=products.machine.str.split(", ").str[0], teacher=products.reindex(columns=["teacher"]).fillna("as the student"))
rows = []
for (machine, whose, bits), found in products.groupby(["machine", "layers", "teacher"], sort=False):
    ratios = found.groupby(found.name.str.split(":").str[0]).ratio
    reached = {STUDENTS[student]: span(one) for student, one in ratios}
    bits = bits.split(",")[0]
    rows.append({"machine": machine.replace("(R)", ""), "plain layers": whose, "teacher in": bits, "sessions": ratios.size().max(), **reached})
table(rows, "The product, times the plain step: smallest and largest ratio of a session") if rows else Markdown("")

# %% [markdown]
# Ratios to a plain step of this book's layers and to one of PyTorch's do not compare.
# A good part of a CPU's gain is its arithmetic of fewer bits: a machine without sixteen (*AVX2* names its instructions; older rows do not record them) gained less until its teacher answered in eight, and a GPU gains by other means (section 8).
# The plain step here also makes its views image by image, as torchvision's classes do, which the breakdown of section 1 leaves out.
#
# ### Around the step
#
# The views, an evaluation and a checkpoint; students in one pass against passes of one; and a teacher whose answers are all on disk against one that is asked.
# The views are compared in processor seconds, the rest in wall time; a number below 1 is slower, as for the checkpoint, which is also made safe against a kill.
# Below, the peak memory of a process that distils, PyTorch included, and the limit of the device:

# %% tags=["hide-input"]
display(recorded(measured("pipeline|evaluation|checkpoint|sweep"), group="what", name="of", n="n", ratio="times as fast", machine="machine", kept="the answer"))
passes = measured("sweep")
passes = passes[passes.name.str.endswith(" together")].dropna(subset=passes.columns.intersection(["flop_ratio"]))
display(Markdown("; ".join(f"{row['name']} take {1 / row.ratio:.2f} of the time of separate passes, with {1 / row.flop_ratio:.2f} of their FLOPs" for _, row in passes.iterrows()) + "." if len(passes) else ""))
memory = bench[(bench.group == "memory") & (bench.device == "cpu")]
recorded(pd.concat([measured("peak"), memory]), group="what", name="of", n="n", note="measured", machine="machine")

# %% [markdown]
# In sixteen bits the students compute some maps a second time, when a gradient needs them, instead of keeping them.
# In float32 that takes time, so there it is left to you: *given back* is the same training with `STKD_SMALL_MEMORY=1` in its environment, where on Linux what was freed goes back at once, too.
# (The other float32 rows of the machine with sixteen bits are older, and still computed maps twice.)
# A teacher in eight bits takes memory for the packages that prepare it; with `STKD_SMALL_MEMORY=1`, or `--set teacher_precision=float32`, it does without.
#
# ### Fewer bits
#
# Sixteen bits instead of thirty-two, and a teacher that answers in eight: the same training in both, validation accuracy paired by seed.
# The book's CIFAR experiments ask for sixteen where the device has them; on a processor without, the student keeps thirty-two, and a teacher like ResNet-18 answers in eight.
# The digits ask for thirty-two for both.
# Where no row says *equivalent*, that default still has to earn its place; `--set precision=float32` goes back.
# Digits cannot speak for CIFAR-100: as long as no row names it, here or in section 8, its fewer bits are a choice and no finding.
# (A CPU cannot tell: the little that it learns of CIFAR-100 in hours would pass any margin.)
# The 160 seeds of the student that was distilled in sixteen bits were planned by the spread of forty others; the forty of the networks without a teacher (*base*) include ten that were looked at first.
#
# The seeds for the teacher in eight were fixed beforehand; as many as the row says share one pass, with its batches and views, and one teacher is behind all, so the interval leaves out variation between teachers.
# On runs as short as the digits', preparing it takes longer than its answers save; the longer the run, the less that weighs.

# %% tags=["hide-input"]
compared = bench[(bench.group == "precision") & (bench.device == "cpu")]
recorded(compared, name="experiment", n="seeds", note="finding", machine="machine")

# %% [markdown]
# ### How a step grows
#
# How does the time of a step grow with the size of the task? On logarithmic axes the slope is the exponent.
# Measured with a MobileNetV2 of half width and its teacher: one student, batch 64, 10 classes, 32 pixels, of which one is varied; for several students it is the time of their common pass.

# %% tags=["hide-input"] mystnb={"image": {"alt": "Four small panels on logarithmic axes: seconds of a step over batch size, number of classes, students in a pass and image side, each with its slope."}, "figure": {"caption": "Seconds of a step over what grows, medians; the exponent of the fitted power law above each panel.", "name": "figure-growth"}}
growth = ledger.main_machine(bench[(bench.group == "growth") & (bench.device == "cpu")])
growth = growth[growth.threads == growth.threads.min()] if len(growth) else growth
growth = growth.drop_duplicates("name", keep="last")
_, axes = plt.subplots(1, max(1, len(growth)), figsize=(plots.COLUMN, 2.6), sharey=True, squeeze=False)
for ax, (_, row) in zip(axes.flat, growth.iterrows(), strict=not growth.empty):
    ax.plot(row.x, row.seconds, "o-", color="#0A4BCB")
    ax.set(xscale="log", yscale="log", xlabel=row["name"].split()[0])
    ends = [row.x[0], row.x[-1]]
    ax.set_xticks(ends, ends)
    ax.minorticks_off()
    ax.set_title(f"{row.slope:.2f}")
axes[0, 0].yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
axes[0, 0].yaxis.set_major_formatter("{x:g}")
_ = axes[0, 0].set_ylabel("Seconds of a step")
if len(growth):
    answers = span(growth.reindex(columns=["teacher"]).fillna("as the student").teacher.str.split(",").str[0], "s")
    where = textwrap.fill(f"{made(growth)}; teacher in {answers}.", 56)
    _ = axes[0, 0].figure.supxlabel(where, fontsize="x-small")

# %% [markdown]
# An exponent of 1 is a cost in proportion, 0 one that is not seen; the side of an image would have 2 if nothing but its pixels counted.
#
# ## 8. On a GPU
#
# With small networks a GPU waits for Python, which starts every kernel (one small program on the GPU) of a step, one after the other.
# There the kernels of a step are recorded once, as a CUDA graph, and from then on started at one stroke: those that make the views, those of the teacher, those of the student from its answer to its update.
# Losses that learn something beside the student (a learnt τ, CRD, DML) are started kernel by kernel.
# Students that share a pass have a queue each, which the GPU may serve at the same time.
# The kernels are those that Python would start.
# Only one kind is missing: biases just before a batch normalisation are skipped, because it subtracts them with the mean.
# Such a bias stays as it was: its gradient would be zero, and weight decay does not reach it.
#
# The first table has the rungs of section 7, started one by one, and the product with its graph.
# In the second, *together* is nineteen students in one pass against nineteen passes, *as one network* eight stacked students against eight in queues:

# %% tags=["hide-input"]
bench["ms"] = 1000 * bench.get("median_seconds", np.nan)
bench["day"] = bench.get("date", pd.Series(dtype=str)).str[:10]
display(rungs("cuda"))
recorded(measured("sweep|evaluation|peak", "cuda"), group="what", name="of", n="n", ms="ms", ratio="times as fast", note="note")

# %% tags=["hide-input"]
on_gpu = ledger.main_machine(bench[(bench.group == "step") & (bench.device == "cuda")]).set_index("name")
names = "mobilenetv2: batched augmentation", "mobilenetv2: + fused optimiser", "mobilenetv2: the product", "time in kernels"
if set(names) <= set(on_gpu.index):
    batched, started, product, watched = (on_gpu.loc[name] for name in names)
    said = (
        f"A step of the product took {product.ms:.1f} ms, **{product.ratio:.1f} times as fast as the plain loop**{' of PyTorch’s layers' if product.get('reference') == 2 else ', which had this book’s layers'}; the last rung, where Python starts every kernel, was {started.ratio:.1f} times as fast"
        f"{'' if started.day == product.day else ', on another day'}. "
        f"Kernels ran for {watched.share:.0%} of the time, by a profiler. "
    )
    beside = on_gpu[on_gpu.index.str.endswith("against two workers")]
    said += "The plain loop makes its views before each step; "
    if len(beside):
        ratios = "; ".join(f"{name.split(':')[0]} {row.ratio:.1f} times as fast" for name, row in beside.iterrows())
        said += f"against one whose views are made meanwhile by two workers, the product was, for {ratios}."
    else:
        said += f"against one whose views are made meanwhile by workers the product was not timed yet, and its gain can be expected to be smaller: with views made on the GPU the plain step took {batched.ms:.1f} ms."
    judged = bench[(bench.group == "evaluation") & (bench.device == "cuda") & (bench.ratio < 1)]
    for row in judged.itertuples():
        said += f" An evaluation is not recorded as a graph, and one batch took {1 / row.ratio:.1f} times as long as in the plain loop."
    stacked = bench[(bench.device == "cuda") & bench.name.str.endswith("as one network")]
    if len(stacked):
        took = "; ".join(f"{row['name']}, {1 / row.ratio:.2g} times as long" for _, row in stacked.iterrows())
        said += f" Students can also be stacked into one network by PyTorch's vmap, without cuDNN's batch normalisation, which vmap does not know. The product has queues: against the same students in queues that took, for {took}."
else:
    said = "*Not measured on a GPU yet.*"
display(Markdown(said + "\n\nSixteen bits on a GPU; an experiment that ends in *base* learns without a teacher, and what has no row was not compared. All seeds of an experiment share batches and views, so the intervals leave out what another order would change:"))
recorded(measured("precision", "cuda"), name="experiment", n="seeds", note="finding")

# %% [markdown]
# ## 9. CIFAR-100 beside the paper
#
# The paper prints an energy for its runs; a GPU reads it from its own counter.
# `make ledger-gpu` trains the paper's protocol there, in the order of worth, as far as the given minutes go, and adds a row for every finished run.
# The rows so far; a run with settings of its own names them:

# %% tags=["hide-input"]
printed = ledger.paper_table("cifar100").set_index(["loss", "method"])
rows = [
    {"run": f"paper, {'random' if method == 'ours' else method} τ", "epochs": "", "n": "", "test, %": f"{100 * row.accuracy:.2f}", "kWh": f"{row.energy_kwh:g}", "per 100": "", "by counter": ""}
    for (loss, method), row in printed.iterrows() if loss == "HKD"
]
records = [r for r in ledger.load()[0] if r["asked"]["dataset"] == "cifar100" and r["hardware"]["device"] == "cuda" and not r["asked"]["stop_after"]]
NAMES = {"resnet18-base": "ResNet-18, teacher", "mobilenetv2-base": "no teacher", "resnet18-mobilenetv2-kd": "τ =", "resnet18-mobilenetv2-stochastic": "random τ"}
groups = {}
for record in sorted(records, key=lambda record: record["finished"]):
    asked, usual = record["asked"], experiments.resolve(record["experiment"], record["profile"])
    changed = "".join(f", {key}={value}" for key, value in sorted(differing(record, usual).items()))
    kind = record["experiment"], asked.get("tau"), asked["epochs"], changed, record["hardware"]["gpu"]
    groups.setdefault(kind, {})[record["seed"]] = record  # of equal ones the latest
gpus = sorted({gpu for *_, gpu in groups})
for (experiment, tau, epochs, changed, gpu), runs in sorted(groups.items(), key=str):
    energy = Procedure(experiment, "no KD", tuple(runs.values())).price()["kwh"]
    row = {
        "run": NAMES.get(short := experiment.removeprefix("cifar100/"), short) + (f" {tau}" if tau else "") + changed + (f", {gpu}" if len(gpus) > 1 else ""),
        "epochs": epochs,
        "n": len(runs),
        "test, %": stats.interval([record["result"]["last"]["test_accuracy"] for record in runs.values()]).percent(2).split(" %")[0],
        "kWh": "not seen", "per 100": "", "by counter": "",
    }
    if energy is not None:
        counted = np.mean([record["cost"]["train"]["components"]["gpu"]["kwh"] for record in runs.values()])
        row |= {"kWh": f"{energy:.3g}", "per 100": f"{100 * energy / epochs:.2g}", "by counter": f"{counted / energy:.0%}"}
    rows.append(row)
precisions = " and ".join(sorted({record["hardware"].get("precision", "float32") for record in records}))
table(rows, f"CIFAR-100: the paper's procedures, this book's single runs ({', '.join([*gpus, precisions]) if gpus else 'none'})")

# %% [markdown]
# Students of one pass divide its energy by their counted FLOPs; what each would take alone was not measured.
# Runs with a `data_seed` share batches and views over all seeds, so their intervals leave out what another order would have changed; the others share them within a seed.
# All seeds of a length ask for one teacher, the one of that length in the table, so the intervals leave out variation between teachers.
# Accuracies are those of the last epoch, after training with a tenth of the images kept for validation; the paper's are probably those of the best epoch on its test images, as its code does.
# *Per 100* is the energy of 100 epochs by proportion, not a measurement; *by counter* is the share of the kWh that the GPU's counter reported, and the rest is modelled for the processor.

# %% tags=["hide-input"]
hkd = printed.loc["HKD", "ours"].energy_kwh
taken = [r for (name, _, epochs, changed, _), runs in groups.items() for r in runs.values() if name.endswith("-mobilenetv2-stochastic") and epochs == paper["epochs"] and not changed]
taken = [r for r in taken if r["cost"]["train"]["components"]["gpu"]["kwh"] is not None]
shared = sum(r.get("shared") is not None for r in taken)
taken = [r["cost"]["train"]["energy_kwh"] for r in taken]
once = "*No run of the paper's 100 epochs with random τ is in the ledger yet.*"
if taken:
    once = (
        f"The paper's {paper['epochs']} epochs with random τ{', as part of a pass of several students,' if shared == len(taken) else ''} took **{np.mean(taken):.3g} kWh** (n = {len(taken)}{f', {shared} of them in a pass of several' if 0 < shared < len(taken) else ''}), the teacher's own training not counted; the {hkd:g} kWh that the paper prints are {hkd / np.mean(taken):.0f} times as much. "
        "Device and engine are others here, and so, probably, is what was counted (carbontracker adds a data centre's overhead of its own), and nothing tells which of them saved what."
    )
display(Markdown(once))
kd = "cifar100/resnet18-mobilenetv2-kd"
others = {"no teacher": ("cifar100/mobilenetv2-base", None), "τ = 4": (kd, 4), "τ = 20": (kd, 20)}
rows = []
for (experiment, _, *rest), runs in groups.items():
    for label, key in others.items() if experiment.endswith("resnet18-mobilenetv2-stochastic") else ():
        rivals = groups.get((*key, *rest), {})
        if common := sorted(runs.keys() & rivals.keys()):
            random, other = (Procedure(label, "stochastic tau", tuple(way[seed] for seed in common)) for way in (runs, rivals))
            rows.append({"epochs": rest[0], **verdict(random, other)})
table(rows, "Random τ against the others, test accuracy of the last epoch, paired by seed") if rows else Markdown("*No two ways have a seed in common yet.*")

# %% [markdown]
# With two seeds the interval is wide by arithmetic, and with one there is none: such rows say what was seen, and decide nothing.

# %% [markdown]
# ## What we learned
#
# * The temperature lives in the loss, which is next to free; the teacher and the student's way there and back are what a step is made of.
# * On a CPU, sharing the teacher's answers leaves every number as it was, and saves more computation (section 3) than time (section 7).
# * Fewer bits change numbers, and need seeds and an interval.
# * Method, grid and engine save different things, and overlap: who claims a saving should say which one it is.
# * Less work is a saving where its verdict is *equivalent* or *better*; the table of section 5 has one for each way.
#
# ## What would change our mind
#
# * Against sixteen bits: an experiment whose accuracy falls by more than the margin.
# * In favour of a grid: a device on which nineteen students side by side take hardly longer than one.
#
# ## Exercises
#
# **1.** A student half as large, with the same teacher: what part of separate runs does the whole grid then cost side by side?
# Cost: none.

# %% tags=["hide-cell"]
half = macs["mobilenetv2"] / 2
print(f"{relative_cost(half, macs['resnet18'], points):.3f} of separate runs")

# %% [markdown]
# **2.** How many epochs must a run have before keeping the answers for flips alone saves nine of ten of the teacher's answers?
# Cost: none.

# %% tags=["hide-cell"]
flips = data.Augmentation(0, True, 0.0)
print(next(n for n in range(1, 200) if stored.estimate(photos, 100, flips, n).saved >= 0.9), "epochs")

# %% [markdown]
# ## Next
#
# [How this book was made](../book/made.md) says what executing these pages took; the [ledger](../book/ledger.md) has every run.
#
# ## References
#
# * K. Rafat et al. (2023), *Mitigating carbon footprint for knowledge distillation based deep learning model compression*, [doi:10.1371/journal.pone.0285668](https://doi.org/10.1371/journal.pone.0285668)
# * K. Jamieson, A. Talwalkar (2016), *Non-stochastic best arm identification and hyperparameter optimization*, [doi:10.48550/arXiv.1502.07943](https://doi.org/10.48550/arXiv.1502.07943)
# * L. N. Smith, N. Topin (2017), *Super-convergence: very fast training of neural networks using large learning rates*, [doi:10.48550/arXiv.1708.07120](https://doi.org/10.48550/arXiv.1708.07120)
#
# ## Receipt
#
# What executing this notebook took, training included where a run was not there yet.

# %%
meter.stop("notebook")
title = f"Receipt of 09 The frugal engine, profile {profile}"
receipt = carbon.receipt(meter.cost("notebook"), title=title)
receipt.save(experiments.runs_folder() / "receipts" / "09_frugal_engine.json")
receipt
