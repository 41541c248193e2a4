"""From raw inputs to what a model takes; for images augmentation, conversion, normalisation."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.nn import functional

from goldiprox.data.inputs import Store
from goldiprox.schema import DataError

__all__ = ["Augmentation", "ImagePreprocessor", "ModelInputs", "Preprocess", "Source"]

ModelInputs = Tensor | dict[str, Tensor]
"""One batch as a model takes it: ``model(inputs)``, or ``model(**inputs)`` for a dict."""

CHUNK = 128  # images per chunk when measuring means: bounds memory, not speed
CACHED = (
    128 * 3 * 32 * 32
)  # values worked on at a time on the CPU, so that all passes hit its cache


@dataclass(frozen=True, kw_only=True, eq=False)
class Augmentation:
    """How each example of a pool is to be shifted and mirrored, drawn before the pool is cut.

    Attributes:
        dy_B: int64, first row of the crop in the padded image.
        dx_B: int64, first column of the crop in the padded image.
        flip_B: bool, whether the crop is then mirrored left to right.
    """

    dy_B: Tensor
    dx_B: Tensor
    flip_B: Tensor

    def __len__(self) -> int:
        return int(self.dy_B.shape[0])

    def __getitem__(self, positions: Tensor | slice) -> Augmentation:
        return Augmentation(
            dy_B=self.dy_B[positions], dx_B=self.dx_B[positions], flip_B=self.flip_B[positions]
        )


class Source(Protocol):
    """What batches are fetched from by row: a store, or what :meth:`Preprocess.prepare` made."""

    def fetch(self, rows_B: Tensor) -> Any:
        """The raw examples of these rows, in this order; repeats are allowed."""
        ...


@runtime_checkable
class Preprocess(Protocol):
    """What stands between a store and a model, whatever the examples are."""

    @property
    def augments(self) -> bool:
        """Whether :meth:`draw` draws anything."""
        ...

    def prepare(self, store: Store) -> Source:
        """What batches are fetched from; what need be done but once is done here, and kept."""
        ...

    def draw(self, count: int, generator: torch.Generator) -> Augmentation | None:
        """Draw the augmentation of ``count`` examples, on the CPU; None where there is none."""
        ...

    def __call__(
        self,
        raw: Any,
        augmentation: Augmentation | None = None,
        *,
        device: torch.device | str | None = None,
    ) -> ModelInputs:
        """Make a model's inputs from what the prepared source fetched."""
        ...

    def input_shape(self, store: Store) -> tuple[int, ...]:
        """What a model's factory is told of one example."""
        ...

    def without_augmentation(self) -> Preprocess:
        """The same with nothing drawn at random."""
        ...

    def describe(self) -> dict[str, Any]:
        """For the records: values that JSON can hold."""
        ...


@lru_cache(maxsize=16)
def _factors(
    mean_C: tuple[float, ...], std_C: tuple[float, ...], device: torch.device
) -> tuple[Tensor, Tensor]:
    """What to multiply pixels of 0..255 by, and what to add then; made once, not at every step."""
    scale = [1 / (255 * std) for std in std_C]
    shift = [-mean / std for mean, std in zip(mean_C, std_C, strict=True)]
    return (
        torch.tensor(scale, device=device).view(-1, 1, 1),
        torch.tensor(shift, device=device).view(-1, 1, 1),
    )


@dataclass(frozen=True, kw_only=True)
class ImagePreprocessor:
    """Crop, mirror, convert and normalise batches of uint8 images.

    Attributes:
        mean_C: mean of each channel over the training rows, on the scale 0..1.
        std_C: standard deviation of each channel over the training rows, on the scale 0..1.
        crop_padding: black pixels added on every side before a random crop; 0 means no crop.
        flip: whether images are mirrored left to right with probability 1/2.
    """

    mean_C: tuple[float, ...]
    std_C: tuple[float, ...]
    crop_padding: int = 0
    flip: bool = False

    @staticmethod
    def measure(images_NCHW: Tensor, rows: Tensor) -> ImagePreprocessor:
        """Measure means and deviations, and choose the augmentation that fits the images.

        Colour images are mirrored, and those of 32 pixels or more also cropped with a padding of
        4, as is usual for CIFAR. Greyscale images (digits, letters, garments) are left alone.

        Args:
            images_NCHW: uint8 images.
            rows: int64 rows to measure on: the training set's.

        Returns:
            The preprocessor.
        """
        channels, height, width = images_NCHW.shape[1:]
        # Integer sums are exact, whatever the number of images and the order of summation.
        total_C = torch.zeros(channels, dtype=torch.int64)
        square_C = torch.zeros(channels, dtype=torch.int64)
        for part in torch.split(rows, CHUNK):
            chunk = images_NCHW.index_select(0, part).to(torch.int32)
            total_C += chunk.sum((0, 2, 3), dtype=torch.int64)
            square_C += chunk.square_().sum((0, 2, 3), dtype=torch.int64)
        count = len(rows) * height * width
        mean, std = [], []
        for total, square in zip(total_C.tolist(), square_C.tolist(), strict=True):
            mean.append(total / (255 * count))
            # n*sum(x^2) - sum(x)^2 in Python's unbounded integers: no cancellation.
            deviation = math.sqrt(count * square - total * total) / (255 * count)
            std.append(deviation or 1.0)  # a constant channel becomes 0, not NaN
        colour = channels == 3
        return ImagePreprocessor(
            mean_C=tuple(mean),
            std_C=tuple(std),
            crop_padding=4 if colour and min(height, width) >= 32 else 0,
            flip=colour,
        )

    @property
    def augments(self) -> bool:
        """Whether :meth:`draw` draws anything."""
        return self.flip or self.crop_padding > 0

    def without_augmentation(self) -> ImagePreprocessor:
        """The same conversion and normalisation with neither crop nor flip."""
        return replace(self, crop_padding=0, flip=False)

    def prepare(self, store: Store) -> Store:
        """The store itself: images are augmented anew every time, so nothing is done once."""
        return store

    def input_shape(self, store: Store) -> tuple[int, ...]:
        """Channels, height and width."""
        return store.example_shape

    def describe(self) -> dict[str, Any]:
        """Means, deviations and augmentation."""
        return {
            "mean": list(self.mean_C),
            "std": list(self.std_C),
            "crop_padding": self.crop_padding,
            "flip": self.flip,
        }

    def draw(self, count: int, generator: torch.Generator) -> Augmentation | None:
        """Draw the augmentation of ``count`` examples, on the CPU.

        Args:
            count: number of examples.
            generator: a CPU generator; advanced by the same amount whatever the images.

        Returns:
            The parameters, or None (and an untouched generator) where nothing is augmented.
        """
        if not self.augments:
            return None
        shift_2B = torch.randint(0, 2 * self.crop_padding + 1, (2, count), generator=generator)
        flip_B = torch.rand(count, generator=generator) < (0.5 if self.flip else 0.0)
        return Augmentation(dy_B=shift_2B[0], dx_B=shift_2B[1], flip_B=flip_B)

    def __call__(
        self,
        raw: Any,
        augmentation: Augmentation | None = None,
        *,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """Make a model's input. Each image depends on itself alone, so cutting commutes.

        Args:
            raw: uint8 images, BCHW.
            augmentation: what :meth:`draw` returned, for exactly these images; None for none.
            device: where to work; the bytes are moved before they are widened to floats.

        Returns:
            float32 images, BCHW, of mean 0 and deviation 1 per channel over the training set.

        Raises:
            ValueError: if the augmentation was drawn for another number of images.
            DataError: if these are no images.
        """
        if not isinstance(raw, Tensor):
            raise DataError(f"expected images, got {type(raw).__name__}")
        if augmentation is not None and len(augmentation) != len(raw):
            raise ValueError(f"augmentation drawn for {len(augmentation)} images, given {len(raw)}")
        if device is not None:
            raw = raw.to(device, non_blocking=True)
        scale_C11, shift_C11 = _factors(self.mean_C, self.std_C, raw.device)
        if raw.device.type != "cpu":
            if augmentation is not None:
                raw = self._augment(raw, augmentation)
            return torch.addcmul(shift_C11, raw, scale_C11)
        count = max(1, CACHED // max(1, raw[:1].numel()))
        if count >= len(raw) and augmentation is None:
            inputs: Tensor = raw.to(torch.float32)
            return inputs.mul_(scale_C11).add_(shift_C11)
        out = torch.empty(raw.shape, dtype=torch.float32)
        for start in range(0, len(raw), count):
            part = slice(start, start + count)
            pixels = raw[part]
            if augmentation is not None:
                pixels = self._augment(pixels, augmentation[part])
            # addcmul with two broadcast operands is not vectorised on the CPU: 2.5x slower.
            out[part].copy_(pixels).mul_(scale_C11).add_(shift_C11)
        return out

    def _augment(self, raw: Tensor, augmentation: Augmentation) -> Tensor:
        count, channels, height, width = raw.shape
        if not count:
            return raw
        dy_B = augmentation.dy_B.to(raw.device)
        dx_B = augmentation.dx_B.to(raw.device)
        flip_B = augmentation.flip_B.to(raw.device)
        order = torch.arange(count, device=raw.device)
        if self.flip:
            # Choosing whole images from [plain, mirrored] is one memcpy each; torch.where with a
            # broadcast mask goes byte by byte and took longer than everything else together.
            raw = torch.cat([raw, raw.flip(3)]).index_select(0, order + flip_B * count)
        padding = self.crop_padding
        if not padding:
            return raw
        # Mirroring came first, so the crop's column counts from the other side.
        dx_B = torch.where(flip_B, 2 * padding - dx_B, dx_B)
        # Zeros: black, before normalisation.
        padded = functional.pad(raw, (padding,) * 4).contiguous()
        # A crop is a window of fixed strides, told from others by where in the buffer it starts.
        # Selecting windows by their start copies an image at a time: 9x faster on the CPU than
        # indexing an unfolded view with (dy, dx).
        image, plane, line, _ = padded.stride()
        starts_B = order * image + dy_B * line + dx_B
        last = (count - 1) * image + 2 * padding * (line + 1)
        windows = padded.as_strided((last + 1, channels, height, width), (1, plane, line, 1))
        return windows.index_select(0, starts_B)
