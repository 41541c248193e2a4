"""What choosing costs beyond the passes that a method needs, as a share of a whole step.

Every method that chooses at each step, from pools of 320, 32 of them, on an MLP (784-512-512-10,
with dropout where a method samples masks). The choice alone (the selector on ready evidence, and
the look-up of irreducible losses) and a whole step of the reference loop take turns. For divbs the
product of the features with themselves and the picks, each of which waits for the one before, are
timed as well: what no way of choosing by it can do without.

Run: python benchmarks/method_overhead.py
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable

import torch
from torch import nn

from goldiprox.config import TrainConfig
from goldiprox.records.tables import IRREDUCIBLE_LOSS, ScoreTable
from goldiprox.schema import Evidence
from goldiprox.seeds import stream
from goldiprox.selection.groups import _greedy
from goldiprox.selection.joint import sigmoid_pair_losses
from goldiprox.selection.methods import METHODS, Method, method
from goldiprox.selection.plans import pools
from goldiprox.selection.selectors import Selector, StatefulSelector
from goldiprox.training.build import build
from goldiprox.training.loop import Loop
from step_overhead import make_task
from timing import interleaved, ratio, timing

POOL, CHOSEN, ROUNDS = 320, 32, 15
LIMIT = 0.10
Work = Callable[[], object]
VARIANTS = ("rho-loss@gumbel", "rho-loss@class-balanced", "rho-loss@stratified", "loss@filtered")


def fresh(entry: Method) -> Selector:
    selector = entry.selector
    return selector.start() if isinstance(selector, StatefulSelector) else selector


def choosing(entry: Method, evidence: Evidence, look_up: Work) -> Work:
    """The choice alone, from ready evidence."""
    selector, steps = fresh(entry), itertools.count()

    def choose() -> None:
        if entry.needs_irreducible:
            look_up()
        selector(evidence, CHOSEN, stream(0, "selection", next(steps)))

    return choose


def in_the_loop(name: str) -> dict[str, Work]:
    """The choice, and a step of the reference loop."""
    entry = method(name)
    task = make_task((1, 28, 28))
    model = "mlp-dropout" if "mc_log_probs_KBC" in entry.needs else "mlp"
    config = TrainConfig(model=model, method=name, epochs=10_000, scoring_precision="float32")
    table = ScoreTable(
        ids_N=task.train.ids_N.numpy(),
        columns={IRREDUCIBLE_LOSS: torch.rand(len(task.train)).numpy()},
        provenance={},
    )
    companion = None
    if entry.companion is not None and entry.companion.pretrained:
        small = config.resolved_companion(task.train.store.example_shape)
        companion, _ = build(
            small, task.train, task.preprocess, task.num_classes, seed=0, device=torch.device("cpu")
        )
    loop = Loop(config, task, irreducible=table, companion=companion)
    for _ in range(20):  # gradients of a model that has begun to learn
        loop.one_step()
    seen: list[Evidence] = []
    selector = loop.chooser._selector

    def watch(evidence: Evidence, k: int, generator: torch.Generator) -> object:
        seen.append(evidence)
        return selector(evidence, k, generator)

    loop.chooser._selector = watch  # type: ignore[assignment]
    loop.one_step()
    loop.chooser._selector = selector
    ids_B = seen[-1].ids_B
    look_up = loop.chooser._irreducible

    def looked_up() -> object:
        return None if look_up is None else look_up(ids_B)

    kinds = {"choice": choosing(entry, seen[-1], looked_up), "step": loop.one_step}
    if name == "divbs":
        features_BD = seen[-1].need("features_BD")
        errors_BC = seen[-1].need("log_probs_BC").exp()
        gram_BB = (features_BD @ features_BD.T * (errors_BC @ errors_BC.T)).numpy()
        kinds["of which features x features"] = lambda: features_BD @ features_BD.T
        kinds["of which the picks"] = lambda: _greedy(gram_BB, CHOSEN, 1e-5)
    return kinds


def contrastive() -> dict[str, Work]:
    """The joint choice, and a step of two towers that it chooses for."""

    def towers() -> nn.ModuleList:
        return nn.ModuleList(
            nn.Sequential(
                nn.Linear(392, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 64)
            )
            for _ in range(2)
        )

    learner, reference = towers(), towers()
    optimizer = torch.optim.AdamW(learner.parameters())
    left, right = torch.randn(POOL, 392), torch.randn(POOL, 392)

    def logits(model: nn.ModuleList, rows: torch.Tensor) -> torch.Tensor:
        return model[0](left[rows]) @ model[1](right[rows]).T

    def evidence() -> Evidence:
        rows = torch.arange(POOL)
        with torch.no_grad():
            return Evidence(
                ids_B=rows,
                pair_logits_BB=logits(learner, rows),
                reference_pair_logits_BB=logits(reference, rows),
            )

    entry, steps = METHODS["jest"], itertools.count()

    def whole() -> None:
        chosen = fresh(entry)(evidence(), CHOSEN, stream(0, "selection", next(steps)))
        loss = sigmoid_pair_losses(logits(learner, chosen.positions_k)).sum() / CHOSEN
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return {"choice": choosing(entry, evidence(), lambda: None), "step": whole}


def main() -> None:
    names = [name for name, entry in METHODS.items() if entry.plan is pools]
    print(f"{torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}")
    print(f"{'method':32} {'choice, share of a step':28} {'choice':>32} {'whole step':>32}")
    over = []
    for name in [*names, *VARIANTS]:
        kinds = contrastive() if method(name).from_caller else in_the_loop(name)
        taken = interleaved(kinds, rounds=ROUNDS, repeats=3)
        share = ratio(taken["choice"], taken["step"])
        whole = timing(taken["step"])
        for kind, spent in taken.items():
            if kind != "step":
                part = ratio(spent, taken["step"])
                title = name if kind == "choice" else f"  {kind}"
                print(f"{title:32} {part!s:28} {timing(spent)!s:>32} {whole!s:>32}", flush=True)
        if share.median > LIMIT:
            over.append(name)
    if over:
        sys.exit(f"more than {LIMIT:.0%} of a step: {', '.join(over)}")


if __name__ == "__main__":
    main()
