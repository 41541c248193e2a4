"""One line of text for one error."""

from __future__ import annotations

__all__ = ["first_line"]


def first_line(error: Exception) -> str:
    """What another library's error says, cut to one line.

    Args:
        error: the error.

    Returns:
        Its first line, or its type where it says nothing.
    """
    return str(error).splitlines()[0] if str(error) else type(error).__name__
