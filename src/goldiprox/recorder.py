"""The run folder that ``goldiprox train`` writes, for a loop or trainer of one's own."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from goldiprox.batch import Batch, ids_of
from goldiprox.chooser import Chooser, Chosen
from goldiprox.config import config_hash
from goldiprox.evidence.flops import Flops, count_flops, parameter_count
from goldiprox.evidence.mode import device_of
from goldiprox.loggers import Logger
from goldiprox.objectives import Given, Objective
from goldiprox.objectives import objective as objective_named
from goldiprox.records.evaluations import Evaluation
from goldiprox.records.ledger import RUN_PHASES, Clock, Ledger
from goldiprox.records.owner import writing
from goldiprox.records.runs import RunFolder
from goldiprox.records.steplog import StepLog, StepRecord
from goldiprox.schema import ConfigError, GoldiproxError, Selection

__all__ = ["Recorder"]

SETTLE_EVERY = 64
"""Steps between transfers of the log from the device."""


class Recorder:
    """Records what a training loop of one's own chose, how well it does and what that cost.

    The folder is one that ``goldiprox report`` reads: several of them, of the same data, make a
    comparison, with every cost charged.

    Example::

        with goldiprox.Recorder("runs/rho-0", choose, data="photos", examples=len(train)) as record:
            for pool in loader:
                with record.phase("scoring", pool):
                    chosen = choose(pool)
                with record.phase("training", chosen):
                    losses = F.cross_entropy(model(chosen.batch[1]), chosen.batch[2],
                                             reduction="none")
                    optimizer.zero_grad()
                    (losses * chosen.weights).mean().backward()
                    optimizer.step()
                record.step(chosen, losses)
                if record.steps % 100 == 0:
                    record.evaluate(accuracy=test(model))

    Only what runs inside a :meth:`phase` is charged, so time your loading, scoring and training and
    leave your evaluation outside.

    Args:
        out: the run's folder.
        choose: what chooses; method, seed, model, irreducible-loss table and its costs are taken
            from it. None for a loop that chooses in another way.
        data: what the training data is called. Runs are compared only if this, or ``fingerprint``
            where given, is the same.
        examples: size of the training set; decides what an epoch is.
        method: a name for the line in a comparison; the chooser's method unless given.
        model: the model, where there is no chooser.
        seed: the run's seed; the chooser's unless given.
        fingerprint: identifies the data, such as a digest of its files; ``data`` unless given.
        wrong_ids: ids of the training examples whose labels are known to be wrong.
        objective: what the model is trained for; decides the headline of a comparison.
        config: further settings, for the manifest; runs that differ in them may be compared.
        loggers: told of every evaluation, see :mod:`goldiprox.loggers`.

    Raises:
        ConfigError: if neither chooser nor method is given, or the data is empty.
        CheckpointError: if the folder holds another run.
    """

    def __init__(
        self,
        out: str | Path,
        choose: Chooser | None = None,
        *,
        data: str,
        examples: int,
        method: str | None = None,
        model: nn.Module | None = None,
        seed: int | None = None,
        fingerprint: str | None = None,
        wrong_ids: Tensor | Sequence[int] | None = None,
        objective: Given | None = None,
        config: Mapping[str, Any] | None = None,
        loggers: Iterable[Logger] = (),
    ) -> None:
        if choose is None and method is None:
            raise ConfigError("a Recorder needs the Chooser, or the name of the method")
        if examples < 1:
            raise ConfigError(f"examples is {examples}: give the size of the training set")
        self._folder = RunFolder(Path(out))
        if self._folder.finished:
            raise ConfigError(
                f"{out} holds a finished run; choose another folder, or delete this one"
            )
        self._choose = choose
        self._model = model if choose is None else choose.model
        self._method = method or (choose.method.name if choose else "")
        self._seed = seed if seed is not None else (choose.seed if choose else 0)
        self._objective = _objective_of(choose, objective)
        self._data = {
            "dataset": data,
            "source": "recorder",
            "fingerprint": fingerprint or hashlib.sha256(f"named {data}".encode()).hexdigest(),
            "sizes": {"train": examples},
        }
        self._examples = examples
        self._config = dict(config or {})
        self._loggers = tuple(loggers)
        self._ledger = Ledger()
        self._device = torch.device("cpu") if self._model is None else device_of(self._model)
        self._clock = Clock(self._device, self._ledger)
        self._log = StepLog(self._folder.path, self._marks_of)
        self._wrong: Tensor | None = None
        if wrong_ids is not None:
            self._wrong = torch.as_tensor(wrong_ids, dtype=torch.int64).unique()
            self._data["label_noise"] = {"wrong": {"train": len(self._wrong)}}
        self._flops: Flops | None = None
        self._candidates = 0
        self._trained = 0
        self._evaluations: list[Evaluation] = []
        self._opened = False
        self._owned: ExitStack | None = None
        self.steps = 0
        """Steps recorded so far."""

    def phase(
        self, name: str, examples: Batch | Chosen | int = 0, flops: float | None = None
    ) -> AbstractContextManager[object]:
        """Charge what happens inside to a phase: ``loading``, ``scoring`` or ``training``.

        Args:
            name: of the phase.
            examples: what it handles: a batch, what was chosen, or how many examples. Of the
                chooser's own work the floating-point operations are then known.
            flops: floating-point operations, where you know better.

        Raises:
            ConfigError: for another phase.
        """
        if name not in RUN_PHASES:
            raise ConfigError(f'no phase "{name}"; there are {", ".join(RUN_PHASES)}')
        count = _count(examples)
        if flops is None:
            batch = examples.batch if isinstance(examples, Chosen) else examples
            flops = self._flops_of(name, count, batch)
        return self._clock(name, examples=count, flops=flops)

    def step(
        self,
        chosen: Chosen | Tensor,
        losses: Tensor,
        *,
        correct: Tensor | None = None,
        pool_size: int | None = None,
        lr: float | None = None,
    ) -> None:
        """Record one training step.

        Args:
            chosen: what was trained on, or its ids (int64 of shape [k]).
            losses: loss_k of these before the step, unreduced; detached here.
            correct: bool_k, whether each was predicted correctly, where you know.
            pool_size: how many candidates there were; known of what a chooser chose.
            lr: the learning rate.

        Raises:
            ConfigError: if there is not one loss for each example.
            NonFinite: now and then, naming the first step whose loss is NaN or infinite.
        """
        selection = chosen.selection if isinstance(chosen, Chosen) else _all_of(chosen)
        k = len(selection)
        if losses.shape != (k,):
            raise ConfigError(
                f"losses have the shape {tuple(losses.shape)} for {k} examples; give one loss for "
                'each (reduction="none")'
            )
        if pool_size is None:
            pool_size = chosen.pool_size if isinstance(chosen, Chosen) else k
        self._open(k, pool_size)
        self._log.add(
            StepRecord(
                step=self.steps,
                epoch=self._candidates // self._examples,
                lr=lr,
                selection=selection,
                pool_size=pool_size,
                loss_k=losses.detach(),
                correct_k=correct,
            )
        )
        self.steps += 1
        self._trained += k
        self._candidates += pool_size
        if len(self._log) >= SETTLE_EVERY:
            self._log.settle()

    def evaluate(self, metrics: Mapping[str, float] | None = None, **named: float) -> None:
        """Record how well the model does now, on examples that are not trained on.

        Args:
            metrics: values by name, such as ``{"accuracy": 0.9, "loss": 0.3}``.
            **named: the same, by keyword.

        Raises:
            ConfigError: if the objective's headline is not among them, or before the first step.
        """
        values = {name: float(value) for name, value in {**(metrics or {}), **named}.items()}
        headline = self._objective.headline.name
        if headline not in values:
            raise ConfigError(
                f"an evaluation of objective {self._objective.name} needs {headline}; given: "
                f"{', '.join(values) or 'nothing'}"
            )
        if not self.steps:
            raise ConfigError("record a step before the first evaluation")
        self._clock.settle()
        self._log.settle()
        paid = self._ledger.total(RUN_PHASES)
        self._evaluations.append(
            Evaluation(
                step=self.steps,
                epoch=self._candidates / self._examples,
                examples=self._trained,
                accuracy=values.get("accuracy"),
                loss=values.get("loss", math.nan),
                matthews=values.get("matthews"),
                metrics=values,
                seconds=paid.seconds,
                flops=paid.flops,
            )
        )
        told = {**values, "seconds": paid.seconds, "flops": paid.flops, "examples": self._trained}
        for logger in self._loggers:
            logger.log(told, step=self.steps)

    def finish(self) -> None:
        """Write what a finished run leaves.

        Raises:
            ConfigError: if nothing was evaluated, or the last step was not.
        """
        if not self._evaluations or self._evaluations[-1].step != self.steps:
            raise ConfigError(
                "evaluate after the last step, before the run is finished: record.evaluate(...)"
            )
        self._clock.settle()
        self._log.merge()
        headline = self._objective.headline
        values = [e.metrics[headline.name] for e in self._evaluations]
        self._folder.finish(
            evaluations=[_as_json(e) for e in self._evaluations],
            ledger=self._ledger.to_json(),
            weights={} if self._model is None else self._model.state_dict(),
            result={
                "steps": self.steps,
                "examples": self._trained,
                "metric": asdict(headline),
                "metrics": [asdict(metric) for metric in self._objective.metrics],
                "final": values[-1],
                "best": headline.best(values),
                **_accuracies(self._evaluations),
            },
        )
        self._log.drop_parts()
        self._release()

    def _release(self) -> None:
        """Let others write into the folder."""
        if self._owned is not None:
            self._owned.close()
            self._owned = None

    def state_dict(self) -> dict[str, Any]:
        """What your checkpoint must keep for the records to go on; writes the log until here."""
        self._clock.settle()
        self._log.write_part()
        return {
            "steps": self.steps,
            "candidates": self._candidates,
            "trained": self._trained,
            "evaluations": [_as_json(e) for e in self._evaluations],
            "ledger": self._ledger.to_json(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint: what was recorded after it is dropped."""
        self.steps = state["steps"]
        self._candidates = state["candidates"]
        self._trained = state["trained"]
        self._evaluations = [
            Evaluation(**{**e, "loss": math.nan if e["loss"] is None else e["loss"]})
            for e in state["evaluations"]
        ]
        self._ledger = Ledger.from_json(state["ledger"])
        self._clock = Clock(self._device, self._ledger)
        self._log.cut(self.steps)
        self._opened = self.steps > 0

    def __enter__(self) -> Recorder:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self.finish()
        finally:
            self._release()

    def _open(self, batch: int, pool: int) -> None:
        """Write the manifest, at the first step: batch and pool are known then."""
        if self._opened and self._owned is not None:
            return
        if self._owned is None:
            self._owned = ExitStack()
            self._owned.enter_context(writing(self._folder.path))
        if self._opened:
            return
        table = None if self._choose is None else self._choose.table
        train = {"method": self._method, "seed": self._seed, "batch": batch, "pool": pool}
        body = {
            "arm": self._method,
            "data": {"dataset": self._data["dataset"], "fingerprint": self._data["fingerprint"]},
            "train": {**self._config, **train, "objective": self._objective.name},
            "irreducible": None if table is None else table.provenance.get("config_hash"),
        }
        self._log.cut(0)
        self._folder.open(
            {
                "arm": self._method,
                "protocol": "paper",
                "config": body,
                "config_hash": config_hash(body),
                "data": self._data,
                "irreducible": None if table is None else dict(table.provenance),
                "model": self._described(),
                "uncounted": [] if self._flops is None else list(self._flops.uncounted),
            }
        )
        self._opened = True

    def _described(self) -> dict[str, Any]:
        if self._model is None:
            return {"name": "unknown", "parameters": None, "device": None}
        return {
            "name": type(self._model).__name__,
            "parameters": parameter_count(self._model),
            "device": str(device_of(self._model)),
        }

    def _flops_of(self, phase: str, count: int, batch: Any) -> float:
        """What the model's passes cost, counted on the first batch that is seen."""
        if self._choose is None or phase == "loading":
            return 0.0
        if self._flops is None:
            if isinstance(batch, int):
                return 0.0
            self._flops = _counted(self._choose, batch, self._objective)
        if phase == "training":
            return self._flops.training * count
        forward, backward = self._choose.passes
        return (forward * self._flops.forward + backward * self._flops.training) * count

    def _marks_of(self, ids: Tensor) -> dict[str, Tensor]:
        return {} if self._wrong is None else {"corrupted": torch.isin(ids, self._wrong)}


def _as_json(evaluation: Evaluation) -> dict[str, Any]:
    """An evaluation whose loss may not have been measured."""
    found = asdict(evaluation)
    return {**found, "loss": None if math.isnan(evaluation.loss) else evaluation.loss}


def _accuracies(evaluations: list[Evaluation]) -> dict[str, float]:
    """Final and best accuracy, where all evaluations have one."""
    values = [e.accuracy for e in evaluations if e.accuracy is not None]
    if len(values) < len(evaluations):
        return {}
    return {"final_accuracy": values[-1], "best_accuracy": max(values)}


def _counted(choose: Chooser, batch: Batch, objective: Objective) -> Flops:
    try:
        return count_flops(choose.model, batch, choose.output, objective)
    except (GoldiproxError, RuntimeError, TypeError, ValueError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        return Flops(forward=0.0, training=0.0, uncounted=(f"the whole model ({first})",))


def _objective_of(choose: Chooser | None, given: Given | None) -> Objective:
    if given is not None:
        return objective_named(given)
    return objective_named("classification") if choose is None else choose.objective


def _count(examples: Any) -> int:
    if isinstance(examples, int):
        return examples
    return len(examples.selection) if isinstance(examples, Chosen) else len(ids_of(examples))


def _all_of(ids: Tensor) -> Selection:
    return Selection.of(ids, torch.arange(len(ids), device=ids.device))
