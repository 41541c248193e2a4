"""Per-example gradient norms: exact over all parameters, of the last layer, and the logit bound.

Where rules cover the layers, the exact norms cost one forward and one backward pass and no
per-example gradient is held:

* ``exact`` cuts micro-batches, ``engine`` runs the passes, ``routes`` remembers by which way,
* ``tape`` finds where the parameters meet the batch, ``order`` whether rows are the examples',
* ``rules``, ``norm_rules`` and ``operations`` know the layers,
* ``ledger`` adds up the uses of a parameter and ``products`` does the arithmetic,
* ``fallback`` materialises the gradients of what no rule covers;
* ``gram`` and ``gram_products`` take inner products of logits' gradients in the same way.

``last_layer`` has the cheap relatives under names of their own. Every norm is of one example's
own, unreduced loss, so batch size and micro-batch size do not change it.
"""

from goldiprox.evidence.gradients.exact import (
    GradientPass,
    cross_entropy,
    gradient_norms,
    run_model,
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
from goldiprox.evidence.gradients.routes import without_checks

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
    "without_checks",
]
