"""Losses of a few training examples along a run, to hold one model against another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from goldiprox.data.splits import Examples
from goldiprox.records.tables import IRREDUCIBLE_LOSS, PROBE, ScoreTable, Table
from goldiprox.seeds import stream
from goldiprox.training.evaluate import evaluate
from goldiprox.training.hooks import Hook
from goldiprox.training.run import Run

__all__ = ["LossProbe"]

EXAMPLES = 2000


class LossProbe(Hook):
    """After every epoch, the losses of a fixed random part of the training set.

    Un-augmented, in evaluation mode; not charged to the run. Written as a score table: columns
    ``epoch_1``, ``epoch_2``, ..., and ``irreducible_loss``; nats.

    Args:
        folder: the run's; the table is ``probe.parquet``.
        train: the training examples; the same ones are looked at in every run on them.
        irreducible: holds their irreducible losses.
    """

    def __init__(self, folder: Path, train: Examples, irreducible: Table) -> None:
        order = torch.randperm(len(train), generator=stream(0, "probe"))
        self._path = folder / PROBE
        self._examples = train.select(order[:EXAMPLES].sort().values)
        ids_N = self._examples.ids_N
        self._irreducible_N = irreducible.column_for(IRREDUCIBLE_LOSS, ids_N, "make it again")
        self._losses: dict[str, Tensor] = {}

    def epoch_ended(self, run: Run, epoch: int) -> None:
        """Evaluate; no side effects."""
        found = evaluate(run.model, self._examples, run.feeder, objective=run.objective)
        self._losses[f"epoch_{epoch}"] = found.loss_N

    def finished(self, run: Run) -> None:
        """Write the table."""
        del run
        columns = {IRREDUCIBLE_LOSS: self._irreducible_N, **self._losses}
        ScoreTable(
            ids_N=self._examples.ids_N.numpy(),
            columns={name: values.numpy() for name, values in columns.items()},
            provenance={"kind": "losses"},
        ).write(self._path)

    def state_dict(self) -> dict[str, Any]:
        """What was seen so far."""
        return dict(self._losses)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self._losses = dict(state)
