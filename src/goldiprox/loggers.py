"""Experiment trackers: whatever has ``log(dict, step)``, and those that are known by name."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from goldiprox.schema import ConfigError

__all__ = ["TRACKERS", "Logger", "Tracker", "open_logger", "tracker_module"]

TRACKERS = ("trackio", "wandb", "tensorboard")
"""Trackers that :func:`open_logger` knows."""


class Logger(Protocol):
    """What a tracker has to have; a run of wandb, trackio or swanlab has it already."""

    def log(self, values: dict[str, Any], *, step: int) -> object:
        """Take some values at a step."""
        ...


class Tracker(Logger, Protocol):
    """A logger that was opened, and is closed in the end."""

    def finish(self) -> object:
        """End the run."""
        ...


class _TensorBoard:
    """TensorBoard's writer in the form of a :class:`Logger`."""

    def __init__(self, writer: Any) -> None:
        self._writer = writer

    def log(self, values: dict[str, Any], *, step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def finish(self) -> None:
        self._writer.close()


def open_logger(
    tracker: str, *, project: str, name: str, out: Path, config: Mapping[str, Any]
) -> Tracker:
    """Start a run of a tracker.

    Args:
        tracker: one of :data:`TRACKERS`.
        project: what the tracker files it under.
        name: of the run.
        out: the run's folder; TensorBoard writes into it.
        config: settings, for the tracker's own table of them.

    Returns:
        It, to be finished by the caller.

    Raises:
        ConfigError: if the tracker is unknown or not installed.
    """
    found = tracker_module(tracker)
    if tracker == "tensorboard":
        return _TensorBoard(found.SummaryWriter(str(out / "tensorboard")))
    opened: Tracker = found.init(project=project, name=name, config=dict(config))
    return opened


def tracker_module(tracker: str) -> Any:
    """Import a tracker; also to find out before anything is trained that it is absent.

    Raises:
        ConfigError: if the tracker is unknown or not installed.
    """
    if tracker not in TRACKERS:
        raise ConfigError(f'unknown tracker "{tracker}"; known: {", ".join(TRACKERS)}')
    module = "torch.utils.tensorboard" if tracker == "tensorboard" else tracker
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(f"--log {tracker}: install it with: pip install {tracker}") from error
