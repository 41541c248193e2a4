"""A score table of 10^7 rows: seconds and peak memory of writing, opening, joining and pruning it.

    python benchmarks/large_tables.py [ROWS]

Memory is what each step adds to the process's peak, beside the bytes of the columns it works on.
Each step runs in a process of its own.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from goldiprox.records.tables import ScoreTable
from goldiprox.selection.pruning import PruneRule
from goldiprox.workflows.prune import prune_scores

STEPS = ("open", "join", "prune", "prune lowest", "prune window", "prune random")


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
    with tempfile.TemporaryDirectory() as small:  # imports and caches are not what is measured
        make(Path(small), 1000)
        work(step, Path(small))
    before = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here on
    started, used = time.perf_counter(), time.process_time()
    data = work(step, folder)
    peak = memory("VmHWM") - before
    print(
        f"{step:>16}: {time.perf_counter() - started:6.2f} s "
        f"({time.process_time() - used:.2f} s of processor), "
        f"peak {peak / 1e6:,.0f} MB = {peak / data:.2f} times the data"
    )


def work(step: str, folder: Path) -> int:
    """Do one step; how many bytes the columns have that it works on."""
    table = ScoreTable.read(folder / "a.parquet")
    data = table.ids_N.nbytes + sum(column.nbytes for column in table.columns.values())
    if step == "join":
        other = ScoreTable.read(folder / "b.parquet")
        data += other.ids_N.nbytes + sum(column.nbytes for column in other.columns.values())
        table.join(other)
    if step.startswith("prune"):
        rule = step.partition(" ")[2] or "highest"
        prune_scores(table, PruneRule(keep=0.5, rule=rule), folder / "kept.parquet", by="a")
    return data


def memory(key: str) -> int:
    """Bytes of this process: VmRSS, or its peak VmHWM."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(key)).split()[1]) * 1024


if __name__ == "__main__":
    if sys.argv[1:2] == ["--step"]:
        run(sys.argv[2], Path(sys.argv[3]))
    else:
        with tempfile.TemporaryDirectory() as home:
            make(Path(home), int(float(sys.argv[1])) if len(sys.argv) > 1 else 10**7)
            for each in STEPS:
                subprocess.run([sys.executable, __file__, "--step", each, home], check=True)
