"""goldiprox: train on the points that are learnable, worth learning and not yet learnt.

In a training loop of one's own::

    data = goldiprox.with_ids(data)                       # ids travel in the batch
    choose = goldiprox.Chooser(model, "rho-loss", share=0.1, irreducible="il.parquet")
    for pool in DataLoader(data, batch_size=320, shuffle=True):
        chosen = choose(pool)
        ids, images, labels = chosen.batch
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from goldiprox.version import __version__

if TYPE_CHECKING:
    from goldiprox.chooser import Chooser, Chosen
    from goldiprox.content import content_id
    from goldiprox.irreducible import irreducible_losses
    from goldiprox.objectives import Metric, Objective
    from goldiprox.recorder import Recorder
    from goldiprox.records.tables import ScoreTable
    from goldiprox.schema import Evidence, GoldiproxError, Selection
    from goldiprox.selection.methods import METHODS, Method, register
    from goldiprox.selection.own import method
    from goldiprox.workflows.python import compare
    from goldiprox.wrap import with_ids

__all__ = [
    "METHODS",
    "Chooser",
    "Chosen",
    "Evidence",
    "GoldiproxError",
    "Method",
    "Metric",
    "Objective",
    "Recorder",
    "ScoreTable",
    "Selection",
    "__version__",
    "compare",
    "content_id",
    "irreducible_losses",
    "method",
    "register",
    "with_ids",
]

_HOMES = {
    "content_id": "content",
    "with_ids": "wrap",
    "Metric": "objectives",
    "Objective": "objectives",
    "irreducible_losses": "irreducible",
    "Recorder": "recorder",
    "ScoreTable": "records.tables",
    "Evidence": "schema",
    "GoldiproxError": "schema",
    "Selection": "schema",
    "METHODS": "selection.methods",
    "Method": "selection.methods",
    "register": "selection.methods",
    "method": "selection.own",
    "Chooser": "chooser",
    "Chosen": "chooser",
    "compare": "workflows.python",
}
"""The module of each public name: loaded, torch with it, when the name is first used."""


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    try:
        value = getattr(import_module(f"goldiprox.{_HOMES[name]}"), name)
    except ModuleNotFoundError as error:
        from goldiprox.extras import advice

        line = advice(f"goldiprox.{name}", error)
        if line is None:
            raise
        raise ModuleNotFoundError(line, name=error.name) from error
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
