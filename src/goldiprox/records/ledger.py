"""The cost ledger: what each phase of a run cost, and the clock that fills it."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from types import TracebackType
from typing import Any

import torch

from goldiprox.guarded.json_files import misfit
from goldiprox.schema import CheckpointError

__all__ = ["CHARGED_PHASES", "IRREDUCIBLE_PHASES", "PHASES", "Clock", "Cost", "Ledger"]

IRREDUCIBLE_PHASES = ("irreducible-training", "irreducible-scoring")
"""Paid once, before the first step, by methods that need irreducible losses."""

PROXY_PHASE = "proxy"
"""Paid by a run that replays what a proxy chose: all of the proxy's run."""

RUN_PHASES = ("loading", "scoring", "training")
"""Paid at every step."""

CHARGED_PHASES = (*IRREDUCIBLE_PHASES, PROXY_PHASE, *RUN_PHASES)
"""What a speedup charges. Evaluation and the writing of records are kept out of it."""

PHASES = (*CHARGED_PHASES, "evaluation", "records")


@dataclass(kw_only=True)
class Cost:
    """What one phase cost.

    Attributes:
        examples: how many examples it handled.
        steps: how many times it ran.
        flops: floating-point operations of torch's products, convolutions, attention, recurrent
            layers and Fourier transforms; element-wise work and the optimizer's update are not
            counted.
        seconds: wall time.
    """

    examples: int = 0
    steps: int = 0
    flops: float = 0.0
    seconds: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            examples=self.examples + other.examples,
            steps=self.steps + other.steps,
            flops=self.flops + other.flops,
            seconds=self.seconds + other.seconds,
        )


LEDGER = {
    "phases?": {str: {"examples": int, "steps": int, "flops": float, "seconds": float}},
    "peak_memory_bytes?": int,
    "uncounted_operations?": list | tuple,
}


@dataclass
class Ledger:
    """Costs by phase, the peak memory of the process, and what the FLOPs leave out.

    Attributes:
        phases: what each cost.
        peak_memory_bytes: of the process.
        uncounted: names of operations that may cost much and are missing in the FLOPs.
    """

    phases: dict[str, Cost] = field(default_factory=dict)
    peak_memory_bytes: int = 0
    uncounted: tuple[str, ...] = ()

    def add(self, phase: str, cost: Cost) -> None:
        """Charge a cost to a phase."""
        self.phases[phase] = self.phases.get(phase, Cost()) + cost

    def leave_out(self, operations: Iterable[str]) -> None:
        """Note operations that the FLOPs do not count."""
        self.uncounted = tuple(sorted({*self.uncounted, *operations}))

    def total(self, phases: tuple[str, ...] = CHARGED_PHASES) -> Cost:
        """Sum over some phases."""
        return sum((self.phases.get(name, Cost()) for name in phases), Cost())

    def merged(self, other: Ledger) -> Ledger:
        """Both ledgers' costs added up; the higher of the two peaks."""
        result = Ledger(dict(self.phases), max(self.peak_memory_bytes, other.peak_memory_bytes))
        result.leave_out((*self.uncounted, *other.uncounted))
        for phase, cost in other.phases.items():
            result.add(phase, cost)
        return result

    def to_json(self) -> dict[str, Any]:
        """As a JSON value, phases in the order in which they are paid."""
        order = sorted(self.phases, key=lambda p: PHASES.index(p) if p in PHASES else len(PHASES))
        return {
            "phases": {phase: asdict(self.phases[phase]) for phase in order},
            "peak_memory_bytes": self.peak_memory_bytes,
            "uncounted_operations": list(self.uncounted),
        }

    @staticmethod
    def from_json(value: Mapping[str, object]) -> Ledger:
        """The inverse of :meth:`to_json`.

        Raises:
            CheckpointError: if it is of another shape, as in a damaged file.
        """
        if wrong := misfit(dict(value), LEDGER, "the ledger"):
            raise CheckpointError(f"a record of costs is damaged: {wrong}; make it again")
        phases: Mapping[str, Any] = value.get("phases") or {}  # type: ignore[assignment]
        peak = value.get("peak_memory_bytes") or 0
        names = [field.name for field in fields(Cost)]
        costs = {
            phase: Cost(**{name: cost[name] for name in names}) for phase, cost in phases.items()
        }
        uncounted = value.get("uncounted_operations") or ()
        return Ledger(
            costs,
            int(peak),  # type: ignore[call-overload]
            tuple(map(str, uncounted)),  # type: ignore[call-overload]
        )


class Clock:
    """Charges wall seconds to phases: ``with clock("scoring", examples=320, flops=...):``.

    On CUDA the work is asynchronous, so events are recorded and read when :meth:`settle` is called;
    between two calls of it the clock never waits for the device.
    """

    def __init__(self, device: torch.device, ledger: Ledger) -> None:
        self.ledger = ledger
        self._device = device
        self._cuda = device.type == "cuda"
        self._pending: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []

    def __call__(self, phase: str, *, examples: int = 0, flops: float = 0.0) -> _Span:
        """Open a span; it counts as one step of the phase."""
        return _Span(self, phase, examples, flops)

    def settle(self) -> None:
        """Read outstanding device timings and the peak memory into the ledger."""
        for phase, begin, end in self._pending:
            end.synchronize()
            self.ledger.phases[phase].seconds += begin.elapsed_time(end) / 1000.0
        self._pending.clear()
        self.ledger.peak_memory_bytes = max(self.ledger.peak_memory_bytes, self._peak())

    def _peak(self) -> int:
        if self._cuda:
            return int(torch.cuda.max_memory_allocated(self._device))
        kibi = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * kibi


class _Span:
    """One timed span of a :class:`Clock`; hand-written because it opens several times a step."""

    __slots__ = ("_begin", "_clock", "_cost", "_started", "examples", "flops")

    def __init__(self, clock: Clock, phase: str, examples: int, flops: float) -> None:
        self._clock = clock
        self._cost = clock.ledger.phases.get(phase)
        if self._cost is None:
            self._cost = clock.ledger.phases[phase] = Cost()
        self.examples = examples
        self.flops = flops
        self._started = 0.0
        self._begin: tuple[str, torch.cuda.Event] | None = None
        if clock._cuda:
            self._begin = (phase, torch.cuda.Event(enable_timing=True))

    def __enter__(self) -> _Span:
        if self._begin is not None:
            # On the run's own device, which need not be the current one.
            self._begin[1].record(torch.cuda.current_stream(self._clock._device))
        self._started = time.perf_counter()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        cost = self._cost
        assert cost is not None
        if self._begin is not None:
            phase, begin = self._begin
            end = torch.cuda.Event(enable_timing=True)
            end.record(torch.cuda.current_stream(self._clock._device))
            self._clock._pending.append((phase, begin, end))
        else:
            cost.seconds += time.perf_counter() - self._started
        cost.steps += 1
        cost.examples += self.examples
        cost.flops += self.flops
