"""Joint choice for contrastive learning, where an example's loss depends on the others: JEST."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from goldiprox.schema import ConfigError, Evidence, Selection
from goldiprox.selection.ranking import (
    fetch,
    keyed_uniforms,
    require_at_most,
    require_finite,
    tie_key,
    top_k,
)
from goldiprox.selection.sampling import gumbel_noise, require_temperature

__all__ = ["JointChoice", "sigmoid_pair_losses"]

Loss = Literal["sigmoid", "softmax"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


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
        if self.chunks < 1:
            raise ConfigError(f"joint choice in {self.chunks} chunks is impossible: at least one")
        require_temperature(self.temperature)

    def __call__(self, evidence: Evidence, k: int, generator: torch.Generator) -> Selection:
        """Choose; needs the pair logits of learner and reference."""
        require_at_most(k, len(evidence))
        learner_BB = evidence.need("pair_logits_BB")
        reference_BB = evidence.need("reference_pair_logits_BB")
        own_B = _own_losses(learner_BB) - _own_losses(reference_BB)
        matrices: tuple[Tensor, ...] = (learner_BB, reference_BB)
        if self.loss == "sigmoid":
            pairs_BB = F.softplus(learner_BB).sub_(F.softplus(reference_BB))
            matrices = (pairs_BB + pairs_BB.T,)
        turns = min(self.chunks, k)
        noise_turns_B = gumbel_noise(keyed_uniforms(evidence.ids_B, generator, turns, own_B))
        # Drawn on the CPU, where many small operations are cheapest; all that it takes comes over
        # at once. One check for both: what is not finite stays so in a sum.
        sums_B = learner_BB.sum(1) + reference_BB.sum(1)
        sums_B, first_B, noise_turns_B, ids_B, *matrices_BB = fetch(
            sums_B, own_B, noise_turns_B, evidence.ids_B, *matrices
        )
        require_finite(sums_B, evidence.ids_B, "pair logit")
        added = (
            _AddedSigmoid(first_B, *matrices_BB)
            if self.loss == "sigmoid"
            else _AddedSoftmax(*matrices_BB)
        )
        key = tie_key(generator)
        drawn_by_turn = [np.empty(0, dtype=np.int64)]
        for turn, noise_B in enumerate(noise_turns_B.numpy()):
            count = (turn + 1) * k // turns - turn * k // turns
            drawn = _highest(added.given_B / self.temperature + noise_B, ids_B, count, key)
            added.take(drawn)
            drawn_by_turn.append(drawn)
        positions_k = torch.from_numpy(np.concatenate(drawn_by_turn))
        positions_k = positions_k.to(evidence.ids_B.device, non_blocking=True)
        return Selection.of(evidence.ids_B, positions_k, scores_B=own_B.float())


def _own_losses(logits_BB: Tensor) -> Tensor:
    """Sigmoid loss of each candidate's own pair: loss_B."""
    return F.softplus(-logits_BB.diagonal())


def _highest(values_B: Floats, ids_B: Tensor, count: int, key: int) -> Ints:
    """Positions of the highest values, from the highest down."""
    best: Ints = top_k(torch.from_numpy(values_B), ids_B, count, key).numpy()
    return best[(-values_B[best]).argsort(kind="stable")]


class _AddedSigmoid:
    """What each candidate adds to the learnability of those taken: ``given_B``.

    Args:
        own_B: what it adds on its own.
        both_BB: what the two pairs add that one candidate makes with another.
    """

    def __init__(self, own_B: Tensor, both_BB: Tensor) -> None:
        self._both_BB = both_BB.numpy()
        self.given_B: Floats = own_B.numpy().astype(np.float64)

    def take(self, drawn: Ints) -> None:
        """Take some more; they cannot be taken again."""
        self.given_B += self._both_BB[drawn].sum(0)
        self.given_B[drawn] = -np.inf


class _AddedSoftmax:
    """The same for the softmax loss, rows and columns averaged, from both models' logits."""

    def __init__(self, learner_BB: Tensor, reference_BB: Tensor) -> None:
        self._logits_BB = learner_BB.double(), reference_BB.double()
        self._taken = torch.empty(0, dtype=torch.int64)
        self.given_B: Floats = np.zeros(len(learner_BB))

    def take(self, drawn: Ints) -> None:
        """Take some more; they cannot be taken again."""
        self._taken = torch.cat([self._taken, torch.from_numpy(drawn)])
        learner_B, reference_B = (
            0.5 * (self._added(logits_BB) + self._added(logits_BB.T))
            for logits_BB in self._logits_BB
        )
        self.given_B = (learner_B - reference_B).numpy()
        self.given_B[self._taken.numpy()] = -np.inf

    def _added(self, logits_BB: Tensor) -> Tensor:
        """For rows as queries: the candidate's own loss, and the growth of the others'."""
        own_B = logits_BB.diagonal()
        normaliser_B = logits_BB[:, self._taken].logsumexp(1)
        others_kB = logits_BB[self._taken]
        theirs_k1 = normaliser_B[self._taken].unsqueeze(1)
        growth_B = (torch.logaddexp(theirs_k1, others_kB) - theirs_k1).sum(0)
        return torch.logaddexp(own_B, normaliser_B) - own_B + growth_B
