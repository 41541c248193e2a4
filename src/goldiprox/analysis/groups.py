"""Who was chosen of each group, against its share of the training set, and how it fared."""

from __future__ import annotations

from collections.abc import Sequence

from goldiprox.analysis.quantities import GroupResult, Spread
from goldiprox.records.groups import GroupCounts

__all__ = ["describe_groups"]


def describe_groups(runs: Sequence[GroupCounts | None]) -> tuple[GroupResult, ...] | None:
    """One method's groups over its seeds.

    Args:
        runs: counts of runs on the same data; None where no group column was named.

    Returns:
        One entry a group that has examples to train on or to test, its accuracy None without the
        latter. None unless every run has counts.
    """
    known = [run for run in runs if run is not None]
    if not known or len(known) < len(runs):
        return None
    first = known[0]
    return tuple(
        GroupResult(
            name=name,
            share_in_pool=first.pool[i] / sum(first.pool),
            share_chosen=Spread.of([run.chosen[i] / max(1, sum(run.chosen)) for run in known]),
            final_accuracy=Spread.of([run.correct[i] / run.test[i] for run in known])
            if first.test[i]
            else None,
        )
        for i, name in enumerate(first.names)
        if first.pool[i] or first.test[i]
    )
