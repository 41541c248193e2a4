"""The step log: one row per training step, kept in parts until the run is finished.

A row holds nothing that depends on the clock, so a resumed run's log equals an unbroken one's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from goldiprox.guarded.parquet import read_parquet
from goldiprox.records.files import whole_file
from goldiprox.records.parts import Parts
from goldiprox.records.runs import RunFolder
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
"""Counts are of the chosen examples; ``loss`` is their mean training loss before the step;
``weights`` is null where all are one, ``already_correct`` where nothing is right or wrong, scores
where the method has none, and a mark's count where nothing is known of it."""

_PLAIN = ("step", "epoch", "pool_size", "lr")
"""What a record holds as plain numbers."""

MERGED = "steps.parquet"
PARTS = "steps"


@dataclass(frozen=True, kw_only=True)
class StepRecord:
    """One step as the loop hands it over; tensors stay on the device until the log is flushed.

    Attributes:
        step: its number.
        epoch: passes over the pools before it.
        lr: learning rate.
        selection: what was chosen.
        pool_size: how many candidates there were.
        loss_k: training loss of each chosen example before the step.
        correct_k: bool, whether each was predicted correctly before the step; None where the
            objective knows no right or wrong.
    """

    step: int
    epoch: int
    lr: float | None
    selection: Selection
    pool_size: int
    loss_k: Tensor
    correct_k: Tensor | None


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
        self._parts = None if folder is None else parts_of(folder)
        self._marks = marks
        self._start = self._stop = 0
        self._pending: list[StepRecord] = []
        self._settled: list[pa.Table] = []

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
        self._stop = pending[-1].step + 1
        # All steps in one transfer and one pass each: a row by itself would cost a dozen kernels.
        chosen = [record.selection for record in pending]
        steps = _Steps([len(c) for c in chosen])
        loss = steps.means(_host([record.loss_k for record in pending]))
        if not np.isfinite(loss).all():
            _refuse(pending[int(np.argmin(np.isfinite(loss)))])
        ids = _host([c.ids_k for c in chosen])
        columns: dict[str, Any] = {
            **{key: [getattr(record, key) for record in pending] for key in _PLAIN},
            "ids": steps.lists(ids),
            "weights": _weights(chosen),
            "loss": loss,
            **_already_correct(steps, pending),
            **{
                mark: steps.sums(marked.numpy())
                for mark, marked in self._marks(torch.from_numpy(ids)).items()
            },
            **_score_summaries(chosen),
        }
        self._settled.append(
            pa.table(
                [
                    _typed(columns[field.name], field.type)
                    if field.name in columns
                    else pa.nulls(len(pending), field.type)
                    for field in SCHEMA
                ],
                schema=SCHEMA,
            )
        )

    def write_part(self) -> None:
        """Write what is settled as one part."""
        self.settle()
        settled, self._settled = self._settled, []
        if self._parts is None or not settled:
            return
        self._parts.write(pa.concat_tables(settled))

    def cut(self, step: int, start: int = 0) -> None:
        """Drop what lies at or beyond a step, which is about to be run again; check the rest.

        Args:
            step: the next to be done.
            start: the run's first.

        Raises:
            CheckpointError: if a part of the log is damaged, lost, or of another run.
        """
        self._start, self._stop = start, step
        if self._parts is not None:
            self._parts.cut(start, step)

    def merge(self) -> None:
        """Join the parts into one file, the same bytes however the run was interrupted.

        The parts stay: killed before its last record is written, the run goes on from them.

        Raises:
            CheckpointError: if a part of the log is damaged, lost, or of another run.
        """
        self.write_part()
        if self._folder is None or self._parts is None:
            return
        self._parts.require(self._start, self._stop)
        parts = list(self._parts.tables())
        table = pa.concat_tables(parts) if parts else SCHEMA.empty_table()
        with whole_file(self._folder / MERGED) as temporary:
            pq.write_table(
                table.combine_chunks(), temporary, compression="zstd", write_page_checksum=True
            )

    def drop_parts(self) -> None:
        """Delete the parts, once the run is finished: until then a resumed run needs them."""
        if self._parts is not None:
            self._parts.drop()


Values = npt.NDArray[Any]


class _Steps:
    """Several steps whose values stand one after another: reduced step by step, in one call."""

    def __init__(self, lengths: list[int]) -> None:
        self._lengths = np.asarray(lengths)
        self._ends = np.cumsum(self._lengths)

    def sums(self, values: Values) -> Values:
        """The sum of each step's values; how many are true, where they are truths."""
        return self.reduced(np.add, values.astype(np.int64))

    def means(self, values: Values) -> Values:
        """The mean of each step's values, summed in float64; NaN where there are none."""
        means = self.reduced(np.add, values.astype(np.float64), empty=np.nan)
        means /= np.maximum(self._lengths, 1)
        return means

    def reduced(self, how: np.ufunc, values: Values, empty: float = 0) -> Values:
        """One reduction of each step's values."""
        # The reduction of a step depends on its own values alone, not on what stands around it:
        # a resumed run, whose steps are settled in other groups, gets the same bits.
        some = self._lengths > 0
        found = np.full(len(some), empty, dtype=values.dtype)
        if some.any():
            found[some] = how.reduceat(values, self.starts()[some])
        return found

    def starts(self) -> Values:
        """Where each step's values begin."""
        starts: Values = self._ends - self._lengths
        return starts

    def lists(self, values: Values) -> pa.ListArray:
        """A list for each step."""
        offsets = np.concatenate([[0], self._ends]).astype(np.int32)
        return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values))


def _already_correct(steps: _Steps, pending: list[StepRecord]) -> dict[str, Values]:
    """How many of each step's examples were correct before it; nothing where that is unknown."""
    correct = [record.correct_k for record in pending if record.correct_k is not None]
    return {"already_correct": steps.sums(_host(correct))} if len(correct) == len(pending) else {}


def _host(parts: list[Tensor]) -> Values:
    """Vectors of several steps, joined and brought to the CPU together."""
    values: Values = torch.cat(parts).cpu().numpy()
    return values


def _typed(values: Any, kind: pa.DataType) -> pa.Array:
    """An Arrow array of the schema's type; what is an array already is handed through."""
    if isinstance(values, pa.Array):
        return values
    if isinstance(values, np.ndarray):
        return pa.array(values.astype(kind.to_pandas_dtype(), copy=False), kind)
    return pa.array(values, kind)


def _weights(chosen: list[Selection]) -> pa.Array:
    """The weights of each step; null where all are one."""
    kind = SCHEMA.field("weights").type
    if not any(c.weighted for c in chosen):
        return pa.nulls(len(chosen), kind)
    return pa.array([_host([c.weights_k]) if c.weighted else None for c in chosen], kind)


def _score_summaries(chosen: list[Selection]) -> dict[str, pa.Array]:
    """Of each step's scores; null where the method has none or chose nothing."""
    rows = [i for i, c in enumerate(chosen) if c.scores_B is not None and len(c)]
    if not rows:
        return {}
    scores_B = [s for i in rows if (s := chosen[i].scores_B) is not None]
    pools = _Steps([len(s) for s in scores_B])
    scores = _host(scores_B)
    positions = [chosen[i].positions_k for i in rows]
    steps = _Steps([len(p) for p in positions])
    places = _host(positions) + np.repeat(pools.starts(), [len(p) for p in positions])
    found = {
        "score_mean": pools.means(scores),
        "score_min": pools.reduced(np.minimum, scores),
        "score_max": pools.reduced(np.maximum, scores),
        "score_chosen_mean": steps.means(scores[places]),
    }
    absent = np.ones(len(chosen), dtype=bool)
    absent[rows] = False
    summaries = {}
    for name, values in found.items():
        spread = np.zeros(len(chosen), dtype=np.float32)
        spread[rows] = values
        summaries[name] = pa.array(spread, mask=absent)
    return summaries


def _refuse(record: StepRecord) -> NoReturn:
    bad_k = ~torch.isfinite(record.loss_k)
    ids = record.selection.ids_k.to(bad_k.device)[bad_k].cpu()
    raise NonFinite(
        f"training loss became NaN or infinite at step {record.step} "
        f"(ids {id_list(ids)}); lower the learning rate, or look at these examples"
    )


def read_steps(folder: Path) -> pa.Table:
    """The step log of a finished run, compared with the digest that the run has left.

    Raises:
        CheckpointError: if it is absent, damaged, or another run's.
    """
    path = folder / MERGED
    remedy = f"delete {folder} to run it again"
    if not path.exists():
        raise CheckpointError(f"step log {path} is absent; {remedy}")
    if RunFolder(folder).finished:
        RunFolder(folder).verify([MERGED])
    table = read_parquet(path, f"step log {path}", error=CheckpointError, remedy=remedy)
    if not table.schema.equals(SCHEMA):
        raise CheckpointError(f"step log {path} has other columns than it should; {remedy}")
    return table


def parts_of(folder: Path) -> Parts:
    """The parts of an unfinished run's log."""
    return Parts(folder, PARTS, "step log", f"delete {folder} to start the run over")
