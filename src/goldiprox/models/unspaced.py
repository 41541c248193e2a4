"""Texts in scripts that are written without spaces, such as Thai, Chinese and Japanese.

Finding their words takes dictionaries. Here each character counts as a word, together with the
vowel signs, tone marks and stacked consonants on it, so that texts never seen before are made of
known words all the same.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from functools import cache

__all__ = ["spaced"]

Ranges = tuple[tuple[int, int], ...]

SYLLABIC: Ranges = (
    (0x0E01, 0x0E5B),  # Thai
    (0x0E81, 0x0EFF),  # Lao
    (0x1000, 0x109F),  # Burmese
    (0xA9E0, 0xA9FF),
    (0xAA60, 0xAA7F),
    (0x1780, 0x17FF),  # Khmer
    (0x1950, 0x19DF),  # Tai Le, New Tai Lue
    (0x1A20, 0x1AAF),  # Tai Tham
    (0xAA80, 0xAADF),  # Tai Viet
    (0x1B00, 0x1B7F),  # Balinese
    (0xA980, 0xA9DF),  # Javanese
    (0x3041, 0x30FF),  # hiragana, katakana
    (0x31F0, 0x31FF),
    (0xFF66, 0xFF9F),
    (0x1AFF0, 0x1B16F),
    (0x3105, 0x312F),  # bopomofo
    (0xA000, 0xA48F),  # Yi
)
"""Scripts with signs of their own on and around their letters."""

IDEOGRAPHS: Ranges = (
    (0x3005, 0x3007),  # marks of repetition, zero
    (0x2B820, 0x2B91F),
    (0x2CEB0, 0x2F7FF),
    (0x2FA20, 0x323AF),
)
"""Those that the library tokenizers does not cut apart itself: it knows the other blocks."""

STACKING = "\u17d2\u1039\u1a60\u1b44\ua9c0"
"""Signs that put the next consonant below the one before: Khmer, Burmese, Tai Tham and others."""

VOICING = (0xFF9E, 0xFF9F)
"""Signs on half-width katakana, which Unicode counts as letters."""

SIGNS = "\u0300-\u036f\uff9e\uff9f"
"""Signs besides those that a script has for itself."""

SEPARATOR = "\u200b"
"""A space of no width, which some texts have between words."""


def spaced(text: str) -> str:
    """Put spaces around each character of the scripts that have none; other texts are unchanged."""
    if text.isascii() or not _any().search(text):
        return text
    return _clusters().sub(r" \g<0> ", text)


@cache
def _any() -> re.Pattern[str]:
    """Finds quickly whether there is anything to do."""
    return re.compile(f"[{_class(SYLLABIC)}{_class(IDEOGRAPHS)}{SEPARATOR}]")


@cache
def _clusters() -> re.Pattern[str]:
    letters, marks = _class(_within(SYLLABIC, "L")), _class(_within(SYLLABIC, "M"))
    return re.compile(
        f"[{letters}{_class(IDEOGRAPHS)}](?:[{STACKING}][{letters}]|[{marks}{SIGNS}])*|{SEPARATOR}"
    )


def _class(ranges: Iterable[tuple[int, int]]) -> str:
    return "".join(f"{chr(low)}-{chr(high)}" for low, high in ranges)


def _within(ranges: Ranges, category: str) -> Iterator[tuple[int, int]]:
    """The parts of some ranges that are of one of Unicode's categories."""
    for low, high in ranges:
        start = None
        for number in range(low, high + 2):
            inside = number <= high and unicodedata.category(chr(number)).startswith(category)
            inside &= number not in VOICING
            if inside and start is None:
                start = number
            elif not inside and start is not None:
                yield start, number - 1
                start = None
