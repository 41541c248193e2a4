"""Evaluations told to an experiment tracker as they are made."""

from __future__ import annotations

from pathlib import Path

from goldiprox.config import TrainConfig, settings_of
from goldiprox.loggers import Tracker, open_logger
from goldiprox.records.evaluations import Evaluation
from goldiprox.training.hooks import Hook
from goldiprox.training.run import Run

__all__ = ["Tracking"]


class Tracking(Hook):
    """Logs every evaluation, with the costs until then; not charged to the run.

    Args:
        tracker: one of :data:`goldiprox.loggers.TRACKERS`.
        out: the run's folder; its path names the tracker's run.
        config: the run's settings.
    """

    remembers = False

    def __init__(self, tracker: str, out: Path, config: TrainConfig) -> None:
        self._tracker = tracker
        self._out = out
        self._config = config
        self._logger: Tracker | None = None

    def started(self, run: Run) -> None:
        """Begin the tracker's run."""
        del run
        self._logger = open_logger(
            self._tracker,
            project="goldiprox",
            name=str(self._out),
            out=self._out,
            config=settings_of(self._config),
        )

    def evaluated(self, run: Run, evaluation: Evaluation) -> None:
        """Log its metrics and what the run cost so far."""
        del run
        assert self._logger is not None
        values = {
            "loss": evaluation.loss,
            **evaluation.metrics,
            "epoch": evaluation.epoch,
            "examples": evaluation.examples,
            "seconds": evaluation.seconds,
            "flops": evaluation.flops,
        }
        self._logger.log(values, step=evaluation.step)

    def finished(self, run: Run) -> None:
        """End the tracker's run."""
        del run
        assert self._logger is not None
        self._logger.finish()
