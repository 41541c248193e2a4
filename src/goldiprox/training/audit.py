"""Counts along a run what is chosen of each group, for audits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from goldiprox.data.store import Dataset
from goldiprox.objectives import Objective
from goldiprox.records.groups import GroupCounts
from goldiprox.records.steplog import StepRecord
from goldiprox.schema import ConfigError
from goldiprox.training.evaluate import evaluate
from goldiprox.training.hooks import Hook
from goldiprox.training.run import Run

__all__ = ["GroupAudit"]

SETTLE_EVERY = 64
"""Steps between transfers of what was chosen from the device."""


class GroupAudit(Hook):
    """Picks by group over the run, and the final weights' test results by group.

    Not charged to the run. Written into the run's folder, see
    :class:`~goldiprox.records.groups.GroupCounts`.

    Args:
        folder: the run's.
        dataset: with groups.
    """

    def __init__(self, folder: Path, dataset: Dataset) -> None:
        assert dataset.groups_N is not None, "no group column was named"
        self._folder = folder
        self._names = dataset.group_names
        self._group_N = dataset.groups_N
        self._chosen = torch.zeros(len(self._names), dtype=torch.int64)
        self._pending: list[Tensor] = []

    def started(self, run: Run) -> None:
        """Refuse an objective without right and wrong before anything is trained.

        Raises:
            ConfigError: naming it.
        """
        if type(run.objective).correct is Objective.correct:
            raise ConfigError(
                f'objective "{run.objective.name}" says of no example whether it is right, so '
                "nothing can be counted by group; leave the groups out"
            )

    def stepped(self, run: Run, record: StepRecord) -> None:
        """Note who was chosen."""
        del run
        self._pending.append(record.selection.ids_k)
        if len(self._pending) >= SETTLE_EVERY:
            self._settle()

    def finished(self, run: Run) -> None:
        """Look at the test set once more, and write the counts."""
        self._settle()
        test = run.task.evaluation
        found = evaluate(run.model, test, run.feeder, run.config.precision, run.objective)
        assert found.correct_N is not None  # see started
        GroupCounts(
            names=self._names,
            pool=self._count(run.task.train.rows_N).tolist(),
            chosen=self._chosen.tolist(),
            test=self._count(test.rows_N).tolist(),
            correct=self._count(test.rows_N[found.correct_N]).tolist(),
        ).write(self._folder)

    def state_dict(self) -> dict[str, Any]:
        """Picks so far."""
        self._settle()
        return {"chosen": self._chosen}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self._chosen = state["chosen"]

    def _settle(self) -> None:
        if self._pending:
            ids = torch.cat(self._pending).cpu()
            # A copy's id is that of its row, plus a multiple of the rows.
            self._chosen = self._chosen + self._count(ids % len(self._group_N))
            self._pending = []

    def _count(self, rows: Tensor) -> Tensor:
        found = self._group_N[rows]
        return torch.bincount(found[found >= 0], minlength=len(self._names))
