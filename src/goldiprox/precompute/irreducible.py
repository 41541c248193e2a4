"""Irreducible losses: train a small model on the holdout set, score the training set once.

Nothing here is special: ordinary training, the checkpoint with the lowest held-out loss, one
scoring pass, one table (Mindermann et al. 2022, section 3 and appendix B). Where there are several
models, each scores only examples that it was not trained on, and the table is put together by id.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from goldiprox.config import IrreducibleConfig, TrainConfig, config_hash, settings_of
from goldiprox.data.advice import command_for
from goldiprox.data.splits import Examples, Splits
from goldiprox.models.vision import Factory
from goldiprox.objectives import CLASSIFICATION, Objective
from goldiprox.objectives import objective as objective_named
from goldiprox.records.circumstances import versions
from goldiprox.records.evaluations import Evaluation
from goldiprox.records.ledger import Clock, Ledger
from goldiprox.records.runs import RunFolder
from goldiprox.records.tables import IRREDUCIBLE_LOSS, ScoreTable, Table
from goldiprox.records.weights import weights_bytes
from goldiprox.training.build import build_for
from goldiprox.training.evaluate import evaluate
from goldiprox.training.feed import Feeder
from goldiprox.training.loop import train
from goldiprox.training.task import CheckpointEvery, Report, Task, Trained

__all__ = [
    "Part",
    "average_loss",
    "irreducible_cost",
    "irreducible_settings",
    "irreducible_table",
    "model_folder",
    "parts_of",
    "require_fitting",
    "score_examples",
    "table_facts",
    "table_remedy",
    "trained_names",
]

Losses = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Part:
    """What one irreducible-loss model is trained on, and what it then scores.

    Attributes:
        name: empty where there is only one part.
        task: the examples trained on, and those on which the best checkpoint is chosen.
        scored: whose losses the table takes from this model.
    """

    name: str
    task: Task
    scored: Examples


def parts_of(splits: Splits) -> list[Part]:
    """Who is trained on what and scores whom: a part for each of the splits' folds."""
    folds = splits.folds
    return [
        Part(
            name="" if len(folds) == 1 else f"half-{number}",
            task=Task(
                train=fold.fit,
                evaluation=fold.validation,
                preprocess=splits.preprocess,
                num_classes=splits.num_classes,
            ),
            scored=fold.scored,
        )
        for number, fold in enumerate(folds)
    ]


def irreducible_settings(
    splits: Splits, config: IrreducibleConfig, target_model: str
) -> dict[str, Any]:
    """Everything that decides what a table holds, as its provenance records it under ``config``."""
    name = config.resolved_model(target_model, splits.train.store.example_shape)
    return {"data": splits.identity(), "irreducible": settings_of(replace(config, model=name))}


def irreducible_table(
    splits: Splits,
    config: IrreducibleConfig,
    *,
    target_model: str = "mlp",
    folder: RunFolder | None = None,
    factory: Factory | None = None,
    checkpoint: CheckpointEvery | None = None,
    report: Callable[[str], Report] | None = None,
) -> ScoreTable:
    """Train the irreducible-loss model or models and score every training example.

    Args:
        splits: the data; checkpoints are chosen on held-out examples, never on the test set.
        config: settings.
        target_model: the model that will be trained with the table; decides what ``auto`` means.
        folder: where the models' own runs are kept, so that they can be resumed; None keeps
            nothing. See :func:`model_folder`.
        factory: the model's factory, if not looked up by name.
        checkpoint: how often to save an unfinished run.
        report: called with the name of each model, ``""`` where there is only one; what it
            returns is told of that model's progress.

    Returns:
        A table with the column ``irreducible_loss`` (nats, evaluation mode, un-augmented, float32)
        for every id of ``splits.train``, and its provenance, costs included. With several members
        it is the loss of their mean prediction, see :func:`average_loss`.
    """
    run = irreducible_settings(splits, config, target_model)
    name = run["irreducible"]["model"]
    objective = objective_named(config.objective)
    ledger = Ledger()
    models: list[dict[str, Any]] = []
    scored: list[tuple[Tensor, Losses]] = []
    for part in parts_of(splits):
        losses_KN: list[Losses] = []
        for member in range(config.members):
            title = _title(part.name, member, config.members)
            settings = config.training(name, len(part.task.train), member)
            body = {**run, "trained": title} if title else run
            manifest = {
                "config": body,
                "config_hash": config_hash(body),
                "data": splits.describe(),
            }
            home = None if folder is None else model_folder(folder, title)
            if home is not None and home.finished:
                trained = _trained_before(home, manifest, settings, part.task, factory, checkpoint)
            else:
                trained = train(
                    settings,
                    part.task,
                    folder=home,
                    manifest=manifest,
                    factory=factory,
                    keep_best=True,
                    checkpoint=checkpoint,
                    report=None if report is None else report(title),
                )
            _charge_training(ledger, trained)
            losses_KN.append(_score(trained, part.scored, ledger, objective))
            models.append(_describe(title, part, trained))
        joint_N = average_loss(losses_KN, by_probability=objective.has_classes)
        scored.append((part.scored.ids_N, joint_N))
    provenance = {
        **table_facts(splits),
        "config": run,
        "config_hash": config_hash(run),
        "model": name,
        "objective": objective.name,
        **_over_all(models),
        "models": models,
        "ledger": ledger.to_json(),
    }
    return ScoreTable(
        ids_N=torch.cat([ids_N for ids_N, _ in scored]).numpy(),
        columns={IRREDUCIBLE_LOSS: np.concatenate([losses_N for _, losses_N in scored])},
        provenance=provenance,
    )


def table_facts(splits: Splits) -> dict[str, Any]:
    """What every irreducible-loss table says of the data and labels it belongs to."""
    return {
        "kind": "irreducible-loss",
        "dataset": splits.dataset.name,
        "fingerprint": splits.dataset.fingerprint,
        "label_digest": splits.train.label_digest(),
        "versions": versions(),
    }


def average_loss(losses_KN: Sequence[Losses], *, by_probability: bool = True) -> Losses:
    """The loss of several models together: of their mean probability, not the mean of their losses.

    The irreducible loss stands for -log p(y | x, holdout set), where the posterior predictive
    averages *probabilities* over models (Mindermann et al. 2022, equation 7; their gold standard
    is a deep ensemble). The mean of the losses is never lower (Jensen), and a single member that is
    confidently wrong would decide it.

    Args:
        losses_KN: each model's cross-entropies of the same N examples, nats.
        by_probability: False for a loss that is not minus the logarithm of a class's probability,
            such as a squared error: its plain mean is taken.

    Returns:
        -log of the mean over models of exp(-loss), nats, float32; of one model, its own losses.
    """
    if len(losses_KN) == 1:
        return losses_KN[0]
    stacked_KN = np.stack(losses_KN).astype(np.float64)
    if not by_probability:
        return np.asarray(stacked_KN.mean(0), dtype=np.float32)
    joint_N = math.log(len(losses_KN)) - np.logaddexp.reduce(-stacked_KN, axis=0)
    return np.asarray(joint_N, dtype=np.float32)


def trained_names(splits: Splits, config: IrreducibleConfig) -> list[tuple[str, Part]]:
    """Every model that :func:`irreducible_table` trains: its name and its part of the data."""
    return [
        (_title(part.name, member, config.members), part)
        for part in parts_of(splits)
        for member in range(config.members)
    ]


def model_folder(folder: RunFolder, name: str) -> RunFolder:
    """The run folder of one of the models: the folder itself where there is only one."""
    return RunFolder(folder.path / name)


def _title(part: str, member: int, members: int) -> str:
    return "-".join(filter(None, [part, f"member-{member}" if members > 1 else ""]))


def irreducible_cost(table: Table) -> Ledger:
    """What making a table cost, by the two irreducible phases."""
    ledger: dict[str, Any] = table.provenance.get("ledger", {})
    return Ledger.from_json(ledger)


def table_remedy(splits: Splits) -> str:
    """How to make an irreducible-loss table that fits, for messages."""
    command = command_for("irreducible", splits, "--out il.parquet")
    return f"make it for this data with: {command}"


def require_fitting(table: Table, splits: Splits) -> None:
    """Refuse a table made for other data or labels, or lacking ids, before anything is trained.

    Raises:
        TableError: naming what differs and how to make a fitting table.
    """
    remedy = table_remedy(splits)
    table.require(remedy, fingerprint=splits.dataset.fingerprint)
    # Ids before labels: another split or duplication shows as missing ids, which says more.
    table.column_for(IRREDUCIBLE_LOSS, splits.train.ids_N, remedy)
    if splits.whole is not None:
        whole = splits.whole.train.label_digest()
        if table.provenance.get("label_digest") == whole:
            return  # made for all the data of which this is a part
    table.require(remedy, label_digest=splits.train.label_digest())


def score_examples(
    model: nn.Module,
    examples: Examples,
    feeder: Feeder,
    ledger: Ledger,
    *,
    flops: float,
    objective: Objective = CLASSIFICATION,
) -> Losses:
    """Every example's loss: one pass in evaluation mode, un-augmented, in float32.

    Args:
        model: on the feeder's device.
        examples: whose losses.
        feeder: makes the batches.
        ledger: charged with the pass, as ``irreducible-scoring``.
        flops: what one example's forward pass costs.
        objective: what the model was trained for.

    Returns:
        losses_N (of a classifier in nats), in the examples' order.
    """
    clock = Clock(feeder.device, ledger)
    count = len(examples)
    with clock("irreducible-scoring", examples=count, flops=flops * count):
        found = evaluate(model, examples, feeder, objective=objective)
    clock.settle()
    losses_N: Losses = found.loss_N.numpy()
    return losses_N


def _score(trained: Trained, examples: Examples, ledger: Ledger, objective: Objective) -> Losses:
    evaluation = trained.ledger.phases["evaluation"]
    flops = evaluation.flops / max(1, evaluation.examples)
    return score_examples(
        trained.model, examples, trained.feeder, ledger, flops=flops, objective=objective
    )


def _trained_before(
    folder: RunFolder,
    manifest: dict[str, Any],
    config: TrainConfig,
    task: Task,
    factory: Factory | None,
    checkpoint: CheckpointEvery | None,
) -> Trained:
    """A model that an interrupted job had finished, so that several need not start over."""
    folder.use_again(manifest, exact=checkpoint is not None and checkpoint.exact)
    model, feeder = build_for(config, task, factory)
    model.load_state_dict(folder.load_weights("model"))
    return Trained(
        model=model,
        feeder=feeder,
        evaluations=[Evaluation(**found) for found in folder.evaluations()],
        ledger=Ledger.from_json(folder.ledger()),
        steps=folder.result()["steps"],
    )


def _charge_training(ledger: Ledger, trained: Trained) -> None:
    """All that training cost, its validation included: without that there is no best checkpoint."""
    spent = trained.ledger.total(("loading", "scoring", "training", "evaluation"))
    examples = trained.ledger.phases["training"].examples
    ledger.add("irreducible-training", replace(spent, steps=trained.steps, examples=examples))
    ledger.peak_memory_bytes = max(ledger.peak_memory_bytes, trained.ledger.peak_memory_bytes)


def _describe(title: str, part: Part, trained: Trained) -> dict[str, Any]:
    """One model, for the provenance."""
    best = min(trained.evaluations, key=lambda e: e.loss)
    weights = weights_bytes(trained.model.state_dict())
    return {
        "name": title,
        "trained_on": len(part.task.train),
        "validated_on": len(part.task.evaluation),
        "scored": len(part.scored),
        "best": _known({"epoch": best.epoch, "loss": best.loss, "accuracy": best.accuracy}),
        "epochs_trained": trained.evaluations[-1].epoch,
        "evaluations": len(trained.evaluations),
        "training_steps": trained.steps,
        "weights_digest": hashlib.sha256(weights).hexdigest(),
    }


def _known(values: dict[str, float | None]) -> dict[str, float]:
    return {key: value for key, value in values.items() if value is not None}


def _over_all(models: list[dict[str, Any]]) -> dict[str, Any]:
    """The same facts of all the models together: sums of what was done, means of how good."""

    def mean(key: str) -> float:
        return sum(float(model["best"][key]) for model in models) / len(models)

    return {
        "holdout": {
            "examples": sum(model["trained_on"] for model in models),
            "validation": sum(model["validated_on"] for model in models),
        },
        "best": {key: mean(key) for key in models[0]["best"]},
        "epochs_trained": sum(model["epochs_trained"] for model in models) / len(models),
        "training_steps": sum(model["training_steps"] for model in models),
    }
