"""How a command's arguments are read from the words of the command line."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import tyro

from goldiprox.errors import ConfigError

__all__ = ["call"]

READING = tyro.constructors.ConstructorRegistry()
"""How arguments are read."""


@READING.primitive_rule
def _path(info: tyro.constructors.PrimitiveTypeInfo) -> Any:
    """A path of no characters, such as of a variable that is not set, is not the current folder."""
    if info.type is not Path:
        return None

    def read(given: list[str]) -> Path:
        if not given[0]:
            raise ConfigError('a path is given as ""; name a file or folder, or leave it out')
        return Path(given[0])

    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="PATH",
        instance_from_str=read,
        is_instance=lambda value: isinstance(value, Path),
        str_from_instance=lambda value: [str(value)],
    )


@READING.primitive_rule
def _comma_list(info: tyro.constructors.PrimitiveTypeInfo) -> Any:
    """Lists are one argument with commas, so that they cannot swallow what follows them."""
    wanted: Any = info.type
    kinds: dict[Any, Callable[[str], Any]] = {
        tuple[str, ...]: str,
        tuple[int, ...]: int,
        tuple[float, ...]: float,
    }
    if wanted not in kinds or tyro.conf.UseAppendAction in info.markers:
        return None
    kind = kinds[wanted]
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar=f"{wanted.__args__[0].__name__.upper()},...",
        instance_from_str=lambda given: tuple(kind(v) for v in given[0].split(",") if v),
        is_instance=lambda value: isinstance(value, tuple),
        str_from_instance=lambda value: [",".join(map(str, value))],
    )


def call(name: str, command: Callable[..., None], arguments: Sequence[str]) -> None:
    """Read a command's arguments and run it; help and mistakes end the process as tyro does.

    Args:
        name: of the command, for its help.
        command: what it does; its parameters are its flags.
        arguments: what follows its name.
    """
    with READING:
        tyro.cli(command, prog=f"goldiprox {name}", args=arguments)
