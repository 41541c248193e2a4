"""All studies: a new one is its folder here, its command, and a line below."""

from __future__ import annotations

from pathlib import Path

from goldiprox.records.files import read_json
from goldiprox.records.studies import MANIFEST
from goldiprox.schema import ConfigError
from goldiprox.studies.base import Study
from goldiprox.studies.dynamics.page import DYNAMICS
from goldiprox.studies.grid.study import GRID
from goldiprox.studies.pruning.page import PRUNING

__all__ = ["STUDIES", "study_of"]

STUDIES = (PRUNING, DYNAMICS, GRID)


def study_of(folder: Path) -> Study | None:
    """Which study a folder is of; None where it is of none, a plain comparison's say.

    Raises:
        ConfigError: if there is nothing to report yet.
        CheckpointError: if its manifest is damaged.
    """
    if not (folder / MANIFEST).is_file():
        return None
    settings = read_json(folder / MANIFEST).get("settings") or {}
    study = next((study for study in STUDIES if study.key in settings), None)
    if study is not None and not (folder / study.record).exists():
        raise ConfigError(
            f"{folder} holds a study of another kind that is not finished; go on with the command "
            "that began it"
        )
    return study
