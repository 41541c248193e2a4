"""The weighted training step and its optimizer."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from goldiprox.batch import Batch, model_output
from goldiprox.config import LearnerConfig, TrainConfig
from goldiprox.evidence.mode import Precision, autocast
from goldiprox.objectives import CLASSIFICATION, Objective
from goldiprox.schema import ConfigError

__all__ = [
    "Stepped",
    "make_optimizer",
    "resolve_device",
    "resolve_precision",
    "resolved",
    "training_step",
]


def resolve_device(name: str) -> torch.device:
    """A device from its setting.

    Raises:
        ConfigError: if CUDA is asked for where there is none, or the name means nothing.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f'unknown device "{name}"; use cpu, cuda, cuda:N or auto') from error
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(
            f'--device {name}: devices of type "{device.type}" are not supported; use cpu, cuda, '
            "cuda:N or auto"
        )
    if device.type == "cuda":
        count = torch.cuda.device_count()
        if (device.index or 0) >= count:
            has = f"{count} CUDA device(s)" if count else "no CUDA device"
            raise ConfigError(f"--device {name}: this machine has {has}; use --device cpu")
    return device


def resolve_precision(name: Precision | Literal["auto"], device: torch.device) -> Precision:
    """The arithmetic of the scoring pass, ``auto`` resolved for a device."""
    if name != "auto":
        return name
    if device.type == "cuda":
        return "bf16" if torch.cuda.get_device_capability(device) >= (8, 0) else "float32"
    has_amx = getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    return "bf16" if device.type == "cpu" and has_amx() else "float32"


Config = TypeVar("Config", bound=LearnerConfig)


def resolved(config: Config, example_shape: tuple[int, ...]) -> Config:
    """The same settings with ``auto`` replaced by what this machine and these examples make of it.

    Args:
        config: settings.
        example_shape: shape of one example, () for texts; decides the model.

    Raises:
        ConfigError: if the device is absent.
    """
    precision = resolve_precision(config.scoring_precision, resolve_device(config.device))
    model = config.resolved_model(example_shape)
    return replace(config, scoring_precision=precision, model=model)


def make_optimizer(model: nn.Module, config: TrainConfig) -> AdamW:
    """AdamW with PyTorch's defaults, fused where the device has it.

    Raises:
        ConfigError: if the model has nothing to train.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not parameters:
        raise ConfigError(f'model "{config.model}" has no trainable parameters')
    fused = all(p.device.type in ("cpu", "cuda") and p.is_floating_point() for p in parameters)
    return AdamW(parameters, lr=config.lr, weight_decay=config.weight_decay, fused=fused)


@dataclass(frozen=True, kw_only=True)
class Stepped:
    """What a training step saw, before the update; on the device, detached.

    Attributes:
        output: what the model made of the batch.
        batch: the chosen examples.
        loss_k: their losses, unreduced.
        correct_k: bool, whether each was predicted correctly; None where nothing is right or wrong.
    """

    output: Any
    batch: Batch
    loss_k: Tensor
    correct_k: Tensor | None


def training_step(
    model: nn.Module,
    optimizer: Optimizer,
    batch: Batch,
    weights_k: Tensor | None,
    config: TrainConfig,
    objective: Objective = CLASSIFICATION,
) -> Stepped:
    """One optimizer step on the weighted mean of the chosen examples' losses.

    Args:
        model: in training mode.
        optimizer: its gradients are cleared here.
        batch: the chosen examples, on the model's device.
        weights_k: weights in the mean; None for all ones.
        config: for the precision.
        objective: what the model is trained for.

    Returns:
        Output, losses and what was correct, before the update.
    """
    device = optimizer.param_groups[0]["params"][0].device
    with autocast(device, config.precision):
        output = model_output(model, batch)
    mean, loss_k, correct_k = objective.step(output, batch, weights_k)
    # What zero_grad does; with all that it does beside, it costs a small model 2 % of a step.
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = None
    mean.backward()
    optimizer.step()
    if isinstance(output, Tensor):
        output = output.detach()
    return Stepped(output=output, batch=batch, loss_k=loss_k, correct_k=correct_k)
