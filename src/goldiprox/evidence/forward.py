"""What a pass over a pool tells of each candidate, with no side effects.

One pass serves every method that shares its evidence, and only what is needed is computed. After
it the model's modes, buffers and gradients and the global random state are what they were before.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from goldiprox.batch import (
    Batch,
    default_logits,
    ids_of,
    lengths_of,
    micro_batches,
    require_targets,
    stack_outputs,
    take,
    targets_of,
    trimmed,
)
from goldiprox.evidence.dropout import dropped
from goldiprox.evidence.gradients import (
    LastLayer,
    feature_norms,
    gradient_norms,
    logit_gradient_norms,
    penultimate_features,
    require_vectors,
    scaled_by_features,
)
from goldiprox.evidence.mode import (
    BatchNormMode,
    Precision,
    autocast,
    device_of,
    scoring_mode,
)
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

LOGIT_NORM_FIELDS = frozenset({"grad_norm_bound_B", "grad_norm_last_layer_B"})
"""What stands on the norm of the gradient with respect to the logits."""

HELD_VALUES = 1 << 18
"""Logits and features of several batches that are held back, to compute what they tell at once."""

FROM_LOGITS = frozenset({"loss_B", "log_probs_BC", "grad_norm_bound_B", "grad_norm_last_layer_B"})

LANES = 16
"""Classes below which log_softmax over rows does not fill a CPU's vectors."""

TEXTS_AT_ONCE = 64
"""Texts scored at a time where nothing else is asked for: few enough to be of like length."""

PLAIN_FIELDS = FORWARD_FIELDS - {"grad_norm_B", "mc_log_probs_KBC"}
"""What one plain forward pass tells."""


def log_probabilities(logits_BC: Tensor) -> Tensor:
    """log_softmax over the classes: log_probs_BC.

    For few classes a CPU takes several times as long along rows as along columns, which fill its
    vectors; the values are the same.
    """
    if logits_BC.device.type == "cpu" and logits_BC.dim() == 2 and logits_BC.shape[1] < LANES:
        return logits_BC.t().log_softmax(0).t().contiguous()
    return logits_BC.log_softmax(1)


@dataclass(frozen=True, kw_only=True)
class _Outputs:
    """What a model made of some candidates, in their order."""

    ids_B: Tensor
    targets_B: Tensor | None
    logits_BC: Tensor
    features_BD: Tensor | None
    feature_norm_B: Tensor | None
    """Of the last layer's inputs, where these themselves are not asked for."""
    bias: bool
    """Whether the last layer has one."""

    @property
    def values(self) -> int:
        """How many numbers are kept."""
        features = 0 if self.features_BD is None else self.features_BD.numel()
        return self.logits_BC.numel() + features

    def labels(self) -> Tensor:
        """The targets, or a DataError that says where labels belong."""
        return require_targets((self.ids_B, None, self.targets_B))

    def classes(self) -> Tensor:
        """The same, or a ConfigError if they are no class numbers."""
        return Evidence(ids_B=self.ids_B, targets_B=self.labels()).classes()


def _put(room: Tensor | None, part: Tensor, rows: int) -> Tensor:
    """Write rows behind the first ``rows`` of a buffer, which is made or enlarged where needed."""
    end = rows + len(part)
    if room is None or end > len(room):
        larger = part.new_empty((max(2 * end, HELD_VALUES // 64), *part.shape[1:]))
        if room is not None:
            larger[:rows] = room[:rows]
        room = larger
    room[rows:end] = part
    return room


def _told(outputs: _Outputs, wanted: Collection[str]) -> dict[str, Tensor]:
    """What the logits and the last layer's inputs tell of some candidates."""
    told: dict[str, Tensor] = {}
    if outputs.features_BD is not None:
        told["features_BD"] = outputs.features_BD
    if not FROM_LOGITS.isdisjoint(wanted):
        log_probs_BC = log_probabilities(outputs.logits_BC)
        told["log_probs_BC"] = log_probs_BC
        if "loss_B" in wanted:
            told["loss_B"] = _losses(log_probs_BC, outputs)
        if not LOGIT_NORM_FIELDS.isdisjoint(wanted):
            bound_B = logit_gradient_norms(log_probs_BC, outputs.classes())
            told["grad_norm_bound_B"] = bound_B
            if outputs.feature_norm_B is not None:
                told["grad_norm_last_layer_B"] = scaled_by_features(
                    bound_B, outputs.feature_norm_B, bias=outputs.bias
                )
    return {field: value for field, value in told.items() if field in wanted}


def _losses(log_probs_BC: Tensor, outputs: _Outputs) -> Tensor:
    targets_B = outputs.labels()
    if targets_B.is_floating_point():  # a probability for each class
        return F.cross_entropy(outputs.logits_BC, targets_B, reduction="none")
    return F.nll_loss(log_probs_BC, targets_B, reduction="none")


class ScoringPass:
    """Computes the evidence that needs a forward pass of the current model.

    Args:
        model: the model being trained.
        precision: ``bf16`` runs the pass under autocast; losses are float32 either way.
        micro_batch: at most this many examples at once; None scores the pool in one go.
        batchnorm: see :func:`scoring_mode`.
        logits: how to get logits_BC from the model and a batch.
        per_example_loss: how to get loss_B from the model and a batch, for anything that is not
            classification by cross-entropy; then no logits are made.
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
        logits: Callable[[nn.Module, Batch], Tensor] = default_logits,
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
        self._logits = logits
        self._per_example_loss = per_example_loss
        self._mc_samples = mc_samples
        self._mc_consistent = mc_consistent
        self._feature_layer = feature_layer
        self._has_batchnorm = any(isinstance(m, _BatchNorm) for m in model.modules())

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
                if log-probabilities are asked of a loss that the caller defined himself.
        """
        ids_B = ids_of(batch)
        size = int(ids_B.shape[0])
        wanted = FORWARD_FIELDS.intersection(needs)
        if wanted:  # in a loop of one's own they may have stayed on the host
            ids_B = ids_B.to(device_of(self.model), non_blocking=True)
        found: dict[str, Tensor | None] = {"targets_B": targets_of(batch), **(known or {})}
        if wanted:
            self._check(size, wanted)
        if "grad_norm_B" in wanted:
            found |= self._with_gradients(batch, wanted)
        elif wanted & PLAIN_FIELDS:
            found |= self._plain(batch, wanted)
        if "mc_log_probs_KBC" in wanted:
            found["mc_log_probs_KBC"] = self._dropout_samples(batch, seed)
        return Evidence(ids_B=ids_B, **found)

    def passes(self, needs: Collection[str]) -> tuple[int, int]:
        """What some evidence costs: passes over a pool, forward alone and forward with backward."""
        wanted = FORWARD_FIELDS.intersection(needs)
        backward = "grad_norm_B" in wanted
        forward = not backward and not PLAIN_FIELDS.isdisjoint(wanted)
        samples = self._mc_samples if "mc_log_probs_KBC" in wanted else 0
        return forward + samples, int(backward)

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
        if self._per_example_loss is not None or not wanted or not wanted <= PLAIN_FIELDS:
            for batch in batches:
                yield self(batch, needs)
            return
        rest = iter(batches)
        while (held := self._held(rest, wanted)) is not None:
            yield Evidence(ids_B=held.ids_B, targets_B=held.targets_B, **_told(held, wanted))

    def _held(self, batches: Iterator[Batch], wanted: frozenset[str]) -> _Outputs | None:
        """Forward passes without gradients until enough is held; None where nothing is left."""
        rooms: dict[str, Tensor] = {}
        rows = values = 0
        bias = False
        with (
            torch.no_grad(),
            scoring_mode(self.model, self.batchnorm),
            autocast(device_of(self.model), self.precision),
            self._catching(wanted) as last,
        ):
            for batch in batches:
                size = int(ids_of(batch).shape[0])
                self._check(size, wanted)
                outputs = self._outputs(batch, last, wanted)
                bias = outputs.bias
                # Copied into one place: kept as they are, they break up the memory that the next
                # batches are made in, and new pages cost as much as all the scores.
                for name in ("ids_B", "targets_B", "logits_BC", "features_BD", "feature_norm_B"):
                    part = getattr(outputs, name)
                    if part is not None:
                        rooms[name] = _put(rooms.get(name), part, rows)
                rows += size
                values += outputs.values
                if values >= HELD_VALUES:
                    break
                del batch, outputs, part
        if not rooms:
            return None
        found = {name: room[:rows] for name, room in rooms.items()}
        return _Outputs(
            ids_B=found["ids_B"],
            targets_B=found.get("targets_B"),
            logits_BC=found["logits_BC"],
            features_BD=found.get("features_BD"),
            feature_norm_B=found.get("feature_norm_B"),
            bias=bias,
        )

    def _plain(self, batch: Batch, wanted: frozenset[str]) -> dict[str, Tensor]:
        """One forward pass without gradients."""
        with (
            torch.no_grad(),
            scoring_mode(self.model, self.batchnorm),
            autocast(device_of(self.model), self.precision),
            self._catching(wanted) as last,
        ):
            if self._per_example_loss is None:
                return _told(self._outputs(batch, last, wanted), wanted)
            parts, place_B = self._parts(batch)
            return {"loss_B": _joined([self._own_losses(part) for part in parts], place_B)}

    def _outputs(self, batch: Batch, last: LastLayer | None, wanted: Collection[str]) -> _Outputs:
        """What the model makes of a batch, in the batch's order."""
        parts, place_B = self._parts(batch)
        logits: list[Tensor] = []
        features: list[Tensor] = []
        norms: list[Tensor] = []
        for part in parts:
            logits.append(self._logits(self.model, part).float())
            if last is not None and "features_BD" in wanted:
                features.append(require_vectors(last.features_BD, len(logits[-1])).float())
            if last is not None and "grad_norm_last_layer_B" in wanted:
                # Here, while the features are in the cache; and they need not be kept.
                norms.append(feature_norms(last.features_BD, len(logits[-1])).float())
        return _Outputs(
            ids_B=ids_of(batch),
            targets_B=targets_of(batch),
            logits_BC=_joined(logits, place_B),
            features_BD=_joined(features, place_B) if features else None,
            feature_norm_B=_joined(norms, place_B) if norms else None,
            bias=last is not None and last.bias,
        )

    def _parts(self, batch: Batch) -> tuple[Iterator[Batch], Tensor | None]:
        """Micro-batches; of texts, those of like length together, padded no further than they need.

        Returns:
            The parts, and where each candidate's result stands among theirs (None: in order).
        """
        lengths_B = None if self._has_batchnorm else lengths_of(batch)
        if lengths_B is None:
            return micro_batches(batch, self.micro_batch), None
        order_B = lengths_B.argsort(stable=True)
        size = TEXTS_AT_ONCE if self.micro_batch is None else self.micro_batch
        parts = micro_batches(take(batch, order_B), size)
        return map(trimmed, parts), order_B.argsort()

    def _with_gradients(self, batch: Batch, wanted: Collection[str]) -> dict[str, Tensor]:
        """One forward and one backward pass; losses and probabilities come with it.

        Always with stored BatchNorm statistics: with the pool's, an example's loss depends on the
        others and has no gradient of its own.
        """
        with (
            scoring_mode(self.model, "running"),
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
                require_targets(batch),
                forward=self._logits,
                micro_batch=self.micro_batch,
            )
        norm_B = None
        if last is not None and "grad_norm_last_layer_B" in wanted:
            norm_B = feature_norms(last.features_BD, len(found.outputs)).float()
        outputs = _Outputs(
            ids_B=ids_of(batch),
            targets_B=targets_of(batch),
            logits_BC=found.outputs.float(),
            features_BD=None if last is None else last.features_BD.float(),
            feature_norm_B=norm_B,
            bias=last is not None and last.bias,
        )
        return {**_told(outputs, wanted), "grad_norm_B": found.grad_norm_B.float()}

    def _dropout_samples(self, batch: Batch, seed: int) -> Tensor:
        """K forward passes, each with its own dropout masks: mc_log_probs_KBC."""
        samples: list[Tensor] = []
        with (
            torch.no_grad(),
            scoring_mode(self.model, "running"),
            autocast(device_of(self.model), self.precision),
        ):
            for sample in range(self._mc_samples):
                with dropped(self.model, seed, sample, consistent=self._mc_consistent):
                    # Not by length: one sample's masks are of one shape, hence of one length.
                    parts = [
                        log_probabilities(self._logits(self.model, part).float())
                        for part in micro_batches(batch, self.micro_batch)
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
        if is_cut and self.batchnorm == "batch" and self._has_batchnorm and wanted & PLAIN_FIELDS:
            raise ConfigError(
                f"BatchNorm cannot take the statistics of a pool of {size} that is scored "
                f"{self.micro_batch} at a time: score it whole, or use the running statistics "
                "(--scoring-batchnorm running)"
            )
        if self._per_example_loss is not None and wanted != {"loss_B"}:
            missing = ", ".join(sorted(wanted - {"loss_B"}))
            raise ConfigError(
                f"this method needs more than losses ({missing}), which a per_example_loss of your "
                "own does not give; pass logits=... instead"
            )


def _joined(parts: list[Tensor], place_B: Tensor | None) -> Tensor:
    """What the parts gave, in the order of the pool."""
    joined = stack_outputs(parts)
    return joined if place_B is None else joined.index_select(0, place_B)
