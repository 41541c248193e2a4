"""Prune a data set by a score table: write the ids to keep, say whom that hits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from goldiprox.precompute.data_diet import LABEL
from goldiprox.precompute.diet_scores import SCORES
from goldiprox.records.tables import ScoreTable
from goldiprox.schema import ConfigError, TableError
from goldiprox.selection.pruning import PruneRule, losses_by_group, prune

__all__ = ["prune_scores"]

REMEDY = "make the table again with: goldiprox score"


def prune_scores(
    table: ScoreTable,
    rule: PruneRule,
    out: Path,
    *,
    by: str | None = None,
    group: str | None = None,
    others: Sequence[ScoreTable] = (),
) -> dict[str, Any]:
    """Write what is kept as a table of its own, with the score it was kept by.

    Args:
        table: scores.
        rule: how to choose.
        out: the table to write.
        by: column (or score) to prune by; only ``random`` does without.
        group: a column with a number for each group, whose losses are told besides the classes'.
        others: further tables, joined to the first by id.

    Returns:
        ``kept`` and ``of`` (counts), ``losses``: by ``class`` and by the group's column, a list of
        rows ``name, before, kept, removed, share_removed, excessive``; ``direction``: lines that
        say which end of the score was kept and which dropped.

    Raises:
        TableError: if a column is missing, tables do not fit each other, or one of ``others`` lacks
            ids of the first.
        ConfigError: if a class would be pruned to nothing.
    """
    for other in others:
        # Joined by the ids in common: those that are absent would be pruned, and nobody told.
        other.rows(table.ids_N, "give that table first, to prune only what it covers")
        table = table.join(other)
    ids_N = torch.tensor(table.ids_N)  # a copy: what was read from a file is not writable
    column = None if by is None else _column(table, by)
    if column is None and rule.rule != "random":
        raise ConfigError(f"--rule {rule.rule} needs --by; the table has: {_scores(table)}")
    scores_N = (
        torch.zeros(len(table)) if column is None else table.column_for(column, ids_N, REMEDY)
    )
    classes_N = _whole(table, LABEL) if LABEL in table.columns else None
    if classes_N is None and rule.balanced:
        raise TableError(
            f"{table.path or 'the table'} has no column {LABEL}, so classes are unknown and "
            "--balanced is impossible; use a table made with: goldiprox score"
        )
    kept = prune(rule, scores_N, ids_N, classes_N)
    losses: dict[str, list[dict[str, Any]]] = {}
    if classes_N is not None:
        names = table.provenance.get("class_names")
        losses["class"] = _losses(classes_N, kept, names)
        _require_something_of_each(losses["class"], rule, column)
    if group is not None:
        losses[group] = _losses(_whole(table, _column(table, group)), kept, None)
    columns = {} if column is None else {column: table.columns[column][kept.numpy()]}
    note = {key: table.provenance.get(key) for key in ("dataset", "fingerprint", "label_digest")}
    ScoreTable(
        ids_N=table.ids_N[kept.numpy()],
        columns=columns,
        provenance={
            "kind": "kept",
            **note,
            "by": column,
            "rule": asdict(rule),
            "of": len(table),
            "scores": table.provenance.get("config_hash"),
        },
    ).write(out)
    return {
        "kept": len(kept),
        "of": len(table),
        "by": column,
        "losses": losses,
        "direction": _direction(table, column, rule, scores_N, kept),
    }


ENDS = {"highest": "the hardest", "lowest": "the easiest"}


def _direction(
    table: ScoreTable, column: str | None, rule: PruneRule, scores_N: Tensor, kept: Tensor
) -> list[str]:
    """Which end of the score was kept and which dropped, for people; nothing of a random choice."""
    if column is None or rule.rule == "random" or not len(kept):
        return []
    is_kept_N = torch.zeros(len(scores_N), dtype=torch.bool)
    is_kept_N[kept] = True
    dropped = scores_N[~is_kept_N]
    end = ENDS.get(rule.rule)
    what = f"the {rule.rule} {column}" if end else f"by {column} ({rule.rule})"
    ours = table.provenance.get("kind") == "scores"
    meaning = f", {end}" if end and ours else ""
    lines = [f"kept {what}{meaning}: {_extent(scores_N[kept])}"]
    if len(dropped):
        lines.append(f"dropped {len(dropped):,} with {column} {_extent(dropped)}")
    if any(entry.turned and column.startswith(entry.column) for entry in SCORES.values()):
        foreign = "; if this table has it as published, keep the hardest with --rule lowest"
        lines.append(
            f"{column} has its published sign turned in tables of goldiprox score: higher is harder"
            f"{'' if ours else foreign}"
        )
    return lines


def _extent(values: Tensor) -> str:
    return f"{float(values.min()):.4g} to {float(values.max()):.4g}"


def _column(table: ScoreTable, name: str) -> str:
    """A column by its name, or by the score's with hyphens."""
    for column in (name, name.replace("-", "_")):
        if column in table.columns:
            return column
    raise TableError(f"{table.path or 'the table'} has no column {name}; it has: {_scores(table)}")


def _scores(table: ScoreTable) -> str:
    names = [name for name in table.columns if name != LABEL and not name.endswith("_std")]
    return ", ".join(names) or "no scores"


def _whole(table: ScoreTable, column: str) -> Tensor:
    values = table.columns[column]
    whole = np.rint(values)
    if not np.array_equal(values, whole):
        raise TableError(
            f"{table.path or 'the table'}: {column} does not number groups, it holds "
            f"{values[values != whole][0]:g}"
        )
    return torch.from_numpy(whole.astype(np.int64))


def _losses(groups_N: Tensor, kept: Tensor, names: Sequence[str] | None) -> list[dict[str, Any]]:
    return [
        {
            "name": names[loss.group] if names else str(loss.group),
            "before": loss.before,
            "kept": loss.kept,
            "removed": loss.removed,
            "share_removed": loss.removed / loss.before,
            "excessive": loss.excessive,
        }
        for loss in losses_by_group(groups_N, kept)
    ]


def _require_something_of_each(
    losses: list[dict[str, Any]], rule: PruneRule, column: str | None
) -> None:
    for row in losses:
        if not row["kept"]:
            raise ConfigError(
                f"--keep {rule.keep} by {column or 'chance'} ({rule.rule}) leaves nothing of class "
                f'"{row["name"]}" ({row["before"]} examples); keep more'
                + ("" if rule.balanced else ", or add --balanced")
            )
