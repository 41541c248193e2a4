"""Seconds a step waits for images of a folder: read in the step, by workers, by workers ahead.

Run: python benchmarks/folder_throughput.py [--images 1280] [--side 256] [--pool 320] [--workers 2]

JPEG files are made in a temporary folder and read as `clothing1m` reads its own: resized to 224
pixels. Between two pools the program works for as long as a pool takes to be read in the step
itself, with one thread, as a model would that scores and trains. "Waits" is the time until a pool
is there. The pixels of every pool are compared with those read in the step itself.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from goldiprox.data.decode import Form
from goldiprox.data.files import FileReader, FileStore


def make_files(folder: Path, count: int, side: int) -> list[str]:
    rng = np.random.default_rng(0)
    names = [f"{number}.jpg" for number in range(count)]
    for name in names:
        coarse = rng.integers(0, 256, (side // 8, side // 8, 3), np.uint8)
        Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC).save(folder / name)
    return names


def busy(seconds: float, matrix: torch.Tensor) -> None:
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        matrix @ matrix


def waits(
    store: FileStore, pools: list[torch.Tensor], work: float, *, ahead: bool
) -> tuple[list[float], list[int]]:
    """Seconds waited for each pool but the first, and a checksum of each."""
    matrix = torch.rand(256, 256)
    taken, sums = [], []
    for number, pool in enumerate(pools):
        started = time.perf_counter()
        images = store.fetch(pool)
        taken.append(time.perf_counter() - started)
        sums.append(int(images.sum(dtype=torch.int64)))
        if ahead and number + 1 < len(pools):
            store.prefetch(pools[number + 1])
        busy(work, matrix)
    return taken[1:], sums


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=1280, help="files")
    parser.add_argument("--side", type=int, default=256, help="pixels to a side of a file")
    parser.add_argument("--pool", type=int, default=320, help="images per pool")
    parser.add_argument("--pools", type=int, default=8, help="pools read in each way")
    parser.add_argument("--workers", type=int, default=2, help="processes that read")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        names = make_files(Path(folder), arguments.images, arguments.side)
        form = Form(channels=3, height=224, width=224, fit="crop")
        reader = FileReader(root=Path(folder), names=names, form=form)
        pools = [
            torch.randint(0, len(names), (arguments.pool,), generator=generator)
            for _ in range(arguments.pools)
        ]
        inline = FileStore(reader, 0)
        alone, expected = waits(inline, pools, 0.0, ahead=False)
        work = statistics.median(alone)
        print(
            f"{arguments.pool} of {len(names)} files of {arguments.side} pixels a pool, "
            f"{arguments.workers} workers, {work:.2f} s of other work between pools"
        )
        print(f"{'':28}{'waits, s':>10}{'images/s':>10}")
        shown = {"read in the step": alone}
        workers = FileStore(reader, arguments.workers)
        try:
            workers.fetch(pools[0])  # the processes start
            for name, ahead in (("by workers", False), ("by workers, ahead", True)):
                shown[name], found = waits(workers, pools, work, ahead=ahead)
                assert found == expected, "pixels differ"
        finally:
            workers.close()
        for name, taken in shown.items():
            median = statistics.median(taken)
            print(f"{name:28}{median:10.3f}{arguments.pool / median:10,.0f}")


if __name__ == "__main__":
    main()
