# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # The footprint after training
#
# A network is trained once and asked a million times: what an answer costs on this device, what a student and whole numbers of eight bits save, and after how many answers a training has been paid back.
#
# [Open in Colab](https://colab.research.google.com/github/stkd-book/stkd-book/blob/main/notebooks/08_inference_footprint.ipynb) · [Download](https://github.com/stkd-book/stkd-book/raw/main/notebooks/08_inference_footprint.ipynb) · [Report a problem](https://github.com/stkd-book/stkd-book/issues)

# %% [markdown]
# **You will be able to**
#
# 1. time a network so that the number means something;
# 2. turn that time into joules and grams for an image, and say how they are known;
# 3. show that a converted network still is the same network;
# 4. quantise a network to 8 bits after training, and report what that does without fooling yourself;
# 5. tell after how many answers a student has paid back its training.
#
# **You need**
#
# | Concept | | Where |
# | --- | --- | --- |
# | MACs, energy, measured and modelled | necessary | [The carbon problem](01_carbon_problem.ipynb) |
# | Teacher, student, the three networks | necessary | [Teacher training](02_teacher_training.ipynb) |
# | A grid of temperatures, and one run in its place | helpful | [Stochastic temperature](04_stochastic_temperature.ipynb) |

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
import io

import matplotlib.pyplot as plt
import numpy as np
import torch
from IPython.display import Markdown

from stkd_utils import carbon, compute, data, engine, experiments, inference, ledger, models, plots, quantise, stats
from stkd_utils.procedures import MARGIN, Procedure, made_on
from stkd_utils.profiling import Step, breakdown
from stkd_utils.tables import table
from stkd_utils.training import default_device, evaluate

scale = experiments.profile(profile)
plots.use_style()
meter = carbon.Meter(intensity=intensity)
meter.start("notebook")
device = default_device()
machine = "GPU" if device == "cuda" else "CPU"
torch.set_num_threads(scale.threads or torch.get_num_threads())
ledger.price_tag("08_inference_footprint", profile)

# %% tags=["hide-input"]
caution = " **A smoke run claims nothing but that it runs: ignore its numbers.**" if profile == "smoke" else ""
Markdown(f"Profile **{profile}**, data set **{scale.dataset}**, device **{machine}**, CPU threads: **{torch.get_num_threads()}**.{caution}")

# %% [markdown]
# ## 1. How long does an answer take?
#
# The networks are those of the earlier chapters, so nothing is trained here if those were executed before; opened alone, this page trains them first.
# The teacher, MobileNetV2 alone and with a random temperature, and ShuffleNetV2 alone:

# %% tags=["hide-output"]
options = {"seeds": scale.seeds, "profile": profile}
start = f"{scale.dataset}/"
teacher_run = experiments.run(f"{start}resnet18-base", seed=0, profile=profile)
stochastic_runs = experiments.sweep(f"{start}resnet18-mobilenetv2-stochastic", **options)
alone_runs = experiments.sweep(f"{start}mobilenetv2-base", **options)
shuffle_runs = experiments.sweep(f"{start}shufflenetv2-base", **options)

# %% [markdown]
# How a student was trained decides how *often* it is right; how *long* it takes is decided by its shape alone.
# So one run of each network is enough for the clock, and for the paper's own size (colour images of 32 × 32 pixels, 100 classes) even untrained weights will do.
#
# Three habits make a time worth printing.
# The first passes are thrown away, because they fetch memory and choose routines.
# The networks take turns, one pass each, round after round, so that a busy neighbour slows all of them.
# And a median comes with its quartiles, because times have a long tail to one side only.
#
# The size of the batch is part of the question.
# One image at a time is what an application on a phone asks for; a whole batch is what an evaluation does.
# All networks answer in their ready form: batch normalisation folded, channels stored last ([chapter 9](09_frugal_engine.ipynb) shows what that is worth).

# %%
KEYS = {"resnet18": "ResNet-18", "mobilenetv2": "MobileNetV2", "shufflenetv2": "ShuffleNetV2"}
firsts = (teacher_run, stochastic_runs[0], shuffle_runs[0])
trained = {key: run.model(device=device) for key, run in zip(KEYS, firsts, strict=True)}
asked = teacher_run.record["asked"]
limits = {key: asked[key] for key in ("val_fraction", "train_limit", "val_limit", "test_limit")}
dataset = data.load(scale.dataset, device="cpu", **limits)
own_size = dataset.train.images.shape[1:]
zoo = {scale.dataset: (trained, own_size)}
FULL = "paper's size"
zoo[FULL] = ({key: models.build(key, 100, seed=0) for key in KEYS}, (3, 32, 32))

# %% [markdown]
# Two scales, three networks, two sizes of batch: twelve times, taken in turn.

# %%
many = 16 if profile == "smoke" else 128
rounds = 3 if profile in ("smoke", "quick") else 9
draw = torch.Generator().manual_seed(0)
times, macs, ready = {}, {}, {}
for size, (networks, shape) in zoo.items():
    ready[size] = {key: engine.frozen(network, "float32", device) for key, network in networks.items()}
    macs[size] = {key: compute.count(network, shape).macs for key, network in networks.items()}
    for batch in (1, many):
        images = torch.randn(batch, *shape, generator=draw).to(device)
        costly = size == FULL and batch > 1
        effort = {"rounds": rounds, "warmup": 1} if costly else {"rounds": 15, "warmup": 3}
        times[size, batch] = inference.timings(ready[size], images, **effort)

# %% [markdown]
# The table has milliseconds for one image, and beside them how many times as fast each network is as its teacher.
# The last column is what counting alone would have promised; the figure has the quartiles.

# %% tags=["hide-input"]
rows = []
for size in zoo:
    for key, label in KEYS.items():
        row = {"size": size, "network": label, "MMACs": f"{macs[size][key] / 1e6:.3g}"}
        for batch in (1, many):
            timing, slow = times[size, batch][key], times[size, batch]["resnet18"]
            row[f"ms, batch {batch}"] = f"{1000 * timing.per_image:.3g}"
            row[f"faster, batch {batch}"] = f"{slow.median / timing.median:.2f} ×"
        row["fewer MACs"] = f"{macs[size]['resnet18'] / macs[size][key]:.1f} ×"
        rows.append(row)
table(rows, f"Time for one image on this {machine}: median of 15 rounds ({rounds} for large images in batches)")

# %% tags=["hide-input"] mystnb={"image": {"alt": "Milliseconds for one image over its millions of MACs, both axes logarithmic, one line for each combination of image size and batch, each beside a thin line of proportionality."}, "figure": {"caption": "Time for one image over its computation: medians, bars from quartile to quartile. Thin lines: where the students would be if time were in proportion to MACs.", "name": "figure-time-macs"}}
_, ax = plt.subplots(figsize=(plots.COLUMN, 4.2))
markers = dict(zip(KEYS, "so^", strict=True))
for size, colour in zip(zoo, ("#12855A", "#0A4BCB"), strict=True):
    for batch, dash in ((1, "--"), (many, "-")):
        x = np.array([macs[size][key] / 1e6 for key in KEYS])
        found = [times[size, batch][key] for key in KEYS]
        y = np.array([1000 * one.per_image for one in found])
        ends = np.array([one.quartiles for one in found]).T * 1000 / batch
        ax.plot(x, y, dash, color=colour, linewidth=1.4, label=f"{size}, batch {batch}")
        ax.plot(x, y[0] * x / x[0], color=colour, linewidth=0.5)
        ax.vlines(x, *ends, color=colour)
        for marker, across, up in zip(markers.values(), x, y, strict=True):
            ax.plot(across, up, marker, color=colour, markeredgecolor="white")
for key, marker in markers.items():
    ax.plot([], [], marker, color="#555555", label=KEYS[key])
ax.set(xscale="log", yscale="log", xlabel="Computation of one image (million MACs)", ylabel="Time of one image (ms)")
_ = ax.figure.legend(*ax.get_legend_handles_labels(), ncols=2, loc="outside lower center", frameon=False)

# %% tags=["hide-input"]
promised = macs[FULL]["resnet18"] / macs[FULL]["mobilenetv2"]
kept = {batch: times[FULL, batch]["resnet18"].median / times[FULL, batch]["mobilenetv2"].median for batch in (1, many)}
Markdown(
    f"At the paper's size MobileNetV2 has {promised:.1f} times fewer MACs than the teacher, "
    f"and is {kept[many]:.1f} times as fast in batches of {many}, {kept[1]:.1f} times with one image at a time."
)

# %% [markdown]
# Time falls less than the MACs do, and on images as small as the digits it need not fall at all: a small network of many layers can be the slower one.
# A depthwise convolution multiplies little for each number that it fetches, so it waits for memory; many small layers each pay for being started.
# With tiny images, one at a time, starting the layers takes most of the time.
# Whoever reports FLOPs has reported a promise; the clock says what the device keeps of it.
#
# ## 2. Joules, grams, and the paper's bars
#
# Energy is metered over whole passes; where nothing is measured it is modelled as a power times seconds, and then it is seconds in other units. But it is metered over the few passes of its last column, and apart from the medians above: compare the networks by those.
# Here are the networks at the paper's size, in batches, scaled to the 10,000 images of CIFAR-100's test set:

# %%
grid = carbon.find_intensity(intensity)
images = torch.randn(many, 3, 32, 32, generator=draw).to(device)
spent, rows = {}, []
for key, network in ready[FULL].items():  # warm from the section before
    spent[key] = inference.energy(network, images, meter, seconds=0.5, warmup=0, name=f"answers of {key}")
for key, one in spent.items():
    wh = None if one.joules is None else one.joules * 10_000 / 3600
    row = {"network": KEYS[key], "s": f"{10_000 * times[FULL, many][key].per_image:.3g}"}
    row["Wh"] = "not seen" if wh is None else f"{wh:.3g}"
    row[f"g CO₂e at {grid.g_per_kwh:g} g/kWh"] = "not seen" if wh is None else f"{wh / 1000 * grid.g_per_kwh:.3g}"
    rows.append({**row, "energy is": one.how, "images metered": one.images})
table(rows, f"10,000 answers on this {machine}, batches of {many}")

# %% [markdown]
# The paper shows two such bars for each network in its Figure 1, b (time) and c (emissions).
# The teacher's are printed in the caption; the others are measured here in the picture's pixels, good to about 0.03 s and 0.001 g.
# Its intensity can be guessed: [chapter 1](01_carbon_problem.ipynb) found the numbers of Table 4 to be those of the European average of 2017.
# With that guess, grams and seconds together give a power, which is a check that needs no access to the machine:

# %% tags=["hide-input"]
bars = ledger.paper(None)
bars = bars[bars.metric.isin(["inference_seconds", "inference_co2e_g"])]
bars = bars.assign(network=bars.student.where(bars.student != "", bars.teacher), value=bars.value.astype(float))
bars = bars.pivot(index=["network", "method"], columns="metric", values="value").loc[["ResNet18", "MobileNetV2", "ShuffleNetV2"]]
assumed = carbon.INTENSITIES["eu-2017"].g_per_kwh
most = bars.loc["ResNet18"].iloc[0]
ours = {key.replace("-", ""): key_ for key_, key in KEYS.items()}
rows = []
for (network, method), bar in bars.iterrows():
    here = times[FULL, many]
    faster = here["resnet18"].median / here[ours[network]].median
    watts = bar.inference_co2e_g / assumed * 3.6e6 / bar.inference_seconds
    row = {"network": network, "method": method, "s": f"{bar.inference_seconds:.2f}", "g": f"{bar.inference_co2e_g:.3f}"}
    row |= {"faster": f"{most.inference_seconds / bar.inference_seconds:.2f} ×", "faster here": f"{faster:.2f} ×"}
    rows.append({**row, "W implied": f"{watts:.0f}"})
table(rows, f"Paper, Figure 1 b and c (device not stated there), beside the ratios of this {machine}")

# %% [markdown]
# Such watts are plausible for a graphics card and the overhead of a data centre; seconds here and there are not to be compared, only ratios are.
# Neither method nor temperature shows in the bars, nor should it: *tuned* and *ours* of one student are the same network, so their differences say how far such a bar can be trusted.
#
# ## 3. Is it still the same network?
#
# Before a network is used it is converted: folded, exported to a file, rounded to fewer bits.
# A conversion that changes answers is a bug or a decision, and only looking tells which.
# Two numbers are asked for: the largest difference of a logit, and the share of images with the same answer.
# The images are those of the validation split, because decisions may follow.

# %%
student = stochastic_runs[0].model(device="cpu")
shown = data.normalise(dataset.val.images, dataset.mean, dataset.std)
file = io.BytesIO()
any_batch = ({0: torch.export.Dim.DYNAMIC},)
torch.export.save(torch.export.export(student, (shown[:2],), dynamic_shapes=any_batch), file)
file.seek(0)
forms = {"folded": engine.frozen(student, "float32", "cpu")}
forms["exported, read from its file"] = torch.export.load(file).module()
forms["16 bits (bfloat16)"] = engine.frozen(student, "bfloat16", "cpu")
rows = []
for label, form in forms.items():
    found = inference.agreement(student, form, shown)
    row = {"form": label, "largest difference": f"{found.largest:.1g}", "same answer": f"{found.equal:.2%}"}
    rows.append({**row, "images": found.images})
spread = inference.logits(student, shown).std()
table(rows, f"The student against its converted forms; its logits have a standard deviation of {spread:.3g}")

# %% [markdown]
# Folding and exporting change the last digits of 32-bit numbers and nothing else: that is what *the same network* means for a computer.
# Sixteen bits change more, and whether an answer turns is a matter of luck and of how near two classes are.
# For eight bits the question becomes serious.
#
# ## 4. Eight bits
#
# *Quantisation* keeps a real number $r$ as a whole number $q$ of eight bits, with a scale $s$ and a zero point $z$:
#
# $$q = \mathrm{round}(r / s) + z, \qquad r \approx s\,(q - z) .$$
#
# A convolution then multiplies whole numbers, and its scales are multiplied once at the end.
# Weights are there to be looked at, so each output channel has its own scale.
# The ranges of activations must be learned: *calibration* shows the network some images and watches.
# They are training images, for a range that was fitted to test images is knowledge about them.
# This is *static quantisation after training*; nothing is trained again.
#
# PyTorch's present home for it is [torchao](https://docs.pytorch.org/ao/stable/index.html): export, observe, convert.
# (The older `torch.ao.quantization` is deprecated.)
# One rule is stated before looking: eight bits are *accepted* if the mean validation accuracy falls by less than one point.
# The test split is read once, after that.

# %%
if quantise.missing():
    reason, whole = quantise.missing(), []
else:
    reason, batches = None, quantise.calibration(dataset, images=256)
    whole = [quantise.static(run.model(), batches) for run in stochastic_runs]
rows, levels = [], []
for run, int8 in zip(stochastic_runs, whole, strict=bool(whole)):
    plain = run.model()
    before, after = (evaluate(form, dataset.val, dataset)["accuracy"] for form in (plain, int8))
    same = inference.agreement(plain, int8, shown)
    levels.append((before, after))
    smaller = inference.size(int8).file_bytes / inference.size(plain).file_bytes
    row = {"seed": run.record["seed"], "32 bits, %": f"{100 * before:.1f}", "8 bits, %": f"{100 * after:.1f}"}
    rows.append({**row, "same answer": f"{same.equal:.1%}", "file": f"{smaller:.3f} ×"})
caption = f"Validation, {len(dataset.val)} images, student with a random temperature"
table(rows, caption) if rows else Markdown(f"*{reason}* The rest of this section is left out here.")

# %% tags=["hide-input"]
if whole:
    plain_val, int8_val = np.transpose(levels)
    lost = stats.interval(plain_val - int8_val)
    test = stats.equivalence(int8_val, plain_val, MARGIN)
    shown_by_seeds = f"the p of equivalence (chapter 4) is {test.p:.2g}" if lost.sd > 0 else "seeds without spread show nothing"
    before = [run.record["result"]["chosen"]["test_accuracy"] for run in stochastic_runs]
    after = [evaluate(int8, dataset.test, dataset)["accuracy"] for int8 in whole]
    told = (
        f"On validation eight bits lose {lost.points(2)}: **{'accepted' if lost.mean < MARGIN else 'not accepted'}** by the rule; "
        f"as evidence, {shown_by_seeds}. "
        f"The test split, read once ({len(dataset.test)} images): {stats.interval(before).percent()} with 32 bits, "
        f"{stats.interval(after).percent()} with 8; the difference, 8 bits minus 32 and paired by seed, is "
        f"{stats.paired(after, before).points(2)}. Activations have {whole[0].bits} bits here."
    )
Markdown(told + caution) if whole else None

# %% [markdown]
# The file is not four times smaller: scales and sums stay in 32 bits, and a file has its own overhead, which weighs on a small network.
#
# ### The bit that a processor takes back
#
# Why would activations have seven bits?
# Processors without *VNNI*, an instruction made for this, multiply pairs of bytes and add each two products in sixteen bits.
# What does not fit is cut off silently.
# The worst case can be computed by hand:

# %%
for bits in (8, 7):
    activation, weight = 2**bits - 1, 127
    pair = 2 * activation * weight
    told = "fits" if pair < 2**15 else "is cut off"
    print(f"{bits} bits: 2 × {activation} × {weight} = {pair}; sixteen bits hold {2**15 - 1}: {told}")
print(f"this processor cuts off: {quantise.saturates()}")

# %% [markdown]
# So the book gives a bit away wherever the processor might cut off.
# It is the kind of error that no accuracy on another machine can show.
#
# ### Is it faster?
#
# Eight bits exist in two forms.
# The *reference* form computes in 32 bits what eight would give: it serves to measure accuracy, and is slower than what it came from.
# The *compiled* form really multiplies bytes, and needs a C++ compiler and an x86 processor.
# (PyTorch's own kernels for bytes, put together without a compiler, are a third way for networks whose maps can stay in eight bits throughout: not this one, but ResNet-18, whose answers [chapter 9](09_frugal_engine.ipynb) takes from them.)
# Here is MobileNetV2 at the paper's size, on the CPU; its ranges come from random images, which is enough for a clock.

# %%
forms, spoken, part = {}, reason, min(many, 32)
if whole:
    small = {"width": 0.25, "depth": 0.25} if profile == "smoke" else {}
    plain = models.build("mobilenetv2", 100, seed=0, **small).eval()
    images = torch.randn(part, 3, 32, 32, generator=draw)
    forms = {"32 bits, as trained": plain, "32 bits, folded": engine.frozen(plain, "float32", "cpu")}
    forms["8 bits, reference"] = quantise.static(plain, [images])
    try:
        forms["8 bits, compiled"] = quantise.lowered(forms["8 bits, reference"], images)
    except quantise.QuantiseError as error:
        spoken = str(error)
    clock = inference.timings(forms, images, rounds=rounds, warmup=1)
Markdown(f"*{spoken}*") if spoken else None

# %% tags=["hide-input"]
rows = []
for label, form in forms.items():
    timing, alike = clock[label], inference.agreement(plain, form, images, part)
    low, high = (1000 * seconds / part for seconds in timing.quartiles)
    row = {"form": label, "ms per image": f"{1000 * timing.per_image:.3g} ({low:.3g} to {high:.3g})"}
    row["times as fast"] = f"{clock['32 bits, folded'].median / timing.median:.2f}"
    kept_on_disk = inference.size(form).file_bytes / 1e6 if isinstance(form, torch.nn.Module) else None
    row["file, MB"] = "as above" if kept_on_disk is None else f"{kept_on_disk:.2f}"
    rows.append({**row, "largest difference": f"{alike.largest:.1g}"})
caption = f"MobileNetV2 at the paper's size, CPU, batches of {part}; the folded form is 1 time as fast"
table(rows, caption) if rows else None

# %% [markdown]
# A smaller file comes for free; speed comes, for this network, only with a program for this very processor, and compiling it takes longer than a good many answers.
# Reference arithmetic that is timed by mistake would say that eight bits are slow, and that is a common mistake.
# There is a worse one: a compiled network that meets a batch of another shape is compiled anew, in silence, and may then compute in 32 bits; this book's raises an error.
# Compiled and reference form are equally far from the 32 bits: if they were not, the processor would have cut something off.
#
# ## 5. After how many answers has the student paid?
#
# Whoever has a teacher can simply use it.
# A student costs its training first, and saves with every answer after that.
# With the cost $E$ of its training, and $e_t$ and $e_s$ for an answer of teacher and student, the two have cost the same after
#
# $$N = \frac{E}{e_t - e_s}$$
#
# answers.
# It is as uncertain as the small difference below the line: where the interval of $e_t - e_s$ over the rounds of section 1 holds zero, nothing is decided.
# If all three are modelled as a power times seconds on one machine, the power cancels, so here the clock is enough: seconds go in, and *modelled* watts do no harm.
#
# For the data of this page, training times are those recorded in the runs.
# Then the paper's protocol on this device: nothing is trained, but one step of distillation is timed (as in [chapter 9](09_frugal_engine.ipynb)), and multiplied by images and epochs.
# A student without a teacher takes the same step without the teacher's part.
# Step and answers are timed minutes apart, so on a busy machine their ratio moves: read the order of magnitude.

# %%
part, points = min(many, 32), len(scale.taus)
step = Step(batch=part, device=device)
parts = breakdown(step, rounds=1 if profile == "smoke" else 2).set_index("part")
paper = experiments.resolve("cifar100/resnet18-mobilenetv2-stochastic", "paper")
views = round((1 - paper["val_fraction"]) * 50_000) * paper["epochs"]  # CIFAR-100 has 50,000 images for training
a_view = parts.attrs["whole"] / part
grid_points = len(experiments.profile("paper").taus)
full = {"no KD": views * a_view * (1 - parts.share["teacher"]), "stochastic τ": views * a_view}
full["tuned τ"] = grid_points * full["stochastic τ"]
answer = {size: [times[size, many][key] for key in ("resnet18", "mobilenetv2")] for size in zoo}

# %% [markdown]
# Two more ways to the same number come from elsewhere.
# *Counted*: a distillation step takes $3s + t$ MACs an image, so $N$ would be $(3s + t) / (t - s)$ times the views of images in training, whatever the machine.
# *Printed*: the paper's Table 4 for the training and its Figure 1c for 10,000 answers, both in grams.

# %%
rows = []


def paid_back(where, way, costs, saving, views, note):
    """A row: after how many answers ``costs``, one a seed, have come back; ``views`` of images were trained."""
    n, each = ("never" if saving.high < 0 else "not decided"), ""
    if not saving.low <= 0:
        found = stats.interval([inference.break_even(cost, saving.mean, 0) / 1e6 for cost in costs])
        n = f"{found.mean:.3g}" + f" ({max(0, found.low):.3g} to {found.high:.3g})" * (found.n > 1)
        each = f"{1e6 * found.mean / views:.3g}"
    rows.append({"where": where, "way": way, "million answers": n, "for each view": each, "from": note})


saving = {size: inference.saved(*pair) for size, pair in answer.items()}
few = len(dataset.train) * asked["epochs"]
for way, runs in (("no KD", alone_runs), ("stochastic τ", stochastic_runs)):
    seconds = [run.record["cost"]["train"]["seconds"] for run in runs]
    paid_back(f"{scale.dataset}, this {machine}", way, seconds, saving[scale.dataset], few, f"clock, n = {len(runs)}")
for way, seconds in full.items():
    paid_back(f"paper's size, this {machine}", way, [seconds], saving[FULL], views, f"clock, {saving[FULL].n} rounds")
s, t = macs[FULL]["mobilenetv2"], macs[FULL]["resnet18"]
counted = views * (3 * s + t)
paid_back("paper's size, any device", "stochastic τ", [counted], stats.interval([t - s]), views, "counted MACs")

# %% tags=["hide-input"]
printed = ledger.paper_table("CIFAR-100").query("loss == 'HKD'").set_index("method").co2e_g
of_teacher = bars.loc["ResNet18"].inference_co2e_g.iloc[0] / 10_000
of_student = {way: bars.loc[("MobileNetV2", way)].inference_co2e_g / 10_000 for way in ("ours", "tuned")}
labels = {"ours": "stochastic τ", "tuned": "tuned τ"}
reading = 0.001 / 10_000  # how well a bar can be measured in the picture
for way, label in labels.items():
    saved = of_teacher - of_student[way]
    n, late, early = (inference.break_even(printed[way], saved + error, 0) for error in (0, -reading, reading))
    told = {"million answers": f"{n / 1e6:.3g} ({early / 1e6:.3g} to {late / 1e6:.3g})"}
    told["for each view"] = f"{n / (50_000 * paper['epochs']):.3g}"  # the authors' code trains on all images
    rows.append({"where": "paper, CIFAR-100", "way": label, **told, "from": "printed grams"})
print(f"Digits trained on {made_on([Procedure('', 'no KD', tuple(run.record for run in stochastic_runs))])}")
ranges = "Ranges: 95 % over training seeds, without the scatter of the clock; for the paper what ± 0.001 g in its figure leaves open"
table(rows, f"MobileNetV2 in place of ResNet-18, batches of {many}: when its training is paid back. {ranges}")

# %% tags=["hide-input"]
small = 1e6 * saving[scale.dataset].mean, 1e6 * saving[scale.dataset].half_width
millions = [full["stochastic τ"] / saving[FULL].mean / 1e6]
millions.append(inference.break_even(printed["ours"], of_teacher, of_student["ours"]) / 1e6)
told = (
    f"With {scale.dataset}, teacher minus student is {small[0]:.1f} ± {small[1]:.1f} µs an answer (n = {saving[scale.dataset].n} rounds). "
    f"At the paper's size one distillation is paid back after {millions[0]:.1f} million answers here, "
    f"and after {millions[1]:.1f} million by the paper's printed numbers, on another device and by another accounting."
)
Markdown(told.replace("-", "−") + caution)

# %% mystnb={"image": {"alt": "Two panels over the number of answers, logarithmic axes: the teacher's total cost is a rising straight line; each student's is flat at its training cost, then rises below the teacher's. A dot marks where each student's line crosses the teacher's, later for the tuned student."}, "figure": {"caption": "Cost of training and of answers together. Left: the paper's protocol, priced on this device. Right: the paper's printed numbers. At a dot the training has been paid back.", "name": "figure-break-even"}}
roles = {"no KD": "no KD", "stochastic τ": "stochastic tau", "tuned τ": "KD tuned tau"}
figure, axes = plt.subplots(1, 2, figsize=(plots.FULL, 3.4))
dear, cheap = (timing.per_image / 3600 for timing in answer[FULL])
panels = [(axes[0], dear, {way: (cost / 3600, cheap) for way, cost in full.items()}, f"Time of this {machine} (h)")]
panels.append((axes[1], of_teacher, {labels[way]: (printed[way], of_student[way]) for way in labels}, "Emissions as printed (g CO₂e)"))
number = np.geomspace(1e6, 1e10, 200)
for ax, one_t, ways, name in panels:
    look = plots.ROLES["teacher"]
    ax.plot(number, number * one_t, color=look.colour, dashes=look.dash, label="teacher, already there")
    for way, (cost, one_s) in ways.items():
        look = plots.ROLES[roles[way]]
        ax.plot(number, cost + number * one_s, color=look.colour, dashes=look.dash, label=way)
        crossing = inference.break_even(cost, one_t, one_s)
        ax.plot(crossing, crossing * one_t, "o", color=look.colour, markeredgecolor="white")
    ax.set(xscale="log", yscale="log", xlabel="Answers", ylabel=name)
_ = figure.legend(*axes[0].get_legend_handles_labels(), ncols=2, loc="outside lower center", frameon=False)

# %% [markdown]
# Left of a dot the teacher is the cheaper choice, right of it the student.
# A grid moves the dot to the right by the number of its points, and that is all that it changes here.
# Far to the right the training no longer shows: there only the height of the lines counts, which is the student's shape, and its eight bits.
#
# Three things must be said with such a number.
# It treats the teacher as already there: whoever trains one only to teach pays for that too, and adds it to $E$.
# It holds for full batches on one device: with single images, or on 8 × 8 digits, the saving is another one, or none.
# And it is a statement about the student's *shape*: a student that learned alone pays back earlier still, because it cost less.
# What distillation buys is not cheaper answers but better ones at that price, and [the first page](../book/intro.md) has the accuracies with and without it.
#
# ## What we learned
#
# * A count of MACs is a promise. How much of it is kept depends on batch, layers and device, so a time names all of them.
# * A conversion is accepted by a rule stated before; that it does no harm is shown by more: logits equal to the last digits, or accuracies equivalent over seeds.
# * Eight bits make the file smaller anywhere, and MobileNetV2's answers faster only when they are compiled for the processor.
# * A training is paid back after a number of answers, in which modelled watts cancel. A grid multiplies that number by its points; a student that is not faster never gets there.
#
# ## What would change our mind
#
# * For time: a device on which the student keeps what its MACs promise.
# * For eight bits: a network and data where the accepted loss on validation is exceeded on test by more than its interval.
# * For paying back: measured energies in which answers and training do not share one power.
#
# ## Exercises
#
# **1.** The teacher is trained only to teach, for as many views as the student. After how many answers have both trainings been paid back, counted in MACs?
# Cost: none.

# %% tags=["hide-cell"]
n = inference.break_even(views * (3 * s + t + 3 * t), t, s)
print(f"{n / 1e6:.1f} million answers, {n / views:.2f} for each view in place of {(3 * s + t) / (t - s):.2f}")

# %% [markdown]
# **2.** The students of a grid can share the teacher's passes ([chapter 9](09_frugal_engine.ipynb)). After how many answers is a grid paid back then?
# Cost: none.

# %% tags=["hide-cell"]
shared = inference.break_even(views * (3 * grid_points * s + t), t, s)
apart = inference.break_even(views * grid_points * (3 * s + t), t, s)
print(f"{shared / 1e6:.1f} million answers, {shared / apart:.0%} of those for separate runs")

# %% [markdown]
# **3.** On a processor that cuts off, compile the student with `quantise.static(model, batches, bits=8)` and `quantise.lowered`, and ask `inference.agreement` how far it is from its reference form.
# Cost: one compilation, less than a minute.
#
# ## Next
#
# [The frugal engine](09_frugal_engine.ipynb) asks the same of training: where the joules of a step go, and which can be saved without changing the answer.
#
# ## References
#
# * B. Jacob et al. (2018), *Quantization and training of neural networks for efficient integer-arithmetic-only inference*, [doi:10.48550/arXiv.1712.05877](https://doi.org/10.48550/arXiv.1712.05877)
# * N. Ma, X. Zhang, H.-T. Zheng, J. Sun (2018), *ShuffleNet V2: practical guidelines for efficient CNN architecture design*, [doi:10.48550/arXiv.1807.11164](https://doi.org/10.48550/arXiv.1807.11164)
# * K. Rafat et al. (2023), *Mitigating carbon footprint for knowledge distillation based deep learning model compression*, [doi:10.1371/journal.pone.0285668](https://doi.org/10.1371/journal.pone.0285668)
#
# ## Receipt
#
# What executing this notebook took, training included where a run was not there yet.

# %%
meter.stop("notebook")
title = f"Receipt of 08 The footprint after training, profile {profile}"
receipt = carbon.receipt(meter.cost("notebook"), title=title)
receipt.save(experiments.runs_folder() / "receipts" / "08_inference_footprint.json")
receipt
