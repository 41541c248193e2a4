"""What replicas cost: K of them against K single runs, and a pass of scoring against plain passes.

    python benchmarks/replicas.py              both tables
    python benchmarks/replicas.py train        ways to train K replicas
    python benchmarks/replicas.py score        EL2N and all plain scores against a forward pass

Ways to train: one process with all threads, one replica after another; one process a thread, side
by side (what goldiprox score does on a CPU); and one vmapped ensemble, whose convolutions become
grouped ones. Each way trains the small CNN on batches of Fashion-MNIST's shape for --seconds, after
a warm-up; what counts is examples per second over all replicas. Scoring is timed in interleaved
rounds on the same data.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap
from torch.nn import functional as F

from goldiprox.data.datasets import make_dataset
from goldiprox.data.splits import DataConfig, Splits, make_splits
from goldiprox.evidence.forward import ScoringPass
from goldiprox.evidence.mode import scoring_mode
from goldiprox.models.vision import MLP, SmallCNN
from goldiprox.precompute.data_diet import SCORING_BATCH, snapshot
from goldiprox.precompute.diet_scores import SCORES
from goldiprox.training.feed import Feeder
from timing import interleaved, ratio, timing

SHAPE, CLASSES = (1, 28, 28), 10
PLAIN = ("el2n", "grand-last-layer", "margin", "loss", "entropy")


def batch_of(size: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(size, *SHAPE, generator=generator)
    images = images.contiguous(memory_format=torch.channels_last)
    return images, torch.randint(0, CLASSES, (size,), generator=generator)


def rate(step: Callable[[], object], examples: int, seconds: float) -> float:
    """Examples per second."""
    for _ in range(3):
        step()
    done, started = 0, time.perf_counter()
    while (spent := time.perf_counter() - started) < seconds:
        step()
        done += examples
    return done / spent


def single(size: int, threads: int, bf16: bool, seconds: float) -> float:
    torch.set_num_threads(threads)
    images, targets = batch_of(size)
    model = SmallCNN(SHAPE, CLASSES).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)

    def step() -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            logits = model(images)
        optimizer.zero_grad()
        F.cross_entropy(logits.float(), targets).backward()
        optimizer.step()

    return rate(step, size, seconds)


def ensemble(size: int, threads: int, replicas: int, seconds: float) -> float:
    torch.set_num_threads(threads)
    images, targets = batch_of(size)
    models = [SmallCNN(SHAPE, CLASSES) for _ in range(replicas)]
    stacked, _ = stack_module_state(models)
    weights = {name: value.detach().requires_grad_() for name, value in stacked.items()}
    optimizer = torch.optim.AdamW(list(weights.values()), fused=True)
    images_K = images.expand(replicas, *images.shape)

    def run(weights: Any, images: Tensor) -> Any:
        return functional_call(models[0], weights, (images,))

    def step() -> None:
        logits_KBC = vmap(run)(weights, images_K)
        optimizer.zero_grad()
        F.cross_entropy(logits_KBC.flatten(0, 1), targets.repeat(replicas), reduction="sum").div(
            size
        ).backward()
        optimizer.step()

    return rate(step, size * replicas, seconds)


def side_by_side(size: int, processes: int, bf16: bool, seconds: float) -> float:
    """One thread each; their rates add up, for all run over the same stretch of time."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(processes) as pool:
        jobs = [(size, 1, bf16, seconds)] * processes
        return sum(pool.starmap(single, jobs, chunksize=1))


def train_table(size: int, threads: int, seconds: float) -> None:
    rows = {
        f"one after another, {threads} threads": single(size, threads, False, seconds),
        f"{threads} processes of one thread": side_by_side(size, threads, False, seconds),
        f"vmapped ensemble of 4, {threads} threads": ensemble(size, threads, 4, seconds),
        f"one after another, {threads} threads, bf16": single(size, threads, True, seconds),
        f"{threads} processes of one thread, bf16": side_by_side(size, threads, True, seconds),
    }
    plain = next(iter(rows.values()))
    print(f"small CNN on 28x28 images, batch {size}: training, examples per second over replicas")
    for name, value in rows.items():
        print(f"  {name:44} {value:7.0f}   x {value / plain:.2f}")


def score_table(count: int, rounds: int) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, *SHAPE), generator=generator, dtype=torch.uint8)
    labels = torch.randint(0, CLASSES, (count,), generator=generator)
    names = [str(c) for c in range(CLASSES)]
    data = make_dataset(
        "drawn", images, labels, torch.arange(64), class_names=names, source="drawn"
    )
    splits = make_splits(data, DataConfig(dataset="drawn"))
    for factory in (SmallCNN, MLP):
        score_rows(factory(SHAPE, CLASSES), splits, rounds)


def score_rows(model: nn.Module, splits: Splits, rounds: int) -> None:
    feeder = Feeder.of(model, splits.preprocess, torch.device("cpu"))
    model = feeder.place(model).train()
    scoring, examples = ScoringPass(model), splits.full

    def forward() -> None:
        with torch.no_grad(), scoring_mode(model, "running"):
            for positions_B in torch.arange(len(examples)).split(SCORING_BATCH):
                model(feeder(examples, positions_B)[1])

    def scores(*names: str) -> Callable[[], object]:
        return lambda: snapshot(scoring, feeder, examples, [SCORES[name] for name in names])

    kinds = {"forward": forward, "el2n": scores("el2n"), "all plain scores": scores(*PLAIN)}
    taken = interleaved(kinds, rounds=rounds)
    print(f"{type(model).__name__}, one pass over {len(examples)} examples, loading included")
    for name, values in taken.items():
        print(f"  {name:18} {timing(values)}   x {ratio(values, taken['forward'])}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", nargs="?", choices=("train", "score"))
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--examples", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=15)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.what != "train":
        score_table(given.examples, given.rounds)
    if given.what != "score":
        train_table(given.batch, given.threads, given.seconds)


if __name__ == "__main__":
    main()
