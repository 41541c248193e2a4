"""METHODS: every selection method by name, with its source, its needs and its cost."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import replace

from goldiprox.names import FromFile, import_named
from goldiprox.schema import ConfigError
from goldiprox.selection import functions as score
from goldiprox.selection.calibrated import CalibratedReducibleLoss
from goldiprox.selection.coreset import CoreSetSpec, Criterion, before_training
from goldiprox.selection.entry import CompanionSpec, Method
from goldiprox.selection.groups import DiverseGradients, IrreducibleFilter
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
    if not entry.each_step:
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
    *,
    name: str,
    selector: Selector,
    needs: str,
    summary: str,
    source: str,
    cost: str,
    plan: PlanFactory = pools,
    each_step: bool = True,
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
            each_step=each_step,
            companion=companion,
        )
    )


_add(
    name="uniform",
    selector=RandomChoice(),
    needs="",
    summary="random choice from the pool: plain shuffled training",
    source="the baseline of every comparison",
    cost="nothing",
)
_add(
    name="loss",
    selector=TopK(score.training_loss),
    needs="loss_B",
    summary="highest training loss",
    source=f"{LOSHCHILOV}; Kawaguchi & Lu 2020",
    cost=FORWARD,
)
_add(
    name="rank-based",
    selector=RankBased(score.training_loss),
    needs="loss_B",
    summary="drawn by the rank of the training loss",
    source=LOSHCHILOV,
    cost=FORWARD,
)
_add(
    name="grad-norm",
    selector=TopK(score.gradient_norm),
    needs="grad_norm_B",
    summary="largest gradient over all parameters",
    source=f"{KATHAROPOULOS}; Alain et al. 2015",
    cost="1 forward and 1 backward over the pool, more where no rule covers the layers",
)
_add(
    name="grad-norm-last-layer",
    selector=TopK(score.gradient_norm_last_layer),
    needs="grad_norm_last_layer_B",
    summary="largest gradient over the last layer",
    source="what much published code calls GraNd",
    cost=FORWARD,
)
_add(
    name="grad-norm-bound",
    selector=TopK(score.gradient_norm_bound),
    needs="grad_norm_bound_B",
    summary="largest gradient of the logits, ||p - y||",
    source=KATHAROPOULOS,
    cost=FORWARD,
)
_add(
    name="grad-norm-is",
    selector=ImportanceSampling(score.gradient_norm_bound),
    needs="grad_norm_bound_B",
    summary="drawn by the gradient bound and weighted: unbiased, gated",
    source=KATHAROPOULOS,
    cost=FORWARD,
)
_add(
    name="irreducible",
    selector=TopK(score.negative_irreducible_loss),
    needs="irreducible_B",
    summary="lowest irreducible loss",
    source=f"{MINDERMANN}, section 4",
    cost=f"nothing per step; {TABLE}",
)
_add(
    name="rho-loss",
    selector=TopK(score.reducible_loss),
    needs="loss_B irreducible_B",
    summary="highest reducible loss: training loss minus irreducible loss",
    source=f"{MINDERMANN}, algorithm 1",
    cost=f"{FORWARD}; {TABLE}",
)
_add(
    name="rho-loss-soft",
    selector=SoftWeights(score.reducible_loss),
    needs="loss_B irreducible_B",
    summary="random choice, weighted by exp(reducible loss)",
    source="cf. Evans et al. 2023, arXiv:2312.05328",
    cost=f"{FORWARD}; {TABLE}",
)
_add(
    name="rho-loss-updating",
    selector=TopK(score.reducible_loss),
    needs="loss_B irreducible_B",
    summary="reducible loss, the irreducible-loss model trained on with what is chosen",
    source=f"{MINDERMANN}, appendix D",
    cost=f"{FORWARD}, the same and a training step of the irreducible-loss model; {TABLE}",
    companion=CompanionSpec(
        fills="irreducible_B", learns="chosen", pretrained=True, lr_factor=0.01
    ),
)
_add(
    name="rho-loss-capped",
    selector=TopK(score.capped_reducible_loss),
    needs="log_probs_BC targets_B irreducible_B",
    summary="reducible loss, the training loss capped at that of a guess",
    source="goldiprox: so that confident models do not choose wrong labels",
    cost=f"{FORWARD}; {TABLE}",
)
_add(
    name="rho-loss-calibrated",
    selector=CalibratedReducibleLoss(),
    needs="log_probs_BC targets_B irreducible_B",
    summary="reducible loss, the training loss taken at a temperature fitted on the pools before",
    source="goldiprox; temperature scaling of Guo et al. 2017, arXiv:1706.04599",
    cost=f"{FORWARD}; {TABLE}",
)
_add(
    name="reducr",
    selector=ClassRobust(),
    needs="log_probs_BC targets_B irreducible_B",
    summary="reducible losses weighted by class, the weights of weak classes raised",
    source="Bankes et al. 2024 (REDUCR), arXiv:2312.00486",
    cost=f"{FORWARD}; {TABLE}",
)
_add(
    name="learnability",
    selector=GumbelTopK(score.learnability),
    needs="loss_B reference_B",
    summary="drawn by exp(training loss minus that of a small model trained beside)",
    source="Evans et al. 2023, arXiv:2312.05328",
    cost=f"{FORWARD}, 1 of a small model, and its training step",
    companion=CompanionSpec(fills="reference_B", learns="pool", lr_factor=2.0),
)
_add(
    name="jest",
    selector=JointChoice(),
    needs="pair_logits_BB reference_pair_logits_BB",
    summary="contrastive learning: the batch that is learnable as a whole, drawn in chunks",
    source="Evans et al. 2024 (JEST), arXiv:2406.17711",
    cost="1 forward over the pool with the model, 1 with a reference model",
)
_add(
    name="irreducible-filter",
    selector=IrreducibleFilter(RandomChoice()),
    needs="irreducible_B",
    summary="random choice among the labels the irreducible-loss model finds plausible",
    source="goldiprox: the table used once, as a filter",
    cost=f"nothing per step; {TABLE}",
)
_add(
    name="entropy",
    selector=TopK(score.predictive_entropy),
    needs="mc_log_probs_KBC",
    summary="highest entropy of the mean prediction",
    source=f"{MINDERMANN}, appendix G",
    cost=SAMPLES,
)
_add(
    name="conditional-entropy",
    selector=TopK(score.conditional_entropy),
    needs="mc_log_probs_KBC",
    summary="highest mean entropy of sampled predictions",
    source=f"{MINDERMANN}, appendix G",
    cost=SAMPLES,
)
_add(
    name="bald",
    selector=TopK(score.bald),
    needs="mc_log_probs_KBC",
    summary="highest information about the parameters",
    source="Houlsby et al. 2011, arXiv:1112.5745",
    cost=SAMPLES,
)
_add(
    name="loss-minus-conditional-entropy",
    selector=TopK(score.loss_minus_conditional_entropy),
    needs="mc_log_probs_KBC targets_B",
    summary="loss of the mean prediction minus conditional entropy",
    source=f"{MINDERMANN}, appendix G",
    cost=SAMPLES,
)
_add(
    name="divbs",
    selector=DiverseGradients(),
    needs="log_probs_BC features_BD targets_B",
    summary="diverse last-layer gradients, chosen greedily",
    source="Hong et al. 2024 (DivBS), arXiv:2406.04872",
    cost=FORWARD,
)
_add(
    name="divbs-sampled",
    selector=DiverseGradients(sampled=True),
    needs="log_probs_BC features_BD targets_B",
    summary="diverse last-layer gradients, drawn as the authors' program does",
    source="Hong et al. 2024 (DivBS), arXiv:2406.04872",
    cost=FORWARD,
)
_add(
    name="rs2",
    selector=RandomChoice(),
    needs="",
    summary="a fresh random subset each epoch, none twice before all came once",
    source="Okanovic et al. 2024 (RS2), arXiv:2305.18424",
    cost="nothing",
    plan=WholeBatches,
    each_step=False,
)
_add(
    name="infobatch",
    selector=RandomChoice(),
    needs="",
    summary="drops, pass by pass, a random half of what had a loss below the mean, and reweights",
    source="Qin et al. 2024 (InfoBatch), arXiv:2303.04947",
    cost="nothing: losses are those of the training steps",
    plan=InfoBatch,
    each_step=False,
)


COLEMAN = "Coleman et al. 2020 (SVP), arXiv:1906.11829"


def _add_core_set(*, name: str, by: Criterion, summary: str, source: str) -> None:
    register(
        Method(
            name=name,
            selector=RandomChoice(),
            needs=frozenset(),
            summary=f"plain training on half of the data: {summary}, by a proxy",
            source=source,
            cost="nothing per step; 1 small model, 5 passes over the data, before",
            plan=before_training,
            each_step=False,
            core_set=CoreSetSpec(by=by),
        )
    )


_add_core_set(name="svp", by="entropy", summary="the highest entropy", source=COLEMAN)
_add_core_set(
    name="svp-least-confidence",
    by="least-confidence",
    summary="the least confident",
    source=COLEMAN,
)
_add_core_set(
    name="svp-margin",
    by="margin",
    summary="the smallest margin between two classes",
    source=COLEMAN,
)
_add_core_set(
    name="svp-forgetting",
    by="forgetting",
    summary="the most often forgotten",
    source=f"{COLEMAN}; Toneva et al. 2019, arXiv:1812.05159",
)
_add_core_set(
    name="svp-k-center",
    by="k-center",
    summary="what covers the rest best",
    source=f"{COLEMAN}; Sener & Savarese 2018, arXiv:1708.00489",
)
