"""How the settings of the digits were chosen: on validation images alone, by networks without a teacher.

For each network every combination of `LRS` and `MILESTONES` is trained with `SEEDS`, which no result of the book uses,
and the one with the highest mean validation accuracy after the last epoch is taken (then the lower loss). The test
split is not read. Distillation has no say: it uses what its student likes best when it learns alone.
"""

import itertools
import json
import statistics
from pathlib import Path

import torch

from stkd_utils import carbon, data, environment, experiments, models
from stkd_utils.protocol import Protocol
from stkd_utils.training import Supervised, Trainer

FILE = Path(__file__).parent / "ledger" / "choice.json"
MODELS = ("resnet18", "mobilenetv2", "shufflenetv2")
LRS = (0.025, 0.05, 0.1, 0.2, 0.4)
MILESTONES = ([0.3, 0.6, 0.8], [0.6, 0.85])  # those of the paper's code, and later ones for a run of few epochs
SEEDS = (100, 101, 102)
PROFILE = "quick"


def trained(settings, seed):
    """The last row of the history of one network that learns alone: validation, never test."""
    part = {key: settings[key] for key in ("val_fraction", "train_limit", "val_limit", "test_limit")}
    dataset = data.load(settings["dataset"], **part)
    size = {"channels": dataset.channels, "width": settings["width"], "depth": settings["depth"]}
    model = models.build(settings["model"], dataset.classes, seed=seed, **size)
    protocol = Protocol(**{key: settings[key] for key in Protocol.__dataclass_fields__})
    augmentation = data.Augmentation(settings["crop_padding"], settings["flip"], settings["rotation_degrees"])
    meter = carbon.Meter()
    trainer = Trainer(model, dataset, protocol, Supervised(), seed=seed, augmentation=augmentation, meter=meter)
    return trainer.fit().history[-1]


def tried(model):
    """One dict per combination of settings for ``model``, in the order of the lists above."""
    for lr, milestones in itertools.product(LRS, MILESTONES):
        settings = experiments.resolve(f"digits/{model}-base", PROFILE, lr=lr, milestones=milestones)
        rows = [trained(settings, seed) for seed in SEEDS]
        yield {
            "model": model,
            "lr": lr,
            "milestones": milestones,
            "chosen": False,
            "val_accuracy": [row["val_accuracy"] for row in rows],
            "val_loss": [row["val_loss"] for row in rows],
        }


def best(rows, model):
    """The combination that validation prefers for ``model``."""
    own = [row for row in rows if row["model"] == model]
    return min(own, key=lambda row: (-statistics.mean(row["val_accuracy"]), statistics.mean(row["val_loss"])))


def main():
    """Train everything (a few minutes), print a line each, and write the table that the book and a test read."""
    torch.set_num_threads(experiments.profile(PROFILE).threads)
    rows = []
    for model in MODELS:
        for row in tried(model):
            rows.append(row)
            accuracy = 100 * statistics.mean(row["val_accuracy"])
            print(f"{model}: lr {row['lr']}, milestones {row['milestones']}: validation {accuracy:.1f} %", flush=True)
        row = best(rows, model)
        row["chosen"] = True
        print(f"{model}: chosen lr {row['lr']}, milestones {row['milestones']}", flush=True)
    epochs = experiments.profile(PROFILE).overrides["epochs"]
    made = {"epochs": epochs, "seeds": SEEDS, "code": environment.code(), "rows": rows}
    FILE.write_text(json.dumps(made) + "\n")


if __name__ == "__main__":
    main()
