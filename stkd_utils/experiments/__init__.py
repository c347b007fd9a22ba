"""Experiments as data: flat JSON files, validated, scaled by a profile, run once and recorded.

``experiments.run("digits/resnet18-mobilenetv2-stochastic", seed=0, profile="quick")`` trains (its teacher first, if
that has not been trained) and returns a `Run`, with its record; asking again costs nothing.
"""

from .halving import halved, halving
from .plans import Run, runs_folder
from .profiles import Profile, profile, profile_names
from .running import resolve, run, side_by_side, sweep
from .settings import load, names
from .valid import ExperimentError

__all__ = [
    "ExperimentError",
    "Profile",
    "Run",
    "halved",
    "halving",
    "load",
    "names",
    "profile",
    "profile_names",
    "resolve",
    "run",
    "runs_folder",
    "side_by_side",
    "sweep",
]
