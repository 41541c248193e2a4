"""JSON with a typed shape: no NaN, no endless nesting, no number that the rest cannot hold."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any, NoReturn

from goldiprox.guarded.errors import reading, require_file
from goldiprox.names import from_file
from goldiprox.schema import CheckpointError, GoldiproxError

__all__ = [
    "FORMAT",
    "SEAL",
    "Shape",
    "canonical_digest",
    "misfit",
    "parse_json",
    "read_json_file",
    "unsealed",
]

Shape = Any
"""A type (``float`` takes whole numbers too); ``[shape]``, a list of it; ``{"key": shape}``, an
object with at least these keys, those that end in ``?`` optional or null; ``{str: shape}``, an
object of any keys with such values; a tuple, any of its shapes; ``None``, anything."""

FORMAT = 2
LARGEST = 1 << 63


def parse_json(raw: bytes | str) -> Any:
    """Parse JSON; every string in it is marked as one that comes from a file.

    Raises:
        ValueError: if it is no JSON, has NaN or infinite numbers, or is nested too deeply.
    """
    try:
        value = json.loads(raw, parse_constant=_refuse, parse_float=_finite)
        return from_file(value)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def read_json_file(
    path: Path,
    shape: Shape = None,
    *,
    error: type[GoldiproxError] = CheckpointError,
    remedy: str = "get the file again",
    absent: str | None = None,
) -> Any:
    """Read a JSON file; one of ours is compared with the digest in its seal.

    Args:
        path: the file.
        shape: what it must look like.
        error: raised.
        remedy: what to do if it is damaged.
        absent: what to say if it does not exist.

    Raises:
        GoldiproxError: of the type ``error``, naming the file and the place.
    """
    with reading(str(path), error=error, remedy=remedy, absent=absent):
        require_file(path)
        value = unsealed(parse_json(path.read_bytes().decode("utf-8")))
        if wrong := misfit(value, shape):
            raise ValueError(wrong)
        return value


SEAL = "goldiprox"
"""Key of a JSON object of ours that holds its format and digest; seen by nobody who reads it."""


def unsealed(value: Any) -> Any:
    """A JSON value without its seal, after comparison with the digest in it; others as they are.

    Raises:
        ValueError: if it is not what was written.
    """
    if not isinstance(value, dict):
        return value
    if SEAL not in value:
        if any(_looks_like_a_seal(item) for item in value.values()):
            raise ValueError("its digest stands under another name than it was written")
        return value
    rest = {key: item for key, item in value.items() if key != SEAL}
    seal = value[SEAL]
    if misfit(seal, {"format": int, "sha256": str}) or seal["sha256"] != canonical_digest(rest):
        raise ValueError("its content is not what was written: its digest does not match")
    if seal["format"] != FORMAT:
        raise ValueError(
            f"it has format {seal['format']}, and this version reads {FORMAT}: read it with the "
            "version that wrote it"
        )
    return rest


def _looks_like_a_seal(value: Any) -> bool:
    parts = {"format", "sha256"}
    return isinstance(value, dict) and len(value) == 2 and not parts.isdisjoint(value)


def misfit(value: Any, shape: Shape, where: str = "it") -> str | None:
    """How a value differs from a shape, naming the place; None where it fits."""
    if shape is None:
        return None
    if isinstance(shape, tuple):
        wrongs = [misfit(value, one, where) for one in shape]
        return wrongs[0] if all(wrongs) else None
    if isinstance(shape, list):
        if not isinstance(value, list):
            return f"{where} is {_kind(value)}, not a list"
        items = (misfit(one, shape[0], f"{where}[{n}]") for n, one in enumerate(value))
        return next((wrong for wrong in items if wrong), None)
    if isinstance(shape, dict):
        return _misfit_of_object(value, shape, where)
    if shape is float:
        fits = isinstance(value, int | float) and not isinstance(value, bool)
    elif shape is int:
        fits = isinstance(value, int) and not isinstance(value, bool) and abs(value) < LARGEST
    else:
        fits = isinstance(value, shape)
    return None if fits else f"{where} is {_kind(value)}, not {_NAMES.get(shape, shape)}"


def canonical_digest(value: Any) -> str:
    """SHA-256 of a JSON value, however it is laid out in a file."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _misfit_of_object(value: Any, shape: dict[Any, Any], where: str) -> str | None:
    if not isinstance(value, dict):
        return f"{where} is {_kind(value)}, not an object"
    if str in shape:
        inner = (misfit(item, shape[str], f"{where}.{key}") for key, item in value.items())
        return next((wrong for wrong in inner if wrong), None)
    for name, kind in shape.items():
        key = name.removesuffix("?")
        if key not in value or value[key] is None:
            if key == name and not (kind is None and key in value):
                return f"{where} lacks {key}"
            continue
        if wrong := misfit(value[key], kind, key if where == "it" else f"{where}.{key}"):
            return wrong
    return None


_NAMES = {int: "a whole number", float: "a number", str: "a text", dict: "an object",
          list: "a list", bool: "true or false"}  # fmt: skip


def _kind(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= LARGEST:
        return "a number too large"
    return _NAMES.get(type(value), "a text" if isinstance(value, str) else "null")


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"it holds {name}, which JSON does not have")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"it holds {text[:20]}, which is too large")
    return value
