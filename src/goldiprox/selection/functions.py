"""Score functions: pure, ``Evidence -> scores_B``, the higher score is chosen first.

None of them sees a model, a loader, a clock or a random state.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from goldiprox.schema import Evidence

__all__ = [
    "ScoreFunction",
    "bald",
    "capped_reducible_loss",
    "conditional_entropy",
    "entropy",
    "gradient_norm",
    "gradient_norm_bound",
    "gradient_norm_last_layer",
    "label_losses",
    "learnability",
    "loss_minus_conditional_entropy",
    "negative_irreducible_loss",
    "predictive_entropy",
    "reducible_loss",
    "training_loss",
]

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


def capped_reducible_loss(evidence: Evidence) -> Tensor:
    """Training loss, capped at that of a uniform guess, minus irreducible loss, in nats: scores_B.

    A confident model's loss on a wrong label is far above a mild irreducible-loss model's, so that
    plain reducible loss rises with confidence. A guess costs log C; more than that says how
    confident the model is, not how much there is to learn.

    Source: goldiprox. Raises: MissingEvidence if probabilities, labels or irreducible losses are
    absent.
    """
    loss_B = label_losses(evidence)
    guess = math.log(evidence.need("log_probs_BC").shape[1])
    # Not clamp: an infinite loss has to stay one (inf - inf is NaN), or nobody would hear of it.
    return loss_B - (loss_B - guess).relu() - evidence.need("irreducible_B")


def gradient_norm(evidence: Evidence) -> Tensor:
    """Exact norm of the example's gradient over all parameters: scores_B.

    Source: Katharopoulos & Fleuret 2018; Alain et al. 2015.
    Raises: MissingEvidence if ``grad_norm_B`` is absent.
    """
    return evidence.need("grad_norm_B")


def gradient_norm_last_layer(evidence: Evidence) -> Tensor:
    """Norm of the gradient over the last linear layer alone: scores_B.

    Source: what most published code computes under the name GraNd.
    Raises: MissingEvidence if ``grad_norm_last_layer_B`` is absent.
    """
    return evidence.need("grad_norm_last_layer_B")


def gradient_norm_bound(evidence: Evidence) -> Tensor:
    """Norm of the gradient with respect to the logits, ||p - y||: scores_B, at most sqrt(2).

    Source: the upper bound of Katharopoulos & Fleuret 2018, as the RHO-LOSS reference uses it.
    Raises: MissingEvidence if ``grad_norm_bound_B`` is absent.
    """
    return evidence.need("grad_norm_bound_B")


def predictive_entropy(evidence: Evidence) -> Tensor:
    """Entropy of the mean prediction, H[E_q p], in nats: scores_B.

    Source: Mindermann et al. 2022, appendix G.
    Raises: MissingEvidence if ``mc_log_probs_KBC`` is absent.
    """
    return entropy(_mean_log_probs(evidence.need("mc_log_probs_KBC")))


def conditional_entropy(evidence: Evidence) -> Tensor:
    """Mean entropy of the sampled predictions, E_q H[p], in nats: scores_B.

    Source: Mindermann et al. 2022, appendix G.
    Raises: MissingEvidence if ``mc_log_probs_KBC`` is absent.
    """
    return entropy(evidence.need("mc_log_probs_KBC")).mean(0)


def bald(evidence: Evidence) -> Tensor:
    """Mutual information of label and parameters, H[E_q p] - E_q H[p], in nats: scores_B.

    Source: Houlsby et al. 2011 (arXiv:1112.5745); Gal et al. 2017.
    Raises: MissingEvidence if ``mc_log_probs_KBC`` is absent.
    """
    return predictive_entropy(evidence) - conditional_entropy(evidence)


def loss_minus_conditional_entropy(evidence: Evidence) -> Tensor:
    """Loss of the mean prediction minus E_q H[p], in nats: scores_B.

    Source: Mindermann et al. 2022, appendix G: the conditional entropy in the irreducible loss's
    place.
    Raises: MissingEvidence if samples or labels are absent.
    """
    mean_BC = _mean_log_probs(evidence.need("mc_log_probs_KBC"))
    return _label_loss(mean_BC, evidence) - conditional_entropy(evidence)


def learnability(evidence: Evidence) -> Tensor:
    """Loss under the current model minus that under a reference model, in nats: scores_B.

    Source: Evans et al. 2023 (arXiv:2312.05328).
    Raises: MissingEvidence if a loss is absent.
    """
    return evidence.need("loss_B") - evidence.need("reference_B")


def label_losses(evidence: Evidence) -> Tensor:
    """Cross-entropy of each label under the current model, in nats: loss_B.

    Raises: MissingEvidence if probabilities or labels are absent.
    """
    return _label_loss(evidence.need("log_probs_BC"), evidence)


def _label_loss(log_probs_BC: Tensor, evidence: Evidence) -> Tensor:
    return -log_probs_BC.gather(1, evidence.classes().unsqueeze(1)).squeeze(1)


def _mean_log_probs(log_probs_KBC: Tensor) -> Tensor:
    """Log of the mean over samples, without leaving log space."""
    return log_probs_KBC.logsumexp(0) - math.log(log_probs_KBC.shape[0])


def entropy(log_probs: Tensor) -> Tensor:
    """Entropy over the last axis, nats; a class of probability zero adds nothing, not NaN."""
    terms = log_probs.exp() * log_probs
    return -terms.masked_fill(log_probs == -torch.inf, 0.0).sum(-1)
