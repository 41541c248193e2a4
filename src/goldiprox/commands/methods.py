"""The command that lists the methods."""

from __future__ import annotations

from rich.console import Console

from goldiprox.report.methods import methods_table, variants_table

__all__ = ["methods"]


def methods() -> None:
    """List every selection method: what it chooses, what it needs, what it costs, its source."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=140)
    console.print(methods_table())
    console.print(variants_table())
