"""Tell what a score table is and whether it fits; convert it between its two forms."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from goldiprox.data.splits import Splits
from goldiprox.precompute.irreducible import irreducible_cost, require_fitting, table_remedy
from goldiprox.records.mapped import MappedTable, open_table, write_mapped
from goldiprox.records.tables import IRREDUCIBLE_LOSS, ScoreTable, Table
from goldiprox.schema import TableError
from goldiprox.workflows.outputs import is_table_of, require_output

__all__ = ["convert_table", "describe_table"]


def describe_table(path: Path, splits: Splits | None = None) -> dict[str, str]:
    """What a table is and holds.

    Args:
        path: the table, of either form.
        splits: data to check it against.

    Returns:
        What to tell the user, in order.

    Raises:
        TableError: if it is damaged, or does not fit the data; the message says why.
    """
    table = open_table(path)
    form = "Parquet"
    if isinstance(table, MappedTable):
        table.require_intact()
        form = "mapped"
    known = table.provenance
    told = {
        "table": f"{path} ({form}, {path.stat().st_size / 1e6:.3g} MB), {known.get('kind', '?')}",
        "rows": f"{len(table):,}",
    }
    if form == "Parquet" and not table.verified:
        told["unverified"] = "written by version 0.1.0, which kept no digests"
    told |= {f"column {name}": _spread(_values(table, name)) for name in table.names}
    told["data"] = f"{known.get('dataset', 'unknown')}{_data(known)}"
    told["fingerprint"] = str(known.get("fingerprint", "unknown"))
    told["label digest"] = str(known.get("label_digest", "unknown"))
    told |= _origin(known)
    cost = irreducible_cost(table).total()
    if cost.seconds or cost.flops:
        told["cost"] = f"{cost.seconds:.1f} s, {cost.flops:.3g} FLOPs"
    if splits is not None:
        _require_fit(table, splits)
        share = "a part" if _is_kept(table) else "all"
        told["fits"] = f"yes: {splits.dataset.name}, its labels, {share} of its training examples"
    return told


def _is_kept(table: Table) -> bool:
    """Whether it is what ``goldiprox prune`` kept: fewer ids, and perhaps no score."""
    return table.provenance.get("kind") == "kept"


def _require_fit(table: Table, splits: Splits) -> None:
    known = table.provenance.get("label_digest")
    whole = splits.full.label_digest()
    if IRREDUCIBLE_LOSS in table.names and known != whole and not _is_kept(table):
        require_fitting(table, splits)
        return
    # Scores of other kinds: of the training set or of more than it.
    remedy = table_remedy(splits)
    table.require(remedy, fingerprint=splits.dataset.fingerprint)
    if not _is_kept(table):
        table.column_for(table.names[0], splits.train.ids_N, remedy)
    if known not in (None, splits.train.label_digest()):
        table.require(remedy, label_digest=whole)


def _origin(known: Mapping[str, Any]) -> dict[str, str]:
    """Where it comes from: what its provenance says, and nothing that it does not."""
    told = {}
    if known.get("model"):
        best = known.get("best") or {}
        accuracy = f", held-out accuracy {best['accuracy']:.1%}" if "accuracy" in best else ""
        holdout = (known.get("holdout") or {}).get("examples")
        on = f" trained on {holdout:,} examples" if holdout else ""
        told["model"] = f"{known['model']}{on}{accuracy}"
    if known.get("made_by"):
        told["made by"] = str(known["made_by"])
    if known.get("config_hash"):
        told["configuration"] = str(known["config_hash"])
    versions = known.get("versions") or {}
    if versions:
        told["versions"] = f"goldiprox {versions.get('goldiprox')}, torch {versions.get('torch')}"
    return told


def _data(known: Mapping[str, Any]) -> str:
    data = (known.get("config") or {}).get("data") or {}
    wanted = {"label_noise": "label noise", "duplicate": "duplicated", "data_seed": "data seed"}
    parts = [f"{text} {data[key]:g}" for key, text in wanted.items() if key in data]
    return f" ({', '.join(parts)})" if parts else ""


def _values(table: Table, name: str) -> npt.NDArray[np.float32]:
    if isinstance(table, MappedTable):
        return table.values[name]
    assert isinstance(table, ScoreTable)
    return table.columns[name]


def _spread(values: npt.NDArray[np.float32]) -> str:
    finite = values[np.isfinite(values)]
    if not finite.size:
        return "no finite value"
    low, middle, high = np.quantile(finite, [0.0, 0.5, 1.0])
    return f"{low:.4g} to {high:.4g}, mean {finite.mean(dtype=np.float64):.4g}, median {middle:.4g}"


def convert_table(path: Path, out: Path, *, overwrite: bool = False) -> dict[str, str]:
    """Write a Parquet table in the mapped form, or a mapped one as Parquet.

    Args:
        path: the table.
        out: where to write it.
        overwrite: replace what is there, even if it is not this table in the other form.

    Returns:
        What to tell the user.

    Raises:
        TableError: if the table is damaged, its ids are too sparse, or ``out`` is the same file.
        ConfigError: if ``out`` holds something else, or cannot be written.
    """
    if out.exists() and path.exists() and out.samefile(path):
        raise TableError(f"{out} cannot be converted onto itself; choose another --out")
    table = open_table(path)
    require_output(out, is_table_of(table.provenance), overwrite=overwrite)
    if isinstance(table, MappedTable):
        table.require_intact()
        table.in_memory().write(out)
        return {"written as": f"Parquet, {len(table):,} rows"}
    assert isinstance(table, ScoreTable)
    write_mapped(table, out)
    return {"written as": f"mapped, {len(table):,} rows"}
