"""One line of text for one error."""

from __future__ import annotations

from contextlib import suppress

__all__ = ["first_line", "printable"]


def first_line(error: Exception) -> str:
    """What another library's error says, cut to one line.

    Args:
        error: the error.

    Returns:
        Its first line, or its type where it says nothing.
    """
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def printable(text: str) -> str:
    """A name that can be printed on one line and written as UTF-8.

    Args:
        text: such as the name of a file, which may hold any bytes.

    Returns:
        The text, with bytes that are not UTF-8 and characters without a glyph escaped.
    """
    if text.isprintable():
        return text
    with suppress(UnicodeEncodeError):
        text = text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(
        one if one.isprintable() else one.encode("unicode_escape").decode() for one in text
    )
