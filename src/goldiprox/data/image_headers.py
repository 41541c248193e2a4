"""What an image says of itself: bits, colour, orientation, transparency; nothing is decoded."""

from __future__ import annotations

import re
import struct
import zlib

from PIL import Image, UnidentifiedImageError

__all__ = [
    "SIDEWAYS",
    "SPECIAL_KEYS",
    "UNDECODABLE",
    "UPRIGHT",
    "has_frames",
    "is_colour",
    "may_be_transparent",
    "orientation",
    "png_depth",
    "wide",
]

UNDECODABLE = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    RuntimeError,
    MemoryError,
    struct.error,
    zlib.error,
    UnidentifiedImageError,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)
"""What Pillow's readers raise of files that are damaged, or no images: they check little."""

ORIENTATION = 0x0112
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What turns an image upright, by its EXIF orientation."""
SIDEWAYS = 5
"""From this orientation on width and height change places."""
EXIF_KEYS = frozenset({"exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp"})
SPECIAL_KEYS = EXIF_KEYS | {"transparency"}
"""What an image's ``info`` holds if its pixels are not all there is to it."""
PLAIN_PNG = frozenset({"L", "RGB", "RGBA", "LA", "P"})
"""How Pillow calls the usual kinds of PNG, which need no closer look."""
HEAD = 1 << 16
"""Bytes at either end of a file that are searched for what Pillow does not tell."""


def wide(image: Image.Image) -> str | None:
    """What says that an image has more than 8 bits a channel, where something does.

    Pillow reduces many such images to 8 bits without a word, so that its mode alone says little.
    """
    mode = image.mode
    if mode[0] in "IF":  # I;16 and its kin
        return f"mode {mode}"
    kind = image.format
    if kind == "JPEG":
        return None  # Pillow opens no others
    if kind == "PNG" and image.tile and image.tile[0].args in PLAIN_PNG:  # type: ignore[attr-defined]
        return None
    for codec, _, _, arguments in getattr(image, "tile", ()):
        raw = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
        if isinstance(raw, str) and ";16" in raw and not raw.startswith("BGR"):  # BGR;16 is 5-6-5
            return f"stored as {raw}"
        if codec.startswith("ppm") and arguments[-1] > 255:
            return f"values up to {arguments[-1]}"
        if codec == "SGI16" or (codec == "sgi_rle" and arguments[-1] == 2):
            return "16 bits"
    if kind == "TIFF":
        bits = image.tag_v2.get(258, (8,))  # type: ignore[attr-defined]
        return f"{max(bits)} bits" if max(bits) > 8 else None
    if kind in ("JPEG2000", "AVIF"):
        return _wide_by_header(image)
    return None


def _wide_by_header(image: Image.Image) -> str | None:
    """Bits of JPEG 2000 and AVIF, whose readers give 8 of them whatever there are."""
    if (file := getattr(image, "fp", None)) is None:
        return None
    place = file.tell()
    file.seek(0)
    head = file.read(HEAD)
    file.seek(place)
    bits = 8
    if image.format == "AVIF":  # av1C: the bits high_bitdepth and twelve_bit of its third byte
        for match in re.finditer(rb"av1C(.{3})", head, re.DOTALL):
            bits = max(bits, 8 + 2 * (match[1][2] >> 6 & 1) + 2 * (match[1][2] >> 5 & 1))
    elif (start := head.find(b"\xff\x4f\xff\x51")) >= 0:  # the bits of each component
        depths = head[start + 42 :: 3][: struct.unpack(">H", head[start + 40 : start + 42])[0]]
        bits = max((depth & 0x7F) + 1 for depth in depths)
    return f"{bits} bits" if bits > 8 else None


def is_colour(image: Image.Image, background: tuple[int, int, int]) -> bool:
    """Whether an image needs three channels, on this background."""
    if image.mode not in ("1", "L", "LA", "La"):
        return True
    return len(set(background)) > 1 and may_be_transparent(image)


def may_be_transparent(image: Image.Image) -> bool:
    """Whether an image has an alpha channel or a transparent colour, used or not."""
    mode = image.mode
    if mode in ("LA", "La", "PA", "RGBA", "RGBa"):
        return True
    if mode == "P" and image.palette is not None and image.palette.mode.endswith("A"):
        return True
    if mode == "RGB":
        return isinstance(image.info.get("transparency"), tuple)
    return "transparency" in image.info and mode in ("1", "L", "P")


def has_frames(image: Image.Image) -> bool:
    """Whether there is more than one; the second picture of a camera's MPO file is no frame."""
    if image.format in (None, "JPEG", "MPO"):
        return False
    try:
        if image.format == "TIFF":
            return bool(image.n_frames > 1)  # type: ignore[attr-defined]
        return bool(getattr(image, "is_animated", False))
    except UNDECODABLE:
        return False  # the first frame may be whole nevertheless


def orientation(image: Image.Image) -> int | None:
    """The EXIF orientation where it is not upright."""
    if image.format == "TIFF" or not (EXIF_KEYS & image.info.keys() or _late_exif(image)):
        return None  # Pillow itself turns TIFF images upright, their size too
    try:
        turn = image.getexif().get(ORIENTATION)
    except UNDECODABLE:
        return None  # a damaged note beside pixels that are not
    return turn if turn in UPRIGHT else None


def _late_exif(image: Image.Image) -> bool:
    """Whether a PNG file that is not decoded yet has its EXIF data behind its pixels."""
    file = getattr(image, "fp", None)
    if image.format != "PNG" or file is None or not getattr(image, "tile", None):
        return False
    place = file.tell()
    end = file.seek(0, 2)
    file.seek(max(place, end - HEAD))
    late = b"eXIf" in file.read()
    file.seek(place)
    return late


def png_depth(image: Image.Image) -> int:
    """Bits of a grey PNG image that is not decoded yet."""
    for _, _, _, arguments in getattr(image, "tile", ()):
        raw = arguments[0] if isinstance(arguments, tuple) else arguments
        if image.format == "PNG" and raw in ("L;2", "L;4"):
            return int(raw[2:])
    return 8
