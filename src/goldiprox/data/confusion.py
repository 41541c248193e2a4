"""Structured label noise: which classes are taken for which, from a file or by hand."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from goldiprox.data.messages import first_line
from goldiprox.schema import ConfigError, DataError

__all__ = ["MOST_CONFUSED", "most_confused", "parse_pairs", "read_matrix", "with_digest"]

MOST_CONFUSED = 4
"""How many classes are confused: Mindermann et al. 2022, appendix C, after Rolnick et al. 2017."""

Matrix = NDArray[np.float64]


def with_digest(name: str) -> str:
    """A file's name with the start of its SHA-256, so that records tell two contents apart.

    Args:
        name: of a file, with or without a digest.

    Returns:
        ``matrix.json@0123456789abcdef``; :func:`read_matrix` takes it and compares.

    Raises:
        DataError: if the file cannot be read, or is not the one that the digest was made of.
    """
    path, raw = _read(name)
    return f"{path}@{hashlib.sha256(raw).hexdigest()[:16]}"


def _read(name: str) -> tuple[Path, bytes]:
    match = re.fullmatch(r"(.*)@([0-9a-f]{16})", name)
    path = Path(match[1] if match else name)
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({first_line(error)})") from error
    if match and hashlib.sha256(raw).hexdigest()[:16] != match[2]:
        raise DataError(f"{path}: changed since it was used here (its digest was {match[2]})")
    return path, raw


def read_matrix(name: str, class_names: Sequence[str]) -> Matrix:
    """Read a matrix of classes by classes: row is the true class, column the other one.

    Args:
        name: a file, see :func:`with_digest`: CSV of numbers alone; or JSON, the rows themselves
            or an object whose ``matrix`` they are and whose ``class_names``, if it has them, must
            be the data set's.
        class_names: the data set's.

    Returns:
        The matrix, float64, [C, C].

    Raises:
        DataError: if the file is absent or damaged, or the matrix is of other classes.
    """
    path, raw = _read(name)
    names = None
    try:
        text = raw.decode()
        if text.lstrip()[:1] in ("{", "["):
            found = json.loads(text)
            names = found.get("class_names") if isinstance(found, dict) else None
            rows = found["matrix"] if isinstance(found, dict) else found
        else:
            rows = [line.split(",") for line in text.split("\n") if line.strip()]
        matrix = np.array(rows, dtype=np.float64)
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path}: no matrix ({first_line(error)}); give rows of numbers, as JSON or CSV"
        ) from error
    count = len(class_names)
    if matrix.shape != (count, count):
        raise DataError(
            f"{path}: a matrix of shape {matrix.shape}, but the data set has {count} classes"
        )
    if names is not None and list(names) != list(class_names):
        raise DataError(
            f"{path}: made for the classes {', '.join(map(str, names[:3]))}, ...; the data set's "
            f"are {', '.join(class_names[:3])}, ..."
        )
    if not np.isfinite(matrix).all() or (matrix < 0).any():
        raise DataError(f"{path}: the matrix has negative or infinite entries")
    return matrix


def most_confused(confusion: Matrix) -> tuple[tuple[int, int], ...]:
    """The classes most often taken for another one, each with the one it is taken for.

    Args:
        confusion: counts or shares, row the true class, column the predicted one.

    Returns:
        At most four pairs (true, predicted), most confused first. A class comes first in one pair
        only, since its labels can be flipped but once; ties go to the lower numbers.
    """
    off = confusion.copy()
    np.fill_diagonal(off, 0.0)
    pairs: dict[int, int] = {}
    for flat in np.argsort(-off, axis=None, kind="stable").tolist():
        true, predicted = divmod(flat, len(off))
        if len(pairs) == MOST_CONFUSED or off[true, predicted] == 0:
            break
        pairs.setdefault(true, predicted)
    return tuple(pairs.items())


def parse_pairs(pairs: str, class_names: Sequence[str]) -> tuple[tuple[int, int], ...]:
    """Read pairs such as ``cat:dog,dog:fox``: labels of each first class are flipped to the second.

    Args:
        pairs: two names or numbers of classes each, a colon between them; commas between pairs.
        class_names: the data set's; a name wins over a number.

    Returns:
        The classes' numbers.

    Raises:
        ConfigError: if a class is unknown, comes first twice, or is paired with itself.
    """
    found: dict[int, int] = {}
    for pair in pairs.split(","):
        parts = pair.split(":")
        if len(parts) != 2:
            raise ConfigError(f"--noise-pairs {pair!r} is no pair: write two classes as cat:dog")
        true, other = (_class(part.strip(), class_names) for part in parts)
        if true == other:
            raise ConfigError(f"--noise-pairs {pair!r} flips a class to itself")
        if true in found:
            raise ConfigError(
                f"--noise-pairs flips {class_names[true]} twice: a class can go to one other only"
            )
        found[true] = other
    return tuple(found.items())


def _class(text: str, class_names: Sequence[str]) -> int:
    if text in class_names:
        return class_names.index(text)
    if text.isdecimal() and int(text) < len(class_names):
        return int(text)
    shown = ", ".join(class_names[:10]) + (", ..." if len(class_names) > 10 else "")
    raise ConfigError(f"no class {text!r}: the classes are {shown} (or 0..{len(class_names) - 1})")
