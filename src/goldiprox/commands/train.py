"""The command that trains one model with one method."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path

from tyro.conf import OmitArgPrefixes as Flat

from goldiprox.commands.shared import Data, Keeping, LogTo, Shown, fitting, splits_of, told, wrote
from goldiprox.config import IrreducibleConfig, TrainConfig
from goldiprox.errors import ConfigError
from goldiprox.records.mapped import open_table
from goldiprox.records.owner import writing
from goldiprox.selection.methods import method
from goldiprox.workflows.outputs import require_writable
from goldiprox.workflows.train import train_one

__all__ = ["require_effect", "train"]


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


def train(
    data: Flat[Data],
    settings: Flat[_TrainSettings],
    keeping: Flat[Keeping],
    il: IrreducibleConfig,
    out: Path,
    irreducible: Path | None = None,
    log: LogTo | None = None,
    record: Path | None = None,
    replay: Path | None = None,
) -> None:
    """Train one model with one method.

    Interrupted, the same command goes on where it stopped and ends with the same weights.

    Args:
        out: The run's folder.
        il: The irreducible-loss model, made where the method needs it.
        irreducible: Irreducible-loss table to use instead of making one.
        log: Experiment tracker to send its evaluations to.
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
    require_effect(chosen, il, irreducible, replay)
    splits = splits_of(data, chosen.objective)
    chosen = fitting(chosen, splits)
    with writing(out), Shown() as shown:
        result = train_one(
            splits,
            chosen,
            out,
            full=plain,
            irreducible=il,
            table=None if irreducible is None else open_table(irreducible),
            record=record,
            replayed=replay,
            execution=keeping.execution(shown, tracker=log),
        )
    told(result)
    wrote(out)


def require_effect(
    settings: TrainConfig, il: IrreducibleConfig, irreducible: Path | None, replay: Path | None
) -> None:
    """Refuse options about irreducible losses that nothing would use.

    Args:
        settings: of the run.
        il: options of the irreducible-loss model.
        irreducible: a table that was named.
        replay: a sequence that was named.

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
