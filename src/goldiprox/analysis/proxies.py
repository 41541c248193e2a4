"""What a comparison says of a proxy: its costs, and whether it ranks examples like the target."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from goldiprox.analysis.correlate import reducible_correlations
from goldiprox.analysis.runs import RunRecord
from goldiprox.records.tables import PROBE, ScoreTable
from goldiprox.schema import CheckpointError

__all__ = ["describe_proxy"]


def describe_proxy(
    runs: list[RunRecord], groups: dict[str, list[RunRecord]]
) -> dict[str, Any] | None:
    """The proxy, what it cost, and how its order of examples compares with the target's.

    Of several batch sizes it is the one that the comparison shows.

    ``replayed`` is the target that trained on its batches, ``direct`` the one that chose for
    itself by the same method; each with the proxy of the same seed and batch.
    """
    replayed = [run for group in groups.values() for run in group if run.manifest.get("proxy")]
    if not replayed:
        return None
    note = replayed[0].manifest["proxy"]
    found: dict[str, Any] = {
        "model": note["model"],
        "method": note["method"],
        "seconds": float(np.mean([run.proxy.total().seconds for run in replayed])),
        "flops": float(np.mean([run.proxy.total().flops for run in replayed])),
        "rank_correlations": {},
    }
    proxies = {(run.seed, run.batch): _probe_of_proxy(run) for run in replayed}
    for name, arm in (("replayed", replayed[0].arm), ("direct", note["method"])):
        pairs = [
            (proxies[run.seed, run.batch], run.probe)
            for run in runs
            if run.arm == arm and (run.seed, run.batch) in proxies
        ]
        if pairs and all(path.exists() for pair in pairs for path in pair):
            one, other = ([ScoreTable.read(p) for p in paths] for paths in zip(*pairs, strict=True))
            found["rank_correlations"][name] = reducible_correlations(one, other)
    return found


def _probe_of_proxy(run: RunRecord) -> Path:
    """Where a proxy's losses lie: what a manifest names must be in the comparison's own folder."""
    folder = run.probe.parent
    named = folder / str(run.manifest["proxy"]["run"])
    home = folder.parent.parent.resolve()
    if home not in named.resolve().parents:
        raise CheckpointError(
            f"{folder / 'manifest.json'} names {named}, which is not in {home}; compare again into "
            "another --out"
        )
    return named / PROBE
