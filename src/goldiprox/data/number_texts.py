"""Columns of texts that are numbers: beside marks of missing ones, or written for readers."""

from __future__ import annotations

import re

import pyarrow as pa

from goldiprox.data.text_columns import is_text
from goldiprox.schema import DataError

__all__ = ["numbers_of_texts"]

MISSING_MARKS = frozenset(
    ("", "?", "-", "--", ".", "*", "na", "n/a", "n.a.", "#n/a", "<na>", "nan", "nil", "none",
     "null", "missing")
)  # fmt: skip
"""What stands for a missing number among numbers, beside what CSV readers know, in any case."""

PLAIN_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
DRESSED_NUMBER = re.compile(
    r"[+-]?[$€£¥]?\s?[+-]?"
    r"(\d+([.,]\d+)?|\d{1,3}([.,'\u2019\s]\d{3})+([.,]\d+)?|[.,]\d+)\s?[%$€£¥]?"
)
"""Numbers with decimal commas, separators of thousands, signs of currency or per cent."""


def numbers_of_texts(values: pa.ChunkedArray, where: str) -> pa.ChunkedArray:
    """A column of texts as numbers if it holds them, beside marks of missing ones.

    Whole numbers that were written as texts on purpose are codes of categories.

    Args:
        values: a column.
        where: file and column, for messages.

    Returns:
        Numbers, null where they are missing; the column as it is where it holds something else.

    Raises:
        DataError: if the numbers are written for readers, as ``1,234`` or ``5 %`` are.
    """
    if not is_text(values.type):
        return values
    found = [text.strip() for text in values.unique().to_pylist() if text is not None]
    numbers = [text for text in found if text.lower() not in MISSING_MARKS]
    if not numbers or not all(DRESSED_NUMBER.fullmatch(t) or _is_number(t) for t in numbers):
        return values
    texts = [(text or "").strip() for text in values.to_pylist()]
    if dressed := next((text for text in numbers if not _is_number(text)), None):
        raise DataError(
            f"{where} holds numbers as texts (row {texts.index(dressed)}: {dressed!r}); write them "
            "plainly, such as 1234.5"
        )
    if len(numbers) == len(found) and all(text.lstrip("+-").isdigit() for text in numbers):
        return values
    given = [float(text) if _is_number(text) else None for text in texts]
    return pa.chunked_array([pa.array(given, pa.float64())])


def _is_number(text: str) -> bool:
    return PLAIN_NUMBER.fullmatch(text) is not None
