"""Score tables over replicas: models that differ in their seed alone, each watched as it trains.

One plain training of a replica (the pool is the batch, nothing is chosen) serves all scores. Their
mean over the replicas is what Paul et al. 2021 rank by; their spread is kept beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from goldiprox.config import Schedule, TrainConfig, config_hash, settings_of
from goldiprox.data.splits import Examples, Splits
from goldiprox.evidence.flops import count_flops, count_pass
from goldiprox.evidence.forward import ScoringPass
from goldiprox.evidence.mode import Precision
from goldiprox.models.vision import Factory
from goldiprox.objectives import objective as objective_named
from goldiprox.precompute.diet_scores import (
    SCORES,
    Forgetting,
    MarginArea,
    Score,
    input_norm,
    missing_margin,
    score,
)
from goldiprox.records.circumstances import versions
from goldiprox.records.runs import RunFolder
from goldiprox.records.steplog import StepRecord
from goldiprox.records.tables import ScoreTable
from goldiprox.schema import ConfigError, TableError
from goldiprox.training.feed import Feeder
from goldiprox.training.hooks import Hook
from goldiprox.training.loop import train
from goldiprox.training.run import Run
from goldiprox.training.task import CheckpointEvery, Report, Task

__all__ = [
    "LABEL",
    "SCORING_BATCH",
    "ScoreConfig",
    "ScoreHook",
    "average",
    "epoch_column",
    "input_norms",
    "replica_identity",
    "score_replica",
    "snapshot",
]

LABEL = "label"
"""Column with each example's class as trained on, noise included."""

FIRST_LEARNT, NEVER_LEARNT = "first_learnt", "never_learnt"

SCORING_BATCH = 512
GRADIENT_BATCH = 128
"""Examples scored at once: a backward pass keeps every layer's output, a forward pass does not."""

SETTLE_EVERY = 64
"""Steps between transfers of what was watched from the device."""

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class ScoreConfig:
    """Settings of a score table."""

    model: str = "mlp"
    """Model of the replicas; goldiprox train knows the same ones."""

    tokenizer: str | None = None
    """Tokenizer of texts, by hub name or local folder: the model's own unless given."""

    max_length: int = 128
    """Texts are cut to this many tokens."""

    objective: str = "classification"
    """What they are trained for, as goldiprox train --objective has it. Other objectives than
    classification have the scores grand, grand-init, grand-last-layer, loss and input-norm."""

    scores: tuple[str, ...] = (
        *("el2n", "grand", "forgetting", "margin", "aum", "loss", "entropy", "input-norm"),
    )
    """Scores, separated by commas: el2n, grand (exact, all parameters), grand-init (the same before
    training), grand-last-layer, forgetting, margin, aum, loss, entropy, input-norm,
    irreducible-loss. In all of them higher is harder."""

    replicas: int = 10
    """Models to train; replica n has the seed --seed + n."""

    epoch: tuple[int, ...] = (10,)
    """Passes over the data after which the models are looked at. Of several, separated by commas,
    the latest gives the plain columns and the others columns such as el2n_epoch_3; 0 is before
    training."""

    epochs: int | None = None
    """Passes over the data that are trained; unless given as many as --epoch needs. Forgetting and
    aum watch all of them, so they want more than the others."""

    batch: int = 128
    """Examples trained on per step."""

    lr: float = 1e-3
    """Learning rate of AdamW."""

    weight_decay: float = 0.01
    """Weight decay of AdamW."""

    schedule: Schedule = "constant"
    """constant, cosine or one-cycle, over all --epochs."""

    precision: Precision = "float32"
    """Arithmetic of training; bf16 is autocast. Scores are computed in float32 always."""

    device: str = "auto"
    """cpu, cuda, cuda:N, or auto: cuda where there is one."""

    seed: int = 0
    """Seed of the first replica."""

    def __post_init__(self) -> None:
        for name, values in (("--scores", self.scores), ("--epoch", self.epoch)):
            if not values:
                raise ConfigError(f"{name} is empty; name at least one")
            if len(set(values)) < len(values):
                raise ConfigError(f"{name} names something twice: {','.join(map(str, values))}")
        has_classes = objective_named(self.objective).has_classes
        for name in self.scores:
            if score(name).of_classes and not has_classes:
                known = ",".join(n for n, s in SCORES.items() if not s.of_classes)
                raise ConfigError(
                    f"the score {name} is of classifiers, not of objective {self.objective}; "
                    f"choose others: --scores {known}"
                )
        for name in ("replicas", "batch"):
            if getattr(self, name) < 1:
                raise ConfigError(f"--{name} is {getattr(self, name)}; it must be at least 1")
        if min(self.epoch) < 0:
            raise ConfigError(f"--epoch {min(self.epoch)} is before the training; 0 is its start")
        if self.epochs is not None and self.epochs < 1:
            raise ConfigError(f"--epochs is {self.epochs}; it must be at least 1")
        if self.epochs is not None and self.epochs < max(self.epoch):
            raise ConfigError(
                f"--epoch {max(self.epoch)} is never reached: --epochs is {self.epochs}; raise it"
            )
        self.training(0)

    @property
    def trained_epochs(self) -> int:
        """Passes over the data that are trained; at least one."""
        return self.epochs or max(1, *self.epoch)

    @property
    def entries(self) -> list[Score]:
        """The scores that training a replica gives."""
        return [entry for entry in map(score, self.scores) if entry.kind in TRAINED_KINDS]

    @property
    def columns(self) -> list[str]:
        """Columns of the scores, in the order in which they were asked for."""
        return [score(name).column for name in self.scores]

    def training(self, replica: int) -> TrainConfig:
        """A replica's training run: every example once an epoch, shuffled, nothing chosen."""
        return TrainConfig(
            model=self.model,
            tokenizer=self.tokenizer,
            max_length=self.max_length,
            objective=self.objective,
            method="uniform",
            batch=self.batch,
            pool=self.batch,
            epochs=self.trained_epochs,
            lr=self.lr,
            weight_decay=self.weight_decay,
            schedule=self.schedule,
            precision=self.precision,
            device=self.device,
            seed=self.seed + replica,
            evaluate_every=10**9,  # at the end, for the record; nothing is chosen by it
        )


TRAINED_KINDS = ("snapshot", "initial", "watched")


def epoch_column(column: str, epoch: int, last: int) -> str:
    """Name of a score's column: plain for the last epoch looked at, else with the epoch."""
    return column if epoch == last else f"{column}_epoch_{epoch}"


def snapshot(
    scoring: ScoringPass, feeder: Feeder, examples: Examples, entries: Sequence[Score]
) -> dict[str, Tensor]:
    """Look at a model once: one pass over the examples for all scores together.

    Args:
        scoring: of the model.
        feeder: makes the batches, un-augmented.
        examples: to score.
        entries: scores of the kinds ``snapshot`` and ``initial``.

    Returns:
        float32 scores_N by column, on the CPU; backward passes only where GraNd is asked for.
    """
    needs: set[str] = set().union(*(entry.needs for entry in entries))
    size = GRADIENT_BATCH if "grad_norm_B" in needs else SCORING_BATCH
    found: dict[str, list[Tensor]] = {entry.column: [] for entry in entries}
    batches = (feeder(examples, some) for some in torch.arange(len(examples)).split(size))
    for evidence in scoring.over(batches, needs):
        for entry in entries:
            assert entry.function is not None
            found[entry.column].append(entry.function(evidence))
    # Brought over together: no waiting for the device between batches.
    return {column: torch.cat(parts).float().cpu() for column, parts in found.items()}


class ScoreHook(Hook):
    """Watches a training run and scores all its examples on the way.

    Args:
        config: which scores, and after which epochs.
    """

    def __init__(self, config: ScoreConfig) -> None:
        self._config = config
        self._columns: dict[str, Tensor] = {}
        names = {entry.name for entry in config.entries}
        self._watches_forgetting = "forgetting" in names
        self._watches_margin = "aum" in names
        self._forgetting = Forgetting(0)
        self._area = MarginArea(0)
        self._pending: list[tuple[int, Tensor, Tensor, Tensor]] = []
        self._restored = False

    def started(self, run: Run) -> None:
        """Score the initial weights where that is asked for."""
        self._examples = run.task.train
        if self._restored:
            return
        self._forgetting = Forgetting(len(self._examples))
        self._area = MarginArea(len(self._examples))
        initial = [entry for entry in self._config.entries if entry.kind == "initial"]
        if initial:
            self._columns |= self._look(run, initial)
        self._take_snapshot(run, 0)

    def stepped(self, run: Run, record: StepRecord) -> None:
        """Note who was in the mini-batch, and how the model did on it before the step."""
        if not (self._watches_forgetting or self._watches_margin):
            return
        correct_k = record.correct_k
        assert run.stepped is not None
        assert correct_k is not None  # scores are of classifiers
        margin_k = missing_margin(run.stepped.output.float(), run.stepped.batch[2])
        self._pending.append((record.epoch + 1, record.selection.ids_k, correct_k, margin_k))
        if len(self._pending) >= SETTLE_EVERY:
            self._settle()

    def epoch_ended(self, run: Run, epoch: int) -> None:
        """Score all examples where this epoch is to be looked at."""
        self._take_snapshot(run, epoch)

    def columns(self) -> dict[str, Floats]:
        """All scores of the finished run by column, float32 of shape [N]."""
        self._settle()
        found = dict(self._columns)
        if self._watches_forgetting:
            found["forgetting"] = self._forgetting.scores_N()
            never_N = self._forgetting.never_learnt_N
            after = self._config.trained_epochs + 1
            first_N = torch.where(never_N, after, self._forgetting.first_learnt_N)
            found |= {FIRST_LEARNT: first_N.float(), NEVER_LEARNT: never_N.float()}
        if self._watches_margin:
            found["aum"] = self._area.scores_N()
        order = [entry.column for entry in self._config.entries]
        return {
            column: found[column].numpy()
            for column in sorted(found, key=lambda c: order.index(c) if c in order else len(order))
        }

    def state_dict(self) -> dict[str, Any]:
        """Scores so far."""
        self._settle()
        return {
            "columns": self._columns,
            "forgetting": self._forgetting.state_dict(),
            "area": self._area.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self._columns = dict(state["columns"])
        self._forgetting.load_state_dict(state["forgetting"])
        self._area.load_state_dict(state["area"])
        self._restored = True

    def _settle(self) -> None:
        """Bring what was noted to the CPU, in one transfer."""
        pending, self._pending = self._pending, []
        if not pending:
            return
        lengths = [int(ids_k.numel()) for _, ids_k, _, _ in pending]
        ids = torch.cat([ids_k for _, ids_k, _, _ in pending]).cpu().split(lengths)
        correct = torch.cat([correct_k for _, _, correct_k, _ in pending]).cpu().split(lengths)
        margin = torch.cat([margin_k for _, _, _, margin_k in pending]).cpu().split(lengths)
        for (epoch, *_), ids_k, correct_k, margin_k in zip(
            pending, ids, correct, margin, strict=True
        ):
            positions_k = self._examples.positions_of(ids_k)
            if self._watches_forgetting:
                self._forgetting.visit(positions_k, correct_k, epoch)
            if self._watches_margin:
                self._area.visit(positions_k, margin_k)

    def _take_snapshot(self, run: Run, epoch: int) -> None:
        wanted = self._config.epoch
        entries = [entry for entry in self._config.entries if entry.kind == "snapshot"]
        if epoch in wanted and entries:
            found = self._look(run, entries)
            self._columns |= {
                epoch_column(column, epoch, max(wanted)): values for column, values in found.items()
            }

    def _look(self, run: Run, entries: list[Score]) -> dict[str, Tensor]:
        """One pass in evaluation mode, un-augmented, charged as scoring."""
        scoring = ScoringPass(run.model, batchnorm="running", objective=run.objective)
        count = len(self._examples)
        few = run.feeder(self._examples, run.feeder.typical(self._examples, 8))
        if any("grad_norm_B" in entry.needs for entry in entries):
            norms = count_pass(lambda pool: scoring(pool, {"grad_norm_B"}), few)
            flops, uncounted = norms.of(count, GRADIENT_BATCH), norms.uncounted
        else:
            plain = count_flops(run.model, few, objective=run.objective)
            flops, uncounted = plain.forward * count, plain.uncounted
        run.ledger.leave_out(uncounted)
        with run.clock("scoring", examples=count, flops=flops):
            return snapshot(scoring, run.feeder, self._examples, entries)


def score_replica(
    splits: Splits,
    config: ScoreConfig,
    replica: int,
    folder: RunFolder | None = None,
    *,
    factory: Factory | None = None,
    checkpoint: CheckpointEvery | None = None,
    report: Report | None = None,
) -> ScoreTable:
    """Train one replica on everything that is not test, and score everything it trains on.

    Args:
        splits: the data; how it is divided into training and holdout does not matter.
        config: settings.
        replica: its number.
        folder: where its run is kept, so that it can be resumed; None keeps nothing.
        factory: the model's factory, if not looked up by name.
        checkpoint: how often the unfinished run is saved.
        report: told of progress.

    Returns:
        One column a score, with the replica's seed, accuracy and costs in the provenance.

    Raises:
        NonFinite: if the training diverges.
        CheckpointError: if the folder holds another run.
    """
    identity = replica_identity(splits, config, replica)
    hook = ScoreHook(config)
    trained = train(
        config.training(replica),
        Task(
            train=splits.full,
            evaluation=splits.test,
            preprocess=splits.preprocess,
            num_classes=splits.num_classes,
        ),
        folder=folder,
        manifest={
            "config": identity,
            "config_hash": config_hash(identity),
            "data": splits.describe(),
        },
        factory=factory,
        hooks=(hook,),
        checkpoint=checkpoint,
        report=report,
    )
    result = {} if folder is None else folder.result()
    return ScoreTable(
        ids_N=splits.full.ids_N.numpy(),
        columns=hook.columns(),
        provenance={
            "kind": "replica",
            "fingerprint": splits.dataset.fingerprint,
            "label_digest": splits.full.label_digest(),
            "config": identity,
            "config_hash": config_hash(identity),
            "replica": {
                "seed": config.seed + replica,
                "accuracy": trained.evaluations[-1].accuracy,
                "weights_digest": result.get("weights_digest"),
            },
            "ledger": trained.ledger.to_json(),
            "versions": versions(),
        },
    )


def replica_identity(splits: Splits, config: ScoreConfig, replica: int) -> dict[str, Any]:
    """Everything that decides a replica's scores; how many there are of it does not."""
    settings = settings_of(config)
    del settings["replicas"]
    settings["scores"] = [entry.name for entry in config.entries]
    settings["epoch"] = list(config.epoch)
    settings["seed"] = config.seed + replica
    return {
        "fingerprint": splits.dataset.fingerprint,
        "labels": splits.full.label_digest(),
        "augment": splits.config.augment,
        "score": settings,
    }


def average(tables: Sequence[ScoreTable]) -> dict[str, Floats]:
    """Means over replicas, and standard deviations (``<column>_std``) where there are several.

    Args:
        tables: of the same examples in the same order, with the same columns.

    Returns:
        float32 arrays of shape [N] by column.

    Raises:
        TableError: if the tables do not match, or a score is not finite.
    """
    first = tables[0]
    for table in tables[1:]:
        if list(table.columns) != list(first.columns) or not np.array_equal(
            table.ids_N, first.ids_N
        ):
            raise TableError(
                f"replica tables {first.path} and {table.path} do not match; delete both"
            )
    columns: dict[str, Floats] = {}
    for name in first.columns:
        values_KN = np.stack([table.columns[name] for table in tables]).astype(np.float64)
        if not np.isfinite(values_KN).all():
            raise TableError(
                f"{name} is NaN or infinite in a replica; lower the learning rate, or leave it out"
            )
        columns[name] = values_KN.mean(0).astype(np.float32)
        if len(tables) > 1 and name != NEVER_LEARNT:
            columns[f"{name}_std"] = values_KN.std(0, ddof=1).astype(np.float32)
    return columns


def input_norms(splits: Splits) -> Floats:
    """Input norms of everything that is not test, un-augmented, float32 of shape [N].

    Raises:
        ConfigError: if the inputs are no vectors of numbers.
    """
    if not splits.full.store.example_shape:
        raise ConfigError(
            f"{splits.dataset.name} holds texts, and input-norm is the length of a vector of "
            "numbers; leave it out: --scores el2n,grand,forgetting"
        )
    feeder = Feeder(preprocess=splits.preprocess, device=torch.device("cpu"), channels_last=False)
    parts = [
        input_norm(feeder(splits.full, positions_B)[1])
        for positions_B in torch.arange(len(splits.full)).split(SCORING_BATCH)
    ]
    found: Floats = torch.cat(parts).numpy()
    return found
