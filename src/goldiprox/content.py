"""Ids made of an example's content, for data whose examples have no place to be numbered by.

A stream, shards that are shuffled, a corpus that grows: the number of an example changes, its bytes
do not. The id is 64 bits of BLAKE2b of the *raw* bytes (a file as it lies on disk, a text in
UTF-8), before any decoding, resizing or tokenising; the label is left out, so that correcting it
keeps the id. As an int64 with its sign it goes through batches, tables and logs as it is. Among
10^8 different examples two share an id with a probability of 0.03 %.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from goldiprox.schema import ConfigError, id_list

__all__ = ["Duplicates", "content_id", "duplicates"]


def content_id(raw: bytes | bytearray | memoryview) -> int:
    """The id of an example with these raw bytes: an int64, negative for half of all contents.

    Example::

        ids = [goldiprox.content_id(path.read_bytes()) for path in paths]
        data = goldiprox.with_ids(data, ids)

    Args:
        raw: the example without its label, before any processing; a text as
            ``text.encode("utf-8")``.

    Raises:
        ConfigError: if it is anything but bytes.
    """
    given: object = raw
    if not isinstance(given, bytes | bytearray | memoryview):
        way = '.encode("utf-8")' if isinstance(given, str) else ".tobytes(), or the file's bytes"
        raise ConfigError(
            f"content_id takes the raw bytes of an example, not a {type(raw).__name__}: use {way}"
        )
    return int.from_bytes(hashlib.blake2b(raw, digest_size=8).digest(), "little", signed=True)


@dataclass(frozen=True, kw_only=True)
class Duplicates:
    """How often contents come more than once.

    Attributes:
        examples: how many there are.
        distinct: how many different ids they have.
        counts: for each id that comes more than once, how often, in the order of the ids.
    """

    examples: int
    distinct: int
    counts: dict[int, int]

    def __str__(self) -> str:
        text = f"{self.examples} examples with {self.distinct} different contents"
        if not self.counts:
            return text
        first = id_list(torch.tensor(list(self.counts)), 3)
        return f"{text}; {len(self.counts)} contents come more than once (ids {first})"


def duplicates(ids: Iterable[int] | Tensor | npt.NDArray[np.int64]) -> Duplicates:
    """Count the examples that share their content.

    Args:
        ids: of all examples, as :func:`content_id` gives them.
    """
    if isinstance(ids, Tensor):
        ids_N = ids.cpu().numpy()
    else:
        ids_N = ids if isinstance(ids, np.ndarray) else np.fromiter(ids, dtype=np.int64)
    unique, counts = np.unique(ids_N, return_counts=True)
    several = counts > 1
    return Duplicates(
        examples=int(ids_N.size),
        distinct=int(unique.size),
        counts=dict(zip(unique[several].tolist(), counts[several].tolist(), strict=True)),
    )
