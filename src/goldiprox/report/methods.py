"""The table of methods, for the terminal."""

from __future__ import annotations

from rich.table import Table

from goldiprox.selection.methods import METHODS
from goldiprox.selection.variants import MODIFIERS

__all__ = ["methods_table", "variants_table"]


def methods_table() -> Table:
    """Name, what is chosen, needs, cost and source of every registered method."""
    table = Table(title="Selection methods")
    for column in ("method", "chooses", "needs", "cost beyond the training step", "source"):
        table.add_column(column, no_wrap=column == "method")
    for name, entry in METHODS.items():
        needs = ", ".join(sorted(entry.needs)) or "nothing"
        table.add_row(name, entry.summary, needs, entry.cost, entry.source)
    return table


def variants_table() -> Table:
    """What may stand behind a method's name, and what it takes."""
    table = Table(title="Variants, as in rho-loss@gumbel=0.5 or uniform@filtered")
    for column in ("variant", "chooses", "value"):
        table.add_column(column, no_wrap=column == "variant")
    for name, modifier in MODIFIERS.items():
        value = "none" if modifier.default is None else f"{modifier.value}; {modifier.default:g}"
        table.add_row(f"@{name}", modifier.summary, value)
    return table
