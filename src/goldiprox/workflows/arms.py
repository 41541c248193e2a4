"""Arms of a comparison: a method, and which examples it may train on."""

from __future__ import annotations

from dataclasses import dataclass

from goldiprox.data.splits import Splits
from goldiprox.selection.methods import METHODS, Method, method
from goldiprox.training.loop import Task

__all__ = ["UNIFORM_FULL", "Arm", "arm"]

UNIFORM_FULL = "uniform-full"


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One line of a comparison.

    Attributes:
        name: as shown; a method's name, or ``uniform-full``.
        method: how it chooses.
        full: whether it trains on the holdout data too, being in no need of a holdout.
    """

    name: str
    method: Method
    full: bool = False

    def task(self, splits: Splits) -> Task:
        """What it trains on; every arm is evaluated on the same clean test set."""
        return Task(
            train=splits.full if self.full else splits.train,
            evaluation=splits.test,
            preprocess=splits.preprocess,
            num_classes=splits.num_classes,
        )


def arm(name: str) -> Arm:
    """Look an arm up.

    Args:
        name: a method's name, or ``uniform-full``: uniform on everything that the other methods'
            training, holdout and validation sets comprise.

    Raises:
        ConfigError: if it is unknown; the message lists the known ones.
    """
    if name == UNIFORM_FULL:
        return Arm(name=name, method=METHODS["uniform"], full=True)
    return Arm(name=name, method=method(name))
