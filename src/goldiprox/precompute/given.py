"""Irreducible losses that were not trained here: from a model of one's own, or plain numbers."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor, nn

from goldiprox.config import config_hash
from goldiprox.data.splits import Splits
from goldiprox.data.text import TextPreprocessor
from goldiprox.evidence.flops import count_flops
from goldiprox.guarded.errors import reading, require_file
from goldiprox.guarded.tensors import read_tensors
from goldiprox.models.registry import factory_name
from goldiprox.models.text import WordTokenizer
from goldiprox.models.vision import Factory
from goldiprox.objectives import objective as objective_named
from goldiprox.precompute.irreducible import score_examples, table_facts
from goldiprox.records.files import sha256_of
from goldiprox.records.ledger import Ledger
from goldiprox.records.plain_tables import read_plain
from goldiprox.records.tables import IRREDUCIBLE_LOSS, ScoreTable
from goldiprox.schema import ConfigError, TableError
from goldiprox.training.build import build
from goldiprox.training.optimization import resolve_device

__all__ = ["table_from_model", "table_from_values"]


def table_from_model(
    splits: Splits,
    model: str | Factory,
    weights: Path | None,
    *,
    device: str = "auto",
    seed: int = 0,
    tokenizer: str | None = None,
    max_length: int = 128,
    objective: str = "classification",
) -> ScoreTable:
    """Score the training set with a model that was trained elsewhere.

    What it was trained on is the user's to know: losses of examples that it has seen are not
    irreducible losses.

    Args:
        splits: the data.
        model: a name or factory, called with the shape of one example and the number of classes.
        weights: its state dict, a safetensors file or one written by ``torch.save``; None where
            the factory returns a trained model.
        device: where it scores.
        seed: of the weights that the factory draws, if none are loaded.
        tokenizer: of texts, by hub name or local folder: the model's own unless given.
        max_length: texts are cut to so many tokens.
        objective: what it was trained for, by name.

    Returns:
        A table whose provenance names the model and its weights' digest. Only the scoring pass is
        in its ledger: what training cost elsewhere is not known here.

    Raises:
        ConfigError: if the model is unknown, or the weights are absent, damaged or another
            model's.
    """
    name = model if isinstance(model, str) else factory_name(model)
    net, feeder = build(
        model,
        splits.train,
        splits.preprocess,
        splits.num_classes,
        seed=seed,
        device=resolve_device(device),
        tokenizer=tokenizer,
        max_length=max_length,
    )
    texts = feeder.preprocess if isinstance(feeder.preprocess, TextPreprocessor) else None
    if texts is not None and isinstance(texts.tokenizer, WordTokenizer):
        raise ConfigError(
            f"{name} numbers words by the texts that it was trained on, and --weights does not "
            "hold these numbers; use a model with a tokenizer of its own, or name the one that it "
            "was trained with: --tokenizer"
        )
    if weights is not None:
        _load(net, weights, name)
    net = net.eval()
    few = feeder(splits.train, feeder.typical(splits.train, 8))
    ledger = Ledger()
    trained_for = objective_named(objective)
    flops = count_flops(net, few, objective=trained_for)
    ledger.leave_out(flops.uncounted)
    losses_N = score_examples(
        net, splits.train, feeder, ledger, flops=flops.forward, objective=trained_for
    )
    digest = None if weights is None else sha256_of(weights)
    config: dict[str, Any] = {
        "model": name,
        "weights": digest,
        "seed": seed if weights is None else None,
    }
    if texts is not None:
        config |= {"tokenizer": tokenizer, "max_length": max_length}
    if trained_for.name != "classification":
        config["objective"] = objective
    return ScoreTable(
        ids_N=splits.train.ids_N.numpy(),
        columns={IRREDUCIBLE_LOSS: losses_N},
        provenance={
            **table_facts(splits),
            "made_by": "a trained model",
            "config": config,
            "config_hash": config_hash(config),
            "model": name,
            "objective": trained_for.name,
            "weights_digest": digest,
            "ledger": ledger.to_json(),
        },
    )


def table_from_values(
    splits: Splits, path: Path, *, id_column: str = "id", value_column: str = IRREDUCIBLE_LOSS
) -> ScoreTable:
    """Take irreducible losses from a CSV or Parquet file of plain numbers.

    Args:
        splits: the data that they belong to; its fingerprint and labels are recorded, for a plain
            file cannot tell.
        path: a file, see :func:`goldiprox.records.plain_tables.read_plain`; rows in any order.
        id_column: its column of whole numbers: rows of the data set's store, from 0. Copies made
            by duplication take the value of their original.
        value_column: its column of losses, nats.

    Returns:
        A table of the training examples; other rows of the file are left out.

    Raises:
        TableError: if the file is absent, damaged or lacks a column, or if an id is missing, comes
            twice, is no row of the data set or has no finite value, or if ids count from 1.
    """
    given = read_plain(path, {id_column: "--id-column", value_column: "--value-column"})
    ids, values = given.columns[id_column], given.columns[value_column]
    if not pa.types.is_integer(ids.type):
        raise TableError(f"{path}: {id_column} holds {ids.type}, not whole numbers")
    if pa.types.is_decimal(values.type):
        values = values.cast(pa.float64())
    if not (pa.types.is_integer(values.type) or pa.types.is_floating(values.type)):
        raise TableError(f"{path}: {value_column} holds {values.type}, not numbers")
    _require_rows(splits, ids, f"{path}: {id_column}")
    whole = ScoreTable(  # its own checks find what comes twice
        ids_N=ids.cast(pa.int64()).to_numpy(),
        columns={IRREDUCIBLE_LOSS: values.cast(pa.float32(), safe=False).to_numpy()},
        provenance={},
        path=path,
    )
    remedy = "give one finite value for each training example"
    losses_N = whole.column_for(IRREDUCIBLE_LOSS, splits.train.origin_N, remedy)
    config = {"values": sha256_of(path), "column": value_column}
    form = f", {given.form}" if given.form else ""
    return ScoreTable(
        ids_N=splits.train.ids_N.numpy(),
        columns={IRREDUCIBLE_LOSS: losses_N.numpy()},
        provenance={
            **table_facts(splits),
            "made_by": f"the column {value_column} of {path.name}{form}",
            "config": config,
            "config_hash": config_hash(config),
            "model": None,
        },
    )


def _require_rows(splits: Splits, ids: pa.ChunkedArray, what: str) -> None:
    """Refuse ids that are not rows of the data set, such as those that count from 1."""
    if not len(ids):
        return
    lowest, highest = (value.as_py() for value in pc.min_max(ids).values())
    rows = len(splits.train.store)
    from_one = f"{what} counts from 1; rows of the data set count from 0: subtract 1"
    if lowest == 1 and highest in (len(ids), rows):
        raise TableError(from_one)
    wanted = splits.train.origin_N.numpy()
    known = ids.to_numpy()
    if not np.isin(wanted, known).all() and np.isin(wanted + 1, known).all():
        raise TableError(from_one)
    if highest >= rows * math.ceil(splits.config.duplicate):
        raise TableError(
            f"{what} {highest} is no row of the data set, whose rows are 0 to {rows - 1}; give the "
            "row of each example"
        )


def _load(model: nn.Module, path: Path, name: str) -> None:
    with reading(
        f"--weights {path}", error=ConfigError, damaged="does not load",
        remedy="give a safetensors file, or a state dict written by torch.save",
    ):  # fmt: skip
        require_file(path)
        if path.suffix == ".safetensors":
            state: Any = read_tensors(
                path, f"--weights {path}", error=ConfigError, damaged="does not load"
            )
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise ConfigError(
            f"--weights {path} is not a plain state dict (name to tensor); save model.state_dict()"
        )
    wanted = model.state_dict()
    for key in sorted(wanted.keys() | state.keys()):
        mine, theirs = wanted.get(key), state.get(key)
        if mine is None or theirs is None or mine.shape != theirs.shape:
            raise ConfigError(
                f"--weights {path} does not fit {name}: {key} is {_shape(theirs)} in the file, "
                f"{_shape(mine)} in the model; name the model that the weights belong to"
            )
    model.load_state_dict(state)


def _shape(value: Tensor | None) -> str:
    return "absent" if value is None else str(tuple(value.shape))
