"""The examples that a score calls easiest and hardest, class by class, to be looked at."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa

from goldiprox.data.splits import Splits
from goldiprox.records.examples import write_examples
from goldiprox.records.tables import ScoreTable
from goldiprox.seeds import stream
from goldiprox.selection.ranking import ranked, tie_key

__all__ = ["collect_extremes"]

SHOWN = 6

SCHEMA = pa.schema(
    [
        ("class", pa.string()),
        ("group", pa.string()),
        ("id", pa.int64()),
        ("png", pa.binary()),
        ("label", pa.string()),
        ("true_label", pa.string()),
        ("corrupted", pa.bool_()),
        ("score", pa.float32()),
    ]
)
"""``class`` is the label as trained on; ``group`` is ``lowest`` or ``highest``."""


def collect_extremes(splits: Splits, table: ScoreTable, by: str, path: Path) -> None:
    """Write each class's lowest and highest examples, with thumbnails, as one Parquet file.

    Args:
        splits: the data that was scored.
        table: its scores.
        by: the column to order by.
        path: where to write.
    """
    data, names = splits.full, splits.dataset.class_names
    scores_N = table.column_for(by, data.ids_N, "make it again with: goldiprox score")
    order = ranked(-scores_N, data.ids_N, tie_key(stream(0, "gallery", by))).numpy()
    labels = data.targets_N.numpy()[order]
    rows: list[dict[str, Any]] = []
    for number, name in enumerate(names):
        members = order[labels == number]
        for group, positions in (("lowest", members[:SHOWN]), ("highest", members[::-1][:SHOWN])):
            for position in positions.tolist():
                true = int(data.true_targets_N[position])
                rows.append(
                    {
                        "class": name,
                        "group": group,
                        "id": int(data.ids_N[position]),
                        "png": data.store.thumbnail(int(data.rows_N[position])),
                        "label": name,
                        "true_label": names[true],
                        "corrupted": true != number,
                        "score": float(scores_N[position]),
                    }
                )
    write_examples(path, pa.Table.from_pylist(rows, schema=SCHEMA))
