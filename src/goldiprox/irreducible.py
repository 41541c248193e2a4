"""Irreducible losses from a model of one's own: one pass over a loader, one table."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from goldiprox.batch import Batch, model_output, targets_of, to_device
from goldiprox.evidence.forward import ScoringPass
from goldiprox.evidence.mode import device_of, random_state_kept
from goldiprox.objectives import CLASSIFICATION, Given
from goldiprox.records.label_sample import LABEL_SAMPLE, label_sample
from goldiprox.records.tables import IRREDUCIBLE_LOSS, ScoreTable
from goldiprox.schema import NonFinite, TableError, id_list
from goldiprox.wrap import carried_ids

__all__ = ["irreducible_losses"]

Losses = npt.NDArray[np.float32]

SAME = 1e-2
"""Nats, or share, by which an example's losses in different batches may differ (low precision)."""


def irreducible_losses(
    model: nn.Module,
    batches: Iterable[Batch],
    *,
    objective: Given = CLASSIFICATION,
    logits: Callable[[nn.Module, Batch], Any] = model_output,
    per_example_loss: Callable[[nn.Module, Batch], Tensor] | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> ScoreTable:
    """Score examples with a model of one's own that was trained on holdout data.

    Args:
        model: in evaluation mode during the pass; left as it was, as are the random states.
        batches: a loader over ``goldiprox.with_ids(data)``; moved to the model's device.
        objective: what the model was trained for, as :class:`goldiprox.Chooser` takes it.
        logits: how to get the output that the objective takes, where the default does not fit.
        per_example_loss: how to get loss_B, in the objective's place.
        provenance: recorded with the table when it is written.

    Returns:
        A table with the column ``irreducible_loss``, in nats for cross-entropy. An example that
        the loader draws again (with replacement, or to fill up a process's share) counts once.

    Raises:
        ConfigError: if the loader's data set joins parts that share ids.
        TableError: if an id comes again with another loss.
        DataError: if the model's output or the targets do not fit the objective.
        NonFinite: if a loss is NaN or infinite; the message names the ids.
    """
    carried_ids(getattr(batches, "dataset", None))
    scoring = ScoringPass(
        model,
        batchnorm="running",
        objective=objective,
        logits=logits,
        per_example_loss=per_example_loss,
    )
    said: dict[str, Any] = (
        {} if per_example_loss is not None else {"objective": scoring.objective.name}
    )
    ids: list[Tensor] = []
    losses: list[Tensor] = []
    labels: list[Tensor | None] = []
    with random_state_kept(model):  # the loader's too
        for batch in batches:
            evidence = scoring(to_device(batch, device_of(model)), {"loss_B"})
            ids.append(evidence.ids_B.cpu())
            losses.append(evidence.need("loss_B").cpu())
            labels.append(_class_numbers(batch, len(ids[-1])))
            bad_B = ~losses[-1].isfinite()
            if bool(bad_B.any()):
                scoring.blame(batch)
                raise NonFinite(
                    f"the irreducible loss is NaN or infinite for {int(bad_B.sum())} of "
                    f"{len(bad_B)} examples (ids {id_list(ids[-1][bad_B])}); look at these "
                    "examples, or at the model's weights"
                )
    ids_N = torch.cat(ids).numpy() if ids else np.empty(0, dtype=np.int64)
    losses_N = torch.cat(losses).numpy() if ids else np.empty(0, dtype=np.float32)
    first_N = _each_once(ids_N, losses_N)
    classes = [labels_B for labels_B in labels if labels_B is not None]
    if classes and len(classes) == len(labels):
        labels_N = torch.cat(classes).numpy()[first_N]
        said[LABEL_SAMPLE] = label_sample(ids_N[first_N], labels_N)
    return ScoreTable(
        ids_N=ids_N[first_N],
        columns={IRREDUCIBLE_LOSS: losses_N[first_N]},
        provenance={"kind": "irreducible-loss", **said, **(provenance or {})},
    )


def _class_numbers(batch: Batch, size: int) -> Tensor | None:
    """A batch's labels if they are one class number for each example: int64, on the host."""
    targets_B = targets_of(batch)
    if targets_B is None or targets_B.shape != (size,) or targets_B.is_floating_point():
        return None
    return targets_B.cpu().long()


def _each_once(ids_N: npt.NDArray[np.int64], losses_N: Losses) -> npt.NDArray[np.int64]:
    """Where each id came first, in the order that they came in.

    Raises:
        TableError: if an id came again with another loss, hence with another example.
    """
    unique, first, inverse = np.unique(ids_N, return_index=True, return_inverse=True)
    if unique.size == ids_N.size:
        return np.arange(ids_N.size)
    same_N = np.isclose(losses_N, losses_N[first][inverse], rtol=SAME, atol=SAME, equal_nan=True)
    if not same_N.all():
        other = torch.from_numpy(np.unique(ids_N[~same_N]))
        raise TableError(
            f"{other.numel()} ids came more than once, with different losses (first: "
            f"{id_list(other, 3)}): either parts of the data were numbered each by itself (wrap "
            "the whole with goldiprox.with_ids), or a sampler that repeats examples met random "
            "transforms (score without augmentation)"
        )
    return np.sort(first)
