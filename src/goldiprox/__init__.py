"""goldiprox: train on the points that are learnable, worth learning and not yet learnt.

In a training loop of one's own::

    data = goldiprox.with_ids(data)                       # ids travel in the batch
    choose = goldiprox.Chooser(model, "rho-loss", share=0.1, irreducible="il.parquet")
    for pool in DataLoader(data, batch_size=320, shuffle=True):
        chosen = choose(pool)
        ids, images, labels = chosen.batch
"""

from __future__ import annotations

from goldiprox.content import content_id
from goldiprox.data.wrap import with_ids
from goldiprox.objectives import Metric, Objective
from goldiprox.precompute.irreducible import irreducible_losses
from goldiprox.records.tables import ScoreTable
from goldiprox.schema import Evidence, GoldiproxError, Selection
from goldiprox.selection.methods import METHODS, Method, register
from goldiprox.selection.own import method
from goldiprox.training.step import Chooser, Chosen
from goldiprox.version import __version__

__all__ = [
    "METHODS",
    "Chooser",
    "Chosen",
    "Evidence",
    "GoldiproxError",
    "Method",
    "Metric",
    "Objective",
    "ScoreTable",
    "Selection",
    "__version__",
    "content_id",
    "irreducible_losses",
    "method",
    "register",
    "with_ids",
]
