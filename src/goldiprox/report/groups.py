"""The table of groups: what each method chose of them, and its accuracy on them."""

from __future__ import annotations

from goldiprox.analysis.comparison import Comparison
from goldiprox.analysis.quantities import Spread
from goldiprox.report import formats
from goldiprox.report.tables import Cell, Column, Row

__all__ = ["group_table"]

MOST_GROUPS = 50
"""The page shows so many groups, the largest ones; ``comparison.json`` holds all."""


def group_table(comparison: Comparison) -> tuple[list[Column], list[Row], int] | None:
    """A row a group.

    Args:
        comparison: the comparison.

    Returns:
        Columns, rows, and how many smaller groups are left out; None where there are no groups.
    """
    audited = [(entry.method, entry.groups) for entry in comparison.methods if entry.groups]
    if not audited:
        return None
    pools = {group.name: group.share_in_pool for group in audited[0][1]}
    tested = any(group.final_accuracy for group in audited[0][1])
    shares, accuracies = "of what was chosen, %", "final test accuracy, %"
    columns = [Column(key="pool", heading="training set", unit="%")]
    columns += [
        Column(key=f"chosen-{method}", heading=method, group=shares) for method, _ in audited
    ]
    if tested:
        columns += [
            Column(key=f"accuracy-{method}", heading=method, group=accuracies)
            for method, _ in audited
        ]
    by_name = [{group.name: group for group in groups} for _, groups in audited]
    names = sorted(pools, key=lambda name: -pools[name])
    rows = []
    for name in names[:MOST_GROUPS]:
        spreads: list[Spread | None] = [groups[name].share_chosen for groups in by_name]
        if tested:
            spreads += [groups[name].final_accuracy for groups in by_name]
        cells = [Cell(key="pool", text=formats.accuracy(pools[name]), value=pools[name])]
        cells += [
            Cell(key=column.key, text=formats.DASH)
            if spread is None
            else Cell(key=column.key, text=formats.metric_spread(spread), value=spread.mean)
            for column, spread in zip(columns[1:], spreads, strict=True)
        ]
        rows.append(Row(name=name, cells=cells))
    return columns, rows, len(names) - len(rows)
