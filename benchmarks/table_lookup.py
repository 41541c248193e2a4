"""Looking irreducible losses up in a table of 10^8 rows that is mapped from disk, not read.

Opening it, one million random look-ups (through the same function that a step's pool goes through),
and how much memory the process gained. Needs 0.4 GB of disk, in a temporary folder.

Run: python benchmarks/table_lookup.py [ROWS]
"""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from goldiprox.records.mapped import open_table, write_mapped
from goldiprox.records.tables import IRREDUCIBLE_LOSS, ScoreTable

ROWS = 100_000_000
LOOKUPS = 1_000_000
ROUNDS = 9


def write(path: Path, rows: int) -> None:
    values = np.random.default_rng(0).random(rows, dtype=np.float32)
    table = ScoreTable(
        ids_N=np.arange(rows), columns={IRREDUCIBLE_LOSS: values}, provenance={"fingerprint": "f"}
    )
    started = time.perf_counter()
    write_mapped(table, path)
    seconds = time.perf_counter() - started
    print(f"writing {rows:,} rows            {seconds:8.2f} s   {path.stat().st_size / 1e6:.0f} MB")


def use(path: Path, rows: int) -> None:
    """In a process of its own, whose memory tells what was read."""
    before = memory()
    opened = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        table = open_table(path)
        look_up = table.lookup(IRREDUCIBLE_LOSS)
        look_up(torch.tensor([0, rows - 1]))
        opened.append(time.perf_counter() - started)
    gained = memory() - before
    print(f"opening, two look-ups            {timing(opened)}   target 100 ms")
    print(f"peak memory gained by that       {gained / 1e6:8.2f} MB")
    generator = torch.Generator().manual_seed(0)
    seconds = []
    for _ in range(ROUNDS):
        ids = torch.randint(0, rows, (LOOKUPS,), generator=generator)
        started = time.perf_counter()
        found = look_up(ids)
        seconds.append(time.perf_counter() - started)
        assert bool(found.isfinite().all())
    print(f"{LOOKUPS:,} look-ups, first time    {1e3 * seconds[0]:8.2f} ms")
    print(f"{LOOKUPS:,} look-ups, warm          {timing(seconds[1:])}   target 100 ms")
    pool = torch.randint(0, rows, (320,), generator=generator)
    started = time.perf_counter()
    for _ in range(1000):
        look_up(pool)
    print(f"a pool of 320                    {1e3 * (time.perf_counter() - started):8.2f} us")


def memory() -> int:
    kibi = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * kibi


def timing(values: list[float]) -> str:
    low, middle, high = statistics.quantiles(values, n=4)
    return f"{1e3 * middle:8.2f} ms  [{1e3 * low:.2f}, {1e3 * high:.2f}]"


if __name__ == "__main__":
    arguments = sys.argv[1:]
    if len(arguments) == 2:
        use(Path(arguments[0]), int(arguments[1]))
    else:
        count = int(arguments[0]) if arguments else ROWS
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "il.arrow"
            write(file, count)
            sys.stdout.flush()
            subprocess.run([sys.executable, __file__, str(file), str(count)], check=True)
