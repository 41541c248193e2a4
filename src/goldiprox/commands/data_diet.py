"""Data Diet on the command line: score a data set, prune it, study what pruning does."""

from __future__ import annotations

from pathlib import Path

import tyro
from tyro.conf import OmitArgPrefixes as Flat

from goldiprox.commands.shared import (
    Data,
    Keeping,
    Shown,
    console,
    fitting,
    splits_of,
    told,
    wrote,
)
from goldiprox.commands.studies import show
from goldiprox.config import IrreducibleConfig
from goldiprox.precompute.data_diet import ScoreConfig
from goldiprox.records.mapped import open_table
from goldiprox.records.owner import writing
from goldiprox.records.tables import ScoreTable
from goldiprox.report.pruned import loss_warnings, losses_table
from goldiprox.selection.pruning import PruneRule
from goldiprox.studies.pruning.page import PRUNING
from goldiprox.studies.pruning.settings import DietConfig
from goldiprox.studies.pruning.study import diet as study
from goldiprox.workflows.irreducible import run_of
from goldiprox.workflows.outputs import is_kept_table, require_output, require_writable
from goldiprox.workflows.prune import prune_scores
from goldiprox.workflows.score import make_scores

__all__ = ["diet", "prune", "score"]


def score(
    data: Flat[Data],
    settings: Flat[ScoreConfig],
    keeping: Flat[Keeping],
    il: IrreducibleConfig,
    out: Path,
    irreducible: Path | None = None,
    jobs: int | None = None,
) -> None:
    """Score every training example by watching replicas of a model train; one table for all scores.

    All data that is not test is scored, whatever --holdout says. Interrupted, the same command goes
    on; replicas already done are kept, and used again when more are asked for.

    Args:
        out: The table to write, such as scores.parquet; its replicas are kept in <out>.run.
        il: The irreducible-loss models, where that score is asked for: each scores one half.
        irreducible: Irreducible-loss table of the whole training set to use instead.
        jobs: Processes that train replicas side by side; unless given, one a thread on a CPU.
    """
    require_writable(out)
    splits = splits_of(data, settings.objective)
    settings = fitting(settings, splits)
    with writing(run_of(out)), Shown() as shown:
        result = make_scores(
            splits,
            settings,
            out,
            irreducible=il,
            table=None if irreducible is None else open_table(irreducible),
            execution=keeping.execution(shown, jobs),
        )
    told(result)
    wrote(out)


def prune(
    scores: tyro.conf.Positional[Path],
    rule: Flat[PruneRule],
    out: Path,
    by: str | None = None,
    group: str | None = None,
    join: tuple[str, ...] = (),
    overwrite: bool = False,
) -> None:
    """Keep part of a data set by a score, the hardest first; say what each class loses.

    The file written goes to goldiprox train and compare as --subset.

    Args:
        scores: Score table.
        by: Score to prune by, such as el2n; random does without.
        out: The table of what is kept, such as kept.parquet.
        group: Column that numbers groups whose losses are to be shown too.
        join: Further tables, separated by commas, whose columns are put beside the scores by id.
        overwrite: Replace the file of --out even if it is an input or no table of this command's.
    """
    inputs = [scores, *map(Path, join)]
    require_output(out, is_kept_table, inputs=inputs, overwrite=overwrite)
    others = [ScoreTable.read(Path(path)) for path in join]
    pruned = prune_scores(ScoreTable.read(scores), rule, out, by=by, group=group, others=others)
    print(f"kept {pruned['kept']:,} of {pruned['of']:,} examples")
    for line in pruned["direction"]:
        print(line)
    for name, rows in pruned["losses"].items():
        console().print(losses_table(name, rows))
        for line in loss_warnings(name, rows):
            print(line)
    if not pruned["losses"]:
        print("this table has no classes, so what each class loses is not known")
    wrote(out)


def diet(
    data: Flat[Data],
    settings: Flat[DietConfig],
    keeping: Flat[Keeping],
    il: IrreducibleConfig,
    out: Path,
    jobs: int | None = None,
) -> None:
    """Score a data set, prune it by each score, train fresh models on what is left, and report.

    All data that is not test takes part, whatever --holdout-mode says. With --label-noise it also
    tells how well each score finds the wrong labels. Interrupted, the same command goes on.

    Args:
        out: Output folder: diet.json, report.html, scores.parquet, runs/.
        il: The irreducible-loss models: each scores the half that it has not seen.
        jobs: Processes that train replicas side by side; unless given, one a thread on a CPU.
    """
    require_writable(out, folder=True)
    splits = splits_of(data)
    with Shown() as shown:
        found = study(
            splits, settings, out, irreducible=il, execution=keeping.execution(shown, jobs)
        )
    show(PRUNING, found, out)
