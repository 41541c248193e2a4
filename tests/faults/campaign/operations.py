"""A shim that counts what a command does to files, and lets one of these operations go wrong.

Counted is what changes the disk below one folder: opening for writing, writing, flushing, renaming,
deleting, making and removing folders.
"""

from __future__ import annotations

import errno
import io
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

ERRORS = ("ENOSPC", "EIO", "EACCES", "EROFS", "EMFILE")
MOMENTS = ("before", "in", "after")


@dataclass(frozen=True)
class Fault:
    """What goes wrong at one operation.

    Attributes:
        at: number of the operation, from 0; none if it is negative: then they are only counted.
        moment: before it, in it (half of the file is there), or after it.
        error: name of the error that it raises; the process is killed unless given.
        lasting: whether every later operation fails likewise, as on a disk that stays full.
    """

    at: int = -1
    moment: str = "before"
    error: str | None = None
    lasting: bool = False

    def __str__(self) -> str:
        what = self.error or "killed"
        return f"{what} {self.moment} operation {self.at}{' and later' if self.lasting else ''}"


class Operations:
    """Installed once in a child process; there is no way back."""

    def __init__(self, home: Path, fault: Fault) -> None:
        self._home, self._fault = str(home), fault
        self.count = 0
        self.names: list[str] = []

    def install(self) -> None:
        """Replace the functions that change the disk."""
        for owner, name in (
            (os, "replace"), (os, "rename"), (os, "unlink"), (os, "remove"), (os, "rmdir"),
            (os, "mkdir"),
        ):  # fmt: skip
            setattr(owner, name, self._wrapped(getattr(owner, name), name, lambda *a, **k: True))
        os.fsync = self._wrapped(os.fsync, "fsync", self._is_ours)
        os.open = self._wrapped(os.open, "open", _creates)
        Path.write_bytes = self._wrapped(Path.write_bytes, "write", self._is_ours)  # type: ignore[method-assign]
        Path.write_text = self._wrapped(Path.write_text, "write", self._is_ours)  # type: ignore[method-assign]
        pq.write_table = self._wrapped(pq.write_table, "parquet", lambda *a, **k: True)
        pq.ParquetWriter.write_table = self._wrapped(
            pq.ParquetWriter.write_table, "rows", lambda *a, **k: True
        )

    def _wrapped(
        self, call: Callable[..., Any], name: str, counts: Callable[..., bool]
    ) -> Callable[..., Any]:
        def wrapper(*arguments: Any, **named: Any) -> Any:
            if not counts(*arguments, **named) or not self._is_below(name, arguments, named):
                return call(*arguments, **named)
            number, self.count = self.count, self.count + 1
            self.names.append(name)
            fault = self._fault
            if fault.at < 0 or number < fault.at or (number > fault.at and not fault.lasting):
                return call(*arguments, **named)
            if number > fault.at or fault.moment == "before":
                self._strike(arguments)
            found = None
            if fault.moment == "after" or name in ("write", "parquet", "rows"):
                found = call(*arguments, **named)
            if fault.moment == "in":
                _halve(arguments)
            self._strike(arguments)
            return found

        return wrapper

    def _strike(self, arguments: tuple[Any, ...]) -> None:
        if self._fault.error is None:
            os.kill(os.getpid(), signal.SIGKILL)
        code = getattr(errno, self._fault.error or "")
        raise OSError(code, os.strerror(code), str(arguments[0]))

    def _is_below(self, name: str, arguments: tuple[Any, ...], named: dict[str, Any]) -> bool:
        if name in ("fsync", "write", "rows", "parquet") or named.get("dir_fd") is not None:
            return True  # looked at already, or below a folder that is being removed
        return os.path.abspath(os.fsdecode(arguments[0])).startswith(self._home)  # noqa: PTH100

    def _is_ours(self, target: Any, *_: Any, **__: Any) -> bool:
        return _real(target).startswith(self._home)


def _creates(path: Any, flags: int = 0, *_: Any, **__: Any) -> bool:
    return bool(flags & (os.O_CREAT | os.O_WRONLY | os.O_RDWR))


def _real(target: Any) -> str:
    link = f"/proc/self/fd/{target}" if isinstance(target, int) else str(target)
    return os.path.realpath(link)


def _halve(arguments: tuple[Any, ...]) -> None:
    """Of a file that is being written, leave half."""
    for target in arguments:
        if isinstance(target, int | str | Path) and Path(path := _real(target)).is_file():
            size = Path(path).stat().st_size
            with io.open(path, "r+b") as handle:  # noqa: UP020
                handle.truncate(size // 2)
            return
