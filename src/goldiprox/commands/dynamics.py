"""The command that watches networks learn."""

from __future__ import annotations

from pathlib import Path

from tyro.conf import OmitArgPrefixes as Flat

from goldiprox.commands.shared import Data, Keeping, Shown, splits_of, wrote
from goldiprox.records.files import read_json
from goldiprox.records.mapped import open_table
from goldiprox.studies.dynamics.page import reading_lines, write_dynamics_report
from goldiprox.studies.dynamics.settings import DynamicsConfig
from goldiprox.studies.dynamics.study import dynamics
from goldiprox.workflows.outputs import require_writable
from goldiprox.workflows.report import require_page

__all__ = ["report_dynamics", "watch"]


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
    print("\n".join(reading_lines(summary)))
    wrote(out / "report.html")


def report_dynamics(out: Path, home: Path | None, overwrite: bool) -> bool:
    """Make a dynamics study's page again, in ``home`` if given; False where ``out`` is none."""
    if not (out / "dynamics.json").exists():
        return False
    require_page(out, home or out, overwrite=overwrite)
    page = write_dynamics_report(out, home)
    print("\n".join(reading_lines(read_json(out / "dynamics.json"))))
    wrote(page)
    return True
