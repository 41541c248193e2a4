"""Settings of a study of training dynamics."""

from __future__ import annotations

from dataclasses import dataclass, replace

from goldiprox.config import Schedule, TrainConfig
from goldiprox.evidence.mode import Precision
from goldiprox.schema import ConfigError

__all__ = ["DynamicsConfig"]

SET_SIZE = 1000
"""Examples in each set whose error is measured, where there are enough."""


@dataclass(frozen=True, kw_only=True)
class DynamicsConfig:
    """Settings of a study of training dynamics."""

    model: str = "mlp"
    """Model to watch; goldiprox train knows the same ones."""

    epochs: int = 20
    """Passes over the data."""

    batch: int = 128
    """Examples trained on per step; every example once an epoch, nothing is chosen."""

    lr: float = 1e-3
    """Learning rate of AdamW (the peak of it under cosine and one-cycle)."""

    weight_decay: float = 0.01
    """Weight decay of AdamW."""

    schedule: Schedule = "constant"
    """constant, cosine or one-cycle, over all --epochs."""

    precision: Precision = "float32"
    """Arithmetic of training; bf16 is autocast. Kernels and errors are taken in float32 always."""

    device: str = "auto"
    """cpu, cuda, cuda:N, or auto: cuda where there is one."""

    seeds: int = 3
    """Models to train and to average over; each has initial weights and a data order of its own."""

    by: str = "el2n"
    """Column of --scores that orders the examples. Without --scores it is el2n, computed on the
    way: mean over the seeds at --score-epoch."""

    score_epoch: int | None = None
    """Epoch at which el2n is computed; a tenth of --epochs unless given, and at least 1."""

    window: int = 100
    """Consecutive examples of the order that one tangent kernel is taken on."""

    windows: int = 12
    """Windows, evenly spaced from the lowest scores to the highest."""

    at: tuple[int, ...] = ()
    """Epochs t whose velocity is measured, from the kernels after t and t + 1, separated by commas;
    0, 1, 2, 4, 8, ... unless given."""

    spawn: tuple[int, ...] = ()
    """Epochs at which a child is spawned, separated by commas; 0, 1, 2, 4, 8, ... unless given."""

    set_size: int | None = None
    """Examples with the lowest scores, with the highest, and drawn at random, whose training error
    is measured between parent and child; 1000 unless given, of small data a quarter."""

    interpolations: int = 11
    """Networks on the line between parent and child, both ends included."""

    def __post_init__(self) -> None:
        for name, least in (
            *(("epochs", 1), ("seeds", 1), ("window", 1), ("windows", 1)),
            *((("set_size", 1),) if self.set_size is not None else ()),
            ("interpolations", 3),
        ):
            value = getattr(self, name)
            if value < least:
                raise ConfigError(f"{_flag(name)} is {value}; it must be at least {least}")
        for name in ("at", "spawn"):
            values = getattr(self, name)
            if len(set(values)) < len(values):
                raise ConfigError(f"{_flag(name)} names an epoch twice: {_listed(values)}")
            if values and not 0 <= min(values) <= max(values) < self.epochs:
                raise ConfigError(
                    f"{_flag(name)} {_listed(values)} leaves 0 to {self.epochs - 1}, the epochs "
                    f"after which training goes on; raise --epochs, now {self.epochs}"
                )
        if self.score_epoch is not None and not 0 <= self.score_epoch <= self.epochs:
            raise ConfigError(
                f"--score-epoch {self.score_epoch} is never reached: it must be 0 to --epochs, "
                f"now {self.epochs}"
            )
        self.training(0)

    def sized(self, examples: int) -> DynamicsConfig:
        """The same settings with the size of the sets filled in, for so many examples."""
        if self.set_size is not None:
            return self
        return replace(self, set_size=max(1, min(SET_SIZE, examples // 4)))

    @property
    def scored_at(self) -> int:
        """Epoch at which el2n is computed."""
        return max(1, self.epochs // 10) if self.score_epoch is None else self.score_epoch

    @property
    def velocity_epochs(self) -> list[int]:
        """Epochs t of the velocities, ascending."""
        return sorted(self.at) or _doubling(self.epochs)

    @property
    def spawn_epochs(self) -> list[int]:
        """Epochs at which children are spawned, ascending."""
        return sorted(self.spawn) or _doubling(self.epochs)

    def barrier_epochs(self, spawned: int) -> list[int]:
        """Epochs at which a child is held against its parent: later spawn epochs, and the end."""
        return [epoch for epoch in (*self.spawn_epochs, self.epochs) if epoch > spawned]

    @property
    def alphas(self) -> list[float]:
        """The parent's shares in the networks between."""
        return [number / (self.interpolations - 1) for number in range(self.interpolations)]

    def training(self, seed: int) -> TrainConfig:
        """One model's training run: every example once an epoch, shuffled."""
        return TrainConfig(
            model=self.model,
            method="uniform",
            batch=self.batch,
            pool=self.batch,
            epochs=self.epochs,
            lr=self.lr,
            weight_decay=self.weight_decay,
            schedule=self.schedule,
            precision=self.precision,
            device=self.device,
            seed=seed,
        )


def _doubling(epochs: int) -> list[int]:
    """0, 1, 2, 4, ... below the number of epochs."""
    return [0, *(2**power for power in range(epochs.bit_length()) if 2**power < epochs)]


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _listed(values: tuple[int, ...]) -> str:
    return ",".join(map(str, values))
