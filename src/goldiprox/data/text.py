"""From texts to what a text model takes: tokenised once, padded batch by batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from goldiprox.data.inputs import Store
from goldiprox.data.preprocess import Augmentation
from goldiprox.schema import DataError

__all__ = ["Ragged", "TextPreprocessor", "Tokenizer", "Tokens", "tokenise"]

CHUNK = 4096  # texts per call of the tokenizer: it works on them in parallel


class Tokenizer(Protocol):
    """Makes token numbers of texts; special tokens and cutting to a length included.

    Attributes:
        key: tells tokenizers apart that would encode a text differently.
        vocabulary: token numbers are below this.
        max_length: most tokens of one text.
        padding: the number that fills up shorter texts.
    """

    key: str
    vocabulary: int
    max_length: int
    padding: int

    def __call__(self, texts: Sequence[str]) -> list[list[int]]:
        """The token numbers of each text, at most ``max_length``, at least one."""
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class Ragged:
    """The tokens of some texts, one after the other.

    Attributes:
        flat: int32 token numbers of all texts.
        lengths_B: int64, how many of them each text has.
    """

    flat: Tensor
    lengths_B: Tensor


class Tokens:
    """The tokens of all texts of a store, in four bytes each."""

    def __init__(self, flat: Tensor, lengths_N: Tensor) -> None:
        """Keep the tokens; ``lengths_N`` says how many belong to each text."""
        self.flat = flat
        self.lengths_N = lengths_N
        self._starts_N = lengths_N.cumsum(0) - lengths_N

    def __len__(self) -> int:
        return len(self.lengths_N)

    def fetch(self, rows_B: Tensor) -> Ragged:
        """Copy the tokens of these rows.

        Args:
            rows_B: int64 rows, in any order; repeats are allowed.

        Returns:
            Their tokens, in this order.
        """
        lengths_B = self.lengths_N[rows_B]
        ends_B = lengths_B.cumsum(0)
        shift_B = self._starts_N[rows_B] - (ends_B - lengths_B)
        total = int(ends_B[-1]) if len(ends_B) else 0
        places = torch.arange(total) + shift_B.repeat_interleave(lengths_B, output_size=total)
        return Ragged(flat=self.flat[places], lengths_B=lengths_B)


def tokenise(store: Store, tokenizer: Tokenizer) -> Tokens:
    """Tokenise every text of a store.

    Raises:
        DataError: if the store does not hold texts.
    """
    parts: list[Tensor] = []
    lengths: list[int] = []
    for start in range(0, len(store), CHUNK):
        texts = store.fetch(torch.arange(start, min(start + CHUNK, len(store))))
        if not isinstance(texts, list):
            raise DataError(f"expected texts, got {type(texts).__name__}")
        encoded = tokenizer(texts)
        lengths += map(len, encoded)
        parts.append(torch.from_numpy(np.fromiter(chain.from_iterable(encoded), dtype=np.int32)))
    flat = torch.cat(parts) if parts else torch.empty(0, dtype=torch.int32)
    return Tokens(flat, torch.tensor(lengths, dtype=torch.int64))


_KEPT: WeakKeyDictionary[Any, dict[str, Tokens]] = WeakKeyDictionary()
"""Tokens by store and tokenizer, for as long as the store lives: all runs of a comparison share
them."""


@dataclass(frozen=True, kw_only=True, eq=False)
class TextPreprocessor:
    """Tokenise texts once, and pad the tokens of each batch to its longest text.

    Attributes:
        tokenizer: the model's; a data set has none until it meets a model.
    """

    tokenizer: Tokenizer | None = None

    def with_tokenizer(self, tokenizer: Tokenizer) -> TextPreprocessor:
        """The same for a model that takes this tokenizer's tokens."""
        return replace(self, tokenizer=tokenizer)

    @property
    def _known(self) -> Tokenizer:
        if self.tokenizer is None:
            raise DataError("texts met a model before a tokenizer; use with_tokenizer")
        return self.tokenizer

    @property
    def augments(self) -> bool:
        """Texts are never augmented."""
        return False

    def prepare(self, store: Store) -> Tokens:
        """The tokens of all texts; made on the first call, kept while the store lives.

        Raises:
            DataError: if there is no tokenizer yet, or the store does not hold texts.
        """
        tokenizer = self._known
        kept = _KEPT.setdefault(store, {})
        if tokenizer.key not in kept:
            kept[tokenizer.key] = tokenise(store, tokenizer)
        return kept[tokenizer.key]

    def draw(self, count: int, generator: torch.Generator) -> Augmentation | None:
        """Nothing is drawn."""
        del count, generator
        return None

    def __call__(
        self,
        raw: Ragged,
        augmentation: Augmentation | None = None,
        *,
        device: torch.device | str | None = None,
    ) -> dict[str, Tensor]:
        """Fill the texts of a batch up to the longest of them.

        Args:
            raw: the batch's tokens.
            augmentation: None; texts have none.
            device: where to work.

        Returns:
            ``input_ids`` and ``attention_mask``, both int64 of shape [B, longest].

        Raises:
            DataError: if there is no tokenizer yet, or these are no tokens.
        """
        del augmentation
        if not isinstance(raw, Ragged):
            raise DataError(f"expected the tokens of texts, got {type(raw).__name__}")
        longest = int(raw.lengths_B.max()) if len(raw.lengths_B) else 0
        flat = raw.flat.to(device or "cpu", non_blocking=True)
        lengths_B = raw.lengths_B.to(flat.device, non_blocking=True)
        column_L = torch.arange(longest, device=flat.device)
        is_token_BL = column_L < lengths_B[:, None]
        place_BL = (lengths_B.cumsum(0) - lengths_B)[:, None] + column_L
        ids_BL = flat[place_BL.clamp(max=max(len(flat) - 1, 0))].long()
        return {
            "input_ids": ids_BL.masked_fill(~is_token_BL, self._known.padding),
            "attention_mask": is_token_BL.long(),
        }

    def input_shape(self, store: Store) -> tuple[int, ...]:
        """Longest text and size of the vocabulary, in tokens."""
        del store
        return self._known.max_length, self._known.vocabulary

    def without_augmentation(self) -> TextPreprocessor:
        """Itself."""
        return self

    def describe(self) -> dict[str, Any]:
        """That these are texts; how they are tokenised is the model's affair."""
        return {"kind": "text"}
