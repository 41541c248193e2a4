"""A score table of 10^7 rows: seconds and peak memory of writing, opening, joining and pruning it.

    python benchmarks/large_tables.py [ROWS]

Memory is what each step adds to the process's peak, beside the bytes of the columns it works on.
Each step runs in a process of its own.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from goldiprox.records.tables import ScoreTable
from goldiprox.selection.pruning import PruneRule
from goldiprox.workflows.prune import prune_scores

STEPS = ("open", "join", "prune")


def make(folder: Path, rows: int) -> None:
    generator = np.random.default_rng(0)
    for name in ("a", "b"):
        label = {"label": generator.integers(0, 10, rows)} if name == "a" else {}
        ScoreTable(
            ids_N=np.arange(rows),
            columns={**label, name: generator.random(rows, dtype=np.float32)},
            provenance={"fingerprint": "f"},
        ).write(folder / f"{name}.parquet")


def run(step: str, folder: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started, used = time.perf_counter(), time.process_time()
    table = ScoreTable.read(folder / "a.parquet")
    data = table.ids_N.nbytes + sum(column.nbytes for column in table.columns.values())
    if step == "join":
        other = ScoreTable.read(folder / "b.parquet")
        data += other.ids_N.nbytes + sum(column.nbytes for column in other.columns.values())
        table.join(other)
    if step == "prune":
        prune_scores(table, PruneRule(keep=0.5), folder / "kept.parquet", by="a")
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    print(
        f"{step:>6}: {time.perf_counter() - started:6.2f} s ({time.process_time() - used:.2f} s of "
        f"processor), peak {peak / 1e6:,.0f} MB = {peak / data:.2f} times the data"
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--step"]:
        run(sys.argv[2], Path(sys.argv[3]))
    else:
        with tempfile.TemporaryDirectory() as home:
            make(Path(home), int(float(sys.argv[1])) if len(sys.argv) > 1 else 10**7)
            for each in STEPS:
                subprocess.run([sys.executable, __file__, "--step", each, home], check=True)
