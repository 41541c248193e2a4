"""May an output be written: found out before anything is computed, and nothing foreign replaced."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from goldiprox.records.mapped import open_table
from goldiprox.records.sequences import BatchSequence
from goldiprox.schema import ConfigError, GoldiproxError

__all__ = [
    "is_confusion",
    "is_kept_table",
    "is_page",
    "is_sequence_by",
    "is_table_of",
    "require_output",
    "require_writable",
]

Owned = Callable[[Path], bool]
"""Whether a file is what the same command wrote before."""


def require_writable(out: Path, *, folder: bool = False, flag: str = "--out") -> None:
    """Refuse an output that cannot be written: a long run would end at it.

    Args:
        out: the file or folder that is to be written.
        folder: whether it is a folder.
        flag: of the command line, for the message.

    Raises:
        ConfigError: naming what stands in the way.
    """
    try:
        exists, is_folder = out.exists() or out.is_symlink(), out.is_dir()
        nearest = out if exists else next(p for p in out.absolute().parents if p.exists())
    except OSError as error:  # a name that is too long, a loop of links, a folder without entry
        raise ConfigError(f"{flag} {_short(out)}: {error.strerror}; choose another name") from error
    if exists and is_folder != folder:
        kinds = ("a file", "a folder") if folder else ("a folder", "a file")
        raise ConfigError(f"{flag} {out} is {kinds[0]}, and {kinds[1]} is to be written; name one")
    if not exists and not nearest.is_dir():
        raise ConfigError(f"{flag} {out}: {nearest} is a file, not a folder; choose another place")
    holder = nearest if nearest.is_dir() and (folder or not exists) else nearest.absolute().parent
    if not os.access(holder, os.W_OK | os.X_OK):
        raise ConfigError(
            f"{flag} {out}: nothing may be written to {holder} (permission denied); choose another "
            "place, or change its permissions"
        )


def require_output(
    out: Path,
    owned: Owned,
    *,
    inputs: Iterable[Path] = (),
    overwrite: bool = False,
    flag: str = "--out",
) -> None:
    """Refuse to replace an input of the command, or a file that the command has not made.

    Args:
        out: the file that is to be written.
        owned: whether a file is this command's own product, which it may replace.
        inputs: files that the command reads.
        overwrite: replace whatever is there.
        flag: of the command line, for the message.

    Raises:
        ConfigError: naming the file and how to replace it all the same.
    """
    require_writable(out, flag=flag)
    if overwrite or not out.exists():
        return
    if any(path.exists() and out.samefile(path) for path in inputs):
        raise ConfigError(
            f"{flag} {out} is what this command reads, and it would be replaced; choose another "
            f"{flag}, or add --overwrite"
        )
    if not owned(out):
        raise ConfigError(
            f"{flag} {out} exists and was not made by this command; choose another {flag}, or add "
            "--overwrite to replace it"
        )


def is_kept_table(path: Path) -> bool:
    """Whether a file is a table of what ``goldiprox prune`` kept."""
    try:
        return open_table(path).provenance.get("kind") == "kept"
    except GoldiproxError:
        return False


def is_table_of(provenance: Any) -> Owned:
    """Whether a file is a table with this provenance: the same table, in whichever form."""

    def owned(path: Path) -> bool:
        try:
            return dict(open_table(path).provenance) == dict(provenance)
        except GoldiproxError:
            return False

    return owned


def is_sequence_by(operation: str) -> Owned:
    """Whether a file is a sequence that an operation (cut, thin, join) has made."""

    def owned(path: Path) -> bool:
        try:
            history = BatchSequence.open(path).history
        except GoldiproxError:
            return False
        return bool(history) and history[-1].get("operation") == operation

    return owned


def is_confusion(path: Path) -> bool:
    """Whether a file is a confusion matrix as ``goldiprox confusion`` writes it."""
    found = _json(path)
    return isinstance(found, dict) and {"class_names", "matrix", "accuracy"} <= found.keys()


def is_page(path: Path) -> bool:
    """Whether a file is a report's page, or the JSON file that one is made from."""
    if path.suffix == ".json":
        found = _json(path)
        return isinstance(found, dict) and {"settings", "versions"} <= found.keys()
    try:
        return '<p class="maker">goldiprox' in path.read_text(encoding="utf-8")[:200_000]
    except (OSError, ValueError):
        return False


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None


def _short(path: Path) -> str:
    text = str(path)
    return text if len(text) <= 80 else f"{text[:40]}...{text[-20:]}"
