"""The command line: builds a configuration, calls public functions, prints a short table."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, NoReturn

import tyro
from rich.console import Console
from tyro.conf import OmitArgPrefixes as Flat

from goldiprox.commands import confusion, data_diet, dynamics, exchange
from goldiprox.commands.process import (
    end_quietly_on_signals,
    interruption,
    require_one_process,
    require_utf8_arguments,
    use_utf8,
    version_line,
)
from goldiprox.commands.shared import Data as _Data
from goldiprox.commands.shared import Keeping as _Keeping
from goldiprox.commands.shared import Shown as _Shown
from goldiprox.commands.shared import console, fitting
from goldiprox.commands.shared import splits_of as _splits
from goldiprox.commands.shared import told as _told
from goldiprox.commands.shared import wrote as _wrote
from goldiprox.commands.studies import report_study, show
from goldiprox.config import CompareConfig, IrreducibleConfig, TrainConfig
from goldiprox.precompute.given import table_from_model, table_from_values
from goldiprox.records.mapped import open_table
from goldiprox.records.owner import writing
from goldiprox.records.tables import IRREDUCIBLE_LOSS
from goldiprox.report.methods import methods_table, variants_table
from goldiprox.report.terminal import terminal_table, verdict_lines
from goldiprox.schema import ConfigError, GoldiproxError
from goldiprox.selection.methods import method
from goldiprox.studies.grid.settings import GridConfig
from goldiprox.studies.grid.study import GRID, compare_grid
from goldiprox.workflows.compare import compare
from goldiprox.workflows.irreducible import make_irreducible, run_of, take_irreducible
from goldiprox.workflows.outputs import require_writable
from goldiprox.workflows.report import report_runs, require_folders
from goldiprox.workflows.train import train_one

__all__ = ["main"]

READING = tyro.constructors.ConstructorRegistry()
"""How arguments are read."""


@READING.primitive_rule
def _path(info: tyro.constructors.PrimitiveTypeInfo) -> Any:
    """A path of no characters, such as of a variable that is not set, is not the current folder."""
    if info.type is not Path:
        return None

    def read(given: list[str]) -> Path:
        if not given[0]:
            raise ConfigError('a path is given as ""; name a file or folder, or leave it out')
        return Path(given[0])

    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="PATH",
        instance_from_str=read,
        is_instance=lambda value: isinstance(value, Path),
        str_from_instance=lambda value: [str(value)],
    )


@READING.primitive_rule
def _comma_list(info: tyro.constructors.PrimitiveTypeInfo) -> Any:
    """Lists are one argument with commas, so that they cannot swallow what follows them."""
    wanted: Any = info.type
    kinds: dict[Any, Callable[[str], Any]] = {
        tuple[str, ...]: str,
        tuple[int, ...]: int,
        tuple[float, ...]: float,
    }
    if wanted not in kinds or tyro.conf.UseAppendAction in info.markers:
        return None
    kind = kinds[wanted]
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar=f"{wanted.__args__[0].__name__.upper()},...",
        instance_from_str=lambda given: tuple(kind(v) for v in given[0].split(",") if v),
        is_instance=lambda value: isinstance(value, tuple),
        str_from_instance=lambda value: [",".join(map(str, value))],
    )


@dataclass(frozen=True, kw_only=True)
class _Grid(GridConfig):
    sweep: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Hyperparameters to vary, as NAME=VALUE,VALUE,...; names: lr, batch, weight-decay. Give it
    once for each, or several in one: lr=1e-4,1e-3,batch=16,32."""


def _compare(
    data: Flat[_Data],
    settings: Flat[CompareConfig],
    keeping: Flat[_Keeping],
    il: IrreducibleConfig,
    varied: Flat[_Grid],
    out: Path,
    irreducible: Path | None = None,
) -> None:
    """Train each method on the same pools and report who gets there first, and what it cost.

    With --models, --sweep or --share: in every combination of them, all with one
    irreducible-loss table. Interrupted, the same command goes on where it stopped.

    Args:
        out: Output folder: comparison.json, report.html, runs/ (cells/ where something varies).
        il: The irreducible-loss model, made where a method needs it.
        irreducible: Irreducible-loss table to use instead of making one.
    """
    require_writable(out, folder=True)
    splits = _splits(data, settings.objective)
    settings = fitting(settings, splits)
    grid_config = GridConfig(**asdict(varied))
    if grid_config.jobs is not None and not grid_config.axes:
        raise ConfigError(
            "--jobs has no effect: it runs the combinations of --models, --sweep and --share side "
            "by side; leave it out"
        )
    table = None if irreducible is None else open_table(irreducible)
    given: dict[str, Any] = {"irreducible": il, "table": table}
    with _Shown() as shown:
        given["execution"] = keeping.execution(shown)
        if grid_config.axes:
            comparison = compare_grid(splits, settings, grid_config, out, **given)
        else:
            comparison = compare(splits, settings, out, **given)
    if grid_config.axes:
        show(GRID, comparison, out)
        return
    _print_comparison(comparison)
    _wrote(out / "report.html")


@dataclass(frozen=True, kw_only=True)
class _TrainSettings(TrainConfig):
    method: str = "auto"
    """How examples are chosen from each pool; goldiprox methods lists them and their variants. One
    of your own is package.module:name. auto: rho-loss; with --subset and nothing to choose by,
    plain training on all of the subset."""

    def __post_init__(self) -> None:
        self.named("rho-loss")  # its checks

    def named(self, auto: str) -> TrainConfig:
        """The settings, with this method where none was named."""
        values = {field.name: getattr(self, field.name) for field in fields(TrainConfig)}
        if self.method == "auto":
            values["method"] = auto
        return TrainConfig(**values)


def _train(
    data: Flat[_Data],
    settings: Flat[_TrainSettings],
    keeping: Flat[_Keeping],
    il: IrreducibleConfig,
    out: Path,
    irreducible: Path | None = None,
    record: Path | None = None,
    replay: Path | None = None,
) -> None:
    """Train one model with one method.

    Interrupted, the same command goes on where it stopped and ends with the same weights.

    Args:
        out: The run's folder.
        il: The irreducible-loss model, made where the method needs it.
        irreducible: Irreducible-loss table to use instead of making one.
        record: Write the sequence of batches that the run chose to this file.
        replay: Train on the batches of this sequence, recorded by any other model; nothing is
            scored. Method, batch, pool and epochs are the sequence's; --steps replays a part.
    """
    require_writable(out, folder=True)
    if record is not None:
        require_writable(record, flag="--record")
    asked = settings.method != "auto" or any((irreducible, record, replay))
    plain = data.subset is not None and not asked
    chosen = settings.named("uniform" if plain else "rho-loss")
    if plain and chosen.pool is None:
        chosen = replace(chosen, pool=chosen.batch)
    _require_effect(chosen, il, irreducible, replay)
    splits = _splits(data, chosen.objective)
    chosen = fitting(chosen, splits)
    with writing(out), _Shown() as shown:
        result = train_one(
            splits,
            chosen,
            out,
            full=plain,
            irreducible=il,
            table=None if irreducible is None else open_table(irreducible),
            record=record,
            replayed=replay,
            execution=keeping.execution(shown),
        )
    _told(result)
    _wrote(out)


def _require_effect(
    settings: TrainConfig, il: IrreducibleConfig, irreducible: Path | None, replay: Path | None
) -> None:
    """Refuse options about irreducible losses that nothing would use.

    Raises:
        ConfigError: naming the option.
    """
    if replay is not None:
        why = "a replay scores nothing"
    elif not method(settings.method).needs_irreducible_model:
        why = f"method {settings.method} needs no irreducible losses"
    else:
        why = "" if irreducible is None else f"the losses come from {irreducible}"
    if irreducible is not None and not why.startswith("the losses"):
        raise ConfigError(f"--irreducible {irreducible} has no effect: {why}; leave it out")
    if why and il != IrreducibleConfig():
        raise ConfigError(f"the options --il.* have no effect: {why}; leave them out")


def _irreducible(
    data: Flat[_Data],
    settings: Flat[IrreducibleConfig],
    keeping: Flat[_Keeping],
    out: Path,
    target_model: str = "mlp",
    weights: str | None = None,
    values: Path | None = None,
    id_column: str = "id",
    value_column: str = IRREDUCIBLE_LOSS,
) -> None:
    """Train the irreducible-loss model on the holdout set and score every training example.

    With --weights or --values nothing is trained: the losses come from a model or a file of yours.

    Args:
        out: The table to write, such as il.parquet; its run is kept beside it in il.parquet.run.
        target_model: The model that the table is for; decides what --model auto means.
        weights: Score with --model and these weights of your own (safetensors, or a state dict
            written by torch.save); the word factory where the factory returns a trained model.
        values: Take the losses from this CSV or Parquet file.
        id_column: Its column of ids: rows of the data set.
        value_column: Its column of losses, in nats.
    """
    if weights is not None and values is not None:
        raise ConfigError("--weights and --values exclude each other: say where losses come from")
    require_writable(out)
    splits = _splits(data, settings.objective)
    settings = fitting(settings, splits)
    if weights is not None or values is not None:
        if values is not None:
            table = table_from_values(
                splits, values, id_column=id_column, value_column=value_column
            )
        else:
            table = table_from_model(
                splits,
                settings.resolved_model(target_model, splits.train.store.example_shape),
                None if weights == "factory" else Path(str(weights)),
                device=settings.device,
                seed=settings.seed,
                tokenizer=settings.tokenizer,
                max_length=settings.max_length,
                objective=settings.objective,
            )
        _told(take_irreducible(table, splits, out))
        _wrote(out)
        return
    with writing(run_of(out)), _Shown() as shown:
        result = make_irreducible(
            splits,
            settings,
            out,
            target_model=target_model,
            execution=keeping.execution(shown),
        )
    _told(result)
    _wrote(out)


def _report(
    runs: tyro.conf.Positional[tuple[Path, ...]],
    out: Path | None = None,
    allow_different_data: bool = False,
    overwrite: bool = False,
) -> None:
    """Make a report from run folders again, or from what compare, dynamics or diet wrote.

    Args:
        runs: Run folders, or one output folder of compare, dynamics or diet.
        out: Where to write comparison.json and report.html; the study's own folder by default.
        allow_different_data: Show runs of different data, labels or evaluation side by side: each
            line names the difference, and nothing is said of who paid.
        overwrite: Replace files in --out that no report has written.
    """
    require_folders(runs)
    if len(runs) == 1 and report_study(runs[0], out, overwrite):
        return
    comparison, page = report_runs(
        runs, out, allow_different_data=allow_different_data, overwrite=overwrite
    )
    _print_comparison(comparison)
    _wrote(page)


def _methods() -> None:
    """List every selection method: what it chooses, what it needs, what it costs, its source."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=140)
    console.print(methods_table())
    console.print(variants_table())


COMMANDS: dict[str, Callable[..., None]] = {
    "compare": _compare,
    "train": _train,
    "irreducible": _irreducible,
    "score": data_diet.score,
    "prune": data_diet.prune,
    "diet": data_diet.diet,
    "sequence": exchange.sequence,
    "table": exchange.table,
    "dynamics": dynamics.watch,
    "confusion": confusion.confusion,
    "report": _report,
    "methods": _methods,
}


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; every expected error is one line on stderr and exit status 1.

    Args:
        arguments: what follows the program's name; the process's own unless given.
    """
    if arguments is None:
        use_utf8()
    end_quietly_on_signals()
    given = sys.argv[1:] if arguments is None else arguments
    if given[:1] == ["--version"]:
        print(version_line())
        return
    try:
        require_utf8_arguments(given)
        if given and given[0] in COMMANDS and _writes(given):
            require_one_process(given[0])
        with READING:
            tyro.extras.subcommand_cli_from_dict(
                COMMANDS,
                prog="goldiprox",
                description="Train on the points that are learnable, worth learning and not yet "
                "learnt, and see whether it paid.",
                args=given,
            )
        sys.stdout.flush()  # now, where what goes wrong can be said
    except GoldiproxError as error:
        _fail(str(error), 1)
    except KeyboardInterrupt:
        _fail(interruption(given), 130)
    except BrokenPipeError:
        # The reader (head, less) went away; nothing was lost.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except OSError as error:
        # A file or a device that went away under a library's hands; or standard output is full.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        where = f"{error.filename}: " if error.filename else ""
        _fail(f"{where}{error.strerror or error}", 1)


def _writes(arguments: list[str]) -> bool:
    """Whether a command writes files: all do but those that only show something."""
    asks = {"show", "-h", "--help"} & set(arguments[:2])
    return arguments[0] != "methods" and not asks


def _fail(message: str, status: int) -> NoReturn:
    print(f"goldiprox: {message}", file=sys.stderr)
    sys.exit(status)


def _print_comparison(comparison: dict[str, Any]) -> None:
    terminal = console()
    terminal.print(terminal_table(comparison))
    for line in verdict_lines(comparison):
        terminal.print(line, highlight=False)
