"""Independent random streams from one seed: order, augmentation, weights, noise, selection.

Streams are addressed by purpose and step rather than drawn one after another, so a run can resume
in the middle of an epoch and two methods can see the same pools and the same augmentation.
"""

from __future__ import annotations

import hashlib

import torch

__all__ = ["derive_seed", "stream"]


def derive_seed(seed: int, *purpose: str | int) -> int:
    """A 63-bit seed that depends on ``seed`` and on every part of the purpose (SHA-256)."""
    text = "/".join(str(part) for part in (seed, *purpose))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def stream(seed: int, *purpose: str | int) -> torch.Generator:
    """A CPU generator seeded with :func:`derive_seed`."""
    return torch.Generator().manual_seed(derive_seed(seed, *purpose))
