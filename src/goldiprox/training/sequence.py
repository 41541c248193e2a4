"""GoldiProx: record the batches that one run chose, and train any other model on them.

Source: Mindermann et al. 2021, "GoldiProx: prioritized learning on points that are learnable,
worth learning and not yet learned".
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from goldiprox.config import TrainConfig
from goldiprox.records.parts import Parts
from goldiprox.records.sequences import (
    GROUP_PICKS,
    SCHEMA,
    BatchSequence,
    Part,
    SequenceStep,
    pool_digest,
    write_sequence,
)
from goldiprox.records.steplog import StepRecord
from goldiprox.schema import ConfigError, Selection, SequenceError
from goldiprox.selection.plans import Course, Draw, Plan, PlanFactory, ShuffledPools
from goldiprox.training.hooks import Hook
from goldiprox.training.run import Run

__all__ = ["Recorder", "drop_recorded", "replay", "replay_config", "write_recorded"]

SETTLE_EVERY = 64
"""Steps between transfers of what was chosen from the device."""


class Recorder(Hook):
    """Keeps what each step of a run chose, in parts beside the run's log.

    Parts are written at every checkpoint and whenever they grow large; :func:`write_recorded`
    joins them once the run is finished. An interrupted run gives the same sequence.

    Args:
        folder: where the parts are kept; the run's own.
    """

    def __init__(self, folder: Path) -> None:
        self._parts = _parts(folder)
        self._pending: list[tuple[int, int, str, Selection]] = []
        self._tables: list[pa.Table] = []
        self._picks = 0

    def started(self, run: Run) -> None:
        """Drop what is about to be run again.

        Raises:
            SequenceError: if steps were done before without being recorded, or what was recorded is
                damaged or of another run.
        """
        self._parts.cut(run.first, run.step)

    def stepped(self, run: Run, record: StepRecord) -> None:
        """Keep a step; its ids stay on the device for a while."""
        assert run.drawn is not None
        pool = pool_digest(run.task.train.ids_N[run.drawn.positions_B])
        self._pending.append((record.step, record.epoch, pool, record.selection))
        if len(self._pending) >= SETTLE_EVERY:
            self._settle()
            if self._picks >= GROUP_PICKS:
                self._write_part()

    def finished(self, run: Run) -> None:
        """Write the last part."""
        del run
        self._write_part()

    def state_dict(self) -> dict[str, Any]:
        """Everything up to the checkpoint is on disk then; nothing else has to be kept."""
        self._write_part()
        return {}

    def _settle(self) -> None:
        """Bring pending steps to the CPU, all in one transfer each."""
        pending, self._pending = self._pending, []
        if not pending:
            return
        chosen = [selection for *_, selection in pending]
        offsets = np.cumsum([0, *map(len, chosen)], dtype=np.int32)
        ids = torch.cat([c.ids_k for c in chosen]).cpu().numpy()
        positions = torch.cat([c.positions_k for c in chosen]).cpu().numpy().astype(np.int32)
        columns = {
            "step": pa.array([step for step, *_ in pending], pa.int64()),
            "epoch": pa.array([epoch for _, epoch, *_ in pending], pa.int32()),
            "pool": pa.array([pool for _, _, pool, _ in pending], pa.string()),
            "ids": pa.ListArray.from_arrays(offsets, pa.array(ids)),
            "positions": pa.ListArray.from_arrays(offsets, pa.array(positions)),
            "weights": _weights(chosen),
        }
        self._tables.append(pa.table(columns, schema=SCHEMA))
        self._picks += int(offsets[-1])

    def _write_part(self) -> None:
        self._settle()
        if not self._tables:
            return
        self._parts.write(pa.concat_tables(self._tables))
        self._tables.clear()
        self._picks = 0


def _weights(chosen: list[Selection]) -> pa.Array:
    """Weights where a step has any but ones, null elsewhere."""
    weighted = [c for c in chosen if c.weighted]
    flat = torch.cat([c.weights_k for c in weighted]).cpu() if weighted else torch.empty(0)
    # A null list begins with a null offset; the last offset ends the last list.
    lengths = [len(c) if c.weighted else 0 for c in chosen]
    starts = np.cumsum([0, *lengths]).tolist()
    offsets = [start if c.weighted else None for start, c in zip(starts[:-1], chosen, strict=True)]
    return pa.ListArray.from_arrays(
        pa.array([*offsets, starts[-1]], pa.int32()), pa.array(flat.float().numpy())
    )


def write_recorded(folder: Path, out: Path, provenance: dict[str, Any]) -> None:
    """Join the parts of a finished run's recording into one sequence.

    The parts stay until :func:`drop_recorded`.

    Args:
        folder: given to the :class:`Recorder`.
        out: the sequence to write.
        provenance: of the run; ``steps`` says how many it had.

    Raises:
        SequenceError: if steps are missing.
    """
    steps = int(provenance["steps"])
    parts = _parts(folder)
    parts.require(0, steps)
    write_sequence(out, parts.tables(), [Part(rows=steps, provenance=provenance)])


def drop_recorded(folder: Path) -> None:
    """Delete the parts, once nothing needs them any more."""
    _parts(folder).drop()


def replay(sequence: BatchSequence) -> PlanFactory:
    """A plan that draws exactly what a sequence recorded, for ``train(..., plan=...)``.

    Args:
        sequence: recorded on the same examples.

    Returns:
        The plan; it streams the sequence, and refuses a step whose pool or ids are other ones.
    """
    return lambda course: _Replay(course, sequence)


class _Replay(Plan):
    """Draws the recorded pool of a step and, of it, the recorded choice."""

    observes = False

    def __init__(self, course: Course, sequence: BatchSequence) -> None:
        self._course = course
        self._sequence = sequence
        self._steps: Iterator[SequenceStep] = iter(())
        self._next = -1
        self._part: Part | None = None
        self._pools: ShuffledPools | None = None
        self._sorted_N, self._order_N = course.ids_N.sort()

    def draw(self, step: int) -> Draw:
        """The recorded choice of a row of the sequence, with the pool it was chosen from.

        Raises:
            SequenceError: if the sequence ends before, or was recorded on other pools.
        """
        if step != self._next:  # the first step, or the first after a checkpoint
            self._steps = self._sequence.steps(step)
        row = next(self._steps, None)
        if row is None:
            raise SequenceError(
                f"sequence {self._sequence.path} ends after {len(self._sequence)} steps, and step "
                f"{step} is asked for"
            )
        self._next = step + 1
        positions_B = self._pool(row, self._sequence.part_of(step))
        positions_k = torch.from_numpy(row.positions_k.astype(np.int64))
        if positions_B is None:
            raise self._refusal(step, row, "its pool is not the one this data gives")
        ids_B = self._course.ids_N[positions_B]
        inside = bool((positions_k < len(ids_B)).all() and (positions_k >= 0).all())
        if not inside or not np.array_equal(ids_B[positions_k].numpy(), row.ids_k):
            raise self._refusal(step, row, "its ids are not at their places in the pool")
        weights_k = None if row.weights_k is None else torch.from_numpy(row.weights_k.copy())
        return Draw(
            positions_B=positions_B,
            k=len(positions_k),
            chosen=Selection.of(ids_B, positions_k, weights_k),
        )

    def _pool(self, row: SequenceStep, part: Part) -> Tensor | None:
        """Positions of a pool whose digest is the recorded one; None if there is none to be had.

        Drawn again from the recorded seed; or, for methods that train on all they draw (their
        draws may depend on losses), put together from the choice itself.
        """
        if part is not self._part:
            known = part.provenance
            course = replace(
                self._course, pool=known["pool"], batch=known["batch"], seed=known["seed"]
            )
            self._part, self._pools = part, ShuffledPools(course)
        assert self._pools is not None
        positions_B = self._pools.draw(row.step).positions_B
        if pool_digest(self._course.ids_N[positions_B]) == row.pool:
            return positions_B
        if not np.array_equal(np.sort(row.positions_k), np.arange(len(row.positions_k))):
            return None
        ids_B = torch.empty(len(row.ids_k), dtype=torch.int64)
        ids_B[torch.from_numpy(row.positions_k.astype(np.int64))] = torch.from_numpy(
            row.ids_k.copy()
        )
        at = torch.searchsorted(self._sorted_N, ids_B).clamp(max=len(self._sorted_N) - 1)
        known_ids = torch.equal(self._sorted_N[at], ids_B)
        return self._order_N[at] if known_ids and pool_digest(ids_B) == row.pool else None

    def _refusal(self, step: int, row: SequenceStep, what: str) -> SequenceError:
        return SequenceError(
            f"sequence {self._sequence.path} does not fit at step {step} (recorded as step "
            f"{row.step}): {what} (pool digest {row.pool}); replay it on the data, labels and "
            "split it was recorded on, or record it again"
        )

    def observe(self, draw: Draw, chosen: Selection, loss_k: Tensor) -> None:
        """Nothing to learn."""

    def state_dict(self) -> dict[str, Any]:
        """Nothing to keep: a step's draw depends on its number alone."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to restore."""


def replay_config(config: TrainConfig, sequence: BatchSequence) -> TrainConfig:
    """Settings of a run that replays a sequence: what is chosen comes from there.

    Model, optimizer, seed of weights and the like are the run's own. ``steps`` may replay less
    than the whole; a schedule then decays within these steps.

    Args:
        config: as given; ``method``, ``batch``, ``pool`` and ``epochs`` must be the defaults or
            the recorded ones.
        sequence: to be replayed.

    Returns:
        The same with the recorded batch and pool, and the method that scores nothing.

    Raises:
        ConfigError: if a setting contradicts the sequence.
    """
    known = sequence.provenance
    default = {field.name: field.default for field in fields(TrainConfig)}
    for name in ("method", "batch", "pool", "epochs"):
        value, recorded = getattr(config, name), known.get(name)
        if value not in (default[name], recorded):
            raise ConfigError(
                f"--{name} {value} contradicts --replay: {sequence.path} was recorded with "
                f"{recorded}; leave it out"
                + (", and give --steps to replay a part" if name == "epochs" else "")
            )
    if config.steps is not None and config.steps > len(sequence):
        raise ConfigError(
            f"--steps {config.steps} is more than the {len(sequence)} steps of {sequence.path}; "
            "give fewer, or join sequences with: goldiprox sequence join"
        )
    return replace(
        config,
        method="uniform",  # draws its pools without a forward pass; the plan has chosen already
        batch=known["batch"],
        pool=known["pool"],
        steps=config.steps or len(sequence),
    )


def _parts(folder: Path) -> Parts:
    return Parts(
        folder.parent,
        folder.name,
        "recording",
        "delete the run's folder to record it from its start",
        SequenceError,
    )
