"""What goes wrong while a file is read or written, as one line naming file and remedy."""

from __future__ import annotations

import errno
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from goldiprox.schema import CheckpointError, GoldiproxError

__all__ = ["first_line", "listed", "reading", "require_file", "write_remedy"]


@contextmanager
def reading(
    what: str,
    *,
    error: type[GoldiproxError] = CheckpointError,
    remedy: str = "get the file again",
    absent: str | None = None,
    damaged: str = "is damaged",
) -> Iterator[None]:
    """Turn whatever a parser raises on a bad file into one line.

    Args:
        what: the file with what it is: ``score table il.parquet``.
        error: raised.
        remedy: what to do if it is damaged or absent.
        absent: what to say if it does not exist, instead of that it does not.
        damaged: what to say of a file that is there and can be read, but not understood.

    Raises:
        GoldiproxError: of the type ``error``; one that is raised inside passes through.
    """
    try:
        yield
    except GoldiproxError:
        raise
    except FileNotFoundError as problem:
        raise error(absent or f"{what} does not exist; {remedy}") from problem
    except OSError as problem:
        # Parsers raise OSError too, for damage: then it carries no error number.
        if problem.errno is None:
            raise error(f"{what} {damaged}: {first_line(problem)}; {remedy}") from problem
        raise error(
            f"{what} cannot be read: {problem.strerror or first_line(problem)}"
            f"{_READ_HINTS.get(problem.errno, '')}"
        ) from problem
    except MemoryError as problem:
        raise error(f"{what} asks for more memory than there is; {remedy}") from problem
    except (NameError, ImportError, AssertionError):
        raise  # a fault of the program, not of the file
    except Exception as problem:
        raise error(f"{what} {damaged}: {first_line(problem)}; {remedy}") from problem


def require_file(path: Path) -> int:
    """The size of a regular file: no folder, and no pipe that would be waited on for ever.

    Raises:
        OSError: if it is absent or something else.
    """
    found = path.stat()
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, "it is a folder", str(path))
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "it is no regular file", str(path))
    return found.st_size


def first_line(error: BaseException) -> str:
    """What an error says, cut to one line of printable text; its type where it says nothing."""
    text = str(error).strip()
    line = text.splitlines()[0] if text else type(error).__name__
    return "".join(c if c.isprintable() else "?" for c in line[:300])


def listed(names: Iterable[str]) -> str:
    """Names that a file holds, such as those of its columns, for a message of one line."""
    shown = ("".join(c if c.isprintable() else "?" for c in name[:60]) for name in names)
    return ", ".join(shown) or "none"


def write_remedy(problem: OSError) -> str:
    """What to do about a file that could not be written, by the error's number."""
    return _WRITE_REMEDIES.get(problem.errno or 0, "Choose another --out")


_READ_HINTS = {
    errno.EACCES: "; allow reading it (chmod), or run as the user who owns it",
    errno.EPERM: "; allow reading it (chmod), or run as the user who owns it",
    errno.EISDIR: "; name a file",
    errno.EIO: "; the disk is failing: copy what is left of it",
}

_WRITE_REMEDIES = {
    errno.ENOSPC: "Free some space or choose another --out",
    errno.EDQUOT: "Free some space or choose another --out",
    errno.EACCES: "Allow writing there (chmod), or choose another --out",
    errno.EPERM: "Allow writing there (chmod), or choose another --out",
    errno.EROFS: "The file system is mounted read-only: choose another --out",
    errno.EISDIR: "There is a folder of that name: choose another one",
    errno.ENAMETOOLONG: "Choose a shorter name",
    errno.EFBIG: "The file system or a limit (ulimit -f) takes no file of that size: "
    "choose another --out",
    errno.EIO: "The disk is failing: choose another one",
    errno.EMFILE: "Too many files are open: raise the limit (ulimit -n)",
}
