"""One step of online batch selection: pool, evidence, score, selection.

:class:`Chooser` is what the reference loop and every adapter stand on, and what one uses in a loop
of one's own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from goldiprox.batch import Batch, ids_of, model_output, take, targets_of
from goldiprox.evidence.flops import PassFlops, count_pass
from goldiprox.evidence.forward import ScoringPass
from goldiprox.evidence.mode import BatchNormMode, Precision, device_of
from goldiprox.evidence.outputs import LABEL_FIELDS
from goldiprox.objectives import CLASSIFICATION, Given, Objective
from goldiprox.records.label_sample import LabelSample
from goldiprox.records.tables import IRREDUCIBLE_LOSS, Lookup, Table
from goldiprox.schema import (
    ConfigError,
    MissingEvidence,
    NonFinite,
    Selection,
    TableError,
    id_list,
)
from goldiprox.seeds import derive_seed, stream
from goldiprox.selection.methods import Method, method
from goldiprox.selection.own import undeclared
from goldiprox.selection.selectors import StatefulSelector, how_many

__all__ = ["Chooser", "Chosen", "require_classes"]


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """The part of a pool to train on.

    Attributes:
        batch: the chosen examples in the batch's own structure (tuple, list or dict), ids included.
        weights: float32 weights_k for the mean of the per-example losses.
        selection: positions, ids, weights and scores.
        pool_size: how many candidates there were.
    """

    batch: Batch
    weights: Tensor
    selection: Selection
    pool_size: int


class Chooser:
    """Chooses, from each pool, the examples to train on.

    Example::

        choose = goldiprox.Chooser(model, "rho-loss", share=0.1, irreducible="il.parquet")
        for pool in loader:                       # (ids, images, labels), 320 at a time
            chosen = choose(pool)                 # 32 of them
            _, images, labels = chosen.batch
            losses = F.cross_entropy(model(images), labels, reduction="none")
            (losses * chosen.weights).mean().backward()

    Args:
        model: the model being trained; scored as it is at each call.
        method: a name from METHODS or a :class:`~goldiprox.selection.methods.Method`.
        share: share of each pool to choose; at least one example is chosen.
        irreducible: irreducible-loss table or its path, for methods that need one.
        seed: seed of random choices; call number n draws from its own stream.
        precision: ``bf16`` scores under autocast.
        micro_batch: score at most this many examples at once.
        batchnorm: ``batch`` or ``running`` statistics in the scoring pass.
        objective: what the model is trained for: ``classification``, ``multilabel``,
            ``regression``, ``language-model``, an :class:`~goldiprox.Objective` or a function
            ``(output, batch) -> loss_B`` of your own, or its name as ``package.module:name``.
        logits: how to get the output that the objective takes from ``(model, batch)``, where the
            default does not fit.
        per_example_loss: how to get loss_B from ``(model, batch)``, in the objective's place.
        feature_layer: name of the linear layer whose inputs are an example's features, for methods
            that need them; the last one that runs unless given.
        dropout_samples: how many dropout masks are sampled, for methods that need any.
        dropout_shared: whether all candidates of a pool share each sample's masks.

    Raises:
        ConfigError: for an unknown method or objective, a method that needs class probabilities
            with an objective that has none, a share outside (0, 1], a table that is missing, or no
            dropout samples.
    """

    def __init__(
        self,
        model: nn.Module,
        method: str | Method = "rho-loss",
        *,
        share: float = 0.1,
        irreducible: Table | str | Path | None = None,
        seed: int = 0,
        precision: Precision = "float32",
        micro_batch: int | None = None,
        batchnorm: BatchNormMode = "batch",
        objective: Given = CLASSIFICATION,
        logits: Callable[[nn.Module, Batch], Any] = model_output,
        per_example_loss: Callable[[nn.Module, Batch], Tensor] | None = None,
        feature_layer: str | None = None,
        dropout_samples: int = 10,
        dropout_shared: bool = True,
    ) -> None:
        if not 0 < share <= 1:
            raise ConfigError(f"share is {share}; it must be in (0, 1], such as 0.1")
        self.method = method if isinstance(method, Method) else _method(method)
        self.share = share
        self.step = 0
        # A selector with a memory gets a fresh one for each run.
        selector = self.method.selector
        self._selector = selector.start() if isinstance(selector, StatefulSelector) else selector
        self.model = model
        self._logits = logits
        self.seed = seed
        self._scoring = ScoringPass(
            model,
            precision=precision,
            micro_batch=micro_batch,
            batchnorm=batchnorm,
            objective=objective,
            logits=logits,
            per_example_loss=per_example_loss,
            feature_layer=feature_layer,
            mc_samples=dropout_samples,
            mc_consistent=dropout_shared,
        )
        require_classes(self.method, self._scoring.objective)
        self._labels: LabelSample | None = None
        self.table: Table | None = None
        """Of irreducible losses, where the method needs them."""
        self._irreducible = self._lookup(irreducible) if self.method.needs_irreducible else None

    def __call__(self, batch: Batch, known: Mapping[str, Tensor] | None = None) -> Chosen:
        """Choose from a pool.

        Args:
            batch: a tuple ``(ids, inputs, targets, ...)`` or a dict with ``id`` and labels.
            known: evidence fields that you computed yourself; they are not made again.

        Raises:
            NonFinite: if a score is NaN or infinite; the message names the ids.
            TableError: if the irreducible-loss table lacks an id, holds an infinite value, or was
                made of examples with other labels.
            DataError: if the batch carries no ids, or holds a field that cannot be cut by example;
                if the model's output or the targets do not fit the objective.
            ConfigError: if the method decides for whole epochs rather than for each pool.
        """
        if not self.method.each_step:
            raise ConfigError(
                f'method "{self.method.name}" decides for whole epochs, not for each pool: use '
                "goldiprox train, or draw your batches from its plan (goldiprox.selection.plans)"
            )
        selection = self.select(batch, known=known)
        taken = take(batch, selection.positions_k, self._scoring.layout)
        if self.method.needs_forward:
            self._scoring.settle_layout(batch)
        return Chosen(
            batch=taken,
            weights=selection.weights_k,
            selection=selection,
            pool_size=int(ids_of(batch).shape[0]),
        )

    def select(
        self, batch: Batch, k: int | None = None, known: Mapping[str, Tensor] | None = None
    ) -> Selection:
        """Choose positions only; a method that needs no scoring pass accepts ``(ids,)``.

        Args:
            batch: the pool.
            k: how many; ``share`` of the pool unless given.
            known: evidence fields that are known already; they are not made again.
        """
        ids_B = ids_of(batch)
        if k is None:
            k = how_many(ids_B.numel(), self.share)
        if self.method.needs_forward:  # evidence is where the model is, ids may be on the host
            ids_B = ids_B.to(device_of(self._scoring.model), non_blocking=True)
        if known:
            known = {field: _evidence(value, ids_B.device) for field, value in known.items()}
        if self._irreducible is not None and "irreducible_B" not in (known or {}):
            known = {**(known or {}), "irreducible_B": self._irreducible(ids_B)}
            if self._labels is not None and self._labels.is_open:
                self._labels.check(ids_B, targets_of(batch))
        samples = "mc_log_probs_KBC" in self.method.needs
        seed = derive_seed(self.seed, "dropout samples", self.step) if samples else 0
        unknown = self.method.needs - (known or {}).keys()
        evidence = self._scoring(batch, unknown, known=known, seed=seed)
        generator = stream(self.seed, "selection", self.step)
        try:
            selection = self._selector(evidence, k, generator)
        except (AttributeError, TypeError) as error:
            absent = undeclared(self._selector, evidence, k, generator)
            if not absent:
                raise
            raise MissingEvidence(
                f'method "{self.method.name}" reads {", ".join(absent)}, which is not among its '
                f'needs; say needs="{" ".join(sorted({*self.method.needs, *absent}))}"'
            ) from error
        except NonFinite:
            self._blame_table(evidence.irreducible_B, ids_B)
            if not LABEL_FIELDS.isdisjoint(unknown):
                self._scoring.blame(batch)
            raise
        self.step += 1
        return selection

    @property
    def objective(self) -> Objective:
        """What the model is trained for."""
        return self._scoring.objective

    def output(self, model: nn.Module, batch: Batch) -> Any:
        """What the objective takes of a batch."""
        return self._logits(model, batch)

    @property
    def passes(self) -> tuple[int, int]:
        """Passes of the model over a pool for one choice: forward alone, forward with backward."""
        companion = self.method.companion
        given = frozenset[str]() if companion is None else {companion.fills}
        return self._scoring.passes(self.method.needs - given)

    def count_gradients(self, batch: Batch) -> PassFlops:
        """What gradient norms cost, if the method needs any: the passes that they really take.

        Args:
            batch: some examples on the model's device; a few are scored.
        """
        if not self.passes[1]:
            return PassFlops()
        return count_pass(lambda pool: self._scoring(pool, {"grad_norm_B"}), batch)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must keep for choices to go on as they would have."""
        state: dict[str, Any] = {"step": self.step}
        if isinstance(self._selector, StatefulSelector):
            state["selector"] = self._selector.state_dict()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.step = state["step"]
        if isinstance(self._selector, StatefulSelector):
            self._selector.load_state_dict(state["selector"])

    def _lookup(self, irreducible: Table | str | Path | None) -> Lookup:
        if irreducible is None:
            raise ConfigError(
                f'method "{self.method.name}" needs an irreducible-loss table; make one with: '
                "goldiprox irreducible DATASET --out il.parquet"
            )
        if isinstance(irreducible, Table):
            table = irreducible
        else:
            from goldiprox.records.mapped import open_table  # pyarrow is for files

            table = open_table(Path(irreducible))
        self.table = table
        self._labels = LabelSample(table.provenance)
        made_for = table.provenance.get("objective")
        if made_for not in (None, self._scoring.objective.name):
            raise TableError(
                f"{table.path or 'the irreducible-loss table'} holds losses of objective "
                f'"{made_for}", and the model is trained for "{self._scoring.objective.name}": '
                "their difference would mean nothing; make a table with the model's objective"
            )
        return table.lookup(IRREDUCIBLE_LOSS)

    def _blame_table(self, irreducible_B: Tensor | None, ids_B: Tensor) -> None:
        """If it was the table that made a score non-finite, say so."""
        if irreducible_B is None or self._irreducible is None:
            return
        absent = ids_B[irreducible_B.isnan()]
        if absent.numel():
            raise TableError(
                f"the irreducible-loss table lacks {absent.numel()} of {ids_B.numel()} ids of this "
                f"pool (first: {id_list(absent, 3)}); make one for this data with: "
                "goldiprox irreducible"
            ) from None
        infinite = ids_B[irreducible_B.isinf()]
        if infinite.numel():
            raise TableError(
                f"the irreducible-loss table holds an infinite value for {infinite.numel()} of "
                f"{ids_B.numel()} ids of this pool (first: {id_list(infinite, 3)}); correct it, or "
                "make one for this data with: goldiprox irreducible"
            ) from None


def require_classes(entry: Method, objective: Objective) -> None:
    """Refuse a method that needs classes for an objective that has none.

    Raises:
        ConfigError: naming both, and methods that work for all objectives.
    """
    if entry.needs_classes and not objective.has_classes:
        raise ConfigError(
            f'method "{entry.name}" needs classes, which objective "{objective.name}" does not '
            "have; choose by the loss (rho-loss, loss) or its gradient (grad-norm, grad-norm-bound)"
        )


def _evidence(value: Tensor, device: torch.device) -> Tensor:
    """What a loop of one's own knows, such as the losses of its forward pass: numbers only."""
    value = value.detach().to(device)
    return value.float() if value.dtype in (torch.bfloat16, torch.float16) else value


def _method(name: str) -> Method:
    return method(name)
