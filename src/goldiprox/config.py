"""Settings of a run: frozen, validated, with a stable hash. Presets are functions.

The string below each field is its help text on the command line.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, TypeVar

from goldiprox.evidence.mode import BatchNormMode, Precision
from goldiprox.objectives import objective
from goldiprox.schema import ConfigError, require_seed
from goldiprox.selection.methods import method
from goldiprox.selection.selectors import how_many

__all__ = [
    "POOL_RATIO",
    "CompareConfig",
    "IrreducibleConfig",
    "LearnerConfig",
    "Protocol",
    "Schedule",
    "TrainConfig",
    "config_hash",
    "fitted_to",
    "settings_of",
    "small_model",
]

Schedule = Literal["constant", "cosine", "one-cycle"]

POOL_RATIO = 10
"""The default pool in batches, the paper's ratio."""


@dataclass(frozen=True, kw_only=True)
class LearnerConfig:
    """Settings that a single run and a comparison of many share."""

    model: str = "auto"
    """Model. Images: mlp (auto), mlp-128, mlp-512, mlp-dropout, small-cnn, small-cnn-dropout,
    resnet18, resnet18-32, resnet18-16, vgg11-bn, googlenet, resnet34, resnet50, densenet121,
    mobilenet-v2, inception-v3 (all for images of about 32x32), resnet18-pretrained,
    resnet50-pretrained (for large ones). Texts: albert/albert-base-v2 (auto) or any other sequence
    classifier of transformers by hub name or local folder, bag-of-embeddings,
    bag-of-embeddings-dropout, small-transformer. Or package.module:factory called with the shape
    of one example (of texts: max-length and size of the vocabulary) and the number of classes."""

    tokenizer: str | None = None
    """Tokenizer of texts, by hub name or local folder: the model's own unless given. A model
    without one makes a vocabulary of the words that it is trained on."""

    max_length: int = 128
    """Texts are cut to this many tokens."""

    objective: str = "classification"
    """What the model is trained for: classification, multilabel, regression (squared error),
    regression-absolute, regression-huber, language-model, or one of your own as
    package.module:name."""

    pool: int | None = None
    """Candidates per step that the batch is chosen from; 10 x batch unless given, the paper's
    setting. One epoch is one pass over the pools, so an epoch trains on batch/pool of the data,
    uniform too."""

    epochs: int = 20
    """Passes over the pools."""

    steps: int | None = None
    """Training steps; overrides --epochs."""

    evaluate_every: int | None = None
    """Steps between evaluations. Unless given once an epoch; compare evaluates up to 20 times an
    epoch where that costs at most 5 % of plain training."""

    lr: float = 1e-3
    """Learning rate of AdamW (the peak of it under cosine and one-cycle). A pretrained text model
    wants less: the RHO-LOSS paper trains ALBERT with 2e-5."""

    weight_decay: float = 0.01
    """Weight decay of AdamW; 0.02 for ALBERT in the RHO-LOSS paper."""

    schedule: Schedule = "constant"
    """constant (the paper's), cosine (decays to zero at the run's last step) or one-cycle (rises
    over the first 15 % of the steps, then falls linearly to zero)."""

    precision: Precision = "float32"
    """Arithmetic of training and evaluation; bf16 is autocast."""

    scoring_precision: Precision | Literal["auto"] = "auto"
    """Arithmetic of the scoring pass; bf16 is autocast. auto: bf16 where the device has matrix
    units for it (CUDA from compute capability 8, CPUs with AMX), else float32; the manifest says
    which it was. Choosing needs the order of the losses, not their last digits."""

    scoring_micro_batch: int | None = None
    """Score at most this many candidates at once, for pools that do not fit into memory."""

    scoring_batchnorm: BatchNormMode = "batch"
    """BatchNorm in the scoring pass: statistics of the pool (batch, the paper's setting) or the
    stored ones (running). Neither moves the stored statistics."""

    feature_layer: str | None = None
    """Name of the linear layer whose inputs are an example's features, for methods that need them
    (divbs, grad-norm-last-layer); the last one that runs unless given."""

    dropout_samples: int = 10
    """Dropout masks that a method samples where it needs any (bald, conditional-entropy); 10 in
    the RHO-LOSS paper."""

    dropout_shared: bool = True
    """Whether all candidates of a pool share each sample's masks."""

    companion_model: str = "auto"
    """The small model that some methods train beside the target, or before it; auto: small-cnn for
    colour images unless the target is an MLP, else mlp-128; for texts bag-of-embeddings, on the
    target's tokens."""

    device: str = "auto"
    """cpu, cuda, cuda:N, or auto: cuda where there is one."""

    def __post_init__(self) -> None:
        for name in (
            "epochs", "steps", "pool", "scoring_micro_batch", "max_length", "evaluate_every",
            "dropout_samples",
        ):  # fmt: skip
            _at_least_one(name, getattr(self, name))
        objective(self.objective)
        if not (math.isfinite(self.lr) and self.lr > 0):
            raise ConfigError(f"--lr is {self.lr}; it must be a positive number, such as 1e-3")
        if not (math.isfinite(self.weight_decay) and self.weight_decay >= 0):
            raise ConfigError(f"--weight-decay is {self.weight_decay}; it must not be negative")

    def resolved_model(self, example_shape: tuple[int, ...]) -> str:
        """The model's name, ``auto`` resolved by the examples: texts have the shape ()."""
        if self.model != "auto":
            return self.model
        return "mlp" if example_shape else "albert/albert-base-v2"


OF_COMPARE = {
    "uniform-full": "a baseline of goldiprox compare (--methods uniform,uniform-full): uniform on "
    "the training and the holdout set; here name uniform",
    "goldiprox": "a line of goldiprox compare (--proxy MODEL); here record with the small model "
    "(--record) and replay with the large one (--replay)",
}
"""Lines of a comparison that are no methods of their own."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig(LearnerConfig):
    """Settings of one training run."""

    method: str = "rho-loss"
    """How examples are chosen from each pool; goldiprox methods lists them and their variants. One
    of your own is package.module:name."""

    batch: int = 32
    """Examples trained on per step."""

    seed: int = 0
    """Seed of initial weights, order of the data, augmentation and selection (separate streams)."""

    patience: int | None = None
    """Stop after this many evaluations without a lower loss; None trains to the end."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.method in OF_COMPARE:
            raise ConfigError(f"--method {self.method} is {OF_COMPARE[self.method]}")
        method(self.method)
        require_seed("--seed", self.seed)
        for name in ("batch", "patience"):
            _at_least_one(name, getattr(self, name))
        if self.batch > self.pool_size:
            raise ConfigError(
                f"--batch {self.batch} is larger than --pool {self.pool_size}: nothing is left to "
                "choose from; raise --pool or lower --batch"
            )

    @property
    def pool_size(self) -> int:
        """Candidates per step."""
        return POOL_RATIO * self.batch if self.pool is None else self.pool

    def resolved_companion(self, example_shape: tuple[int, ...]) -> str:
        """The companion model's name, ``auto`` resolved."""
        return small_model(self.companion_model, self.model, example_shape)

    def chosen(self, pool: int) -> int:
        """How many to choose from a pool of this size (the last one of an epoch is short)."""
        return how_many(pool, self.batch / self.pool_size)

    def steps_per_epoch(self, examples: int) -> int:
        """Pools in one pass over the data, the short one included.

        Raises:
            ConfigError: if a whole pool does not fit into the data.
        """
        if self.pool_size > examples:
            raise ConfigError(
                f"--pool {self.pool_size} is larger than the {examples} training examples; lower "
                f"--pool, or --batch (the pool is {POOL_RATIO} x batch unless given)"
            )
        return -(-examples // self.pool_size)

    def total_steps(self, examples: int) -> int:
        """Steps of the whole run."""
        per_epoch = self.steps_per_epoch(examples)
        return self.epochs * per_epoch if self.steps is None else self.steps

    def learning_rate(self, step: int, total: int) -> float:
        """Learning rate of a step (0-based) of a run of ``total`` steps."""
        if self.schedule == "constant":
            return self.lr
        done = step / total
        if self.schedule == "cosine":
            return self.lr * 0.5 * (1.0 + math.cos(math.pi * done))
        rise = 0.15
        return self.lr * min((step + 1) / (rise * total), (1.0 - done) / (1.0 - rise), 1.0)


@dataclass(frozen=True, kw_only=True)
class IrreducibleConfig:
    """Settings of the irreducible-loss model: small and stopped early, hence cheap."""

    model: str = "auto"
    """Its model; auto: small-cnn for colour images unless the target is an MLP, else mlp-128; for
    texts bag-of-embeddings."""

    tokenizer: str | None = None
    """Its tokenizer of texts, by hub name or local folder: the model's own unless given. A model
    without one makes a vocabulary of the words that it is trained on."""

    max_length: int = 128
    """Texts are cut to this many of its tokens."""

    objective: str = "classification"
    """What it is trained for, as goldiprox train --objective has it. Beside a target model it is
    trained for what that is."""

    members: int = 1
    """How many models to train, with seeds of their own; their predicted probabilities are
    averaged. More than one is a deep ensemble: closer to the theory, as many times the cost."""

    epochs: int = 20
    """At most this many passes over the holdout set."""

    steps: int | None = None
    """Training steps; overrides --epochs. Few of them make a weaker model on purpose, to see how
    good it has to be; --patience still stops it earlier."""

    patience: int = 1
    """Stop after this many epochs without a lower loss on the held-out validation part."""

    batch: int | None = None
    """Examples per step; unless given a hundredth of the holdout set, between 32 and 512."""

    lr: float = 1e-3
    """Learning rate of AdamW."""

    weight_decay: float = 0.01
    """Weight decay of AdamW."""

    precision: Precision = "float32"
    """Arithmetic of training it; bf16 is autocast. It scores in float32 always."""

    device: str = "auto"
    """cpu, cuda, cuda:N, or auto: cuda where there is one."""

    seed: int = 0
    """Seed of its initial weights and of the order of its data."""

    def __post_init__(self) -> None:
        _at_least_one("members", self.members)
        self.training("mlp-128", 1000)

    def resolved_model(self, target_model: str, example_shape: tuple[int, ...]) -> str:
        """The model's name, ``auto`` resolved."""
        return small_model(self.model, target_model, example_shape)

    def beside(self, objective: str) -> IrreducibleConfig:
        """The same settings with the target model's objective.

        Args:
            objective: its name.

        Raises:
            ConfigError: if another one was asked for.
        """
        if self.objective not in (LATER["objective"], objective):
            raise ConfigError(
                f"the irreducible-loss model's objective {self.objective} is not the target "
                f"model's, {objective}: the difference of their losses would mean nothing"
            )
        return replace(self, objective=objective)

    def training(self, model: str, holdout: int, member: int = 0) -> TrainConfig:
        """Its training run: every example of the holdout set, shuffled, no selection.

        Args:
            model: the model's name, ``auto`` resolved.
            holdout: size of the holdout set.
            member: which model of several; each has a seed of its own.
        """
        batch = min(
            holdout, max(32, min(512, holdout // 100)) if self.batch is None else self.batch
        )
        return TrainConfig(
            model=model,
            tokenizer=self.tokenizer,
            max_length=self.max_length,
            objective=self.objective,
            method="uniform",
            batch=batch,
            pool=batch,
            epochs=self.epochs,
            steps=self.steps,
            lr=self.lr,
            weight_decay=self.weight_decay,
            precision=self.precision,
            device=self.device,
            seed=self.seed + member,
            patience=self.patience,
        )


def small_model(name: str, target_model: str, example_shape: tuple[int, ...]) -> str:
    """A small model's name, ``auto`` resolved: what goes with a target model and its inputs."""
    if name != "auto":
        return name
    if not example_shape:  # texts
        return "bag-of-embeddings"
    colour = len(example_shape) == 3 and example_shape[0] == 3
    return "small-cnn" if colour and not target_model.startswith(("auto", "mlp")) else "mlp-128"


LATER: dict[str, Any] = {"objective": "classification"}
"""Settings added since version 0.1.0, and the value that says what that version did."""


def settings_of(config: Any) -> dict[str, Any]:
    """A configuration as manifests keep it and hashes read it.

    A setting of :data:`LATER` with its old value is left out, so that folders and tables that an
    earlier version wrote are still known as the same.

    Args:
        config: a dataclass of settings.
    """
    absent = object()
    return {k: v for k, v in asdict(config).items() if LATER.get(k, absent) != v}


def config_hash(*values: Any) -> str:
    """SHA-256, as 16 hex digits, of JSON values in canonical form."""
    text = json.dumps(values, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


SMALL_BATCH = 4
"""What the default batch is lowered to at most, for small data."""

POOLS = 4
"""Pools that an epoch should have at least before the default sizes are lowered."""

Sized = TypeVar("Sized", "TrainConfig", "CompareConfig")


def fitted_to(config: Sized, examples: int) -> tuple[Sized, str | None]:
    """Lower the default batch and pool where the data is too small for them.

    What the user chose is kept: a batch other than the default keeps its size, and a pool that was
    given is never changed.

    Args:
        config: settings.
        examples: size of the training set.

    Returns:
        The settings, and what was changed in words; None if nothing was.
    """
    batches = (config.batch,) if isinstance(config, TrainConfig) else config.batch
    if config.pool is not None or len(batches) > 1 or POOL_RATIO * batches[0] <= examples:
        return config, None
    batch = batches[0]
    if batch == type(config)().batch or (batch,) == type(config)().batch:
        batch = min(batch, max(SMALL_BATCH, examples // (POOL_RATIO * POOLS)))
    pool = min(POOL_RATIO * batch, examples)
    if pool < batch:
        return config, None
    sizes: dict[str, Any] = {"pool": pool}
    sizes["batch"] = batch if isinstance(config, TrainConfig) else (batch,)
    said = (
        f"small data: batches of {batch} from pools of {pool}, for {examples:,} training examples "
        "(--batch and --pool choose others)"
    )
    return replace(config, **sizes), said


Protocol = Literal["paper", "budget"]


@dataclass(frozen=True, kw_only=True)
class CompareConfig(LearnerConfig):
    """Settings of a comparison."""

    methods: tuple[str, ...] = ("uniform", "uniform-full", "loss", "irreducible", "rho-loss")
    """Methods to compare, separated by commas; goldiprox methods lists them and their variants.
    uniform-full is uniform on everything: training and holdout data."""

    seeds: int = 3
    """Runs per method. Seed n has the same initial weights and the same pools for every method."""

    batch: tuple[int, ...] = (32,)
    """Examples trained on per step. Under --protocol budget a list, separated by commas: each
    method is run with every one of them and judged by its best."""

    protocol: Protocol = "paper"
    """paper: equal epochs at a constant learning rate, the comparison that papers make. budget:
    every method gets the same seconds, its irreducible-loss model and its scoring included, and a
    learning rate that rises and then falls to zero at the end; final accuracies are compared."""

    seconds: float | None = None
    """The budget of --protocol budget, in reference seconds: steps times their cost, calibrated on
    this machine just before."""

    proxy: str | None = None
    """Add the arm goldiprox: this cheap model runs rho-loss on itself and records the batches it
    chose, the target trains on them without scoring anything. The proxy's run is charged to it."""

    target: float | None = None
    """Value of the objective's headline metric to be reached, in its unit (an accuracy from 0 to 1,
    an RMSE in the target's unit); unless given, the best of uniform's mean curve."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _at_least_one("seeds", self.seeds)
        for flag, values in (("--methods", self.methods), ("--batch", self.batch)):
            if not values:
                raise ConfigError(f"{flag} is empty; name at least one")
            if len(set(values)) < len(values):
                raise ConfigError(f"{flag} names something twice: {','.join(map(str, values))}")
        if self.protocol == "budget":
            if self.seconds is None:
                raise ConfigError("--protocol budget needs --seconds, the budget of each run")
            if not (math.isfinite(self.seconds) and self.seconds > 0):
                raise ConfigError(f"--seconds is {self.seconds}; it must be a positive number")
            if self.evaluate_every is not None:
                raise ConfigError(
                    "--evaluate-every goes with --protocol paper only: the budget decides the "
                    "number of steps, and each run is evaluated 20 times"
                )
        elif self.seconds is not None:
            raise ConfigError("--seconds goes with --protocol budget only")
        elif len(self.batch) > 1:
            raise ConfigError(
                "--batch takes a list under --protocol budget only; under paper give one number"
            )
        if self.target is not None and not math.isfinite(self.target):
            raise ConfigError(f"--target is {self.target}; give a number")

    def run(self, method_name: str, batch: int, seed: int) -> TrainConfig:
        """Settings of one run of the comparison."""
        shared = {field.name: getattr(self, field.name) for field in fields(LearnerConfig)}
        return TrainConfig(**shared, method=method_name, batch=batch, seed=seed)


def _at_least_one(name: str, value: int | None) -> None:
    if value is not None and value < 1:
        raise ConfigError(f"--{name.replace('_', '-')} is {value}; it must be at least 1")
