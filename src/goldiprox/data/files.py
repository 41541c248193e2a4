"""Images in files of their own: read as they are needed, by worker processes that read ahead."""

from __future__ import annotations

import multiprocessing
import os
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from goldiprox.data.messages import first_line
from goldiprox.data.modes import GREY_MODES, UNDECODABLE, refuse_wide
from goldiprox.data.store import png_bytes
from goldiprox.schema import DataError

__all__ = ["Checked", "FileReader", "FileStore", "default_workers", "image_shape", "unreadable"]

CHECKED_AT_ONCE = 256
"""Images that a process decodes before it tells whether they can be read."""

Checked = Callable[[int, int], None]
"""Told how many images have been checked, and of how many."""

AHEAD = 2
"""Pools read ahead at most: the next one is being read while this one is trained on."""

Pixels = NDArray[np.uint8]


class UndecodableError(DataError):
    """A file is no image, or a damaged one."""


def default_workers() -> int:
    """As many worker processes as there are cores for them, four at most."""
    return min(4, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2)


@dataclass(frozen=True, kw_only=True, eq=False)
class FileReader:
    """Decodes image files; sent to every worker process once.

    Attributes:
        root: the folder that the names are relative to.
        names: one a row.
        shape: channels, height and width that every image has.
        resize: whether images of other sizes are resized to it; else they are refused.
    """

    root: Path
    names: Sequence[str]
    shape: tuple[int, int, int]
    resize: bool

    def read(self, rows: Sequence[int]) -> Pixels:
        """The images of these rows: uint8, BCHW.

        Raises:
            UndecodableError: naming the file that is no image.
            DataError: naming the file of another size, or of more than 8 bits a channel.
        """
        images = np.empty((len(rows), *self.shape), np.uint8)
        for place, row in enumerate(rows):
            images[place] = self.one(row)
        return images

    def one(self, row: int) -> Pixels:
        """One image, CHW."""
        path = self.root / self.names[row]
        channels, height, width = self.shape
        mode = "L" if channels == 1 else "RGB"
        try:
            with Image.open(path) as image:
                refuse_wide(image, str(path))
                if self.resize and image.size != (width, height):
                    image.draft(mode, (width, height))  # a JPEG is decoded near the size wanted
                    decoded = image.convert(mode).resize((width, height), Image.Resampling.BILINEAR)
                else:
                    decoded = image.convert(mode)
        except UNDECODABLE as error:
            raise UndecodableError(
                f"{path}: cannot be read as an image ({first_line(error)}); replace it, or leave "
                "such images out with --skip-unreadable"
            ) from error
        if decoded.size != (width, height):
            raise DataError(
                f"{path}: {decoded.height}x{decoded.width} pixels, the first image has "
                f"{height}x{width}; resize all of them with --image-size"
            )
        pixels = np.asarray(decoded)
        return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)


def image_shape(path: Path, size: int | None) -> tuple[int, int, int]:
    """Channels, height and width of an image file, or of what it is resized to.

    Raises:
        DataError: if it cannot be read, or has more than 8 bits a channel.
    """
    try:
        with Image.open(path) as image:
            refuse_wide(image, str(path))
            channels = 1 if image.mode in GREY_MODES else 3
            width, height = image.size
    except UNDECODABLE as error:
        raise UndecodableError(
            f"{path}: cannot be read as an image ({first_line(error)})"
        ) from error
    return (channels, height, width) if size is None else (channels, size, size)


def unreadable(reader: FileReader, rows: Sequence[int]) -> list[int]:
    """Which of these rows are no images, or damaged ones; what else is wrong is raised."""
    found = []
    for row in rows:
        try:
            reader.one(row)
        except UndecodableError:
            found.append(row)
    return found


class FileStore:
    """Images in files, read when they are asked for; no more than a few pools are in memory.

    ``fetch`` shares a batch out among worker processes. ``prefetch`` lets them start on rows that
    will be fetched soon, so that reading goes on while a model trains; whoever knows the next rows
    calls it with exactly those rows, in the order in which they will be fetched.
    """

    def __init__(self, reader: FileReader, workers: int | None = None) -> None:
        """Nothing is read yet, and no process started.

        Args:
            reader: knows the files.
            workers: processes that read; 0 reads in this one, None chooses by the cores.
        """
        self.reader = reader
        self.workers = default_workers() if workers is None else workers
        self._pool: ProcessPoolExecutor | None = None
        self._ahead: OrderedDict[bytes, list[Future[Pixels]]] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        """For another process, which starts readers of its own when it needs them."""
        return {**self.__dict__, "_pool": None, "_ahead": OrderedDict()}

    def __len__(self) -> int:
        return len(self.reader.names)

    @property
    def example_shape(self) -> tuple[int, int, int]:
        """Channels, height and width."""
        return self.reader.shape

    def fetch(self, rows_B: Tensor) -> Tensor:
        """Read the images of these rows, or wait for those that are being read ahead.

        Args:
            rows_B: int64 rows, in any order; repeats are allowed.

        Returns:
            uint8 images, BCHW.

        Raises:
            DataError: naming a file that cannot be read, or if the worker processes died.
        """
        if not self.workers or not len(rows_B):
            return torch.from_numpy(self.reader.read(rows_B.tolist()))
        parts = self._ahead.pop(rows_B.numpy().tobytes(), None) or self._submit(rows_B)
        images = torch.empty((len(rows_B), *self.reader.shape), dtype=torch.uint8)
        place = 0
        try:
            for part in parts:
                pixels = part.result()
                images[place : place + len(pixels)] = torch.from_numpy(pixels)
                place += len(pixels)
        except BrokenProcessPool as error:
            raise DataError(
                "the processes that read images died; a program of your own must start under "
                'if __name__ == "__main__", or read with 0 workers'
            ) from error
        return images

    def prefetch(self, rows_B: Tensor) -> None:
        """Start reading what will be fetched soon; returns at once.

        Args:
            rows_B: int64 rows, exactly those of the fetch to come.
        """
        key = rows_B.numpy().tobytes()
        if not self.workers or not len(rows_B) or key in self._ahead:
            return
        while len(self._ahead) >= AHEAD:  # fetched by nobody: a plan that changed its mind
            for part in self._ahead.popitem(last=False)[1]:
                part.cancel()
        self._ahead[key] = self._submit(rows_B)

    def thumbnail(self, row: int) -> bytes:
        """One image as the bytes of a PNG file."""
        return png_bytes(torch.from_numpy(np.ascontiguousarray(self.reader.one(row))))

    def read_all(self, left_out: Tensor | None = None) -> Tensor:
        """Every image, in one uint8 tensor, NCHW; those left out are black."""
        images = torch.zeros((len(self), *self.reader.shape), dtype=torch.uint8)
        rows = torch.arange(len(self))
        if left_out is not None:
            rows = rows[~torch.isin(rows, left_out)]
        blocks = rows.split(1024)
        for number, block in enumerate(blocks):
            if number + 1 < len(blocks):
                self.prefetch(blocks[number + 1])
            images[block] = self.fetch(block)
        return images

    def find_unreadable(self, checked: Checked | None = None) -> list[int]:
        """The rows whose images cannot be read; decodes every image once.

        Args:
            checked: told of the progress.
        """
        rows = range(len(self))
        starts = range(0, len(self), CHECKED_AT_ONCE)
        blocks = [list(rows[at : at + CHECKED_AT_ONCE]) for at in starts]
        parts: Iterable[list[int]] = (unreadable(self.reader, block) for block in blocks)
        if self.workers:
            parts = self._processes().map(_find, blocks)
        found: list[int] = []
        done = 0
        for block, part in zip(blocks, parts, strict=True):
            found += part
            done += len(block)
            if checked is not None:
                checked(done, len(self))
        return found

    def close(self) -> None:
        """End the worker processes; they start again when needed."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None
        self._ahead.clear()

    def _submit(self, rows_B: Tensor) -> list[Future[Pixels]]:
        pool = self._processes()
        size = -(-len(rows_B) // (2 * self.workers))  # two parts each, so that all end together
        return [pool.submit(_read, part.tolist()) for part in rows_B.split(size)]

    def _processes(self) -> ProcessPoolExecutor:
        if self._pool is None:
            # Not forked from here: torch's threads and a GPU's state do not survive a fork.
            method = "forkserver" if os.name == "posix" else "spawn"
            self._pool = ProcessPoolExecutor(
                self.workers,
                mp_context=multiprocessing.get_context(method),
                initializer=_start,
                initargs=(self.reader,),
            )
            weakref.finalize(self, self._pool.shutdown, wait=False, cancel_futures=True)
        return self._pool


_reader: FileReader | None = None
"""In a worker process: what it reads with."""


def _start(reader: FileReader) -> None:
    global _reader
    _reader = reader


def _read(rows: list[int]) -> Pixels:
    assert _reader is not None
    return _reader.read(rows)


def _find(rows: Sequence[int]) -> list[int]:
    assert _reader is not None
    return unreadable(_reader, rows)
