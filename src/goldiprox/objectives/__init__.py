"""What a model is trained for: losses, what is right, metrics; by name or of the user's own.

``base`` says what an objective is; each of the others is one; ``registry`` knows them by name.
Adding one: a file like ``multilabel``, a line in ``registry.OBJECTIVES``, and
``tests/unit/test_objectives.py`` runs over it.
"""

from goldiprox.objectives.base import (
    ACCURACY,
    MATTHEWS,
    Metric,
    Objective,
    require_losses,
)
from goldiprox.objectives.classification import Classification, log_probabilities
from goldiprox.objectives.language_model import LanguageModel
from goldiprox.objectives.multilabel import Multilabel
from goldiprox.objectives.registry import CLASSIFICATION, OBJECTIVES, Given, objective
from goldiprox.objectives.regression import Regression

__all__ = [
    "ACCURACY",
    "CLASSIFICATION",
    "MATTHEWS",
    "OBJECTIVES",
    "Classification",
    "Given",
    "LanguageModel",
    "Metric",
    "Multilabel",
    "Objective",
    "Regression",
    "log_probabilities",
    "objective",
    "require_losses",
]
