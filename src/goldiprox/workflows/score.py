"""Make a score table: train the replicas, average, put what belongs beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from goldiprox.config import IrreducibleConfig, config_hash, settings_of
from goldiprox.data.splits import Fold, Splits
from goldiprox.evidence.forward import ScoringPass
from goldiprox.precompute.data_diet import (
    LABEL,
    SCORING_BATCH,
    ScoreConfig,
    average,
    input_norms,
)
from goldiprox.precompute.diet_scores import SCORES, score
from goldiprox.precompute.irreducible import model_folder, parts_of
from goldiprox.records.circumstances import first_difference, versions
from goldiprox.records.ledger import Ledger
from goldiprox.records.runs import RunFolder
from goldiprox.records.tables import IRREDUCIBLE_LOSS, ScoreTable, Table
from goldiprox.schema import ConfigError, TableError
from goldiprox.seeds import stream
from goldiprox.selection.methods import METHODS
from goldiprox.training.build import build
from goldiprox.training.optimization import resolve_device
from goldiprox.workflows.arms import Arm, require_possible
from goldiprox.workflows.execution import SILENTLY, Execution
from goldiprox.workflows.irreducible import irreducible_for
from goldiprox.workflows.replicas import replica_tables

__all__ = [
    "cross_fitted_losses",
    "halved",
    "held_out_probabilities",
    "make_scores",
    "score_table",
]


def make_scores(
    splits: Splits,
    config: ScoreConfig,
    out: Path,
    *,
    irreducible: IrreducibleConfig | None = None,
    table: Table | None = None,
    execution: Execution = SILENTLY,
) -> dict[str, Any]:
    """Make a score table and write it to ``out``; its replicas are kept in ``<out>.run``.

    Args:
        splits: the data; everything that is not test is scored.
        config: settings.
        out: the table.
        irreducible: settings of the irreducible-loss models, if that score is asked for.
        table: irreducible losses of all these examples to use instead.
        execution: how it is done.

    Returns:
        What to tell the user.

    Raises:
        ConfigError: if settings do not fit the data.
        TableError: if ``out`` exists and is another table, or irreducible losses are missing.
        CheckpointError: if ``<out>.run`` holds replicas of other settings.
    """
    made = score_table(
        splits,
        config,
        out,
        out.with_name(out.name + ".run"),
        irreducible=irreducible,
        table=table,
        execution=execution,
    )
    replicas = made.provenance["replicas"]
    accuracies = [r["accuracy"] for r in replicas if r["accuracy"] is not None]
    cost = Ledger.from_json(made.provenance["ledger"]).total()
    told = {
        "scored": f"{len(made):,} examples, {len(made.provenance['scores'])} scores",
        "not scored": _left_out(splits, len(made)),
        "columns": ", ".join(name for name in made.columns if not name.endswith("_std")),
        "cost": f"{cost.seconds:.1f} s over all replicas, {cost.flops:.3g} FLOPs",
    }
    if accuracies:
        told["replicas"] = (
            f"{len(accuracies)} of {config.model}, {config.trained_epochs} epochs, test accuracy "
            f"{np.mean(accuracies):.1%} on average"
        )
    told |= {f"note on {name}": note for name, note in made.provenance["notes"].items()}
    return told


def _left_out(splits: Splits, scored: int) -> str:
    """What of the data set has no score, so that nobody takes the table for all of it."""
    whole, test = len(splits.dataset.store), len(splits.test)
    return (
        f"{test:,} examples of the test set, which the replicas are evaluated on (the data set has "
        f"{whole:,})" + ("" if splits.subset_N is None else f"; {scored:,} are the subset")
    )


def score_table(
    splits: Splits,
    config: ScoreConfig,
    path: Path,
    folder: Path,
    *,
    irreducible: IrreducibleConfig | None = None,
    table: Table | None = None,
    execution: Execution = SILENTLY,
) -> ScoreTable:
    """Read the score table at ``path`` if it is there and fits, else make it.

    Raises:
        ConfigError, TableError, CheckpointError: see :func:`make_scores`.
    """
    irreducible = (irreducible or IrreducibleConfig()).beside(config.objective)
    identity = _identity(splits, config, irreducible, table)
    if path.exists():
        return _found(path, identity)
    if table is not None and IRREDUCIBLE_LOSS not in config.columns:
        raise TableError(
            "an irreducible-loss table was given but is not asked for; name irreducible-loss among "
            "--scores"
        )
    data = splits.full
    task = Arm(name="uniform", method=METHODS["uniform"], full=True).task(splits)
    require_possible(config.training(0), task)
    columns = {}
    if data.targets_N.dim() == 1:  # of several labels an example there is no column
        columns[LABEL] = data.targets_N.numpy().astype(np.float32)
    if "input-norm" in config.scores:
        columns["input_norm"] = input_norms(splits)  # first: it may refuse the data
    if IRREDUCIBLE_LOSS in config.columns:
        if table is None:
            table = cross_fitted_losses(
                splits,
                irreducible,
                folder / "irreducible",
                target_model=config.model,
                execution=execution,
            )
        columns[IRREDUCIBLE_LOSS] = _joined(table, splits)
    replicas = []
    if config.entries:
        replicas = replica_tables(splits, config, folder, execution)
        columns |= average(replicas)
    made = ScoreTable(
        ids_N=data.ids_N.numpy(),
        columns=_in_order(columns, config),
        provenance={
            "kind": "scores",
            "dataset": splits.dataset.name,
            "fingerprint": splits.dataset.fingerprint,
            "label_digest": data.label_digest(),
            "class_names": list(splits.dataset.class_names),
            "config": identity,
            "config_hash": config_hash(identity),
            "model": config.model,
            "replicas": [replica.provenance["replica"] for replica in replicas],
            "scores": {score(n).column: _meaning(n) for n in config.scores},
            "notes": {n: SCORES[n].note for n in config.scores if SCORES[n].note},
            "ledger": _costs(replicas, table).to_json(),
            "versions": versions(),
        },
    )
    made.write(path)
    return replace(made, path=path)


def cross_fitted_losses(
    splits: Splits,
    config: IrreducibleConfig,
    folder: Path,
    *,
    target_model: str,
    execution: Execution = SILENTLY,
) -> ScoreTable:
    """Irreducible losses of everything that is not test, with nothing set aside.

    Two models, each trained on one half, score the half that they have not seen (Mindermann et al.
    2022, table 3).

    Args:
        splits: the data, however it is divided.
        config: settings of the two models.
        folder: where their runs are kept, ``half-0`` and ``half-1``.
        target_model: the model that is to be trained; decides what ``auto`` means.
        execution: how it is done.

    Returns:
        A table with the column ``irreducible_loss``.
    """
    return irreducible_for(
        halved(splits),
        config,
        folder / "losses.parquet",
        RunFolder(folder),
        target_model=target_model,
        execution=execution,
    )


def held_out_probabilities(
    splits: Splits, config: IrreducibleConfig, folder: Path, *, target_model: str
) -> npt.NDArray[np.float64]:
    """Predictions for everything that is not test, by the model that has not seen the example.

    Args:
        splits: the data.
        config: settings of the two models.
        folder: where :func:`cross_fitted_losses` kept them.
        target_model: as it was told.

    Returns:
        probabilities_NC, in the order of ``splits.full``.
    """
    found = np.empty((len(splits.full), splits.num_classes))
    for part in parts_of(halved(splits)):
        model, feeder = build(
            config.resolved_model(target_model, part.scored.store.example_shape),
            part.task.train,
            splits.preprocess,
            splits.num_classes,
            seed=0,
            device=resolve_device(config.device),
            tokenizer=config.tokenizer,
            max_length=config.max_length,
        )
        weights = model_folder(RunFolder(folder), part.name).load_weights("model")
        model.load_state_dict(weights)
        scoring = ScoringPass(model, batchnorm="running")
        batches = torch.arange(len(part.scored)).split(SCORING_BATCH)
        log_probs = [
            evidence.need("log_probs_BC").double().cpu()
            for evidence in scoring.over(
                (feeder(part.scored, some) for some in batches), {"log_probs_BC"}
            )
        ]
        at_N = splits.full.positions_of(part.scored.ids_N)
        found[at_N.numpy()] = torch.cat(log_probs).exp().numpy()
    probabilities_NC: npt.NDArray[np.float64] = found / found.sum(1, keepdims=True)
    return probabilities_NC


def halved(splits: Splits) -> Splits:
    """The same examples with the same labels, for two models that score each other's half.

    Nothing is drawn anew: what was mixed, thinned out, corrupted or given its published labels back
    stays so. A published holdout set takes part. Copies go with their original; reduced to a
    subset, only that is scored. (Partners of ``--ambiguous`` mixtures may lie in the other half
    unless ``splits`` is in halves already.)

    Args:
        splits: the data, however it is divided.

    Returns:
        Splits in the mode ``halves`` whose training set is ``splits.full``.

    Raises:
        ConfigError: if there are too few examples for two halves.
    """
    whole = splits if splits.whole is None else splits.whole
    if whole.config.holdout_mode != "halves":
        whole = _in_halves(whole)
    if splits.subset_N is None or splits.config.subset is None:
        return whole
    return whole.reduced(splits.subset_N, splits.config.subset)


def _in_halves(splits: Splits) -> Splits:
    data, validation = splits.full, splits.config.validation
    originals_N = torch.unique(data.origin_N)
    generator = stream(splits.config.data_seed, "split")
    order_N = originals_N[torch.randperm(len(originals_N), generator=generator)]
    one, other = order_N.tensor_split(2)
    folds = []
    for held_N, scored_N in ((one, other), (other, one)):
        cut = round(validation * len(held_N))
        if not 0 < cut < len(held_N):
            raise ConfigError(
                f"irreducible losses need two halves with a share of {validation} of each for "
                f"validation, and {len(data)} examples are too few; change --validation"
            )
        parts = (held_N[cut:].sort().values, held_N[:cut].sort().values)
        fit, checked = (data.select(data.positions_of(ids_N)) for ids_N in parts)
        scored = data.select(torch.isin(data.origin_N, scored_N))
        folds.append(Fold(fit=fit, validation=checked, scored=scored))
    nothing = data.select(torch.empty(0, dtype=torch.int64))
    return replace(
        splits,
        train=data,
        holdout=nothing,
        validation=nothing,
        folds=tuple(folds),
        config=replace(splits.config, holdout_mode="halves", holdout=None),
    )


def _identity(
    splits: Splits, config: ScoreConfig, irreducible: IrreducibleConfig, table: Table | None
) -> dict[str, Any]:
    """Everything that decides what the table holds; where files lie does not."""
    settings = settings_of(config) | {"scores": list(config.scores), "epoch": list(config.epoch)}
    identity: dict[str, Any] = {
        "fingerprint": splits.dataset.fingerprint,
        "labels": splits.full.label_digest(),
        "augment": splits.config.augment,
        "score": settings,
    }
    if IRREDUCIBLE_LOSS in config.columns:
        identity["irreducible"] = (
            {**settings_of(irreducible), "data_seed": splits.config.data_seed}
            if table is None
            else table.provenance.get("config_hash")
        )
    return identity


def _found(path: Path, identity: Mapping[str, Any]) -> ScoreTable:
    found = ScoreTable.read(path)
    there = found.provenance.get("config")
    if there != identity:
        raise TableError(
            f"score table {path} was made with other settings "
            f"({first_difference(there, identity)}); choose another --out, or delete it "
            f"(its replicas in {path}.run are used again)"
        )
    return found


def _joined(table: Table, splits: Splits) -> Any:
    remedy = (
        "leave --irreducible out, and two models that score each other's half are trained, or give "
        "a table of the whole training set"
    )
    table.require(remedy, fingerprint=splits.dataset.fingerprint)
    values = table.column_for(IRREDUCIBLE_LOSS, splits.full.ids_N, remedy)
    table.require(remedy, label_digest=splits.full.label_digest())
    return values.numpy()


def _in_order(columns: dict[str, Any], config: ScoreConfig) -> dict[str, Any]:
    """The label first, then the scores as they were asked for, each with what belongs to it."""
    wanted = [LABEL, *config.columns]

    def place(name: str) -> tuple[int, bool, str]:
        owners = [c for c in wanted if name == c or name.startswith(f"{c}_")]
        # The longest, for grand_init is no relative of grand; the rest goes with forgetting.
        owner = max(owners, key=len) if owners else "forgetting"
        return wanted.index(owner), name != owner, name

    return {name: columns[name] for name in sorted(columns, key=place)}


def _meaning(name: str) -> dict[str, Any]:
    entry = score(name)
    return {"meaning": entry.meaning, "source": entry.source}


def _costs(replicas: Sequence[ScoreTable], table: Table | None) -> Ledger:
    ledger = Ledger.from_json({} if table is None else table.provenance.get("ledger", {}))
    for replica in replicas:
        ledger = ledger.merged(Ledger.from_json(replica.provenance["ledger"]))
    return ledger
