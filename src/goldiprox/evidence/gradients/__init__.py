"""Per-example gradient norms: exact over all parameters, of the last layer, and the logit bound.

The exact norms cost one forward and one backward pass and hold no per-example gradients:

* ``exact`` runs the passes,
* ``tape`` finds where the parameters meet the batch,
* ``rules``, ``norm_rules`` and ``operations`` know the layers,
* ``ledger`` adds up the uses of a parameter and ``products`` does the arithmetic,
* ``fallback`` serves what no rule covers;
* ``gram`` and ``gram_products`` take inner products of logits' gradients in the same way.

``last_layer`` has the cheap relatives under names of their own. Every norm is of one example's
own, unreduced loss, so batch size and micro-batch size do not change it.
"""

from goldiprox.evidence.gradients.exact import (
    GradientPass,
    cross_entropy,
    gradient_norms,
    run_model,
    undisturbed,
)
from goldiprox.evidence.gradients.gram import tangent_kernel
from goldiprox.evidence.gradients.last_layer import (
    LastLayer,
    feature_norms,
    last_layer_gradient_norms,
    last_layer_norms,
    logit_gradient_norms,
    penultimate_features,
    require_vectors,
    scaled_by_features,
)

__all__ = [
    "GradientPass",
    "LastLayer",
    "cross_entropy",
    "feature_norms",
    "gradient_norms",
    "last_layer_gradient_norms",
    "last_layer_norms",
    "logit_gradient_norms",
    "penultimate_features",
    "require_vectors",
    "run_model",
    "scaled_by_features",
    "tangent_kernel",
    "undisturbed",
]
