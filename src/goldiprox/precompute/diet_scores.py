"""Scores of single examples, from one look at a model or from watching it train.

Every score points one way: higher is harder, and is kept first when data is pruned. So margins
stand here with their sign turned: how far the label's logit falls short of the best other one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from goldiprox.schema import ConfigError, Evidence
from goldiprox.selection.functions import entropy

__all__ = [
    "SCORES",
    "Forgetting",
    "MarginArea",
    "Score",
    "input_norm",
    "missing_margin",
    "predictive_entropy",
    "score",
    "score_names",
]

Kind = Literal["snapshot", "initial", "watched", "input", "irreducible"]


@dataclass(frozen=True, kw_only=True)
class Score:
    """An entry of SCORES.

    Attributes:
        name: as on the command line.
        kind: ``snapshot`` needs a look at the model after an epoch, ``initial`` before the first;
            ``watched`` follows the training; ``input`` needs no model; ``irreducible`` comes from
            an irreducible-loss table.
        meaning: in a few words.
        source: where it was published.
        needs: evidence that a snapshot is made of.
        function: Evidence -> score_B, of a snapshot.
        turned: whether it is published the other way round, low for hard examples, and stands here
            with its sign turned.
        note: what a user of it must know.
        of_classes: whether it means something for classification alone.
    """

    name: str
    kind: Kind
    meaning: str
    source: str
    needs: frozenset[str] = field(default_factory=frozenset)
    function: Callable[[Evidence], Tensor] | None = None
    turned: bool = False
    note: str | None = None
    of_classes: bool = False

    @property
    def column(self) -> str:
        """Its name in a score table."""
        return self.name.replace("-", "_")


def missing_margin(logits_BC: Tensor, targets_B: Tensor) -> Tensor:
    """How far the label's logit falls short of the highest other logit: max_c z_c - z_y, nats.

    Negative where the label is predicted. Log-probabilities give the same as logits.

    Args:
        logits_BC: logits or log-probabilities of at least two classes.
        targets_B: int64 class labels.

    Returns:
        margin_B.
    """
    at_B1 = targets_B.unsqueeze(1)
    others_BC = logits_BC.scatter(1, at_B1, -torch.inf)
    return others_BC.amax(1) - logits_BC.gather(1, at_B1).squeeze(1)


def predictive_entropy(log_probs_BC: Tensor) -> Tensor:
    """Entropy of the predicted distribution, nats: entropy_B."""
    return entropy(log_probs_BC)


def input_norm(inputs_B: Tensor) -> Tensor:
    """Euclidean norm of each preprocessed input: norm_B. Knows no model: a control for GraNd.

    Raises:
        ConfigError: if the inputs are not one tensor of numbers.
    """
    if not isinstance(inputs_B, Tensor) or not inputs_B.is_floating_point():
        raise ConfigError(
            "input-norm is the length of a vector of numbers, which inputs of this kind "
            f"({type(inputs_B).__name__}) are not; leave it out of --scores"
        )
    norm_B: Tensor = torch.linalg.vector_norm(inputs_B.flatten(1), dim=1)
    return norm_B


class Forgetting:
    """Counts forgetting events, between the visits in which an example was in the mini-batch.

    An event: classified correctly at one visit and wrongly at the next (Toneva et al. 2018).

    Args:
        count: number of examples.
    """

    def __init__(self, count: int) -> None:
        self.visits_N = torch.zeros(count, dtype=torch.int64)
        self.events_N = torch.zeros(count, dtype=torch.int64)
        self.first_learnt_N = torch.zeros(count, dtype=torch.int64)
        self._was_correct_N = torch.zeros(count, dtype=torch.bool)

    def visit(self, positions_k: Tensor, correct_k: Tensor, epoch: int) -> None:
        """Examples were in a mini-batch.

        Args:
            positions_k: int64, all different, on the CPU.
            correct_k: bool, whether the label was predicted, just before the step.
            epoch: the visit's, 1 in the first pass over the data.
        """
        self.visits_N[positions_k] += 1
        self.events_N[positions_k] += self._was_correct_N[positions_k] & ~correct_k
        new_k = correct_k & (self.first_learnt_N[positions_k] == 0)
        self.first_learnt_N[positions_k[new_k]] = epoch
        self._was_correct_N[positions_k] = correct_k

    @property
    def never_learnt_N(self) -> Tensor:
        """Bool, whether an example was classified correctly at no visit."""
        return self.first_learnt_N == 0

    def scores_N(self) -> Tensor:
        """float32 events; for the never-learnt the highest number of visits.

        That is more than any count can be, for an event takes two visits; 0 would call the hardest
        examples the easiest.
        """
        most = self.visits_N.max() if self.visits_N.numel() else 0
        return torch.where(self.never_learnt_N, most, self.events_N).float()

    def state_dict(self) -> dict[str, Tensor]:
        """What a checkpoint must keep."""
        return {
            "visits": self.visits_N,
            "events": self.events_N,
            "first_learnt": self.first_learnt_N,
            "was_correct": self._was_correct_N,
        }

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from a checkpoint."""
        self.visits_N, self.events_N = state["visits"], state["events"]
        self.first_learnt_N, self._was_correct_N = state["first_learnt"], state["was_correct"]


class MarginArea:
    """Mean missing margin over the visits: the area under the margin with its sign turned.

    Source: Pleiss et al. 2020, who average z_y - max other over the epochs and look for low values.

    Args:
        count: number of examples.
    """

    def __init__(self, count: int) -> None:
        self.visits_N = torch.zeros(count, dtype=torch.int64)
        self.sum_N = torch.zeros(count, dtype=torch.float64)

    def visit(self, positions_k: Tensor, margin_k: Tensor) -> None:
        """Examples were in a mini-batch; see :func:`missing_margin` for ``margin_k``."""
        self.visits_N[positions_k] += 1
        self.sum_N[positions_k] += margin_k.double()

    def scores_N(self) -> Tensor:
        """float32 means, in nats; NaN for an example that was never visited."""
        return (self.sum_N / self.visits_N).float()

    def state_dict(self) -> dict[str, Tensor]:
        """What a checkpoint must keep."""
        return {"visits": self.visits_N, "sum": self.sum_N}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from a checkpoint."""
        self.visits_N, self.sum_N = state["visits"], state["sum"]


def _snapshot(name: str, need: str, meaning: str, source: str) -> Score:
    """A score that is a field of the evidence as it stands."""
    return Score(
        name=name,
        kind="snapshot",
        meaning=meaning,
        source=source,
        needs=frozenset({need}),
        function=lambda evidence: evidence.need(need),
    )


DIET = "Paul et al. 2021"
GRAND_INIT_NOTE = (
    "GraNd at initialisation: Kirsch 2023 found it no better than random pruning and close to the "
    "order of the input norms; look at both beside it"
)

SCORES: dict[str, Score] = {
    entry.name: entry
    for entry in (
        Score(
            name="el2n",
            kind="snapshot",
            meaning="length of the error, |p - onehot|",
            source=DIET,
            needs=frozenset({"grad_norm_bound_B"}),
            function=lambda evidence: evidence.need("grad_norm_bound_B"),
            of_classes=True,
        ),
        _snapshot("grand", "grad_norm_B", "exact norm of the gradient, all parameters", DIET),
        Score(
            name="grand-init",
            kind="initial",
            meaning="the same at initialisation",
            source=DIET,
            needs=frozenset({"grad_norm_B"}),
            function=lambda evidence: evidence.need("grad_norm_B"),
            note=GRAND_INIT_NOTE,
        ),
        _snapshot(
            "grand-last-layer",
            "grad_norm_last_layer_B",
            "norm of the last layer's gradient alone",
            "the approximation that published code calls GraNd",
        ),
        Score(
            name="forgetting",
            kind="watched",
            meaning="times forgotten; never learnt is the maximum",
            source="Toneva et al. 2018",
            of_classes=True,
        ),
        Score(
            name="margin",
            kind="snapshot",
            meaning="highest other logit minus the label's, nats",
            source="Toneva et al. 2018, sign turned",
            turned=True,
            needs=frozenset({"log_probs_BC"}),
            function=lambda evidence: missing_margin(
                evidence.need("log_probs_BC"), evidence.classes()
            ),
            of_classes=True,
        ),
        Score(
            name="aum",
            kind="watched",
            meaning="mean of that over all visits",
            source="Pleiss et al. 2020, sign turned",
            turned=True,
            of_classes=True,
        ),
        _snapshot("loss", "loss_B", "loss, of a classifier in nats", "folklore"),
        Score(
            name="entropy",
            kind="snapshot",
            meaning="entropy of the prediction, nats",
            source="Coleman et al. 2020",
            needs=frozenset({"log_probs_BC"}),
            function=lambda evidence: predictive_entropy(evidence.need("log_probs_BC")),
            of_classes=True,
        ),
        Score(
            name="input-norm",
            kind="input",
            meaning="length of the input: a control that knows no model",
            source="Kirsch 2023",
        ),
        Score(
            name="irreducible-loss",
            kind="irreducible",
            meaning="loss under a model trained on other data, nats",
            source="Mindermann et al. 2022",
        ),
    )
}
"""Scores by name. Higher is harder, and is kept first."""


def score(name: str) -> Score:
    """Look a score up.

    Raises:
        ConfigError: if it is unknown, listing the known ones.
    """
    if name not in SCORES:
        raise ConfigError(f'unknown score "{name}"; known: {score_names()}')
    return SCORES[name]


def score_names() -> str:
    """All names, for messages."""
    return ", ".join(SCORES)
