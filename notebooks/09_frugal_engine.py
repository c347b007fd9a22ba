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
# 2. tell savings that leave every digit as it was from savings that need a proof of equivalence,
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
import tempfile

import matplotlib.pyplot as plt
import numpy as np
import torch
from IPython.display import Markdown

from stkd_utils import carbon, compute, data, engine, experiments, ledger, models, plots, profiling, stored
from stkd_utils.procedures import Procedure, verdict
from stkd_utils.tables import FLOPS, column, table
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
# Engineering saves on top of that, and it is the same for every method on these pages, so no comparison profits from it.
#
# One step of distillation has six parts: make new views of the images, ask the teacher, let the student answer, compare, send the gradient back, update.
# Here is that step at the paper's size, colour images of 32 × 32 pixels and 100 classes, as most tutorials write it, and as this book takes it.
# The pictures are random: speed does not depend on what they show.

# %%
batch = 16 if profile == "smoke" else 128
plainly = {"precision": None, "teacher_precision": None, "channels_last": False, "fused": False}
steps = {"plain": profiling.Step(batch=batch, device=device, **plainly)}
steps["this book"] = profiling.Step(batch=batch, device=device)
parts = {name: profiling.breakdown(step, rounds=3) for name, step in steps.items()}
whole = {name: found.attrs["whole"] for name, found in parts.items()}
print(*(f"{name}: {batch / seconds:.0f} images/s" for name, seconds in whole.items()), sep="\n")
print(f"{whole['plain'] / whole['this book']:.2f} times as fast, {torch.get_num_threads()} threads")

# %% mystnb={"image": {"alt": "Two stacked horizontal bars, the plain step above and this book's below, cut into the parts of a step: augmentation, teacher, student forward, loss, backward, optimiser. The lower bar is shorter."}, "figure": {"caption": "Time of one distillation step by its parts, median of three rounds on this machine.", "name": "figure-breakdown"}}
_, ax = plt.subplots(figsize=(plots.COLUMN, 2.8))
shades = plt.get_cmap("cividis")(np.linspace(0, 0.95, len(profiling.PARTS)))
for name, found in parts.items():
    left = 1000 * (found.seconds.cumsum() - found.seconds)
    ax.barh([name] * len(found), 1000 * found.seconds, left=left, color=shades, edgecolor="white")
ax.invert_yaxis()
ax.set(xlabel="Time of one step (ms)")
patches = [plt.Rectangle((0, 0), 1, 1, color=shade) for shade in shades]
_ = ax.legend(patches, profiling.PARTS, ncols=3, loc="upper center", bbox_to_anchor=(0.45, -0.3), frameon=False)

# %% [markdown]
# Two parts take nearly everything: the teacher, which learns nothing, and the student's way there and back.
# The loss and the update, where the *method* lives, are thin slices.
# That is why a random temperature costs no more than a fixed one, and why savings are looked for elsewhere.
#
# ## 2. Savings that change nothing, or next to nothing
#
# A frozen teacher can be prepared for answering: no graph, batch normalisation folded into the convolution before it, channels stored last, numbers of 16 bits.
# Folding is exact algebra; 16 bits are not.
# So the two are looked at apart, on the trained teacher of the earlier chapters.

# %%
asked = {"seed": experiments.load(f"{scale.dataset}/resnet18-mobilenetv2-kd")["teacher_seed"], "profile": profile}
trained = experiments.run(f"{scale.dataset}/resnet18-base", progress="none", **asked)
settings = trained.record["asked"]
keys = ("val_fraction", "train_limit", "val_limit", "test_limit")
dataset = data.load(scale.dataset, device=device, **{key: settings[key] for key in keys})
images = data.normalise(dataset.val.images, dataset.mean, dataset.std)
with torch.inference_mode():
    plain = trained.model(device=device)(images)
rows = []
for precision in ("float32", "bfloat16"):
    logits = engine.frozen(trained.model(device=device), precision, device)(images)
    same = (logits.argmax(1) == plain.argmax(1)).float().mean()
    gap = (logits - plain).abs().max() / plain.abs().max()
    rows.append({"folded, channels last": precision, "largest change": f"{gap:.1e}", "same answer": f"{100 * same:.1f} %"})
table(rows, "The prepared teacher against the plain one, validation images; changes relative to the largest logit")

# %% [markdown]
# Folding moves the last digits of a float32 number and no answer.
# Sixteen bits move more: eight significant bits, two to three decimal digits.
# Whether that matters is not a question of single answers but of what students learn from them, so it needs seeds and an interval, like any other claim.
#
# The benchmarks of section 7 have that comparison.
#
# ## 3. One teacher for a whole grid
#
# The nineteen students of a grid see the same images, in the same order, in the same views, when they share a seed.
# The teacher therefore says nineteen times the same thing.
# Trained side by side, in one pass, they need one set of views and one answer of the teacher for each batch.
# With $s$ MACs of a student, $t$ of its teacher, and a backward pass counted as two forward ones, a grid of $G$ then costs, relative to $G$ runs:
#
# $$\frac{3Gs + t}{G\,(3s + t)}$$
#
# First the proof that nothing else changes: a few temperatures of the grid, trained together in an empty folder, against the runs of [chapter 3](03_classic_kd.ipynb), which were trained one by one.

# %%
name, seed = f"{scale.dataset}/resnet18-mobilenetv2-kd", scale.seeds[0]
few = list(scale.taus[:: max(1, len(scale.taus) // 4)])
options = {"seeds": [seed], "profile": profile, "tau": few, "progress": "none"}
apart = experiments.sweep(name, **options)
with tempfile.TemporaryDirectory() as empty:
    side_by_side = experiments.sweep(name, runs=empty, together=True, **options)
    equal = [one.history.equals(other.history) for one, other in zip(apart, side_by_side, strict=True)]
    drawn = [one.taus.equals(other.taus) for one, other in zip(apart, side_by_side, strict=True)]
print(f"τ = {', '.join(map(str, few))}: histories equal to the last digit: {sum(equal)} of {len(few)}")

# %% [markdown]
# The record of a run that shared a pass carries its part of the bill, and says so: the parts of a pass sum to one pass.

# %%
bills = {"one by one": apart, "side by side": side_by_side}
rows = []
for label, found in bills.items():
    records = [run.record for run in found]
    shares = [record["shared"]["share"] for record in records if record["shared"]]
    flops = sum(record["compute"]["flops_forward_backward"] for record in records)
    seconds = sum(record["cost"]["train"]["seconds"] for record in records)
    rows.append([label, len(records), flops, seconds, f"{sum(shares):.3f}" if shares else "–"])
labels, counts, flops, seconds, sums = zip(*rows, strict=True)
unit, texts = column(flops, FLOPS)
bill = {"": labels, "students": counts, unit: texts, "s": [f"{value:.1f}" for value in seconds]}
table({**bill, "sum of shares": sums}, "What the same students cost, one by one and side by side")

# %% [markdown]
# On these small networks the teacher is a small part of the work, so little is saved.
# At the paper's size it is most of it:

# %%
macs = {key: compute.count(models.build(key, 100), (3, 32, 32)).macs for key in ("resnet18", "mobilenetv2", "shufflenetv2")}
rows = []
for student in ("mobilenetv2", "shufflenetv2"):
    s, t = macs[student], macs["resnet18"]
    for grid in (5, 19):
        rows.append({"student": student, "grid": grid, "of separate runs": f"{(3 * grid * s + t) / (grid * (3 * s + t)):.3f}"})
table(rows, "Computation of a grid that shares its teacher, relative to separate runs (32 × 32, 100 classes)")

# %% [markdown]
# ## 4. Answers kept on disk
#
# If a view comes again, the teacher's answer can be kept.
# How many views there are is decided by the augmentation: a flip has two, a crop with four pixels of padding has 81, a rotation has no end of them.
# What keeping would take and save can be said before anything is stored:

# %%
epochs, photos = (100, 45_000) if scale.dataset == "digits" else (settings["epochs"], len(dataset.train))
moves = {"flip": (0, True), "crop": (4, False), "crop and flip": (4, True)}
rows = []
for label, (padding, flip) in moves.items():
    plan = stored.estimate(photos, 100, data.Augmentation(padding, flip, 0.0), epochs)
    rows.append({"views": label, "number": plan.views, "GB on disk": f"{plan.bytes / 1e9:.3g}", "passes saved": f"{100 * plan.saved:.0f} %"})
table(rows, f"Keeping a teacher's answers: {photos:,} images, 100 classes, {epochs} epochs")

# %% [markdown]
# Flips alone make it cheap. With crops the table is large, and one run meets so many new views that little comes again.
# A second run with the same views would find them all, which is what a grid needs that is not trained side by side.
# An answer is believed only for the very pixels that it was given for: a table that confuses views would teach from another picture, and no error would tell.

# %% [markdown]
# ## 5. Less work for nearly the same answer
#
# The savings so far leave the method as it is.
# The next two change it, so none is on by default, and each needs the verdict of chapter 4.
#
# **Tuning cheaply.** *Successive halving* trains the whole grid a little, keeps the better half by validation, trains those on, and so forth.
# It is the fair rival of a random temperature: tuning, but for a fraction of the price.
# The grid of chapter 3 was trained to the end, so what halving would have kept stands in its histories, and looking it up costs nothing.
# (`experiments.halving` does the same without training the rest; its runs are equal to the last digit.)

# %%
grid = experiments.sweep(name, seeds=scale.seeds, profile=profile, tau=list(scale.taus), progress="none")
last = grid[0].record["result"]["last"]["epoch"]


def halve(runs, stops):
    """The run of one seed that halving keeps, and the epochs that were trained for it."""
    left, trained_to = list(runs), 0
    epochs = 0
    for stop in (*stops, last):
        epochs += len(left) * (stop - trained_to)
        trained_to = stop
        rows = {id(run): run.history.iloc[stop - 1] for run in left}
        left.sort(key=lambda run: (-rows[id(run)].val_accuracy, rows[id(run)].val_loss))
        left = left[: -(-len(left) // 2)] if stop < last else left[:1]
    return left[0].record, epochs


by_seed = [[run for run in grid if run.record["seed"] == seed] for seed in scale.seeds]
stops = sorted({max(1, last // 3), max(1, 2 * last // 3)} - {last})
kept, epochs_paid = zip(*(halve(runs, stops) for runs in by_seed), strict=True)
halving = Procedure("KD, τ by halving", "KD tuned tau", kept)
tuned = Procedure("KD, tuned τ", "KD tuned tau", tuple(run.record for run in grid))
print(f"Stops after epochs {stops} of {last}; {epochs_paid[0] / last:.1f} runs paid instead of {len(scale.taus)}.")
print("τ kept per seed:", *(f"{record['asked']['tau']:g}" for record in kept))

# %% [markdown]
# **A shorter schedule.** One cycle of the learning rate, up and down by a cosine, is known to reach a good place in fewer epochs.
# Here it is tried for the run with a random temperature, at the full length and at half of it:

# %%
rival = f"{scale.dataset}/resnet18-mobilenetv2-stochastic"
asked = {"seeds": scale.seeds, "profile": profile, "progress": "none"}
lengths = {"": {}, ", one cycle": {"schedule": "one-cycle"}}
lengths[", one cycle, half as long"] = {"schedule": "one-cycle", "epochs": max(1, last // 2)}
stochastic = {
    label: Procedure(
        f"KD, stochastic τ{label}", "stochastic tau",
        tuple(run.record for run in experiments.sweep(rival, **asked, **extra)),
    )
    for label, extra in lengths.items()
}  # fmt: skip

# %%
one = stochastic[""].flops()
rows = [{"way": tuned.label, "against": "", "difference": "", "the data say": "", "computation": tuned.flops() / one}]
ways = [halving, *stochastic.values()]
costs = [np.mean(epochs_paid) / last * one, *(way.flops() for way in stochastic.values())]
for way, cost in zip(ways, costs, strict=True):
    other = tuned if way is halving or way is stochastic[""] else stochastic[""]
    said = verdict(way, other, margin=0.01)
    rows.append({"way": way.label, "computation": cost / one, **{key: said[key] for key in ("against", "difference", "the data say")}})
for row in rows:
    row["computation"] = f"{row['computation']:.3g} ×"
table(rows, f"Test accuracy on {scale.dataset}, differences in points with 95 % interval over {len(scale.seeds)} seeds")

# %% [markdown]
# A row that says *not decided* recommends nothing, in either direction.
#
# ## 6. The bill of the paper's experiment
#
# Now the paper's own size: 50,000 colour images, 100 epochs, a grid of 19 temperatures.
# Its price on *this* device follows from the parts of the step in section 1: some are paid by each student, some once for all, some not at all.
# Nothing below was run to the end; it is a price list.

# %% tags=["hide-input"]
precision = engine.resolve("auto", device)
peak = profiling.matmul_peak(precision, device, size=2048 if device == "cpu" else None)
with meter.block("steps"):
    for _ in range(2):
        steps["this book"]()
    steps["this book"].wait()
spent = meter.cost("steps")
watts = None if spent.energy_kwh is None else 3.6e6 * spent.energy_kwh / spent.seconds
batches = 100 * -(-50_000 // batch)
s, t = macs["mobilenetv2"], macs["resnet18"]


def part(name, *parts_wanted):
    """Seconds per batch of some parts of a step."""
    return parts[name].set_index("part").seconds[list(parts_wanted)].sum()


shared_parts = ("augmentation", "teacher")
own_parts = tuple(set(profiling.PARTS) - set(shared_parts))
plain, fast = (part(key, *profiling.PARTS) for key in ("plain", "this book"))
own, common, views = (part("this book", *which) for which in (own_parts, shared_parts, ("augmentation",)))
bills = {
    "grid, plain step": (19 * plain, 19 * (3 * s + t)),
    "grid, this book's step": (19 * fast, 19 * (3 * s + t)),
    "grid, side by side": (19 * own + common, 19 * 3 * s + t),
    "grid, side by side, answers on disk": (19 * own + views, 19 * 3 * s),
    "random τ, plain step": (plain, 3 * s + t),
    "random τ, this book's step": (fast, 3 * s + t),
}
rows = []
for label, (seconds, per_image) in bills.items():
    hours, flops = seconds * batches / 3600, 2 * per_image * batches * batch
    rows.append({
        "": label, "EFLOPs": f"{flops / 1e18:.3g}", "hours": f"{hours:,.1f}", "hours at the limit": f"{flops / peak / 3600:,.1f}",
        "kWh": "not seen" if watts is None else f"{watts * hours / 1000:.2g}",
        "to the first": f"{seconds / bills['grid, plain step'][0]:.3f}",
    })  # fmt: skip
print(f"limit: {peak / 1e12:.2g} TFLOPs per second, matrix products in {precision}; energy: {spent.how}")
table(rows, "ResNet-18 to MobileNetV2 at the paper's size on this device, computed from the step times above")

# %% [markdown]
# Read it from below: the random temperature needs no engine to be cheap, and the engine makes everything cheaper by about the same factor.
# The gap between the two shrinks where a grid is trained side by side, because then the grid too pays its teacher once.
# *Hours at the limit* is what the device would need if it did nothing but multiply matrices: how far a step is from it is the room that is left.
#
# ## 7. What the benchmarks recorded
#
# A page that is executed once, on a machine that others use too, is no benchmark.
# `make bench` times every rung in turn with the plain step, several times, and adds its rows to `book/ledger/bench.jsonl`:

# %% tags=["hide-input"]
bench = ledger.benchmarks()


def recorded(groups, **columns):
    """The rows of one group of benchmarks as a table, or a sentence where none was recorded yet."""
    rows = bench[bench.group.isin(groups.split("|"))]
    if rows.empty:
        return Markdown(f"*Benchmarks of the group {groups}: not run yet.*")
    where = "; ".join(rows.machine.unique())
    rows = rows[list(columns)].rename(columns=columns)
    return rows.style.hide(axis="index").format(precision=2, na_rep="").set_caption(f"Recorded on {where}")


speed = {"images_per_second": "images/s", "ratio": "times the plain step"}
recorded("step", name="step", n="n", threads="threads", load="load", **speed)

# %% [markdown]
# The ratio is the one to trust: plain step and rung were timed in turn, under the same load.
# The plain step here also makes its views image by image, as torchvision's classes do, which the breakdown of section 1 leaves out.
# What surrounds the step, and a grid of four in one pass against four passes:

# %% tags=["hide-input"]
recorded("pipeline|evaluation|checkpoint|sweep", group="what", name="of", n="n", load="load", ratio="times as fast")

# %% [markdown]
# Sixteen bits instead of thirty-two: the same training in both, validation accuracy paired by seed.

# %% tags=["hide-input"]
recorded("precision", name="experiment", n="seeds", note="finding")

# %% [markdown]
# How the time of a step grows with the size of the task is a straight line on logarithmic axes; its slope is the exponent.

# %% tags=["hide-input"] mystnb={"image": {"alt": "Four small panels on logarithmic axes: seconds of a step over batch size, number of classes, students in a pass and image side, each with its slope."}, "figure": {"caption": "Seconds of a step over what grows, medians; the exponent of the fitted power law above each panel.", "name": "figure-growth"}}
growth = bench[bench.group == "growth"]
_, axes = plt.subplots(1, max(1, len(growth)), figsize=(plots.COLUMN, 2.6), sharey=True)
for ax, (_, row) in zip(np.atleast_1d(axes), growth.iterrows(), strict=not growth.empty):
    ax.plot(row.x, row.seconds, "o-", color="#0A4BCB")
    ax.set(xscale="log", yscale="log", xlabel=row["name"].split()[0])
    ax.set_xticks(row.x, row.x)
    ax.minorticks_off()
    ax.set_title(f"{row.slope:.2f}")
_ = np.atleast_1d(axes)[0].set_ylabel("Seconds of a step")

# %% [markdown]
# The number of classes costs nothing that can be seen; students and images cost what they are; the side of an image counts twice.
#
# ## 8. At the paper's scale
#
# The paper prints an energy for its runs; a GPU reads it from its own counter.
# `make ledger-gpu` trains the paper's protocol there, in the order of worth, as far as the given minutes go, and adds a row for every finished run.

# %% tags=["hide-input"]
printed = ledger.paper_table("cifar100").set_index(["loss", "method"])
rows = [
    {"run": f"paper, HKD, {method}", "kWh": f"{printed.energy_kwh['HKD', method]:g}", "device": "not stated", "energy": "as printed"}
    for method in ("tuned", "ours")
]
on_gpu = ledger.table()
on_gpu = on_gpu[(on_gpu.dataset == "cifar100") & (on_gpu.profile == "paper") & on_gpu.gpu.notna()]
rows += [
    {"run": f"this book, {row.experiment}", "kWh": f"{row.energy_kwh:.3g}", "device": row.gpu, "energy": row.energy_how}
    for row in on_gpu.itertuples()
]
if on_gpu.empty:
    rows.append({"run": "this book, GPU", "kWh": "not run yet", "device": "", "energy": ""})
table(rows, "CIFAR-100, ResNet-18 to MobileNetV2: energy of the whole procedure (paper) and of single runs (here)")

# %% [markdown]
# ## What we learned
#
# * A step of distillation is a teacher who learns nothing and a student who goes there and back; the loss is next to free.
# * Sharing the teacher's answers leaves every digit as it was. Sixteen bits do not, and need seeds and an interval.
# * Method and engine save apart from each other: who claims a saving should say which one it is.
#
# ## What would change our mind
#
# * For sixteen bits: an experiment whose accuracy falls by more than the margin.
# * For the grid: a device on which nineteen students side by side take hardly longer than one.
#
# ## Exercises
#
# **1.** A student half as large, with the same teacher: what part of separate runs does a grid of 19 then cost side by side?
# Cost: none.

# %% tags=["hide-cell"]
half = macs["mobilenetv2"] / 2
print(f"{(3 * 19 * half + macs['resnet18']) / (19 * (3 * half + macs['resnet18'])):.3f} of separate runs")

# %% [markdown]
# **2.** How many epochs must a run have before keeping the answers for flips alone saves nine of ten passes?
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
receipt = carbon.receipt(meter.cost("notebook"), title=f"Receipt of 09 The frugal engine, profile {profile}")
receipt.save(experiments.runs_folder() / "receipts" / "09_frugal_engine.json")
receipt
