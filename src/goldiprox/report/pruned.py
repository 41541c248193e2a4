"""What pruning took, for the terminal."""

from __future__ import annotations

from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from goldiprox.report import formats

__all__ = ["loss_warnings", "losses_table"]


def losses_table(name: str, rows: list[dict[str, Any]]) -> Table:
    """One row a class or group: how many there were, are left, and were removed.

    Args:
        name: what the rows are: ``class``, or a group's column.
        rows: as :func:`goldiprox.workflows.prune.prune_scores` returns them.
    """
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column(name, overflow="fold")
    for heading in ("before", "kept", "removed", "removed %", ""):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(
            Text(row["name"]),
            *(formats.count(row[key]) for key in ("before", "kept", "removed")),
            formats.accuracy(row["share_removed"]),
            "far more than its share" if row["excessive"] else "",
        )
    return table


def loss_warnings(name: str, rows: list[dict[str, Any]]) -> list[str]:
    """A sentence for each class or group that loses far more than its share."""
    total = sum(row["before"] for row in rows)
    removed = sum(row["removed"] for row in rows)
    return [
        f"warning: {name} {row['name']} loses {formats.share(row['share_removed'])} of its "
        f"examples, all together lose {formats.share(removed / total)}; consider --balanced"
        for row in rows
        if row["excessive"]
    ]
