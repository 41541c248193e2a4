"""The step log: one row per training step, kept in parts until the run is finished.

A row holds nothing that depends on the clock, so a resumed run's log equals an unbroken one's.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from goldiprox.records.files import whole_file
from goldiprox.schema import CheckpointError, NonFinite, Selection, id_list

__all__ = ["SCHEMA", "StepLog", "read_steps"]

SCHEMA = pa.schema(
    [
        ("step", pa.int64()),
        ("epoch", pa.int32()),
        ("pool_size", pa.int32()),
        ("ids", pa.list_(pa.int64())),
        ("weights", pa.list_(pa.float32())),
        ("lr", pa.float64()),
        ("loss", pa.float32()),
        ("already_correct", pa.int32()),
        ("corrupted", pa.int32()),
        ("score_mean", pa.float32()),
        ("score_min", pa.float32()),
        ("score_max", pa.float32()),
        ("score_chosen_mean", pa.float32()),
    ]
)
"""Counts are of the chosen examples; ``loss`` is their mean training loss in nats before the step;
``weights`` is null where all are one, and scores are null where the method has none."""

MERGED = "steps.parquet"
PARTS = "steps"


@dataclass(frozen=True, kw_only=True)
class StepRecord:
    """One step as the loop hands it over; tensors stay on the device until the log is flushed."""

    step: int
    epoch: int
    lr: float
    selection: Selection
    pool_size: int
    loss_k: Tensor
    correct_k: Tensor


class StepLog:
    """Collects steps and writes them out in parts, so that a long log does not sit in memory.

    Args:
        folder: the run's folder; None keeps nothing but still checks the losses.
        corrupted: from ids_k (on the CPU) to how many of them have a wrong label.
    """

    def __init__(self, folder: Path | None, corrupted: Callable[[Tensor], int]) -> None:
        self._folder = folder
        self._corrupted = corrupted
        self._pending: list[StepRecord] = []
        self._rows: list[dict[str, Any]] = []

    def add(self, record: StepRecord) -> None:
        """Keep a step until the next flush; no synchronisation with the device."""
        self._pending.append(record)

    def __len__(self) -> int:
        return len(self._pending)

    def settle(self) -> None:
        """Bring pending steps to the CPU.

        Raises:
            NonFinite: naming the first step whose training loss is NaN or infinite, and its ids.
        """
        pending, self._pending = self._pending, []
        if not pending:
            return
        losses = torch.stack([r.loss_k.mean() for r in pending]).cpu()
        for record, loss in zip(pending, losses.tolist(), strict=True):
            if loss != loss or abs(loss) == float("inf"):
                bad_k = ~torch.isfinite(record.loss_k)
                ids = record.selection.ids_k.to(bad_k.device)[bad_k].cpu()
                raise NonFinite(
                    f"training loss became NaN or infinite at step {record.step} "
                    f"(ids {id_list(ids)}); lower the learning rate, or look at these examples"
                )
            self._rows.append(self._row(record, loss))

    def write_part(self) -> None:
        """Write what is settled as one part."""
        self.settle()
        if self._folder is None or not self._rows:
            self._rows.clear()
            return
        first, last = self._rows[0]["step"], self._rows[-1]["step"]
        table = pa.Table.from_pylist(self._rows, schema=SCHEMA)
        with whole_file(self._folder / PARTS / f"{first:012d}-{last:012d}.parquet") as temporary:
            pq.write_table(table, temporary, compression="zstd")
        self._rows.clear()

    def cut(self, step: int) -> None:
        """Drop what lies at or beyond a step: it is about to be run again."""
        if self._folder is None:
            return
        for part in _parts(self._folder):
            if int(part.stem.split("-")[1]) >= step:
                part.unlink()

    def merge(self) -> None:
        """Join the parts into one file, the same bytes however the run was interrupted.

        The parts stay: killed before its last record is written, the run goes on from them.
        """
        self.write_part()
        if self._folder is None:
            return
        parts = _parts(self._folder)
        table = (
            pa.concat_tables([pq.read_table(p) for p in parts]) if parts else SCHEMA.empty_table()
        )
        with whole_file(self._folder / MERGED) as temporary:
            pq.write_table(table.combine_chunks(), temporary, compression="zstd")

    def drop_parts(self) -> None:
        """Delete the parts, once the run is finished: until then a resumed run needs them."""
        if self._folder is not None and (self._folder / PARTS).exists():
            shutil.rmtree(self._folder / PARTS)

    def _row(self, record: StepRecord, loss: float) -> dict[str, Any]:
        selection = record.selection
        ids = selection.ids_k.cpu()
        weights = selection.weights_k.cpu()
        row: dict[str, Any] = {
            "step": record.step,
            "epoch": record.epoch,
            "pool_size": record.pool_size,
            "ids": ids.numpy(),
            "weights": None if bool((weights == 1).all()) else weights.numpy(),
            "lr": record.lr,
            "loss": loss,
            "already_correct": int(record.correct_k.sum()),
            "corrupted": self._corrupted(ids),
        }
        if selection.scores_B is not None and len(selection):
            scores_B = selection.scores_B.cpu()
            low, high = torch.aminmax(scores_B)
            row |= {
                "score_mean": float(scores_B.mean()),
                "score_min": float(low),
                "score_max": float(high),
                "score_chosen_mean": float(scores_B[selection.positions_k.cpu()].mean()),
            }
        return row


def read_steps(folder: Path) -> pa.Table:
    """The step log of a finished run.

    Raises:
        CheckpointError: if it is absent or damaged.
    """
    path = folder / MERGED
    try:
        return pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise CheckpointError(
            f"step log {path} is absent or damaged; delete {folder} to run it again"
        ) from error


def _parts(folder: Path) -> list[Path]:
    return sorted((folder / PARTS).glob("[0-9]*.parquet"))
