"""Safetensors from anybody: a damaged file is one line; no pickles."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import load
from torch import Tensor

from goldiprox.guarded.errors import reading, require_file
from goldiprox.schema import CheckpointError, GoldiproxError

__all__ = ["read_tensors"]


def read_tensors(
    path: Path,
    what: str,
    *,
    error: type[GoldiproxError] = CheckpointError,
    remedy: str = "get the file again",
    damaged: str = "is damaged",
    raw: bytes | None = None,
) -> dict[str, Tensor]:
    """Read a safetensors file.

    Args:
        path: the file.
        what: for messages.
        error: raised.
        remedy: what to do if it is absent or damaged.
        damaged: what to say then.
        raw: its bytes, where they were read already.

    Raises:
        GoldiproxError: of the type ``error``.
    """
    with reading(what, error=error, remedy=remedy, damaged=damaged):
        if raw is None:
            require_file(path)
            raw = path.read_bytes()
        return load(raw)
