"""Reads over HTTP as the server sees them: which requests a layout and a selection make, and that no other is made."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr
from zarr.codecs import BytesCodec, ShardingCodec

from support.remote import opened, ranges, served
from support.servers import RangeServer, Rule

if TYPE_CHECKING:
    from types import ModuleType

    from zarr import AsyncArray

# Our pipeline is on, and nothing may fall back.
pytestmark = pytest.mark.usefixtures("native")

VALUES = np.arange(4096, dtype="uint16") + 1
SUBCHUNK_NBYTES = 128
INDEX_NBYTES = 16 * 16 + 4
SHARD_NBYTES = 16 * SUBCHUNK_NBYTES + INDEX_NBYTES


async def sharded(server: RangeServer, values: Any = VALUES, **layout: Any) -> AsyncArray[Any]:
    """Serve four shards of 16 subchunks of 64 elements each."""
    return await served(server, values, shards=(1024,), chunks=(64,), **layout)


def requests(server: RangeServer) -> list[tuple[str, str | None]]:
    """Return path below the array and range of each request, sorted; all of them must be GETs."""
    log = server.log()
    assert {logged["method"] for logged in log} <= {"GET"}
    return sorted((logged["path"].removeprefix("a/"), logged["range"]) for logged in log)


def byte_range(first: int, last: int) -> str:
    """Range header of the subchunks `first` to `last` of a shard with its index at the end."""
    return f"bytes={first * SUBCHUNK_NBYTES}-{(last + 1) * SUBCHUNK_NBYTES - 1}"


async def test_read_plain_chunks_makes_one_get_each(range_server: RangeServer) -> None:
    array = await served(range_server, VALUES, chunks=(512,))
    np.testing.assert_array_equal(await array.getitem(slice(None)), VALUES)
    assert requests(range_server) == [(f"c/{chunk}", None) for chunk in range(8)]


async def test_read_part_of_chunks_asks_for_those_only(range_server: RangeServer) -> None:
    array = await served(range_server, VALUES, chunks=(512,))
    np.testing.assert_array_equal(await array.getitem(slice(500, 1030, 3)), VALUES[500:1030:3])
    assert requests(range_server) == [("c/0", None), ("c/1", None), ("c/2", None)]


async def test_read_missing_chunks_is_fill_value_after_one_get_each(
    range_server: RangeServer, native: ModuleType
) -> None:
    array = await served(range_server, VALUES, chunks=(512,), fill_value=7)
    for chunk in (2, 5):
        (range_server.root / f"a/c/{chunk}").unlink()
    missing = native.stats()["chunks_missing"]
    expected = VALUES.copy()
    expected[1024:1536] = expected[2560:3072] = 7
    np.testing.assert_array_equal(await array.getitem(slice(None)), expected)
    assert requests(range_server) == [(f"c/{chunk}", None) for chunk in range(8)]
    assert native.stats()["chunks_missing"] == missing + 2


@pytest.mark.usefixtures("byte_ranges")
async def test_read_whole_shards_makes_one_get_each(range_server: RangeServer) -> None:
    array = await sharded(range_server)
    np.testing.assert_array_equal(await array.getitem(slice(1024, 3072)), VALUES[1024:3072])
    assert requests(range_server) == [("c/1", None), ("c/2", None)]


@pytest.mark.usefixtures("byte_ranges")
async def test_read_part_of_shard_asks_for_index_suffix_then_merged_range(range_server: RangeServer) -> None:
    array = await sharded(range_server)
    np.testing.assert_array_equal(await array.getitem(slice(130, 400)), VALUES[130:400])
    assert ranges(range_server) == [f"bytes=-{INDEX_NBYTES}", byte_range(2, 6)]
    assert {logged["path"] for logged in range_server.log()} == {"a/c/0"}


@pytest.mark.usefixtures("byte_ranges")
async def test_read_part_of_shard_with_index_at_start_asks_for_it_there(range_server: RangeServer) -> None:
    sharding = ShardingCodec(chunk_shape=(64,), codecs=[BytesCodec()], index_location="start")
    array = await served(range_server, VALUES, chunks=(1024,), serializer=sharding)
    np.testing.assert_array_equal(await array.getitem(slice(64, 128)), VALUES[64:128])
    first = INDEX_NBYTES + SUBCHUNK_NBYTES
    assert ranges(range_server) == [
        f"bytes=0-{INDEX_NBYTES - 1}",
        f"bytes={first}-{first + SUBCHUNK_NBYTES - 1}",
    ]


@pytest.mark.parametrize(
    ("gap", "largest", "expected"),
    [
        # Subchunks 0, 1, 3, 4 and 8; a gap of one subchunk has 128 bytes, one of three 384.
        (0, 4096, [(0, 1), (3, 4), (8, 8)]),
        (127, 4096, [(0, 1), (3, 4), (8, 8)]),
        (128, 4096, [(0, 4), (8, 8)]),
        (384, 4096, [(0, 8)]),
        (384, 640, [(0, 4), (8, 8)]),
        (384, 128, [(0, 0), (1, 1), (3, 3), (4, 4), (8, 8)]),
    ],
)
async def test_read_of_scattered_subchunks_merges_by_gap_and_size(
    range_server: RangeServer, gap: int, largest: int, expected: list[tuple[int, int]]
) -> None:
    zarr.config.set({"array.sharding_coalesce_max_gap_bytes": gap, "array.sharding_coalesce_max_bytes": largest})
    array = await sharded(range_server)
    wanted = np.concatenate([np.arange(n * 64, n * 64 + 64) for n in (0, 1, 3, 4, 8)])
    got = await array.oindex.getitem((wanted,))
    np.testing.assert_array_equal(got, VALUES[wanted])
    ranges = sorted(byte_range(first, last) for first, last in expected)
    assert requests(range_server) == sorted([("c/0", f"bytes=-{INDEX_NBYTES}"), *(("c/0", one) for one in ranges)])


@pytest.mark.usefixtures("byte_ranges")
async def test_read_over_many_shards_asks_for_all_indexes_at_once(range_server: RangeServer) -> None:
    array = await sharded(range_server)
    range_server.hold()
    reading = asyncio.create_task(array.getitem(slice(100, None, 1024)))
    stats = await range_server.wait_async(held=4)
    assert stats["requests"] == 4
    range_server.release()
    np.testing.assert_array_equal(await reading, VALUES[100::1024])
    expected = [(f"c/{shard}", one) for shard in range(4) for one in (f"bytes=-{INDEX_NBYTES}", byte_range(1, 1))]
    assert requests(range_server) == sorted(expected)


@pytest.mark.usefixtures("byte_ranges")
async def test_data_of_one_shard_does_not_wait_for_the_index_of_another(range_server: RangeServer) -> None:
    array = await sharded(range_server)
    range_server.hold(path="c/3$")
    reading = asyncio.create_task(array.getitem(slice(100, None, 1024)))
    # Three shards with index and data, and the held index of the fourth.
    await range_server.wait_async(held=1, answered=6)
    range_server.release()
    np.testing.assert_array_equal(await reading, VALUES[100::1024])


async def test_read_part_of_small_shard_is_one_round_trip(range_server: RangeServer) -> None:
    array = await sharded(range_server)
    np.testing.assert_array_equal(await array.getitem(slice(130, 400)), VALUES[130:400])
    assert requests(range_server) == [("c/0", None)]


@pytest.mark.usefixtures("byte_ranges")
async def test_read_of_missing_shards_and_subchunks_is_fill_value(range_server: RangeServer) -> None:
    values = VALUES.copy()
    values[128:256] = 0
    array = await sharded(range_server, values, fill_value=0)
    (range_server.root / "a/c/1").unlink()
    expected = values.copy()
    expected[1024:2048] = 0
    np.testing.assert_array_equal(await array.getitem(slice(130, 1100)), expected[130:1100])
    # Subchunks 2 and 3 are not there; those after them stand two places further ahead.
    assert requests(range_server) == [
        ("c/0", f"bytes=-{INDEX_NBYTES}"),
        ("c/0", byte_range(2, 13)),
        ("c/1", f"bytes=-{INDEX_NBYTES}"),
    ] or requests(range_server) == [
        ("c/0", f"bytes=-{INDEX_NBYTES}"),
        ("c/0", byte_range(2, 13)),
        ("c/1", None),
    ]


async def test_read_naming_a_chunk_twice_fetches_it_once(range_server: RangeServer) -> None:
    array = await served(range_server, VALUES, chunks=(512,))
    wanted = np.array([5, 600, 5, 7, 601, 5])
    np.testing.assert_array_equal(await array.oindex.getitem((wanted,)), VALUES[wanted])
    np.testing.assert_array_equal(await array.vindex.getitem((wanted,)), VALUES[wanted])
    assert requests(range_server) == [("c/0", None)] * 2 + [("c/1", None)] * 2


@pytest.mark.usefixtures("byte_ranges")
async def test_read_naming_a_subchunk_twice_fetches_it_once(range_server: RangeServer) -> None:
    array = await sharded(range_server)
    wanted = np.array([5, 70, 5, 7, 71, 5])
    np.testing.assert_array_equal(await array.oindex.getitem((wanted,)), VALUES[wanted])
    assert requests(range_server) == [("c/0", f"bytes=-{INDEX_NBYTES}"), ("c/0", byte_range(0, 1))]


@pytest.mark.usefixtures("byte_ranges")
async def test_read_part_of_nested_shard_asks_for_its_inner_shards(range_server: RangeServer) -> None:
    inner = ShardingCodec(chunk_shape=(16,), codecs=[BytesCodec()])
    outer = ShardingCodec(chunk_shape=(64,), codecs=[inner])
    array = await served(range_server, VALUES, chunks=(1024,), serializer=outer)
    np.testing.assert_array_equal(await array.getitem(slice(70, 130)), VALUES[70:130])
    inner_nbytes = 64 * 2 + 4 * 16 + 4
    assert ranges(range_server) == [
        f"bytes=-{INDEX_NBYTES}",
        f"bytes={inner_nbytes}-{3 * inner_nbytes - 1}",
    ]


@pytest.mark.usefixtures("byte_ranges")
async def test_read_from_server_without_suffixes_asks_for_the_length_and_remembers(range_server: RangeServer) -> None:
    array = await sharded(range_server)
    range_server.config(rules=[Rule(action="refuse_suffix")])
    np.testing.assert_array_equal(await array.getitem(slice(130, 200)), VALUES[130:200])
    index = f"bytes={SHARD_NBYTES - INDEX_NBYTES}-{SHARD_NBYTES - 1}"
    assert ranges(range_server) == [
        f"bytes=-{INDEX_NBYTES}",
        "bytes=0-0",
        index,
        byte_range(2, 3),
    ]
    range_server.reset_counts()
    np.testing.assert_array_equal(await array.getitem(slice(1154, 1200)), VALUES[1154:1200])
    assert ranges(range_server) == ["bytes=0-0", index, byte_range(2, 2)]


@pytest.mark.usefixtures("byte_ranges")
@pytest.mark.parametrize("status", [400, 405, 416, 501])
async def test_read_from_server_without_suffixes_does_not_depend_on_its_status(
    range_server: RangeServer, status: int
) -> None:
    array = await sharded(range_server)
    range_server.config(rules=[Rule(action="refuse_suffix", status=status)])
    np.testing.assert_array_equal(await array.getitem(slice(130, 200)), VALUES[130:200])


@pytest.mark.usefixtures("byte_ranges")
async def test_one_empty_shard_does_not_make_a_store_one_without_suffixes(range_server: RangeServer) -> None:
    array = await sharded(range_server)
    (range_server.root / "a/c/0").write_bytes(b"")
    with pytest.raises(Exception, match="c/0"):
        await array.getitem(slice(130, 200))
    range_server.reset_counts()
    np.testing.assert_array_equal(await array.getitem(slice(1154, 1200)), VALUES[1154:1200])
    assert ranges(range_server) == [f"bytes=-{INDEX_NBYTES}", byte_range(2, 2)]


@pytest.mark.usefixtures("byte_ranges")
async def test_read_from_server_that_ignores_ranges_uses_what_it_sends(range_server: RangeServer) -> None:
    array = await sharded(range_server)
    range_server.config(rules=[Rule(action="ignore_range")])
    np.testing.assert_array_equal(await array.getitem(slice(130, 400)), VALUES[130:400])
    assert {logged["status"] for logged in range_server.log()} == {200}
    assert range_server.stats()["requests"] == 2


@pytest.mark.usefixtures("byte_ranges")
async def test_second_read_of_a_shard_needs_no_index_request(range_server: RangeServer, native: ModuleType) -> None:
    array = await sharded(range_server)
    before = native.stats()
    await array.getitem(slice(0, 64))
    range_server.reset_counts()
    np.testing.assert_array_equal(await array.getitem(slice(130, 400)), VALUES[130:400])
    (logged,) = range_server.log()
    assert logged["range"] == byte_range(2, 6)
    assert logged["if_match"] is not None
    after = native.stats()
    assert after["shard_index_misses"] == before["shard_index_misses"] + 1
    assert after["shard_index_hits"] == before["shard_index_hits"] + 1


@pytest.mark.usefixtures("byte_ranges")
async def test_second_array_of_the_same_store_needs_no_index_request(range_server: RangeServer) -> None:
    array = await sharded(range_server)
    await array.getitem(slice(0, 64))
    again = await opened(range_server)
    np.testing.assert_array_equal(await again.getitem(slice(130, 400)), VALUES[130:400])
    assert requests(range_server) == [("c/0", byte_range(2, 6))]


@pytest.mark.usefixtures("byte_ranges")
async def test_index_cache_of_zero_bytes_keeps_nothing(range_server: RangeServer) -> None:
    zarr.config.set({"codec_pipeline.shard_index_cache_bytes": 0})
    array = await sharded(range_server)
    for _ in range(2):
        range_server.reset_counts()
        await array.getitem(slice(0, 64))
        assert range_server.stats()["requests"] == 2


async def test_read_of_shards_counts_requests_and_bytes_as_the_server_does(
    range_server: RangeServer, native: ModuleType
) -> None:
    zarr.config.set({"array.sharding_coalesce_max_gap_bytes": 0})
    array = await sharded(range_server)
    before = native.stats()
    await array.getitem(slice(100, 3000))
    after, seen = native.stats(), range_server.stats()
    assert after["requests"] - before["requests"] == seen["requests"]
    assert after["bytes_read"] - before["bytes_read"] == seen["bytes_sent"]
    assert after["requests_in_flight"] == 0
