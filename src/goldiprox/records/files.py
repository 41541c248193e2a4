"""Files that appear whole or not at all: written beside, flushed, then renamed.

Beside means under a name that nobody can guess, made anew and never followed if it is a link; the
writer holds a lock on it, so that what a killed process left behind is told from what another one
is writing, and swept. JSON files of ours carry a digest of their content.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from goldiprox.guarded.errors import write_remedy
from goldiprox.guarded.json_files import (
    FORMAT,
    SEAL,
    Shape,
    canonical_digest,
    misfit,
    read_json_file,
)
from goldiprox.records.owner import holds, require_still_ours, sweep
from goldiprox.schema import CheckpointError, GoldiproxError

__all__ = [
    "json_bytes",
    "read_json",
    "read_rows",
    "sha256_of",
    "whole_file",
    "write_json",
    "write_rows",
]


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path; what was written there becomes ``path`` when the block succeeds.

    Raises:
        GoldiproxError: if the disk is full or the folder cannot be written; the old file, if any,
            is untouched.
        CheckpointError: if the folder that this process writes to was deleted or replaced.
    """
    require_still_ours(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")
    handle = -1
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not holds(path):  # what is held was swept when it was taken
            sweep(path.parent, path.name)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        handle = os.open(temporary, flags, 0o666)
        with suppress(OSError):  # a file system without locks: then nothing is swept there
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield _opened(handle, temporary)
        os.fsync(handle)
        require_still_ours(path)
        temporary.replace(path)
    except OSError as error:
        raise GoldiproxError(
            f"cannot write {path}: {error.strerror or error}; nothing written before is lost. "
            f"{write_remedy(error)}"
        ) from error
    finally:
        # Suppressed: where the folder could not even be made, this would hide the error above.
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        if handle >= 0:
            os.close(handle)


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file, whole or not at all; an object gets a seal with its digest.

    NaN is refused: JSON has none.
    """
    raw = json_bytes(value)
    with whole_file(path) as temporary:
        temporary.write_bytes(raw)


def json_bytes(value: Any) -> bytes:
    """What :func:`write_json` writes."""
    if isinstance(value, dict):
        value = {SEAL: {"format": FORMAT, "sha256": canonical_digest(value)}, **value}
    text = json.dumps(value, indent=1, allow_nan=False, ensure_ascii=False) + "\n"
    try:
        return text.encode()
    except UnicodeEncodeError:  # a file's name that is not UTF-8, on the command line
        return (json.dumps(value, indent=1, allow_nan=False) + "\n").encode()


def read_json(path: Path, shape: Shape = dict) -> Any:
    """Read a JSON file of ours, and compare it with the digest in its seal.

    A file without a seal was written by version 0.1.0, or holds a list: it is read unverified.

    Args:
        path: the file.
        shape: what it must look like, see :data:`goldiprox.guarded.json_files.Shape`.

    Raises:
        CheckpointError: if it is absent, damaged, or of another shape.
    """
    return read_json_file(
        path,
        shape,
        remedy="delete its folder to start that run over",
        absent=f"{path} is absent; is this a goldiprox output folder?",
    )


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write a list of objects as JSON, sealed as an object is."""
    write_json(path, {"rows": rows})


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Read it back; a bare list is one of version 0.1.0.

    Raises:
        CheckpointError: if it is absent or damaged.
    """
    value = read_json(path, None)
    rows: Any = value.get("rows") if isinstance(value, dict) else value
    if wrong := misfit(rows, [dict]):
        raise CheckpointError(f"{path} is damaged ({wrong}); delete it to make it again")
    return list(rows)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes, as hex."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _opened(handle: int, temporary: Path) -> Path:
    """A path of the file that was just made: by its handle, whatever its name means by now."""
    by_handle = Path(f"/proc/self/fd/{handle}")
    return by_handle if by_handle.exists() else temporary
