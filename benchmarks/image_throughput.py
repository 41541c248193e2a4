"""Images per second and core: fetch, augment and convert pools of CIFAR's size from memory.

Run: python benchmarks/image_throughput.py [--pool 320] [--seconds 10]

The floor is what cannot be avoided: copying the rows out of the store and widening them to float.
Rounds of all variants are interleaved, so that a busy machine slows all of them alike. Rates are
per second of the thread's own processor time, which is what "per core" means on a machine that
others use too; the last column is the median by the wall clock.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from goldiprox.data.datasets import ImagePreprocessor, ImageStore

TARGET = 50_000  # images per second and core, fetched, augmented and normalised
STORED = 50_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pool", type=int, default=320, help="images per pool")
    parser.add_argument("--seconds", type=float, default=10.0, help="how long to measure")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    shape = (STORED, 3, 32, 32)
    images_NCHW = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    store = ImageStore(images_NCHW)
    preprocess = ImagePreprocessor(
        mean_C=(0.49, 0.48, 0.45), std_C=(0.25, 0.24, 0.26), crop_padding=4, flip=True
    )

    def rows() -> torch.Tensor:
        return torch.randint(0, STORED, (arguments.pool,), generator=generator)

    variants: dict[str, Callable[[torch.Tensor], object]] = {
        "floor: index_select + float": lambda rows_B: images_NCHW.index_select(0, rows_B).float(),
        "fetch": store.fetch,
        "fetch + normalise": lambda rows_B: preprocess(store.fetch(rows_B)),
        "fetch + augment + normalise": lambda rows_B: preprocess(
            store.fetch(rows_B), preprocess.draw(len(rows_B), generator)
        ),
    }
    rates: dict[str, list[float]] = {name: [] for name in variants}
    wall_rates: dict[str, list[float]] = {name: [] for name in variants}
    end = time.perf_counter() + arguments.seconds
    warm = True
    while time.perf_counter() < end:
        for name, work in variants.items():
            pools = [rows() for _ in range(8)]
            wall, core = time.perf_counter(), time.thread_time()
            for rows_B in pools:
                work(rows_B)
            core, wall = time.thread_time() - core, time.perf_counter() - wall
            if not warm:
                rates[name].append(8 * arguments.pool / core)
                wall_rates[name].append(8 * arguments.pool / wall)
        warm = False

    print(f"torch {torch.__version__}, 1 thread, pools of {arguments.pool} images of 3x32x32")
    print(
        f"{'':30}{'images/s':>12}{'10 %':>12}{'90 %':>12}{'rounds':>9}{'of floor':>10}"
        f"{'by wall':>12}"
    )
    floor = statistics.median(rates["floor: index_select + float"])
    for name, measured in rates.items():
        low, *_, high = statistics.quantiles(measured, n=10)
        median = statistics.median(measured)
        print(
            f"{name:30}{median:12,.0f}{low:12,.0f}{high:12,.0f}{len(measured):9}"
            f"{median / floor:10.2f}{statistics.median(wall_rates[name]):12,.0f}"
        )
    reached = statistics.median(rates["fetch + augment + normalise"]) >= TARGET
    print(f"target of {TARGET:,} images per second and core: {'reached' if reached else 'MISSED'}")


if __name__ == "__main__":
    main()
