"""Structured label noise: which classes are taken for which, from a file or by hand."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from goldiprox.data.messages import first_line
from goldiprox.guarded.json_files import parse_json, unsealed
from goldiprox.schema import ConfigError, DataError

__all__ = [
    "MOST_CONFUSED",
    "most_confused",
    "parse_pairs",
    "read_matrix",
    "with_digest",
    "write_pairs",
]

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
            found = unsealed(parse_json(text))
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
            Names may have colons and commas where this can be read in one way only.
        class_names: the data set's; a name wins over a number.

    Returns:
        The classes' numbers.

    Raises:
        ConfigError: if a class is unknown, comes first twice, or is paired with itself, or if the
            pairs can be read in several ways.
    """
    numbers = {name: number for number, name in enumerate(class_names)}
    commas = 2 * max(name.count(",") for name in class_names)
    ways = set(islice(_ways(pairs.split(","), numbers, commas), 2))
    if len(ways) > 1:
        raise ConfigError(
            f"--noise-pairs {pairs!r} can be read in several ways: give the numbers of the classes "
            f"instead of their names, 0 to {len(class_names) - 1}"
        )
    if not ways:
        raise _no_pair(pairs, numbers)
    found: dict[int, int] = {}
    for true, other in ways.pop():
        pair = f"{class_names[true]}:{class_names[other]}"
        if true == other:
            raise ConfigError(f"--noise-pairs {pair!r} flips a class to itself")
        if true in found:
            raise ConfigError(
                f"--noise-pairs flips {class_names[true]} twice: a class can go to one other only"
            )
        found[true] = other
    return tuple(found.items())


def write_pairs(pairs: Iterable[tuple[int, int]], class_names: Sequence[str]) -> str:
    """Pairs as :func:`parse_pairs` reads them: numbers, but where one is another class's name.

    Args:
        pairs: numbers of classes.
        class_names: the data set's.

    Returns:
        The pairs as one text.
    """
    numbers = {name: number for number, name in enumerate(class_names)}

    def written(number: int) -> str:
        is_clear = numbers.get(str(number), number) == number
        return str(number) if is_clear else class_names[number]

    return ",".join(f"{written(true)}:{written(other)}" for true, other in pairs)


def _ways(
    parts: Sequence[str], numbers: Mapping[str, int], commas: int
) -> Iterator[tuple[tuple[int, int], ...]]:
    """All ways to read what stands between commas as pairs, which may have commas themselves."""
    if not parts:
        yield ()
    for end in range(1, min(len(parts), commas + 1) + 1):
        words = ",".join(parts[:end]).split(":")
        for colon in range(1, len(words)):
            true = _class(":".join(words[:colon]), numbers)
            other = _class(":".join(words[colon:]), numbers)
            if true is not None and other is not None:
                yield from (((true, other), *rest) for rest in _ways(parts[end:], numbers, commas))


def _class(text: str, numbers: Mapping[str, int]) -> int | None:
    """The number of a class by name or number; None if there is no such class."""
    for name in (text, text.strip()):
        if name in numbers:
            return numbers[name]
    text = text.strip()
    is_number = text.isdecimal() and int(text) < len(numbers)
    return int(text) if is_number else None


def _no_pair(pairs: str, numbers: Mapping[str, int]) -> ConfigError:
    """Why a text cannot be read as pairs."""
    remedy = "a class can be given by its number as well"
    for pair in pairs.split(","):
        parts = pair.split(":")
        if len(parts) != 2:
            return ConfigError(
                f"--noise-pairs {pair!r} is no pair: write two classes as cat:dog; {remedy}"
            )
        for part in parts:
            if _class(part, numbers) is None:
                shown = ", ".join([*numbers][:10]) + (", ..." if len(numbers) > 10 else "")
                return ConfigError(
                    f"no class {part.strip()!r}: the classes are {shown} "
                    f"(or numbers, 0..{len(numbers) - 1})"
                )
    return ConfigError(f"--noise-pairs {pairs!r} are no pairs of classes; {remedy}")
