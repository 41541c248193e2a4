"""From the records of a pruning study to what its report shows: curves, windows, agreement, noise.

Reads records alone: run folders, the score table, the tables of its replicas.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt

from goldiprox.analysis.correlate import rank_correlation
from goldiprox.analysis.noise import detection, histograms
from goldiprox.analysis.spread import jointly, paired, spread
from goldiprox.records.ledger import RUN_PHASES, Ledger
from goldiprox.records.runs import RunFolder
from goldiprox.records.tables import ScoreTable

__all__ = ["FULL", "RANDOM", "SHORT", "agreement", "curves", "noise_study", "readings"]

FULL, RANDOM, SHORT = "full", "random", "short-uniform"
"""Arms that need no score: all the data; a random part; all the data for a part's steps."""

LITTLE = 0.01
"""A loss of accuracy that is called little."""

FOUND = 0.75
"""Area under the curve above which a score is said to find wrong labels."""

Floats = npt.NDArray[Any]


def curves(runs: Sequence[tuple[str, float, float | None, RunFolder]]) -> list[dict[str, Any]]:
    """Accuracies by arm.

    Args:
        runs: arm, share kept, offset of its window (None for no window) and folder; the runs of an
            arm, share and offset stand in the order of their seeds.

    Returns:
        ``arm, share, offset, examples, steps, accuracy, seconds`` for each, in order of appearance.
    """
    grouped: dict[tuple[str, float, float | None], list[RunFolder]] = {}
    for arm, share, offset, folder in runs:
        grouped.setdefault((arm, share, offset), []).append(folder)
    rows = []
    for (arm, share, offset), folders in grouped.items():
        results = [folder.result() for folder in folders]
        paid = [Ledger.from_json(folder.ledger()).total(RUN_PHASES) for folder in folders]
        rows.append(
            {
                "arm": arm,
                "share": share,
                "offset": offset,
                "examples": folders[0].manifest()["trained_on"],
                "steps": results[0]["steps"],
                "accuracy": spread([result["final_accuracy"] for result in results]),
                "seconds": spread([cost.seconds for cost in paid])["mean"],
            }
        )
    return rows


def agreement(
    table: ScoreTable, replicas: Sequence[ScoreTable], columns: Sequence[str], by: str
) -> dict[str, Any]:
    """Spearman rank correlations: between scores, between epochs of one, between replicas.

    Args:
        table: means over replicas.
        replicas: their own tables.
        columns: the scores.
        by: the score whose epochs are compared.

    Returns:
        ``columns`` and ``scores`` (a square matrix); ``epochs``: the same for ``by``'s columns;
        ``replicas``: by score, mean over pairs of single replicas, and between the means of the
        first and the second half of them. Null where one of the two does not vary.
    """
    starts = f"{by}_epoch_"
    epochs = [n for n in table.columns if n.startswith(starts) and not n.endswith("_std")]
    epochs = [*sorted(epochs, key=lambda name: int(name.rsplit("_", 1)[1])), by]
    return {
        "columns": list(columns),
        "scores": _matrix([table.columns[name] for name in columns]),
        "epochs": {"columns": epochs, "scores": _matrix([table.columns[n] for n in epochs])},
        "replicas": [
            {"column": name, **_between_replicas([r.columns[name] for r in replicas])}
            for name in columns
            if len(replicas) > 1 and name in replicas[0].columns
        ],
    }


def _matrix(columns: Sequence[Floats]) -> list[list[float | None]]:
    return [[rank_correlation(one, other) for other in columns] for one in columns]


def _between_replicas(columns: Sequence[Floats]) -> dict[str, Any]:
    pairs = [rank_correlation(one, other) for one, other in combinations(columns, 2)]
    told = [value for value in pairs if value is not None]
    half = len(columns) // 2
    first, second = np.mean(columns[:half], axis=0), np.mean(columns[half : 2 * half], axis=0)
    return {
        "pairs": float(np.mean(told)) if told else None,
        "halves": rank_correlation(first, second),
        "replicas": len(columns),
    }


def noise_study(
    table: ScoreTable,
    replicas: Sequence[ScoreTable],
    corrupted_N: npt.NDArray[np.bool_],
    columns: Sequence[str],
    *,
    by: str,
    before: ScoreTable | None,
    more: Mapping[str, Floats],
) -> dict[str, Any] | None:
    """How each score finds the wrong labels, and where noise moves the examples it hits.

    Args:
        table: scores of the noisy data.
        replicas: their own tables.
        corrupted_N: whether each label is wrong, in the table's order.
        columns: the scores.
        by: the score whose histograms are wanted.
        before: the same scores made with the published labels.
        more: further suspicions by name, in the table's order.

    Returns:
        ``share`` of wrong labels, ``detection`` by score, best first, and ``histogram``; None where
        no label, or every label, is known to be wrong.
    """
    if corrupted_N.all() or not corrupted_N.any():
        return None
    found = [
        {
            "score": name,
            **detection(
                table.columns[name],
                corrupted_N,
                [r.columns[name] for r in replicas if name in r.columns],
            ),
        }
        for name in columns
    ]
    found += [{"score": name, **detection(values, corrupted_N)} for name, values in more.items()]
    groups = {
        "clean": table.columns[by][~corrupted_N],
        "corrupted": table.columns[by][corrupted_N],
    }
    if before is not None:
        rows = before.rows(table.ids_N, "make it again")
        values = before.columns[by][rows]
        groups |= {"clean before": values[~corrupted_N], "corrupted before": values[corrupted_N]}
    return {
        "share": float(corrupted_N.mean()),
        "count": int(corrupted_N.sum()),
        "by": by,
        "detection": sorted(found, key=lambda entry: -entry["auc"]),
        "histogram": histograms(groups),
    }


def readings(diet: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What the study says to each published claim: ``claim, holds, sentence``.

    ``holds`` is None where the seeds do not tell, or there is nothing to judge by.
    """
    rows = {(r["arm"], r["share"], r["offset"]): r["accuracy"] for r in diet["curves"]}
    full = rows[FULL, 1.0, None]
    found = []
    shares = sorted({share for arm, share, _ in rows if arm == RANDOM}, reverse=True)
    found += _little_loss(rows, shares, diet["by"], full)
    found += [_against_random(by, rows, shares) for by in diet["by"]]
    best = _short_schedule(rows, shares, diet["by"])
    if best is not None:
        found.append(best)
    found += _windows(rows, diet)
    found += _noise(diet.get("noise"))
    return found


def _little_loss(
    rows: Mapping[Any, Any], shares: Sequence[float], arms: Sequence[str], full: Any
) -> list[dict[str, Any]]:
    """Is about half of the data enough, when the best score chooses it?"""
    share = min(shares, key=lambda share: abs(share - 0.5))
    mine = {by: rows[by, share, None] for by in arms}
    best = max(mine, key=lambda by: mine[by]["mean"])
    allowed = [value - LITTLE for value in full["values"]]
    return [
        {
            "claim": f"{_share(1 - share)} of the data can go at a loss of less than one point",
            "holds": paired(mine[best]["values"], allowed)["better"],
            "sentence": f"All the data {_pm(full)}, the {_share(share)} highest by {best}, the "
            f"best score here, {_pm(mine[best])}"
            f"{_against(paired(mine[best]['values'], full['values']))}",
        }
    ]


def _against_random(by: str, rows: Mapping[Any, Any], shares: Sequence[float]) -> dict[str, Any]:
    told, verdicts = [], []
    for share in shares:
        mine, random = rows[by, share, None], rows[RANDOM, share, None]
        judged = paired(mine["values"], random["values"])
        verdicts.append(judged["better"])
        told.append(f"{_share(share)}: {_pm(mine)}, random {_pm(random)}{_against(judged)}")
    return {
        "claim": f"{by}: keeping the highest beats keeping as many at random",
        "holds": _at_all(verdicts),
        "sentence": "; ".join(told),
    }


def _at_all(verdicts: Sequence[bool | None]) -> bool | None:
    """Better at all shares; or worse at some and better at none."""
    if True in verdicts and False in verdicts:
        return None
    return jointly(verdicts)


def _short_schedule(
    rows: Mapping[Any, Any], shares: Sequence[float], arms: Sequence[str]
) -> dict[str, Any] | None:
    """The best score at each share against all the data for as many steps."""
    told, verdicts = [], []
    for share in shares:
        short = rows.get((SHORT, share, None))
        mine = {by: rows[by, share, None] for by in arms if (by, share, None) in rows}
        if short is None or not mine:
            continue
        best = max(mine, key=lambda by: mine[by]["mean"])
        judged = paired(mine[best]["values"], short["values"])
        verdicts.append(judged["better"])
        told.append(
            f"{_share(share)}: {best} {_pm(mine[best])}, short schedule {_pm(short)}"
            f"{_against(judged)}"
        )
    if not told:
        return None
    return {
        "claim": "Pruned data beats a short schedule on all the data, at equal steps",
        "holds": _at_all(verdicts),
        "sentence": "; ".join(told),
    }


def _windows(rows: Mapping[Any, Any], diet: Mapping[str, Any]) -> list[dict[str, Any]]:
    windows = sorted((offset, rows[key]) for key in rows if (offset := key[2]) is not None)
    if len(windows) < 2:
        return []
    *others, (_, top) = windows
    best_at, best = max(others, key=lambda window: window[1]["mean"])
    judged = paired(best["values"], top["values"])
    return [
        {
            "claim": "Leaving out the very highest scores helps (offset windows)",
            "holds": judged["better"],
            "sentence": f"Windows of {_share(diet['window_share'])} by {diet['window_by']}: the "
            f"top one reaches {_pm(top)}, the best of the others begins at {_share(best_at)} and "
            f"reaches {_pm(best)}" + _against(judged),
        }
    ]


def _noise(noise: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    if noise is None:
        return []
    best = noise["detection"][0]
    by = next((e for e in noise["detection"] if e["score"] == noise["by"]), best)
    return [
        {
            "claim": f"{noise['by']} brings wrong labels to the top: area under the curve above "
            f"{FOUND}",
            "holds": by["auc"] > FOUND,
            "sentence": f"It is {by['auc']:.3f} ({_share(by['precision_at_count'])} of "
            f"the {noise['count']:,} most suspicious are wrong, {_share(noise['share'])} of all "
            f"are); best is {best['score']} with {best['auc']:.3f}",
        }
    ]


def _against(judged: Mapping[str, Any]) -> str:
    if judged["error"] is None:
        return " (one seed does not tell)"
    points = f"{100 * judged['difference']:+.1f} ± {100 * judged['error']:.1f} points"
    points = points.replace("-", "\N{MINUS SIGN}")
    return f" ({points}, paired{', within the spread' if judged['better'] is None else ''})"


def _share(value: float) -> str:
    return f"{round(100 * value, 1):g}\N{NO-BREAK SPACE}%"


def _pm(spread_: Mapping[str, Any]) -> str:
    space = "\N{NO-BREAK SPACE}"
    std = spread_["std"]
    extra = "" if std is None else f"{space}±{space}{100 * std:.1f}"
    return f"{100 * spread_['mean']:.1f}{extra}{space}%"
