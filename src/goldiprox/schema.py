"""The words every room of the house shares: evidence, selection, the shape legend, the errors.

Shape legend. A tensor's name ends in the letters of its shape, so that no comment has to say it:

====== =====================================================================
letter  meaning
====== =====================================================================
``N``   examples of a data set, or rows of a table
``B``   candidates of one pool (the large batch that selection looks at)
``k``   examples chosen from a pool (the small batch that is trained on)
``C``   classes
``D``   features
``K``   Monte-Carlo samples
``L``   tokens of a batch's longest text
``H W`` image height and width; ``BCHW`` is a batch of images (here ``C`` is channels)
====== =====================================================================

Losses and entropies are in nats and per example (unreduced) wherever they carry a ``_B`` suffix.
Scores point one way everywhere: the higher score is chosen first.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from goldiprox.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    GoldiproxError,
    MissingEvidence,
    NonFinite,
    SequenceError,
    TableError,
)

__all__ = [
    "CheckpointError",
    "ConfigError",
    "DataError",
    "Evidence",
    "GoldiproxError",
    "MissingEvidence",
    "NonFinite",
    "Selection",
    "SequenceError",
    "TableError",
    "are_sparse",
    "id_list",
    "require_seed",
]


LARGEST_SEED = 2**63 - 2**32
"""Above it, a seed with a replica's number added may no longer fit into 64 bits. Derived seeds lie
below it but for one in two thousand million."""


def require_seed(flag: str, seed: int) -> None:
    """Refuse a seed that records and random generators cannot hold.

    Raises:
        ConfigError: naming the flag, the value and the range.
    """
    if not 0 <= seed <= LARGEST_SEED:
        raise ConfigError(f"{flag} is {seed}; give a whole number from 0 to {LARGEST_SEED}")


SPARSE = 64
"""Highest id for each example from which on ids are hashes or the like, not numbers of rows."""


def are_sparse(lowest: int, highest: int, count: int) -> bool:
    """Whether ids in this range are hashes or the like, for which addresses would be mostly holes.

    Only such ids may be negative: among row numbers, -1 is a mistake.
    """
    return max(highest, -lowest) >= SPARSE * max(count, 1 << 14)


def id_list(ids: Tensor, shown: int = 5) -> str:
    """The first few ids of a tensor, for an error message: ``17, 29, 30, ...``."""
    text = ", ".join(str(int(i)) for i in ids[:shown])
    return text + (", ..." if ids.numel() > shown else "")


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Everything known of one pool of B candidates.

    Only ``ids_B`` is always there. The other fields are filled when a method declares that it
    needs them; reading one that is absent through :meth:`need` raises :class:`MissingEvidence`.

    Attributes:
        ids_B: int64, the examples' ids.
        targets_B: int64 class labels as used in training (noise included).
        loss_B: training loss under the current model, nats, unreduced, float32.
        irreducible_B: irreducible loss looked up in a score table, nats, float32.
        reference_B: loss under a reference model that is trained beside the current one, nats.
        log_probs_BC: log-probabilities under the current model, nats.
        mc_log_probs_KBC: log-probabilities under K samples of its dropout masks, nats.
        features_BD: inputs of the model's last linear layer.
        grad_norm_bound_B: norm of each example's gradient with respect to the logits.
        grad_norm_last_layer_B: norm of its gradient over the last linear layer.
        grad_norm_B: exact norm of each example's gradient over all trainable parameters.
        pair_logits_BB: contrastive learning: similarity, scaled and shifted, of view i of one kind
            and view j of the other under the current model; pairs stand on the diagonal.
        reference_pair_logits_BB: the same under a reference model.
    """

    ids_B: Tensor
    targets_B: Tensor | None = None
    loss_B: Tensor | None = None
    irreducible_B: Tensor | None = None
    reference_B: Tensor | None = None
    log_probs_BC: Tensor | None = None
    mc_log_probs_KBC: Tensor | None = None
    features_BD: Tensor | None = None
    grad_norm_bound_B: Tensor | None = None
    grad_norm_last_layer_B: Tensor | None = None
    grad_norm_B: Tensor | None = None
    pair_logits_BB: Tensor | None = None
    reference_pair_logits_BB: Tensor | None = None

    def __len__(self) -> int:
        return int(self.ids_B.shape[0])

    def need(self, field: str) -> Tensor:
        """Return a field that must be there.

        Args:
            field: the name of an attribute of this class.

        Returns:
            The tensor.

        Raises:
            MissingEvidence: if nobody supplied it; the message says who could have.
        """
        value = getattr(self, field)
        if value is None:
            raise MissingEvidence(f"{field} is needed for scoring but absent: {SUPPLIERS[field]}")
        assert isinstance(value, Tensor)
        return value

    def classes(self) -> Tensor:
        """The labels as class numbers: int64 of shape [B].

        Raises:
            MissingEvidence: if there are none.
            ConfigError: if they are probabilities of each class.
        """
        targets_B = self.need("targets_B")
        if targets_B.is_floating_point():
            raise ConfigError(
                f"the labels are {targets_B.dtype} of shape {tuple(targets_B.shape)}, not class "
                "numbers: this method needs one class an example; choose by the loss instead "
                "(rho-loss, loss)"
            )
        return targets_B

    def at(self, positions: Tensor) -> Evidence:
        """The same evidence for other candidates of the pool, in the given order.

        Args:
            positions: int64 positions in the pool; repeats are allowed.

        Returns:
            Evidence whose every field is indexed by ``positions`` on each candidate axis.
        """
        taken: dict[str, Tensor | None] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None:
                axis = 1 if field.name.endswith("_KBC") else 0
                value = value.index_select(axis, positions)
                if field.name.endswith("_BB"):
                    value = value.index_select(1, positions)
            taken[field.name] = value
        return Evidence(**taken)  # type: ignore[arg-type]


CALLER = "no classifier gives it; compute it in your loop, choose(pool, known={...})"

SUPPLIERS: dict[str, str] = {
    "targets_B": "pass the labels of the batch",
    "loss_B": "supplied by a scoring pass (goldiprox.evidence.forward)",
    "irreducible_B": "supplied by an irreducible-loss table; make one with: goldiprox irreducible",
    "reference_B": "supplied by a model trained beside the current one, as goldiprox train does",
    "log_probs_BC": "supplied by a scoring pass over a classifier (goldiprox.evidence.forward)",
    "mc_log_probs_KBC": "supplied by a scoring pass over a classifier that has dropout layers",
    "features_BD": "supplied by a scoring pass over a model that ends in a linear layer",
    "grad_norm_bound_B": "supplied by a scoring pass over a classifier",
    "grad_norm_last_layer_B": "supplied by a scoring pass over a model that ends in a linear layer",
    "grad_norm_B": "supplied by a scoring pass with gradients (goldiprox.evidence.gradients)",
    "pair_logits_BB": CALLER,
    "reference_pair_logits_BB": CALLER,
}
"""For each optional field of :class:`Evidence`, who fills it."""


@dataclass(frozen=True, kw_only=True)
class Selection:
    """What a selector chose from a pool.

    Attributes:
        positions_k: int64 positions in the pool.
        ids_k: the ids at these positions.
        weights_k: float32 weights of the chosen examples in the mean loss; ones unless a method
            corrects for how it sampled.
        weighted: whether the weights are anything but ones.
        scores_B: the scores of the whole pool where the selector had any, for the log.
    """

    positions_k: Tensor
    ids_k: Tensor
    weights_k: Tensor
    scores_B: Tensor | None = None
    weighted: bool = True

    def __len__(self) -> int:
        return int(self.ids_k.shape[0])

    @staticmethod
    def of(
        ids_B: Tensor,
        positions_k: Tensor,
        weights_k: Tensor | None = None,
        scores_B: Tensor | None = None,
    ) -> Selection:
        """Build a selection from positions, with equal weights unless given."""
        weighted = weights_k is not None
        if weights_k is None:
            weights_k = torch.ones(positions_k.shape, dtype=torch.float32, device=ids_B.device)
        return Selection(
            positions_k=positions_k,
            ids_k=ids_B.index_select(0, positions_k),
            weights_k=weights_k,
            scores_B=scores_B,
            weighted=weighted,
        )
