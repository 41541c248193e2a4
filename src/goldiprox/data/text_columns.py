"""Texts as users bring them: Arrow columns of several types, strings and bytes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from goldiprox.data.messages import first_line
from goldiprox.data.notes import EXAMPLES, Note
from goldiprox.schema import DataError

__all__ = ["as_text", "is_bytes", "is_encodable", "is_text", "text_column", "unspaced"]

UNSPACED = r"[\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Hiragana}\p{Katakana}\p{Han}]"
SHOWN = 20  # characters of a text that a note shows


def is_text(kind: Any) -> bool:
    """Whether an Arrow type is one of strings, kept as a dictionary (category) or not."""
    kind = _within(kind)
    return bool(
        pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    )


def is_bytes(kind: Any) -> bool:
    """Whether an Arrow type is one of bytes, kept as a dictionary (category) or not."""
    kind = _within(kind)
    return bool(
        pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
        or pa.types.is_fixed_size_binary(kind)
        or pa.types.is_binary_view(kind)
    )


def as_text(value: Any) -> str | None:
    """A string, or bytes that are a text in UTF-8, as a text; None for anything else."""
    if isinstance(value, str):
        return str(value)
    if isinstance(value, bytes) and b"\0" not in value:  # no text, but most images, have zeros
        try:
            return value.decode()
        except UnicodeDecodeError:
            return None
    return None


def is_encodable(text: str) -> bool:
    """Whether a text has no half of a character (a lone surrogate)."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def text_column(values: pa.ChunkedArray, where: str) -> pa.ChunkedArray:
    """A column of texts in Arrow's usual form.

    Args:
        values: strings or bytes in UTF-8, plain or as a dictionary (pandas' category).
        where: file and column, for messages.

    Returns:
        The same texts as ``large_string``, in the chunks they came in.

    Raises:
        DataError: if the column holds something else, a text is null or is not UTF-8.
    """
    kind = values.type
    if not (is_text(kind) or is_bytes(kind)):
        raise DataError(f"{where} holds {kind}, texts expected")
    if values.null_count:
        row = values.is_null().index(True).as_py()
        raise DataError(
            f"{where}: {values.null_count} texts are null (first: row {row}); leave the row out, "
            'or write an empty text (in CSV as "", and NA or null as "NA" or "null")'
        )
    try:
        texts = values.cast(_within(kind)).cast(pa.large_string())
        texts.validate(full=True)  # files may hold anything in a column of strings
    except pa.ArrowInvalid as error:
        raise DataError(
            f"{where}: a text is not in UTF-8 ({first_line(error)}); encode all texts so"
        ) from error
    return texts


def unspaced(texts: pa.Array) -> tuple[Note, ...]:
    """How many texts are in scripts without spaces: the words of these are not looked for.

    Args:
        texts: of the type ``large_string``, none null.

    Returns:
        A note if there are any.
    """
    data = texts.buffers()[2]
    if data is None:
        return ()
    # Such scripts take bytes of this range in UTF-8: far quicker to see than by the expression.
    octets = np.frombuffer(data, np.uint8)
    if (
        octets.max(initial=0) < 0xE0
        or not ((octets >= 0xE0) & (octets <= 0xEA) & (octets != 0xE2)).any()
    ):
        return ()
    such = texts.filter(pc.match_substring_regex(texts, UNSPACED))
    what = (
        "texts in scripts without spaces, of which built-in models take each character for a word"
    )
    first = tuple(f"{text.as_py()[:SHOWN]}" for text in such[:EXAMPLES])
    return (Note(what, len(such), first),) if len(such) else ()


def _within(kind: Any) -> Any:
    return kind.value_type if pa.types.is_dictionary(kind) else kind
