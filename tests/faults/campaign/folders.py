"""What a command leaves, without what the clock has a say in: to be compared with another's."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

CLOCKS = ("second", "peak_memory", "at_equal_cost", "verdicts")
"""Parts of the keys whose values an interrupted run need not share with an unbroken one."""

SEALS = ("goldiprox", "sha256", "content")
"""Digests of what also holds seconds."""


def essence(folder: Path) -> dict[str, str]:
    """By path, a digest of each file without clocks; of pages only that they are there."""
    return {
        str(path.relative_to(folder)): _digest(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in ("stdout", "stderr")
    }


def differences(found: dict[str, str], wanted: dict[str, str]) -> list[str]:
    """How one differs from the other, a line for each file."""
    names = sorted(found.keys() | wanted.keys())
    lines = []
    for name in names:
        if found.get(name) != wanted.get(name):
            how = "lost" if name not in found else "other" if name in wanted else "left over"
            lines.append(f"{name} is {how}")
    return lines


def _digest(path: Path) -> str:
    if path.suffix == ".html":
        return "a page"
    value: Any
    if path.suffix == ".json":
        value = timeless(json.loads(path.read_text()))
        if path.name == "files.json":
            value = {
                **value,
                "files": {name: _listed(name, d) for name, d in value["files"].items()},
            }
    elif path.suffix == ".parquet":
        table = pq.read_table(path)
        note = json.loads((table.schema.metadata or {}).get(b"goldiprox", b"null"))
        rows = hashlib.sha256(repr(table.to_pydict()).encode()).hexdigest()
        value = [timeless(note), rows, str(table.schema.remove_metadata())]
    else:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _listed(name: str, digest: str) -> str:
    return digest if name in ("steps.parquet", "model.safetensors") else "holds seconds"


def timeless(value: Any) -> Any:
    """A JSON value without what the clock has a say in."""
    if isinstance(value, dict):
        return {
            key: timeless(item)
            for key, item in value.items()
            if key not in SEALS and not any(clock in key for clock in CLOCKS)
        }
    return [timeless(item) for item in value] if isinstance(value, list) else value
