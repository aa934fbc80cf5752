"""Cancelling reads and writes of stores in memory and on disk.

The promise: when `CancelledError` reaches the caller, nothing writes into its array any more, nobody holds
the array, and everything else goes on.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr
from oracle import keys, whole_batch
from zarr.core.buffer import default_buffer_prototype
from zarr.storage import LocalStore, MemoryStore

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import ModuleType

    from zarr.abc.store import ByteRequest
    from zarr.core.buffer import Buffer, BufferPrototype

CHUNK = 1 << 16
CHUNKS = 256
UNTOUCHED = -7


class GatedStore(MemoryStore):
    """A store that answers for chunks when its gate is open, and notes what was begun, ended and cancelled."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.gate = asyncio.Event()
        self.gate.set()
        self.begun: list[str] = []
        self.cancelled: list[str] = []

    async def _pass(self, key: str) -> None:
        if "c/" not in key:
            return
        self.begun.append(key)
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled.append(key)
            raise

    async def get(  # noqa: D102  # as any store
        self, key: str, prototype: BufferPrototype | None = None, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        await self._pass(key)
        return await super().get(key, prototype, byte_range)

    async def set(  # noqa: D102  # as any store
        self, key: str, value: Buffer, byte_range: tuple[int, int] | None = None
    ) -> None:
        await self._pass(key)
        await super().set(key, value, byte_range)


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop turn until something is so; the limit is for what never is."""
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110  # what is waited for sets no event
            await asyncio.sleep(0)


def all_were_cancelled(store: GatedStore) -> bool:
    """Tell whether every call that the store got was cancelled."""
    return len(store.cancelled) == len(store.begun)


async def made(store: Any, chunks: int = 8, chunk: int = 4) -> zarr.AsyncArray[Any]:
    """Make an array of ones."""
    array = await zarr.api.asynchronous.create_array(
        store, shape=(chunks * chunk,), chunks=(chunk,), dtype="i4", compressors=None
    )
    await array.setitem(..., 1)
    return array


def reading(array: zarr.AsyncArray[Any], values: np.ndarray[Any, Any]) -> asyncio.Task[Any]:
    """Begin to read all of the array into an array of our own."""
    out = default_buffer_prototype().nd_buffer.from_numpy_array(values)
    return asyncio.create_task(array.codec_pipeline.read(whole_batch(array), out))  # type: ignore[arg-type, unused-ignore]


async def test_a_store_that_is_awaited_is_cancelled(native: ModuleType) -> None:
    store = GatedStore()
    array = await made(store)
    store.gate.clear()
    store.begun.clear()
    values = np.full(32, UNTOUCHED, dtype="i4")
    before = native.stats()
    task = reading(array, values)
    await until(lambda: len(store.begun) == 8)
    assert native.stats()["requests_in_flight"] == before["requests_in_flight"] + 8
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until(lambda: len(store.cancelled) == 8)
    await until(lambda: native.stats()["requests_in_flight"] == before["requests_in_flight"])
    assert native.stats()["batches_cancelled"] == before["batches_cancelled"] + 1
    store.gate.set()
    assert (values == UNTOUCHED).all()
    assert int(np.asarray(await array.getitem(...)).sum()) == 32
    assert (values == UNTOUCHED).all()


@pytest.mark.usefixtures("native")
async def test_no_request_follows_a_cancellation() -> None:
    store = GatedStore()
    with zarr.config.set({"codec_pipeline.chunk_concurrent_maximum": 2}):
        array = await made(store)
    store.gate.clear()
    store.begun.clear()
    task = reading(array, np.zeros(32, dtype="i4"))
    await until(lambda: len(store.begun) == 2)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    store.gate.set()
    # A later read of the same two places has been served by the time that it ends.
    await array.getitem(slice(0, 8))
    assert len(store.begun) == 4


@pytest.mark.usefixtures("native")
async def test_calls_that_reach_the_loop_after_the_cancellation_are_cancelled_too() -> None:
    store = GatedStore()
    array = await made(store)
    store.gate.clear()
    store.begun.clear()
    for _ in range(20):
        task = reading(array, np.zeros(32, dtype="i4"))
        await asyncio.sleep(0)
        task.cancel()
        # Meanwhile the engine's calls line up behind the cancellation.
        time.sleep(0.005)  # noqa: ASYNC251  # the loop must not turn
        with pytest.raises(asyncio.CancelledError):
            await task
    await until(lambda: all_were_cancelled(store))


def some_are_there(values: np.ndarray[Any, Any], some: int) -> bool:
    """Tell whether more than `some` of 64 chunks have been read."""
    return bool(np.count_nonzero(values[:: CHUNK * CHUNKS // 64] == 1) > some)


@pytest.mark.parametrize("kind", ["memory", "local"])
@pytest.mark.usefixtures("native")
async def test_nothing_is_written_after_a_cancellation(kind: str, tmp_path: Path) -> None:
    array = await made(MemoryStore() if kind == "memory" else LocalStore(tmp_path), CHUNKS, CHUNK)
    interrupted = 0
    for attempt in range(20):
        values = np.full(CHUNKS * CHUNK, UNTOUCHED, dtype="i4")
        task = reading(array, values)
        # A few chunks are there, most are not: the batch is in full swing.
        await until(partial(some_are_there, values, attempt))
        task.cancel()
        try:
            await task
        except asyncio.CancelledError:
            interrupted += 1
            seen = values.copy()
            # Whatever was still under way has ended when this has, on the same pool.
            again: Any = await array.getitem(...)
            assert (again == 1).all()
            np.testing.assert_array_equal(values, seen)
    assert interrupted > 0


@pytest.mark.skipif(sys.implementation.name != "cpython", reason="counts references")
@pytest.mark.parametrize("kind", ["memory", "local"])
@pytest.mark.usefixtures("native")
async def test_the_array_is_released(kind: str, tmp_path: Path) -> None:
    array = await made(MemoryStore() if kind == "memory" else LocalStore(tmp_path), CHUNKS, CHUNK)
    values = np.full(CHUNKS * CHUNK, UNTOUCHED, dtype="i4")
    before = sys.getrefcount(values)
    task = reading(array, values)
    await until(lambda: bool((values == 1).any()))
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    del task
    await until(lambda: sys.getrefcount(values) == before)
    task = reading(array, values)
    await task
    del task
    await until(lambda: sys.getrefcount(values) == before)


@pytest.mark.usefixtures("native")
async def test_timeouts() -> None:
    store = GatedStore()
    array = await made(store)
    store.gate.clear()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await array.getitem(...)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(array.getitem(...), 0.01)
    store.gate.set()
    assert int(np.asarray(await array.getitem(...)).sum()) == 32


@pytest.mark.usefixtures("native")
async def test_a_task_group_that_fails_cancels_its_reads() -> None:
    stores = [GatedStore(), GatedStore()]
    arrays = [await made(store) for store in stores]
    for store in stores:
        store.gate.clear()
        store.begun.clear()

    async def fail() -> None:
        await until(lambda: all(len(store.begun) == 8 for store in stores))
        raise LookupError

    with pytest.raises(ExceptionGroup) as failed:  # noqa: PT012  # a group is how several tasks fail
        async with asyncio.TaskGroup() as group:
            for array in arrays:
                group.create_task(array.getitem(...))  # type: ignore[arg-type, unused-ignore]
            group.create_task(fail())
    assert failed.group_contains(LookupError)
    for store, array in zip(stores, arrays, strict=True):
        await until(partial(all_were_cancelled, store))
        store.gate.set()
        assert int(np.asarray(await array.getitem(...)).sum()) == 32


@pytest.mark.usefixtures("native")
async def test_cancelling_before_the_first_step() -> None:
    array = await made(MemoryStore())
    values = np.full(32, UNTOUCHED, dtype="i4")
    task = reading(array, values)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (values == UNTOUCHED).all()


@pytest.mark.usefixtures("native")
async def test_cancelling_again_and_again(tmp_path: Path) -> None:
    array = await made(LocalStore(tmp_path), CHUNKS, CHUNK)
    values = np.full(CHUNKS * CHUNK, UNTOUCHED, dtype="i4")
    task = reading(array, values)
    await until(lambda: bool((values == 1).any()))
    limit = time.monotonic() + 10
    while not task.done():
        assert time.monotonic() < limit, "each cancellation puts off the end"
        task.cancel()
        await asyncio.sleep(0)
    seen = values.copy()
    again: Any = await array.getitem(...)
    assert (again == 1).all()
    np.testing.assert_array_equal(values, seen)


@pytest.mark.usefixtures("native")
async def test_cancelling_one_leaves_the_others_theirs() -> None:
    """They wait for the same chunks, so they share what is under way."""
    store = GatedStore()
    array = await made(store)
    store.gate.clear()
    store.begun.clear()
    tasks = [asyncio.create_task(array.getitem(...)) for _ in range(4)]
    await until(lambda: len(store.begun) >= 8)
    for _ in range(20):
        await asyncio.sleep(0)
    tasks[0].cancel()
    tasks[2].cancel()
    ended = asyncio.gather(*tasks, return_exceptions=True)
    for _ in range(20):
        await asyncio.sleep(0)
    store.gate.set()
    results: Any = await ended
    assert isinstance(results[0], asyncio.CancelledError)
    assert isinstance(results[2], asyncio.CancelledError)
    assert int(results[1].sum()) == int(results[3].sum()) == 32


@pytest.mark.parametrize("whole", [True, False], ids=["whole", "part"])
@pytest.mark.usefixtures("native")
async def test_a_cancelled_write_leaves_whole_chunks_and_no_lock(whole: bool) -> None:  # noqa: FBT001  # a parameter
    store = GatedStore()
    array = await made(store)
    store.gate.clear()
    store.begun.clear()
    task = asyncio.create_task(array.setitem(slice(0 if whole else 1, 32 if whole else 31), 5))
    await until(lambda: len(store.begun) == 8)
    waiting = asyncio.create_task(array.setitem(slice(2, 30), 6))
    for _ in range(20):
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    store.gate.set()
    await waiting
    await array.setitem(slice(3, 29), 7)
    values: Any = await array.getitem(...)
    # A `set` that has begun is not given up: it might go on by itself and undo the writes after it.
    left = 5 if whole else 1
    assert values[[0, 1, 30, 31]].tolist() == [left] * 4
    assert values[[2, 29]].tolist() == [6, 6]
    assert (values[3:29] == 7).all()


@pytest.mark.usefixtures("native")
async def test_cancelled_writes_to_disk_leave_old_or_new_chunks(tmp_path: Path) -> None:
    array = await made(LocalStore(tmp_path), 64, 1 << 12)
    for value in range(2, 30):
        task = asyncio.create_task(array.setitem(..., value))
        for _ in range(value):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        chunks: Any = np.asarray(await array.getitem(...)).reshape(64, -1)
        assert (chunks == chunks[:, :1]).all()
        assert set(chunks[:, 0]) <= set(range(1, value + 1))
    await array.setitem(..., 99)
    assert (np.asarray(await array.getitem(...)) == 99).all()
    found = await asyncio.to_thread(keys, LocalStore(tmp_path))
    assert found == {"zarr.json", *(f"c/{chunk}" for chunk in range(64))}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes")
@pytest.mark.usefixtures("native")
async def test_a_file_that_cannot_be_opened_yet_holds_up_no_cancellation(tmp_path: Path) -> None:
    """A named pipe blocks the thread that opens it until somebody writes to it, as a dead disk would."""
    array = await made(LocalStore(tmp_path))
    (tmp_path / "c/3").unlink()
    os.mkfifo(tmp_path / "c/3")
    values = np.full(32, UNTOUCHED, dtype="i4")
    task = reading(array, values)
    await until(lambda: bool((values[:12] == 1).all()))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        async with asyncio.timeout(10):
            await task
    # Now the thread goes on, with the rest of the chunks before it.
    await asyncio.to_thread((tmp_path / "c/3").write_bytes, b"")
    (tmp_path / "c/3").unlink()
    assert int(np.asarray(await array.getitem(...)).sum()) == 28
    assert (values[12:] == UNTOUCHED).all()
