"""Rank correlations: do two models put the same examples first?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy import stats

from goldiprox.analysis.quantities import deviation
from goldiprox.records.tables import IRREDUCIBLE_LOSS, ScoreTable
from goldiprox.schema import Evidence, TableError
from goldiprox.selection.functions import reducible_loss

__all__ = ["rank_correlation", "reducible_correlations"]


def rank_correlation(
    one_N: npt.NDArray[np.floating[Any]], other_N: npt.NDArray[np.floating[Any]]
) -> float | None:
    """Spearman's rank correlation; examples that tie share the mean of their ranks.

    Args:
        one_N: scores of N examples.
        other_N: other scores of the same examples, in the same order.

    Returns:
        From -1 to 1; None where either is constant or there are fewer than two examples: then
        there is no order to compare.

    Raises:
        ValueError: if the lengths differ or a score is not finite.
    """
    if one_N.shape != other_N.shape or one_N.ndim != 1:
        raise ValueError(f"scores of shapes {one_N.shape} and {other_N.shape} cannot be compared")
    if not (np.isfinite(one_N).all() and np.isfinite(other_N).all()):
        raise ValueError("scores that are NaN or infinite have no rank")
    if len(one_N) < 2 or np.ptp(one_N) == 0 or np.ptp(other_N) == 0:
        return None
    return float(stats.spearmanr(one_N, other_N).statistic)


def reducible_correlations(
    proxy: Sequence[ScoreTable], target: Sequence[ScoreTable]
) -> list[dict[str, Any]]:
    """Between proxy's and target's reducible loss, epoch by epoch (Mindermann et al. 2021).

    Args:
        proxy: one table a seed, as :class:`goldiprox.training.probe.LossProbe` writes them.
        target: of the same seeds, in the same order.

    Returns:
        For each epoch that all tables have: ``epoch``, ``values`` (seed by seed, null where a model
        gives all examples the same), ``mean`` and ``std`` over seeds.

    Raises:
        TableError: if two tables of a seed are of different examples.
    """
    for one, other in zip(proxy, target, strict=True):
        if not np.array_equal(one.ids_N, other.ids_N):
            raise TableError("losses of proxy and target are of different examples; run both anew")
    epochs = sorted(set.intersection(*(_epochs(table) for table in (*proxy, *target))))
    found = []
    for epoch in epochs:
        values = [
            rank_correlation(_reducible(one, epoch), _reducible(other, epoch))
            for one, other in zip(proxy, target, strict=True)
        ]
        known = [value for value in values if value is not None]
        found.append(
            {
                "epoch": epoch,
                "values": values,
                "mean": float(np.mean(known)) if known else None,
                "std": deviation(known),
            }
        )
    return found


def _epochs(table: ScoreTable) -> set[int]:
    return {int(n.removeprefix("epoch_")) for n in table.names if n.startswith("epoch_")}


def _reducible(table: ScoreTable, epoch: int) -> npt.NDArray[np.float64]:
    loss_N, irreducible_N = table.columns[f"epoch_{epoch}"], table.columns[IRREDUCIBLE_LOSS]
    evidence = Evidence(  # copies: what was read from a file is not to be written to
        ids_B=torch.tensor(table.ids_N),
        loss_B=torch.tensor(loss_N, dtype=torch.float64),
        irreducible_B=torch.tensor(irreducible_N, dtype=torch.float64),
    )
    scores_N: npt.NDArray[np.float64] = reducible_loss(evidence).numpy()
    return scores_N
