"""What exact per-example gradient norms cost: time against plain passes, and memory.

    python benchmarks/gradient_norms.py time      MLP, small CNN, ResNet-18, transformer
    python benchmarks/gradient_norms.py cheap     last-layer norm and bound, v plain forward:
                                                  of one batch, and of a data set's batches
    python benchmarks/gradient_norms.py memory    ResNet-18 in processes of their own

Times are of interleaved rounds in one process: a round runs every contender once, and ratios are
taken within rounds, so that a busy machine slows both sides. Median and quartiles are shown, for
wall time and for processor time; with --threads 1 the latter hardly depends on other load.
Memory is the peak resident size above what the process held just before the timed call.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "reference"))
from gradient_reference import MLP, ResNet18, SmallCNN, Transformer, token_loss

from goldiprox.evidence.forward import ScoringPass
from goldiprox.evidence.gradients import (
    gradient_norms,
    last_layer_gradient_norms,
    logit_gradient_norms,
    penultimate_features,
)

MODELS = ("mlp", "cnn", "resnet18", "transformer")
BATCHES = {"mlp": 64, "cnn": 8, "resnet18": 4}
"""Of a data set: so many that a pass over it takes a fraction of a second, or a few."""


def setting(name: str) -> tuple[nn.Module, Tensor, Tensor, Callable[[Tensor, Tensor], Tensor]]:
    """A model in evaluation mode, a batch, its targets and the unreduced loss."""
    torch.manual_seed(0)

    def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(logits, targets, reduction="none")

    if name == "mlp":
        inputs, model = torch.randn(320, 784), MLP(784, 512, 10)
    elif name == "cnn":
        inputs, model = torch.randn(128, 3, 32, 32), SmallCNN()
    elif name == "resnet18":
        inputs, model = torch.randn(64, 3, 32, 32), ResNet18()
    else:
        tokens = torch.randint(1, 2000, (32, 64))
        model = Transformer(words=2000, width=256, heads=4, depth=4, length=64)
        return model.eval(), tokens, tokens, token_loss
    return model.eval(), inputs, torch.randint(0, 10, (len(inputs),)), cross_entropy


def materialised_norms(model, inputs, targets, loss, chunk: int | None = None) -> Tensor:
    """The usual way: vmap over grad with torch.func; each chunk is squared before the next."""
    parameters = {name: p.detach() for name, p in model.named_parameters()}

    def loss_of_one(values, x, y):
        outputs = torch.func.functional_call(model, values, (x.unsqueeze(0),))
        return loss(outputs, y.unsqueeze(0)).sum()

    gradient = torch.func.vmap(torch.func.grad(loss_of_one), (None, 0, 0))
    size = len(targets) if chunk is None else chunk
    norms = []
    for x, y in zip(inputs.split(size), targets.split(size), strict=True):
        found = gradient(parameters, x, y)
        squares = [g.flatten(1).square().sum(1) for g in found.values()]
        norms.append(torch.stack(squares).sum(0).sqrt())
    return torch.cat(norms)


def contenders(name: str) -> dict[str, Callable[[], object]]:
    """What is timed: the plain pass, the exact norms, and torch.func on ResNet-18."""
    model, inputs, targets, loss = setting(name)

    def plain() -> None:
        loss(model(inputs), targets).mean().backward()
        model.zero_grad(set_to_none=True)

    found = {
        "plain forward+backward": plain,
        "exact norms": lambda: gradient_norms(model, inputs, targets, per_example_loss=loss),
    }
    if name == "resnet18":
        found["torch.func vmap(grad)"] = lambda: materialised_norms(model, inputs, targets, loss)
        for chunk in (1, 8):
            found[f"torch.func, chunks of {chunk}"] = lambda chunk=chunk: materialised_norms(
                model, inputs, targets, loss, chunk
            )
    return found


def cheap_contenders(name: str) -> dict[str, Callable[[], object]]:
    """A plain no-grad forward pass, alone and with each of the cheap norms."""
    model, inputs, targets, _ = setting(name)

    @torch.no_grad()
    def forward() -> Tensor:
        return model(inputs).log_softmax(1)

    @torch.no_grad()
    def bound() -> Tensor:
        return logit_gradient_norms(model(inputs).log_softmax(1), targets)

    @torch.no_grad()
    def last_layer() -> Tensor:
        with penultimate_features(model) as caught:
            log_probs = model(inputs).log_softmax(1)
        return last_layer_gradient_norms(log_probs, targets, caught.features_BD, bias=caught.bias)

    return {"plain forward": forward, "logit bound": bound, "last layer": last_layer}


def data_set_contenders(name: str) -> dict[str, Callable[[], object]]:
    """A data set's batches: plain no-grad forward passes, and a scoring pass for each norm."""
    model, inputs, targets, _ = setting(name)
    size = len(inputs)
    data = [
        (torch.arange(turn * size, (turn + 1) * size), inputs.roll(turn, 0), targets.roll(turn))
        for turn in range(BATCHES[name])
    ]
    scoring = ScoringPass(model)

    @torch.no_grad()
    def forward() -> list[Tensor]:
        return [model(part) for _, part, _ in data]

    def scored(field: str) -> Callable[[], object]:
        return lambda: list(scoring.over(data, {field}))

    return {
        "plain forward, data set": forward,
        "logit bound, data set": scored("grad_norm_bound_B"),
        "last layer, data set": scored("grad_norm_last_layer_B"),
    }


Rounds = dict[str, list[tuple[float, float]]]
"""For each contender (wall seconds, processor seconds) of each round."""


def interleaved(runs: dict[str, Callable[[], object]], rounds: int) -> Rounds:
    """Time every contender once a round; the first round is thrown away."""
    seconds: Rounds = {name: [] for name in runs}
    for turn in range(rounds + 1):
        order = list(runs.items())
        for name, run in order[:: 1 if turn % 2 else -1]:
            wall, processor = time.perf_counter(), time.process_time()
            run()
            if turn:
                spent = (time.perf_counter() - wall, time.process_time() - processor)
                seconds[name].append(spent)
    return seconds


def report(title: str, seconds: Rounds) -> None:
    """Print median times and the median and quartiles of the ratio to the first contender."""
    first = next(iter(seconds.values()))
    for name, values in seconds.items():
        text = f"{title:12} {name:26}"
        for which, clock in enumerate(("wall", "processor")):
            ratios = [v[which] / base[which] for v, base in zip(values, first, strict=True)]
            low, middle, high = statistics.quantiles(ratios, n=4)
            spent = 1e3 * statistics.median(v[which] for v in values)
            text += f"  {clock} {spent:9.2f} ms, {middle:.3f}x [{low:.3f}, {high:.3f}]"
        print(text, flush=True)


def resident() -> int:
    """Resident bytes of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def peak_of(run: Callable[[], object]) -> tuple[int, float]:
    """Peak resident bytes above the start, and seconds, of one call."""
    start, peak, done = resident(), 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.002):
            peak = max(peak, resident())

    watcher = threading.Thread(target=watch)
    watcher.start()
    began = time.perf_counter()
    run()
    seconds = time.perf_counter() - began
    done.set()
    watcher.join()
    return max(peak - start, 0), seconds


def memory(runs: list[str]) -> None:
    """Each contender alone in a fresh process, on ResNet-18 with 64 examples."""
    for name in runs:
        command = [sys.executable, __file__, "one", "--contender", name]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found = json.loads(done.stdout.splitlines()[-1])
        print(f"{name:26} peak {found['bytes'] / 2**20:8.1f} MiB   {found['seconds']:.2f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "what", nargs="?", default="time", choices=("time", "cheap", "memory", "one")
    )
    parser.add_argument("--models", nargs="+", default=MODELS, choices=MODELS)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--skip-func", action="store_true", help="leave torch.func out")
    parser.add_argument("--contender", default="exact norms")
    settings = parser.parse_args()
    torch.set_num_threads(settings.threads)
    if settings.what == "memory":
        memory(list(contenders("resnet18")))
        return
    if settings.what == "one":
        # The first call of any kind loads kernels and starts threads: not what is measured.
        runs = contenders("resnet18")
        small = setting("resnet18")
        gradient_norms(small[0], small[1][:2], small[2][:2])
        used, seconds = peak_of(runs[settings.contender])
        print(json.dumps({"bytes": used, "seconds": seconds}))
        return
    for name in settings.models:
        if settings.what == "time":
            runs = contenders(name)
            if settings.skip_func:
                runs = {key: run for key, run in runs.items() if "func" not in key}
            report(name, interleaved(runs, settings.rounds))
        elif name != "transformer":  # its outputs are one distribution for each token
            report(name, interleaved(cheap_contenders(name), settings.rounds))
            report(name, interleaved(data_set_contenders(name), settings.rounds))


if __name__ == "__main__":
    main()
