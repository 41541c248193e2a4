"""What a batch is: a tuple or a dict of B examples that carries their ids.

Ids travel inside the batch from the data set to the log, so no prefetching loader can mix them up.

* tuple or list: ``(ids_B, inputs, targets_B, ...)``, as :func:`goldiprox.with_ids` makes them;
  ``inputs`` may be a dict of tensors, the model's named inputs;
* dict: ``{"id": ids_B, "labels": targets_B, ...}``, everything else being the model's inputs.

Mappings of other types (transformers' ``BatchEncoding``) count as dicts, named tuples as tuples; a
dataclass counts as a dict if it has a field ``id``, else as a tuple. What each field may hold is
said in :mod:`goldiprox.entries`.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from goldiprox.entries import Cut, Layout, Positions, Span, cut, opened, transformed
from goldiprox.schema import DataError

__all__ = [
    "ID",
    "Batch",
    "IdKey",
    "ids_of",
    "lengths_of",
    "micro_batches",
    "model_output",
    "require_targets",
    "take",
    "targets_of",
    "to_device",
    "trimmed",
]

ID = "id"
TARGET_KEYS = ("labels", "label", "targets", "target")

Batch = Any
"""A tuple, list or dict as described above."""


class IdKey(str):
    """The key of a mapping's ids where it is not ``id``, recognisable wherever it goes.

    It equals the plain text. Collate functions that go through the keys of the items, as torch's
    and transformers' do, hand it on, and so do loaders with workers. Those that spell the keys out
    leave plain text, which is recognised by the keys that were ever made in this process.
    """

    __slots__ = ()
    made: ClassVar[set[str]] = set()

    def __new__(cls, text: str) -> IdKey:
        """Make one, and remember that it was made."""
        cls.made.add(text)
        return super().__new__(cls, text)


def usual(batch: Batch) -> Batch:
    """A dataclass as the dict or tuple that it stands for; anything else as it is."""
    fields = opened(batch)
    if fields is batch or ID in fields:
        return fields
    return tuple(fields.values())


def id_key(batch: Mapping[Any, Any]) -> str:
    """The key under which a mapping carries its ids: what :func:`goldiprox.with_ids` was given.

    Raises:
        DataError: if that may be either of two keys.
    """
    for key in batch:
        if type(key) is IdKey:
            return key
    plain = [key for key in batch if key in IdKey.made] if IdKey.made else ()
    if plain and (ID in batch or len(plain) > 1):
        raise DataError(
            f'the batch\'s ids may stand under "{plain[0]}", a key that was given to with_ids, or '
            f'under "{ID if ID in batch else plain[1]}": let the collate function keep the keys of '
            "the items themselves (for key in items[0]), or drop the one that is no id"
        )
    return plain[0] if plain else ID


def ids_of(batch: Batch) -> Tensor:
    """The ids of a batch: int64 of shape [B].

    Raises:
        DataError: if the batch carries no integer ids.
    """
    if type(batch) is not tuple:  # as it nearly always is
        batch = usual(batch)
    if isinstance(batch, tuple | list):
        ids = batch[0] if batch else None
    elif isinstance(batch, Mapping):
        ids = batch.get(id_key(batch))
    else:
        raise DataError(
            f"the batch is a {type(batch).__name__}, not a tuple or dict that carries ids; wrap "
            "the data set with goldiprox.with_ids"
        )
    ids_B = ids if isinstance(ids, Tensor) else _numbers(ids)
    if ids_B is None or ids_B.dim() != 1 or not _is_whole(ids_B.dtype):
        raise DataError(
            f"the batch carries no integer ids {_where(batch)}{_instead(ids, ids_B)}; wrap the "
            "data set with goldiprox.with_ids, or, if it is wrapped, let no collate function and "
            "no remove_unused_columns=True drop or change the ids"
        )
    if ids_B.dtype == torch.int64:
        return ids_B
    if ids_B.dtype == torch.uint64 and bool((ids_B.long() < 0).any()):
        raise DataError(
            f"the batch carries ids of 2**63 or more {_where(batch)}; ids are 64-bit integers with "
            "a sign: number the examples, or take such ids as signed ones from the start"
        )
    return ids_B.long()


def _where(batch: Batch) -> str:
    """Where the ids of a batch belong, for messages."""
    if not isinstance(batch, Mapping):
        return "as its first element"
    key = id_key(batch)
    held = "" if key in batch else f" (it has: {', '.join(map(str, batch)) or 'nothing'})"
    return f'under the key "{key}"{held}'


def _numbers(ids: Any) -> Tensor | None:
    """Ids that a collate function left as a list or array; None if they are no numbers."""
    if isinstance(ids, list | tuple) and not all(type(i) is int for i in ids):
        return None
    if not isinstance(ids, list | tuple | np.ndarray):
        return None
    try:
        return torch.as_tensor(ids, dtype=None if len(ids) else torch.int64)
    except (TypeError, ValueError, RuntimeError):  # texts; beyond 64 bits
        return None


def _is_whole(dtype: torch.dtype) -> bool:
    return not (dtype.is_floating_point or dtype.is_complex or dtype == torch.bool)


def _instead(ids: Any, ids_B: Tensor | None) -> str:
    """What is in the place of the ids, for the message."""
    if ids is None:
        return ""
    if ids_B is not None:
        return f", but {str(ids_B.dtype).removeprefix('torch.')} of shape {tuple(ids_B.shape)}"
    first = ids[0] if isinstance(ids, list | tuple) and ids else ids
    kind = f"{type(ids).__name__} of {type(first).__name__}" if first is not ids else ""
    return f", but a {kind or type(ids).__name__}"


def targets_of(batch: Batch) -> Tensor | None:
    """The targets of a batch where they stand in the usual place, else None."""
    if type(batch) is not tuple:
        batch = usual(batch)
    if isinstance(batch, Mapping):
        found = next((batch[key] for key in TARGET_KEYS if key in batch), None)
    else:
        found = batch[2] if len(batch) > 2 else None
    return found if isinstance(found, Tensor) else _listed(found)


def _listed(targets: Any) -> Tensor | None:
    """Targets that a collate function left as an array or a list of numbers; None if it is none."""
    if isinstance(targets, list) and not all(type(t) in (int, float, bool) for t in targets):
        return None
    if not isinstance(targets, list | np.ndarray):
        return None
    try:
        return torch.as_tensor(targets)
    except (TypeError, ValueError, RuntimeError):  # texts; beyond 64 bits
        return None


def require_targets(batch: Batch) -> Tensor:
    """The targets of a batch.

    Raises:
        DataError: if they do not stand in the usual place.
    """
    targets_B = targets_of(batch)
    if targets_B is None:
        raise DataError(
            "the batch has no labels in the usual place (third element of a tuple, or one of the "
            f"keys {', '.join(TARGET_KEYS)}); put them there, or in a loop of your own say with "
            "per_example_loss= how the loss is made"
        )
    return targets_B


def take(batch: Batch, positions: Tensor, layout: Layout | None = None) -> Batch:
    """The examples of a batch at some positions, in the batch's own structure.

    Args:
        batch: tuple, list, dict, named tuple or dataclass; nested as deep as one likes.
        positions: int64 positions on the leading axis.
        layout: what other pools told of the same structure; learns from this one.

    Returns:
        The same structure; tensors, arrays and lists with one entry for each example are indexed,
        scalars kept.

    Raises:
        DataError: if a field has neither one entry for each example nor none at all.
    """
    return _cut(batch, Positions(positions), layout)


def micro_batches(batch: Batch, size: int | None, layout: Layout | None = None) -> Iterator[Batch]:
    """Cut a batch into consecutive parts of at most ``size`` examples (None: one part).

    Raises:
        DataError: see :func:`take`.
    """
    if size is None or size >= (count := _leading_size(batch)):
        yield batch
        return
    for start in range(0, count, size):
        yield _cut(batch, Span(slice(start, min(start + size, count))), layout)


PADDED = ("input_ids", "attention_mask")
"""Named inputs that :class:`goldiprox.data.text.TextPreprocessor` fills up to the longest text."""


def lengths_of(batch: Batch) -> Tensor | None:
    """Columns of each text of a tuple batch up to its last token: int64 of shape [B].

    None if it holds no texts. Columns, not tokens: in batches of one's own the padding may stand
    before the text.
    """
    inputs = batch[1] if isinstance(batch, tuple | list) and len(batch) > 1 else None
    if not isinstance(inputs, Mapping) or set(inputs) != set(PADDED):
        return None
    mask_BL: Tensor = inputs["attention_mask"]
    if mask_BL.dim() != 2 or not mask_BL.numel():
        return None
    column_L = torch.arange(1, mask_BL.shape[1] + 1, device=mask_BL.device)
    return (mask_BL.bool() * column_L).amax(1)


def trimmed(batch: Batch, *, per_token: bool = False) -> Batch:
    """A batch of texts without the padding that only absent, longer texts needed.

    A batch of anything else is handed through.

    Args:
        batch: a tuple whose inputs are ``input_ids`` and ``attention_mask``, or anything.
        per_token: whether its targets have an entry for each token, and are cut like them.
    """
    lengths_B = lengths_of(batch)
    if lengths_B is None:
        return batch
    longest = int(lengths_B.max())
    rest = (batch[2][:, :longest], *batch[3:]) if per_token else batch[2:]
    return (batch[0], {key: batch[1][key][:, :longest] for key in PADDED}, *rest)


def to_device(batch: Batch, device: torch.device) -> Batch:
    """Move every tensor of a batch; what is there already is handed through."""

    def moved(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value.to(device, non_blocking=True)
        if isinstance(value, PackedSequence):
            return value.to(device)  # type: ignore[arg-type] # its stub knows dtypes only
        return value

    return transformed(batch, moved)


def inputs_of(batch: Batch) -> Any:
    """What of a batch a model is run on: a tuple's second element, or a dict's other columns.

    Raises:
        DataError: if a tuple has no second element.
    """
    batch = usual(batch)
    if not isinstance(batch, Mapping):
        if len(batch) < 2:
            raise DataError(
                "the batch has no inputs beside its ids; let it be (ids, inputs, targets, ...)"
            )
        return batch[1]
    ids = id_key(batch)
    return {k: v for k, v in batch.items() if k != ids and k not in TARGET_KEYS}


def run_on(model: nn.Module, inputs: Any) -> Any:
    """``model(inputs)``, or ``model(**inputs)`` if they have names.

    Named inputs of texts or None go to the model only if its ``forward`` names them: in a batch
    they may stand for their own sake.

    Raises:
        DataError: if the model does not take an input of some name.
    """
    if not isinstance(inputs, Mapping):
        return model(inputs)
    texts = [key for key, value in inputs.items() if _is_text(value)]
    if texts:
        unnamed = set(texts).difference(_parameters_of(model))
        inputs = {key: value for key, value in inputs.items() if key not in unnamed}
    try:
        return model(**inputs)
    except TypeError as error:
        if "unexpected keyword argument" not in str(error):
            raise
        raise DataError(
            f"{error}: leave that column out of the batch, or say with logits= how the model is run"
        ) from error


def _is_text(value: Any) -> bool:
    """Whether a value holds nothing but texts and None."""
    if isinstance(value, Mapping):
        return all(map(_is_text, value.values()))
    if isinstance(value, list | tuple):
        return all(map(_is_text, value))
    if isinstance(value, np.ndarray):
        return value.dtype.kind in "SU" or (value.dtype.kind == "O" and _is_text(value.tolist()))
    return value is None or isinstance(value, str | bytes)


def _parameters_of(model: nn.Module) -> frozenset[str]:
    """The names that a model's ``forward`` takes; those of the model that a wrapper holds."""
    for name in ("_orig_mod", "module"):  # torch.compile, DistributedDataParallel
        inner = getattr(model, name, None)
        if isinstance(inner, nn.Module):
            return _parameters_of(inner)
    return frozenset(inspect.signature(model.forward).parameters)


def model_output(model: nn.Module, batch: Batch) -> Any:
    """Run a model on a batch: ``model(inputs)``, or ``model(**inputs)`` if they have names.

    Returns:
        What the model returned. Logits are unwrapped where it says which they are: an attribute
        or a key ``logits`` (transformers' models), or the only thing in a dict, list or tuple.
        Which of several tensors is meant is not guessed.
    """
    output = run_on(model, inputs_of(batch))
    if isinstance(output, Tensor):
        return output
    if isinstance(output, Mapping):
        only = next(iter(output.values())) if len(output) == 1 else output
        return output.get("logits", only)
    if isinstance(output, tuple | list) and len(output) == 1:
        return output[0]
    return getattr(output, "logits", output)


def _leading_size(batch: Batch) -> int:
    return int(ids_of(batch).shape[0])


def _cut(batch: Batch, how: Cut, layout: Layout | None) -> Batch:
    return cut(batch, _leading_size(batch), how, layout)


def stack_outputs(parts: list[Tensor]) -> Tensor:
    """Join what micro-batches returned; one part is handed through without a copy."""
    return parts[0] if len(parts) == 1 else torch.cat(parts)
