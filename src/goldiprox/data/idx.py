"""Reader of idx files, the format MNIST and Fashion-MNIST are published in."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from goldiprox.data.messages import first_line
from goldiprox.schema import DataError

__all__ = ["idx_shape", "read_idx"]

REMEDY = "get the file again"
KINDS = {"uint8": (0x08, "unsigned bytes"), "int32": (0x0C, "32-bit integers")}
DEFLATE_LIMIT = 1032  # deflate cannot shrink data more than this


def idx_shape(path: Path, dimensions: int, kind: str = "uint8") -> tuple[int, ...]:
    """Read the shape from a file's header.

    Args:
        path: an idx file, plain or compressed with gzip.
        dimensions: how many dimensions it must have: 3 for images, 1 for labels.
        kind: what it holds, ``uint8`` or ``int32``.

    Returns:
        The shape, the count of examples first.

    Raises:
        DataError: if it is no such file.
    """
    with _open(path) as stream:
        return _header(path, stream, dimensions, kind)


def read_idx(path: Path, out: NDArray[np.uint8] | NDArray[np.int32]) -> None:
    """Read a file's content into an array made for it, so that nothing is held twice.

    Args:
        path: an idx file, plain or compressed with gzip.
        out: contiguous array of the shape that :func:`idx_shape` gave.

    Raises:
        DataError: if the file is truncated, damaged or longer than its header says.
    """
    target = out.reshape(-1).view(np.uint8).data  # a view, since out is contiguous
    done = 0
    with _open(path) as stream:
        _header(path, stream, out.ndim, str(out.dtype))
        try:
            while done < len(target):
                read = stream.readinto(target[done:])  # type: ignore[attr-defined]
                if not read:
                    break
                done += read
            trailing = len(stream.read(1))
        except (EOFError, OSError, zlib.error) as error:
            raise DataError(
                f"{path}: damaged or truncated after {done} of {len(target)} bytes of data "
                f"({first_line(error)}); {REMEDY}"
            ) from error
    if done < len(target):
        raise DataError(
            f"{path}: truncated: {done} bytes of data found, {len(target)} expected; {REMEDY}"
        )
    if trailing:
        raise DataError(
            f"{path}: more data than the {len(target)} bytes its header announces; {REMEDY}"
        )
    if out.dtype.itemsize > 1:
        out[...] = out.view(out.dtype.newbyteorder(">"))  # the format's byte order


def _open(path: Path) -> BinaryIO:
    try:
        with path.open("rb") as probe:
            compressed = probe.read(2) == b"\x1f\x8b"  # by content: names are often changed
        opened = gzip.GzipFile(path) if compressed else path.open("rb")
        return cast(BinaryIO, opened)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({first_line(error)})") from error


def _header(path: Path, stream: BinaryIO, dimensions: int, kind: str) -> tuple[int, ...]:
    code, name = KINDS[kind]
    expected = bytes([0, 0, code, dimensions])
    try:
        magic = stream.read(4)
        if magic != expected:
            raise DataError(
                f"{path}: not an idx file of {name} in {dimensions} dimension(s): starts "
                f"with 0x{magic.hex()}, 0x{expected.hex()} expected; {REMEDY}"
            )
        sizes = stream.read(4 * dimensions)
    except (EOFError, OSError, zlib.error) as error:
        raise DataError(f"{path}: damaged header ({first_line(error)}); {REMEDY}") from error
    if len(sizes) != 4 * dimensions:
        raise DataError(
            f"{path}: truncated header: {4 + len(sizes)} bytes found, "
            f"{4 + 4 * dimensions} expected; {REMEDY}"
        )
    shape = tuple(int(size) for size in np.frombuffer(sizes, ">u4"))
    # A damaged header must not make us reserve the whole memory before we notice.
    if math.prod(shape) > path.stat().st_size * DEFLATE_LIMIT:
        raise DataError(
            f"{path}: its header announces {shape}, more than the file can hold; {REMEDY}"
        )
    return shape
