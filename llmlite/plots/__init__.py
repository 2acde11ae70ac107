"""One function a figure. Each draws what it is given, computes nothing and returns the figure."""
# ruff: noqa: F403

from llmlite.plots.attention import *
from llmlite.plots.audit import *
from llmlite.plots.text import *
from llmlite.plots.training import *
