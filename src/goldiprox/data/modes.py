"""Kinds of images, by what Pillow calls a mode."""

from __future__ import annotations

from typing import Any

from PIL import Image, UnidentifiedImageError

from goldiprox.schema import DataError

__all__ = ["GREY_MODES", "LOOKED_AT", "UNDECODABLE", "refuse_wide"]

GREY_MODES = frozenset({"1", "L", "LA"})

WIDE_MODES = frozenset({"I", "F", "I;16", "I;16B", "I;16L", "I;16N"})
"""More than 8 bits a channel: Pillow would cut every value above 255 off without a word."""

LOOKED_AT = 64
"""Images of a data set that are asked whether they are grey: it is, if all of these are."""

UNDECODABLE = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    UnidentifiedImageError,
    Image.DecompressionBombError,
)
"""What Pillow raises of images that are damaged, or none."""


def refuse_wide(image: Any, where: str) -> None:
    """Refuse an image of more than 8 bits a channel.

    Raises:
        DataError: naming the place and the mode.
    """
    mode = getattr(image, "mode", None)
    if mode in WIDE_MODES:
        raise DataError(
            f"{where} has more than 8 bits per channel (mode {mode}); convert the images to 8 bits"
        )
