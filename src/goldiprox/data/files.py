"""Images in files of their own: read as they are needed, by worker processes that read ahead."""

from __future__ import annotations

import math
import multiprocessing
import os
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from goldiprox.data.decode import (
    EXPANDED,
    Form,
    Look,
    Pixels,
    UndecodableError,
    decode,
    look,
    opened,
    size_error,
    size_flags,
)
from goldiprox.data.messages import printable
from goldiprox.data.store import png_bytes
from goldiprox.schema import DataError

__all__ = ["Block", "Checked", "FileReader", "FileStore", "default_workers"]

CHECKED_AT_ONCE = 256
"""Images that a process looks at or decodes before it tells of them."""

Result = TypeVar("Result")

How = Literal["look", "decode", "keep"]
"""How closely images are examined: by their headers, decoded, or decoded and kept."""

KEPT_AT_ONCE = 1 << 23
"""Bytes of pixels that a process decodes before it hands them over, at least one image."""

Checked = Callable[[int, int], None]
"""Told how many images have been checked, and of how many."""

AHEAD = 2
"""Pools read ahead at most: the next one is being read while this one is trained on."""


def default_workers() -> int:
    """As many worker processes as there are cores for them, four at most."""
    return min(4, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2)


@dataclass(frozen=True, kw_only=True, eq=False)
class Block:
    """What became of a block of images.

    Attributes:
        flags_B: what is done to each, see :mod:`goldiprox.data.decode`.
        problems: the errors of those that cannot be used, by row.
        colour: whether one is in colour and the form is grey, so that another form is needed.
        pixels: uint8, BCHW, where they were to be kept; black where there is a problem.
    """

    flags_B: Pixels
    problems: dict[int, DataError]
    colour: bool
    pixels: Pixels | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class FileReader:
    """Decodes image files; sent to every worker process once.

    Attributes:
        root: the folder that the names are relative to.
        names: one a row.
        form: what every image is made into.
    """

    root: Path
    names: Sequence[str]
    form: Form

    def read(self, rows: Sequence[int]) -> Pixels:
        """The images of these rows: uint8, BCHW.

        Raises:
            UndecodableError: naming the file that is no image.
            DataError: naming the file of another size, or of more than 8 bits a channel.
        """
        images = np.empty((len(rows), *self.form.shape), np.uint8)
        for place, row in enumerate(rows):
            images[place] = self.one(row)
        return images

    def one(self, row: int) -> Pixels:
        """One image, CHW."""
        try:
            pixels, _ = self._decoded(row)
        except UndecodableError as error:
            raise UndecodableError(
                f"{error}; replace it, or leave such images out with --skip-unreadable"
            ) from error
        if len(pixels) != self.form.channels:
            raise DataError(
                f"{printable(self.where(row))} is in colour now and was grey; start again"
            )
        return pixels

    def look(self, row: int) -> Look:
        """What an image is, by its header."""
        where = self.where(row)
        with self._opened(where) as image:
            return look(image, self.form.background, where)

    def examine(self, rows: Sequence[int], how: How) -> Block:
        """Look at images, or decode all that can be decoded.

        Args:
            rows: the images.
            how: how closely.

        Returns:
            What became of them; it ends early at an image in colour where the form is grey.
        """
        shape = (len(rows), *self.form.shape)
        pixels = np.zeros(shape, np.uint8) if how == "keep" else None
        flags_B = np.zeros(len(rows), np.uint8)
        problems: dict[int, DataError] = {}
        for place, row in enumerate(rows):
            try:
                if how == "look":
                    seen = self.look(row)
                    flags_B[place], colour = self._foreseen(row, seen), seen.colour
                else:
                    image, flags_B[place] = self._decoded(row)
                    colour = len(image) == 3
            except DataError as error:
                problems[row] = error
                continue
            if colour and self.form.channels == 1:
                return Block(flags_B=flags_B, problems=problems, colour=True)
            if pixels is not None:
                pixels[place] = image
        return Block(flags_B=flags_B, problems=problems, colour=False, pixels=pixels)

    def _foreseen(self, row: int, seen: Look) -> int:
        """The flags of decoding an image that was looked at."""
        change = size_flags(seen.height, seen.width, self.form)
        if change and self.form.fit is None:
            raise size_error(self.where(row), seen.height, seen.width, self.form)
        expanded = EXPANDED if self.form.channels == 3 and not seen.colour else 0
        return seen.flags | change | expanded

    def where(self, row: int) -> str:
        """The path of an image, as text."""
        return f"{self.root}/{self.names[row]}"

    def _decoded(self, row: int) -> tuple[Pixels, int]:
        where = self.where(row)
        with self._opened(where) as image:
            return decode(image, self.form, where)

    def _opened(self, where: str) -> Image.Image:
        try:
            return opened(where, where)
        except UndecodableError as error:
            path = Path(where)
            if path.exists():
                raise
            what = "a link to what is not there" if path.is_symlink() else "listed, but not there"
            raise UndecodableError(f"{printable(where)}: {what}; get the file") from error


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
        return self.reader.form.shape

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
        images = torch.empty((len(rows_B), *self.reader.form.shape), dtype=torch.uint8)
        place = 0
        for part in parts:
            pixels = _result(part)
            images[place : place + len(pixels)] = torch.from_numpy(pixels)
            place += len(pixels)
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

    def reform(self, form: Form) -> None:
        """From now on make something else of every image; worker processes go on."""
        self.reader = replace(self.reader, form=form)
        self._ahead.clear()

    def examine(self, how: How, checked: Checked | None = None) -> Iterator[tuple[slice, Block]]:
        """Examine every image, a block at a time, in order.

        Args:
            how: how closely.
            checked: told of the progress.

        Yields:
            The rows of a block, and what became of them.
        """
        size = CHECKED_AT_ONCE
        if how == "keep":
            size = min(size, max(1, KEPT_AT_ONCE // math.prod(self.example_shape)))
        slices = [slice(at, min(at + size, len(self))) for at in range(0, len(self), size)]
        for rows, block in zip(slices, self._examined(slices, how), strict=True):
            if checked is not None:
                checked(rows.stop, len(self))
            yield rows, block

    def _examined(self, slices: Sequence[slice], how: How) -> Iterator[Block]:
        if not self.workers:
            for part in slices:
                yield self.reader.examine(range(part.start, part.stop), how)
            return
        waiting: deque[Future[Block]] = deque()
        for part in slices:
            waiting.append(self._processes().submit(_examine, self.reader.form, part, how))
            if len(waiting) > 2 * self.workers:  # enough to keep all busy; the rest is memory
                yield _result(waiting.popleft())
        while waiting:
            yield _result(waiting.popleft())

    def close(self) -> None:
        """End the worker processes; they start again when needed."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None
        self._ahead.clear()

    def _submit(self, rows_B: Tensor) -> list[Future[Pixels]]:
        pool = self._processes()
        size = -(-len(rows_B) // (2 * self.workers))  # two parts each, so that all end together
        form = self.reader.form
        return [pool.submit(_read, form, part.tolist()) for part in rows_B.split(size)]

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


def _read(form: Form, rows: list[int]) -> Pixels:
    assert _reader is not None
    return replace(_reader, form=form).read(rows)


def _examine(form: Form, part: slice, how: How) -> Block:
    assert _reader is not None
    return replace(_reader, form=form).examine(range(part.start, part.stop), how)


def _result(future: Future[Result]) -> Result:
    try:
        return future.result()
    except BrokenProcessPool as error:
        raise DataError(
            "the processes that read images died; a program of your own must start under "
            'if __name__ == "__main__", or read with 0 workers'
        ) from error
