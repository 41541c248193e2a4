"""The command that watches networks learn."""

from __future__ import annotations

from pathlib import Path

from tyro.conf import OmitArgPrefixes as Flat

from goldiprox.commands.shared import Data, Keeping, Shown, splits_of
from goldiprox.commands.studies import show
from goldiprox.records.mapped import open_table
from goldiprox.studies.dynamics.page import DYNAMICS
from goldiprox.studies.dynamics.settings import DynamicsConfig
from goldiprox.studies.dynamics.study import dynamics
from goldiprox.workflows.outputs import require_writable

__all__ = ["watch"]


def watch(
    data: Flat[Data],
    settings: Flat[DynamicsConfig],
    keeping: Flat[Keeping],
    out: Path,
    scores: Path | None = None,
) -> None:
    """Watch networks learn: velocity of the tangent kernel, error barriers between twins.

    With --label-noise, velocity is measured with the published labels and with the noisy ones.
    Interrupted, the same command goes on where it stopped.

    Args:
        data: The data.
        settings: What is trained and measured.
        keeping: How often it is saved.
        out: Output folder: dynamics.json, report.html, runs/.
        scores: Score table to order the examples by, with its column --by; without it, EL2N is
            computed on the way.
    """
    require_writable(out, folder=True)
    splits = splits_of(data)
    with Shown() as shown:
        summary = dynamics(
            splits,
            settings,
            out,
            scores=None if scores is None else open_table(scores),
            execution=keeping.execution(shown),
        )
    show(DYNAMICS, summary, out)
