"""One writer per output folder: a lock on the folder itself, which dies with its process.

The lock is ``flock`` on the open folder, so nothing is left behind by a process that is killed, and
the open folder tells whether the path still leads to it. Network file systems that know no such
lock (NFS, some FUSE mounts) are written to without one.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from goldiprox.guarded.errors import write_remedy
from goldiprox.schema import CheckpointError, GoldiproxError

__all__ = ["holds", "require_still_ours", "sweep", "writing"]


@dataclass
class _Held:
    """A folder that this process writes to."""

    handle: int
    identity: tuple[int, int]
    made: bool
    users: int = 1


_held: dict[str, _Held] = {}
"""By absolute path. A folder may be taken again by the process that has it."""

_LEFT_OVER = re.compile(r"\..+\.[0-9a-f]{16}\.part")

NO_LOCKS = {errno.ENOLCK, errno.EBADF, errno.EINVAL, errno.ENOTSUP, errno.ENOSYS}


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Be the one process that writes to a folder, which is made if it is not there.

    Raises:
        CheckpointError: if another process writes to it.
        GoldiproxError: if it cannot be made or opened.
    """
    key = str(folder.absolute())
    held = _held.get(key)
    if held is None:
        held = _held[key] = _take(folder)
        sweep(folder)
    else:
        require_still_ours(folder / "any")
        held.users += 1
    try:
        yield
    finally:
        held.users -= 1
        if not held.users:
            del _held[key]
            os.close(held.handle)
            if held.made:
                with suppress(OSError):  # it holds something: then it stays
                    folder.rmdir()


def holds(path: Path) -> bool:
    """Whether a file lies in or below a folder that this process writes to."""
    return bool(_held) and any(str(parent) in _held for parent in path.absolute().parents)


def require_still_ours(path: Path) -> None:
    """Refuse to write below a folder of ours that was deleted or replaced meanwhile.

    Args:
        path: of the file that is about to be written.

    Raises:
        CheckpointError: naming the folder.
    """
    if not _held:
        return
    for parent in path.absolute().parents:
        held = _held.get(str(parent))
        if held is not None and _identity(parent) != held.identity:
            raise CheckpointError(
                f"{parent} was deleted or replaced while this command was writing to it; nothing "
                "more is written there: run the command again"
            )


def sweep(folder: Path, name: str | None = None) -> None:
    """Delete what killed processes left of unfinished writes in a folder.

    Args:
        folder: where to look.
        name: of the file that was being written; any unless given.
    """
    start = "." if name is None else f".{name}."
    with suppress(OSError):
        left = [
            entry.path
            for entry in os.scandir(folder)
            if entry.name.startswith(start) and _LEFT_OVER.fullmatch(entry.name)
        ]
        for path in left:
            with suppress(OSError):
                handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # its writer is dead
                    Path(path).unlink()
                finally:
                    os.close(handle)


def _take(folder: Path) -> _Held:
    try:
        made = not folder.exists()
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise GoldiproxError(
            f"cannot write to {folder}: {error.strerror or error}. {write_remedy(error)}"
        ) from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            os.close(handle)
            raise CheckpointError(
                f"another goldiprox process is writing to {folder}; wait until it has ended, or "
                "choose another --out"
            ) from error
    found = os.fstat(handle)
    return _Held(handle, (found.st_dev, found.st_ino), made)


def _identity(folder: Path) -> tuple[int, int] | None:
    try:
        found = folder.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
