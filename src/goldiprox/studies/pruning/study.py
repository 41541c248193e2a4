"""The pruning study: which examples can go, which are wrong, and what the scores agree on."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from goldiprox.analysis.noise import cleanlab_suspicion
from goldiprox.config import IrreducibleConfig, TrainConfig, settings_of
from goldiprox.data.splits import Examples, Fold, Splits
from goldiprox.precompute.diet_scores import score
from goldiprox.records.circumstances import as_json, versions
from goldiprox.records.files import write_json
from goldiprox.records.runs import RunFolder
from goldiprox.records.studies import open_study
from goldiprox.records.tables import ScoreTable
from goldiprox.schema import ConfigError
from goldiprox.seeds import derive_seed, stream
from goldiprox.selection.pruning import PruneRule, prune
from goldiprox.selection.ranking import keyed_uniform
from goldiprox.studies.pruning.analysis import (
    FULL,
    RANDOM,
    SHORT,
    agreement,
    curves,
    noise_study,
    readings,
)
from goldiprox.studies.pruning.gallery import collect_extremes
from goldiprox.studies.pruning.page import write_diet_report
from goldiprox.studies.pruning.settings import DietConfig
from goldiprox.studies.runs import train_once
from goldiprox.training.task import Task
from goldiprox.workflows.arms import require_possible
from goldiprox.workflows.execution import SILENTLY, Execution
from goldiprox.workflows.score import held_out_probabilities, score_table

__all__ = ["diet"]


@dataclass(frozen=True, kw_only=True)
class _Run:
    """One fresh model: an arm of the study, a share, a window's offset if it is one, a seed."""

    arm: str
    share: float
    offset: float | None
    seed: int
    config: TrainConfig
    examples: Examples
    folder: RunFolder

    @property
    def title(self) -> str:
        """For the progress."""
        window = "" if self.offset is None else f" from {self.offset:.0%}"
        return f"{self.arm}, {self.share:.0%}{window}, seed {self.seed}"


def diet(
    splits: Splits,
    config: DietConfig,
    out: Path,
    *,
    irreducible: IrreducibleConfig | None = None,
    execution: Execution = SILENTLY,
) -> dict[str, Any]:
    """Study pruning on one data set; interrupted, the same call goes on where it stopped.

    Args:
        splits: the data; everything that is not test is scored, pruned and trained on.
        config: settings.
        out: output folder: ``scores.parquet``, ``runs/``, ``diet.json``, ``report.html``.
        irreducible: settings of the irreducible-loss models.
        execution: how it is done.

    Returns:
        What ``diet.json`` holds; see ``docs/formats.md``.

    Raises:
        ConfigError: before anything is trained, if settings do not fit together or the data.
        CheckpointError: if ``out`` holds another study.
    """
    irreducible = irreducible or IrreducibleConfig()
    if not splits.dataset.store.example_shape:
        raise ConfigError(
            f"goldiprox diet holds every score against the norm of the inputs, which the texts of "
            f"{splits.dataset.name} have not; use goldiprox score, goldiprox prune, and goldiprox "
            "compare with --subset"
        )
    require_possible(config.fresh(0, 1, 1), _task(splits, splits.full))
    settings = _settings(splits, config, irreducible)
    with open_study(out, settings, splits.describe(), command=execution.command):
        return _study(splits, config, irreducible, settings, out, execution)


def _study(
    splits: Splits,
    config: DietConfig,
    irreducible: IrreducibleConfig,
    settings: dict[str, Any],
    out: Path,
    execution: Execution,
) -> dict[str, Any]:
    """Make what is missing in a study's folder."""
    table = score_table(
        splits,
        config.scoring(),
        out / "scores.parquet",
        out / "scores",
        irreducible=irreducible,
        execution=execution,
    )
    before = None
    by = config.pruned_by[0]
    if bool(splits.full.corrupted_N.any()):
        before = score_table(
            _with_true_labels(splits),
            config.scoring((config.ordered_by[0],)),
            out / "scores-before-noise.parquet",
            out / "scores-before-noise",
            irreducible=irreducible,
            execution=execution,
        )
    runs = _plan(splits, config, table, out)
    for number, run in enumerate(runs, start=1):
        train_once(
            run.config,
            _task(splits, run.examples),
            run.folder,
            {
                "fingerprint": splits.dataset.fingerprint,
                "examples": run.examples.label_digest(),
                "augment": splits.config.augment,
            },
            execution=execution,
            title=f"[{number}/{len(runs)}] {run.title}",
            notes={
                "arm": run.arm,
                "share": run.share,
                "offset": run.offset,
                "trained_on": len(run.examples),
            },
        )
    trained = config.replicas if config.scoring().entries else 0
    replicas = [ScoreTable.read(out / "scores" / f"replica-{n}.parquet") for n in range(trained)]
    columns = [score(name).column for name in config.all_scores]
    corrupted_N = splits.full.corrupted_N.numpy()
    more: dict[str, npt.NDArray[Any]] = {RANDOM: _noise_of_random(splits)}
    if corrupted_N.any() and "irreducible-loss" in config.scores and irreducible.members == 1:
        probabilities_NC = held_out_probabilities(
            splits, irreducible, out / "scores" / "irreducible", target_model=config.model
        )
        suspicion_N = cleanlab_suspicion(probabilities_NC, splits.full.targets_N.numpy())
        if suspicion_N is not None:
            more["cleanlab"] = suspicion_N
    found: dict[str, Any] = {
        "dataset": splits.dataset.name,
        "settings": settings,
        "data": splits.describe(),
        "model": runs[0].folder.manifest()["model"],
        "versions": versions(),
        "examples": len(splits.full),
        "seeds": config.seeds,
        "replicas": {
            "count": config.replicas,
            "epoch": max(config.epoch),
            "accuracy": [r["accuracy"] for r in table.provenance["replicas"]],
            "ledger": table.provenance["ledger"],
        },
        "by": list(config.pruned_by),
        "window_share": config.window_share,
        "window_by": by,
        "notes": table.provenance["notes"],
        "curves": curves([(r.arm, r.share, r.offset, r.folder) for r in runs]),
        "agreement": agreement(table, replicas, columns, by),
        "noise": noise_study(
            table, replicas, corrupted_N, columns, by=by, before=before, more=more
        ),
    }
    found["readings"] = readings(found)
    write_json(out / "diet.json", found)
    collect_extremes(splits, table, by, out / "examples.parquet")
    write_diet_report(out, out)
    return found


def _settings(splits: Splits, config: DietConfig, irreducible: IrreducibleConfig) -> dict[str, Any]:
    """Everything that decides the outcome; where files lie does not."""
    settings: dict[str, Any] = as_json(
        {
            "data": splits.identity(),
            "fingerprint": splits.dataset.fingerprint,
            "diet": asdict(config),
            "irreducible": settings_of(irreducible),
        }
    )
    return settings


def _with_true_labels(splits: Splits) -> Splits:
    """The same examples with the labels that were published."""

    def true(examples: Examples) -> Examples:
        return replace(examples, targets_N=examples.true_targets_N)

    whole = None if splits.whole is None else _with_true_labels(splits.whole)
    return replace(
        splits,
        train=true(splits.train),
        holdout=true(splits.holdout),
        validation=true(splits.validation),
        folds=tuple(
            Fold(fit=true(fold.fit), validation=true(fold.validation), scored=true(fold.scored))
            for fold in splits.folds
        ),
        whole=whole,
    )


def _task(splits: Splits, examples: Examples) -> Task:
    return Task(
        train=examples,
        evaluation=splits.test,
        preprocess=splits.preprocess,
        num_classes=splits.num_classes,
    )


def _plan(splits: Splits, config: DietConfig, table: ScoreTable, out: Path) -> list[_Run]:
    """All runs, seeds outermost, so that what slows the machine down slows every arm."""
    data = splits.full
    runs = []
    for seed in range(config.seeds):
        runs.append(_run(config, out, FULL, 1.0, None, seed, data, len(data)))
        for share in config.shares:
            for arm in (*config.pruned_by, RANDOM):
                kept = _kept(table, data, arm, PruneRule(keep=share), seed)
                runs.append(_run(config, out, arm, share, None, seed, kept, len(data)))
            if config.length == "kept":
                runs.append(_run(config, out, SHORT, share, None, seed, data, len(data)))
        for offset in config.offsets:
            by = config.pruned_by[0]
            rule = PruneRule(rule="window", keep=config.window_share, offset=offset)
            kept = _kept(table, data, by, rule, seed)
            runs.append(_run(config, out, by, config.window_share, offset, seed, kept, len(data)))
    return runs


def _kept(table: ScoreTable, data: Examples, arm: str, rule: PruneRule, seed: int) -> Examples:
    if arm == RANDOM:
        rule = replace(rule, rule="random", seed=derive_seed(seed, "random part"))
        scores_N = torch.zeros(len(data))
    else:
        scores_N = table.column_for(arm, data.ids_N, "make it again with: goldiprox score")
    return data.select(prune(rule, scores_N, data.ids_N, None))


def _run(
    config: DietConfig,
    out: Path,
    arm: str,
    share: float,
    offset: float | None,
    seed: int,
    examples: Examples,
    total: int,
) -> _Run:
    """Steps follow from the share, so that the short schedule takes as many as the pruned ones."""
    size = max(1, round(share * total)) if config.length == "kept" else total
    steps = config.epochs * -(-size // config.batch)
    batch = min(config.batch, len(examples))
    pool = min(total, round(batch / share)) if arm == SHORT else None
    window = "" if offset is None else f"-from-{offset:g}"
    return _Run(
        arm=arm,
        share=share,
        offset=offset,
        seed=seed,
        config=config.fresh(seed, steps, batch, pool),
        examples=examples,
        folder=RunFolder(out / "runs" / f"{arm}-{share:g}{window}-{seed}"),
    )


def _noise_of_random(splits: Splits) -> npt.NDArray[np.float64]:
    """A suspicion that knows nothing."""
    numbers_N: Tensor = keyed_uniform(splits.full.ids_N, stream(0, "suspicion"))
    return numbers_N.numpy()
