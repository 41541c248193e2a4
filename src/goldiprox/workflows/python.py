"""The laboratory from Python: compare methods on data, models and objectives of one's own."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from goldiprox.analysis.comparison import Comparison
from goldiprox.config import CompareConfig, IrreducibleConfig
from goldiprox.data.own import from_items
from goldiprox.data.splits import DataConfig, Splits, make_splits
from goldiprox.models.vision import Factory
from goldiprox.names import name_of
from goldiprox.objectives import Given, objective
from goldiprox.precompute.irreducible import require_fitting
from goldiprox.records.mapped import open_table
from goldiprox.records.tables import Table
from goldiprox.schema import ConfigError
from goldiprox.workflows import compare as workflow
from goldiprox.workflows.execution import Execution
from goldiprox.workflows.progress import Progress

__all__ = ["compare"]

OWN = ("dataset", "subset", "methods", "model", "objective", "seeds", "irreducible_model")
"""Settings that :func:`compare` takes by name, or not at all."""


def compare(
    *,
    train: Any,
    test: Any = None,
    holdout: Any = None,
    model: str | Factory,
    out: str | Path,
    methods: Sequence[str] = ("uniform", "uniform-full", "rho-loss"),
    objective: Given = "classification",
    irreducible_model: str | Factory = "auto",
    irreducible: Table | str | Path | None = None,
    name: str = "data",
    class_names: Sequence[str] | None = None,
    seeds: int = 3,
    progress: Progress | None = None,
    **settings: Any,
) -> Comparison:
    """Train each method on the same pools and say who gets there first, and what it cost.

    What ``goldiprox compare`` does, on data sets, models and objectives of one's own; interrupted,
    the same call goes on where it stopped.

    Example::

        found = goldiprox.compare(
            train=masks, test=more_masks, model=UNet, objective=PixelLoss(),
            irreducible_model=SmallUNet, methods=["uniform", "loss", "rho-loss"],
            out="runs/masks", epochs=5, seeds=3,
        )

    Args:
        train: a map-style data set of ``(input, target)``, see
            :func:`goldiprox.data.own.from_items`: images, texts, or tensors of any shape.
        test: likewise; None takes a fifth of ``train``.
        holdout: likewise, for the irreducible-loss model; None holds half of ``train`` out
            (``holdout_mode=`` and ``holdout_share=`` decide otherwise).
        model: a name that ``--model`` takes, or a factory, called with the shape of one input and
            the number of classes (0 where targets are tensors); a class or a function without
            arguments will do.
        out: output folder: ``comparison.json``, ``report.html``, ``runs/``.
        methods: names, as ``goldiprox methods`` lists them.
        objective: what the models are trained for: a name, an :class:`goldiprox.Objective`, or a
            function ``(output, batch) -> loss_B``.
        irreducible_model: the model whose losses are taken off, where a method needs it; a name or
            a factory.
        irreducible: a table of irreducible losses to use instead.
        name: what the data is called.
        class_names: one a class.
        seeds: runs per method.
        progress: told what is going on.
        **settings: any setting of ``goldiprox compare`` by its name in Python, such as
            ``epochs=5``, ``batch=64``, ``lr=1e-3``, ``label_noise=0.2``, ``group_column="site"``;
            those of the irreducible-loss model with ``il_`` before them.

    Returns:
        The comparison, as ``comparison.json`` holds it; see
        :class:`goldiprox.analysis.comparison.Comparison`.

    Raises:
        ConfigError: before anything is trained, if settings are unknown or do not fit.
        DataError: if an item is not of the form of the first.
        CheckpointError: if ``out`` holds another comparison.
    """
    given = _sorted_out(settings)
    trained_for = _objective_of(objective)
    config = CompareConfig(
        **given["compare"],
        methods=tuple(methods),
        model=_model_of(model),
        objective=trained_for,
        seeds=seeds,
    )
    il = IrreducibleConfig(**given["il"], model=_model_of(irreducible_model), objective=trained_for)
    splits = _splits(train, test, holdout, name, class_names, objective, given["data"])
    table = None if irreducible is None else _table(irreducible)
    if table is not None:
        require_fitting(table, splits)
    command = f"goldiprox.compare(train=..., methods={list(methods)!r}, out={str(out)!r}, ...)"
    return workflow.compare(
        splits,
        config,
        Path(out),
        irreducible=il,
        table=table,
        execution=Execution(command=command, progress=progress or Progress()),
    )


def _sorted_out(settings: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Settings by what they are of; lists become tuples."""
    kinds = {
        "data": {field.name for field in fields(DataConfig)},
        "compare": {field.name for field in fields(CompareConfig)},
        "il": {f"il_{field.name}" for field in fields(IrreducibleConfig)},
    }
    kinds = {kind: names - set(OWN) for kind, names in kinds.items()}
    found: dict[str, dict[str, Any]] = {kind: {} for kind in kinds}
    for name, value in settings.items():
        kind = next((kind for kind, names in kinds.items() if name in names), None)
        if kind is None:
            near = difflib.get_close_matches(
                name, [n for names in kinds.values() for n in names], 1
            )
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ConfigError(f"goldiprox.compare has no setting {name}{hint}")
        if name == "batch":
            value = (value,) if isinstance(value, int) else tuple(value)
        elif isinstance(value, list):
            value = tuple(value)
        found[kind][name.removeprefix("il_") if kind == "il" else name] = value
    return found


def _splits(
    train: Any,
    test: Any,
    holdout: Any,
    name: str,
    class_names: Sequence[str] | None,
    given: Given,
    data: dict[str, Any],
) -> Splits:
    reading = DataConfig(dataset=name, **data)
    trained_for = objective(given)
    # "classification" is also the default: the targets may know better, and then say so.
    kind = None if given == "classification" else trained_for.target_kind
    dataset = from_items(
        name,
        train,
        test,
        holdout=holdout,
        class_names=class_names,
        reading=reading,
        targets=kind,
    )
    if given == "classification" and dataset.targets != "classes":
        raise ConfigError(
            f"{name} has {dataset.targets} to predict; say what for, with objective=..."
        )
    return make_splits(dataset, reading)


def _table(given: Table | str | Path) -> Table:
    return given if isinstance(given, Table) else open_table(Path(given))


def _objective_of(given: Given) -> str:
    """The name under which settings know an objective."""
    if isinstance(given, str):
        return given
    objective(given)  # refuses what is none
    return name_of(given)


def _model_of(given: str | Factory) -> str:
    return given if isinstance(given, str) else name_of(given)
