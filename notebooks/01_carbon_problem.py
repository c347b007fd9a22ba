# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # The carbon problem
#
# A number like "1.2 kg of CO₂e" looks measured.
# This chapter takes one apart: what was metered, what was modelled, what nobody saw, and which grid it stands on.
#
# [Open in Colab](https://colab.research.google.com/github/stkd-book/stkd-book/blob/main/notebooks/01_carbon_problem.ipynb) · [Download](https://github.com/stkd-book/stkd-book/raw/main/notebooks/01_carbon_problem.ipynb) · [Report a problem](https://github.com/stkd-book/stkd-book/issues)

# %% [markdown]
# **You will be able to**
#
# 1. turn watts and hours into kilowatt-hours, and those into grams of CO₂e;
# 2. count the MACs and FLOPs of a network, and of a whole training;
# 3. read the receipt of a training: measured, modelled, not seen;
# 4. put a price in grams on the same energy on different grids;
# 5. check a published table of costs against itself.
#
# **You need**
#
# | Concept | | Where |
# | --- | --- | --- |
# | Python with tables (pandas) | helpful | [10 minutes to pandas](https://pandas.pydata.org/docs/user_guide/10min.html) |
# | What training a network means | necessary | [PyTorch, the basics](https://docs.pytorch.org/tutorials/beginner/basics/intro.html) |
# | Convolutions | helpful | [Dive into deep learning, chapter 7](https://d2l.ai/chapter_convolutional-neural-networks/index.html) |

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

# %% [markdown]
# What executing this page once has cost, as recorded in the ledger; the seconds hold starting Python and its imports, too, the energy begins with the meter:

# %%
from dataclasses import replace

import matplotlib.pyplot as plt
import pandas as pd
from IPython.display import Markdown
from torch import nn

from stkd_utils import carbon, compute, experiments, ledger, models, plots
from stkd_utils.procedures import made_on, recorded
from stkd_utils.receipt import ENERGY, MASS, duration, quantity

scale = experiments.profile(profile)
plots.use_style()
meter = carbon.Meter(intensity=intensity)
meter.start("notebook")
ledger.price_tag("01_carbon_problem", profile)

# %% [markdown]
# ## 1. Power, energy, carbon
#
# *Power* is how fast a machine draws energy, in watts.
# *Energy* is power times time; electricity is billed in kilowatt-hours, and 1 kWh is 1000 W for one hour, or 3.6 million joules:
#
# $$E = P\,t .$$
#
# *CO₂e*, the carbon dioxide equivalent, is the mass of CO₂ that would warm the climate as much, over 100 years, as all the gases that were emitted.
# A grid has a *carbon intensity* $I$, in grams of CO₂e for each kWh delivered.
# A data centre spends more than its computers draw, on cooling above all; the factor is its *power usage effectiveness*, PUE.
# Together:
#
# $$m = E \times \mathrm{PUE} \times I .$$
#
# A graphics card that draws 250 W for an afternoon of four hours, in a data centre with a PUE of 1.5:

# %%
watts, hours, pue = 250, 4, 1.5
energy_kwh = watts * hours / 1000
grid = carbon.find_intensity(intensity)
grams = energy_kwh * pue * grid.g_per_kwh
print(f"{energy_kwh:.2f} kWh × {pue} × {grid.g_per_kwh:g} g/kWh = {grams:,.0f} g CO₂e")
print(f"intensity: {grid.source}, {grid.date}")

# %% [markdown]
# Three numbers of different kinds went in.
# Energy is physics and can be measured.
# PUE belongs to a building.
# The intensity belongs to a place and a year.
# Whoever prints grams alone hides all three, so this book keeps them apart.
# The PUE of its own machines is not known and set to 1: in this factor its grams are a lower bound.
#
# What stays outside of all this book's numbers: making the hardware, keeping it idle, storing and moving data.
# They are real, and they are not known from inside a program.

# %% [markdown]
# ## 2. MACs and FLOPs
#
# Energy depends on the machine.
# The *computation* does not: it is a property of the network and its input, and can be counted without running anything.
# A *MAC* is one multiplication with one addition (multiply-accumulate).
# A *FLOP* is one floating-point operation, so a MAC is two FLOPs.
# (FLOPS, with a capital S, is a speed: FLOPs each second.)
#
# A linear layer from $n$ inputs to $m$ outputs takes $n\,m$ MACs.
# A convolution does that once for each pixel of its output, over a window of $k \times k$ pixels:
#
# $$\mathrm{MACs} = H'\,W'\;k^2\;C_\mathrm{in}\,C_\mathrm{out} .$$
#
# The counter of this book sends shapes through a network that holds no numbers, and adds up what each layer would have to multiply.
# By hand, and by that counter, for a convolution from 3 to 16 channels that keeps the size of a 32 × 32 image:

# %%
by_hand = 32 * 32 * 3**2 * 3 * 16
counted = compute.count(nn.Conv2d(3, 16, kernel_size=3, padding=1), (3, 32, 32))
print(f"by hand {by_hand:,} MACs, counted {counted.macs:,} MACs")
print(f"as FLOPs {compute.flops(counted.macs):,}")

# %% [markdown]
# The same counter, for the paper's three networks at the paper's image sizes.
# ResNet-18 is the teacher; the other two are its students.
# Convolutions and linear layers are counted; normalisation, activations and biases add a few per cent at most:

# %%
sizes = [("CIFAR-100", 100, 32), ("Tiny ImageNet", 200, 64)]
rows = []
for data_name, classes, side in sizes:
    for name in ("resnet18", "mobilenetv2", "shufflenetv2"):
        counts = compute.count(models.build(name, classes), (3, side, side))
        sums = (counts.parameters, counts.macs, compute.flops(counts.macs))
        rows.append((data_name, f"{side} × {side}", name, *sums))
what = ["parameters", "MACs", "FLOPs"]
networks = pd.DataFrame(rows, columns=["data", "image", "network", *what])
millions = dict.fromkeys(what, lambda value: f"{value / 1e6:,.2f}")
networks.style.format(millions).hide().set_caption("One image, forward pass, in millions.")

# %% [markdown]
# Parameters and MACs are different things: the first are what has to be stored, the second what has to be done for every image.
# An image twice as wide and high leaves the parameters of a convolution alone and multiplies its MACs by about four (less in MobileNetV2, whose first layer pads the image with a border that weighs more on a small one).
#
# Training asks for more than a forward pass.
# The backward pass computes a gradient for every weight and one for every activation, and each repeats the multiplications of the forward pass once.
# So a trained network costs three forward passes per image, and a frozen teacher, which only answers, one:
#
# $$\mathrm{FLOPs} = 2\,(3\,\mathrm{MACs}_\mathrm{student} + \mathrm{MACs}_\mathrm{teacher}) \times \mathrm{images} \times \mathrm{epochs} .$$
#
# The paper prints, for one distillation on Tiny ImageNet, a computation in "GFLOPs (M)", millions of GFLOPs.
# Its code gives 100 epochs, and the data set has 100,000 training images.
# Whether the printed number counts backward passes can be settled by counting both ways:

# %%
macs = networks[networks.data == "Tiny ImageNet"].set_index("network").MACs
one_run = {"student_macs": macs.mobilenetv2, "teacher_macs": macs.resnet18}
one_run |= {"images": 100_000, "epochs": 100}
row = ledger.paper_table("Tiny ImageNet").query("loss == 'HKD' and method == 'ours'")
printed = row.gflops_millions.item()
forward = compute.paper_gflops_millions(**one_run)
both = compute.run_flops(**one_run, backward=True) / compute.PAPER_UNIT
print(f"printed in the paper       {printed:6.2f} million GFLOPs")
print(f"forward passes only        {forward:6.2f} million GFLOPs")
print(f"forward and backward       {both:6.2f} million GFLOPs, {both / forward:.2f} times")

# %% tags=["hide-input"]
agrees = f"{forward:.2f}" == f"{printed:.2f}"
Markdown(
    f"Forward passes alone {'give the printed number to its last digit' if agrees else 'do not give the printed number'}. "
    f"What was computed during training is larger by a factor of {both / forward:.2f}, because the student also learns. "
    "For a ratio of two distillations of the same pair the factor cancels; for comparing a distillation with a training "
    "without a teacher it does not. This book states both."
)

# %% [markdown]
# ## 3. A real training, metered
#
# Counting is exact and blind: it knows nothing of memory, waiting, or the machine.
# So this section trains for real, with a meter around the loop.
# The network is the ResNet-18 that teaches in the later chapters on classification, the data are those of the profile.

# %% tags=["hide-output"]
run = experiments.run(f"{scale.dataset}/resnet18-base", seed=0, profile=profile)

# %% [markdown]
# A run that was finished before is not repeated: asking again returns its record, with the cost as it was metered then.
# That makes the book cheap to read twice, and it means that a table shows what a training cost on the day it ran, not what looking it up costs now.
# Evaluation on other images is metered apart from training.
# Its receipt, priced at this page's carbon intensity:

# %%
cost = replace(carbon.Cost.from_dict(run.record["cost"]["train"]), intensity=grid)
epochs = run.record["asked"]["epochs"]
carbon.receipt(cost, title=f"Training {run.record['experiment']}, {epochs} epochs")

# %% [markdown]
# Read the last column first.
# A number without it is a rumour.
#
# * **Measured**: a counter in the hardware was read before and after; RAPL, which Intel and AMD build into processors, or NVML, NVIDIA's library for its cards.
# * **Modelled**: nobody looked at the power. A power was assumed, and multiplied by the seconds; it is half of the thermal design power (the heat that a cooler must carry away) of the first processor in carbontracker's table whose name fits, or of the table's mean. That may be another model, so these watts are a guess.
# * **Mixed**: a sum of measured and modelled parts.
# * **Not seen**: there is no counter and no model. It is not zero; it is absent from the sum, and the sum says so.
#
# Virtual machines and notebooks in the cloud seldom show counters, so modelled energy is the rule there.
# What this machine's numbers are made of, component by component:

# %%
rows = []
for component, reading in cost.components.items():
    watts = by_hand = "–"
    if reading.watts is not None:
        watts = f"{reading.watts:.1f} W"
        by_hand = quantity(reading.watts * cost.seconds / 3.6e6, ENERGY)
    printed_kwh = "–" if reading.kwh is None else quantity(reading.kwh, ENERGY)
    rows.append((component, reading.how, watts, by_hand, printed_kwh))
columns = ["component", "how", "power assumed", "power × time", "on the receipt"]
pd.DataFrame(rows, columns=columns).style.hide().set_caption("How each energy came about.")

# %% tags=["hide-input"]
flops = run.record["compute"]["flops_forward_backward"]
text = {
    "measured": "Here all of the energy that was seen was **measured**.",
    "modelled": "Here the energy is **modelled**: it is time in another unit. Two trainings on this machine differ in "
    "modelled energy exactly as they differ in seconds, and a change of power, by a busy neighbour or by a cooler "
    "program, stays invisible.",
    "mixed": "Here some components were measured and some modelled, so the sum is a **mixture**.",
    "not seen": "Here **no** energy was seen: this machine shows no counter, and its processor is not known.",
}[cost.how]
speed = f"{quantity(flops, [(1e15, 'PFLOPs'), (1e12, 'TFLOPs'), (1e9, 'GFLOPs')])} forward and backward"
Markdown(
    f"{text} The loop took {duration(cost.seconds)} for {speed}: {flops / cost.seconds / 1e9:.3g} GFLOPs a second."
)

# %% [markdown]
# ## 4. The same kWh on different grids
#
# The electricity of Norway comes from water, that of South Africa largely from coal.
# One kilowatt-hour is the same everywhere; its grams are not.
# So the same training, on the same machine, at the same price of electricity, may be clean or dirty.
#
# Two of the rows matter for the paper: Bangladesh, where its authors work, and the European average of 2017.
#
# The next cell looks nine grids up in `carbon.INTENSITIES` and draws them from the cleanest to the dirtiest:

# %% mystnb={"image": {"alt": "Horizontal bars, one for each grid, sorted from low to high: grams of CO2e for one kilowatt-hour. Bangladesh and the European Union of 2017 are drawn in a second colour."}, "figure": {"caption": "Carbon intensity of nine grids, with the year for which it stands. Highlighted: where the paper's authors work, and the value that their numbers imply (section 5).", "name": "fig-grids"}}
chosen = ["norway", "france", "eu-2017", "germany", "united states", "world", "china"]
chosen += ["bangladesh", "south africa"]
known = {name: carbon.INTENSITIES[name] for name in chosen if name in carbon.INTENSITIES}
found = [(name, one.g_per_kwh, one.date) for name, one in known.items()]
grids = pd.DataFrame(found, columns=["grid", "g_per_kwh", "year"]).sort_values("g_per_kwh")
marked = grids.grid.isin(["eu-2017", "bangladesh"])
names = grids.grid.str.title().str.replace("Eu-2017", "EU-28") + ", " + grids.year
figure, ax = plt.subplots(figsize=(plots.COLUMN, 3.4))
colours = marked.map({True: "#0A4BCB", False: "#9AA3AD"})
bars = ax.barh(names, grids.g_per_kwh, height=0.65, color=colours)
ax.bar_label(bars, fmt="{:.0f}", padding=3)
ax.set(xlabel="g CO₂e per kWh", xlim=(0, 1.12 * grids.g_per_kwh.max()))
ax.grid(False)
ax.tick_params(axis="y", length=0)
ax.invert_yaxis()

# %% tags=["hide-input"]
low, high = grids.iloc[0], grids.iloc[-1]
energy = "was not seen" if cost.energy_kwh is None else f"of {quantity(cost.energy_kwh, ENERGY)} ({cost.how})"
ends = [
    "an unknown mass" if cost.energy_kwh is None else quantity(cost.energy_kwh * row.g_per_kwh, MASS)
    for row in (low, high)
]
Markdown(
    f"The energy of the training above, {energy}, means {ends[0]} in {low.grid.title()} and {ends[1]} in "
    f"{high.grid.title()}: a factor of {high.g_per_kwh / low.g_per_kwh:.0f} without touching the code. "
    "A yearly mean is itself a choice. The mix changes by the hour, and what one more kWh causes is not the average."
)

# %% [markdown]
# Sources: countries from the yearly table that comes with [carbontracker](https://github.com/saintslab/carbontracker), the world from the IEA's *Electricity 2025*, the EU-28 of 2017 from the European Environment Agency.
# `carbon.INTENSITIES` holds them all, each with source and year.
# The parameter `intensity` at the top of this page takes any of these names, or a number.

# %% [markdown]
# ## 5. What a tuned distillation costs, according to the paper
#
# *Knowledge distillation* trains a small network, the student, to imitate a large one, the teacher.
# A temperature τ softens what the teacher says ([chapter 3](03_classic_kd.ipynb)).
# Tuning τ repeats the whole training for each candidate.
# [Rafat et al. (2023)](https://doi.org/10.1371/journal.pone.0285668) compare that with one training in which τ is random.
# Their Table 4 gives both costs, for three losses on four data sets.
# HKD is Hinton's loss; what CMC and DML are the table does not say ([chapter 6](06_other_losses.ipynb) looks for them):

# %%
names = ledger.paper().dataset.unique()
blocks = pd.concat(ledger.paper_table(name).assign(data=name) for name in names)
costs = ["gflops_millions", "energy_kwh", "co2e_g"]
wide = blocks.set_index(["data", "loss", "method"])[costs].unstack("method")
paper = wide.reindex(blocks.set_index(["data", "loss"]).index.unique())
paper.columns = [f"{metric}_{method}" for metric, method in paper.columns]
shown = paper[["energy_kwh_tuned", "energy_kwh_ours", "co2e_g_tuned", "co2e_g_ours"]]
heads = ["tuned, kWh", "random τ, kWh", "tuned, g CO₂e", "random τ, g CO₂e"]
shown = shown.set_axis(heads, axis=1).reset_index()
caption = "Rafat et al. (2023), Table 4, as printed."
shown.style.format(precision=2, thousands=",").hide().set_caption(caption)

# %% [markdown]
# The table offers two checks that need nothing but division.
#
# **Is tuned CO₂e a multiple of one run?**
# A grid of $n$ temperatures costs about $n$ trainings, but separate trainings never take exactly the same energy.
# For each row: the ratio, the nearest multiple with one decimal, and how far the printed grams lie from it.

# %%
ratios = pd.DataFrame({
    "GFLOPs ratio": paper.gflops_millions_tuned / paper.gflops_millions_ours,
    "CO₂e ratio": paper.co2e_g_tuned / paper.co2e_g_ours,
})  # fmt: skip
ratios["nearest multiple"] = ratios["CO₂e ratio"].round(1)
multiple = ratios["nearest multiple"] * paper.co2e_g_ours
ratios["off by, g"] = (paper.co2e_g_tuned - multiple).abs()
ratios["to the last digit"] = ratios["off by, g"] <= 0.005 + 1e-9
formats = dict(zip(ratios, ("{:.2f}", "{:.3f}", "{:.1f}", "{:.3f}"), strict=False))
formats["to the last digit"] = lambda exact: "yes" if exact else "no"
caption = "Tuned divided by random τ, computed from Table 4."
ratios.reset_index().style.format(formats).hide().set_caption(caption)

# %% tags=["hide-input"]
exact, rows = ratios["to the last digit"].sum(), len(ratios)
chance = (0.01 / (0.1 * paper.co2e_g_ours)).max()
Markdown(
    f"In {exact} of {rows} rows the tuned grams are a one-decimal multiple of the single run to the last printed digit. "
    f"By chance a row with two decimals would be so with a probability of about {100 * chance:.2f} % or less. "
    "So these costs were most likely computed, as one metered run times a number of runs, rather than metered run by run. "
    f"That is a fair estimate of a grid, if it is named as one. The number ranges from {ratios['nearest multiple'].min():g} to "
    f"{ratios['nearest multiple'].max():g}, while the computation says {ratios['GFLOPs ratio'].min():.0f} or "
    f"{ratios['GFLOPs ratio'].max():.0f}; τ from 2 to 20 are 19 values."
)

# %% [markdown]
# **Which grid do the grams imply?**
# Grams divided by kilowatt-hours give the carbon intensity that was used.
# Energy is printed with two decimals, so each quotient has a range; the bars span energies of 0.01 kWh less to 0.01 kWh more, whether the digits were rounded or cut.
# The larger the energy, the less its last digit matters: the bars of the tuned rows are short enough to hide behind their marks.

# %% mystnb={"image": {"alt": "Dots with horizontal range bars, two for each of twelve rows of the paper's Table 4: the carbon intensity that its grams and kilowatt-hours imply, for tuned and for random temperature. A vertical line marks the European average of 2017."}, "figure": {"caption": "Carbon intensity implied by each row of Table 4: grams divided by kilowatt-hours, with the range that two printed decimals leave. The line is the EU-28 average of 2017.", "name": "fig-implied"}}
eu = carbon.INTENSITIES["eu-2017"].g_per_kwh
figure, ax = plt.subplots(figsize=(plots.COLUMN, 4.6))
for method, role, shift, label, side in (
    ("tuned", "KD tuned tau", -0.18, "◆ tuned τ", 0.0),
    ("ours", "stochastic tau", 0.18, "▲ random τ", 0.45),
):
    grams, kwh = paper[f"co2e_g_{method}"], paper[f"energy_kwh_{method}"]
    places = [place + shift for place in range(len(paper))]
    style = plots.ROLES[role]
    ends = (grams / (kwh + 0.01), grams / (kwh - 0.01))
    ax.hlines(places, *ends, color=style.colour, alpha=0.45, linewidth=3)
    ax.plot(grams / kwh, places, style.marker, color=style.colour, markersize=5)
    ax.text(side, 1.02, label, color=style.colour, transform=ax.transAxes)
ax.axvline(eu, color="#222222", linewidth=1, zorder=0)
ax.set_yticks(range(len(paper)), [f"{data}, {loss}" for data, loss in paper.index])
ax.set(xlabel="implied g CO₂e per kWh", ylim=(len(paper) - 0.5, -0.5))
ax.tick_params(axis="y", length=0)
ax.grid(False)

# %% tags=["hide-input"]
inside = {
    method: ((paper[f"co2e_g_{method}"] / (paper[f"energy_kwh_{method}"] + 0.01) <= eu)
             & (eu <= paper[f"co2e_g_{method}"] / (paper[f"energy_kwh_{method}"] - 0.01))).sum()
    for method in ("tuned", "ours")
}  # fmt: skip
multiplied = ((19 * paper.energy_kwh_ours - paper.energy_kwh_tuned).abs() < 0.005).sum()
implied = (paper.co2e_g_tuned / paper.energy_kwh_tuned).median()
local = carbon.find_intensity("bangladesh").g_per_kwh
Markdown(
    f"The middle of the twelve tuned rows is {implied:.1f} g/kWh, and the European average of 2017 is {eu:.1f}. "
    f"{inside['ours']} of {len(paper)} single runs and {inside['tuned']} of {len(paper)} tuned rows agree with it within "
    "the printed digits; it was the value that carbontracker of 2020 to 2022 fell back to when it had no live figure. "
    f"Tuned rows lie between {(paper.co2e_g_tuned / paper.energy_kwh_tuned).min():.0f} and "
    f"{(paper.co2e_g_tuned / paper.energy_kwh_tuned).max():.0f}. A rounded energy that was multiplied, its rounding error "
    f"included, would explain a part of this spread: {multiplied} of the {len(paper)} tuned energies are exactly 19 times the printed single one; for the others it stays open. "
    f"On the grid of Bangladesh the same energy would weigh {local / eu:.1f} times as much. Ratios are not touched by that; "
    "the grams are."
)

# %% [markdown]
# **What can be confirmed, and what cannot.**
# *Confirmed* means that another computation gives the same number; *not confirmed* means that none did, which is not the same as wrong.
# The paper's Table 4, its abstract, two of its figures and the authors' repository were available for this book; its other tables and its text were not, and may answer some of this.

# %% tags=["hide-input"]
macs32 = networks[networks.data == "CIFAR-100"].set_index("network").MACs
by_rule = compute.paper_gflops_millions(
    student_macs=macs32.mobilenetv2, teacher_macs=macs32.resnet18, images=50_000, epochs=100
)
cifar = paper.gflops_millions_ours["CIFAR-100", "HKD"]
steps = f"{ratios['GFLOPs ratio'].min():.0f} to {ratios['GFLOPs ratio'].max():.0f}"
states = [
    (f"{printed} million GFLOPs a run, Tiny ImageNet", "confirmed" if agrees else "not confirmed", "forward passes only"),
    ("Tuning multiplies the cost by the size of the grid", "confirmed", "arithmetic: true for any loss and any data"),
    ("Grams are energy times one intensity", "in part",
     f"{inside['ours']} of 12 single runs and {inside['tuned']} of 12 tuned fit the EU of 2017"),
    ("Energy of one run", "not confirmed", "hardware and tool are not known to us"),
    ("Energy of the tuned runs", "not confirmed", f"looks multiplied; printed FLOPs say {steps} runs"),
    (f"{cifar} million GFLOPs a run, CIFAR-100", "not confirmed", f"the rule of Tiny ImageNet gives {by_rule:.2f}"),
]  # fmt: skip
pd.DataFrame(states, columns=["claim", "state", "why"]).style.hide().set_caption(
    "The costs of Table 4, checked."
)

# %% [markdown]
# None of this says that the idea is wrong.
# It says what the cost ratio is: about the number of temperatures in the grid one compares with.
# Against a single fixed temperature it would be one, which is why [chapter 4](04_stochastic_temperature.ipynb) runs that comparison too.

# %% [markdown]
# ## At the paper's scale
#
# A check of bookkeeping is no measurement.
# So the last comparison sets one distillation with random τ on CIFAR-100 side by side, in the paper and in this book's ledger (profiles `gpu` and `paper`):

# %% tags=["hide-input"]
one = "cifar100/resnet18-mobilenetv2-stochastic"
ours = ledger.paper_table("cifar100").query("loss == 'HKD' and method == 'ours'").iloc[0]
printed_costs = (ours.gflops_millions, ours.energy_kwh, ours.co2e_g)
rows = [("Rafat et al. (2023)", "", *printed_costs, "not known to us")]
for size in ("gpu", "paper"):
    asked = experiments.resolve(one, size)
    way = recorded(ledger.load()[0], asked, one, size, "KD, stochastic τ", "stochastic tau")
    label = f"this book, {size}, {asked['epochs']} epochs"
    if way is None:
        rows.append((label, "", None, None, None, "no run with exactly these settings"))
        continue
    spent = pd.DataFrame([record["cost"]["train"] for record in way.records])[["energy_kwh", "co2e_g"]]
    passes = sorted({(record.get("shared") or {"students": 1})["students"] for record in way.records})
    work = way.flops(backward=False) / compute.PAPER_UNIT
    how = f"n = {len(way.records)}, {made_on([way])}"
    rows.append((label, " or ".join(map(str, passes)), work, *spent.astype(float).mean(), how))
columns = ["source", "students in its pass", "10⁶ GFLOPs, forward", "kWh", "g CO₂e", "how known"]
caption = "One run with random τ, CIFAR-100."
shown = pd.DataFrame(rows, columns=columns).style.format(precision=3, na_rep="–")
shown.hide().set_caption(caption)

# %% [markdown]
# These amounts do not compare directly.
# Students of one pass share the teacher's answers, and each row of this book is such a share: a run alone would count and take more ([chapter 9](09_frugal_engine.ipynb)).
# A tenth of the images was kept for validation, hardware and engine are others, and so, probably, is what was metered.

# %% [markdown]
# ## What we learned
#
# * Grams are energy × PUE × intensity. Only the first can be metered, and only where the hardware shows a counter.
# * FLOPs can be counted exactly, but two honest counts differ: forward only, or with the backward pass.
# * "Modelled" is time in another unit, and "not seen" is not zero.
# * The paper's cost ratios are near the size of its grid, and owed to it. The grams of its single runs fit the European average of 2017.
#
# **What would change our mind.**
# Metered energies of each run of the authors' grid would turn "looks multiplied" into measured.
# A statement of tool, hardware and intensity in the paper's text would close the rows marked "not known".

# %% [markdown]
# ## Exercises
#
# Nothing is trained in these; all three together cost what the last line of the folded solution says.
#
# **Exercise 1.** The paper's tuned distillation on CIFAR-100 (loss HKD): how many grams would its energy be in Norway, and how many in Bangladesh?
#
# **Exercise 2.** A grid of 19 temperatures asks the same frozen teacher 19 times about the same images. Suppose its answers were stored once, without augmentation. By what factor would the whole grid's computation shrink, forward and backward, on Tiny ImageNet?
#
# **Exercise 3.** The abstract gives, for CIFAR-10, the emissions of a tuned distillation as a multiple of training the teacher once. By FLOPs with backward passes, what would the factor be for 20 runs? Why might the two disagree?

# %% tags=["hide-cell"]
with meter.block("exercises"):
    kwh = ledger.paper_table("cifar100").query("loss == 'HKD' and method == 'tuned'").energy_kwh.item()
    for name in ("norway", "bangladesh"):
        print(f"1. {name}: {kwh} kWh = {kwh * carbon.find_intensity(name).g_per_kwh:,.0f} g CO₂e")

    run_alone = compute.run_flops(**one_run | {"teacher_macs": 0}, backward=True)
    asked_once = compute.flops(one_run["teacher_macs"]) * one_run["images"]
    every_time = compute.procedure_flops(compute.run_flops(**one_run, backward=True), 19)
    stored = compute.procedure_flops(run_alone, 19, once=asked_once)
    print(f"2. with stored answers the grid is {every_time / stored:.1f} times cheaper in FLOPs")

    macs = networks[networks.data == "CIFAR-100"].set_index("network").MACs
    factor = 20 * (3 * macs.mobilenetv2 + macs.resnet18) / (3 * macs.resnet18)
    abstract = (
        ledger.paper("Abstract")
        .query("metric == 'co2e_ratio_to_teacher_training' and dataset == 'CIFAR-10'")
        .value.item()
    )
    print(f"3. FLOPs say {factor:.1f}, the abstract's CO₂e says {abstract}.")
    print("   A FLOP of MobileNetV2 may take longer than one of ResNet-18: see chapter 2.")
print(f"\nThe three solutions took {duration(meter.cost('exercises').seconds)}.")

# %% [markdown]
# **Next:** [Teacher training](02_teacher_training.ipynb), where the large network and its students learn alone, several times each.
#
# **References**
#
# * K. Rafat et al., *Mitigating carbon footprint for knowledge distillation based deep learning model compression*, PLOS ONE 18(5), 2023, [doi:10.1371/journal.pone.0285668](https://doi.org/10.1371/journal.pone.0285668)
# * L. F. Wolff Anthony, B. Kanding, R. Selvan, *Carbontracker*, 2020, [arXiv:2007.03051](https://arxiv.org/abs/2007.03051)
# * E. Strubell, A. Ganesh, A. McCallum, *Energy and policy considerations for deep learning in NLP*, ACL 2019, [doi:10.18653/v1/P19-1355](https://doi.org/10.18653/v1/P19-1355)
# * G. Hinton, O. Vinyals, J. Dean, *Distilling the knowledge in a neural network*, 2015, [arXiv:1503.02531](https://arxiv.org/abs/1503.02531)

# %% [markdown]
# ## Receipt
#
# What executing this page took.
# Trainings that were finished before are not part of it; their cost stands in section 3.

# %%
meter.stop("notebook")
title = f"The carbon problem, profile {profile}"
receipt = carbon.receipt(meter.cost("notebook"), title=title)
receipt.save(experiments.runs_folder() / "receipts" / "01_carbon_problem.json")
receipt
