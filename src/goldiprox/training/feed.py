"""From rows of a data set to a batch on the device."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from goldiprox.batch import Batch
from goldiprox.data.preprocess import Augmentation, ImagePreprocessor
from goldiprox.data.splits import Examples
from goldiprox.schema import DataError

__all__ = ["Feeder"]


@dataclass(frozen=True, kw_only=True)
class Feeder:
    """Makes batches ``(ids_B, images_BCHW, targets_B)`` on a device.

    Attributes:
        preprocess: augments and normalises.
        device: where the batch goes.
        channels_last: memory format of the images; convolutions are up to twice as fast in it on
            CPUs and on tensor cores.
    """

    preprocess: ImagePreprocessor
    device: torch.device
    channels_last: bool

    @staticmethod
    def of(model: nn.Module, preprocess: ImagePreprocessor, device: torch.device) -> Feeder:
        """A feeder for a model: channels-last if it has 2-d convolutions."""
        convolutional = any(isinstance(m, nn.Conv2d) for m in model.modules())
        return Feeder(preprocess=preprocess, device=device, channels_last=convolutional)

    def place(self, model: nn.Module) -> nn.Module:
        """Move a model to the device, in the memory format of its images."""
        if self.channels_last:
            model = model.to(memory_format=torch.channels_last)
        return model.to(self.device)

    def __call__(
        self, examples: Examples, positions_B: Tensor, augmentation: Augmentation | None = None
    ) -> Batch:
        """Make a batch.

        Args:
            examples: what to take from.
            positions_B: positions in ``examples``, on the CPU.
            augmentation: drawn parameters, one an example; None leaves the images as they are.
        """
        raw = examples.fetch(positions_B)
        if not isinstance(raw, Tensor):
            raise DataError(f"expected images, got {type(raw).__name__}")
        images: Tensor = self.preprocess(raw, augmentation, device=self.device)
        if self.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        ids_B = examples.ids_N[positions_B].to(self.device, non_blocking=True)
        targets_B = examples.targets_N[positions_B].to(self.device, non_blocking=True)
        return ids_B, images, targets_B
