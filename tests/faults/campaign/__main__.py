"""The fault campaign: commands that are killed or whose disk fails, and files that are mutated.

    python tests/faults/campaign --short
    python tests/faults/campaign --diary campaign.jsonl [--trials 200] [--mutations 100000]

A diary holds what was done; the same command again goes on from there.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import sys
import tempfile
from collections import Counter
from pathlib import Path

import torch
from folders import differences, essence
from mutations import batch
from readers import make_readers
from trials import COMMANDS, Reference, broken, random_fault, run

BATCH = 500
SHORT = ("train", "record")


def kills(names: list[str], count: int, scratch: Path, done: set[str], diary: Path) -> None:
    """Break commands so many times in all, and compare what they leave with unbroken runs."""
    for name in names:
        numbers = [n for n in range(count) if names[n % len(names)] == name]
        numbers = [n for n in numbers if f"trial {n}" not in done]
        if not numbers:
            continue
        reference = Reference(name, scratch)
        for number in numbers:
            fault, after = random_fault(reference, random.Random(f"trial {number}"))
            how = f"killed after {after:.3f} s" if fault is None else str(fault)
            wrong = broken(reference, scratch / "trial", fault, after)
            kind = "killed" if fault is None or fault.error is None else "errors"
            note(
                diary,
                f"trial {number}",
                f"{name}, {kind}",
                f"{name}, {how}: {wrong}" if wrong else "",
            )


def full_disk(names: list[str], scratch: Path, done: set[str], diary: Path) -> None:
    """No file may grow beyond a limit, then it may: as on a disk that was full."""
    for number, name in enumerate(names):
        if f"full {number}" in done:
            continue
        reference = Reference(name, scratch)
        for quota in (600, 6_000, 60_000):
            home = scratch / f"full-{quota}"
            first = run(name, home, quota=quota)
            again = run(name, home)
            other = "; ".join(differences(essence(home), reference.files))
            fine = first.clean and again.status == 0 and not other
            said = f"{first.line}; {again.line}; {other}"
            wrong = "" if fine else f"{name} under {quota} bytes: {said}"
            note(diary, f"full {number}", f"{name}, full disk", wrong)


def mutations(count: int, scratch: Path, done: set[str], diary: Path, size: int) -> None:
    """Mutate files of every kind so many times in all."""
    readers = make_readers(scratch / "files")
    for first in range(0, count, size):
        if f"mutations {first}" not in done:
            found = batch(readers, first, min(size, count - first), scratch / "said")
            for wrong in found:
                note(diary, "", "mutations", wrong)
            note(diary, f"mutations {first}", "mutations", "", min(size, count - first))


def note(diary: Path, key: str, kind: str, wrong: str, count: int = 1) -> None:
    """A line of the diary, and on the terminal if something is wrong."""
    with diary.open("a") as handle:
        entry = {
            "key": key,
            "kind": kind,
            "wrong": wrong,
            "count": 0 if wrong and not key else count,
        }
        handle.write(json.dumps(entry) + "\n")
    if wrong:
        print(f"FAULT  {kind}: {wrong}", flush=True)


def summary(diary: Path) -> int:
    """Print what was done and found; how many faults there were."""
    entries = [json.loads(line) for line in diary.read_text().splitlines()]
    done, faults = Counter[str](), Counter[str]()
    for entry in entries:
        done[entry["kind"]] += entry["count"]
        faults[entry["kind"]] += bool(entry["wrong"])
    for kind in done:
        print(f"{kind:24} {done[kind]:7,} done, {faults[kind]} faults")
    return faults.total()


def campaign() -> int:
    """What the command line asks for; how many faults there were."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--short", action="store_true", help="under half a minute")
    parser.add_argument("--diary", type=Path, help="what was done; goes on from there")
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--mutations", type=int, default=100_000)
    parser.add_argument("--commands", default=",".join(COMMANDS))
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as home:
        scratch = Path(home)
        diary = given.diary or scratch / "diary"
        diary.touch()
        done = {json.loads(line)["key"] for line in diary.read_text().splitlines()}
        names = list(SHORT) if given.short else given.commands.split(",")
        if given.short:
            given.trials, given.mutations = 12, 460
        kills(names, given.trials, scratch, done, diary)
        full_disk(names[:1] if given.short else names, scratch, done, diary)
        mutations(given.mutations, scratch, done, diary, BATCH)
        return summary(diary)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.exit(1 if campaign() else 0)
