"""A model whose outputs are brought to the scale of what they are to predict."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["ScaledOutput"]


class ScaledOutput(nn.Module):
    """Multiplies a model's outputs by fixed deviations and adds fixed means.

    A model whose outputs begin around zero would spend most of its steps on getting to targets of
    a few hundred; losses and metrics stay in the targets' own units.

    Args:
        model: gives [B, D].
        mean_D: added.
        std_D: multiplied by.
    """

    def __init__(self, model: nn.Module, mean_D: Tensor, std_D: Tensor) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("mean_D", mean_D)
        self.register_buffer("std_D", std_D)

    @staticmethod
    def of(model: nn.Module, targets_N: Tensor) -> ScaledOutput:
        """Scale outputs to some targets, [N] or [N, D]; constant ones are only shifted."""
        targets_ND = targets_N.double().reshape(len(targets_N), -1)
        std_D = targets_ND.std(0, correction=0)
        std_D = torch.where(std_D > 0, std_D, torch.ones_like(std_D))
        return ScaledOutput(model, targets_ND.mean(0).float(), std_D.float())

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """The scaled outputs."""
        output = self.model(*args, **kwargs)
        output = getattr(output, "logits", output)
        scaled: Tensor = output * self.std_D + self.mean_D
        return scaled
