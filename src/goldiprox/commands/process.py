"""What this process needs before a command runs: signals, encoding, launchers, the version."""

from __future__ import annotations

import os
import platform
import runpy
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import NoReturn

from goldiprox.errors import ConfigError
from goldiprox.version import __version__

__all__ = [
    "end_quietly_on_signals",
    "interruption",
    "require_one_process",
    "require_utf8_arguments",
    "use_utf8",
    "version_line",
]

LAUNCHERS = {
    "WORLD_SIZE": "torchrun or a similar launcher",
    "SLURM_STEP_NUM_TASKS": "srun",
    "OMPI_COMM_WORLD_SIZE": "mpirun",
    "PMI_SIZE": "mpiexec",
}
"""Variables in which a launcher tells each process how many there are."""


def version_line() -> str:
    """Versions that a bug report needs, in one line."""
    found = find_spec("torch")
    if found is None or found.origin is None:
        torch = "absent"
    else:  # its own file of versions, since importing all of torch takes seconds
        torch = runpy.run_path(str(Path(found.origin).with_name("version.py")))["__version__"]
    return f"goldiprox {__version__} (torch {torch}, Python {platform.python_version()})"


def end_quietly_on_signals() -> None:
    """Unwind at the first Ctrl-C or SIGTERM, so that no half-written file stays; end at the second.

    A disposition "ignored" that was inherited (nohup, a shell's background job) stays.
    """
    for number, stop in ((signal.SIGINT, _interrupt), (signal.SIGTERM, _terminate)):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, stop)


def _interrupt(*_: object) -> NoReturn:
    _end_at_the_next(130)
    raise KeyboardInterrupt


def _terminate(*_: object) -> NoReturn:
    _end_at_the_next(143)
    sys.exit(143)


def _end_at_the_next(status: int) -> None:
    """A second signal must not raise where nobody expects it: in exit handlers or destructors."""

    def end(number: int, frame: FrameType | None) -> None:
        del number, frame
        os._exit(status)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)


def interruption(arguments: Sequence[str]) -> str:
    """What to tell a user who interrupted a command: only what is true of its output folder.

    Args:
        arguments: of the command; ``--out`` is looked for.
    """
    out = _value_of("--out", arguments)
    homes = [] if out is None else [Path(out), Path(f"{out}.run")]
    if _holds(homes, "checkpoint-*.pt"):
        return "interrupted; the same command goes on from the last checkpoint"
    if _holds(homes, "result.json"):
        return "interrupted; the same command goes on after the runs that are finished"
    return "interrupted before anything was saved; the same command starts again from the beginning"


def _holds(folders: Sequence[Path], pattern: str) -> bool:
    return any(next(folder.rglob(pattern), None) is not None for folder in folders)


def _value_of(flag: str, arguments: Sequence[str]) -> str | None:
    for number, argument in enumerate(arguments):
        if argument.startswith(f"{flag}="):
            return argument.partition("=")[2]
        if argument == flag and number + 1 < len(arguments):
            return arguments[number + 1]
    return None


def use_utf8(
    start_again: Callable[[str, list[str], dict[str, str]], object] = os.execve,
) -> None:
    """Make file names, files and streams UTF-8, whatever the locale says.

    Under another encoding a name with an umlaut means one thing to Python and another to Arrow, so
    a process that was started so is replaced by one in Python's UTF-8 mode. Characters that a
    stream cannot show are escaped instead of ending a run.

    Args:
        start_again: replaces this process; a parameter for tests.
    """
    encoding = sys.getfilesystemencoding()
    if encoding.lower() != "utf-8" and os.environ.get("PYTHONUTF8") != "1":
        start_again(
            sys.executable,
            [sys.executable, *sys.orig_argv[1:]],
            {**os.environ, "PYTHONUTF8": "1"},
        )
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(encoding="utf-8", errors="backslashreplace")


def require_utf8_arguments(arguments: Sequence[str]) -> None:
    """Refuse arguments that are not UTF-8: the libraries that write files take nothing else.

    Raises:
        ConfigError: naming the first such argument.
    """
    for argument in arguments:
        try:
            argument.encode("utf-8")
        except UnicodeEncodeError as error:
            shown = argument.encode("utf-8", "backslashreplace").decode()
            raise ConfigError(
                f'the argument "{shown}" is not UTF-8; rename the file or folder, or use a UTF-8 '
                "locale such as LC_ALL=C.UTF-8"
            ) from error


def require_one_process(command: str, environment: Mapping[str, str] = os.environ) -> None:
    """Refuse to run as one of several processes of a launcher, which would all do the same work.

    Args:
        command: for the message.
        environment: variables of the process.

    Raises:
        ConfigError: naming the variable that tells of other processes.
    """
    for variable, launcher in LAUNCHERS.items():
        value = environment.get(variable, "")
        if value.isdigit() and int(value) > 1:
            raise ConfigError(
                f"goldiprox {command} was started as one of {value} processes ({variable}={value}, "
                f"set by {launcher}), which would all write the same output: start it once, "
                f"without the launcher, or unset {variable}"
            )
