"""Record a run's sequence, check one before it is replayed, and tell what one is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from goldiprox.config import TrainConfig
from goldiprox.data.splits import Splits
from goldiprox.records.files import read_json, sha256_of, write_json
from goldiprox.records.ledger import RUN_PHASES, Ledger
from goldiprox.records.runs import RunFolder
from goldiprox.records.sequences import BatchSequence
from goldiprox.records.tables import Table
from goldiprox.schema import SequenceError
from goldiprox.selection.plans import Course
from goldiprox.selection.ranking import ranked
from goldiprox.training.sequence import Recorder, drop_recorded, replay, write_recorded

__all__ = ["RECORDING", "Recording", "describe_sequence", "require_replayable"]

NOTE = "recorded.json"
"""In a run's folder: the digest of the sequence that it wrote."""

RECORDING = "sequence"
"""Folder, in a run's own, where parts of its sequence are kept until the run is finished."""


class Recording:
    """The recording of one run: refuses what would be lost or mixed up, and writes the sequence.

    Args:
        out: the sequence's file.
        folder: the run's.
        manifest: the run's; its ``config_hash`` says whether ``out`` is this run's sequence.

    Raises:
        SequenceError: if ``out`` is the sequence of another run, or the run is finished already and
            was not recorded.
    """

    def __init__(self, out: Path, folder: RunFolder, manifest: dict[str, Any]) -> None:
        self.out = out
        self._folder = folder
        self._manifest = manifest
        self._parts = folder.path / RECORDING
        written = out.exists()
        if written:
            sequence = BatchSequence.open(out)
            found = sequence.provenance.get("config_hash")
            if found != manifest["config_hash"]:
                raise SequenceError(
                    f"{out} is the sequence of another run; choose another --record, or delete it"
                )
        if folder.finished and written:
            self._require_as_written(sequence)
        if folder.finished and not written and not self._parts.exists():
            raise SequenceError(
                f"the run in {folder.path} is finished and its sequence {out} is gone; choose "
                "another --out, or delete the run's folder to record it anew"
            )

    def _require_as_written(self, sequence: BatchSequence) -> None:
        sequence.require_intact()
        note = self._folder.path / NOTE
        if note.exists() and read_json(note, {"sha256": str})["sha256"] != sequence.digest():
            raise SequenceError(
                f"{self.out} is damaged: it is not what the run in {self._folder.path} wrote; "
                "delete both to record it anew"
            )

    def hook(self) -> Recorder:
        """What the run is trained with."""
        return Recorder(self._parts)

    def write(self, splits: Splits, config: TrainConfig, table: Table | None) -> None:
        """Write the finished run's sequence, unless that was done before."""
        if not self._parts.exists():
            return
        paid = Ledger.from_json(self._folder.ledger()).total(RUN_PHASES)
        write_recorded(
            self._parts,
            self.out,
            {
                "dataset": splits.dataset.name,
                "fingerprint": splits.dataset.fingerprint,
                "label_digest": splits.train.label_digest(),
                "num_classes": splits.num_classes,
                "examples": len(splits.train),
                "method": config.method,
                "model": config.model,
                "seed": config.seed,
                "pool": config.pool_size,
                "batch": config.batch,
                "epochs": config.epochs,
                "steps": self._folder.result()["steps"],
                # No seconds: a sequence must not depend on how fast the machine was that day.
                "flops": paid.flops,
                "irreducible": None if table is None else _irreducible(table),
                "config": self._manifest["config"],
                "config_hash": self._manifest["config_hash"],
                "versions": self._folder.manifest()["versions"],
            },
        )
        # In this order: without its parts a sequence could not get its note any more.
        write_json(self._folder.path / NOTE, {"sha256": sha256_of(self.out)})
        drop_recorded(self._parts)


def _irreducible(table: Table) -> dict[str, Any]:
    keys = ("config_hash", "model", "label_digest")
    known = {key: table.provenance.get(key) for key in keys}
    return {**known, "flops": Ledger.from_json(table.provenance.get("ledger", {})).total().flops}


def require_replayable(sequence: BatchSequence, splits: Splits) -> None:
    """Refuse a sequence recorded on other data or labels, before anything is trained.

    Raises:
        SequenceError: naming what differs.
    """
    remedy = (
        "replay it on the data, noise, split and seed it was recorded on (see: goldiprox sequence "
        "show), or record one on this data"
    )
    sequence.require(remedy, num_classes=splits.num_classes)
    sequence.require(remedy, fingerprint=splits.dataset.fingerprint)
    sequence.require(remedy, label_digest=splits.train.label_digest())


def describe_sequence(path: Path, splits: Splits | None = None) -> dict[str, str]:
    """What a sequence is and holds; read in one stream, whatever its length.

    Args:
        path: the sequence.
        splits: data to check it against: fingerprint, labels, and the pool of every step.

    Returns:
        What to tell the user, in order.

    Raises:
        SequenceError: if it is damaged, or does not fit the data; the message names the step.
    """
    sequence = BatchSequence.open(path)
    if splits is not None:
        require_replayable(sequence, splits)
    told = {
        "sequence": f"{path} ({path.stat().st_size / 1e6:.3g} MB)",
        "steps": f"{len(sequence):,}",
    }
    for number, part in enumerate(sequence.parts, start=1):
        of = f" {number}" if len(sequence.parts) > 1 else ""
        told[f"recorded{of}"] = _run(part.rows, part.provenance)
    told |= {f"then {note['operation']}": _note(note) for note in sequence.history}
    known = sequence.provenance
    told["data"] = f"{known.get('dataset')}, {_data(known)}"
    told["fingerprint"] = str(known.get("fingerprint"))
    told["label digest"] = str(known.get("label_digest"))
    told |= _contents(sequence, splits)
    if splits is not None:
        _require_every_pool(sequence, splits)
        told["fits"] = f"yes: {splits.dataset.name}, its labels, and the pool of every step"
    return told


def _require_every_pool(sequence: BatchSequence, splits: Splits) -> None:
    known = sequence.provenance
    course = Course(
        ids_N=splits.train.ids_N,
        pool=known["pool"],
        batch=known["batch"],
        steps=len(sequence),
        seed=known["seed"],
    )
    plan = replay(sequence)(course)
    for step in range(len(sequence)):
        plan.draw(step)


def _run(rows: int, known: dict[str, Any]) -> str:
    table = known.get("irreducible")
    by = f", irreducible losses by {table['model']}" if table else ""
    return (
        f"{rows:,} of {known.get('steps', rows):,} steps of {known.get('model')} with "
        f"{known.get('method')}{by}; seed {known.get('seed')}, {known.get('batch')} of each "
        f"{known.get('pool')}; {known.get('flops', 0.0):.3g} FLOPs; goldiprox "
        f"{(known.get('versions') or {}).get('goldiprox')}"
    )


def _note(note: dict[str, Any]) -> str:
    if note["operation"] == "cut":
        return f"steps {note['start']} to {note['stop'] - 1} kept"
    if note["operation"] == "thin":
        return f"every {note['every']}-th step kept, from the first on"
    return f"{len(note['of'])} sequences one after the other"


def _data(known: dict[str, Any]) -> str:
    data = (known.get("config") or {}).get("data") or {}
    parts = [
        f"{known.get('examples', 0):,} training examples",
        f"{known.get('num_classes')} classes",
    ]
    if data.get("label_noise"):
        parts.append(f"label noise {data['label_noise']:g}")
    if data.get("duplicate", 1.0) != 1.0:
        parts.append(f"duplicated {data['duplicate']:g}x")
    if "data_seed" in data:
        parts.append(f"data seed {data['data_seed']}")
    return ", ".join(parts)


def _contents(sequence: BatchSequence, splits: Splits | None) -> dict[str, str]:
    """Counts over all steps, by the ids that there are: an odd one may be as high as it likes."""
    picks, weighted, wrong = 0, 0, 0
    seen: npt.NDArray[np.int64] = np.zeros(0, dtype=np.int64)
    counts: npt.NDArray[np.int64] = np.zeros(0, dtype=np.int64)
    epochs: set[int] = set()
    corrupted = None if splits is None else splits.train.ids_N[splits.train.corrupted_N].numpy()
    for _, table in sequence.tables():
        ids = table["ids"].combine_chunks().flatten().to_numpy()
        picks += len(ids)
        weighted += table.num_rows - table["weights"].null_count
        epochs.update(table["epoch"].unique().to_pylist())
        more, times = np.unique(ids, return_counts=True)
        seen, places = np.unique(np.concatenate([seen, more]), return_inverse=True)
        counts = np.bincount(places, np.concatenate([counts, times])).astype(np.int64)
        if corrupted is not None:
            wrong += int(np.isin(ids, corrupted).sum())
    often = ranked(torch.from_numpy(counts), torch.from_numpy(seen), 0)[:5].tolist()
    told = {
        "picks": f"{picks:,} of {len(counts):,} different examples, "
        f"{picks / len(sequence):.4g} a step, over {len(epochs)} epochs",
        "weights": f"in {weighted:,} steps" if weighted else "all one",
        "most often chosen": ", ".join(f"id {seen[i]} ({counts[i]}x)" for i in often),
    }
    if corrupted is not None and picks:
        told["wrong labels"] = f"{wrong / picks:.1%} of the picks"
    return told
