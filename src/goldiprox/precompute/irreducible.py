"""Irreducible losses: train a small model on the holdout set, score the training set once.

Nothing here is special: ordinary training, the checkpoint with the lowest held-out loss, one
scoring pass, one table (Mindermann et al. 2022, section 3 and appendix B).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from goldiprox.batch import Batch, default_logits, to_device
from goldiprox.config import IrreducibleConfig, config_hash
from goldiprox.data.splits import Examples, Splits
from goldiprox.evidence.forward import ScoringPass, device_of
from goldiprox.models.vision import Factory
from goldiprox.records.ledger import Clock, Ledger
from goldiprox.records.runs import RunFolder, versions
from goldiprox.records.tables import IRREDUCIBLE_LOSS, ScoreTable
from goldiprox.training.evaluate import evaluate
from goldiprox.training.feed import Feeder
from goldiprox.training.loop import CheckpointEvery, Report, Task, Trained, train
from goldiprox.training.optimization import resolve_device

__all__ = [
    "irreducible_cost",
    "irreducible_losses",
    "irreducible_settings",
    "irreducible_table",
    "require_fitting",
]

REMEDY = "make it for this data with: goldiprox irreducible {name} --out il.parquet"


@dataclass(frozen=True, kw_only=True)
class _Scored:
    table: ScoreTable
    ledger: Ledger


def irreducible_settings(
    splits: Splits, config: IrreducibleConfig, target_model: str
) -> dict[str, Any]:
    """Everything that decides what a table holds, as its provenance records it under ``config``."""
    name = config.resolved_model(target_model, splits.train.store.example_shape)
    data = asdict(splits.config)
    del data["data_dir"]  # where the files lie does not change what they are
    return {"data": data, "irreducible": asdict(replace(config, model=name))}


def irreducible_table(
    splits: Splits,
    config: IrreducibleConfig,
    *,
    target_model: str = "mlp",
    folder: RunFolder | None = None,
    factory: Factory | None = None,
    checkpoint: CheckpointEvery | None = None,
    report: Report | None = None,
) -> ScoreTable:
    """Train the irreducible-loss model on the holdout set and score every training example.

    Args:
        splits: the data; the checkpoint is chosen on ``splits.validation``, never on the test set.
        config: settings.
        target_model: the model that will be trained with the table; decides what ``auto`` means.
        folder: where the model's own run is kept, so that it can be resumed; None keeps nothing.
        factory: the model's factory, if not looked up by name.
        checkpoint: how often to save an unfinished run.
        report: told of progress.

    Returns:
        A table with the column ``irreducible_loss`` (nats, evaluation mode, un-augmented, float32)
        for every id of ``splits.train``, and its provenance, costs included.
    """
    run = irreducible_settings(splits, config, target_model)
    name = run["irreducible"]["model"]
    settings = config.training(name, len(splits.holdout))
    trained = train(
        settings,
        Task(
            train=splits.holdout,
            evaluation=splits.validation,
            preprocess=splits.preprocess,
            num_classes=splits.num_classes,
        ),
        folder=folder,
        manifest={"config": run, "config_hash": config_hash(run), "data": splits.describe()},
        factory=factory,
        keep_best=True,
        checkpoint=checkpoint,
        report=report,
    )
    scored = _score(trained, splits.train, splits, settings.device)
    best = min(trained.evaluations, key=lambda e: e.loss)
    provenance = {
        "kind": "irreducible-loss",
        "dataset": splits.dataset.name,
        "fingerprint": splits.dataset.fingerprint,
        "label_digest": splits.train.label_digest(),
        "config": run,
        "config_hash": config_hash(run),
        "model": name,
        "holdout": {"examples": len(splits.holdout), "validation": len(splits.validation)},
        "best": {"epoch": best.epoch, "loss": best.loss, "accuracy": best.accuracy},
        "epochs_trained": trained.evaluations[-1].epoch,
        "training_steps": trained.steps,
        "ledger": scored.ledger.to_json(),
        "versions": versions(),
    }
    return replace(scored.table, provenance=provenance)


def irreducible_losses(
    model: nn.Module,
    batches: Iterable[Batch],
    *,
    logits: Callable[[nn.Module, Batch], Tensor] = default_logits,
    per_example_loss: Callable[[nn.Module, Batch], Tensor] | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> ScoreTable:
    """Score examples with a model of one's own that was trained on holdout data.

    Args:
        model: in evaluation mode during the pass; left as it was.
        batches: a loader over ``goldiprox.with_ids(data)``; moved to the model's device.
        logits: how to get logits_BC, where the default does not fit.
        per_example_loss: how to get loss_B, for a loss that is not cross-entropy.
        provenance: recorded with the table when it is written.

    Returns:
        A table with the column ``irreducible_loss``, in nats for cross-entropy.

    Raises:
        TableError: if an id comes twice.
    """
    scoring = ScoringPass(
        model, batchnorm="running", logits=logits, per_example_loss=per_example_loss
    )
    ids: list[Tensor] = []
    losses: list[Tensor] = []
    for batch in batches:
        evidence = scoring(to_device(batch, device_of(model)), {"loss_B"})
        ids.append(evidence.ids_B.cpu())
        losses.append(evidence.need("loss_B").cpu())
    return ScoreTable(
        ids_N=torch.cat(ids).numpy() if ids else np.empty(0, dtype=np.int64),
        columns={
            IRREDUCIBLE_LOSS: torch.cat(losses).numpy() if ids else np.empty(0, dtype=np.float32)
        },
        provenance={"kind": "irreducible-loss", **(provenance or {})},
    )


def irreducible_cost(table: ScoreTable) -> Ledger:
    """What making a table cost, by the two irreducible phases."""
    ledger: dict[str, Any] = table.provenance.get("ledger", {})
    return Ledger.from_json(ledger)


def require_fitting(table: ScoreTable, splits: Splits) -> None:
    """Refuse a table made for other data or labels, or lacking ids, before anything is trained.

    Raises:
        TableError: naming what differs and how to make a fitting table.
    """
    remedy = REMEDY.format(name=splits.dataset.name)
    table.require(remedy, fingerprint=splits.dataset.fingerprint)
    # Ids before labels: another split or duplication shows as missing ids, which says more.
    table.column_for(IRREDUCIBLE_LOSS, splits.train.ids_N, remedy)
    table.require(remedy, label_digest=splits.train.label_digest())


def _score(trained: Trained, examples: Examples, splits: Splits, device_name: str) -> _Scored:
    """One pass in evaluation mode, un-augmented, in float32."""
    device = resolve_device(device_name)
    feeder = Feeder.of(trained.model, splits.preprocess, device)
    ledger = Ledger()
    # All that training cost, its validation included: without that there is no best checkpoint.
    spent = trained.ledger.total(("loading", "scoring", "training", "evaluation"))
    ledger.add("irreducible-training", replace(spent, steps=trained.steps))
    ledger.phases["irreducible-training"].examples = trained.ledger.phases["training"].examples
    clock = Clock(device, ledger)
    evaluation = trained.ledger.phases["evaluation"]
    forward_flops = evaluation.flops / max(1, evaluation.examples)
    with clock("irreducible-scoring", examples=len(examples), flops=forward_flops * len(examples)):
        found = evaluate(trained.model, examples, feeder)
    clock.settle()
    ledger.peak_memory_bytes = max(ledger.peak_memory_bytes, trained.ledger.peak_memory_bytes)
    return _Scored(
        table=ScoreTable(
            ids_N=examples.ids_N.numpy(),
            columns={IRREDUCIBLE_LOSS: found.loss_N.numpy()},
            provenance={},
        ),
        ledger=ledger,
    )
