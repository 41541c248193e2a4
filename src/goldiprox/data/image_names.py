"""Names of image files in a column of a table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from goldiprox.schema import DataError

__all__ = ["LOOKED_AT", "are_image_names", "image_names"]

IMAGE_SUFFIXES = (
    ".jpg",
    ".jpeg",
    ".jfif",
    ".png",
    ".bmp",
    ".gif",
    ".webp",
    ".tif",
    ".tiff",
    ".ppm",
)
LOOKED_AT = 20
"""Values of a column that tell whether it holds names of image files."""


def are_image_names(values: Sequence[Any]) -> bool:
    """Whether values, where there are any, are all names of image files."""
    some = [value for value in values if value]
    return bool(some) and all(
        isinstance(v, str) and Path(v).suffix.lower() in IMAGE_SUFFIXES for v in some
    )


def image_names(names: Sequence[Any], tables: Sequence[Path], column: str) -> list[str]:
    """Names of image files relative to the folder of their tables, all inside it.

    Args:
        names: as they stand in a column.
        tables: the files that hold it.
        column: what it is called.

    Returns:
        The names as this system writes them.

    Raises:
        DataError: if a name is missing, leads out of the folder or is not there, or the tables lie
            in several folders.
    """
    folders = {path.parent for path in tables}
    if len(folders) > 1:
        raise DataError(
            f"{tables[0]}: names of image files are relative to their table's folder, and these "
            "tables lie in several; put them into one"
        )
    for row, value in enumerate(names):
        if not value:
            raise DataError(f"{tables[0]}: row {row} names no image file in column {column!r}")
        if Path(value).is_absolute() or ".." in Path(value).parts:
            raise DataError(
                f"{tables[0]}: row {row} names {value!r}, which is not inside the table's folder; "
                "write names relative to it"
            )
    root = tables[0].parent
    if "\\" in "".join(names) and not (root / names[0]).exists():  # written under Windows
        names = [name.replace("\\", "/") for name in names]
    if not any((root / name).is_file() for name in names[:LOOKED_AT]):
        raise DataError(
            f"{tables[0]}: row 0 names {names[0]!r}, which is not in {root}; names of image files "
            "are relative to the folder of their table: put it there, or write them so"
        )
    return [str(Path(value)) for value in names]
