"""Examples that a page shows: pictures or texts, with the study they were taken from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa

from goldiprox.guarded.json_files import canonical_digest
from goldiprox.records.files import read_json
from goldiprox.records.sealed import read_sealed, write_sealed
from goldiprox.schema import CheckpointError

__all__ = ["read_examples", "write_examples"]

REMEDY = "make it again with the command that made it, or delete it"


def write_examples(path: Path, table: pa.Table) -> None:
    """Write the examples of the study whose manifest lies beside."""
    write_sealed(path, table, {"format": 2, "kind": "examples", "study": _study(path)})


def read_examples(path: Path) -> list[dict[str, Any]]:
    """Read them, a dictionary each.

    Raises:
        CheckpointError: if the file is absent, damaged, or of another study.
    """
    table, note = read_sealed(path, f"examples {path}", remedy=REMEDY)
    if note is not None and note.get("study") != _study(path):
        raise CheckpointError(f"examples {path} are of another study; {REMEDY}")
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows


def _study(path: Path) -> str | None:
    manifest = path.with_name("manifest.json")
    return canonical_digest(read_json(manifest).get("settings")) if manifest.exists() else None
