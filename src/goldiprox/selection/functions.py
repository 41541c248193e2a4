"""Score functions: pure, ``Evidence -> scores_B``, the higher score is chosen first.

None of them sees a model, a loader, a clock or a random state.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from goldiprox.schema import Evidence

__all__ = ["ScoreFunction", "negative_irreducible_loss", "reducible_loss", "training_loss"]

ScoreFunction = Callable[[Evidence], Tensor]


def training_loss(evidence: Evidence) -> Tensor:
    """Loss under the current model, in nats: scores_B.

    Source: Loshchilov & Hutter 2015; as a selection function Kawaguchi & Lu 2020.
    Raises: MissingEvidence if ``loss_B`` is absent.
    """
    return evidence.need("loss_B")


def negative_irreducible_loss(evidence: Evidence) -> Tensor:
    """Minus the irreducible loss, in nats: scores_B. Skips noise, not what is already learnt.

    Source: Mindermann et al. 2022, section 4 (baseline "negative IL").
    Raises: MissingEvidence if ``irreducible_B`` is absent.
    """
    return -evidence.need("irreducible_B")


def reducible_loss(evidence: Evidence) -> Tensor:
    """Training loss minus irreducible loss, in nats: scores_B. May be negative.

    Source: Mindermann et al. 2022, eq. 8.
    Raises: MissingEvidence if a loss is absent.
    """
    return evidence.need("loss_B") - evidence.need("irreducible_B")
