"""One flight for all who want the same bytes at the same time: counted by the server, and by us."""

from __future__ import annotations

import asyncio
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr
import zarr.api.asynchronous
from zarr.codecs import ZstdCodec
from zarr.storage import LoggingStore, MemoryStore

from support.remote import opened, ranges, served, stored, until_shared
from support.servers import RangeServer, Rule

if TYPE_CHECKING:
    from types import ModuleType

    from zarr import AsyncArray

# Our pipeline is on, nothing may fall back, and an index is asked for by itself.
pytestmark = pytest.mark.usefixtures("native", "byte_ranges")

READERS = 32
VALUES = np.arange(1024, dtype="uint16") + 1


async def held_together(
    server: RangeServer, package: ModuleType, arrays: list[AsyncArray[Any]], selection: slice
) -> list[asyncio.Task[Any]]:
    """Start one read of each array while the server holds its only request; return when all share it."""
    before = package.stats()["flights_shared"]
    server.hold()
    readers = [asyncio.create_task(array.getitem(selection)) for array in arrays]
    await server.wait_async(held=1)
    await until_shared(package, before + len(arrays) - 1)
    return readers


async def test_readers_of_one_chunk_share_one_fetch_and_one_decode(
    range_server: RangeServer, native: ModuleType
) -> None:
    array = await served(range_server, VALUES, chunks=(1024,))
    decoded = native.stats()["chunks_decoded"]
    readers = await held_together(range_server, native, [array] * READERS, slice(None))
    range_server.release()
    for got in await asyncio.gather(*readers):
        np.testing.assert_array_equal(got, VALUES)
    assert range_server.stats()["requests"] == 1
    assert native.stats()["chunks_decoded"] == decoded + 1


async def test_readers_of_different_parts_of_one_chunk_share_one_fetch(
    range_server: RangeServer, native: ModuleType
) -> None:
    array = await served(range_server, VALUES, chunks=(1024,))
    before = native.stats()["flights_shared"]
    range_server.hold()
    readers = [asyncio.create_task(array.getitem(slice(first, 900, 7))) for first in range(READERS)]
    await range_server.wait_async(held=1)
    await until_shared(native, before + READERS - 1)
    range_server.release()
    for first, got in enumerate(await asyncio.gather(*readers)):
        np.testing.assert_array_equal(got, VALUES[first:900:7])
    assert range_server.stats()["requests"] == 1


async def test_readers_of_one_chunk_through_arrays_of_their_own_share_one_fetch(
    range_server: RangeServer, native: ModuleType
) -> None:
    arrays = [await served(range_server, VALUES, chunks=(1024,)), *[await opened(range_server) for _ in range(3)]]
    readers = await held_together(range_server, native, arrays, slice(None))
    range_server.release()
    for got in await asyncio.gather(*readers):
        np.testing.assert_array_equal(got, VALUES)
    assert range_server.stats()["requests"] == 1


async def test_readers_through_urls_with_different_queries_share_nothing(range_server: RangeServer) -> None:
    """What a query means is the server's to say: another right, or another object."""
    stored(range_server.root / "a", VALUES, chunks=(1024,))
    arrays = [await opened(range_server, f"a?of={name}") for name in "xy"]
    range_server.reset_counts()
    range_server.hold()
    readers = [asyncio.create_task(array.getitem(...)) for array in arrays]
    await range_server.wait_async(held=2)
    range_server.release()
    for got in await asyncio.gather(*readers):
        np.testing.assert_array_equal(got, VALUES)


async def test_readers_of_one_shard_share_index_and_data(range_server: RangeServer, native: ModuleType) -> None:
    array = await served(range_server, VALUES, chunks=(64,), shards=(1024,))
    before = native.stats()
    readers = await held_together(range_server, native, [array] * READERS, slice(64, 100))
    # The index goes; the merged range is held, and shared again.
    range_server.release(1)
    await range_server.wait_async(held=1, answered=1)
    await until_shared(native, before["flights_shared"] + 2 * (READERS - 1))
    range_server.release()
    for got in await asyncio.gather(*readers):
        np.testing.assert_array_equal(got, VALUES[64:100])
    assert range_server.stats()["requests"] == 2
    after = native.stats()
    assert after["chunks_decoded"] == before["chunks_decoded"] + 1
    assert after["shard_index_misses"] == before["shard_index_misses"] + 1


async def test_gathered_readers_of_one_shard_ask_at_most_once_for_each_of_its_ranges(
    range_server: RangeServer,
) -> None:
    array = await served(range_server, VALUES, chunks=(64,), shards=(1024,))
    got = await asyncio.gather(*(array.getitem(slice(at * 64, at * 64 + 64)) for at in list(range(16)) * 4))
    np.testing.assert_array_equal(np.concatenate(got[:16]), VALUES)
    assert ranges(range_server).count("bytes=-260") == 1


@pytest.mark.parametrize("selection", [slice(10, 1014), slice(None)], ids=["parts", "whole"])
async def test_readers_of_several_shards_share_all_of_them(
    range_server: RangeServer, native: ModuleType, selection: slice
) -> None:
    array = await served(range_server, VALUES, chunks=(32,), shards=(128,))
    await array.getitem(selection)
    alone = len(range_server.log())
    zarr.config.set({"codec_pipeline.shard_index_cache_bytes": 0})
    array = await opened(range_server)
    before = native.stats()["flights_shared"]
    range_server.hold()
    readers = [asyncio.create_task(array.getitem(selection)) for _ in range(2)]
    await range_server.wait_async(held=8)
    # Of each of the eight shards the second reader shares what the first has asked for.
    await until_shared(native, before + 8)
    # Where a shard is read in part, that was its index: only while the data is held can both want it.
    in_part = alone - 8
    if in_part:
        range_server.release(8)
        await range_server.wait_async(held=in_part)
        await until_shared(native, before + 8 + in_part)
    range_server.release()
    for got in await asyncio.gather(*readers):
        np.testing.assert_array_equal(got, VALUES[selection])
    assert len(range_server.log()) == alone


async def test_read_after_the_flight_has_ended_fetches_anew(range_server: RangeServer) -> None:
    array = await served(range_server, VALUES, chunks=(1024,))
    await array.getitem(slice(None))
    await array.getitem(slice(None))
    assert range_server.stats()["requests"] == 2


async def test_read_begun_after_another_replaced_the_object_does_not_join_a_fetch_from_before(
    range_server: RangeServer,
) -> None:
    array = await served(range_server, VALUES, chunks=(1024,))
    range_server.hold(method="GET")
    before = asyncio.create_task(array.getitem(slice(None)))
    await range_server.wait_async(held=1)
    # As zarr's own `store.set`, `resize` and `overwrite=True` do it: not by the engine.
    stored(range_server.root / "a", VALUES + 5, chunks=(1024,), overwrite=True)
    after = asyncio.create_task(array.getitem(slice(None)))
    await range_server.wait_async(held=2)
    range_server.release()
    np.testing.assert_array_equal(await after, VALUES + 5)
    await before


async def test_parts_of_a_shard_replaced_before_the_read_began_do_not_come_from_an_older_index_fetch(
    range_server: RangeServer,
) -> None:
    layout: dict[str, Any] = {"chunks": (64,), "shards": (1024,)}
    array = await served(range_server, VALUES, **layout)
    range_server.hold(method="GET")
    before = asyncio.create_task(array.getitem(slice(64, 100)))
    await range_server.wait_async(held=1)
    shutil.rmtree(range_server.root / "a/c")
    after = asyncio.create_task(array.getitem(slice(64, 100)))
    await range_server.wait_async(held=2)
    range_server.release()
    np.testing.assert_array_equal(await after, np.zeros(36))
    await before


async def test_read_begun_after_our_own_write_does_not_join_a_flight_from_before(
    range_server: RangeServer,
) -> None:
    array = await served(range_server, VALUES, mode="r+", chunks=(1024,))
    range_server.hold(method="GET")
    before = asyncio.create_task(array.getitem(slice(None)))
    await range_server.wait_async(held=1)
    await array.setitem(slice(None), VALUES + 5)
    after = asyncio.create_task(array.getitem(slice(None)))
    await range_server.wait_async(held=2)
    range_server.release()
    np.testing.assert_array_equal(await after, VALUES + 5)
    assert np.asarray(await before)[0] in {VALUES[0], VALUES[0] + 5}
    assert range_server.stats()["methods"] == {"GET": 2, "PUT": 1}


async def test_read_of_a_shard_after_our_own_write_does_not_use_the_index_from_before(
    range_server: RangeServer,
) -> None:
    array = await served(range_server, VALUES, mode="r+", chunks=(64,), shards=(1024,))
    await array.getitem(slice(0, 10))
    expected = VALUES.copy()
    expected[70:80] = 9
    await array.setitem(slice(70, 80), 9)
    range_server.reset_counts()
    np.testing.assert_array_equal(await array.getitem(slice(64, 128)), expected[64:128])
    assert ranges(range_server) == ["bytes=-260", "bytes=128-255"]
    np.testing.assert_array_equal(await array.getitem(slice(None)), expected)


async def test_read_begun_after_our_own_write_does_not_join_an_index_from_before(range_server: RangeServer) -> None:
    array = await served(range_server, VALUES, mode="r+", chunks=(64,), shards=(1024,))
    other = await opened(range_server, mode="r+")
    range_server.hold(method="GET")
    before = asyncio.create_task(array.getitem(slice(0, 10)))
    await range_server.wait_async(held=1)
    await other.setitem(slice(None), VALUES + 5)
    after = asyncio.create_task(array.getitem(slice(0, 10)))
    await range_server.wait_async(held=2)
    range_server.release()
    np.testing.assert_array_equal(await after, VALUES[:10] + 5)
    assert np.asarray(await before)[0] in {VALUES[0], VALUES[0] + 5}


async def test_error_reaches_all_who_share_the_flight(range_server: RangeServer, native: ModuleType) -> None:
    array = await served(range_server, VALUES, chunks=(1024,))
    range_server.config(rules=[Rule(action="status", status=403)])
    readers = await held_together(range_server, native, [array] * READERS, slice(None))
    range_server.release()
    got = await asyncio.gather(*readers, return_exceptions=True)
    assert [type(one) for one in got] == [native.exceptions.StorePermissionError] * READERS
    assert {getattr(one, "key", None) for one in got} == {"c/0"}
    assert len({id(one) for one in got}) == READERS
    assert range_server.stats()["requests"] == 1


@pytest.mark.parametrize("stage", ["index", "data"])
async def test_error_of_a_shard_reaches_all_who_share_the_flight(
    range_server: RangeServer, native: ModuleType, stage: str
) -> None:
    array = await served(range_server, VALUES, chunks=(64,), shards=(1024,))
    failing = 1 if stage == "index" else 2
    range_server.config(rules=[Rule(action="status", status=403, nth=failing, times="all")])
    readers = await held_together(range_server, native, [array] * READERS, slice(0, 10))
    if stage == "data":
        before = native.stats()["flights_shared"]
        range_server.release(1)
        await range_server.wait_async(held=1, answered=1)
        await until_shared(native, before + READERS - 1)
    range_server.release()
    got = await asyncio.gather(*readers, return_exceptions=True)
    assert [type(one) for one in got] == [native.exceptions.StorePermissionError] * READERS
    assert range_server.stats()["requests"] == failing


async def test_damage_reaches_all_who_share_the_flight_and_the_next_read_is_right(
    range_server: RangeServer, native: ModuleType
) -> None:
    array = await served(range_server, VALUES, chunks=(1024,), compressors=ZstdCodec())
    chunk = range_server.root / "a/c/0"
    sound = chunk.read_bytes()
    chunk.write_bytes(sound[:-20])
    readers = await held_together(range_server, native, [array] * READERS, slice(None))
    range_server.release()
    got = await asyncio.gather(*readers, return_exceptions=True)
    assert [type(one) for one in got] == [native.exceptions.ChunkDecodeError] * READERS
    chunk.write_bytes(sound)
    np.testing.assert_array_equal(await array.getitem(slice(None)), VALUES)


async def test_missing_chunk_is_fill_value_for_all_who_share_the_flight(
    range_server: RangeServer, native: ModuleType
) -> None:
    array = await served(range_server, VALUES, chunks=(1024,), fill_value=3)
    (range_server.root / "a/c/0").unlink()
    readers = await held_together(range_server, native, [array] * READERS, slice(None))
    range_server.release()
    for got in await asyncio.gather(*readers):
        assert (got == 3).all()
    assert range_server.stats()["requests"] == 1


async def test_readers_with_different_fill_values_do_not_share(range_server: RangeServer) -> None:
    array = await served(range_server, VALUES, chunks=(1024,), fill_value=3)
    (range_server.root / "a/c/0").unlink()
    metadata = range_server.root / "a/zarr.json"
    metadata.write_text(metadata.read_text().replace('"fill_value": 3', '"fill_value": 4'))
    other = await opened(range_server)
    range_server.hold()
    readers = [asyncio.create_task(one.getitem(slice(None))) for one in (array, other)]
    await range_server.wait_async(held=2)
    range_server.release()
    got = await asyncio.gather(*readers)
    assert [np.asarray(one)[0] for one in got] == [3, 4]


async def test_readers_of_a_bridged_store_share_too(native: ModuleType) -> None:
    store = LoggingStore(MemoryStore())
    array = await zarr.api.asynchronous.create_array(store=store, data=VALUES, chunks=(1024,), compressors=None)
    assert isinstance(array, zarr.AsyncArray)
    gets = store.counter["get"]
    before = native.stats()
    got = await asyncio.gather(*(array.getitem(slice(None)) for _ in range(READERS)))
    for one in got:
        np.testing.assert_array_equal(one, VALUES)
    after = native.stats()
    shared = after["flights_shared"] - before["flights_shared"]
    assert store.counter["get"] - gets == READERS - shared
    assert shared > 0
