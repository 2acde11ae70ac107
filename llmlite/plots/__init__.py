"""One function a figure. Each draws what it is given, computes nothing and returns the figure."""
# ruff: noqa: F403

from llmlite.plots.beyond import *
from llmlite.plots.model import *
from llmlite.plots.runs import *
