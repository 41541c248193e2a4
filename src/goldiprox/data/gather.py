"""Images from Parquet rows and Python objects, decoded into one array that is reserved at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from goldiprox.data.decode import (
    EXPANDED,
    Form,
    Pixels,
    WideError,
    decode,
    form_of,
    look,
    notes_of,
    opened,
    rgb,
    size_error,
)
from goldiprox.data.notes import Note
from goldiprox.data.settings import Reading
from goldiprox.schema import DataError

__all__ = ["Gathered", "Source", "as_source"]

Source = bytes | Path | Image.Image | Pixels
"""An encoded image, a file, an image of Pillow's, or uint8 pixels CHW of 1 or 3 channels."""

THREADED_PIXELS = 96 * 96
"""Smaller images are decoded by one thread: Pillow parses headers under Python's lock."""


class Gathered:
    """Fills an array with images; it becomes one of colour when the first in colour turns up."""

    def __init__(self, total: int, reading: Reading, where: Callable[[int], str]) -> None:
        """Nothing is reserved before the first image is known.

        Args:
            total: how many images there will be.
            reading: size, fit and background.
            where: what errors and notes call the image of a row.
        """
        self._total = total
        self._reading = reading
        self._background = rgb(reading.background)
        self._where = where
        self._form: Form | None = None
        self._images = np.empty((0, 1, 1, 1), np.uint8)
        self._flags_N = np.zeros(total, np.uint8)

    def add(
        self, start: int, sources: Sequence[Source], pool: ThreadPoolExecutor | None = None
    ) -> None:
        """Decode some images.

        Args:
            start: the row of the first.
            sources: the images.
            pool: threads to share large images out among.

        Raises:
            DataError: naming the image that cannot be decoded, or is of another size.
        """
        if self._form is None:
            self._begin(start, sources[0])
        parts = 1
        if pool is not None and self._images[0, 0].size >= THREADED_PIXELS:
            parts = pool._max_workers
        stride = -(-len(sources) // parts)
        rows = range(0, len(sources), stride)
        jobs = [(start + at, sources[at : at + stride]) for at in rows]
        run = map if pool is None or parts == 1 else pool.map
        if not all(list(run(lambda job: self._fill(*job), jobs))):
            self._widen(start)
            self.add(start, sources, pool)

    def images(self) -> Tensor:
        """All images, uint8 NCHW."""
        return torch.from_numpy(self._images)

    def notes(self) -> tuple[Note, ...]:
        """What was done to them."""
        return () if self._form is None else notes_of(self._flags_N, self._where, self._form)

    def _begin(self, row: int, source: Source) -> None:
        if isinstance(source, np.ndarray):
            source = _as_image(source)
        with_file = opened(source, self._where(row))
        seen = look(with_file, self._background, self._where(row))
        if with_file is not source:
            with_file.close()
        reading = self._reading
        self._form = form_of([seen], reading.image_size, reading.image_fit, reading.background)
        self._images = np.empty((self._total, *self._form.shape), np.uint8)

    def _widen(self, done: int) -> None:
        """From one channel to three; those that are done are repeated."""
        assert self._form is not None
        self._form = replace(self._form, channels=3)
        grey = self._images
        self._images = np.empty((self._total, *self._form.shape), np.uint8)
        self._images[:done] = grey[:done]
        self._flags_N[:done] |= EXPANDED

    def _fill(self, start: int, sources: Sequence[Source]) -> bool:
        """Whether all of these fit the channels there are."""
        form = self._form
        assert form is not None
        for row, source in enumerate(sources, start):
            if isinstance(source, np.ndarray) and source.shape[1:] == form.shape[1:]:
                pixels, flags = source, EXPANDED if len(source) < form.channels else 0
            else:
                pixels, flags = self._decoded(row, source, form)
            if len(pixels) > form.channels:
                return False
            self._images[row] = pixels
            if flags:
                self._flags_N[row] = flags
        return True

    def _decoded(self, row: int, source: Source, form: Form) -> tuple[Pixels, int]:
        try:
            return _decoded(source, form, "")
        except DataError:  # again, with its name, which would cost more than a small image
            return _decoded(source, form, self._where(row))


def _decoded(source: Source, form: Form, where: str) -> tuple[Pixels, int]:
    if isinstance(source, bytes):
        return decode(opened(source, where), form, where)
    if isinstance(source, np.ndarray):
        if form.fit is None:
            raise size_error(where, source.shape[1], source.shape[2], form)
        source = _as_image(source)
    if isinstance(source, Image.Image):  # the user's own: it stays as it is
        return decode(opened(source, where), form, where, draft=False)
    with opened(source, where) as image:
        return decode(image, form, where)


def as_source(value: Any, where: str) -> Source:
    """What an item of a data set holds, as something that can be decoded.

    Args:
        value: an image of Pillow's, encoded bytes, a mapping with ``bytes`` or ``path`` (as the
            hub's library gives them), a uint8 array HW or HWC, or a uint8 tensor CHW.
        where: what errors call it.

    Returns:
        The source.

    Raises:
        DataError: if it is none of these.
    """
    if isinstance(value, Mapping):
        given = value.get("bytes") or value.get("path")
        value = Path(given) if isinstance(given, str) else given
    if isinstance(value, Image.Image):
        return _stored(value) or value
    if isinstance(value, bytes | Path):
        return value
    pixels: NDArray[Any] = value.numpy() if isinstance(value, Tensor) else np.asarray(value)
    if not isinstance(value, Tensor) and pixels.ndim == 2:
        pixels = pixels[None]
    elif not isinstance(value, Tensor) and pixels.ndim == 3:
        pixels = pixels.transpose(2, 0, 1)
    if pixels.dtype.kind in "iu" and pixels.dtype.itemsize > 1 and pixels.ndim == 3:
        raise WideError(
            f"{where} has more than 8 bits per channel ({pixels.dtype}); convert the images to "
            "8 bits"
        )
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or len(pixels) not in (1, 2, 3, 4):
        raise DataError(
            f"{where} is no image of uint8 and no text (take transforms off: the library converts "
            "and normalises)"
        )
    return pixels if len(pixels) in (1, 3) else _as_image(pixels)


def _stored(image: Image.Image) -> bytes | None:
    """The file of an image that nobody has decoded yet, so that it stays as it is."""
    file = getattr(image, "fp", None)
    if file is None or not getattr(image, "tile", None) or getattr(image, "decoderconfig", None):
        return None
    try:
        place = file.tell()
        if image.tell():
            return None  # another frame than the first
        file.seek(0)
        stored: bytes = file.read()
        file.seek(place)
    except (OSError, ValueError, AttributeError):
        return None
    return stored


def _as_image(pixels: Pixels) -> Image.Image:
    array = pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)
    return Image.fromarray(np.ascontiguousarray(array))
