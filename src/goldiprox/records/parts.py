"""A table that grows with a run, kept in parts until the run is finished.

A part's name says which steps it holds and carries a digest of its bytes, its steps and its run: a
part that was damaged, renamed or taken from another run's folder is told from one of this run, and
one that is lost leaves a gap.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from goldiprox.guarded.errors import reading, require_file
from goldiprox.records.files import read_json, whole_file
from goldiprox.schema import CheckpointError, GoldiproxError

__all__ = ["Parts", "run_key", "tagged"]

_NAME = re.compile(r"(\d{12})-(\d{12})(?:-([0-9a-f]{16}))?\.parquet")


def run_key(folder: Path) -> str:
    """What tells a run from others: its configuration and data; empty without a manifest."""
    file = folder / "manifest.json"
    if not file.exists():
        return ""
    found = read_json(file, {"config_hash": str, "data?": dict})
    return f"{found['config_hash']} {(found.get('data') or {}).get('fingerprint')}"


def tagged(key: str, name: str, raw: bytes | memoryview) -> str:
    """The digest that a file of a run carries in its name: of run, name and bytes."""
    digest = hashlib.sha256(f"{key}\0{name}\0".encode())
    digest.update(raw)
    return digest.hexdigest()[:16]


@dataclass(frozen=True)
class _Part:
    path: Path
    first: int
    last: int
    digest: str | None


class Parts:
    """The parts of one table of a run.

    Args:
        run: the run's folder.
        name: of the parts' own folder in it.
        what: for messages: ``step log``.
        remedy: what to do if a part is lost or damaged.
        error: raised then.
    """

    def __init__(
        self,
        run: Path,
        name: str,
        what: str,
        remedy: str,
        error: type[GoldiproxError] = CheckpointError,
    ) -> None:
        self.folder = run / name
        self._run, self._what, self._remedy, self._error = run, what, remedy, error

    def write(self, table: pa.Table) -> None:
        """Write rows whose column ``step`` goes on where the last part ended."""
        steps = f"{table['step'][0].as_py():012d}-{table['step'][-1].as_py():012d}"
        sink = pa.BufferOutputStream()
        pq.write_table(table.combine_chunks(), sink, compression="zstd")
        raw = memoryview(sink.getvalue())
        path = self.folder / f"{steps}-{tagged(run_key(self._run), steps, raw)}.parquet"
        with whole_file(path) as temporary:
            temporary.write_bytes(raw)

    def cut(self, start: int, stop: int) -> None:
        """Drop what is to be run again, and make sure that the rest is here and whole.

        Args:
            start: the run's first step.
            stop: the next step to be done.

        Raises:
            GoldiproxError: naming the part that is damaged, or the steps that are gone.
        """
        for part in self._all():
            if part.first >= stop:
                part.path.unlink()
        self.require(start, stop)
        for part in self._all():
            self._bytes(part)

    def require(self, start: int, stop: int) -> None:
        """Make sure that every step from ``start`` up to ``stop`` is in exactly one part.

        Raises:
            GoldiproxError: naming the steps that are gone or there twice.
        """
        at = start
        for part in self._all():
            if part.first > at:
                break
            if part.first < at or part.last < part.first:
                raise self._error(
                    f"{self._what} {part.path} holds steps that another part holds too; "
                    f"{self._remedy}"
                )
            at = part.last + 1
        if at != stop:
            raise self._error(
                f"{self._what} in {self.folder} has no part with step {min(at, stop)}, and "
                f"{stop - start} steps were done; {self._remedy}"
            )

    def tables(self) -> Iterator[pa.Table]:
        """The parts in their order, each compared with its digest.

        Raises:
            GoldiproxError: naming a part that is damaged.
        """
        for part in self._all():
            raw = self._bytes(part)
            with reading(f"{self._what} {part.path}", error=self._error, remedy=self._remedy):
                yield pq.read_table(pa.BufferReader(raw))

    def drop(self) -> None:
        """Delete them all."""
        # Renamed first: half of the parts, left by a removal that was cut short, would be taken
        # for a table with a gap.
        gone = self.folder.with_name(f"{self.folder.name}.joined")
        shutil.rmtree(gone, ignore_errors=True)
        if self.folder.exists():
            self.folder.rename(gone)
            shutil.rmtree(gone)

    def exists(self) -> bool:
        """Whether there is any."""
        return self.folder.exists()

    def _all(self) -> list[_Part]:
        matches = ((p, _NAME.fullmatch(p.name)) for p in sorted(self.folder.glob("[0-9]*")))
        return [_Part(p, int(m[1]), int(m[2]), m[3]) for p, m in matches if m]

    def _bytes(self, part: _Part) -> bytes:
        where = f"{self._what} {part.path}"
        with reading(where, error=self._error, remedy=self._remedy):
            require_file(part.path)
            raw = part.path.read_bytes()
        steps = f"{part.first:012d}-{part.last:012d}"
        if part.digest != tagged(run_key(self._run), steps, raw):
            raise self._error(
                f"{where} is damaged or of another run: its digest does not match; {self._remedy}"
            )
        return raw
