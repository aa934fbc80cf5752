"""One contender in a process of its own: operations in, figures out.

Thread pools, allocators and peak memory of the contenders do not mix this way, and one
that hangs can be ended. The process has one event loop, as a service would, and keeps
its clients and open arrays from one operation to the next.
"""

from __future__ import annotations

import asyncio
import gc
import pickle
import time
import warnings
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from benchmarks.cases import WHOLE, Operation, Place, Reply, Sample, Unavailable
from benchmarks.measure import medians, timed

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from multiprocessing.connection import Connection

    import numpy.typing as npt

    from benchmarks.clients import Client, Handle
    from benchmarks.contenders import Contender
    from benchmarks.libraries import Library

Action = Literal["open", "measure", "verify", "check"]
"""To open the arrays, so that nothing but the operation is left; to time it; to time it
and compare what was read with the reference; to compare whole arrays with what a write
must have left."""

_HEAD_START_S = 0.02
_SMALL_READS = 5
_PATIENCE_S = 0.2
_GIVEN_UP_S = 1.5


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
        for other in (operation.beside, operation.after):
            if other is not None:
                await self._handles_of(other)
        if operation.primer:
            primer = await self._handle(operation, operation.primer)
            await primer.read(WHOLE)

    async def _measure(self, operation: Operation, *, verify: bool) -> Sample:
        gc.collect()
        if operation.beside is not None:
            return await self._beside(operation, operation.beside)
        if operation.after is not None:
            return await self._after(operation, operation.after)
        results, sample = await timed(await self._steps(operation), heartbeat=operation.heartbeat)
        limit = self._client.memory_limit()
        if limit is not None:
            sample["memory_limit_bytes"] = limit
        if verify and self._verifiable and operation.verb == "read":
            _compare(operation, results)
        return sample

    async def _beside(self, small: Operation, large: Operation) -> Sample:
        """Time a small operation alone, then beside a large one that is under way."""
        alone_s = await self._alone(small)
        crowd = asyncio.gather(*await self._calls(large))
        await asyncio.sleep(_HEAD_START_S)
        beside: list[Sample] = []
        while not crowd.done() and len(beside) < _SMALL_READS:
            beside.append(await self._once(small))
        if not beside:
            message = "its large read was over before a small one could begin"
            raise Unavailable(message)
        return {**medians(beside), "alone_s": alone_s}

    async def _after(self, small: Operation, large: Operation) -> Sample:
        """Time a small operation alone, then right after a large one that was cancelled.

        The moment of the cancellation is on the monotonic clock, which the system's
        processes share, so that those who watch the server can tell before from after.
        """
        alone_s = await self._alone(small)
        crowd = await self._calls(large)
        with suppress(TimeoutError):
            async with asyncio.timeout(_PATIENCE_S) as patience:
                await asyncio.gather(*crowd)
        resumed = time.monotonic()
        due = patience.when()
        if due is None or not patience.expired():
            message = "its large read was over before it could be cancelled"
            raise Unavailable(message)
        try:
            async with asyncio.timeout(_GIVEN_UP_S):
                wall_s = (await self._once(small))["wall_s"]
        except TimeoutError:
            wall_s = _GIVEN_UP_S
        return {"wall_s": wall_s, "alone_s": alone_s, "resumed_s": resumed - due, "cancelled_at_s": due}

    async def _alone(self, small: Operation) -> float:
        """Return the seconds of a small operation while nothing else is under way."""
        await self._once(small)
        return medians([await self._once(small) for _ in range(_SMALL_READS)])["wall_s"]

    async def _once(self, small: Operation) -> Sample:
        return (await timed([await self._calls(small)]))[1]

    async def _steps(self, operation: Operation) -> list[list[Coroutine[Any, Any, Any]]]:
        """Return the operation as coroutines that have not begun, in the steps that are awaited."""
        size = operation.together or len(operation.selections)
        if operation.verb == "read" and operation.library is None and size > 1 and self._client.reads_many:
            handles: list[Any] = list(await self._handles_of(operation))
            parts = [operation.selections[at : at + size] for at in range(0, len(operation.selections), size)]
            return [[handle.read_many(part) for handle in handles] for part in parts]
        calls = await self._calls(operation)
        size = operation.together or len(calls)
        return [calls[at : at + size] for at in range(0, len(calls), size)]

    async def _calls(self, operation: Operation) -> list[Coroutine[Any, Any, Any]]:
        """Return the operation as coroutines that have not begun."""
        if operation.library is not None:
            return [_use(operation.library, operation, path) for path in operation.arrays]
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
        if operation.library is not None:
            self._client.carry()
            # Imports and what is kept between two uses do not count.
            for path in operation.arrays if operation.verb != "write" else ():
                operation.library.open(Path(operation.place.root, path))
            return []
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
        if operation.library is not None:
            found = [operation.library.read(Path(operation.place.root, path)) for path in operation.arrays]
            _compare(operation, found)
            return
        expected = np.array(_reference(operation))
        for selection in operation.selections:
            expected[selection.native() or ...] += operation.increment
        for path in operation.arrays:
            handle = await self._client.open(operation.place, path, writable=False)
            if not np.array_equal(await handle.read(WHOLE), expected):
                message = f"WRONG DATA was written to {path}"
                raise ValueError(message)


def _reference(operation: Operation) -> npt.NDArray[Any]:
    values: npt.NDArray[Any] = np.load(operation.reference, mmap_mode="r")
    return values


def _use(library: Library, operation: Operation, path: str) -> Coroutine[Any, Any, Any]:
    """Return what a library does as a coroutine, which blocks its loop as the library does."""
    where = Path(operation.place.root, path)
    values = _pickled(operation) if operation.verb == "write" else None

    async def use() -> Any:
        match operation.verb:
            case "open":
                library.open(where)
            case "read":
                return library.read(where)
            case "write":
                library.write(where, values)
        return None

    return use()


def _pickled(operation: Operation) -> Any:
    return pickle.loads(Path(operation.reference).read_bytes())  # noqa: S301 - we have written it


def _compare(operation: Operation, results: list[Any]) -> None:
    """Raise unless every result is what NumPy selects from the reference, or what a library has stored."""
    if operation.library is not None:
        if not all(operation.library.equal(result, _pickled(operation)) for result in results):
            raise ValueError("WRONG DATA was read")
        return
    reference = _reference(operation)
    expected = [selection.of(reference) for selection in operation.selections]
    if results and isinstance(results[0], list):
        results = [result for many in results for result in many]
    for result, wanted in zip(results, expected * len(operation.arrays), strict=True):
        if not np.array_equal(result, wanted):
            message = "WRONG DATA was read"
            raise ValueError(message)


def _reason(error: Exception) -> str:
    """Return an error in one short line."""
    text = " ".join(str(error).split()) or "no message"
    if not isinstance(error, Unavailable):
        text = f"{type(error).__name__}: {text}"
    return text if len(text) <= 200 else f"{text[:197]}..."
