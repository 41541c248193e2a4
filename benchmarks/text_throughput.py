"""What feeding texts costs, as a share of a training step; tokenising, done once, apart.

Run: python benchmarks/text_throughput.py [--model MODEL] [--rounds 10]

A step with selection feeds a pool of 320 texts, scores it and trains on 32; a uniform step feeds
and trains on 32. Both are compared with the feeding alone: fetching the tokens and padding them.
Texts are drawn with the lengths of short reviews: 3 to 40 words, 10 on average.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch

from goldiprox.config import TrainConfig
from goldiprox.data.examples import Examples
from goldiprox.data.text import TextPreprocessor, tokenise
from goldiprox.training.loop import Loop
from goldiprox.training.task import Task
from timing import interleaved, ratio

TARGET = 0.02  # share of a step
COUNT, WORDS = 20_000, 8_000


class Reviews:
    """Random words of a vocabulary in which some are far more frequent than others."""

    example_shape = ()

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        lengths = torch.empty(COUNT).exponential_(1 / 7, generator=generator).long().clamp(max=37)
        self.texts = []
        for length in (lengths + 3).tolist():
            ranks = torch.rand(length, generator=generator).pow(3).mul(WORDS).long()
            self.texts.append(" ".join(f"w{rank}" for rank in ranks.tolist()))

    def __len__(self) -> int:
        return COUNT

    def fetch(self, rows_B: torch.Tensor) -> list[str]:
        return [self.texts[row] for row in rows_B.tolist()]

    def thumbnail(self, row: int) -> bytes:
        raise NotImplementedError


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="small-transformer")
    parser.add_argument("--precision", default="float32", choices=("float32", "bf16"))
    parser.add_argument("--rounds", type=int, default=10)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    ids_N = torch.arange(COUNT)
    labels_N = ids_N % 2
    store = Reviews()
    examples = Examples(
        store=store, ids_N=ids_N, rows_N=ids_N, targets_N=labels_N, true_targets_N=labels_N
    )
    task = Task(
        train=examples,
        evaluation=examples,
        preprocess=TextPreprocessor(),
        num_classes=2,
    )

    def loop(method: str) -> Loop:
        config = TrainConfig(
            model=arguments.model,
            method=method,
            lr=2e-5,
            device="cpu",
            precision=arguments.precision,
            scoring_precision=arguments.precision,
        )
        return Loop(config, task)

    selecting, uniform = loop("loss"), loop("uniform")
    generator = torch.Generator().manual_seed(1)

    def feed(count: int) -> None:
        selecting.feeder(examples, torch.randint(0, COUNT, (count,), generator=generator))

    kinds = {
        "feeding a pool of 320": lambda: feed(320),
        "step with selection": selecting.one_step,
        "feeding a batch of 32": lambda: feed(32),
        "uniform step": uniform.one_step,
    }
    taken = interleaved(kinds, rounds=arguments.rounds)
    print(f"torch {torch.__version__}, 1 thread, {arguments.model}, {arguments.precision}")
    for name, seconds in taken.items():
        print(f"{name:24}{1e3 * statistics.median(seconds):10.3f} ms")
    pairs = (
        ("feeding a pool of 320", "step with selection"),
        ("feeding a batch of 32", "uniform step"),
    )
    for feeding, step in pairs:
        share = ratio(taken[feeding], taken[step])
        reached = "reached" if share.median < TARGET else "MISSED"
        print(f"{feeding} / {step}: {share}; target {TARGET}: {reached}")
    started = time.perf_counter()
    assert selecting.feeder.preprocess.tokenizer is not None
    tokens = tokenise(store, selecting.feeder.preprocess.tokenizer)
    seconds = time.perf_counter() - started
    print(f"tokenising once: {COUNT / seconds:,.0f} texts/s, {len(tokens.flat) / COUNT:.1f} tokens")


if __name__ == "__main__":
    main()
