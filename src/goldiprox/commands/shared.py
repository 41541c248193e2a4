"""What several commands share: how data is named, how results are told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from goldiprox.data.datasets import load
from goldiprox.data.splits import DataConfig, Splits, make_splits

__all__ = ["splits_of", "told", "wrote"]


def splits_of(data: DataConfig) -> Splits:
    """Load a data set and split it, as configured on the command line."""
    folder = None if data.data_dir is None else Path(data.data_dir)
    plain = DataConfig(**asdict(data))
    return make_splits(load(plain.dataset, data_dir=folder), plain)


def told(result: Mapping[str, object]) -> None:
    """Print facts, one a line."""
    width = max([22, *map(len, result)])
    for name, value in result.items():
        print(f"{name:>{width}}  {value}")


def wrote(path: Path) -> None:
    """Say what was written, last."""
    print(f"wrote {path}")
