"""goldiprox: train on the points that are learnable, worth learning and not yet learnt."""

from __future__ import annotations

from importlib.metadata import version

__version__ = version("goldiprox")
