"""The command line: finds a command by its name and runs it.

A command's module is imported when the command is given, so that ``--help`` and ``--version``
answer at once.
"""

from __future__ import annotations

import difflib
import os
import sys
from importlib import import_module
from typing import NamedTuple, NoReturn

from goldiprox.commands.process import (
    end_quietly_on_signals,
    interruption,
    require_one_process,
    require_utf8_arguments,
    use_utf8,
    version_line,
)
from goldiprox.errors import GoldiproxError
from goldiprox.extras import advice

__all__ = ["COMMANDS", "main"]


class Command(NamedTuple):
    """Where a command lives, and the first line of its help."""

    module: str
    function: str
    summary: str


COMMANDS = {
    "compare": Command(
        "compare",
        "compare",
        "Train each method on the same pools and report who gets there first, and what it cost.",
    ),
    "train": Command("train", "train", "Train one model with one method."),
    "irreducible": Command(
        "irreducible",
        "irreducible",
        "Train the irreducible-loss model on the holdout set and score every training example.",
    ),
    "score": Command(
        "data_diet",
        "score",
        "Score every training example by watching replicas of a model train; one table for all "
        "scores.",
    ),
    "prune": Command(
        "data_diet",
        "prune",
        "Keep part of a data set by a score, the hardest first; say what each class loses.",
    ),
    "diet": Command(
        "data_diet",
        "diet",
        "Score a data set, prune it by each score, train fresh models on what is left, and report.",
    ),
    "sequence": Command(
        "exchange", "sequence", "Look at recorded sequences, cut, thin and join them."
    ),
    "table": Command(
        "exchange",
        "table",
        "Look at score tables; convert them between Parquet and the mapped form.",
    ),
    "dynamics": Command(
        "dynamics",
        "watch",
        "Watch networks learn: velocity of the tangent kernel, error barriers between twins.",
    ),
    "confusion": Command(
        "confusion",
        "confusion",
        "Train a model plainly and count which classes it takes for which, on the holdout set.",
    ),
    "report": Command(
        "report",
        "report",
        "Make a report from run folders again, or from what compare, dynamics or diet wrote.",
    ),
    "methods": Command(
        "methods",
        "methods",
        "List every selection method: what it chooses, what it needs, what it costs, its source.",
    ),
}


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; every expected error is one line on stderr and exit status 1.

    Args:
        arguments: what follows the program's name; the process's own unless given.
    """
    if arguments is None:
        use_utf8()
    end_quietly_on_signals()
    given = sys.argv[1:] if arguments is None else arguments
    if not given:
        print(overview(), file=sys.stderr)
        sys.exit(2)
    try:
        if given[0] in ("-h", "--help"):
            print(overview())
        elif given[0] == "--version":
            print(version_line())
        else:
            _run(given)
        sys.stdout.flush()  # now, where what goes wrong can be said
    except GoldiproxError as error:
        _fail(str(error), 1)
    except ModuleNotFoundError as error:
        line = advice(f"goldiprox {given[0]}", error)
        if line is None:
            raise
        _fail(line, 1)
    except KeyboardInterrupt:
        _fail(interruption(given), 130)
    except BrokenPipeError:
        # The reader (head, less) went away; nothing was lost.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except OSError as error:
        # A file or a device that went away under a library's hands; or standard output is full.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        where = f"{error.filename}: " if error.filename else ""
        _fail(f"{where}{error.strerror or error}", 1)


def overview() -> str:
    """The help: what there is, one line a command."""
    width = max(map(len, COMMANDS))
    return "\n".join(
        [
            "usage: goldiprox [-h] [--version] COMMAND ...",
            "",
            "Train on the points that are learnable, worth learning and not yet learnt, and see "
            "whether it paid.",
            "",
            *(f"  {name:<{width}}  {command.summary}" for name, command in COMMANDS.items()),
            "",
            "The flags of a command: goldiprox COMMAND --help",
        ]
    )


def _run(given: list[str]) -> None:
    """Import a command and call it."""
    require_utf8_arguments(given)
    name = given[0]
    if name not in COMMANDS:
        close = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {close[0]}?" if close else f"commands: {', '.join(COMMANDS)}"
        _fail(f'unknown command "{name}"; {hint}', 2)
    if _writes(given):
        require_one_process(name)
    command = COMMANDS[name]
    function = getattr(import_module(f"goldiprox.commands.{command.module}"), command.function)
    import_module("goldiprox.commands.arguments").call(name, function, given[1:])


def _writes(arguments: list[str]) -> bool:
    """Whether a command writes files: all do but those that only show something."""
    asks = {"show", "-h", "--help"} & set(arguments[:2])
    return arguments[0] != "methods" and not asks


def _fail(message: str, status: int) -> NoReturn:
    print(f"goldiprox: {message}", file=sys.stderr)
    sys.exit(status)
