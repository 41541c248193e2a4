"""One command in a child process that is forked from one in which everything is imported."""

from __future__ import annotations

import contextlib
import io
import os
import random
import resource
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from folders import differences, essence
from operations import Fault, Operations

from goldiprox.cli import main

SMALL = "--model mlp-128 --epochs 2 --batch 16 --checkpoint-steps 5"

COMMANDS = {
    "train": f"train digits --method loss {SMALL} --pool 64 --out out",
    "record": f"train digits --method loss {SMALL} --pool 64 --record seq.parquet --out out",
    "irreducible": f"irreducible digits {SMALL} --out il.parquet",
    "compare": f"compare digits --methods uniform,rho-loss --seeds 1 {SMALL} --pool 64 --out out",
    "score": f"score digits --scores el2n,forgetting --epoch 1 --replicas 2 {SMALL} "
    "--out scores.parquet",
    "diet": f"diet digits --scores el2n --epoch 1 --replicas 1 --seeds 1 {SMALL} --out out",
}

LIMIT = 100
"""Seconds after which a command is said to hang."""


@dataclass(frozen=True)
class Outcome:
    """How a command ended.

    Attributes:
        status: its exit status; minus the number of the signal that killed it.
        text: what it said.
        operations: how many it did, where they were counted.
        seconds: how long it took.
    """

    status: int
    text: str
    operations: int
    seconds: float

    @property
    def clean(self) -> bool:
        """Whether it failed with one line, or not at all."""
        lines = [line for line in self.text.splitlines() if line.startswith("goldiprox: ")]
        return "Traceback" not in self.text and (self.status == 0 or len(lines) == 1)

    @property
    def line(self) -> str:
        """The last thing that it said."""
        return (self.text.strip().splitlines() or ["nothing"])[-1]


def start(arguments: list[str], home: Path, before: Callable[[], object] = lambda: None) -> int:
    """Fork a child that runs a command in a folder.

    Args:
        arguments: of the command line.
        home: its working folder.
        before: called in the child first.

    Returns:
        Its process id.
    """
    child = os.fork()
    if child:
        return child
    status = 70
    try:
        os.setsid()
        os.chdir(home)
        said = os.open(home / "stdout", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(said, 1)
        os.dup2(said, 2)
        before()
        try:
            main(arguments)
            status = 0
        except SystemExit as ended:
            status = ended.code if isinstance(ended.code, int) else 1
    except BaseException:  # noqa: BLE001
        import traceback

        traceback.print_exc()
    finally:
        os._exit(status)


def end(child: int, home: Path, began: float, kill_after: float | None = None) -> Outcome:
    """Wait for a child, or kill it after some seconds."""
    until = began + (LIMIT if kill_after is None else kill_after)
    status = None
    while status is None:
        done, code = os.waitpid(child, os.WNOHANG)
        if done:
            status = os.waitstatus_to_exitcode(code)
        elif time.perf_counter() > until:
            os.kill(child, signal.SIGKILL)
            until = float("inf")
        else:
            time.sleep(0.001)
    seconds = time.perf_counter() - began
    text = (home / "stdout").read_text() if (home / "stdout").exists() else ""
    counted = home.with_name(f"{home.name}.count")
    count = int(counted.read_text() or 0) if counted.exists() else 0
    return Outcome(status, text, count, seconds)


def run(
    name: str,
    home: Path,
    fault: Fault | None = None,
    kill_after: float | None = None,
    quota: int | None = None,
) -> Outcome:
    """Run a command of :data:`COMMANDS`.

    Args:
        name: of it.
        home: its working folder, where what an earlier run left still is.
        fault: what goes wrong.
        kill_after: seconds after which it is killed.
        quota: bytes that any of its files may have.
    """
    home.mkdir(exist_ok=True)
    counted = home.with_name(f"{home.name}.count")

    def before() -> None:
        if quota is not None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (quota, quota))
        if fault is not None:
            operations = Operations(home, fault)
            write = os.write
            handle = os.open(counted, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            operations.install()
            if fault.at < 0:
                leave = os._exit

                def leaving(status: int) -> None:
                    write(handle, str(operations.count).encode())
                    leave(status)

                os._exit = leaving  # type: ignore[assignment]

    began = time.perf_counter()
    return end(start(COMMANDS[name].split(), home, before), home, began, kill_after)


def warm_up(name: str, home: Path) -> None:
    """Run a command in this process: what it imports and keeps is there in every child's then."""
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    with contextlib.chdir(home), contextlib.redirect_stdout(io.StringIO()):
        main(COMMANDS[name].split())


class Reference:
    """What an unbroken run of a command leaves, its number of operations, and its seconds."""

    def __init__(self, name: str, scratch: Path) -> None:
        self.name = name
        home = scratch / f"reference-{name}"
        warm_up(name, home)
        shutil.rmtree(home, ignore_errors=True)
        self.outcome = run(name, home, Fault())
        if self.outcome.status:
            raise SystemExit(f"the unbroken {name} failed: {self.outcome.text}")
        self.files = essence(home)


def broken(reference: Reference, home: Path, fault: Fault | None, kill_after: float | None) -> str:
    """Break a command once, run it again until its end and compare; empty if all is as it should.

    Returns:
        What is wrong, in a line.
    """
    shutil.rmtree(home, ignore_errors=True)
    first = run(reference.name, home, fault, kill_after)
    if first.status != -signal.SIGKILL and not first.clean:
        return f"it ended with {first.status}: {first.line}"
    if (
        fault is not None
        and fault.error not in (None, "ENOSPC")
        and "free some space" in first.text.lower()
    ):
        return f"it asks for space: {first.line}"
    again = run(reference.name, home)
    if again.status:
        return f"run again it ended with {again.status}: {again.line}"
    wrong = differences(essence(home), reference.files)
    shutil.rmtree(home, ignore_errors=True)
    return "; ".join(wrong)


def random_fault(reference: Reference, chance: random.Random) -> tuple[Fault | None, float | None]:
    """A kill at a random time, or before, in or after a random operation; or an error there."""
    kind = chance.randrange(3)
    if kind == 0:
        return None, chance.random() * reference.outcome.seconds
    at = chance.randrange(max(1, reference.outcome.operations))
    if kind == 1:
        return Fault(at, chance.choice(("before", "in", "after"))), None
    error = chance.choice(("ENOSPC", "EIO", "EACCES", "EROFS", "EMFILE"))
    return Fault(at, chance.choice(("before", "in")), error, chance.random() < 0.5), None
