"""The one decoder of images, whatever they come from: a file, a Parquet row or a Python object.

The same image gives the same pixels everywhere: turned upright as its EXIF data says, transparent
parts laid on a background, grey or in colour as the whole data set is, and resized by one rule.
What was done to an image is told by flags, so that readers can count it.
"""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageColor, UnidentifiedImageError

from goldiprox.data.image_headers import (
    SIDEWAYS,
    SPECIAL_KEYS,
    UNDECODABLE,
    UPRIGHT,
    has_frames,
    is_colour,
    may_be_transparent,
    orientation,
    png_depth,
    wide,
)
from goldiprox.data.messages import first_line, printable
from goldiprox.data.notes import EXAMPLES, Note
from goldiprox.schema import DataError

__all__ = [
    "EXPANDED",
    "FRAMES",
    "RESHAPED",
    "RESIZED",
    "ROTATED",
    "TRANSPARENT",
    "Fit",
    "Form",
    "Look",
    "SizeError",
    "UndecodableError",
    "WideError",
    "decode",
    "form_of",
    "look",
    "notes_of",
    "opened",
    "rgb",
    "size_error",
    "size_flags",
]

Fit = Literal["crop", "pad", "squash"]
"""How an image of another aspect ratio is brought to a square; see ``Reading.image_fit``."""

Pixels = NDArray[np.uint8]

# What was done to an image; one byte of flags each.
ROTATED, TRANSPARENT, RESIZED, RESHAPED, FRAMES, EXPANDED = 1, 2, 4, 8, 16, 32

# The limit on pixels below is stricter than Pillow's and names the image: one line is enough.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


class UndecodableError(DataError):
    """No image, a damaged one, or one too large to be decoded safely."""


class WideError(DataError):
    """An image of more than 8 bits a channel."""


class SizeError(DataError):
    """An image of another size than the others, where none is resized."""


@dataclass(frozen=True, kw_only=True)
class Form:
    """What every image of a data set is made into.

    Attributes:
        channels: 1 or 3.
        height: in pixels.
        width: in pixels.
        fit: how images of other sizes are brought to this one; None refuses them.
        background: what shows through transparent parts: red, green and blue.
    """

    channels: int
    height: int
    width: int
    fit: Fit | None = None
    background: tuple[int, int, int] = (255, 255, 255)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width."""
        return self.channels, self.height, self.width

    @property
    def mode(self) -> str:
        """What Pillow calls it."""
        return "L" if self.channels == 1 else "RGB"

    @property
    def colour(self) -> Any:
        """The background as Pillow takes it."""
        return self.background[0] if self.channels == 1 else self.background


@dataclass(frozen=True, kw_only=True)
class Look:
    """What an image says of itself before it is decoded.

    Attributes:
        colour: whether it needs three channels.
        height: of the upright image.
        width: of the upright image.
        flags: what decoding will do to it, but for its size.
    """

    colour: bool
    height: int
    width: int
    flags: int


def rgb(name: str) -> tuple[int, int, int]:
    """A colour by name or as ``#rrggbb``.

    Raises:
        ValueError: if it is none.
    """
    return ImageColor.getrgb(name)[:3]


def opened(source: str | Path | bytes | Image.Image, where: str) -> Image.Image:
    """Open an image without decoding it.

    Args:
        source: a file's path, its bytes, or an image of Pillow's.
        where: what errors call it.

    Returns:
        The image, to be closed by the caller.

    Raises:
        UndecodableError: if it is no image, or has more pixels than ``PIL.Image.MAX_IMAGE_PIXELS``.
        WideError: if it has more than 8 bits a channel.
    """
    if not isinstance(source, bytes | str) and isinstance(source, Image.Image):
        # Of what somebody else has decoded already, the file still says how many bits it had.
        if (file := getattr(source, "filename", None)) and Path(file).is_file():
            with suppress(UndecodableError):
                opened(Path(file), where).close()
        return _checked(source, where)
    try:
        image = Image.open(io.BytesIO(source) if isinstance(source, bytes) else source)
    except UNDECODABLE as error:
        raise _undecodable(where, error) from error
    try:
        return _checked(image, where)
    except DataError:
        image.close()
        raise


def look(image: Image.Image, background: tuple[int, int, int], where: str) -> Look:
    """What an opened image is, from its header; only transparency needs its pixels.

    Raises:
        UndecodableError: if it is damaged.
    """
    try:
        turn = orientation(image)
        flags = ROTATED if turn else 0
        if has_frames(image):
            flags |= FRAMES
        width, height = image.size
        if turn and turn >= SIDEWAYS:
            width, height = height, width
        colour = is_colour(image, background)
        if may_be_transparent(image) and _alpha(image)[1] is not None:
            flags |= TRANSPARENT
    except UNDECODABLE as error:
        raise _undecodable(where, error) from error
    return Look(colour=colour, height=height, width=width, flags=flags)


def form_of(looks: Iterable[Look], size: int | None, fit: Fit, background: str) -> Form:
    """The form of a data set: in colour if one image is, of the first one's size unless resized.

    Args:
        looks: of some of its images, one at least.
        size: pixels to a side; None takes the size of the first image.
        fit: how images of other aspect ratios are resized.
        background: colour by name, see :func:`rgb`.

    Returns:
        The form.
    """
    listed = list(looks)
    return Form(
        channels=3 if any(one.colour for one in listed) else 1,
        height=listed[0].height if size is None else size,
        width=listed[0].width if size is None else size,
        fit=None if size is None else fit,
        background=rgb(background),
    )


def size_flags(height: int, width: int, form: Form) -> int:
    """The flags of what an upright image's size takes."""
    if (height, width) == (form.height, form.width):
        return 0
    return RESIZED | (RESHAPED if height * form.width != width * form.height else 0)


def decode(image: Image.Image, form: Form, where: str, *, draft: bool = True) -> tuple[Pixels, int]:
    """The pixels of an opened image, in the form that all images of a data set have.

    Args:
        image: as :func:`opened` gives it.
        form: what to make of it.
        where: what errors call it.
        draft: whether the image may be changed, which makes resizing JPEG files much faster.

    Returns:
        uint8 pixels, CHW, and flags of what was done. An image that is in colour where the form
        has one channel comes with three.

    Raises:
        UndecodableError: if it is damaged.
        SizeError: if it has another size and is not to be resized.
    """
    try:
        if (plain := _plain(image, form)) is not None:
            return plain, 0
        grey = not is_colour(image, form.background)
        if not grey and form.channels == 1:
            form = replace(form, channels=3)
        flags = EXPANDED if grey and form.channels == 3 else 0
        width, height = image.size
        if draft and form.fit is not None and (width, height) != (form.width, form.height):
            _draft(image, form)
        depth = png_depth(image)
        if has_frames(image):
            flags |= FRAMES
        image.load()
        turn = orientation(image)
        if may_be_transparent(image):
            rgba, alpha = _alpha(image, depth)
            image = rgba.convert(form.mode)
            if alpha is not None:
                flags |= TRANSPARENT
                canvas = Image.new(form.mode, image.size, form.colour)
                canvas.paste(image, mask=alpha)
                image = canvas
        elif image.mode != form.mode:
            image = image.convert(form.mode)
        if turn:
            flags |= ROTATED
            image = image.transpose(UPRIGHT[turn])
            if turn >= SIDEWAYS:
                width, height = height, width
        flags |= size_flags(height, width, form)
        if flags & RESIZED:
            if form.fit is None:
                raise size_error(where, height, width, form)
            image = _fitted(image, form)
        pixels = np.asarray(image)
    except UNDECODABLE as error:
        raise _undecodable(where, error) from error
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1), flags


def _plain(image: Image.Image, form: Form) -> Pixels | None:
    """The pixels of an image to which nothing has to be done: most are, and small ones many."""
    if (
        image.mode != ("L" if form.channels == 1 else "RGB")
        or image.size != (form.width, form.height)
        or image.format not in ("PNG", "JPEG")
        or not SPECIAL_KEYS.isdisjoint(image.info)
        or getattr(image, "is_animated", False)
    ):
        return None
    pixels = np.frombuffer(image.tobytes(), np.uint8)  # faster than Pillow's array interface
    if not SPECIAL_KEYS.isdisjoint(image.info):  # found behind the pixels
        return None
    return pixels.reshape(form.height, form.width, form.channels).transpose(2, 0, 1)


def size_error(where: str, height: int, width: int, form: Form) -> SizeError:
    """The error for an image of another size."""
    return SizeError(
        f"{printable(where)}: {height}x{width} pixels, the first image has "
        f"{form.height}x{form.width}; resize all of them with --image-size"
    )


def notes_of(flags_N: Pixels, name: Callable[[int], str], form: Form) -> tuple[Note, ...]:
    """What was done to a data set's images, counted.

    Args:
        flags_N: the flags of each image.
        name: what to call the image of a row.
        form: what they were made into.

    Returns:
        A note for each kind of thing that was done.
    """
    size = f"{form.height}x{form.width}"
    on = "#{:02x}{:02x}{:02x}".format(*form.background)
    kinds = {
        ROTATED: "turned upright, as their EXIF orientation says",
        TRANSPARENT: f"transparent, laid on {on}",
        RESIZED: f"resized to {size}",
        RESHAPED: {
            "crop": f"cropped at two edges for {size}, to keep their aspect ratio",
            "pad": f"padded with {on} for {size}, to keep their aspect ratio",
            "squash": f"squashed to {size}",
        }[form.fit or "crop"],
        FRAMES: "of several frames or pages, of which the first was taken",
        EXPANDED: "grey among images in colour",
    }
    notes = []
    for flag, what in kinds.items():
        rows = np.flatnonzero(flags_N & flag)
        if len(rows):
            first = tuple(name(row) for row in rows[:EXAMPLES].tolist())
            notes.append(Note(f"images {what}", len(rows), first))
    return tuple(notes)


def _undecodable(where: str, error: Exception) -> UndecodableError:
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return _too_large(where)
    why = "no image of a known kind"
    if not isinstance(error, UnidentifiedImageError):
        why = printable(first_line(error))
    return UndecodableError(f"{printable(where)}: cannot be read as an image ({why})")


def _too_large(where: str) -> UndecodableError:
    return UndecodableError(
        f"{printable(where)}: more than the {Image.MAX_IMAGE_PIXELS:,} pixels that are decoded; "
        "make the image smaller"
    )


def _checked(image: Image.Image, where: str) -> Image.Image:
    width, height = image.size
    if width * height > (Image.MAX_IMAGE_PIXELS or math.inf):
        raise _too_large(where)
    if not width * height:
        raise UndecodableError(f"{printable(where)}: an image without pixels")
    try:
        bits = wide(image)
    except UNDECODABLE as error:
        raise _undecodable(where, error) from error
    if bits:
        raise WideError(
            f"{printable(where)} has more than 8 bits per channel ({bits}); convert the images to "
            "8 bits"
        )
    return image


def _alpha(image: Image.Image, depth: int | None = None) -> tuple[Image.Image, Image.Image | None]:
    """The image with four channels, and its alpha channel unless it is opaque everywhere."""
    depth = png_depth(image) if depth is None else depth
    if image.mode == "La":
        image = image.convert("LA")
    if image.mode == "L" and depth < 8:  # Pillow scales the pixels, not the transparent value
        image.load()
        image.info["transparency"] = image.info["transparency"] * 255 // (2**depth - 1)
    rgba = image.convert("RGBA")
    alpha = rgba.getchannel("A")
    least: Any = alpha.getextrema()[0]
    return rgba, alpha if least < 255 else None


def _draft(image: Image.Image, form: Form) -> None:
    """Let a JPEG file be decoded near the size wanted, which is much faster."""
    width, height = image.size
    if form.fit == "pad":
        scale = min(form.width / width, form.height / height)
        wanted = max(1, round(width * scale)), max(1, round(height * scale))
    else:
        wanted = form.width, form.height
    image.draft(form.mode, wanted)


def _fitted(image: Image.Image, form: Form) -> Image.Image:
    """The image in the form's size; one that was drafted may have it already."""
    width, height = image.size
    size = form.width, form.height
    if form.fit == "squash" or width * form.height == height * form.width:
        return image.resize(size, Image.Resampling.BILINEAR)
    if form.fit == "crop":
        scale = min(width / form.width, height / form.height)
        left, top = (width - form.width * scale) / 2, (height - form.height * scale) / 2
        box = (left, top, width - left, height - top)
        return image.resize(size, Image.Resampling.BILINEAR, box=box)
    scale = min(form.width / width, form.height / height)
    inner = max(1, round(width * scale)), max(1, round(height * scale))
    canvas = Image.new(form.mode, size, form.colour)
    place = (form.width - inner[0]) // 2, (form.height - inner[1]) // 2
    canvas.paste(image.resize(inner, Image.Resampling.BILINEAR), place)
    return canvas
