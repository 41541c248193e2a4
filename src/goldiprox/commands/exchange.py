"""Commands for what people hand each other: recorded sequences and score tables."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Union

import tyro
from tyro.conf import OmitArgPrefixes as Flat

from goldiprox.commands.shared import DATASET, splits_of, told, wrote
from goldiprox.data.splits import DataConfig, Splits
from goldiprox.records.sequences import BatchSequence, cut, join, thin
from goldiprox.workflows.outputs import is_sequence_by, require_output
from goldiprox.workflows.sequences import describe_sequence
from goldiprox.workflows.tables import convert_table, describe_table

__all__ = ["sequence", "table"]

File = tyro.conf.Positional[Path]


@dataclass(frozen=True, kw_only=True)
class _AskedData(DataConfig):
    dataset: Annotated[
        str,
        tyro.conf.arg(
            help=f"Data set to check against: {DATASET} Its label noise, split and seed, below, "
            "must be those of the run."
        ),
    ] = ""

    def splits(self) -> Splits | None:
        return splits_of(self) if self.dataset else None


def _show_sequence(file: File, data: Flat[_AskedData]) -> None:
    """Tell what a sequence is, where it comes from, and whether it fits a data set.

    Args:
        file: The sequence.
        data: What to check it against: labels and the pool of every step.
    """
    told(describe_sequence(file, data.splits()))


def _cut(
    file: File, out: Path, start: int = 0, stop: int | None = None, overwrite: bool = False
) -> None:
    """Keep some consecutive steps.

    Args:
        file: The sequence.
        out: The sequence to write.
        start: First step to keep, counted from 0.
        stop: First step not to keep; the end unless given.
        overwrite: Replace the file of --out even if it is the input or no sequence cut before.
    """
    require_output(out, is_sequence_by("cut"), inputs=[file], overwrite=overwrite)
    cut(BatchSequence.open(file), out, start, stop)
    wrote(out)


def _thin(file: File, out: Path, every: int, overwrite: bool = False) -> None:
    """Keep every n-th step, from the first on.

    Args:
        file: The sequence.
        out: The sequence to write.
        every: The n.
        overwrite: Replace the file of --out even if it is the input or no sequence thinned before.
    """
    require_output(out, is_sequence_by("thin"), inputs=[file], overwrite=overwrite)
    thin(BatchSequence.open(file), out, every)
    wrote(out)


def _join(
    files: tyro.conf.Positional[tuple[Path, ...]], out: Path, overwrite: bool = False
) -> None:
    """Put sequences of the same data and labels one after the other.

    Args:
        files: The sequences, in this order.
        out: The sequence to write.
        overwrite: Replace the file of --out even if it is an input or no sequence joined before.
    """
    require_output(out, is_sequence_by("join"), inputs=files, overwrite=overwrite)
    join(map(BatchSequence.open, files), out)
    wrote(out)


def _show_table(file: File, data: Flat[_AskedData]) -> None:
    """Tell what a score table is, where it comes from, and whether it fits a data set.

    Args:
        file: The table, Parquet or mapped.
        data: What to check it against.
    """
    told(describe_table(file, data.splits()))


def _convert(file: File, out: Path, overwrite: bool = False) -> None:
    """Write a Parquet table in the mapped form, or a mapped one as Parquet.

    The mapped form is opened without being read: for tables that are large or shared by processes.

    Args:
        file: The table.
        out: The table to write, such as il.arrow.
        overwrite: Replace the file of --out even if it holds something else than this table.
    """
    told(convert_table(file, out, overwrite=overwrite))
    wrote(out)


def _group(help_text: str, commands: dict[str, Callable[..., None]]) -> Callable[..., None]:
    """A command that has commands of its own."""

    def run(do: Any) -> None:
        del do  # it ran when the arguments were parsed

    choices = [
        Annotated[Any, tyro.conf.arg(constructor=function), tyro.conf.subcommand(name)]
        for name, function in commands.items()
    ]
    run.__annotations__["do"] = Union[tuple(choices)]  # noqa: UP007 - made of a list
    run.__doc__ = help_text
    marked: Callable[..., None] = tyro.conf.configure(
        tyro.conf.OmitSubcommandPrefixes, tyro.conf.OmitArgPrefixes
    )(run)
    return marked


sequence = _group(
    "Look at recorded sequences, cut, thin and join them.",
    {"show": _show_sequence, "cut": _cut, "thin": _thin, "join": _join},
)
table = _group(
    "Look at score tables; convert them between Parquet and the mapped form.",
    {"show": _show_table, "convert": _convert},
)
