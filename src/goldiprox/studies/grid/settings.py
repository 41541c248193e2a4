"""What a grid varies: models, hyperparameters, the share chosen; one cell per combination."""

from __future__ import annotations

import difflib
import itertools
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from goldiprox.config import CompareConfig
from goldiprox.schema import ConfigError

__all__ = ["Cell", "GridConfig", "cells"]


@dataclass(frozen=True, kw_only=True)
class GridConfig:
    """What to vary; every combination is a comparison of its own, and all share one table."""

    models: tuple[str, ...] = ()
    """Models to compare the methods on, separated by commas, instead of --model."""

    sweep: tuple[str, ...] = ()
    """Hyperparameters to vary, as NAME=VALUE,VALUE,...; names: lr, batch, weight-decay. Give it
    once for each, or several in one: lr=1e-4,1e-3,batch=16,32."""

    share: tuple[float, ...] = ()
    """Shares of the pool to choose, separated by commas: the batch stays as it is, the pool is
    batch / share."""

    jobs: int | None = None
    """Processes to run the combinations in; unless given one a core, and 1 on a GPU. Seconds
    measured while several run are marked; steps and FLOPs do not depend on it."""

    def __post_init__(self) -> None:
        if self.jobs is not None and self.jobs < 1:
            raise ConfigError(f"--jobs is {self.jobs}; it must be at least 1")
        for share in self.share:
            if not 0 < share <= 1:
                raise ConfigError(f"--share has {share:g}; it must be in (0, 1], such as 0.1")
        for name, values in self.axes:
            if len(set(values)) < len(values):
                raise ConfigError(f"{name} is to take a value twice: {_listed(values)}")

    @property
    def axes(self) -> list[tuple[str, tuple[Any, ...]]]:
        """What varies: name and values, models first, the share last."""
        swept = _swept(self.sweep)
        found: list[tuple[str, tuple[Any, ...]]] = [("model", self.models)]
        found += [(name, swept.get(name, ())) for name in SWEPT]
        found.append(("share", self.share))
        return [(name, values) for name, values in found if values]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One combination.

    Attributes:
        name: of its folder.
        title: for people.
        at: its value on each axis.
        config: its comparison.
    """

    name: str
    title: str
    at: dict[str, Any]
    config: CompareConfig


def cells(config: CompareConfig, grid: GridConfig) -> list[Cell]:
    """Every combination, the last axis varying fastest.

    Raises:
        ConfigError: if nothing is varied, or settings do not go together.
    """
    axes = grid.axes
    if not axes:
        raise ConfigError("nothing is varied: give --models, --sweep or --share")
    if config.protocol == "budget":
        raise ConfigError(
            "--models, --sweep and --share compare by steps to uniform's best (--protocol paper); "
            "under --protocol budget run one comparison after the other"
        )
    if grid.share and config.pool is not None:
        raise ConfigError(
            f"--share makes the pool batch / share, so --pool {config.pool} has nothing to say; "
            "leave one of them out"
        )
    found = []
    names = [name for name, _ in axes]
    for number, values in enumerate(itertools.product(*(values for _, values in axes))):
        at = dict(zip(names, values, strict=True))
        title = ", ".join(v if k == "model" else f"{k} {v:g}" for k, v in at.items())
        plain = re.sub(r"[^\w.-]+", "-", title)
        found.append(
            Cell(name=f"{number:03d}-{plain}", title=title, at=at, config=_set(config, at))
        )
    return found


def _set(config: CompareConfig, at: dict[str, Any]) -> CompareConfig:
    """The comparison with a cell's values in it; the configuration's own checks see them."""
    batch: int = at.get("batch", config.batch[0])
    changes: dict[str, Any] = {"batch": (batch,)}
    changes |= {key: at[name] for name, key in FIELDS.items() if name in at}
    if "share" in at:
        changes["pool"] = round(batch / at["share"])
    return replace(config, **changes)


SWEPT: dict[str, Callable[[str], Any]] = {"lr": float, "batch": int, "weight-decay": float}
"""What --sweep may vary, and how its values are read."""

FIELDS = {"model": "model", "lr": "lr", "weight-decay": "weight_decay"}


def _swept(given: tuple[str, ...]) -> dict[str, tuple[Any, ...]]:
    """``("lr=1e-4,1e-3,batch=16",)`` as values by name."""
    found: dict[str, list[Any]] = {}
    name = ""
    for part in ",".join(given).split(","):
        item = part
        if "=" in part:
            name, _, item = part.partition("=")
            if name not in SWEPT:
                close = difflib.get_close_matches(name.replace("_", "-"), SWEPT, n=1)
                hint = f' (did you mean "{close[0]}"?)' if close else ""
                raise ConfigError(f'--sweep cannot vary "{name}"{hint}: {", ".join(SWEPT)}')
        elif not name:
            if not item:
                continue
            raise ConfigError(f"--sweep {item}: write NAME=VALUE,VALUE, such as lr=1e-4,1e-3")
        try:
            found.setdefault(name, []).append(SWEPT[name](item))
        except ValueError as error:
            raise ConfigError(f'--sweep {name}: "{item}" is no value of it') from error
    return {key: tuple(values) for key, values in found.items()}


def _listed(values: tuple[Any, ...]) -> str:
    return ", ".join(map(str, values))
