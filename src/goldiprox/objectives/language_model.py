"""The next token: cross-entropy over the vocabulary, token by token."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from goldiprox.batch import Batch, require_targets
from goldiprox.objectives.base import Metric, Objective, choose, require_tensor, wide
from goldiprox.schema import ConfigError, DataError, id_list

__all__ = ["IGNORED", "LanguageModel"]

IGNORED = -100
"""Label of a token that is not counted, as in transformers."""

LARGEST = math.log(torch.finfo(torch.float64).max)


class LanguageModel(Objective):
    """Cross-entropy of each text's next tokens in nats.

    The model gives logits_BLV; labels are int64 of shape [B, L], token numbers, -100 where a token
    is not counted (padding, prompts). As in transformers, labels are given as they stand under the
    inputs and shifted here: the output at one token is held against the label of the next.

    The loss of an example is the mean over its counted tokens, so a long text weighs as much as a
    short one, in training too; metrics weigh every token alike.

    Args:
        reduction: ``mean`` or ``sum`` over the counted tokens of an example.
        shift: whether to shift the labels; not for models that predict the token they stand under
            (masked language models, taggers, decoders that get shifted inputs).

    Raises:
        ConfigError: for another reduction.
    """

    name = "language-model"
    metrics = (
        Metric(name="nats_per_token", title="nats per token", higher_is_better=False, unit="nats"),
        Metric(name="perplexity", title="perplexity", higher_is_better=False),
        Metric(name="loss", title="loss", higher_is_better=False, unit="nats"),
    )
    per_token = True

    def __init__(self, reduction: Literal["mean", "sum"] = "mean", *, shift: bool = True) -> None:
        if reduction not in ("mean", "sum"):
            raise ConfigError(f'a text\'s loss by "{reduction}"; use mean or sum')
        self.reduction = reduction
        self.shift = shift

    def token_losses(self, output: Any, batch: Batch) -> tuple[Tensor, Tensor]:
        """The loss of every token.

        Returns:
            loss_BL in nats, 0 where a token is not counted and NaN where its label is no token,
            and mask_BL, which tokens are counted. With ``shift`` there is one column less than in
            the labels: column t is about token t + 1.
        """
        logits_BLV, labels_BL = self.fitted(output, batch)
        size = logits_BLV.shape[2]
        mask_BL = labels_BL != IGNORED
        safe_BL = labels_BL.clamp(0, size - 1)
        flat = F.cross_entropy(
            wide(logits_BLV).reshape(-1, size), safe_BL.reshape(-1), reduction="none"
        )
        loss_BL = flat.view(labels_BL.shape).masked_fill(~mask_BL, 0.0)
        return loss_BL.masked_fill(mask_BL & (safe_BL != labels_BL), torch.nan), mask_BL

    def losses(self, output: Any, batch: Batch) -> Tensor:
        """Mean (or sum) over each example's counted tokens: loss_B; NaN where none is counted."""
        loss_BL, mask_BL = self.token_losses(output, batch)
        count_B = mask_BL.sum(1)
        total_B = loss_BL.sum(1)
        if self.reduction == "mean":
            return total_B / count_B  # 0 / 0 is NaN
        return total_B.masked_fill(count_B == 0, torch.nan)

    def fitted(self, output: Any, batch: Batch) -> tuple[Tensor, Tensor]:
        """Logits and labels that belong together, after the shift.

        Raises:
            DataError: if they are not [B, L, V] and [B, L].
        """
        logits, labels = require_tensor(output), require_targets(batch)
        whole = not (labels.is_floating_point() or labels.dtype == torch.bool)
        if logits.dim() != 3 or labels.shape != logits.shape[:2] or not whole:
            raise DataError(
                f"the model's output has the shape {tuple(logits.shape)} and the labels are "
                f"{str(labels.dtype).removeprefix('torch.')} of shape {tuple(labels.shape)}; "
                "objective language-model needs logits of shape [texts, tokens, vocabulary] and "
                "token numbers of shape [texts, tokens]: for one class a text choose "
                f"{choose('classification')}"
            )
        if self.shift:
            logits, labels = logits[:, :-1], labels[:, 1:]
        return logits, labels.to(logits.device, torch.int64, non_blocking=True)

    def require_values(self, targets: Tensor, ids: Tensor, width: int) -> None:
        """Refuse labels outside of the vocabulary, and texts of which no token is counted."""
        labels_BL = targets[:, 1:] if self.shift else targets
        counted_BL = labels_BL != IGNORED
        bad_BL = counted_BL & ((labels_BL < 0) | (labels_BL >= width))
        bad_B, empty_B = bad_BL.any(1), ~counted_BL.any(1)
        if not bool((bad_B | empty_B).any()):
            return
        if bool(bad_B.any()):
            raise DataError(
                f"label {int(labels_BL[bad_BL][0])} is none of the {width} tokens of the model's "
                f"vocabulary (ids {id_list(ids[bad_B])}); labels are token numbers, or {IGNORED} "
                "for tokens that do not count"
            )
        raise DataError(
            f"{int(empty_B.sum())} texts have no token that counts (ids {id_list(ids[empty_B])}): "
            f"all labels{' but the first' if self.shift else ''} are {IGNORED}; leave them out"
        )

    def results(self, output: Any, batch: Batch) -> dict[str, Tensor]:
        """How many tokens are counted."""
        _, labels_BL = self.fitted(output, batch)
        return {"tokens": (labels_BL != IGNORED).sum(1)}

    def measure(self, loss_N: Tensor, results: Mapping[str, Tensor]) -> dict[str, float]:
        """Nats per token and its perplexity, every token alike; the mean loss, every text alike."""
        tokens_N = results["tokens"].double()
        total_N = loss_N.double() * (tokens_N if self.reduction == "mean" else 1.0)
        nats = float(total_N.sum() / tokens_N.sum())
        found = {"nats_per_token": nats, "loss": float(loss_N.double().mean())}
        return {**found, "perplexity": math.exp(nats)} if nats < LARGEST else found
