"""Prune a data set by a score table: write the ids to keep, say whom that hits."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from goldiprox.precompute.data_diet import LABEL
from goldiprox.precompute.diet_scores import SCORES
from goldiprox.records.tables import ScoreTable
from goldiprox.schema import ConfigError, TableError
from goldiprox.selection.pruning import PruneRule, losses_by_group, prune_mask

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
    ids_N = _tensor(table.ids_N)
    column = None if by is None else _column(table, by)
    if column is None and rule.rule != "random":
        raise ConfigError(f"--rule {rule.rule} needs --by; the table has: {_scores(table)}")
    scores_N = torch.zeros(len(table)) if column is None else _tensor(table.columns[column])
    if column is not None and not math.isfinite(float(scores_N.sum())):
        scores_N = table.column_for(column, ids_N, REMEDY)  # names the ids, if it is not the sum
    classes_N = _whole(table, LABEL) if LABEL in table.columns else None
    if classes_N is None and rule.balanced:
        raise TableError(
            f"{table.path or 'the table'} has no column {LABEL}, so classes are unknown and "
            "--balanced is impossible; use a table made with: goldiprox score"
        )
    # A mask, an eighth of the positions: a large table needs little more memory than its own.
    kept = prune_mask(rule, scores_N, ids_N, classes_N)
    direction = _direction(table, column, rule, scores_N, kept)
    losses: dict[str, list[dict[str, Any]]] = {}
    if classes_N is not None:
        names = table.provenance.get("class_names")
        losses["class"] = _losses(classes_N, kept, names)
        _require_something_of_each(losses["class"], rule, column)
    if group is not None:
        losses[group] = _losses(_whole(table, _column(table, group)), kept, None)
    columns = {} if column is None else {column: table.columns[column]}
    note = {key: table.provenance.get(key) for key in ("dataset", "fingerprint", "label_digest")}
    ScoreTable(
        ids_N=table.ids_N,
        columns=columns,
        provenance={
            "kind": "kept",
            **note,
            "by": column,
            "rule": asdict(rule),
            "of": len(table),
            "scores": table.provenance.get("config_hash"),
        },
    ).write(out, kept.numpy())
    return {
        "kept": int(np.count_nonzero(kept.numpy())),
        "of": len(table),
        "by": column,
        "losses": losses,
        "direction": direction,
    }


ENDS = {"highest": "the hardest", "lowest": "the easiest"}


def _direction(
    table: ScoreTable, column: str | None, rule: PruneRule, scores_N: Tensor, kept: Tensor
) -> list[str]:
    """Which end of the score was kept and which dropped, for people; nothing of a random choice."""
    if column is None or rule.rule == "random" or not kept.any():
        return []
    scores, mask = scores_N.numpy(), kept.numpy()
    end = ENDS.get(rule.rule)
    what = f"the {rule.rule} {column}" if end else f"by {column} ({rule.rule})"
    ours = table.provenance.get("kind") == "scores"
    meaning = f", {end}" if end and ours else ""
    lines = [f"kept {what}{meaning}: {_extent(scores, mask)}"]
    if dropped := int(np.count_nonzero(~mask)):
        lines.append(f"dropped {dropped:,} with {column} {_extent(scores, ~mask)}")
    if any(entry.turned and column.startswith(entry.column) for entry in SCORES.values()):
        foreign = "; if this table has it as published, keep the hardest with --rule lowest"
        lines.append(
            f"{column} has its published sign turned in tables of goldiprox score: higher is harder"
            f"{'' if ours else foreign}"
        )
    return lines


def _extent(values: npt.NDArray[np.float32], mask: npt.NDArray[np.bool_]) -> str:
    low, high = values.min(where=mask, initial=np.inf), values.max(where=mask, initial=-np.inf)
    return f"{low:.4g} to {high:.4g}"


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
    for start in range(0, len(values), 1 << 20):  # without a copy of a large table's column
        part = values[start : start + (1 << 20)]
        if not (is_whole := part == np.rint(part)).all():
            raise TableError(
                f"{table.path or 'the table'}: {column} does not number groups, it holds "
                f"{part[~is_whole][0]:g}"
            )
    return _tensor(values)


def _tensor(values: npt.NDArray[Any]) -> Tensor:
    """The same memory, which nothing here writes to; large tables are not copied."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return torch.from_numpy(values)


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
