"""Joint choice for contrastive learning, where an example's loss depends on the others: JEST."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from goldiprox.schema import ConfigError, Evidence, Selection
from goldiprox.selection.sampling import gumbel_top_k
from goldiprox.selection.selectors import require_at_most, require_finite

__all__ = ["JointChoice", "sigmoid_pair_losses"]

Loss = Literal["sigmoid", "softmax"]


def sigmoid_pair_losses(logits_BB: Tensor) -> Tensor:
    """Loss of each pair of views under the sigmoid contrastive loss: loss_BB, nats.

    Args:
        logits_BB: scaled and shifted similarity of view i of one kind and view j of the other; the
            pairs that belong together stand on the diagonal.

    Source: SigLIP (Zhai et al. 2023, arXiv:2303.15343).
    """
    signed_BB = logits_BB.clone()
    signed_BB.diagonal().neg_()
    return F.softplus(signed_BB)


@dataclass(frozen=True)
class JointChoice:
    """Choose the batch that is learnable as a whole, chunk by chunk.

    The learnability of a batch is its loss under the learner minus that under a reference model.
    Each chunk is drawn without replacement in proportion to exp(what a candidate adds to the
    learnability, given those chosen so far).

    With the sigmoid loss a batch's loss is the sum over its pairs, and what candidate i adds to the
    chosen S is M_ii + sum over j in S of (M_ij + M_ji), M being the matrix of differences: the
    paper's rule. With the softmax loss the same is computed from the running normalisers of rows
    and columns; candidates then add nothing on their own, so the first chunk is uniform.

    Source: JEST (Evans et al. 2024, arXiv:2406.17711), sigmoid loss. For the softmax loss the same
    principle is spelt out here.

    Attributes:
        loss: ``sigmoid`` or ``softmax``.
        chunks: how many turns; the more, the better the later ones know the earlier ones.
        temperature: the lower, the greedier.
    """

    loss: Loss = "sigmoid"
    chunks: int = 16
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if self.loss not in ("sigmoid", "softmax"):
            raise ConfigError(f'joint choice knows no loss "{self.loss}"; known: sigmoid, softmax')
        if self.chunks < 1 or not self.temperature > 0:
            raise ConfigError(
                f"joint choice in {self.chunks} chunks at temperature {self.temperature} is "
                "impossible: at least one chunk and a positive temperature"
            )

    def __call__(self, evidence: Evidence, k: int, generator: torch.Generator) -> Selection:
        """Choose; needs the pair logits of learner and reference."""
        size = len(evidence)
        require_at_most(k, size)
        # In the order of ids, so that the order of the pool does not matter.
        by_id_B = evidence.ids_B.argsort()
        ids_B = evidence.ids_B[by_id_B]
        learner_BB = _by_id(evidence.need("pair_logits_BB"), by_id_B, ids_B)
        reference_BB = _by_id(evidence.need("reference_pair_logits_BB"), by_id_B, ids_B)
        own_BB = sigmoid_pair_losses(learner_BB) - sigmoid_pair_losses(reference_BB)
        # Differences of sums are sums of differences; with the softmax loss each has a state.
        terms: list[tuple[float, _AddedSigmoid | _AddedSoftmax]] = [(1.0, _AddedSigmoid(own_BB))]
        if self.loss == "softmax":
            terms = [(1.0, _AddedSoftmax(learner_BB)), (-1.0, _AddedSoftmax(reference_BB))]
        taken_B = torch.zeros(size, dtype=torch.bool, device=ids_B.device)
        chosen = torch.empty(0, dtype=torch.int64, device=ids_B.device)
        turns = min(self.chunks, k)
        for turn in range(turns):
            count = (turn + 1) * k // turns - turn * k // turns
            adds_B = torch.stack([sign * term.given_B for sign, term in terms]).sum(0)
            weights_B = (adds_B / self.temperature).masked_fill(taken_B, -torch.inf)
            drawn = gumbel_top_k(weights_B, ids_B, count, generator)
            taken_B[drawn] = True
            chosen = torch.cat([chosen, drawn])
            for _, term in terms:
                term.take(drawn)
        scores_B = torch.empty_like(own_BB[0])
        scores_B[by_id_B] = own_BB.diagonal()
        return Selection.of(evidence.ids_B, by_id_B[chosen], scores_B=scores_B.float())


def _by_id(logits_BB: Tensor, by_id_B: Tensor, ids_B: Tensor) -> Tensor:
    ordered_BB = logits_BB.index_select(0, by_id_B).index_select(1, by_id_B)
    require_finite(ordered_BB.sum(1), ids_B, "pair logit")
    return ordered_BB


class _AddedSigmoid:
    """What each candidate adds to a sum over pairs of those taken: ``given_B``."""

    def __init__(self, pairs_BB: Tensor) -> None:
        self._both_BB = pairs_BB + pairs_BB.T
        self.given_B = pairs_BB.diagonal().double()

    def take(self, drawn: Tensor) -> None:
        self.given_B += self._both_BB[drawn].sum(0)


class _AddedSoftmax:
    """What each candidate adds to the softmax loss of those taken, rows and columns averaged."""

    def __init__(self, logits_BB: Tensor) -> None:
        self._logits_BB = logits_BB.double()
        self._taken = torch.empty(0, dtype=torch.int64, device=logits_BB.device)
        self.given_B = torch.zeros_like(logits_BB.diagonal(), dtype=torch.float64)

    def take(self, drawn: Tensor) -> None:
        self._taken = torch.cat([self._taken, drawn])
        self.given_B = 0.5 * (self._added(self._logits_BB) + self._added(self._logits_BB.T))

    def _added(self, logits_BB: Tensor) -> Tensor:
        """For rows as queries: the candidate's own loss, and the growth of the others'."""
        own_B = logits_BB.diagonal()
        normaliser_B = logits_BB[:, self._taken].logsumexp(1)
        others_kB = logits_BB[self._taken]
        theirs_k1 = normaliser_B[self._taken].unsqueeze(1)
        growth_B = (torch.logaddexp(theirs_k1, others_kB) - theirs_k1).sum(0)
        return torch.logaddexp(own_B, normaliser_B) - own_B + growth_B
