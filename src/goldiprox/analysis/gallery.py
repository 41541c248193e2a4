"""Which examples a comparison chose most and least often, with their pictures, kept for reports."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from goldiprox.data.splits import Splits
from goldiprox.records.examples import write_examples
from goldiprox.records.runs import RunFolder
from goldiprox.records.steplog import read_steps
from goldiprox.records.tables import IRREDUCIBLE_LOSS, Table
from goldiprox.seeds import stream
from goldiprox.selection.ranking import ranked, tie_key

__all__ = ["collect_gallery"]

SHOWN = 16

SCHEMA = pa.schema(
    [
        ("method", pa.string()),
        ("group", pa.string()),
        ("id", pa.int64()),
        ("png", pa.binary()),
        ("label", pa.string()),
        ("true_label", pa.string()),
        ("corrupted", pa.bool_()),
        ("times_chosen", pa.float64()),
        ("irreducible_loss", pa.float32()),
    ]
)
"""``group`` is ``most-chosen``, ``least-chosen`` (per method) or ``highest-irreducible``."""


def collect_gallery(
    folders: Sequence[RunFolder], splits: Splits, table: Table | None, path: Path
) -> None:
    """Write the examples worth looking at, with thumbnails, as one Parquet file.

    Args:
        folders: finished runs.
        splits: the data they trained on.
        table: irreducible losses, where there are any.
        path: where to write.
    """
    train = splits.train
    ids_N = train.ids_N.numpy()
    irreducible_N: npt.NDArray[Any] | None = None
    if table is not None:
        irreducible_N = table.column_for(IRREDUCIBLE_LOSS, train.ids_N, "make it again").numpy()
    rows: list[dict[str, Any]] = []

    def add(method: str, group: str, positions: npt.NDArray[Any], times: Any) -> None:
        for position in positions.tolist():
            label, true = int(train.targets_N[position]), int(train.true_targets_N[position])
            row = {
                "method": method,
                "group": group,
                "id": int(ids_N[position]),
                "png": train.store.thumbnail(int(train.rows_N[position])),
                "label": splits.dataset.class_names[label],
                "true_label": splits.dataset.class_names[true],
                "corrupted": label != true,
                "times_chosen": None if times is None else float(times[position]),
                "irreducible_loss": None
                if irreducible_N is None
                else float(irreducible_N[position]),
            }
            rows.append(row)

    for method, counts_N in _times_chosen(folders, splits).items():
        # Most examples tie, being never chosen; which of them are shown differs for each method.
        order = ranked(torch.from_numpy(counts_N), train.ids_N, _key(method)).numpy()
        add(method, "most-chosen", order[:SHOWN], counts_N)
        add(method, "least-chosen", order[::-1][:SHOWN], counts_N)
    if irreducible_N is not None:
        highest = ranked(torch.from_numpy(irreducible_N), train.ids_N, _key("irreducible"))
        add("", "highest-irreducible", highest[:SHOWN].numpy(), None)
    write_examples(path, pa.Table.from_pylist(rows, schema=SCHEMA))


def _key(what: str) -> int:
    return tie_key(stream(0, "gallery", what))


def _times_chosen(
    folders: Sequence[RunFolder], splits: Splits
) -> dict[str, npt.NDArray[np.float64]]:
    """For each method that selects, how often a run chose each training example, mean over runs."""
    size = int(splits.train.ids_N.max()) + 1
    totals: dict[str, npt.NDArray[np.float64]] = {}
    runs: dict[str, int] = {}
    for folder in folders:
        arm = folder.manifest()["arm"]
        if arm.startswith("uniform"):
            continue
        ids = read_steps(folder.path)["ids"].combine_chunks().flatten().to_numpy()
        counts = np.bincount(ids, minlength=size)[splits.train.ids_N.numpy()]
        totals[arm] = totals.get(arm, np.zeros(len(splits.train))) + counts
        runs[arm] = runs.get(arm, 0) + 1
    return {arm: total / runs[arm] for arm, total in totals.items()}
