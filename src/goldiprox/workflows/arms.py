"""Arms of a comparison: a method, and which examples it may train on."""

from __future__ import annotations

from dataclasses import dataclass

from goldiprox.config import CompareConfig, TrainConfig
from goldiprox.data.splits import Splits
from goldiprox.precompute.coreset import CoreSet
from goldiprox.schema import ConfigError
from goldiprox.selection.methods import METHODS, Method, method
from goldiprox.training.build import build
from goldiprox.training.optimization import resolve_device
from goldiprox.training.task import Task

__all__ = [
    "GOLDIPROX",
    "UNIFORM_FULL",
    "Arm",
    "arm",
    "arms_of",
    "core_set_of",
    "goldiprox_arm",
    "require_possible",
]

UNIFORM_FULL = "uniform-full"

GOLDIPROX = "goldiprox"
"""The arm that replays what a proxy chose."""


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One line of a comparison.

    Attributes:
        name: as shown; a method's name, or ``uniform-full``.
        method: how it chooses; with a proxy, how that one does.
        full: whether it trains on the holdout data too, being in no need of a holdout.
        proxy: the model that chooses for it and records its choice; None where it chooses itself.
    """

    name: str
    method: Method
    full: bool = False
    proxy: str | None = None

    @property
    def trained_with(self) -> str:
        """The method of its own runs: a replay scores nothing."""
        return self.method.name if self.proxy is None else "uniform"

    @property
    def folder(self) -> str:
        """The name as part of a file name: no colon, which some file systems refuse."""
        return self.name.replace(":", "--")

    def task(self, splits: Splits) -> Task:
        """What it trains on; every arm is evaluated on the same clean test set."""
        return Task(
            train=splits.full if self.full else splits.train,
            evaluation=splits.test,
            preprocess=splits.preprocess,
            num_classes=splits.num_classes,
        )


def require_possible(config: TrainConfig, task: Task) -> None:
    """Find out now, before hours of training, that a run cannot start.

    Raises:
        ConfigError: if the pool does not fit into the data, the device is absent, or the model is
            unknown or cannot be built for these examples.
    """
    given = method(config.method).from_caller
    if given:
        raise ConfigError(
            f'method "{config.method}" needs {" and ".join(given)}, which only a loop of your own '
            "can give: goldiprox.Chooser, as in examples/contrastive.py"
        )
    config.steps_per_epoch(len(task.train))
    build(
        config.resolved_model(task.train.store.example_shape),
        task.train,
        task.preprocess,
        task.num_classes,
        seed=config.seed,
        device=resolve_device(config.device),
        tokenizer=config.tokenizer,
        max_length=config.max_length,
    )


def core_set_of(entry: Method) -> CoreSet | None:
    """What chooses a method's core-set before a run: its hook, and the maker of its plan."""
    return None if entry.core_set is None else CoreSet(entry.core_set)


def goldiprox_arm(proxy: str) -> Arm:
    """The arm whose batches a proxy chooses by reducible loss (Mindermann et al. 2021)."""
    return Arm(name=GOLDIPROX, method=METHODS["rho-loss"], proxy=proxy)


def arms_of(config: CompareConfig) -> list[Arm]:
    """The lines of a comparison: its methods, and the one that replays a proxy if it names one.

    Raises:
        ConfigError: if a method is unknown; the message lists the known ones.
    """
    found = [arm(name) for name in config.methods]
    return found if config.proxy is None else [*found, goldiprox_arm(config.proxy)]


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
