"""The flags that name some data on the command line, for advice that works as it stands."""

from __future__ import annotations

import shlex
from dataclasses import fields

from goldiprox.data.settings import DataConfig
from goldiprox.data.splits import Splits

__all__ = ["command_for", "data_flags"]

READ_AS = {"numbers": ["--objective", "regression"], "label sets": ["--objective", "multilabel"]}
"""What makes labels be read as what they are; any objective for such targets would."""

NOT_NAMED = ("dataset", "subset", "workers", "lazy")
"""The first stands without a flag; a subset is named by its ids, not its file, once it is read; how
files are read changes nothing."""


def command_for(command: str, splits: Splits, rest: str) -> str:
    """A command on the same data: with the flags that decide which examples and labels there are.

    Args:
        command: such as ``irreducible``.
        splits: the data.
        rest: what follows, such as ``--out il.parquet``.
    """
    words = ["goldiprox", command, shlex.quote(splits.config.dataset), *data_flags(splits), rest]
    return " ".join(word for word in words if word)


def data_flags(splits: Splits) -> list[str]:
    """Flags of the settings that are not what the data set has by default.

    Args:
        splits: the data.

    Returns:
        Words for a shell.
    """
    config, dataset = splits.config, splits.dataset
    usual = {field.name: field.default for field in fields(DataConfig)}
    usual |= {
        "holdout_mode": dataset.holdout_mode,
        "high_relevance": dataset.high_relevance,
        "holdout": dataset.holdout_share if config.holdout_mode in ("split", "reuse") else None,
    }
    found = READ_AS.get(dataset.targets, [])[:]
    for name, default in usual.items():
        value = getattr(config, name)
        if name in NOT_NAMED or value == default:
            continue
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            found.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
            found += [f"--{flag}", shlex.quote(text)]
    return found
