"""Mutated files: a reader ends with one line, or gives what was written."""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from readers import Reader

from goldiprox.schema import GoldiproxError

MEMORY = 16 << 30
"""Bytes of address space that a reader may ask for."""

SECONDS = 20
"""That one file may take."""

Mutation = Callable[[bytes, random.Random], bytes]


def flip(raw: bytes, chance: random.Random) -> bytes:
    """One to three bits the other way."""
    found = bytearray(raw)
    for _ in range(chance.randint(1, 3)):
        found[chance.randrange(len(found))] ^= 1 << chance.randrange(8)
    return bytes(found)


def overwrite(raw: bytes, chance: random.Random) -> bytes:
    """Some bytes replaced by zeros, ones or noise."""
    start, length = chance.randrange(len(raw)), chance.choice((1, 2, 4, 8, 64))
    what = chance.choice((bytes(length), b"\xff" * length, chance.randbytes(length)))
    return raw[:start] + what + raw[start + length :]


def cut(raw: bytes, chance: random.Random) -> bytes:
    """The end lost."""
    return raw[: chance.randrange(len(raw))]


def splice(raw: bytes, chance: random.Random) -> bytes:
    """A piece lost, doubled or moved."""
    a, b, c = sorted(chance.randrange(len(raw) + 1) for _ in range(3))
    return chance.choice(
        (raw[:a] + raw[b:], raw[:b] + raw[a:], raw[:a] + raw[b:c] + raw[a:b] + raw[c:])
    )


VALUES = (None, True, [], {}, "", "x", "../../x", "os:system", -1, 0, 1, 2**31, 2**63, 10**30, 0.5,
          1e308, [[]], {"a": {}}, "\ud800")  # fmt: skip


def restructure(raw: bytes, chance: random.Random) -> bytes:
    """Of JSON: a value replaced, lost, doubled, renamed or wrapped; of anything else, a splice."""
    try:
        value = json.loads(raw)
    except ValueError:
        return splice(raw, chance)
    places: list[tuple[Any, Any]] = []

    def walk(one: Any) -> None:
        items = one.items() if isinstance(one, dict) else enumerate(one)
        for key, inner in items:
            places.append((one, key))
            if isinstance(inner, dict | list):
                walk(inner)

    if isinstance(value, dict | list):
        walk(value)
    if not places:
        return json.dumps(chance.choice(VALUES)).encode()
    holder, key = chance.choice(places)
    how = chance.randrange(4)
    if how == 0:
        del holder[key]
    elif how == 1 and isinstance(holder, dict):
        holder[f"{key}x"] = holder.pop(key)
    elif how == 2:
        holder[key] = [holder[key]]
    else:
        holder[key] = chance.choice(VALUES)
    return json.dumps(value).encode()


MUTATIONS: tuple[Mutation, ...] = (flip, flip, overwrite, cut, splice, restructure)


def mutated(raw: bytes, chance: random.Random) -> tuple[bytes, str]:
    """A mutated copy, and how it was made."""
    how = chance.choice(MUTATIONS)
    return how(raw, chance), how.__name__


def attempt(reader: Reader, raw: bytes, value: str, seed: str) -> str:
    """Mutate a file, read it and put it back.

    Args:
        reader: of it.
        raw: its bytes.
        value: what it holds, see :meth:`Reader.value`.
        seed: of the mutation.

    Returns:
        What is wrong, in a line; empty if nothing is.
    """
    changed, how = mutated(raw, random.Random(seed))
    reader.path.write_bytes(changed)
    what = f"{reader.name}, {how}, seed {seed}"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = reader.value()
    except GoldiproxError as error:
        text = str(error)
        if "\n" in text:
            return f"{what}: more than a line: {text!r}"
        return f"{what}: asks for space" if "free some space" in text.lower() else ""
    except BaseException as error:  # noqa: BLE001
        return f"{what}: {type(error).__name__}: {str(error)[:200]!r}"
    finally:
        reader.path.write_bytes(raw)
    return f"{what}: accepted with another value" if reader.ours and found != value else ""


def batch(readers: list[Reader], first: int, count: int, file: Path) -> list[str]:
    """Mutations with these numbers, in a child process; a crash or a hang is a fault too.

    Args:
        readers: taken in turn.
        first: number of the first mutation.
        count: how many.
        file: where the child says what it does and finds.
    """
    child = os.fork()
    if not child:
        with file.open("w", buffering=1) as said:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            os.dup2(1, 2)
            resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
            known = [(reader, reader.path.read_bytes(), reader.value()) for reader in readers]
            for number in range(first, first + count):
                reader, raw, value = known[number % len(known)]
                said.write(f"at {number} {reader.name}\n")
                signal.alarm(SECONDS)
                if wrong := attempt(reader, raw, value, str(number)):
                    said.write(f"! {wrong}\n")
            said.write("done\n")
        os._exit(0)
    os.waitpid(child, 0)
    lines = file.read_text().splitlines()
    found = [line[2:] for line in lines if line.startswith("! ")]
    return found if lines[-1] == "done" else [*found, f"the process ended {lines[-1]}"]
