"""How a job is executed: what every workflow and study is handed, whatever it makes."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from goldiprox.config import TrainConfig
from goldiprox.loggers import tracker_module
from goldiprox.training.hooks import Hook
from goldiprox.training.task import CheckpointEvery, Report
from goldiprox.training.tracking import Tracking
from goldiprox.workflows.progress import Progress

__all__ = ["SILENTLY", "Execution"]


@dataclass(frozen=True, kw_only=True)
class Execution:
    """How a job is executed; nothing of this decides what comes out.

    Attributes:
        progress: told what is going on.
        checkpoint: how often unfinished runs are saved.
        workers: processes that train side by side; None decides.
        processes: how many such jobs run at a time, for the records: seconds depend on it.
        command: the command line that asked for the job, for the report.
        tracker: the experiment tracker that evaluations go to, see :mod:`goldiprox.loggers`.

    Raises:
        ConfigError: if the tracker is unknown or not installed.
    """

    progress: Progress = field(default_factory=Progress)
    checkpoint: CheckpointEvery | None = None
    workers: int | None = None
    processes: int = 1
    command: str | None = None
    tracker: str | None = None

    def __post_init__(self) -> None:
        if self.tracker is not None:
            tracker_module(self.tracker)

    @property
    def exact(self) -> bool:
        """Whether runs made under other threads, processors or versions are refused."""
        return self.checkpoint is not None and self.checkpoint.exact

    def stage(self, name: str) -> Report:
        """Begin a stage, see :meth:`Progress.stage`."""
        return self.progress.stage(name)

    def hooks(self, out: Path, config: TrainConfig) -> tuple[Hook, ...]:
        """What watches a run on behalf of whoever asked for it.

        Args:
            out: the run's folder.
            config: its settings.
        """
        return () if self.tracker is None else (Tracking(self.tracker, out, config),)

    def watched_by(self, progress: Progress) -> Execution:
        """The same, told to somebody else."""
        return replace(self, progress=progress)


SILENTLY = Execution()
"""In this process, nobody being told; unfinished runs are saved as the training loop does."""
