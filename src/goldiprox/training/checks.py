"""What can be found out before the first step rather than at the end of an epoch."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from goldiprox.batch import Batch, model_output
from goldiprox.config import TrainConfig
from goldiprox.evidence.mode import scoring_mode, twin_of, undisturbed
from goldiprox.objectives import Objective
from goldiprox.schema import ConfigError
from goldiprox.training.feed import Feeder
from goldiprox.training.task import Task

__all__ = ["require_batches_that_normalise", "require_fitting_output"]


def require_fitting_output(model: nn.Module, few: Batch, task: Task, objective: Objective) -> None:
    """Refuse a model whose output, or data whose targets, do not fit the objective.

    Args:
        model: looked at in evaluation mode.
        few: some examples, on its device.
        task: the data.
        objective: what the model is trained for.

    Raises:
        GoldiproxError: what the objective says of them.
    """
    with torch.no_grad(), scoring_mode(model, "running"):
        output = model_output(model, few)
        objective.losses(output, few)
    if isinstance(output, Tensor):
        for examples in (task.train, task.evaluation):
            objective.require_values(examples.targets_N, examples.ids_N, int(output.shape[-1]))


def require_batches_that_normalise(
    model: nn.Module, feeder: Feeder, task: Task, config: TrainConfig
) -> None:
    """Refuse a last batch of one that cannot be trained on.

    BatchNorm refuses a batch with a single value per channel.

    Args:
        model: a twin of it is tried.
        feeder: makes its batches.
        task: the data.
        config: says how large pools and batches are.

    Raises:
        ConfigError: naming the rest and the remedy.
    """
    last = len(task.train) % config.pool_size or config.pool_size
    if config.chosen(last) > 1:
        return
    twin = twin_of(model)
    try:
        with torch.no_grad(), undisturbed(twin):
            model_output(twin, feeder(task.train, torch.arange(1)))
    except ValueError as error:
        raise ConfigError(
            f"the last pool of an epoch has {last} candidates, of which 1 is chosen, and this "
            f"model's BatchNorm cannot train on a batch of one; choose a "
            f"{'--batch' if config.pool_size == config.batch else '--pool'} that "
            f"leaves a larger rest of {len(task.train)} examples"
        ) from error
