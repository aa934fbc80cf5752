"""Cancellation on the wire: what the server sees of a read or write that nobody waits for any more."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr
from zarr.core.buffer import default_buffer_prototype
from zarr.core.buffer.cpu import NDBuffer
from zarr.core.indexing import BasicIndexer

from support.remote import opened, served, until_shared
from support.servers import Rule

if TYPE_CHECKING:
    from types import ModuleType

    from zarr import AsyncArray

    from support.servers import RangeServer

# Our pipeline is on, and nothing may fall back.
pytestmark = pytest.mark.usefixtures("native")

CHUNKS = 64
VALUES = np.arange(64 * CHUNKS, dtype="uint16") + 1


async def assert_all_were_aborted(server: RangeServer, requests: int) -> None:
    """Wait until the server has seen so many requests end without an answer, and see that there was no other."""
    stats = await server.wait_async(aborted=requests, idle=True)
    assert (stats["requests"], stats["answered"]) == (requests, 0)


async def assert_next_read_works(server: RangeServer, array: AsyncArray[Any]) -> None:
    """Let the server answer again, and read."""
    server.release()
    before = server.stats()["requests"]
    np.testing.assert_array_equal(await array.getitem(slice(0, 64)), VALUES[:64])
    assert server.stats()["requests"] == before + 1


async def test_cancelled_task_aborts_its_requests(range_server: RangeServer, native: ModuleType) -> None:
    array = await served(range_server, VALUES, chunks=(64,))
    cancelled = native.stats()["batches_cancelled"]
    range_server.hold()
    reading = asyncio.create_task(array.getitem(slice(None)))
    await range_server.wait_async(held=CHUNKS)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert native.stats()["batches_cancelled"] == cancelled + 1
    await assert_all_were_aborted(range_server, CHUNKS)
    assert native.stats()["requests_in_flight"] == 0
    await assert_next_read_works(range_server, array)


async def until_failing(package: ModuleType, requests: int) -> None:
    """Wait until so many requests wait to be tried again."""
    while len(package._rust.failing()) < requests:  # noqa: ASYNC110 - a pause between two attempts has no event
        await asyncio.sleep(0.001)


async def test_cancelled_read_tells_what_had_failed(range_server: RangeServer, native: ModuleType) -> None:
    other = await served(range_server, VALUES, chunks=(64,))
    patient = {
        "max_retries": 5,
        "backoff": {"init_backoff": timedelta(seconds=50), "max_backoff": timedelta(minutes=1)},
    }
    array = await opened(range_server, retry_config={**patient, "retry_timeout": timedelta(hours=1)})
    range_server.config(rules=[Rule(action="status", path="/c/[0-4]$", status=503)])
    reading = asyncio.create_task(array.getitem(slice(None)))
    await until_failing(native, 5)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError) as cancelled:
        await reading
    *notes, more = cancelled.value.__notes__
    assert len(notes) == 3
    for note in notes:
        assert note.startswith('when this was cancelled, it was to be tried again: get of "c/')
        assert note.endswith("failed with HTTP status 503: the server answered 503 Service Unavailable")
    assert more == "and 2 more"
    assert native._rust.failing() == []
    range_server.config(rules=[])
    np.testing.assert_array_equal(await other.getitem(slice(0, 64)), VALUES[:64])


async def test_deadline_tells_what_had_failed(range_server: RangeServer, native: ModuleType) -> None:
    array = await served(range_server, VALUES, chunks=(64,))
    range_server.config(rules=[Rule(action="status", path="/c/7$", status=429, headers={"Retry-After": "19"})])
    loop = asyncio.get_running_loop()
    with pytest.raises(TimeoutError) as late:  # noqa: PT012 - the deadline is what is tested
        async with asyncio.timeout(None) as deadline:
            reading = asyncio.create_task(until_failing(native, 1))
            reading.add_done_callback(lambda _: deadline.reschedule(loop.time()))
            await array.getitem(slice(None))
    assert late.value.__cause__ is not None
    [note] = late.value.__cause__.__notes__
    assert 'get of "c/7"' in note
    assert "429 Too Many Requests" in note


async def test_cancelled_read_of_a_slow_server_has_no_notes(range_server: RangeServer) -> None:
    array = await served(range_server, VALUES, chunks=(64,))
    range_server.hold()
    reading = asyncio.create_task(array.getitem(slice(None)))
    await range_server.wait_async(held=CHUNKS)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError) as cancelled:
        await reading
    assert not hasattr(cancelled.value, "__notes__")


async def test_cancelled_read_sends_none_of_the_requests_that_waited(range_server: RangeServer) -> None:
    zarr.config.set({"codec_pipeline.request_concurrent_maximum": 8})
    array = await served(range_server, VALUES, chunks=(64,))
    range_server.hold()
    reading = asyncio.create_task(array.getitem(slice(None)))
    await range_server.wait_async(held=8)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    await assert_all_were_aborted(range_server, 8)
    await assert_next_read_works(range_server, array)


async def test_timeout_aborts_the_requests(range_server: RangeServer) -> None:
    array = await served(range_server, VALUES, chunks=(64,))
    range_server.hold()

    async def read_until_told() -> None:
        async with asyncio.timeout(None) as timeout:
            told = asyncio.create_task(range_server.wait_async(held=CHUNKS))
            told.add_done_callback(lambda _: timeout.reschedule(asyncio.get_running_loop().time()))
            await array.getitem(slice(None))

    with pytest.raises(TimeoutError):
        await read_until_told()
    await assert_all_were_aborted(range_server, CHUNKS)
    await assert_next_read_works(range_server, array)


async def test_wait_for_aborts_the_requests(range_server: RangeServer) -> None:
    array = await served(range_server, VALUES, chunks=(64,))
    range_server.hold()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(array.getitem(slice(None)), 1.0)
    stats = await range_server.wait_async(idle=True)
    assert stats["aborted"] == stats["requests"] == CHUNKS
    await assert_next_read_works(range_server, array)


async def test_failed_task_group_aborts_the_requests_of_its_reads(range_server: RangeServer) -> None:
    array = await served(range_server, VALUES, chunks=(64,))
    range_server.hold()

    async def fail() -> None:
        await range_server.wait_async(held=CHUNKS)
        message = "another task"
        raise LookupError(message)

    async def both() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(array.getitem(slice(None)))
            group.create_task(fail())

    with pytest.raises(ExceptionGroup) as raised:
        await both()
    assert [type(error) for error in raised.value.exceptions] == [LookupError]
    await assert_all_were_aborted(range_server, CHUNKS)


@pytest.mark.parametrize("stage", ["index", "data"])
async def test_cancelled_read_of_parts_of_shards_aborts_its_requests(range_server: RangeServer, stage: str) -> None:
    zarr.config.set({"array.sharding_coalesce_max_gap_bytes": 0})
    array = await served(range_server, VALUES, chunks=(64,), shards=(512,))
    range_server.hold()
    reading = asyncio.create_task(array.getitem(slice(64, None, 512)))
    shards = CHUNKS // 8
    await range_server.wait_async(held=shards)
    answered = 0
    if stage == "data":
        range_server.release(shards)
        answered = shards
        await range_server.wait_async(held=shards, answered=shards)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    stats = await range_server.wait_async(aborted=shards, idle=True)
    assert stats["requests"] == shards + answered
    range_server.release()
    np.testing.assert_array_equal(await array.getitem(slice(64, None, 512)), VALUES[64::512])


async def test_nothing_writes_into_the_buffer_after_cancellation(range_server: RangeServer, native: ModuleType) -> None:
    array = await served(range_server, VALUES, chunks=(64,))
    out = np.zeros_like(VALUES)
    # Newer zarr has a class of its own for what indexers need of a grid.
    grid = getattr(array, "_chunk_grid", array.metadata.chunk_grid)
    indexer = BasicIndexer((slice(None),), array.shape, grid)
    range_server.hold()
    reading = asyncio.create_task(
        array._get_selection(indexer, prototype=default_buffer_prototype(), out=NDBuffer.from_numpy_array(out))
    )
    await range_server.wait_async(held=CHUNKS)
    # Answers are on their way, and decoded or not, at the moment of the cancellation.
    range_server.release(CHUNKS // 2)
    await range_server.wait_async(answered=CHUNKS // 2)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    out[:] = 0xFFFF
    range_server.release()
    await range_server.wait_async(idle=True)
    np.testing.assert_array_equal(await array.getitem(slice(None)), VALUES)
    assert (out == 0xFFFF).all()
    assert native.stats()["requests_in_flight"] == 0


async def test_cancelling_one_of_two_batches_leaves_the_other_its_data(
    range_server: RangeServer, native: ModuleType
) -> None:
    array = await served(range_server, VALUES, chunks=(64,))
    shared = native.stats()["flights_shared"]
    range_server.hold()
    leader, follower = (asyncio.create_task(array.getitem(slice(None))) for _ in range(2))
    await range_server.wait_async(held=CHUNKS)
    await until_shared(native, shared + CHUNKS)
    leader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leader
    range_server.release()
    np.testing.assert_array_equal(await follower, VALUES)
    stats = range_server.stats()
    assert (stats["requests"], stats["aborted"]) == (CHUNKS, 0)


async def test_cancelling_both_of_two_batches_aborts_their_requests(
    range_server: RangeServer, native: ModuleType
) -> None:
    array = await served(range_server, VALUES, chunks=(64,))
    shared = native.stats()["flights_shared"]
    range_server.hold()
    both = [asyncio.create_task(array.getitem(slice(None))) for _ in range(2)]
    await range_server.wait_async(held=CHUNKS)
    await until_shared(native, shared + CHUNKS)
    for reading in both:
        reading.cancel()
    assert all(isinstance(one, asyncio.CancelledError) for one in await asyncio.gather(*both, return_exceptions=True))
    await assert_all_were_aborted(range_server, CHUNKS)
    await assert_next_read_works(range_server, array)


@pytest.mark.parametrize("stage", ["index", "data"])
async def test_cancelling_one_of_two_batches_of_a_shard_leaves_the_other_its_data(
    range_server: RangeServer, native: ModuleType, stage: str
) -> None:
    zarr.config.set({"array.sharding_coalesce_max_gap_bytes": 0})
    array = await served(range_server, VALUES, chunks=(64,), shards=(512,))
    shared = native.stats()["flights_shared"]
    range_server.hold()
    leader, follower = (asyncio.create_task(array.getitem(slice(64, 128))) for _ in range(2))
    await range_server.wait_async(held=1)
    await until_shared(native, shared + 1)
    if stage == "data":
        range_server.release(1)
        await range_server.wait_async(held=1, answered=1)
        await until_shared(native, shared + 2)
    leader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leader
    range_server.release()
    np.testing.assert_array_equal(await follower, VALUES[64:128])
    stats = range_server.stats()
    assert (stats["requests"], stats["aborted"]) == (2, 0)


async def test_cancelled_write_aborts_its_requests_and_leaves_old_or_new(range_server: RangeServer) -> None:
    array = await served(range_server, VALUES, mode="r+", chunks=(64,))
    range_server.hold(method="PUT")
    writing = asyncio.create_task(array.setitem(slice(None), VALUES + 1))
    await range_server.wait_async(held=CHUNKS)
    range_server.release(5)
    await range_server.wait_async(answered=5)
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    stats = await range_server.wait_async(aborted=CHUNKS - 5, idle=True)
    assert stats["requests"] == CHUNKS
    range_server.release()
    got = np.asarray(await array.getitem(slice(None))).reshape(CHUNKS, 64)
    written = (got == (VALUES + 1).reshape(CHUNKS, 64)).all(axis=1)
    kept = (got == VALUES.reshape(CHUNKS, 64)).all(axis=1)
    assert (written ^ kept).all()
    assert written.sum() == 5
    await array.setitem(slice(None), VALUES + 2)
    np.testing.assert_array_equal(await array.getitem(slice(None)), VALUES + 2)
