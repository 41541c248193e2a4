"""The step log: one row per training step, kept in parts until the run is finished.

A row holds nothing that depends on the clock, so a resumed run's log equals an unbroken one's.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor
from torch.nn import functional as F

from goldiprox.records.files import whole_file
from goldiprox.schema import CheckpointError, NonFinite, Selection, id_list

__all__ = ["MARKS", "SCHEMA", "StepLog", "read_steps"]

MARKS = ("corrupted", "low_relevance", "ambiguous")
"""What an example may be known to be; the log counts how many of the chosen are."""

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
        *((mark, pa.int32()) for mark in MARKS),
        ("score_mean", pa.float32()),
        ("score_min", pa.float32()),
        ("score_max", pa.float32()),
        ("score_chosen_mean", pa.float32()),
    ]
)
"""Counts are of the chosen examples; ``loss`` is their mean training loss in nats before the step;
``weights`` is null where all are one, scores are null where the method has none, and a mark's
count is null where nothing is known of it."""

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
    logits_kC: Tensor
    targets_k: Tensor

    @property
    def loss_k(self) -> Tensor:
        """Cross-entropy of each chosen example before the step, nats.

        Made on demand: training needs the mean alone, the log makes those of many steps at once.
        """
        return F.cross_entropy(self.logits_kC, self.targets_k, reduction="none")


class StepLog:
    """Collects steps and writes them out in parts, so that a long log does not sit in memory.

    Args:
        folder: the run's folder; None keeps nothing but still checks the losses.
        marks: from ids (on the CPU) to whether each is marked, by mark; of :data:`MARKS` those that
            are known.
    """

    def __init__(
        self, folder: Path | None, marks: Callable[[Tensor], Mapping[str, Tensor]]
    ) -> None:
        self._folder = folder
        self._marks = marks
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
        # All steps in one transfer and one pass each: a row by itself would cost a dozen kernels.
        chosen = [record.selection for record in pending]
        logits = torch.cat([record.logits_kC for record in pending])
        targets = torch.cat([record.targets_k for record in pending])
        losses = _Segments([F.cross_entropy(logits, targets, reduction="none")])
        marks = self._marks(torch.cat([c.ids_k.cpu() for c in chosen]))
        counts = [len(c) for c in chosen]
        correct = _Segments([logits.argmax(1) == targets])
        columns: dict[str, list[Any]] = {
            "loss": losses.cut(counts).means(),
            "already_correct": correct.cut(counts).sums(),
            **{mark: _Segments([marked]).cut(counts).sums() for mark, marked in marks.items()},
            "ids": _Segments([c.ids_k for c in chosen]).arrays(),
            "weights": _Segments([c.weights_k for c in chosen]).arrays(),
        }
        for number, record in enumerate(pending):
            if not math.isfinite(columns["loss"][number]):
                bad_k = ~torch.isfinite(record.loss_k)
                ids = record.selection.ids_k.to(bad_k.device)[bad_k].cpu()
                raise NonFinite(
                    f"training loss became NaN or infinite at step {record.step} "
                    f"(ids {id_list(ids)}); lower the learning rate, or look at these examples"
                )
            row = {name: values[number] for name, values in columns.items()}
            if not record.selection.weighted:
                row["weights"] = None
            row |= {key: getattr(record, key) for key in ("step", "epoch", "pool_size", "lr")}
            self._rows.append(row | _score_summary(record.selection))

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


class _Segments:
    """Vectors of several steps, brought to the CPU together and reduced step by step."""

    def __init__(self, parts: list[Tensor]) -> None:
        self._lengths = [int(part.shape[0]) for part in parts]
        self._values: npt.NDArray[Any] = torch.cat(parts).cpu().numpy()

    def cut(self, lengths: list[int]) -> _Segments:
        """The same values, cut into other lengths."""
        self._lengths = lengths
        return self

    def arrays(self) -> list[npt.NDArray[Any]]:
        """The vectors themselves."""
        return np.split(self._values, np.cumsum(self._lengths)[:-1])

    def sums(self) -> list[int]:
        """How many are true in each."""
        return [int(part.sum()) for part in self.arrays()]

    def means(self) -> list[float]:
        """The mean of each, summed in float64."""
        return [float(part.mean(dtype=np.float64)) for part in self.arrays()]


def _score_summary(selection: Selection) -> dict[str, float]:
    """Nothing, where the method has no scores or chose nothing."""
    if selection.scores_B is None or not len(selection):
        return {}
    scores_B = selection.scores_B.cpu().numpy()
    return {
        "score_mean": float(scores_B.mean(dtype=np.float64)),
        "score_min": float(scores_B.min()),
        "score_max": float(scores_B.max()),
        "score_chosen_mean": float(
            scores_B[selection.positions_k.cpu().numpy()].mean(dtype=np.float64)
        ),
    }


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
