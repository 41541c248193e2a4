"""What a batch is: a tuple or a dict of B examples that carries their ids.

Ids travel inside the batch from the data set to the log, so no prefetching loader can mix them up.

* tuple or list: ``(ids_B, inputs, targets_B, ...)``, as :func:`goldiprox.with_ids` makes them;
  ``inputs`` may be a dict of tensors, the model's named inputs;
* dict: ``{"id": ids_B, "labels": targets_B, ...}``, everything else being the model's inputs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from goldiprox.schema import DataError

__all__ = [
    "ID",
    "Batch",
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


def ids_of(batch: Batch) -> Tensor:
    """The ids of a batch: int64 of shape [B].

    Raises:
        DataError: if the batch carries no integer ids.
    """
    ids = batch.get(ID) if isinstance(batch, Mapping) else batch[0]
    if not isinstance(ids, Tensor) or ids.dim() != 1 or ids.is_floating_point():
        where = f'under the key "{ID}"' if isinstance(batch, Mapping) else "as its first element"
        raise DataError(
            f"the batch carries no integer ids {where}; wrap the data set with goldiprox.with_ids"
        )
    return ids.long()


def targets_of(batch: Batch) -> Tensor | None:
    """The targets of a batch where they stand in the usual place, else None."""
    if isinstance(batch, Mapping):
        found = next((batch[key] for key in TARGET_KEYS if key in batch), None)
    else:
        found = batch[2] if len(batch) > 2 else None
    return found if isinstance(found, Tensor) else None


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


def take(batch: Batch, positions: Tensor) -> Batch:
    """The examples of a batch at some positions, in the batch's own structure.

    Args:
        batch: tuple, list, dict or tensor; nested as deep as one likes.
        positions: int64 positions on the leading axis.

    Returns:
        The same structure; tensors are indexed, lists of examples too, other values kept.
    """
    size = _leading_size(batch)
    return _take(batch, positions, size)


def micro_batches(batch: Batch, size: int | None) -> Iterator[Batch]:
    """Cut a batch into consecutive parts of at most ``size`` examples (None: one part)."""
    count = _leading_size(batch)
    if size is None or size >= count:
        yield batch
        return
    for start in range(0, count, size):
        yield _cut(batch, start, min(start + size, count), count)


PADDED = ("input_ids", "attention_mask")
"""Named inputs that :class:`goldiprox.data.text.TextPreprocessor` fills up to the longest text."""


def lengths_of(batch: Batch) -> Tensor | None:
    """Columns of each text of a tuple batch up to its last token: int64 of shape [B].

    None if it holds no texts. Columns, not tokens: in batches of one's own the padding may stand
    before the text.
    """
    inputs = None if isinstance(batch, Mapping) or len(batch) < 2 else batch[1]
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
    if isinstance(batch, Tensor):
        return batch.to(device, non_blocking=True)
    if isinstance(batch, Mapping):
        return {key: to_device(value, device) for key, value in batch.items()}
    if isinstance(batch, tuple | list):
        parts = [to_device(value, device) for value in batch]
        return type(batch)(*parts) if hasattr(batch, "_fields") else type(batch)(parts)
    return batch


def model_output(model: nn.Module, batch: Batch) -> Any:
    """Run a model on a batch: ``model(inputs)``, or ``model(**inputs)`` if they have names.

    Returns:
        What the model returned. Logits are unwrapped where it says which they are: an attribute
        or a key ``logits`` (transformers' models), or the only thing in a dict, list or tuple.
        Which of several tensors is meant is not guessed.
    """
    if isinstance(batch, Mapping):
        inputs: Any = {k: v for k, v in batch.items() if k != ID and k not in TARGET_KEYS}
    else:
        inputs = batch[1]
    output = model(**inputs) if isinstance(inputs, Mapping) else model(inputs)
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


def _map(batch: Batch, size: int, index: Any, pick: Any) -> Batch:
    """Apply ``index`` to every tensor and ``pick`` to every list with one entry an example."""
    if isinstance(batch, Tensor):
        return index(batch) if batch.dim() > 0 and batch.shape[0] == size else batch
    if isinstance(batch, Mapping):
        return {key: _map(value, size, index, pick) for key, value in batch.items()}
    if isinstance(batch, tuple | list):
        is_leaf = len(batch) == size and not any(isinstance(v, Tensor | Mapping) for v in batch)
        if is_leaf:
            return pick(batch)
        parts = [_map(value, size, index, pick) for value in batch]
        return type(batch)(*parts) if hasattr(batch, "_fields") else type(batch)(parts)
    return batch


def _take(batch: Batch, positions: Tensor, size: int) -> Batch:
    return _map(
        batch,
        size,
        lambda t: t.index_select(0, positions.to(t.device)),
        lambda values: type(values)(values[i] for i in positions.tolist()),
    )


def _cut(batch: Batch, start: int, stop: int, size: int) -> Batch:
    return _map(batch, size, lambda t: t[start:stop], lambda values: values[start:stop])


def stack_outputs(parts: list[Tensor]) -> Tensor:
    """Join what micro-batches returned; one part is handed through without a copy."""
    return parts[0] if len(parts) == 1 else torch.cat(parts)
