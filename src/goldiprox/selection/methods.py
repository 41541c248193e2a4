"""METHODS: every selection method by name, with its source, its needs and its cost."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from goldiprox.names import FromFile, import_named
from goldiprox.schema import CALLER, SUPPLIERS, ConfigError, Evidence
from goldiprox.selection import functions as score
from goldiprox.selection.calibrated import CalibratedReducibleLoss
from goldiprox.selection.coreset import CoreSetSpec, Criterion, before_training
from goldiprox.selection.functions import ScoreFunction
from goldiprox.selection.groups import (
    ClassBalanced,
    DiverseGradients,
    IrreducibleFilter,
)
from goldiprox.selection.joint import JointChoice
from goldiprox.selection.plans import InfoBatch, PlanFactory, WholeBatches, pools
from goldiprox.selection.robust import ClassRobust
from goldiprox.selection.sampling import (
    GumbelTopK,
    ImportanceSampling,
    RankBased,
    SoftWeights,
)
from goldiprox.selection.selectors import RandomChoice, Selector, TopK
from goldiprox.selection.variants import KEEP, MODIFIERS, split_name, vary

__all__ = ["METHODS", "CompanionSpec", "Method", "method", "register"]


@dataclass(frozen=True, kw_only=True)
class CompanionSpec:
    """A second, small model that a method wants trained beside the learner.

    Attributes:
        fills: the :class:`~goldiprox.schema.Evidence` field that its losses fill.
        learns: what it takes a step on after each pool: as many random candidates as are chosen
            (``pool``), or the chosen ones (``chosen``).
        pretrained: whether it starts as the irreducible-loss model rather than afresh.
        lr_factor: its learning rate as a multiple of the learner's.
    """

    fills: str
    learns: Literal["pool", "chosen"]
    pretrained: bool = False
    lr_factor: float = 1.0


FIELDS = frozenset(field.name for field in fields(Evidence)) - {"ids_B"}
"""What a method may need: evidence that is not always there."""


def require_fields(name: str, needs: Iterable[str]) -> None:
    """Refuse needs that nobody can fill.

    Args:
        name: the method's.
        needs: names of :class:`~goldiprox.schema.Evidence` fields.

    Raises:
        ConfigError: if there is no such field.
    """
    unknown = sorted(str(need) for need in needs if need not in FIELDS)
    if unknown:
        close = difflib.get_close_matches(unknown[0], FIELDS, n=1)
        hint = f' (did you mean "{close[0]}"?)' if close else ""
        raise ConfigError(
            f'method "{name}" needs {", ".join(unknown)}, which Evidence does not have{hint}; '
            f"it has: {', '.join(sorted(FIELDS))}"
        )


@dataclass(frozen=True, kw_only=True)
class Method:
    """A way to choose examples.

    Attributes:
        name: hyphenated, as on the command line.
        selector: evidence to selection.
        needs: the :class:`~goldiprox.schema.Evidence` fields that the selector reads.
        summary: one line for tables.
        source: citation.
        cost: what one step costs beyond the training step, in passes over the pool.
        plan: which candidates each step draws; shuffled pools unless the method decides for whole
            epochs.
        companion: a second model trained beside the learner, where the method needs one.
        core_set: what is chosen by a proxy before the training, where the method does that.

    Raises:
        ConfigError: if it needs something that :class:`~goldiprox.schema.Evidence` does not have.
    """

    name: str
    selector: Selector
    needs: frozenset[str]
    summary: str
    source: str
    cost: str
    plan: PlanFactory = pools
    companion: CompanionSpec | None = None
    core_set: CoreSetSpec | None = None

    def __post_init__(self) -> None:
        needs: Any = self.needs  # the user may have written them in another way
        needs = needs.split() if isinstance(needs, str) else needs
        object.__setattr__(self, "needs", frozenset(needs) - {"ids_B"})  # they are always there
        require_fields(self.name, self.needs)
        if self.companion is not None:
            require_fields(self.name, {self.companion.fills})

    @property
    def score(self) -> ScoreFunction | None:
        """The score that it chooses the highest of; None if it chooses in another way."""
        return self.selector.score if isinstance(self.selector, TopK) else None

    @property
    def needs_forward(self) -> bool:
        """Whether the pool's inputs are needed, for a scoring pass over them."""
        return self.companion is not None or bool(self.needs - {"irreducible_B", "targets_B"})

    @property
    def needs_classes(self) -> bool:
        """Whether it works only where each example has one of several classes."""
        if self.core_set is not None:
            return self.core_set.by != "k-center"
        # The filter takes a loss for minus the logarithm of a label's probability.
        by_class = isinstance(self.selector, ClassBalanced | IrreducibleFilter)
        return by_class or not self.needs.isdisjoint({"log_probs_BC", "mc_log_probs_KBC"})

    @property
    def from_caller(self) -> list[str]:
        """The evidence that only the user's own loop can give."""
        return sorted(field for field in self.needs if SUPPLIERS.get(field) == CALLER)

    @property
    def needs_irreducible(self) -> bool:
        """Whether an irreducible-loss table is needed."""
        own = set() if self.companion is None else {self.companion.fills}
        return "irreducible_B" in self.needs - own

    @property
    def needs_irreducible_model(self) -> bool:
        """Whether an irreducible-loss model must be trained before, for its table or itself."""
        return self.needs_irreducible or (self.companion is not None and self.companion.pretrained)


METHODS: dict[str, Method] = {}
"""Every registered method by its name."""


def register(entry: Method) -> Method:
    """Add a method, so that every command and `compare` know it by name.

    Raises:
        ConfigError: if the name is taken.
    """
    if entry.name in METHODS:
        raise ConfigError(
            f'a method named "{entry.name}" is registered already; choose another name'
        )
    METHODS[entry.name] = entry
    return entry


def method(name: str) -> Method:
    """Look a method up.

    Args:
        name: a name from METHODS, or ``package.module:name`` for one of the user's own; behind it
            modifiers, as in ``rho-loss@gumbel=0.5`` (see :mod:`goldiprox.selection.variants`).

    Raises:
        ConfigError: if it is unknown or a variant impossible; the message lists the known ones.
    """
    base, modifiers = split_name(name)
    own = FromFile(base) if isinstance(name, FromFile) else base
    entry = _import(own) if ":" in base else _known(base)
    return _varied(entry, modifiers, name) if modifiers else entry


def _known(name: str) -> Method:
    if name not in METHODS:
        close = difflib.get_close_matches(name, METHODS, n=1)
        hint = f' (did you mean "{close[0]}"?)' if close else ""
        raise ConfigError(
            f'unknown method "{name}"{hint}; known: {", ".join(METHODS)}, or one of your own as '
            "package.module:name"
        )
    return METHODS[name]


def _import(name: str) -> Method:
    found = import_named(name, "method")
    if not isinstance(found, Method):
        raise ConfigError(
            f'method "{name}" is a {type(found).__name__}; make it a method with the decorator '
            "@goldiprox.method(...), or name a goldiprox.Method"
        )
    return replace(found, name=name)  # so that records say where it came from


def _varied(entry: Method, modifiers: Mapping[str, float | None], name: str) -> Method:
    """A variant of a method: the same but for how it chooses."""
    if KEEP in modifiers:
        return _keeping(entry, modifiers, name)
    if entry.plan is not pools:
        raise ConfigError(
            f'method "{name}": {entry.name} decides for whole epochs, not for each pool, so a '
            "variant could change nothing; use it as it is"
        )
    chosen = [MODIFIERS[key] for key in modifiers]
    needs = entry.needs.union(*(modifier.needs for modifier in chosen))
    cost = entry.cost
    if "irreducible_B" in needs - entry.needs:
        cost += f"; {TABLE}"
    return replace(
        entry,
        name=name,
        selector=vary(entry.selector, modifiers, name),
        needs=needs,
        summary="; ".join([entry.summary, *(modifier.summary for modifier in chosen)]),
        cost=cost,
    )


def _keeping(entry: Method, modifiers: Mapping[str, float | None], name: str) -> Method:
    """A core-set of another size."""
    share = modifiers[KEEP]
    if entry.core_set is None or len(modifiers) > 1 or share is None:
        known = ", ".join(other for other, it in METHODS.items() if it.core_set is not None)
        raise ConfigError(
            f'method "{name}": @{KEEP} goes alone, with methods that choose a core-set: {known}'
        )
    return replace(entry, name=name, core_set=replace(entry.core_set, keep=share))


FORWARD = "1 forward over the pool"
TABLE = "1 irreducible-loss model before"
SAMPLES = "10 forwards over the pool, with dropout"

MINDERMANN = "Mindermann et al. 2022, arXiv:2206.07137"
KATHAROPOULOS = "Katharopoulos & Fleuret 2018, arXiv:1803.00942"
LOSHCHILOV = "Loshchilov & Hutter 2015, arXiv:1511.06343"


def _add(
    name: str,
    selector: Selector,
    needs: str,
    summary: str,
    source: str,
    cost: str,
    plan: PlanFactory = pools,
    companion: CompanionSpec | None = None,
) -> None:
    register(
        Method(
            name=name,
            selector=selector,
            needs=frozenset(needs.split()),
            summary=summary,
            source=source,
            cost=cost,
            plan=plan,
            companion=companion,
        )
    )


_add(
    "uniform",
    RandomChoice(),
    "",
    "random choice from the pool: plain shuffled training",
    "the baseline of every comparison",
    "nothing",
)
_add(
    "loss",
    TopK(score.training_loss),
    "loss_B",
    "highest training loss",
    f"{LOSHCHILOV}; Kawaguchi & Lu 2020",
    FORWARD,
)
_add(
    "rank-based",
    RankBased(score.training_loss),
    "loss_B",
    "drawn by the rank of the training loss",
    LOSHCHILOV,
    FORWARD,
)
_add(
    "grad-norm",
    TopK(score.gradient_norm),
    "grad_norm_B",
    "largest gradient over all parameters",
    f"{KATHAROPOULOS}; Alain et al. 2015",
    "1 forward and 1 backward over the pool, more where no rule covers the layers",
)
_add(
    "grad-norm-last-layer",
    TopK(score.gradient_norm_last_layer),
    "grad_norm_last_layer_B",
    "largest gradient over the last layer",
    "what much published code calls GraNd",
    FORWARD,
)
_add(
    "grad-norm-bound",
    TopK(score.gradient_norm_bound),
    "grad_norm_bound_B",
    "largest gradient of the logits, ||p - y||",
    KATHAROPOULOS,
    FORWARD,
)
_add(
    "grad-norm-is",
    ImportanceSampling(score.gradient_norm_bound),
    "grad_norm_bound_B",
    "drawn by the gradient bound and weighted: unbiased, gated",
    KATHAROPOULOS,
    FORWARD,
)
_add(
    "irreducible",
    TopK(score.negative_irreducible_loss),
    "irreducible_B",
    "lowest irreducible loss",
    f"{MINDERMANN}, section 4",
    f"nothing per step; {TABLE}",
)
_add(
    "rho-loss",
    TopK(score.reducible_loss),
    "loss_B irreducible_B",
    "highest reducible loss: training loss minus irreducible loss",
    f"{MINDERMANN}, algorithm 1",
    f"{FORWARD}; {TABLE}",
)
_add(
    "rho-loss-soft",
    SoftWeights(score.reducible_loss),
    "loss_B irreducible_B",
    "random choice, weighted by exp(reducible loss)",
    "cf. Evans et al. 2023, arXiv:2312.05328",
    f"{FORWARD}; {TABLE}",
)
_add(
    "rho-loss-updating",
    TopK(score.reducible_loss),
    "loss_B irreducible_B",
    "reducible loss, the irreducible-loss model trained on with what is chosen",
    f"{MINDERMANN}, appendix D",
    f"{FORWARD}, the same and a training step of the irreducible-loss model; {TABLE}",
    companion=CompanionSpec(
        fills="irreducible_B", learns="chosen", pretrained=True, lr_factor=0.01
    ),
)
_add(
    "rho-loss-capped",
    TopK(score.capped_reducible_loss),
    "log_probs_BC targets_B irreducible_B",
    "reducible loss, the training loss capped at that of a guess",
    "goldiprox: so that confident models do not choose wrong labels",
    f"{FORWARD}; {TABLE}",
)
_add(
    "rho-loss-calibrated",
    CalibratedReducibleLoss(),
    "log_probs_BC targets_B irreducible_B",
    "reducible loss, the training loss taken at a temperature fitted on the pools before",
    "goldiprox; temperature scaling of Guo et al. 2017, arXiv:1706.04599",
    f"{FORWARD}; {TABLE}",
)
_add(
    "reducr",
    ClassRobust(),
    "log_probs_BC targets_B irreducible_B",
    "reducible losses weighted by class, the weights of weak classes raised",
    "Bankes et al. 2024 (REDUCR), arXiv:2312.00486",
    f"{FORWARD}; {TABLE}",
)
_add(
    "learnability",
    GumbelTopK(score.learnability),
    "loss_B reference_B",
    "drawn by exp(training loss minus that of a small model trained beside)",
    "Evans et al. 2023, arXiv:2312.05328",
    f"{FORWARD}, 1 of a small model, and its training step",
    companion=CompanionSpec(fills="reference_B", learns="pool", lr_factor=2.0),
)
_add(
    "jest",
    JointChoice(),
    "pair_logits_BB reference_pair_logits_BB",
    "contrastive learning: the batch that is learnable as a whole, drawn in chunks",
    "Evans et al. 2024 (JEST), arXiv:2406.17711",
    "1 forward over the pool with the model, 1 with a reference model",
)
_add(
    "irreducible-filter",
    IrreducibleFilter(RandomChoice()),
    "irreducible_B",
    "random choice among the labels the irreducible-loss model finds plausible",
    "goldiprox: the table used once, as a filter",
    f"nothing per step; {TABLE}",
)
_add(
    "entropy",
    TopK(score.predictive_entropy),
    "mc_log_probs_KBC",
    "highest entropy of the mean prediction",
    f"{MINDERMANN}, appendix G",
    SAMPLES,
)
_add(
    "conditional-entropy",
    TopK(score.conditional_entropy),
    "mc_log_probs_KBC",
    "highest mean entropy of sampled predictions",
    f"{MINDERMANN}, appendix G",
    SAMPLES,
)
_add(
    "bald",
    TopK(score.bald),
    "mc_log_probs_KBC",
    "highest information about the parameters",
    "Houlsby et al. 2011, arXiv:1112.5745",
    SAMPLES,
)
_add(
    "loss-minus-conditional-entropy",
    TopK(score.loss_minus_conditional_entropy),
    "mc_log_probs_KBC targets_B",
    "loss of the mean prediction minus conditional entropy",
    f"{MINDERMANN}, appendix G",
    SAMPLES,
)
_add(
    "divbs",
    DiverseGradients(),
    "log_probs_BC features_BD targets_B",
    "diverse last-layer gradients, chosen greedily",
    "Hong et al. 2024 (DivBS), arXiv:2406.04872",
    FORWARD,
)
_add(
    "divbs-sampled",
    DiverseGradients(sampled=True),
    "log_probs_BC features_BD targets_B",
    "diverse last-layer gradients, drawn as the authors' program does",
    "Hong et al. 2024 (DivBS), arXiv:2406.04872",
    FORWARD,
)
_add(
    "rs2",
    RandomChoice(),
    "",
    "a fresh random subset each epoch, none twice before all came once",
    "Okanovic et al. 2024 (RS2), arXiv:2305.18424",
    "nothing",
    plan=WholeBatches,
)
_add(
    "infobatch",
    RandomChoice(),
    "",
    "drops, pass by pass, a random half of what had a loss below the mean, and reweights",
    "Qin et al. 2024 (InfoBatch), arXiv:2303.04947",
    "nothing: losses are those of the training steps",
    plan=InfoBatch,
)


COLEMAN = "Coleman et al. 2020 (SVP), arXiv:1906.11829"


def _add_core_set(name: str, by: Criterion, summary: str, source: str) -> None:
    register(
        Method(
            name=name,
            selector=RandomChoice(),
            needs=frozenset(),
            summary=f"plain training on half of the data: {summary}, by a proxy",
            source=source,
            cost="nothing per step; 1 small model, 5 passes over the data, before",
            plan=before_training,
            core_set=CoreSetSpec(by=by),
        )
    )


_add_core_set("svp", "entropy", "the highest entropy", COLEMAN)
_add_core_set("svp-least-confidence", "least-confidence", "the least confident", COLEMAN)
_add_core_set("svp-margin", "margin", "the smallest margin between two classes", COLEMAN)
_add_core_set(
    "svp-forgetting",
    "forgetting",
    "the most often forgotten",
    f"{COLEMAN}; Toneva et al. 2019, arXiv:1812.05159",
)
_add_core_set(
    "svp-k-center",
    "k-center",
    "what covers the rest best",
    f"{COLEMAN}; Sener & Savarese 2018, arXiv:1708.00489",
)
