"""One contender in a process of its own: operations in, figures out.

Thread pools, allocators and peak memory of the contenders do not mix this way, and one
that hangs can be ended. The process has one event loop, as a service would, and keeps
its clients and open arrays from one operation to the next.
"""

from __future__ import annotations

import asyncio
import gc
import resource
import statistics
import time
import warnings
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np

from benchmarks.cases import WHOLE, Operation, Place, Reply, Sample, Unavailable

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from multiprocessing.connection import Connection

    import numpy.typing as npt

    from benchmarks.clients import Client, Handle
    from benchmarks.contenders import Contender

Action = Literal["open", "measure", "verify", "check"]
"""To open the arrays, so that nothing but the operation is left; to time it; to time it
and compare what was read with the reference; to compare whole arrays with what a write
must have left."""

_BEAT_S = 0.001
_HEAD_START_S = 0.02
_SMALL_READS = 5


def serve(connection: Connection, contender: Contender) -> None:
    """Say whether the contender is there; then answer operations until the parent closes its end."""
    warnings.simplefilter("ignore")
    with asyncio.Runner() as runner:
        try:
            bench = Bench(contender.connect(), verifiable=not contender.is_floor)
        except Unavailable as error:
            connection.send(Reply({}, problem=str(error)))
            return
        connection.send(Reply({}))
        while True:
            try:
                action, operation = connection.recv()
            except (EOFError, OSError):
                return
            connection.send(runner.run(bench.answer(action, operation)))


class Bench:
    """Does operations with one client, and watches what they take."""

    def __init__(self, client: Client, *, verifiable: bool) -> None:
        self._client = client
        self._verifiable = verifiable
        self._handles: dict[tuple[Place, str, bool], Handle] = {}

    async def answer(self, action: Action, operation: Operation) -> Reply:
        """Do as told, and turn whatever goes wrong into a reason."""
        fallbacks = self._client.fallbacks()
        try:
            if action in {"open", "check"}:
                await (self._open if action == "open" else self._check)(operation)
                return Reply({})
            sample = await self._measure(operation, verify=action == "verify")
        except Exception as error:  # noqa: BLE001 - a contender may fail in any way
            return Reply({}, problem=_reason(error))
        fell_back = self._client.fallbacks() > fallbacks
        return Reply(sample, note="falls back to zarr's own pipeline" if fell_back else None)

    async def _open(self, operation: Operation) -> None:
        await self._handles_of(operation)
        if operation.beside is not None:
            await self._handles_of(operation.beside)
        if operation.primer:
            primer = await self._handle(operation, operation.primer)
            await primer.read(WHOLE)

    async def _measure(self, operation: Operation, *, verify: bool) -> Sample:
        if operation.beside is not None:
            return await self._beside(operation, operation.beside)
        calls = await self._calls(operation)
        results, sample = await _timed(calls, heartbeat=operation.heartbeat)
        if verify and self._verifiable and operation.verb == "read":
            _compare(operation, results)
        return sample

    async def _beside(self, small: Operation, large: Operation) -> Sample:
        """Time a small operation alone, then beside a large one that is under way."""

        async def once() -> Sample:
            return (await _timed(await self._calls(small)))[1]

        await once()
        alone = [await once() for _ in range(_SMALL_READS)]
        crowd = asyncio.gather(*await self._calls(large))
        await asyncio.sleep(_HEAD_START_S)
        beside: list[Sample] = []
        while not crowd.done() and len(beside) < _SMALL_READS:
            beside.append(await once())
        if not beside:
            message = "its large read was over before a small one could begin"
            raise Unavailable(message)
        sample = _medians(beside)
        sample["alone_s"] = _medians(alone)["wall_s"]
        return sample

    async def _calls(self, operation: Operation) -> list[Coroutine[Any, Any, Any]]:
        """Return the operation as coroutines that have not begun."""
        handles = await self._handles_of(operation)
        if operation.verb == "read":
            return [handle.read(selection) for handle in handles for selection in operation.selections]
        reference = _reference(operation)
        values = [
            np.ascontiguousarray(selection.of(reference)) + operation.increment for selection in operation.selections
        ]
        return [
            handle.write(selection, value.astype(reference.dtype, copy=False))
            for handle in handles
            for selection, value in zip(operation.selections, values, strict=True)
        ]

    async def _handles_of(self, operation: Operation) -> list[Handle]:
        return await asyncio.gather(*(self._handle(operation, path) for path in operation.arrays))

    async def _handle(self, operation: Operation, path: str) -> Handle:
        key = (operation.place, path, operation.verb == "write")
        handle = self._handles.get(key)
        if handle is None:
            handle = await self._client.open(operation.place, path, writable=operation.verb == "write")
            self._handles[key] = handle
        return handle

    async def _check(self, operation: Operation) -> None:
        """Compare whole arrays with the reference and what was written over it."""
        expected = np.array(_reference(operation))
        for selection in operation.selections:
            expected[selection.native() or ...] += operation.increment
        for path in operation.arrays:
            handle = await self._client.open(operation.place, path, writable=False)
            if not np.array_equal(await handle.read(WHOLE), expected):
                message = f"WRONG DATA was written to {path}"
                raise ValueError(message)


class Heartbeat:
    """Measures how late the event loop comes back to a task that sleeps 1 ms.

    The lag is the time from one beat to the next above that millisecond. What the timer
    itself is late by is in it; the floor's figures show how much that is.
    """

    def __init__(self) -> None:
        self._lags: list[float] = []

    async def __aenter__(self) -> Self:
        """Start beating."""
        self._task = asyncio.create_task(self._beat())
        await asyncio.sleep(0)
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop at the next beat, so that a lag at the very end counts too."""
        self._task.cancel("finish this beat")
        await self._task

    async def _beat(self) -> None:
        last = time.perf_counter()
        finished = False
        while not finished:
            try:
                await asyncio.sleep(_BEAT_S)
            except asyncio.CancelledError:
                finished = True
            now = time.perf_counter()
            self._lags.append(max(0.0, now - last - _BEAT_S))
            last = now

    def figures(self) -> Sample:
        """Return the worst lag and the 99th percentile, in seconds."""
        return {
            "lag_worst_s": max(self._lags),
            "lag_p99_s": float(np.quantile(self._lags, 0.99)),
        }


async def _timed(calls: list[Coroutine[Any, Any, Any]], *, heartbeat: bool = False) -> tuple[list[Any], Sample]:
    """Gather the calls; return their results and what that took."""
    gc.collect()
    resident = _reset_peak()
    async with Heartbeat() if heartbeat else nullcontext() as beats:
        cpu = _cpu_seconds()
        start = time.perf_counter()
        results = await asyncio.gather(*calls)
        sample = {
            "wall_s": time.perf_counter() - start,
            "cpu_s": _cpu_seconds() - cpu,
        }
    if beats is not None:
        sample |= beats.figures()
    if resident is not None:
        nbytes = sum(result.nbytes for result in results if result is not None)
        sample["peak_over_output_bytes"] = _status_bytes("VmHWM") - resident - nbytes
    return results, sample


def _cpu_seconds() -> float:
    """Return the CPU time of all threads of this process."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _reset_peak() -> int | None:
    """Let the peak of resident memory start anew; return what is resident now.

    Only Linux can; elsewhere the answer is ``None`` and no peak is reported.
    """
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return None
    return _status_bytes("VmRSS")


def _status_bytes(name: str) -> int:
    """Return one of the memory lines of ``/proc/self/status``."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise KeyError(name)


def _reference(operation: Operation) -> npt.NDArray[Any]:
    values: npt.NDArray[Any] = np.load(operation.reference, mmap_mode="r")
    return values


def _compare(operation: Operation, results: list[Any]) -> None:
    """Raise unless every result is what NumPy selects from the reference."""
    reference = _reference(operation)
    expected = [selection.of(reference) for selection in operation.selections]
    for result, wanted in zip(results, expected * len(operation.arrays), strict=True):
        if not np.array_equal(result, wanted):
            message = "WRONG DATA was read"
            raise ValueError(message)


def _medians(samples: list[Sample]) -> Sample:
    return {name: statistics.median(sample[name] for sample in samples) for name in samples[0]}


def _reason(error: Exception) -> str:
    """Return an error in one short line."""
    text = " ".join(str(error).split()) or "no message"
    if not isinstance(error, Unavailable):
        text = f"{type(error).__name__}: {text}"
    return text if len(text) <= 200 else f"{text[:197]}..."
