"""Independent jobs in processes of their own, each with its part of the machine's threads."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from typing import Any, NoReturn

import torch

from goldiprox.schema import ConfigError, GoldiproxError

__all__ = ["Tell", "cores", "run_parallel"]

Tell = Callable[[Any], None]
Job = Callable[[Any, Any, Tell], Any]
"""Called with what all jobs share, with its own argument, and with a way to say how it goes."""

_worker: dict[str, Any] = {}
"""In a worker: what all jobs share, and the way to the parent."""


def cores() -> int:
    """Processor cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else (os.cpu_count() or 1)


def run_parallel(
    job: Job,
    shared: Any,
    arguments: Sequence[Any],
    processes: int,
    tell: Tell,
    *,
    threads: int | None = None,
) -> Iterator[tuple[int, Any]]:
    """Run jobs, as many at a time as there are processes; yields (number, result) as they end.

    The processes are fresh ones (not forked, for torch's threads do not survive that). They end
    with this process, however it ends: what they were doing is left as any interrupted run is.

    Args:
        job: a function of a module.
        shared: copied once into each process.
        arguments: one per job.
        processes: how many at a time.
        tell: told what the jobs say of themselves.
        threads: of each process; None gives each its part of the cores.

    Raises:
        ConfigError: if what the jobs share cannot be sent to other processes.
        GoldiproxError: if a process is killed, or a job raises one.
    """
    context = multiprocessing.get_context("spawn")
    said = context.SimpleQueue()
    if threads is None:
        threads = max(1, min(torch.get_num_threads(), cores() // processes))
    try:
        # Plain pickle rather than torch's shared memory, which containers keep small.
        packed = pickle.dumps((job, shared))
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise ConfigError(
            f"the data or the model cannot be sent to other processes ({error}); stay in this one "
            "with --jobs 1"
        ) from error
    reader, writer = context.Pipe(duplex=False)
    setup = (reader, context.Lock(), threads, said)
    # Sent by a thread rather than with the rest of the setup: a process is started only when it has
    # read that, and one that dies before would leave this one waiting for ever.
    threading.Thread(target=_send, args=(writer, packed, processes), daemon=True).start()
    executor = ProcessPoolExecutor(processes, context, initializer=_start, initargs=setup)
    try:
        with _signals_held():
            numbers = {executor.submit(_run, argument): n for n, argument in enumerate(arguments)}
        while numbers:
            done, _ = wait(numbers, timeout=0.2, return_when=FIRST_COMPLETED)
            while not said.empty():
                tell(said.get())
            for future in done:
                yield numbers.pop(future), future.result()
    except BrokenProcessPool as error:
        raise GoldiproxError(
            "a process was killed from outside (out of memory?); with fewer --jobs the same "
            "command goes on where it stopped"
        ) from error
    except BaseException:  # interrupted, or the caller had enough: they stop where they are
        for child in multiprocessing.active_children():
            child.terminate()
        raise
    finally:
        executor.shutdown(cancel_futures=True)
        reader.close()


@contextmanager
def _signals_held() -> Iterator[None]:
    """Hold Ctrl-C and SIGTERM back while processes are started.

    A process that is half started when this one unwinds would be missed when all are ended. The
    processes inherit that Ctrl-C is held back: a terminal sends it to all of them, and one that is
    still importing would answer with a traceback.
    """
    waiting: list[int] = []
    before = {
        number: signal.getsignal(number)
        for number in (signal.SIGINT, signal.SIGTERM)
        if threading.current_thread() is threading.main_thread()
    }
    for number, handler in before.items():
        if callable(handler):
            signal.signal(number, lambda caught, _: waiting.append(caught))
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for number, handler in before.items():
            if callable(handler):
                signal.signal(number, handler)
        for caught in waiting:
            signal.raise_signal(caught)


def _send(writer: Connection, packed: bytes, times: int) -> None:
    with suppress(OSError):  # nobody reads any more
        for _ in range(times):
            writer.send_bytes(packed)


def _start(reader: Connection, reading: Any, threads: int, said: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent is told, and ends us
    signal.signal(signal.SIGTERM, _stop)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    with reading:
        setup = reader.recv_bytes()
    job, shared = pickle.loads(setup)  # from our own parent, through a pipe
    _worker.update(job=job, shared=shared, tell=said.put)


def _stop(*_: object) -> NoReturn:
    """Unwind what is being done, so that no half-written file is left; if idle, just end."""
    if _worker.get("busy"):
        sys.exit(143)
    os._exit(143)


def _end_with_parent() -> NoReturn:
    """A parent that was killed cannot say so; two processes must not go on in one run's folder."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _run(argument: Any) -> Any:
    try:
        _worker["busy"] = True
        return _worker["job"](_worker["shared"], argument, _worker["tell"])
    except SystemExit:  # by _stop; the executor would take it for the job's own error and go on
        os._exit(143)
    finally:
        _worker["busy"] = False
