"""The plain-torch reference loop: train, evaluate, log, checkpoint, resume."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from goldiprox.batch import ID, Batch, take, trimmed
from goldiprox.chooser import Chooser
from goldiprox.config import TrainConfig
from goldiprox.evidence.flops import count_flops, parameter_count
from goldiprox.evidence.forward import ScoringPass
from goldiprox.models.vision import Factory
from goldiprox.objectives import objective as objective_named
from goldiprox.records.evaluations import Evaluation
from goldiprox.records.ledger import RUN_PHASES, Clock, Cost, Ledger
from goldiprox.records.runs import RunFolder
from goldiprox.records.steplog import MARKS, StepLog, StepRecord
from goldiprox.records.tables import Table
from goldiprox.schema import ConfigError, NonFinite, Selection
from goldiprox.seeds import derive_seed, stream
from goldiprox.selection.plans import Course, Draw, PlanFactory, ShuffledPools
from goldiprox.training.build import build, build_for
from goldiprox.training.checkpoint import require_finite_weights, restore, state_of
from goldiprox.training.checks import require_batches_that_normalise, require_fitting_output
from goldiprox.training.companion import Companion
from goldiprox.training.evaluate import evaluate
from goldiprox.training.hooks import Hook
from goldiprox.training.optimization import (
    Stepped,
    make_optimizer,
    resolve_device,
    resolve_precision,
    training_step,
)
from goldiprox.training.task import CheckpointEvery, Report, Task, Trained
from goldiprox.training.trajectory import Start

__all__ = ["Loop", "train"]

SETTLE_EVERY = 64
"""Steps between transfers of the log from the device."""


def train(
    config: TrainConfig,
    task: Task,
    *,
    folder: RunFolder | None = None,
    manifest: dict[str, Any] | None = None,
    irreducible: Table | None = None,
    factory: Factory | None = None,
    keep_best: bool = False,
    hooks: Sequence[Hook] = (),
    plan: PlanFactory | None = None,
    companion: nn.Module | None = None,
    start: Start | None = None,
    checkpoint: CheckpointEvery | None = None,
    report: Report | None = None,
) -> Trained:
    """Train a model with Algorithm 1 of Mindermann et al. 2022 (or plainly, with ``uniform``).

    Args:
        config: settings.
        task: the data.
        folder: where to keep records; an unfinished run there goes on. None keeps nothing.
        manifest: goes into the folder; must hold ``config`` and ``config_hash``.
        irreducible: table for methods that need one.
        factory: the model's factory, if not looked up by ``config.model``.
        keep_best: end with the weights that had the lowest evaluation loss.
        hooks: told of every step and epoch.
        plan: which candidates each step draws, instead of the method's own plan.
        companion: the model trained beside the learner, for methods that want one that is trained
            already; its weights are changed.
        start: where another run was, to begin there; data order and chance are this run's own.
        checkpoint: how often to save an unfinished run.
        report: told of progress.

    Returns:
        The trained model and what it cost.

    Raises:
        ConfigError: if settings do not fit the data.
        NonFinite: if a loss or score becomes NaN or infinite; the last checkpoint is kept.
        CheckpointError: if the folder holds another run or a damaged checkpoint, another process
            writes to it, or it is deleted meanwhile.
    """
    loop = Loop(
        config,
        task,
        folder=folder,
        irreducible=irreducible,
        factory=factory,
        keep_best=keep_best,
        hooks=hooks,
        plan=plan,
        companion=companion,
        start=start,
    )
    every = checkpoint or CheckpointEvery()
    with nullcontext() if folder is None else folder.writing():
        if folder is not None:
            assert manifest is not None
            folder.open({**manifest, "model": loop.describe()}, exact=every.exact)
        return loop.run(every, report or (lambda *_: None))


class Loop:
    """State of a run between its steps; :func:`train` is the way to use it.

    Calibration takes single steps of it with :meth:`one_step`.
    """

    def __init__(
        self,
        config: TrainConfig,
        task: Task,
        *,
        folder: RunFolder | None = None,
        irreducible: Table | None = None,
        factory: Factory | None = None,
        keep_best: bool = False,
        hooks: Sequence[Hook] = (),
        plan: PlanFactory | None = None,
        companion: nn.Module | None = None,
        start: Start | None = None,
    ) -> None:
        self.config = config
        self.task = task
        self.folder = folder
        self.keep_best = keep_best
        self.hooks: Sequence[Hook] = tuple(hooks)
        self._start = start
        self.objective = task.objective or objective_named(config.objective)
        self.per_epoch = config.steps_per_epoch(len(task.train))
        self.total = config.total_steps(len(task.train))
        self.device = resolve_device(config.device)
        self._cuda_devices = [self.device] if self.device.type == "cuda" else []
        self.model, self.feeder = build_for(config, task, factory)
        self.optimizer: Optimizer = make_optimizer(self.model, config)
        self.chooser = Chooser(
            self.model,
            config.method,
            irreducible=irreducible,
            seed=config.seed,
            precision=resolve_precision(config.scoring_precision, self.device),
            micro_batch=config.scoring_micro_batch,
            batchnorm=config.scoring_batchnorm,
            objective=self.objective,
            feature_layer=config.feature_layer,
            dropout_samples=config.dropout_samples,
            dropout_shared=config.dropout_shared,
        )
        self.ledger = Ledger()
        self.clock = Clock(self.device, self.ledger)
        self.log = StepLog(folder.path if folder else None, self._marks_of)
        self.evaluations: list[Evaluation] = []
        self.best: dict[str, Tensor] | None = None
        self.first = 0
        self.step = 0
        self.examples = 0
        self.drawn: Draw | None = None
        self.stepped: Stepped | None = None
        self._marks = {
            mark: task.train.mark(mark)
            for mark in MARKS
            if mark == "corrupted" or mark in task.train.marks
        }
        if self.chooser.method.each_step or config.batch == 1:  # others leave no batch of one
            require_batches_that_normalise(self.model, self.feeder, task, config)
        few = self.feeder(task.train, self.feeder.typical(task.train, 8))
        require_fitting_output(self.model, few, task, self.objective)
        self._flops = count_flops(self.model, few, objective=self.objective)
        self._norm_flops = self.chooser.count_gradients(few)
        self.ledger.leave_out((*self._flops.uncounted, *self._norm_flops.uncounted))
        self.plan = (plan or self.chooser.method.plan)(
            Course(
                ids_N=task.train.ids_N,
                pool=config.pool_size,
                batch=config.batch,
                steps=self.total,
                seed=config.seed,
            )
        )
        self.companion = self._make_companion(companion, few)

    def _make_companion(self, model: nn.Module | None, few: Batch) -> Companion | None:
        spec = self.chooser.method.companion
        if spec is None:
            return None
        if model is None:
            if spec.pretrained:
                raise ConfigError(
                    f'method "{self.config.method}" goes on training the irreducible-loss model; '
                    "give it as companion=..."
                )
            name = self.config.resolved_companion(self.task.train.store.example_shape)
            model, _ = build(  # on the learner's inputs, hence with its tokenizer
                name,
                self.task.train,
                self.feeder.preprocess,
                self.task.num_classes,
                seed=derive_seed(self.config.seed, "companion weights"),
                device=self.device,
            )
        model = self.feeder.place(model)
        scoring = ScoringPass(
            model,
            precision=resolve_precision(self.config.scoring_precision, self.device),
            micro_batch=self.config.scoring_micro_batch,
            objective=self.objective,
        )
        flops = count_flops(model, few, objective=self.objective)
        self.ledger.leave_out(flops.uncounted)
        return Companion(model, spec, self.config, scoring, (flops.forward, flops.training))

    def describe(self) -> dict[str, Any]:
        """For the manifest."""
        return {
            "name": self.config.resolved_model(self.task.train.store.example_shape),
            "parameters": parameter_count(self.model),
            "device": str(self.device),
        }

    def run(self, checkpoint: CheckpointEvery, report: Report) -> Trained:
        """Run to the end, from the last checkpoint if there is one."""
        with torch.random.fork_rng(self._cuda_devices):
            torch.manual_seed(derive_seed(self.config.seed, "dropout"))
            self._restore()
            if self.folder is not None:
                self.ledger.phases.setdefault("records", Cost())
            for hook in self.hooks:
                hook.started(self)
            self._steps(checkpoint, report)
            if not self.evaluations:  # it began at its last step: there was nothing left to train
                self._evaluate()
            for hook in self.hooks:
                hook.finished(self)
        return self._finish()

    def _steps(self, checkpoint: CheckpointEvery, report: Report) -> None:
        saved_at = time.monotonic()
        while self.step < self.total and not self._out_of_patience():
            self.one_step()
            if len(self.log) >= SETTLE_EVERY:
                self.log.settle()
                report(self.step, self.total, self._status())
            if self._evaluation_is_due():
                self.log.settle()  # before a checkpoint can keep weights that are no longer finite
                self._evaluate()
                report(self.step, self.total, self._status())
            due = (
                self.step % checkpoint.steps == 0
                if checkpoint.steps
                else time.monotonic() - saved_at > checkpoint.seconds
            )
            if due and self.folder is not None and self.step < self.total:
                self._save()
                saved_at = time.monotonic()

    def one_step(self) -> None:
        """Draw a pool, choose from it, train on what was chosen."""
        config, clock = self.config, self.clock
        draw = self.drawn = self.plan.draw(self.step)
        positions_B = draw.positions_B
        size = positions_B.numel()
        # Drawn for the whole pool even where only the chosen part is loaded, so that every method
        # sees the same augmented image of the same candidate.
        augmentation = None
        if self.task.preprocess.augments:
            generator = stream(config.seed, "augmentation", self.step)
            augmentation = self.task.preprocess.draw(size, generator)
        lr = config.learning_rate(self.step, self.total)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        pool: Batch = None
        if draw.chosen is None and self.chooser.method.needs_forward:
            with clock("loading", examples=size):
                pool = self.feeder(self.task.train, positions_B, augmentation)
                self._read_ahead()
            with clock("scoring", examples=size, flops=self._scoring_flops(size)):
                selection = self._select(pool, draw)
                per_token = self.objective.per_token
                batch = trimmed(take(pool, selection.positions_k), per_token=per_token)
        else:
            with clock("scoring", examples=0):
                selection = draw.chosen or self._select_unseen(draw)
            with clock("loading", examples=len(selection)):
                chosen = selection.positions_k
                part = None if augmentation is None else augmentation[chosen]
                batch = self.feeder(self.task.train, positions_B[chosen], part)
        k = len(selection)
        with clock("training", examples=k, flops=self._flops.training * k):
            weights_k = selection.weights_k.to(self.device) if selection.weighted else None
            self.stepped = stepped = training_step(
                self.model, self.optimizer, batch, weights_k, config, self.objective
            )
        if self.companion is not None:
            with clock("scoring", flops=self.companion.flops[1] * k):
                self.companion.learn(pool, batch, self.step, lr)
        record = StepRecord(
            step=self.step,
            epoch=self.step // self.per_epoch,
            lr=lr,
            selection=selection,
            pool_size=size,
            loss_k=stepped.loss_k,
            correct_k=stepped.correct_k,
        )
        if self.plan.observes:
            self.plan.observe(draw, selection, record.loss_k)
        self.log.add(record)
        self.step += 1
        self.examples += k
        for hook in self.hooks:
            hook.stepped(self, record)
            if self.step % self.per_epoch == 0:
                hook.epoch_ended(self, self.step // self.per_epoch)

    def _read_ahead(self) -> None:
        """Tell a store that reads slowly what the next step will ask for."""
        if not hasattr(self.task.train.store, "prefetch"):
            return
        # Only these pools depend on the step alone; other plans wait for what this step shows.
        if type(self.plan) is ShuffledPools and self.step + 1 < self.total:
            self.task.train.prefetch(self.plan.draw(self.step + 1).positions_B)

    def _scoring_flops(self, size: int) -> float:
        forward, _ = self.chooser.passes
        beside = self.companion.flops[0] if self.companion else 0.0
        norms = self._norm_flops.of(size, self.config.scoring_micro_batch)
        return float((forward * self._flops.forward + beside) * size + norms)

    def _select(self, pool: Batch, draw: Draw) -> Selection:
        known = None if self.companion is None else self.companion.score(pool)
        try:
            selection = self.chooser.select(pool, draw.k, known)
        except NonFinite as error:
            raise NonFinite(f"step {self.step}: {error}") from error
        if draw.weights_B is None:
            return selection
        weights_k = draw.weights_B.to(selection.positions_k.device)[selection.positions_k]
        return replace(selection, weights_k=weights_k, weighted=True)

    def _select_unseen(self, draw: Draw) -> Selection:
        """Choose by ids and labels only; nothing is loaded."""
        data = self.task.train
        pool = {ID: data.ids_N.index_select(0, draw.positions_B)}
        if "targets_B" in self.chooser.method.needs:  # without a need for a forward pass
            pool["labels"] = data.targets_N.index_select(0, draw.positions_B)
        return self._select(pool, draw)

    def _evaluation_is_due(self) -> bool:
        every = self.config.evaluate_every or self.per_epoch
        return self.step % every == 0 or self.step == self.total

    def _evaluate(self) -> None:
        count = len(self.task.evaluation)
        with self.clock("evaluation", examples=count, flops=self._flops.forward * count):
            found = evaluate(
                self.model,
                self.task.evaluation,
                self.feeder,
                self.config.precision,
                self.objective,
            )
        self.clock.settle()
        paid = self.ledger.total(RUN_PHASES)
        loss = found.mean_loss
        if not math.isfinite(loss):
            raise NonFinite(
                f"evaluation loss is NaN or infinite after step {self.step - 1}: the weights are "
                "no longer usable; lower the learning rate"
            )
        if self.keep_best and loss < min((e.loss for e in self.evaluations), default=float("inf")):
            self.best = {k: v.detach().clone() for k, v in self.model.state_dict().items()}
        evaluation = Evaluation(
            step=self.step,
            epoch=self.step / self.per_epoch,
            examples=self.examples,
            accuracy=found.metrics.get("accuracy"),
            loss=loss,
            matthews=found.metrics.get("matthews") if self.task.num_classes == 2 else None,
            metrics=dict(found.metrics),
            seconds=paid.seconds,
            flops=paid.flops,
        )
        self.evaluations.append(evaluation)
        for hook in self.hooks:
            hook.evaluated(self, evaluation)

    def _out_of_patience(self) -> bool:
        patience = self.config.patience
        if patience is None or len(self.evaluations) <= patience:
            return False
        losses = [e.loss for e in self.evaluations]
        return losses.index(min(losses)) < len(losses) - patience

    def _status(self) -> str:
        return f"step {self.step}/{self.total}{self._latest()}"

    def _latest(self) -> str:
        """The headline of the last evaluation."""
        headline = self.objective.headline
        value = self.evaluations[-1].metrics.get(headline.name) if self.evaluations else None
        if value is None:
            return ""
        return f", {headline.title} {headline.written(value)}"

    def _marks_of(self, ids: Tensor) -> dict[str, Tensor]:
        positions = self.task.train.positions_of(ids)
        return {mark: marked_N[positions] for mark, marked_N in self._marks.items()}

    def _save(self) -> None:
        assert self.folder is not None
        started = time.perf_counter()
        self.log.settle()
        require_finite_weights(self.model, self.step - 1)
        self.log.write_part()
        self.clock.settle()
        self.folder.save_checkpoint(self.step, state_of(self))
        # Seconds alone: how often it is saved depends on the clock, and what it cost must not.
        self.ledger.phases["records"].seconds += time.perf_counter() - started

    def _restore(self) -> None:
        if self._start is not None:
            self._start.apply(self.model, self.optimizer)
            self.step = self._start.epoch * self.per_epoch
            if self.step > self.total:
                raise ConfigError(
                    f"a run of {self.total} steps cannot begin after epoch {self._start.epoch}, "
                    f"which is step {self.step}; train for more epochs, or begin earlier"
                )
            self.first = self.step
        if self.folder is None:
            return
        state = self.folder.load_checkpoint()
        self.log.cut(state["step"] if state else self.step, self.first)
        if state is not None:
            restore(self, state)

    def _outcome(self) -> dict[str, Any]:
        """How well the run ended, by the objective's headline."""
        headline = self.objective.headline
        values = [e.metrics[headline.name] for e in self.evaluations if headline.name in e.metrics]
        accuracies = [e.accuracy for e in self.evaluations if e.accuracy is not None]
        found: dict[str, Any] = {"final_loss": self.evaluations[-1].loss}
        if accuracies:
            found |= {"final_accuracy": accuracies[-1], "best_accuracy": max(accuracies)}
        if values:
            found |= {
                "metric": asdict(headline),
                "metrics": [asdict(metric) for metric in self.objective.metrics],
                "final": values[-1],
                "best": headline.best(values),
            }
        return found

    def _finish(self) -> Trained:
        self.log.settle()
        if self.best is not None:
            self.model.load_state_dict(self.best)
        self.clock.settle()
        if self.folder is not None:
            self.log.merge()
            self.folder.finish(
                evaluations=[asdict(e) for e in self.evaluations],
                ledger=self.ledger.to_json(),
                weights=self.model.state_dict(),
                result={"steps": self.step, "examples": self.examples, **self._outcome()},
            )
            self.log.drop_parts()
        return Trained(
            model=self.model,
            feeder=self.feeder,
            evaluations=self.evaluations,
            ledger=self.ledger,
            steps=self.step,
        )
