"""Weights as safetensors files, with a note in them that says which run they are of."""

from __future__ import annotations

import json
from typing import Any

from safetensors.torch import save as save_safetensors
from torch import Tensor

from goldiprox.guarded.json_files import misfit, parse_json

__all__ = ["seal_of", "weights_bytes", "with_seal"]


def weights_bytes(weights: dict[str, Tensor]) -> bytes:
    """A state dict in the safetensors format; its SHA-256 is what records call weights digest."""
    # Cloned: safetensors refuses tensors that share memory (tied weights).
    return save_safetensors(
        {key: value.detach().cpu().contiguous().clone() for key, value in weights.items()}
    )


def with_seal(raw: bytes, seal: dict[str, str]) -> bytes:
    """A safetensors file with metadata, which its own library writes in no fixed order."""
    size = int.from_bytes(raw[:8], "little")
    header = {"__metadata__": {"goldiprox": json.dumps(seal)}, **json.loads(raw[8 : 8 + size])}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + raw[8 + size :]


def seal_of(raw: bytes) -> Any:
    """The note of :func:`with_seal`; None where there is none."""
    size = int.from_bytes(raw[:8], "little")
    try:
        note = parse_json(raw[8 : 8 + size])["__metadata__"]["goldiprox"]
        found = parse_json(note)
    except (ValueError, KeyError, TypeError):
        return None
    return None if misfit(found, {"name": str, "digest": str}) else found
