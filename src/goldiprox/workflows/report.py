"""Make a report from run folders again."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from goldiprox.analysis.compare import summarise
from goldiprox.analysis.comparison import Comparison
from goldiprox.records.files import read_json
from goldiprox.records.runs import RunFolder
from goldiprox.records.studies import MANIFEST, is_study
from goldiprox.report.html import write_report
from goldiprox.schema import ConfigError
from goldiprox.workflows.arms import GOLDIPROX
from goldiprox.workflows.outputs import is_page, require_output, require_writable

__all__ = ["report_runs", "require_folders", "require_page"]

logger = logging.getLogger("goldiprox")


def report_runs(
    paths: Sequence[Path],
    out: Path | None = None,
    *,
    allow_different_data: bool = False,
    overwrite: bool = False,
) -> tuple[Comparison, Path]:
    """Summarise finished runs and write ``comparison.json`` and ``report.html``.

    Args:
        paths: run folders, or the one output folder of a comparison.
        out: where to write; a comparison's own folder unless given.
        allow_different_data: put runs of different data side by side, without a verdict on them.
        overwrite: replace files in ``out`` that are no report's.

    Returns:
        The comparison and the page's path.

    Raises:
        ConfigError: if no folder is given, runs are unfinished, of different data or named twice,
            or ``out`` is missing or holds something else.
        CheckpointError: if a folder is no run or its records are damaged.
    """
    require_folders(paths)
    home = paths[0]
    settings: dict[str, Any] = {}
    target = None
    folders = [RunFolder(path) for path in paths]
    if len(paths) == 1 and (home / "runs").is_dir():
        settings = read_json(home / MANIFEST, {"settings": {"compare": dict}})["settings"]
        target = settings["compare"]["target"]
        folders = [RunFolder(p) for p in sorted((home / "runs").iterdir()) if p.is_dir()]
        order = [*settings["compare"]["methods"], GOLDIPROX]
        folders.sort(key=lambda folder: order.index(folder.manifest()["arm"]))
        out = out or home
    if out is None:
        raise ConfigError("say where the report of run folders goes with --out DIR")
    require_page(home, out, overwrite=overwrite)
    for folder in folders:
        _require_run(folder)
    if unverified := [str(folder.path) for folder in folders if not folder.verified]:
        logger.warning(
            "%d of %d runs were written by version 0.1.0, which kept no digests, and are "
            "unverified (first: %s)",
            len(unverified),
            len(folders),
            unverified[0],
        )
    comparison = summarise(
        folders, settings, target=target, allow_different_data=allow_different_data
    )
    comparison.write(out / "comparison.json")
    study = home if settings else None
    return comparison, write_report(out, study)


def require_folders(paths: Sequence[Path]) -> None:
    """Refuse what is no folder, or a study among other folders.

    Raises:
        ConfigError: naming the path.
    """
    if not paths:
        raise ConfigError("name at least one run folder, or the output folder of a comparison")
    for path in paths:
        if not path.is_dir():
            what = "is a file" if path.exists() else "does not exist"
            raise ConfigError(
                f"{path} {what}; report takes run folders, or the output folder of compare, "
                "dynamics or diet"
            )
        if len(paths) > 1 and is_study(path):
            raise ConfigError(
                f"{path} is no run but the output folder of a whole study; report it by itself, or "
                "name the folders of its runs"
            )


def require_page(home: Path, out: Path, *, overwrite: bool) -> None:
    """Refuse to write a page over something else.

    Args:
        home: the folder that is reported on.
        out: where the page goes.
        overwrite: whether files that are there may be replaced.

    Raises:
        ConfigError: if ``out`` cannot be written or holds files that no report has written.
    """
    require_writable(out, folder=True)
    if overwrite or (out.exists() and out.samefile(home)):
        return
    if (out / "manifest.json").exists():
        raise ConfigError(
            f"--out {out} is the folder of a run or study of its own; choose another --out, or add "
            "--overwrite to put the report there"
        )
    for name in ("comparison.json", "report.html"):
        require_output(out / name, is_page)


def _require_run(folder: RunFolder) -> None:
    manifest = folder.manifest()
    trained = manifest.get("config")
    if not isinstance(trained, dict) or not isinstance(trained.get("train"), dict):
        raise ConfigError(
            f"{folder.path} is a run of another kind (an irreducible-loss model, a replica, a "
            "proxy or a model of a study); report takes what goldiprox train or compare has trained"
        )
    if not folder.finished:
        raise ConfigError(
            f"run {folder.path} is not finished; go on with the command that began it"
        )
