"""The bounds as a server sees them: chunks of one pipeline, requests of the process, bytes in memory."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pytest
import zarr

from support.remote import opened, served

if TYPE_CHECKING:
    from collections.abc import Awaitable
    from types import ModuleType

    from support.servers import RangeServer

# Our pipeline is on, and nothing may fall back.
pytestmark = pytest.mark.usefixtures("native")

T = TypeVar("T")

CHUNKS = 24
VALUES = np.arange(64 * CHUNKS, dtype="uint16") + 1


async def let_go_one_by_one(server: RangeServer, work: Awaitable[T], *, bound: int, requests: int) -> T:
    """Await `work`, of that many requests, while the server always holds `bound` of them, and see no more than that."""
    server.hold()
    running = asyncio.ensure_future(work)
    for answered in range(requests - bound):
        await server.wait_async(held=bound, answered=answered)
        server.release(1)
    await server.wait_async(held=bound, requests=requests)
    server.release()
    outcome = await running
    stats = server.stats()
    assert (stats["requests"], stats["in_flight_max"]) == (requests, bound)
    return outcome


@pytest.mark.parametrize("bound", [1, 3, 16])
async def test_read_keeps_chunk_concurrent_maximum(range_server: RangeServer, bound: int) -> None:
    zarr.config.set({"codec_pipeline.chunk_concurrent_maximum": bound})
    array = await served(range_server, VALUES, chunks=(64,))
    got = await let_go_one_by_one(range_server, array.getitem(slice(None)), bound=bound, requests=CHUNKS)
    np.testing.assert_array_equal(got, VALUES)


async def test_gathered_reads_of_one_array_keep_chunk_concurrent_maximum(range_server: RangeServer) -> None:
    zarr.config.set({"codec_pipeline.chunk_concurrent_maximum": 3})
    array = await served(range_server, VALUES, chunks=(64,))
    slices = [slice(start, start + 256) for start in range(0, VALUES.size, 256)]
    reading = asyncio.gather(*(array.getitem(one) for one in slices))
    got = await let_go_one_by_one(range_server, reading, bound=3, requests=CHUNKS)
    np.testing.assert_array_equal(np.concatenate(got), VALUES)


async def test_write_keeps_chunk_concurrent_maximum(range_server: RangeServer) -> None:
    zarr.config.set({"codec_pipeline.chunk_concurrent_maximum": 3})
    array = await served(range_server, VALUES, mode="r+", chunks=(64,))
    await let_go_one_by_one(range_server, array.setitem(slice(None), VALUES + 1), bound=3, requests=CHUNKS)


@pytest.mark.parametrize("bound", [1, 3])
async def test_read_of_parts_of_shards_keeps_chunk_concurrent_maximum(range_server: RangeServer, bound: int) -> None:
    zarr.config.set({"codec_pipeline.chunk_concurrent_maximum": bound, "array.sharding_coalesce_max_gap_bytes": 0})
    array = await served(range_server, VALUES, chunks=(64,), shards=(256,))
    # One subchunk of each of six shards: an index and a byte range each.
    got = await let_go_one_by_one(range_server, array.getitem(slice(70, None, 256)), bound=bound, requests=12)
    np.testing.assert_array_equal(got, VALUES[70::256])


@pytest.mark.parametrize("bound", [1, 3])
async def test_read_of_scattered_subchunks_keeps_chunk_concurrent_maximum(
    range_server: RangeServer, bound: int
) -> None:
    zarr.config.set({"codec_pipeline.chunk_concurrent_maximum": bound, "array.sharding_coalesce_max_gap_bytes": 0})
    array = await served(range_server, VALUES, chunks=(64,), shards=(VALUES.size,))
    range_server.hold()
    reading = asyncio.create_task(array.getitem(slice(0, None, 128)))
    # One index, then twelve byte ranges of one shard, of which none adjoins another.
    await range_server.wait_async(held=1)
    range_server.release(1)
    for answered in range(1, 13):
        await range_server.wait_async(held=min(bound, 13 - answered), answered=answered)
        range_server.release(1)
    np.testing.assert_array_equal(await reading, VALUES[::128])
    stats = range_server.stats()
    assert stats["requests"] == 13
    assert stats["in_flight_max"] <= bound


async def test_requests_of_the_process_keep_request_concurrent_maximum(
    range_server: RangeServer, native: ModuleType
) -> None:
    zarr.config.set({"codec_pipeline.request_concurrent_maximum": 5})
    arrays = [await served(range_server, VALUES[: 64 * 4], name=f"a{number}", chunks=(64,)) for number in range(6)]
    reading = asyncio.gather(*(array.getitem(slice(None)) for array in arrays))
    got = await let_go_one_by_one(range_server, reading, bound=5, requests=CHUNKS)
    for one in got:
        np.testing.assert_array_equal(one, VALUES[: 64 * 4])
    assert native.stats()["requests_in_flight"] == 0


async def test_requests_for_indexes_and_parts_keep_request_concurrent_maximum(range_server: RangeServer) -> None:
    zarr.config.set({"codec_pipeline.request_concurrent_maximum": 4, "array.sharding_coalesce_max_gap_bytes": 0})
    array = await served(range_server, VALUES, chunks=(64,), shards=(256,))
    # Of each of six shards the index, and the subchunks 0 and 2.
    reading = array.getitem(slice(0, None, 128))
    got = await let_go_one_by_one(range_server, reading, bound=4, requests=18)
    np.testing.assert_array_equal(got, VALUES[::128])


async def test_remote_reads_have_128_requests_in_flight_where_nothing_is_set(
    range_server: RangeServer, native: ModuleType
) -> None:
    values = np.arange(200 * 8, dtype="uint16") + 1
    array = await served(range_server, values, chunks=(8,))
    range_server.hold()
    reading = asyncio.create_task(array.getitem(slice(None)))
    await range_server.wait_async(held=128)
    assert native.stats()["requests_in_flight"] == 128
    range_server.release()
    np.testing.assert_array_equal(await reading, values)
    assert range_server.stats()["in_flight_max"] == 128
    assert native.stats()["requests_in_flight"] == 0
    assert native.stats()["requests_in_flight_max"] >= 128


@pytest.mark.parametrize("sharded", [False, True])
async def test_writes_have_all_their_puts_in_flight_where_nothing_is_set(
    range_server: RangeServer, *, sharded: bool
) -> None:
    values = np.arange(200 * 8, dtype="uint16") + 1
    layout: dict[str, Any] = {"chunks": (4,), "shards": (8,)} if sharded else {"chunks": (8,)}
    array = await served(range_server, values, mode="r+", **layout)
    range_server.hold(method="PUT")
    writing = asyncio.create_task(array.setitem(slice(None), values + 1))
    # Once they are answered late, more may be in flight.
    stats = await range_server.wait_async(held=128)
    assert stats["in_flight_max"] == 128
    range_server.release()
    await writing


async def test_requests_in_flight_do_not_depend_on_max_workers(range_server: RangeServer) -> None:
    zarr.config.set({"threading.max_workers": 1})
    array = await served(range_server, VALUES, chunks=(64,))
    await let_go_one_by_one(range_server, array.getitem(slice(None)), bound=CHUNKS, requests=CHUNKS)


async def test_memory_limit_bounds_what_is_in_flight(range_server: RangeServer) -> None:
    chunk_nbytes = 64 * 1024
    values = np.arange(16 * chunk_nbytes // 2, dtype="uint16")
    # The encoded and the decoded chunk both count: four chunks at a time. Kept chunks would count too.
    zarr.config.set({"codec_pipeline.memory_limit_bytes": 8 * chunk_nbytes, "codec_pipeline.chunk_cache_bytes": 0})
    array = await served(range_server, values, chunks=(chunk_nbytes // 2,))
    got = await let_go_one_by_one(range_server, array.getitem(slice(None)), bound=4, requests=16)
    np.testing.assert_array_equal(got, values)


@pytest.mark.parametrize("gap", [0, 1 << 20])
async def test_memory_limit_below_one_chunk_still_completes(range_server: RangeServer, gap: int) -> None:
    zarr.config.set({"codec_pipeline.memory_limit_bytes": 1, "array.sharding_coalesce_max_gap_bytes": gap})
    layouts: list[dict[str, Any]] = [{"chunks": (64,)}, {"chunks": (64,), "shards": (256,)}]
    arrays = [await served(range_server, VALUES, name=str(n), **layout) for n, layout in enumerate(layouts)]
    got = await asyncio.gather(*(array.getitem(slice(5, -5)) for array in arrays for _ in range(3)))
    for one in got:
        np.testing.assert_array_equal(one, VALUES[5:-5])
    assert range_server.stats()["in_flight_max"] == 1


async def test_memory_limit_below_one_chunk_still_writes(range_server: RangeServer) -> None:
    zarr.config.set({"codec_pipeline.memory_limit_bytes": 1})
    array = await served(range_server, VALUES, mode="r+", chunks=(64,), shards=(256,))
    await asyncio.gather(*(array.setitem(slice(at, at + 100), VALUES[at : at + 100] + 9) for at in (0, 100, 300, 800)))
    expected = VALUES.copy()
    for at in (0, 100, 300, 800):
        expected[at : at + 100] += 9
    np.testing.assert_array_equal(await array.getitem(slice(None)), expected)


async def test_pipeline_made_later_changes_the_process_wide_bounds(range_server: RangeServer) -> None:
    first = await served(range_server, VALUES, chunks=(64,))
    zarr.config.set({"codec_pipeline.request_concurrent_maximum": 2})
    await opened(range_server)
    await let_go_one_by_one(range_server, first.getitem(slice(None)), bound=2, requests=CHUNKS)
    zarr.config.set({"codec_pipeline.request_concurrent_maximum": 7})
    await opened(range_server)
    await let_go_one_by_one(range_server, first.getitem(slice(None)), bound=7, requests=CHUNKS)


async def test_bound_that_grows_during_a_read_lets_more_go(range_server: RangeServer) -> None:
    zarr.config.set({"codec_pipeline.request_concurrent_maximum": 2})
    array = await served(range_server, VALUES, chunks=(64,))
    range_server.hold(path="c/")
    reading = asyncio.create_task(array.getitem(slice(None)))
    await range_server.wait_async(held=2)
    zarr.config.set({"codec_pipeline.request_concurrent_maximum": 9})
    await opened(range_server)
    await range_server.wait_async(held=9)
    range_server.release()
    np.testing.assert_array_equal(await reading, VALUES)


async def test_small_read_is_served_beside_a_large_one(range_server: RangeServer) -> None:
    zarr.config.set({"codec_pipeline.request_concurrent_maximum": 4})
    large = await served(range_server, VALUES, name="large", chunks=(4,))
    small = await served(range_server, VALUES[:8], name="small", chunks=(8,))
    range_server.hold()
    reading = asyncio.create_task(large.getitem(slice(None)))
    await range_server.wait_async(held=4)
    beside = asyncio.create_task(small.getitem(slice(None)))
    while not beside.done():
        stats = await range_server.wait_async(held=1)
        range_server.release(1)
    # One ticket per batch: at most one of the other's is before ours in the queue.
    assert stats["requests"] <= 16
    range_server.release()
    np.testing.assert_array_equal(await beside, VALUES[:8])
    np.testing.assert_array_equal(await reading, VALUES)
