"""Stores of Python code at the edge: code that calls the engine again, threads that go on, loops that stop."""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr
from oracle import OURS, created, opened
from zarr.core.buffer import default_buffer_prototype
from zarr.storage import LocalStore, MemoryStore, WrapperStore, ZipStore

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType

    from zarr.abc.store import ByteRequest
    from zarr.core.buffer import Buffer, BufferPrototype

pytestmark = pytest.mark.usefixtures("native")

VALUES = np.arange(64, dtype="i4") + 1


def made(store: Any, *, fill_value: int = 0, **layout: Any) -> Any:
    """Make an array of `VALUES`, eight to a chunk."""
    array = created(store, OURS, **{"data": VALUES, "chunks": (8,), "fill_value": fill_value, **layout})
    return opened(store, OURS) if array is None else array


class OddError(ValueError):
    """An exception that only the store knows."""


class RaisingStore(WrapperStore[MemoryStore]):
    """Raises its own exception for every chunk."""

    async def get(  # noqa: D102  # as any store
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        if "c/" in key:
            raise OddError(key)
        return await super().get(key, prototype, byte_range)


async def test_what_a_store_raises_is_raised_with_a_note_that_names_operation_and_key() -> None:
    memory = MemoryStore()
    made(memory)
    array = opened(RaisingStore(memory), OURS).async_array
    with pytest.raises(OddError) as raised:
        await array.getitem(slice(0, 8))
    assert raised.value.args == ("c/0",)
    assert raised.value.__notes__ == ['zarrs_async: get of "c/0" in RaisingStore failed']


async def test_one_exception_for_many_readers_has_one_note() -> None:
    memory = MemoryStore()
    made(memory)
    array = opened(RaisingStore(memory), OURS).async_array
    outcomes = await asyncio.gather(*(array.getitem(slice(0, 8)) for _ in range(8)), return_exceptions=True)
    for outcome in outcomes:
        assert isinstance(outcome, OddError)
        assert len(outcome.__notes__) == 1


class ThreadedStore(WrapperStore[MemoryStore]):
    """Its `set` runs in a thread, as that of zarr's own `LocalStore`: cancelling the task does not stop it."""

    def __init__(self, store: MemoryStore) -> None:
        super().__init__(store)
        self.begun, self.go_on, self.ended = threading.Event(), threading.Event(), threading.Event()
        self.sets: list[bytes] = []

    async def set(self, key: str, value: Buffer) -> None:  # noqa: D102  # as any store
        if key != "c/0":
            await super().set(key, value)
            return
        first = not self.sets
        content = value.to_bytes()
        self.sets.append(content)

        def work() -> None:
            if first:
                self.begun.set()
                assert self.go_on.wait(60)
            self._store._store_dict[key] = default_buffer_prototype().buffer.from_bytes(content)
            if first:
                self.ended.set()

        await asyncio.get_running_loop().run_in_executor(None, work)


async def test_cancelled_write_keeps_its_lock_until_the_store_has_ended() -> None:
    memory = MemoryStore()
    created(memory, OURS, shape=(64,), chunks=(8,), dtype="i4", compressors=None)
    store = ThreadedStore(memory)
    array = opened(store, OURS).async_array
    given_up = asyncio.create_task(array.setitem(slice(0, 8), VALUES[:8]))
    await asyncio.to_thread(store.begun.wait, 60)
    given_up.cancel()
    with pytest.raises(asyncio.CancelledError):
        await given_up
    last = asyncio.create_task(array.setitem(slice(0, 8), VALUES[:8] + 100))
    for _ in range(100):
        await asyncio.sleep(0)
    assert len(store.sets) == 1
    store.go_on.set()
    await last
    assert store.ended.is_set()
    np.testing.assert_array_equal(await array.getitem(slice(0, 8)), VALUES[:8] + 100)


class DerivedStore(WrapperStore[MemoryStore]):
    """Its chunks are those of another array, read by the pipeline."""

    source: Any = None

    async def get(  # noqa: D102  # as any store
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        if key.startswith("c/"):
            first = 8 * int(key.removeprefix("c/"))
            # Meanwhile all chunks are asked for, and all bounds are taken.
            await asyncio.sleep(0)
            values = await self.source.async_array.getitem(slice(first, first + 8))
            return prototype.buffer.from_bytes(np.asarray(values).tobytes())
        return await super().get(key, prototype, byte_range)


@pytest.mark.parametrize("source", ["bridged", "local"])
async def test_store_that_reads_another_array_finishes_when_the_bounds_are_taken(source: str, tmp_path: Path) -> None:
    zarr.config.set({"codec_pipeline.request_concurrent_maximum": 1, "codec_pipeline.memory_limit_bytes": 1024})
    memory = MemoryStore()
    created(memory, OURS, shape=(64,), chunks=(8,), dtype="i4", compressors=None)
    store = DerivedStore(memory)
    store.source = made(MemoryStore() if source == "bridged" else LocalStore(tmp_path))
    array = opened(store, OURS).async_array
    async with asyncio.timeout(60):
        whole, *parts = await asyncio.gather(
            array.getitem(slice(None)), *(array.getitem(slice(at, at + 8)) for at in range(0, 64, 8))
        )
    np.testing.assert_array_equal(whole, VALUES)
    np.testing.assert_array_equal(np.concatenate(parts), VALUES)


async def test_sync_call_on_a_loop_with_bridged_reads_under_way_finishes() -> None:
    zarr.config.set({"codec_pipeline.request_concurrent_maximum": 1, "codec_pipeline.memory_limit_bytes": 1024})
    array = made(MemoryStore())
    reading = asyncio.create_task(array.async_array.getitem(slice(None)))
    await asyncio.sleep(0)
    # Blocks this loop, and with it the read above, whose store is asked here.
    np.testing.assert_array_equal(array[:], VALUES)
    np.testing.assert_array_equal(await reading, VALUES)


def test_write_that_waits_for_a_loop_that_was_stopped_is_an_error(native: ModuleType) -> None:
    memory = MemoryStore()
    created(memory, OURS, shape=(64,), chunks=(8,), dtype="i4", compressors=None)
    store = ThreadedStore(memory)
    array = opened(store, OURS).async_array
    stopped = asyncio.new_event_loop()

    async def begin() -> asyncio.Task[None]:
        task = asyncio.create_task(array.setitem(slice(0, 8), VALUES[:8]))
        await asyncio.to_thread(store.begun.wait, 60)
        return task

    task = stopped.run_until_complete(begin())
    with pytest.raises(native.exceptions.StoreTimeoutError, match=r'"c/0".*loop that was stopped'):
        asyncio.run(array.setitem(slice(0, 8), VALUES[:8] + 100))
    store.go_on.set()
    stopped.run_until_complete(task)
    stopped.close()
    asyncio.run(array.setitem(slice(0, 8), VALUES[:8] + 100))
    np.testing.assert_array_equal(asyncio.run(array.getitem(slice(0, 8))), VALUES[:8] + 100)


def test_emptied_chunk_of_a_store_that_cannot_delete_is_what_the_store_raises(tmp_path: Path) -> None:
    with ZipStore(tmp_path / "a.zip", mode="w") as store:
        array = made(store)
        with pytest.raises(NotImplementedError):
            array[0:8] = 0
        np.testing.assert_array_equal(array[:], VALUES)


class Finalized:
    """Reads an array when its last reference goes."""

    def __init__(self, array: Any, got: list[Any]) -> None:
        self.array, self.got = array, got

    def __del__(self) -> None:
        """Read."""
        self.got.append(self.array[:8])


class FinalizingStore(WrapperStore[MemoryStore]):
    """Gives chunks whose memory is owned by an object that reads when it goes."""

    other: Any = None
    got: list[Any]

    async def get(  # noqa: D102  # as any store
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        buffer = await super().get(key, prototype, byte_range)
        if buffer is None or "c/" not in key:
            return buffer
        owned: Any = np.frombuffer(buffer.to_bytes(), dtype="B").view(Owned)
        owned.owner = Finalized(self.other, self.got)
        return prototype.buffer.from_array_like(owned)


class Owned(np.ndarray[Any, Any]):
    """An array with an owner."""

    owner: Any = None


def test_finalizer_that_reads_does_not_wait_for_the_thread_it_runs_on() -> None:
    memory = MemoryStore()
    made(memory, compressors=None)
    store = FinalizingStore(memory)
    store.other, store.got = made(MemoryStore()), []
    array = opened(store, OURS)
    with ThreadPoolExecutor(1) as thread:
        np.testing.assert_array_equal(thread.submit(array.__getitem__, slice(None)).result(60), VALUES)
        # References are given back after the read, one by one.
        for _ in range(8):
            thread.submit(array.__getitem__, slice(0, 8)).result(60)
    gc.collect()
    for values in store.got:
        np.testing.assert_array_equal(values, VALUES[:8])
    assert store.got


async def test_message_that_cannot_be_delivered_does_not_lose_the_others() -> None:
    array = made(MemoryStore()).async_array
    loop = asyncio.get_running_loop()
    reported: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: reported.append(context))
    refused: list[Any] = []

    def factory(loop: asyncio.AbstractEventLoop, call: Any, **options: Any) -> Any:
        # One task of the engine's is refused.
        if getattr(call, "__name__", "") == "_call" and not refused:
            refused.append(call)
            raise OddError
        return asyncio.Task(call, loop=loop, **options)

    loop.set_task_factory(factory)
    outcomes = await asyncio.gather(
        *(array.getitem(slice(at, at + 8)) for at in range(0, 64, 8)), return_exceptions=True
    )
    loop.set_task_factory(None)
    failed = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
    assert [type(outcome) for outcome in failed] == [OddError]
    assert len(reported) == 1
    assert sum(isinstance(outcome, np.ndarray) for outcome in outcomes) == 7


async def test_keyboard_interrupt_in_a_read_leaves_nothing_writing_to_its_output() -> None:
    array = made(MemoryStore()).async_array
    read = array.getitem(slice(None))
    read.send(None)
    with pytest.raises(KeyboardInterrupt):
        read.throw(KeyboardInterrupt)
    import zarrs_async  # noqa: PLC0415  # its counters

    while zarrs_async.stats()["requests_in_flight"]:  # noqa: ASYNC110 - counters have no event
        await asyncio.sleep(0)
    np.testing.assert_array_equal(await array.getitem(slice(None)), VALUES)


async def test_calls_that_were_given_up_before_they_began_leave_no_task() -> None:
    array = made(MemoryStore()).async_array
    for _ in range(200):
        read = asyncio.create_task(array.getitem(slice(None)))
        for _ in range(2):
            await asyncio.sleep(0)
        read.cancel()
        with pytest.raises(asyncio.CancelledError):
            await read
    read = None  # type: ignore[assignment]
    # What was given up last may still be on its way here.
    np.testing.assert_array_equal(await array.getitem(slice(None)), VALUES)
    gc.collect()
    tasks = [found for found in gc.get_objects() if isinstance(found, asyncio.Task)]
    assert len([task for task in tasks if getattr(task.get_coro(), "__name__", "") == "_call"]) < 20


@pytest.mark.skipif(sys.version_info < (3, 12), reason="asyncio has eager tasks from 3.12 on")
async def test_eager_tasks_read_as_others_do() -> None:
    asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined,unused-ignore]
    array = made(MemoryStore()).async_array
    got = await asyncio.gather(*(asyncio.create_task(array.getitem(slice(at, at + 8))) for at in range(0, 64, 8)))
    np.testing.assert_array_equal(np.concatenate(got), VALUES)
