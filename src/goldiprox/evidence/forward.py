"""What a pass over a pool tells of each candidate, with no side effects.

One pass serves every method that shares its evidence, and only what is needed is computed. After
it the model's modes, buffers and gradients and the global random state are what they were before.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from goldiprox.batch import (
    Batch,
    ids_of,
    lengths_of,
    micro_batches,
    model_output,
    stack_outputs,
    take,
    targets_of,
    trimmed,
)
from goldiprox.entries import Layout
from goldiprox.evidence.axes import settle_first_axis
from goldiprox.evidence.dropout import dropped
from goldiprox.evidence.gradients import (
    LastLayer,
    feature_norms,
    gradient_norms,
    penultimate_features,
    require_vectors,
)
from goldiprox.evidence.mode import (
    BatchNormMode,
    Precision,
    autocast,
    device_of,
    random_state_kept,
    scoring_mode,
    takes_statistics,
)
from goldiprox.evidence.outputs import (
    HELD_VALUES,
    LABEL_FIELDS,
    ClassOutputs,
    evidence_of,
    put,
)
from goldiprox.objectives import CLASSIFICATION, Classification, Given
from goldiprox.objectives import objective as find_objective
from goldiprox.objectives.classification import fit, require_logits
from goldiprox.schema import ConfigError, Evidence

__all__ = ["ScoringPass"]

FORWARD_FIELDS = frozenset(
    {
        *("loss_B", "log_probs_BC", "features_BD", "grad_norm_bound_B", "grad_norm_last_layer_B"),
        *("grad_norm_B", "mc_log_probs_KBC"),
    }
)
"""The evidence that this module can supply."""

FEATURE_FIELDS = frozenset({"features_BD", "grad_norm_last_layer_B"})
"""What needs the inputs of the last linear layer."""

CLASS_FIELDS = frozenset({"log_probs_BC", "mc_log_probs_KBC"})
"""What needs an objective with class probabilities."""

TEXTS_AT_ONCE = 64
"""Texts scored at a time where nothing else is asked for: few enough to be of like length."""

PLAIN_FIELDS = FORWARD_FIELDS - {"grad_norm_B", "mc_log_probs_KBC"}
"""What one plain forward pass tells."""


class ScoringPass:
    """Computes the evidence that needs a forward pass of the current model.

    Args:
        model: the model being trained.
        precision: ``bf16`` runs the pass under autocast; losses are float32 either way.
        micro_batch: at most this many examples at once; None scores the pool in one go.
        batchnorm: see :func:`scoring_mode`.
        objective: what the model is trained for, by name or itself.
        logits: how to get from the model and a batch the output that the objective takes.
        per_example_loss: how to get loss_B from the model and a batch, in the objective's place;
            then nothing but losses can be had.
        mc_samples: how many dropout masks are sampled for ``mc_log_probs_KBC``.
        mc_consistent: whether all candidates share each sample's masks.
        feature_layer: name of the linear layer whose inputs are ``features_BD``; the last one that
            runs unless given.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        precision: Precision = "float32",
        micro_batch: int | None = None,
        batchnorm: BatchNormMode = "running",
        objective: Given = CLASSIFICATION,
        logits: Callable[[nn.Module, Batch], Any] = model_output,
        per_example_loss: Callable[[nn.Module, Batch], Tensor] | None = None,
        mc_samples: int = 10,
        mc_consistent: bool = True,
        feature_layer: str | None = None,
    ) -> None:
        if mc_samples < 1:
            raise ConfigError(
                f"{mc_samples} dropout samples; at least 1 is needed, the paper has 10"
            )
        if micro_batch is not None and micro_batch < 1:
            raise ConfigError(f"micro_batch is {micro_batch}; it must be at least 1, or None")
        self.model = model
        self.precision = precision
        self.micro_batch = micro_batch
        self.batchnorm = batchnorm
        self.objective = find_objective(objective)
        if per_example_loss is not None and self.objective is not CLASSIFICATION:
            raise ConfigError(
                f'objective "{self.objective.name}" and per_example_loss both say what the loss '
                "is; give one of them"
            )
        # One log-softmax for all that is asked for; a subclass may have other losses.
        self._plainly_classifies = type(self.objective) is Classification
        self._output = logits
        self._width: int | None = None
        self._per_example_loss = per_example_loss
        self._mc_samples = mc_samples
        self._mc_consistent = mc_consistent
        self._feature_layer = feature_layer
        self.layout = Layout()
        self._has_batchnorm = any(isinstance(m, _BatchNorm) for m in model.modules())
        self._code = (logits, per_example_loss, self.objective.losses)
        """What runs in a pass beside the model."""

    def __call__(
        self,
        batch: Batch,
        needs: Collection[str],
        *,
        seed: int = 0,
        known: Mapping[str, Tensor] | None = None,
    ) -> Evidence:
        """Score a pool.

        Args:
            batch: the pool; inputs already on the model's device.
            needs: names of evidence fields; only what this pass can supply is computed.
            seed: of the dropout masks, where any are sampled.
            known: further fields that are known already, such as ``irreducible_B``.

        Returns:
            Evidence with the fields asked for.

        Raises:
            ConfigError: if BatchNorm should use the pool's statistics but the pool is cut up, or
                if the objective does not give what is asked for.
            DataError: if outputs or targets do not fit the objective; on the CPU invalid targets
                too, elsewhere their losses are NaN (see :meth:`blame`).
        """
        ids_B = ids_of(batch)
        size = int(ids_B.shape[0])
        wanted = FORWARD_FIELDS.intersection(needs)
        if wanted:  # in a loop of one's own they may have stayed on the host
            ids_B = ids_B.to(device_of(self.model), non_blocking=True)
        found: dict[str, Tensor | None] = {"targets_B": self._targets(batch), **(known or {})}
        if wanted:
            self._check(size, wanted)
        if "grad_norm_B" in wanted:
            found |= self._with_gradients(batch, wanted)
        elif wanted & PLAIN_FIELDS:
            try:
                found |= self._plain(batch, wanted, labelled=_labelled(wanted, needs))
            except ValueError as error:
                _blame_batchnorm(error, size)
                raise
        if "mc_log_probs_KBC" in wanted:
            found["mc_log_probs_KBC"] = samples_KBC = self._dropout_samples(batch, seed)
            if "targets_B" in needs:
                self._require_values(batch, self._targets(batch), samples_KBC.shape[2])
        return Evidence(ids_B=ids_B, **found)

    def passes(self, needs: Collection[str]) -> tuple[int, int]:
        """What some evidence costs: passes over a pool, forward alone and forward with backward."""
        wanted = FORWARD_FIELDS.intersection(needs)
        backward = "grad_norm_B" in wanted
        forward = not backward and not PLAIN_FIELDS.isdisjoint(wanted)
        samples = self._mc_samples if "mc_log_probs_KBC" in wanted else 0
        return forward + samples, int(backward)

    def settle_layout(self, batch: Batch) -> None:
        """See :func:`settle_first_axis`; the model is asked in evaluation mode, if at all."""
        if self.layout.doubtful:
            with (
                torch.no_grad(),
                scoring_mode(self.model, "running"),
                autocast(device_of(self.model), self.precision),
            ):
                settle_first_axis(self.layout, batch, self._rows_of)

    def _rows_of(self, part: Batch) -> int:
        if self._per_example_loss is not None:
            return len(self._per_example_loss(self.model, part))
        output = self._output(self.model, part)
        if not isinstance(output, Tensor):
            output = self.objective.losses(output, part)
        return len(output)

    def over(self, batches: Iterable[Batch], needs: Collection[str]) -> Iterator[Evidence]:
        """Score batch after batch; what is cheap is computed for several batches at once.

        The scores of a batch are many small kernels, which cost a small model's pass a tenth more.

        Args:
            batches: inputs already on the model's device; taken one at a time.
            needs: names of evidence fields; only what this pass can supply is computed.

        Yields:
            Evidence of one or more whole batches, in their order, as :meth:`__call__` gives it.
            The model is as it was whenever something is yielded.

        Raises:
            ConfigError: see :meth:`__call__`.
        """
        wanted = FORWARD_FIELDS.intersection(needs)
        plain = bool(wanted) and wanted <= PLAIN_FIELDS
        if self._per_example_loss is not None or not self._plainly_classifies or not plain:
            for batch in batches:
                yield self(batch, needs)
            return
        rest = iter(batches)
        labelled = _labelled(wanted, needs)
        while (held := self._held(rest, wanted, labelled=labelled)) is not None:
            yield Evidence(ids_B=held.ids_B, targets_B=held.targets_B, **held.told(wanted))

    def blame(self, batch: Batch) -> None:
        """Find out whether the targets are why a loss was not finite; it waits for the device.

        Args:
            batch: the latest that was scored.

        Raises:
            DataError: if they are, naming values and ids.
        """
        targets = None if self._per_example_loss is not None else self._targets(batch)
        if targets is not None and self._width is not None:
            self.objective.require_values(targets.cpu(), ids_of(batch).cpu(), self._width)

    def _targets(self, batch: Batch) -> Tensor | None:
        return targets_of(batch) if self._per_example_loss else self.objective.targets(batch)

    def _require_values(self, batch: Batch, targets: Tensor | None, width: int) -> None:
        """Refuse invalid targets where looking at them costs no wait for a device."""
        self._width = width
        if targets is not None and targets.device.type == "cpu":
            self.objective.require_values(targets, ids_of(batch).cpu(), width)

    def _held(
        self, batches: Iterator[Batch], wanted: frozenset[str], *, labelled: bool
    ) -> ClassOutputs | None:
        """Forward passes without gradients until enough is held; None where nothing is left."""
        rooms: dict[str, Tensor] = {}
        rows = values = 0
        bias = False
        with (
            torch.no_grad(),
            scoring_mode(self.model, self.batchnorm, keep_random=False),
            autocast(device_of(self.model), self.precision),
            self._catching(wanted) as last,
        ):
            for batch in batches:
                size = int(ids_of(batch).shape[0])
                self._check(size, wanted)
                # Around the model alone: what loading draws is not undone.
                with self._of_one(batch), random_state_kept(self.model, self._code):
                    outputs = self._class_outputs(batch, last, wanted, labelled=labelled)
                bias = outputs.bias
                # Copied into one place: kept as they are, they break up the memory that the next
                # batches are made in, and new pages cost as much as all the scores.
                for name in ("ids_B", "targets_B", "logits_BC", "features_BD", "feature_norm_B"):
                    part = getattr(outputs, name)
                    if part is not None:
                        rooms[name] = put(rooms.get(name), part, rows)
                rows += size
                values += outputs.values
                if values >= HELD_VALUES:
                    break
                del batch, outputs, part
        if not rooms:
            return None
        found = {name: room[:rows] for name, room in rooms.items()}
        return ClassOutputs(
            ids_B=found["ids_B"],
            targets_B=found.get("targets_B"),
            logits_BC=found["logits_BC"],
            features_BD=found.get("features_BD"),
            feature_norm_B=found.get("feature_norm_B"),
            bias=bias,
        )

    def _plain(self, batch: Batch, wanted: frozenset[str], *, labelled: bool) -> dict[str, Tensor]:
        """One forward pass without gradients of the model."""
        with (
            torch.no_grad(),
            scoring_mode(self.model, self.batchnorm, self._code),
            self._of_one(batch),
            autocast(device_of(self.model), self.precision),
            self._catching(wanted) as last,
        ):
            if self._per_example_loss is not None:
                parts, place_B = self._parts(batch)
                return {"loss_B": _joined([self._own_losses(part) for part in parts], place_B)}
            if self._plainly_classifies:
                return self._class_outputs(batch, last, wanted, labelled=labelled).told(wanted)
            return self._evidence(batch, last, wanted, labelled=labelled)

    def _of_one(self, batch: Batch) -> AbstractContextManager[object]:
        """A batch of one has no statistics for BatchNorm: the stored ones have to do."""
        if not self._has_batchnorm or self.batchnorm == "running" or len(ids_of(batch)) != 1:
            return nullcontext()
        return scoring_mode(self.model, "running", keep_random=False)

    def _class_outputs(
        self, batch: Batch, last: LastLayer | None, wanted: Collection[str], *, labelled: bool
    ) -> ClassOutputs:
        """What a classifier makes of a batch, in the batch's order."""
        parts, place_B = self._parts(batch)
        logits: list[Tensor] = []
        features: list[Tensor] = []
        norms: list[Tensor] = []
        for part in parts:
            size = int(ids_of(part).shape[0])
            logits.append(require_logits(self._output(self.model, part), size).float())
            if last is not None and "features_BD" in wanted:
                features.append(require_vectors(last.features_BD, size).float())
            if last is not None and "grad_norm_last_layer_B" in wanted:
                # Here, while the features are in the cache; and they need not be kept.
                norms.append(feature_norms(last.features_BD, size).float())
        logits_BC, targets_B = _joined(logits, place_B), self._targets(batch)
        if labelled and targets_B is not None:
            given_B = targets_B  # on the host perhaps, where a look at them costs no wait
            logits_BC, targets_B = fit(logits_BC, given_B)
            self._require_values(batch, given_B, logits_BC.shape[1])
        return ClassOutputs(
            ids_B=ids_of(batch),
            targets_B=targets_B,
            logits_BC=logits_BC,
            features_BD=_joined(features, place_B) if features else None,
            feature_norm_B=_joined(norms, place_B) if norms else None,
            bias=last is not None and last.bias,
        )

    def _evidence(
        self, batch: Batch, last: LastLayer | None, wanted: Collection[str], *, labelled: bool
    ) -> dict[str, Tensor]:
        """The same of any objective; outputs may be large and are not kept."""
        parts, place_B = self._parts(batch)
        told: dict[str, list[Tensor]] = {}
        for part in parts:
            output = self._output(self.model, part)
            for field, value in evidence_of(self.objective, output, part, wanted, last).items():
                told.setdefault(field, []).append(value)
            if labelled and isinstance(output, Tensor) and output.dim():
                self._require_values(part, self._targets(part), output.shape[-1])
        return {field: _joined(values, place_B) for field, values in told.items()}

    def _parts(self, batch: Batch) -> tuple[Iterator[Batch], Tensor | None]:
        """Micro-batches; of texts, those of like length together, padded no further than they need.

        Returns:
            The parts, and where each candidate's result stands among theirs (None: in order).
        """
        lengths_B = None if self._has_batchnorm else lengths_of(batch)
        if lengths_B is None:
            return micro_batches(batch, self.micro_batch, self.layout), None
        order_B = lengths_B.argsort(stable=True)
        size = TEXTS_AT_ONCE if self.micro_batch is None else self.micro_batch
        parts = micro_batches(take(batch, order_B), size)
        cut = partial(trimmed, per_token=self.objective.per_token)
        return map(cut, parts), order_B.argsort()

    def _with_gradients(self, batch: Batch, wanted: Collection[str]) -> dict[str, Tensor]:
        """One forward and one backward pass; losses and probabilities come with it.

        Always with stored BatchNorm statistics: with the pool's, an example's loss depends on the
        others and has no gradient of its own.
        """
        with (
            scoring_mode(self.model, "running", self._code),
            autocast(device_of(self.model), self.precision),
            self._catching(wanted) as last,
        ):
            if last is not None and self.micro_batch is not None:
                raise ConfigError(
                    "features and gradient norms cannot be had together in micro-batches; score "
                    "the pool whole"
                )
            found = gradient_norms(
                self.model,
                batch,
                batch,
                per_example_loss=self._precise_losses,
                forward=self._output,
                micro_batch=self.micro_batch,
                layout=self.layout,
            )
            if last is not None and found.slow_parameters:
                with torch.no_grad():  # what ran last was a part of the pool
                    self._output(self.model, batch)
            outputs = found.outputs
            if isinstance(outputs, Tensor) and outputs.dim():
                self._require_values(batch, self._targets(batch), outputs.shape[-1])
            # No gradient comes through what is no loss.
            grad_norm_B = found.grad_norm_B.masked_fill(found.loss_B.isnan(), torch.nan)
            told = {"grad_norm_B": grad_norm_B.float(), "loss_B": found.loss_B.float()}
            rest = frozenset(wanted) - {"grad_norm_B"}
            with torch.no_grad():
                if rest and self._plainly_classifies:
                    told |= self._of_logits(batch, outputs, last, rest)
                elif rest - {"loss_B"}:
                    told |= evidence_of(self.objective, outputs, batch, rest, last)
        return {field: value for field, value in told.items() if field in wanted}

    def _of_logits(
        self, batch: Batch, outputs: Any, last: LastLayer | None, wanted: frozenset[str]
    ) -> dict[str, Tensor]:
        """What a classifier's outputs tell, from one pass over a whole batch."""
        targets_B = self._targets(batch)
        assert targets_B is not None  # there was a loss
        logits_BC, targets_B = fit(outputs, targets_B)
        norm_B = None
        if last is not None and "grad_norm_last_layer_B" in wanted:
            norm_B = feature_norms(last.features_BD, len(logits_BC)).float()
        held = ClassOutputs(
            ids_B=ids_of(batch),
            targets_B=targets_B,
            logits_BC=logits_BC.float(),
            features_BD=None if last is None else last.features_BD.float(),
            feature_norm_B=norm_B,
            bias=last is not None and last.bias,
        )
        return held.told(wanted)

    def _precise_losses(self, output: Any, part: Batch) -> Tensor:
        """The objective's losses, worked out in float64 where that is cheap.

        The gradient of a confident example holds p - 1, which float32 rounds to 1e-4 of itself at
        p = 0.9995.
        """
        plain = isinstance(output, Tensor) and output.is_floating_point() and output.dim() <= 2
        if not plain or output.device.type == "mps":
            return self.objective.losses(output, part)
        loss_B = self.objective.losses(output.double(), part)
        return loss_B if output.dtype == torch.float64 else loss_B.float()

    def _dropout_samples(self, batch: Batch, seed: int) -> Tensor:
        """K forward passes, each with its own dropout masks: mc_log_probs_KBC."""
        samples: list[Tensor] = []
        with (
            torch.no_grad(),
            scoring_mode(self.model, "running", self._code) as mode,
            autocast(device_of(self.model), self.precision),
        ):
            for sample in range(self._mc_samples):
                with dropped(
                    self.model, seed, sample, consistent=self._mc_consistent, froze=mode.froze
                ):
                    # Not by length: one sample's masks are of one shape, hence of one length.
                    parts = [
                        self.objective.log_probs(self._output(self.model, part)).float()
                        for part in micro_batches(batch, self.micro_batch, self.layout)
                    ]
                samples.append(stack_outputs(parts))
        return torch.stack(samples)

    def _catching(self, wanted: Collection[str]) -> AbstractContextManager[LastLayer | None]:
        if FEATURE_FIELDS.isdisjoint(wanted):
            return nullcontext()
        return penultimate_features(self.model, self._feature_layer)

    def _own_losses(self, part: Batch) -> Tensor:
        assert self._per_example_loss is not None
        loss_B = self._per_example_loss(self.model, part)
        count = int(ids_of(part).shape[0])
        if loss_B.shape != (count,):
            # A mean or a column would broadcast against other evidence and choose nonsense.
            raise ConfigError(
                f"per_example_loss returned the shape {tuple(loss_B.shape)} for {count} examples; "
                'return one loss for each (reduction="none", averaged over anything but examples)'
            )
        return loss_B.float()

    def _check(self, size: int, wanted: frozenset[str]) -> None:
        is_cut = self.micro_batch is not None and self.micro_batch < size
        by_pool = self.batchnorm == "batch" and bool(wanted & PLAIN_FIELDS)
        if is_cut and by_pool and takes_statistics(self.model):
            raise ConfigError(
                f"BatchNorm cannot take the statistics of a pool of {size} that is scored "
                f"{self.micro_batch} at a time: score it whole, or use the running statistics "
                "(--scoring-batchnorm running)"
            )
        if self._per_example_loss is not None and wanted != {"loss_B"}:
            missing = ", ".join(sorted(wanted - {"loss_B"}))
            raise ConfigError(
                f"this method needs more than losses ({missing}), which a per_example_loss of your "
                "own does not give; pass logits=... or objective=... instead"
            )
        if not self.objective.has_classes and wanted & CLASS_FIELDS:
            raise ConfigError(
                f'objective "{self.objective.name}" has no class probabilities, which '
                f"{', '.join(sorted(wanted & CLASS_FIELDS))} would be; choose by the loss instead "
                "(rho-loss, loss, grad-norm)"
            )


def _blame_batchnorm(error: ValueError, size: int) -> None:
    """Say in one line that a BatchNorm that stores no statistics cannot score a pool of one.

    Raises:
        ConfigError: if it was that.
    """
    if size == 1 and "more than 1 value per channel" in str(error):
        raise ConfigError(
            "this pool has one example, and the model has a BatchNorm that neither stores "
            "statistics nor can take any of one example; leave the last, short pool out "
            "(drop_last=True in the loader)"
        ) from error


def _labelled(wanted: Collection[str], needs: Collection[str]) -> bool:
    """Whether the labels will be read, and must be valid."""
    return "targets_B" in needs or not LABEL_FIELDS.isdisjoint(wanted)


def _joined(parts: list[Tensor], place_B: Tensor | None) -> Tensor:
    """What the parts gave, in the order of the pool."""
    joined = stack_outputs(parts)
    return joined if place_B is None else joined.index_select(0, place_B)
