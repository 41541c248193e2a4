"""How well scores find wrong labels, where the truth is known.

Every score here says how suspicious a label is: higher comes first, as in a score table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

from goldiprox.analysis.spread import spread

__all__ = ["cleanlab_suspicion", "detection", "histograms"]

Floats = npt.NDArray[Any]
Bools = npt.NDArray[np.bool_]

RECALLS = tuple(round(0.05 * n, 2) for n in range(1, 21))
"""Recalls at which a precision-recall curve is recorded."""

BINS = 40


def detection(
    scores_N: Floats, corrupted_N: Bools, replicas: Sequence[Floats] = ()
) -> dict[str, Any]:
    """Find wrong labels by a score.

    Args:
        scores_N: higher is more suspicious.
        corrupted_N: whether the label is wrong; some are and some are not.
        replicas: the same score of single models, whose areas show the spread.

    Returns:
        ``auc`` (area under the ROC curve: the chance that a wrong label stands before a right one,
        ties counted half), ``average_precision``, ``precision_at_count`` (of as many as there are
        wrong labels; equal to the recall there), ``curve`` (recall, precision) and
        ``auc_of_replicas``.
    """
    count = int(corrupted_N.sum())
    precision, recall, _ = precision_recall_curve(corrupted_N, scores_N)
    # The best precision at this recall or beyond: a curve of steps, read at fixed recalls.
    points = [(r, float(precision[recall >= r - 1e-12].max())) for r in RECALLS]
    # Ties at the edge count by their share of wrong labels, not by their place in the file.
    order = rankdata(-scores_N, method="min")
    sure, edge = order <= count, order == order[order <= count].max()
    inside = sure & ~edge
    left = count - int(inside.sum())
    found = corrupted_N[inside].sum() + left * corrupted_N[edge].mean()
    return {
        "auc": float(roc_auc_score(corrupted_N, scores_N)),
        "average_precision": float(average_precision_score(corrupted_N, scores_N)),
        "precision_at_count": float(found / count),
        "curve": [{"recall": r, "precision": p} for r, p in points],
        "auc_of_replicas": spread([float(roc_auc_score(corrupted_N, r)) for r in replicas]),
    }


def histograms(groups: Mapping[str, Floats]) -> dict[str, Any]:
    """Histograms over common bins.

    Args:
        groups: name to values.

    Returns:
        ``edges`` of the bins, and ``shares`` by group: of the group's values in each bin.
    """
    everything = np.concatenate(list(groups.values())) if groups else np.zeros(1)
    low, high = float(everything.min()), float(everything.max())
    edges = np.linspace(low, high if high > low else low + 1.0, BINS + 1)
    shares = {
        name: (np.histogram(values, edges)[0] / max(1, len(values))).tolist()
        for name, values in groups.items()
    }
    return {"edges": edges.tolist(), "shares": shares}


def cleanlab_suspicion(probabilities_NC: Floats, targets_N: Floats) -> Floats | None:
    """One minus cleanlab's label quality, by its normalised margin.

    Its self-confidence would be the order of the irreducible losses, which are of the same models.

    Args:
        probabilities_NC: of models that did not see the example.
        targets_N: int64 labels as used.

    Returns:
        suspicion_N, or None where cleanlab is not installed (extra ``clean``).
    """
    try:
        from cleanlab.rank import get_label_quality_scores
    except ImportError:
        return None
    quality_N = get_label_quality_scores(
        targets_N, probabilities_NC, method="normalized_margin", adjust_pred_probs=False
    )
    return 1.0 - np.asarray(quality_N, dtype=np.float64)
