"""What a run depends on, and how two of them differ."""

from __future__ import annotations

import platform
from typing import Any

import torch

from goldiprox.version import __version__

__all__ = ["as_json", "changes", "first_difference", "versions"]


def versions() -> dict[str, str]:
    """What a figure may depend on: library versions, platform, processor threads."""
    return {
        "goldiprox": __version__,
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "threads": str(torch.get_num_threads()),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
    }


_DECIDING = {"threads": "threads", "cpu_capability": "processor capability", "torch": "torch",
             "goldiprox": "goldiprox", "python": "python"}  # fmt: skip
"""Of the versions, those that may change the last digits of a result."""


def changes(before: dict[str, Any], after: dict[str, Any]) -> str:
    """What differs of the circumstances of two runs: ``threads (1 before, 2 now)``; or nothing."""
    names = {**_DECIDING, "device": "device"}
    found = [
        f"{text} ({before[key]} before, {after[key]} now)"
        for key, text in names.items()
        if before.get(key) and after.get(key) and before[key] != after[key]
    ]
    return ", ".join(found)


def as_json(value: Any) -> Any:
    """Tuples as lists, as they come back from a file."""
    if isinstance(value, dict):
        return {key: as_json(item) for key, item in value.items()}
    return [as_json(item) for item in value] if isinstance(value, list | tuple) else value


def first_difference(found: Any, wanted: Any, where: str = "") -> str:
    """Where two configurations first differ, for a message: ``train.lr is 0.01, not 0.001``."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        for key in sorted(found.keys() | wanted.keys()):
            if found.get(key) != wanted.get(key):
                inner = f"{where}.{key}" if where else key
                return first_difference(found.get(key), wanted.get(key), inner)
    return f"{where or 'its configuration'} is {found} there, {wanted} now"
