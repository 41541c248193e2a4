"""The table of methods, for the terminal."""

from __future__ import annotations

from rich.table import Table

from goldiprox.selection.methods import METHODS

__all__ = ["methods_table"]


def methods_table() -> Table:
    """Name, what is chosen, needs, cost and source of every registered method."""
    table = Table(title="Selection methods")
    for column in ("method", "chooses", "needs", "cost beyond the training step", "source"):
        table.add_column(column, no_wrap=column == "method")
    for name, entry in METHODS.items():
        needs = ", ".join(sorted(entry.needs)) or "nothing"
        table.add_row(name, entry.summary, needs, entry.cost, entry.source)
    return table
