"""Thumbnails inside a page."""

from __future__ import annotations

import base64
from typing import Any

__all__ = ["picture"]

THUMBNAIL = 90
"""About how many pixels wide a thumbnail is shown."""


def picture(png: bytes) -> dict[str, Any]:
    """A thumbnail in the page, enlarged by a whole factor, so that its pixels stay square."""
    width, height = (int.from_bytes(png[at : at + 4]) for at in (16, 20))
    scale = max(1, round(THUMBNAIL / max(width, height, 1)))
    uri = f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"
    return {"uri": uri, "width": scale * width, "height": scale * height}
