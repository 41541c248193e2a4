"""The output folder of a comparison or a study: one writer, and one configuration.

It holds ``manifest.json`` (settings, data, versions, the command), written first; the folders of
its runs, which look after themselves (:mod:`goldiprox.records.runs`); and what was found, last.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from goldiprox.records.circumstances import as_json, first_difference, versions
from goldiprox.records.files import read_json, write_json
from goldiprox.records.owner import writing
from goldiprox.schema import CheckpointError

__all__ = ["MANIFEST", "is_study", "open_study"]

MANIFEST = "manifest.json"


@contextmanager
def open_study(
    out: Path,
    settings: Mapping[str, Any],
    data: Mapping[str, Any],
    *,
    what: str = "study",
    command: str | None = None,
) -> Iterator[None]:
    """Be the one process that writes to a folder; begin a study there, or go on with the one there.

    Args:
        out: the folder.
        settings: everything that decides the outcome; where files lie does not.
        data: the data's description, for the report.
        what: ``study`` or ``comparison``, for the message.
        command: the command line that asked for it, for the report.

    Raises:
        CheckpointError: if another process writes there, or another study is there.
        GoldiproxError: if the folder cannot be written.
    """
    file = out / MANIFEST
    wanted = as_json(dict(settings))
    with writing(out):
        if file.exists():
            found = read_json(file).get("settings", {})
            if found != wanted:
                raise CheckpointError(
                    f"{out} holds another {what} ({first_difference(found, wanted)}); choose "
                    "another --out, or delete the folder"
                )
        else:
            note = {"settings": wanted, "data": data, "command": command, "versions": versions()}
            write_json(file, note)
        yield


def is_study(folder: Path) -> bool:
    """Whether a folder is a comparison's or a study's rather than one run's."""
    return "settings" in (read_json(folder / MANIFEST) if (folder / MANIFEST).is_file() else {})
