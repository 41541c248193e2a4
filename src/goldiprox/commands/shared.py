"""What several commands share: how data is named, how results are told."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import tyro
from rich import progress as bars
from rich.console import Console

from goldiprox.config import CompareConfig, IrreducibleConfig, LearnerConfig, TrainConfig
from goldiprox.data.datasets import dataset_names
from goldiprox.data.image_files import FilesError
from goldiprox.data.splits import DataConfig, Splits
from goldiprox.data.targets import TargetKind
from goldiprox.objectives import objective as objective_named
from goldiprox.precompute.data_diet import ScoreConfig
from goldiprox.training.task import CheckpointEvery, Report
from goldiprox.workflows.execution import Execution
from goldiprox.workflows.progress import Progress
from goldiprox.workflows.subset import splits_for

__all__ = [
    "DATASET",
    "Data",
    "Keeping",
    "LogTo",
    "Shown",
    "command_line",
    "console",
    "fitting",
    "splits_of",
    "told",
    "wrote",
]


DATASET = (
    f"a name ({', '.join(dataset_names())}), the path of a table (CSV, TSV, JSON lines, Parquet), "
    "of a folder of them or of an image folder, or hub:NAME."
)
"""What names a data set."""


@dataclass(frozen=True, kw_only=True)
class Data(DataConfig):
    """The data, its name standing without a flag."""

    # The names as they are when the command is loaded, so that help and loading agree.
    dataset: Annotated[tyro.conf.Positional[str], tyro.conf.arg(help=f"Data set: {DATASET}")]


LogTo = Literal["trackio", "wandb", "tensorboard"]
"""The trackers of :data:`goldiprox.loggers.TRACKERS`, for a flag."""


@dataclass(frozen=True, kw_only=True)
class Keeping:
    """How often an unfinished run is saved, so that it can go on after an interruption."""

    checkpoint_seconds: float = 30.0
    """Seconds between checkpoints."""

    checkpoint_steps: int | None = None
    """Steps between checkpoints; overrides --checkpoint-seconds."""

    exact: bool = False
    """Refuse to go on with a run that was begun under other threads, processors or versions, which
    may change its last digits; without it that is said, and noted in the manifest."""

    def execution(
        self, progress: Progress, workers: int | None = None, tracker: str | None = None
    ) -> Execution:
        """As the workflows take it."""
        return Execution(
            progress=progress,
            checkpoint=CheckpointEvery(
                seconds=self.checkpoint_seconds, steps=self.checkpoint_steps, exact=self.exact
            ),
            workers=workers,
            command=command_line(),
            tracker=tracker,
        )


def splits_of(data: DataConfig, objective: str = "classification") -> Splits:
    """Load a data set and split it, as configured on the command line; say what became of it.

    Args:
        data: which, and what is done to it.
        objective: what a model is trained for, as the user said or did not say.
    """
    # "classification" may be what the user said or the default: the data may know better.
    targets = None if objective == "classification" else objective_named(objective).target_kind
    splits = _loaded(DataConfig(**asdict(data)), targets)
    for note in splits.dataset.notes:
        print(note, file=sys.stderr, flush=True)
    return splits


Settings = TypeVar(
    "Settings", LearnerConfig, TrainConfig, CompareConfig, IrreducibleConfig, ScoreConfig
)


def fitting(settings: Settings, splits: Splits) -> Settings:
    """Settings with the objective that the data leaves no doubt about, where none was chosen."""
    kind = splits.dataset.targets
    if settings.objective != "classification" or kind == "classes":
        return settings
    objective = DEFAULT_OBJECTIVES[kind]
    print(
        f"objective {objective}: {splits.dataset.name} has {kind} to predict",
        file=sys.stderr,
        flush=True,
    )
    return replace(settings, objective=objective)


DEFAULT_OBJECTIVES = {"numbers": "regression", "label sets": "multilabel"}
"""What data of a kind is for, unless the user says."""


def _loaded(config: DataConfig, targets: TargetKind | None) -> Splits:
    what = "looking for unreadable images among" if config.skip_unreadable else "looking at images:"
    with Shown() as shown:
        report: Report | None = None

        def checked(done: int, total: int) -> None:
            nonlocal report
            report = report or shown.stage(f"{what} {total:,}")
            report(done, total, f"{done:,} looked at")

        try:
            return splits_for(config, checked, targets)
        except FilesError as error:
            raise error.within(command_line()) from error


def command_line() -> str:
    """The command that was given, for reports."""
    return shlex.join(["goldiprox", *sys.argv[1:]])


def told(result: Mapping[str, object]) -> None:
    """Print facts, one a line."""
    width = max([22, *map(len, result)])
    for name, value in result.items():
        print(f"{name:>{width}}  {value}")


def wrote(path: Path) -> None:
    """Say what was written, last."""
    print(f"wrote {path}")


def console() -> Console:
    """The terminal; a pipe, which has no width to fit into, gets 100 columns."""
    found = Console()
    return found if found.is_terminal else Console(width=100)


class Shown(Progress):
    """Progress bars on a terminal, a line per stage elsewhere."""

    def __init__(self) -> None:
        console = Console(stderr=True)
        self._live = console.is_terminal
        self._bars = bars.Progress(
            bars.TextColumn("{task.description}"),
            bars.BarColumn(),
            bars.TextColumn("{task.fields[status]}"),
            bars.TimeRemainingColumn(),
            console=console,
            disable=not self._live,
        )
        self._task: bars.TaskID | None = None

    def said(self, text: str) -> None:
        """Say it whatever the terminal; above the bars, where there are any."""
        if self._live:
            self._bars.console.print(text, highlight=False, markup=False)
        else:
            print(text, file=sys.stderr, flush=True)

    def note(self, text: str) -> None:
        """Say what was done; on a terminal the bar shows it."""
        if not self._live:
            print(text, file=sys.stderr, flush=True)

    def __enter__(self) -> Shown:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def stage(self, name: str) -> Report:
        """Show a stage."""
        if not self._live:
            print(name, file=sys.stderr, flush=True)
            return lambda *_: None
        if self._task is not None:
            self._bars.remove_task(self._task)
        task = self._task = self._bars.add_task(name, total=None, status="")

        def report(done: int, total: int, status: str) -> None:
            self._bars.update(task, completed=done, total=total, status=status)

        return report
