"""Which examples a comparison chose most and least often, as a page shows them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor

from goldiprox.data.splits import Splits
from goldiprox.data.store import Dataset, Store
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
        ("text", pa.string()),
        ("label", pa.string()),
        ("true_label", pa.string()),
        ("corrupted", pa.bool_()),
        ("times_chosen", pa.float64()),
        ("irreducible_loss", pa.float32()),
    ]
)
"""``group`` is ``most-chosen``, ``least-chosen`` (per method) or ``highest-irreducible``; ``png``
is a thumbnail, or ``text`` what a text or a row of a table says."""

LONGEST = 280
"""Characters of a text that are shown."""

MOST_NUMBERS = 4
"""Numbers of a target that are shown."""


def collect_gallery(
    folders: Sequence[RunFolder], splits: Splits, table: Table | None, path: Path
) -> None:
    """Write the examples worth looking at, with thumbnails or texts, as one Parquet file.

    Args:
        folders: finished runs.
        splits: the data they trained on.
        table: irreducible losses, where there are any.
        path: where to write.
    """
    train = splits.train
    ids_N, corrupted_N = train.ids_N.numpy(), train.corrupted_N
    irreducible_N: npt.NDArray[Any] | None = None
    if table is not None:
        irreducible_N = table.column_for(IRREDUCIBLE_LOSS, train.ids_N, "make it again").numpy()
    rows: list[dict[str, Any]] = []

    def add(method: str, group: str, positions: npt.NDArray[Any], times: Any) -> None:
        for position in positions.tolist():
            picture, text = _shown(train.store, int(train.rows_N[position]))
            row = {
                "method": method,
                "group": group,
                "id": int(ids_N[position]),
                "png": picture,
                "text": text,
                "label": _written(train.targets_N[position], splits.dataset),
                "true_label": _written(train.true_targets_N[position], splits.dataset),
                "corrupted": bool(corrupted_N[position]),
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


def _shown(store: Store, row: int) -> tuple[bytes | None, str | None]:
    """An example as a picture, or as what it says."""
    describe = getattr(store, "describe_row", None)
    if not callable(describe):
        return store.thumbnail(row), None
    text: str = describe(row)
    return None, text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def _written(target: Tensor, dataset: Dataset) -> str:
    """What is to be predicted of an example, for people."""
    names = dataset.class_names
    if dataset.targets == "classes":
        return names[int(target)]
    if dataset.targets == "label sets":
        there = [name for name, share in zip(names, target.tolist(), strict=True) if share > 0.5]
        return ", ".join(there) or "no label"
    if dataset.targets == "tensors":
        return f"a target of shape {tuple(target.shape)}"
    if target.dim() == 0:
        return _number(float(target))
    pairs = [
        f"{name} {_number(value)}" for name, value in zip(names, target.tolist(), strict=False)
    ]
    return ", ".join(pairs[:MOST_NUMBERS]) + (", …" if len(pairs) > MOST_NUMBERS else "")


def _number(value: float) -> str:
    return f"{value:,.0f}" if 1e5 <= abs(value) < 1e15 else f"{value:.5g}"


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
