"""How a network moves while it learns: velocity of its tangent kernel, and barriers between twins.

Pure measurements on models and weights that were kept; who trained them does not matter here.

Source: Paul et al. 2021 (arXiv:2107.07075), sections 4 and 5; the tangent kernel's distance after
Fort et al. 2020 (arXiv:2010.15110), the error barrier after Frankle et al. 2020 (arXiv:1912.05671).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from goldiprox.evidence.gradients import run_model, tangent_kernel
from goldiprox.evidence.mode import scoring_mode
from goldiprox.schema import ConfigError, DataError

__all__ = [
    "Weights",
    "error_barrier",
    "errors_between",
    "example_sets",
    "interpolated",
    "kernel_distance",
    "kernel_velocities",
    "window_starts",
]

ROWS = 256
"""Rows of a kernel that are widened to float64 at once."""

Weights = Mapping[str, Tensor]
"""A model's state dict."""

Batches = Callable[[], Iterable[tuple[Any, Tensor]]]
"""Makes (inputs, targets_B) batches, again at each call."""


def kernel_distance(kernel: Tensor, other: Tensor) -> float:
    """One minus the cosine between two kernel matrices: 0 where they point the same way.

    Args:
        kernel: [m*C, m*C].
        other: of the same shape.

    Returns:
        ``1 - <K, K'> / (|K| |K'|)`` with the Frobenius inner product, in float64.

    Raises:
        DataError: if the shapes differ, or a kernel is zero or not finite.
    """
    if kernel.shape != other.shape:
        raise DataError(
            f"kernels of shapes {tuple(kernel.shape)} and {tuple(other.shape)} have no distance; "
            "take them on the same examples"
        )
    # In float64, some rows at a time: squares of large kernels overflow, near distances cancel.
    sizes = [_size(matrix) for matrix in (kernel, other)]
    if not all(math.isfinite(size) and size > 0 for size in sizes):
        raise DataError(
            f"a kernel's norm is {' and '.join(f'{size:g}' for size in sizes)}: the model has no "
            "gradient on these examples, or weights that are not finite; lower the learning rate"
        )
    # |u - v|^2 / 2 equals 1 - <u, v> for unit vectors, without its cancellation.
    pairs = zip(kernel.split(ROWS), other.split(ROWS), strict=True)
    squares = [(k.double() / sizes[0] - o.double() / sizes[1]).square().sum() for k, o in pairs]
    return float(torch.stack(squares).sum() / 2)


def _size(kernel: Tensor) -> float:
    """Frobenius norm."""
    parts = [torch.linalg.vector_norm(rows.double()) for rows in kernel.split(ROWS)]
    return float(torch.linalg.vector_norm(torch.stack(parts)))


def kernel_velocities(
    model: nn.Module,
    inputs: Any,
    weights_at: Callable[[int], Weights],
    epochs: Sequence[int],
) -> Iterator[tuple[int, float]]:
    """Velocity of the tangent kernel on one set of examples.

    Two kernels are held at a time.

    Args:
        model: takes the weights, in evaluation mode; left with the last ones it was given.
        inputs: of the m examples.
        weights_at: weights after so many epochs.
        epochs: epochs t, ascending; each needs the weights after t and after t + 1.

    Yields:
        t and ``S(w_t, w_t+1)``, distance per epoch.
    """

    def kernel(epoch: int) -> Tensor:
        model.load_state_dict(weights_at(epoch))
        return tangent_kernel(model, inputs)

    model.eval()
    known: tuple[int, Tensor] | None = None
    for epoch in epochs:
        before = known[1] if known is not None and known[0] == epoch else None
        known = None  # let go of what is not needed before the next kernel is made
        before = kernel(epoch) if before is None else before
        after = kernel(epoch + 1)
        yield epoch, kernel_distance(before, after)
        known = (epoch + 1, after)
        del before, after


def window_starts(count: int, size: int, windows: int) -> list[int]:
    """Where windows along an order of ``count`` examples begin, from the first to the last.

    Raises:
        ConfigError: if a window does not fit into the data.
    """
    if size > count:
        raise ConfigError(f"--window {size} is more than the {count} examples there are; lower it")
    last = count - size
    if windows == 1:
        return [0]
    return sorted({round(last * number / (windows - 1)) for number in range(windows)})


def example_sets(order_N: Tensor, size: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Positions of the lowest, the highest and as many random examples.

    Args:
        order_N: positions in ascending order of the score.
        size: examples in each set.
        generator: draws the random ones.

    Raises:
        ConfigError: if lowest and highest would overlap.
    """
    count = len(order_N)
    if 2 * size > count:
        raise ConfigError(
            f"--set-size {size} is more than half of the {count} examples: lowest and highest "
            "would overlap; lower it"
        )
    chosen = torch.randperm(count, generator=generator)[:size]
    return {"lowest": order_N[:size], "highest": order_N[-size:], "random": order_N[chosen]}


def interpolated(first: Weights, second: Weights, alpha: float) -> dict[str, Tensor]:
    """``alpha * first + (1 - alpha) * second``; counters and other whole numbers are the first's.

    Raises:
        DataError: if the two are weights of different models.
    """
    if first.keys() != second.keys() or any(first[k].shape != second[k].shape for k in first):
        raise DataError("weights of two different models cannot be interpolated")
    return {
        name: torch.lerp(second[name], value, alpha) if value.is_floating_point() else value
        for name, value in first.items()
    }


def errors_between(
    model: nn.Module,
    first: Weights,
    second: Weights,
    alphas: Sequence[float],
    sets: Mapping[str, Batches],
    statistics: Batches,
) -> dict[str, list[float]]:
    """Error of the networks on the straight line between two, on several sets of examples.

    BatchNorm's statistics belong to neither end, so they are estimated again for every network on
    the way, the ends included.

    Args:
        model: takes the weights; left with the last ones it was given.
        first: the end at alpha = 1.
        second: the end at alpha = 0.
        alphas: shares of the first.
        sets: examples by the set's name.
        statistics: training examples to estimate BatchNorm's statistics on.

    Returns:
        Share of each set that is misclassified, one for each alpha.
    """
    found: dict[str, list[float]] = {name: [] for name in sets}
    for alpha in alphas:
        model.load_state_dict(interpolated(first, second, alpha))
        estimate_batchnorm(model, statistics)
        for name, batches in sets.items():
            found[name].append(_error(model, batches))
    return found


def error_barrier(alphas: Sequence[float], errors: Sequence[float]) -> float:
    """How far the error rises above the straight line between the ends' errors.

    Args:
        alphas: ascending from 0 to 1.
        errors: one for each.

    Returns:
        ``sup_a (e(a) - (a e(1) + (1 - a) e(0)))``, at least 0: at the ends it is 0.
    """
    start, end = errors[0], errors[-1]
    return max(e - (a * end + (1 - a) * start) for a, e in zip(alphas, errors, strict=True))


def estimate_batchnorm(model: nn.Module, batches: Batches) -> None:
    """Estimate the running statistics of BatchNorm anew; nothing is done without such layers.

    Everything else is in evaluation mode: dropout would shift the statistics.

    Args:
        model: changed in its statistics only.
        batches: each counts the same.
    """
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    if not norms:
        return
    with _estimating(model, norms), torch.no_grad():
        for inputs, _ in batches():
            run_model(model, inputs)


@contextmanager
def _estimating(model: nn.Module, norms: Sequence[_BatchNorm]) -> Iterator[None]:
    momenta = [norm.momentum for norm in norms]
    modes = {module: module.training for module in model.modules()}
    try:
        model.eval()
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # a plain average over the batches
            norm.train()
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for module, training in modes.items():
            module.training = training


def _error(model: nn.Module, batches: Batches) -> float:
    wrong, count = 0, 0
    with torch.no_grad(), scoring_mode(model, "running"):
        for inputs, targets_B in batches():
            predicted_B = run_model(model, inputs).argmax(1)
            wrong += int((predicted_B != targets_B).sum())
            count += int(targets_B.numel())
    if not count:
        raise DataError("there are no examples to take an error on; choose a larger set")
    return wrong / count
