"""The command line: ``python -m stkd_utils list | run | notebooks | data | weights | publish``."""

import argparse
import json
import os
import sys
from dataclasses import replace

from . import catalogue, environment


def parser():
    """The argument parser of ``python -m stkd_utils``."""
    top = argparse.ArgumentParser(prog="python -m stkd_utils", description=__doc__)
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    listing = commands.add_parser("list", help="the experiments that exist, all or some, and the profiles")
    for key, example in catalogue.FILTERS.items():
        listing.add_argument(f"--{key}", help=f"only experiments with this {key}, such as {example}")
    listing.set_defaults(call=_list)

    one = commands.add_parser("run", help="train one experiment, or continue it; a finished one is not repeated")
    one.add_argument("name", help="an experiment, such as digits/resnet18-mobilenetv2-stochastic")
    one.add_argument("--seed", type=int, default=0, metavar="N", help="initial weights, order and views (default 0)")
    one.add_argument("--seeds", metavar="N,N", help="several seeds instead of one")
    one.add_argument(
        "--together", action="store_true",
        help="train the lists in --set (tau=[2,3]) in one shared pass; with data_seed set also the seeds",
    )  # fmt: skip
    one.add_argument("--profile", default="quick", metavar="P", help="smoke, quick (default), gpu or paper")
    one.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE",
        help="replace a setting of the experiment's file; may be repeated",
    )  # fmt: skip
    one.add_argument("--runs", metavar="DIR", help="where runs live (default $STKD_RUNS, else ./runs)")
    one.add_argument("--intensity", help="gCO2e per kWh: a number or a name such as world (default), bangladesh")
    one.add_argument(
        "--tensorboard", action="store_true", help="also write scalars for TensorBoard (pip install tensorboard)"
    )
    one.set_defaults(call=_run)

    books = commands.add_parser("notebooks", help="execute the notebooks of the book with papermill")
    books.add_argument("--profile", default="quick", metavar="P", help="smoke, quick (default), gpu or paper")
    books.add_argument("--only", metavar="NN", help="only the notebook that starts with NN")
    books.set_defaults(call=_notebooks)

    fetch = commands.add_parser("data", help="download a data set")
    known = "cifar10, cifar100, mnist, tinyimagenet, or voc (with the ImageNet weights that detectors begin with)"
    fetch.add_argument("name", help=known)
    fetch.set_defaults(call=_data)

    weights = commands.add_parser("weights", help="check a file of weights that the paper's authors published")
    weights.add_argument("file", help="a .pth.tar file of figshare item 22761962")
    weights.add_argument("--model", metavar="NAME", help="the network that it has to hold")
    weights.add_argument("--classes", type=int, metavar="N", help="the number of classes that it has to have")
    weights.add_argument("--evaluate", metavar="DATA", help="its accuracy on the test images of cifar10 or cifar100")
    weights.set_defaults(call=_weights)

    publish = commands.add_parser("publish", help="append finished runs to the ledger")
    publish.add_argument("--runs", metavar="DIR", help="where runs live (default $STKD_RUNS, else ./runs)")
    publish.add_argument("--book", metavar="P", help="runs and costs of the book that was built with profile P")
    publish.set_defaults(call=_publish)
    return top


def main(arguments=None):
    """Exit status of one command: 0, 1 for a failed run, 2 for a wrong question, 130 when interrupted."""
    environment.give_way()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a terminal that has no sign for CO₂ shows a question mark
            stream.reconfigure(errors="replace")
    asked = parser().parse_args(arguments)
    if asked.call is _list:  # without what takes seconds to import
        return _list(asked)
    try:
        environment.check()
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 1
    from . import carbon, checkpoint, data, experiments, ledger, models, quantise, scalars, training

    wrong = (
        experiments.ExperimentError, data.DataError, carbon.IntensityError, ledger.LedgerError, models.WeightsError,
        scalars.TensorBoardMissing,
    )  # fmt: skip
    failed = (training.Diverged, checkpoint.CheckpointDamaged, quantise.QuantiseError)
    try:
        return asked.call(asked) or 0
    except wrong as error:
        print(error, file=sys.stderr)
        return 2
    except failed as error:
        print(error, file=sys.stderr)
        return 1
    except BrokenPipeError:
        raise
    except OSError as error:
        print(f"{error.filename or 'A file'}: {error.strerror or error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nInterrupted. The same command continues from the last checkpoint, if there is one.", file=sys.stderr)
        return 130


def _list(asked):
    wanted = {key: getattr(asked, key) for key in catalogue.FILTERS}
    try:
        print(*catalogue.listing(catalogue.experiments(**wanted)), sep="\n")
    except catalogue.CatalogueError as error:
        print(error, file=sys.stderr)
        return 2
    if any(wanted.values()):
        return 0
    print("\nprofiles")
    for one in catalogue.profiles():
        scale = f"{one['dataset']}, {len(one['seeds'])} seeds, grid of {len(one['taus'])} temperatures"
        print(f"{one['name']:7} {scale}; may claim {one['claims']}")
    return 0


def _run(asked):
    from . import carbon, experiments, procedures

    overrides = dict(_setting(text) for text in asked.set)
    intensity = carbon.find_intensity(_value(asked.intensity or "world"))
    options = {"profile": asked.profile, "runs": asked.runs, "intensity": intensity, **overrides}
    options["tensorboard"] = asked.tensorboard
    if asked.together or asked.seeds is not None:
        return _sweep(asked, options)
    done = experiments.run(asked.name, asked.seed, **options)
    result = done.record["result"]
    if not done.new:
        code = "" if done.record["code"]["digest"] == environment.code_digest() else " with other code of stkd_utils"
        print(f"This run was finished before{code}; nothing was trained.")
    for epoch in ("last", "chosen"):
        row = result[epoch]
        what = procedures.metric(row)
        reached = f"test {100 * row[f'test_{what}']:.2f} %, validation {100 * row[f'val_{what}']:.2f} % ({what})"
        print(f"{epoch:6} epoch {row['epoch']}: {reached}")
        if "test_ece" in row:  # neither in a detector's record nor in an old one
            known = "undefined" if row["test_kappa"] is None else f"{row['test_kappa']:.3f}"
            means = ", ".join(f"{key} {100 * row[f'test_macro_{key}']:.2f} %" for key in ("f1", "precision", "recall"))
            print(f"       macro {means}; kappa {known}; calibration error {100 * row['test_ece']:.2f} %")
    cost = carbon.Cost.from_dict(done.record["cost"]["train"])
    if asked.intensity:  # a run from before keeps the intensity of its day in its record
        cost = replace(cost, intensity=intensity)
    print(carbon.receipt(cost, title=f"training, seed {asked.seed}"))
    _say_scalars(asked)
    print(done.folder / "record.json")


def _sweep(asked, options):
    from . import carbon, experiments

    seeds = _value(f"[{asked.seed if asked.seeds is None else asked.seeds}]")
    if not isinstance(seeds, list):
        raise experiments.ExperimentError(f"--seeds takes whole numbers, such as 3,4; got '{asked.seeds}'.")
    found = experiments.sweep(asked.name, seeds=seeds, together=asked.together, **options)
    done = {run.record["id"]: run for run in found}.values()  # what a list names twice was trained once
    costs = [carbon.Cost.from_dict(run.record["cost"]["train"]) for run in done]
    total = sum(replace(cost, intensity=options["intensity"]) for cost in costs)
    print(carbon.receipt(total, title=f"training of {len(done)} runs"))
    _say_scalars(asked)
    for run in done:
        print(run.folder / "record.json")


def _say_scalars(asked):
    from . import experiments

    if asked.tensorboard:
        print(f"scalars: tensorboard --logdir {experiments.runs_folder(asked.runs)}")


def _setting(text):
    from .experiments import ExperimentError, settings

    key, equals, value = text.partition("=")
    if not equals:
        raise ExperimentError(f"--set takes KEY=VALUE; got '{text}'.")
    if key in ("seed", "seeds", "profile", "runs", "intensity"):
        raise ExperimentError(f"--set: '{key}' is no setting of an experiment; --{key} sets it.")
    settings.check_key(key, "--set")
    return key, _value(value)


def _value(text):
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _notebooks(asked):
    from . import notebooks

    try:
        notebooks.execute(profile=asked.profile, only=asked.only)
    except notebooks.NotebookError as error:
        print(error, file=sys.stderr)
        return 2 if isinstance(error, notebooks.UnknownNotebook) else 1


def _data(asked):
    from . import data, detection

    if asked.name not in (known := [*data.names(), *detection.data.names()]):
        raise data.DataError(f"No data set is called {asked.name!r}; known: {', '.join(known)}.")
    if asked.name in data.names():
        print(data.fetch(asked.name))
    elif asked.name == "scenes":
        print(f"scenes are composed when they are first needed, in {data.root_folder()}: nothing to fetch.")
    else:
        print(detection.data.fetch(asked.name))
        for network in ("mobilenetv2ssdlite", "ssd300vgg16"):
            print(detection.models.fetch_backbone(network))


def _weights(asked):
    from . import models

    found = models.read_authors(asked.file)
    if asked.classes is not None and asked.classes < 1:
        raise models.WeightsError(f"--classes is at least 1; got {asked.classes}.")
    network = models.load_authors(asked.file, asked.model or found.name, asked.classes or found.classes)
    size = sum(parameter.numel() for parameter in network.parameters())
    print(f"{found.name}, {found.classes} classes, {size:,} parameters, epoch {found.epoch}: every weight fits.")
    if asked.evaluate:
        accuracy, count = _test_accuracy(network, asked.evaluate, found.classes)
        print(f"test {100 * accuracy:.2f} % of {count:,} images of {asked.evaluate} (accuracy)")


def _test_accuracy(network, name, classes):
    import torch

    from . import data, engine, models, training

    if name not in (usual := models.authors.NORMALISATION):
        raise models.WeightsError(f"--evaluate takes one of: {', '.join(usual)}; got {name!r}.")
    device = engine.default_device()
    dataset = data.load(name, device=device)
    if dataset.classes != classes:
        raise models.WeightsError(f"{name} has {dataset.classes} classes and these weights are for {classes}.")
    mean, std = (torch.tensor(values, device=device) for values in usual[name])
    dataset = replace(dataset, mean=mean, std=std)  # those of the authors, on which the weights rely
    return training.evaluate(network.to(device), dataset.test, dataset)["accuracy"], len(dataset.test)


def _publish(asked):
    from . import experiments, ledger

    executions, runs = None, experiments.runs_folder(asked.runs)
    if asked.book:
        from . import notebooks  # needs papermill, which runs alone do not

        try:
            executions, runs = notebooks.collect(asked.book).notebooks, notebooks.runs_folder(asked.book)
        except notebooks.NotebookError as error:
            print(error, file=sys.stderr)
            return 2
    records = [ledger.read(path) for path in sorted(runs.glob("*/record.json"))]
    if not records and not asked.book:
        raise experiments.ExperimentError(f"No finished run is in {runs}; --runs or STKD_RUNS says where they are.")
    added = ledger.append(records)
    print(f"{added} of {len(records)} finished runs added to {ledger.folder() / 'runs.jsonl'}.")
    if asked.book:
        added = ledger.append_executions(executions)
        print(f"{added} executions of notebooks added to {ledger.folder() / 'notebooks.jsonl'}.")


if __name__ == "__main__":
    try:
        status = main()
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read what this prints has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 0
    sys.exit(status)
