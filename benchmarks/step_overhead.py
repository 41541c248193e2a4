"""What the library adds to a step.

1. A rho-loss step (drawing the pool, loading, scoring, choosing, training, logging) against the sum
   of its scoring forward and its training step, each measured alone on ready tensors: on a new pool
   each time, as in training, and on the same pool again and again, which then waits in the cache.
   Beside it the floor: the least that a handwritten loop can do, without log, checks, ties or
   settings.
2. Uniform training through the library against a handwritten loop that does the same work.

Run: python benchmarks/step_overhead.py
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from goldiprox.config import TrainConfig
from goldiprox.data.examples import Examples
from goldiprox.data.preprocess import ImagePreprocessor
from goldiprox.data.store import ImageStore
from goldiprox.models.registry import build_model, model_factory
from goldiprox.records.tables import IRREDUCIBLE_LOSS, ScoreTable
from goldiprox.schema import Evidence
from goldiprox.seeds import derive_seed, stream
from goldiprox.selection.methods import METHODS
from goldiprox.training.loop import Loop
from goldiprox.training.optimization import make_optimizer
from goldiprox.training.task import Task
from timing import interleaved, ratio, timing

ROUNDS = 40
SHAPES = {"mlp": (1, 28, 28), "small-cnn": (3, 32, 32)}


def make_task(shape: tuple[int, int, int], count: int = 6400) -> Task:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, *shape), dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, 10, (count,), generator=generator)
    rows = torch.arange(count)
    examples = Examples(
        store=ImageStore(images), ids_N=rows, rows_N=rows, targets_N=labels, true_targets_N=labels
    )
    channels = shape[0]
    preprocess = ImagePreprocessor(mean_C=(0.5,) * channels, std_C=(0.25,) * channels)
    return Task(train=examples, evaluation=examples, preprocess=preprocess, num_classes=10)


@dataclass(frozen=True)
class ReadyPool:
    """A pool converted beforehand, and as many of it as a step trains on."""

    images: torch.Tensor
    labels: torch.Tensor
    few: torch.Tensor
    few_labels: torch.Tensor


def ready_pool(loop: Loop, first: int) -> ReadyPool:
    _, images, labels = loop.feeder(loop.task.train, torch.arange(first, first + 320))
    few = images[:32].contiguous(memory_format=_format(images))
    return ReadyPool(images, labels, few, labels[:32])


def rho_step_overhead(name: str) -> None:
    task = make_task(SHAPES[name])
    config = TrainConfig(model=name, method="rho-loss", epochs=10_000, scoring_precision="float32")
    ids = task.train.ids_N.numpy()
    table = ScoreTable(
        ids_N=ids, columns={IRREDUCIBLE_LOSS: torch.rand(len(ids)).numpy()}, provenance={}
    )
    loop = Loop(config, task, irreducible=table)
    # The parts alone: another copy of the model, inputs converted beforehand, nothing chosen.
    twin = Loop(config, task, irreducible=table)
    ready = [ready_pool(twin, first) for first in range(0, len(ids), 320)]
    layout = _format(ready[0].images)

    def parts(pool: ReadyPool) -> None:
        twin.model.eval()
        with torch.no_grad():
            F.cross_entropy(twin.model(pool.images), pool.labels, reduction="none")
        twin.model.train()
        loss = F.cross_entropy(twin.model(pool.few), pool.few_labels)
        twin.optimizer.zero_grad()
        loss.backward()
        twin.optimizer.step()

    bare = Loop(config, task, irreducible=table)
    store = task.train.store
    assert isinstance(store, ImageStore)
    irreducible_N = torch.from_numpy(table.columns[IRREDUCIBLE_LOSS])
    state = {"step": 0, "order": torch.randperm(len(ids))}

    def floor() -> None:
        start = 320 * (state["step"] % (len(ids) // 320))
        candidates = state["order"][start : start + 320]
        raw = store.images_NCHW.index_select(0, candidates)
        pool = raw.float().mul_(1 / (255 * 0.25)).add_(-2.0)
        pool = pool.contiguous(memory_format=layout)
        targets = task.train.targets_N.index_select(0, candidates)
        bare.model.eval()
        with torch.no_grad():
            score = F.cross_entropy(bare.model(pool), targets, reduction="none")
            score -= irreducible_N.index_select(0, candidates)
        best = score.topk(32).indices
        bare.model.train()
        loss = F.cross_entropy(bare.model(pool.index_select(0, best)), targets[best])
        bare.optimizer.zero_grad()
        loss.backward()
        bare.optimizer.step()
        state["step"] += 1

    def loading() -> None:
        loop.feeder(task.train, torch.arange(320))

    turns = itertools.count()

    def step() -> None:
        loop.one_step()
        if len(loop.log) >= 64:
            loop.log.settle()

    kinds = {
        "step": step,
        "parts": lambda: parts(ready[next(turns) % len(ready)]),
        "same": lambda: parts(ready[0]),
        "floor": floor,
        "loading": loading,
    }
    taken = interleaved(kinds, rounds=ROUNDS, repeats=4)
    print(f"{name}: rho-loss step, pool 320, batch 32")
    print(f"  step through the library      {timing(taken['step'])}")
    print(f"  scoring forward + train step  {timing(taken['parts'])}")
    print(f"  the same, always one pool     {timing(taken['same'])}")
    print(f"  handwritten step, the floor   {timing(taken['floor'])}")
    print(f"  loading the pool, alone       {timing(taken['loading'])}")
    print(f"  step / (forward + train)      {ratio(taken['step'], taken['parts'])}   target 1.10")
    print(f"  step / (the same, one pool)   {ratio(taken['step'], taken['same'])}")
    print(f"  floor / (forward + train)     {ratio(taken['floor'], taken['parts'])}")
    print(f"  step / floor                  {ratio(taken['step'], taken['floor'])}")


def _format(images: torch.Tensor) -> torch.memory_format:
    last = images.is_contiguous(memory_format=torch.channels_last) and images.dim() == 4
    return torch.channels_last if last else torch.contiguous_format


def uniform_overhead(name: str) -> None:
    task = make_task(SHAPES[name])
    config = TrainConfig(model=name, method="uniform", epochs=10_000)
    loop = Loop(config, task)
    examples = task.train
    model = build_model(
        model_factory(name), examples.store.example_shape, 10, derive_seed(config.seed, "weights")
    )
    if name != "mlp":
        model = model.to(memory_format=torch.channels_last)
    model.train()
    optimizer = make_optimizer(model, config)
    mean, std = 255 * 0.5, 255 * 0.25
    state = {"step": 0, "order": torch.empty(0, dtype=torch.int64)}
    per_epoch = config.steps_per_epoch(len(examples))
    store = examples.store
    assert isinstance(store, ImageStore)

    def handwritten() -> None:
        epoch, pool = divmod(state["step"], per_epoch)
        if pool == 0:
            state["order"] = torch.randperm(len(examples), generator=stream(0, "order", epoch))
        candidates = state["order"][pool * 320 : (pool + 1) * 320]
        # The same random choice as the library's, or the weights could not be equal.
        chosen = candidates[_choose(examples.ids_N[candidates], state["step"])]
        images = (store.images_NCHW[chosen].float() - mean) / std
        if name != "mlp":
            images = images.contiguous(memory_format=torch.channels_last)
        loss = F.cross_entropy(model(images), examples.targets_N[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        state["step"] += 1

    def library() -> None:
        loop.one_step()
        if len(loop.log) >= 64:
            loop.log.settle()

    taken = interleaved({"library": library, "hand": handwritten}, rounds=ROUNDS, repeats=8)
    print(f"{name}: uniform, batch 32")
    print(f"  through the library           {timing(taken['library'])}")
    print(f"  handwritten loop              {timing(taken['hand'])}")
    print(f"  library / handwritten         {ratio(taken['library'], taken['hand'])}   target 1.05")


def _choose(ids: torch.Tensor, step: int) -> torch.Tensor:
    selector = METHODS["uniform"].selector
    return selector(Evidence(ids_B=ids), 32, stream(0, "selection", step)).positions_k


if __name__ == "__main__":
    torch.manual_seed(0)
    print(f"{torch.get_num_threads()} threads, median [quartiles] of {ROUNDS} interleaved rounds")
    for model_name in SHAPES:
        rho_step_overhead(model_name)
        uniform_overhead(model_name)
