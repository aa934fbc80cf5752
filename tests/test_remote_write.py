"""Writes through HTTP: what is put, what is read before to be merged with, what is deleted."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import numpy as np
import oracle
import pytest
import zarr
from zarr.codecs import ZstdCodec
from zarr.storage import LocalStore

from support import remote
from support.servers import RangeServer, Rule

if TYPE_CHECKING:
    from types import ModuleType

    from zarr import AsyncArray

# Our pipeline is on, and nothing may fall back.
pytestmark = pytest.mark.usefixtures("native")

VALUES = np.arange(4096, dtype="uint16") + 1
LAYOUTS = [
    pytest.param({"chunks": (256,)}, id="chunks"),
    pytest.param({"chunks": (256,), "compressors": ZstdCodec()}, id="zstd"),
    pytest.param({"chunks": (64,), "shards": (256,), "compressors": ZstdCodec()}, id="shards"),
]


async def served(server: RangeServer, values: Any = VALUES, **layout: Any) -> AsyncArray[Any]:
    """Serve `values`, to be written over HTTP."""
    return await remote.served(server, values, mode="r+", **layout)


def assert_stored(server: RangeServer, expected: Any) -> None:
    """Read the files with zarr's default pipeline."""
    np.testing.assert_array_equal(oracle.opened(LocalStore(server.root / "a"), oracle.DEFAULT)[:], expected)


def asked(server: RangeServer) -> list[tuple[str, str]]:
    """Return method and path of each request, sorted."""
    return sorted((logged["method"], logged["path"].removeprefix("a/")) for logged in server.log())


@pytest.mark.parametrize("layout", LAYOUTS)
async def test_write_of_whole_chunks_is_one_put_each(range_server: RangeServer, layout: dict[str, Any]) -> None:
    array = await served(range_server, **layout)
    await array.setitem(slice(512, 1536), VALUES[512:1536] + 9)
    assert asked(range_server) == sorted(("PUT", f"c/{chunk}") for chunk in range(2, 6))
    expected = VALUES.copy()
    expected[512:1536] += 9
    assert_stored(range_server, expected)


@pytest.mark.parametrize("layout", LAYOUTS)
async def test_write_of_parts_reads_merges_and_puts(range_server: RangeServer, layout: dict[str, Any]) -> None:
    array = await served(range_server, **layout)
    await array.setitem(slice(500, 1100), VALUES[500:1100] + 9)
    whole, partial = ("c/2", "c/3"), ("c/1", "c/4")
    assert asked(range_server) == sorted(
        [*(("PUT", key) for key in whole + partial), *(("GET", key) for key in partial)]
    )
    expected = VALUES.copy()
    expected[500:1100] += 9
    assert_stored(range_server, expected)


@pytest.mark.parametrize("layout", LAYOUTS)
async def test_partial_writes_through_urls_with_different_queries_lose_nothing(
    range_server: RangeServer, layout: dict[str, Any]
) -> None:
    remote.stored(range_server.root / "a", VALUES, **layout)
    arrays = [await remote.opened(range_server, f"a?token={token}", mode="r+") for token in range(8)]
    range_server.hold(path="c/0", method="GET")
    writes = [asyncio.create_task(array.setitem(slice(9 * i, 9 * i + 9), i)) for i, array in enumerate(arrays)]
    await range_server.wait_async(held=1)
    range_server.release()
    await asyncio.gather(*writes)
    expected = VALUES.copy()
    expected[:72] = np.repeat(np.arange(8), 9)
    assert_stored(range_server, expected)


@pytest.mark.parametrize("layout", LAYOUTS)
async def test_write_of_a_part_of_a_missing_chunk_fills_the_rest(
    range_server: RangeServer, layout: dict[str, Any]
) -> None:
    array = await served(range_server, fill_value=3, **layout)
    (range_server.root / "a/c/1").unlink()
    await array.setitem(slice(300, 310), 77)
    expected = VALUES.copy()
    expected[256:512] = 3
    expected[300:310] = 77
    assert_stored(range_server, expected)


@pytest.mark.parametrize("layout", LAYOUTS)
async def test_write_that_leaves_chunks_empty_deletes_them(range_server: RangeServer, layout: dict[str, Any]) -> None:
    array = await served(range_server, **layout)
    await array.setitem(slice(256, 768), 0)
    assert asked(range_server) == [("DELETE", "c/1"), ("DELETE", "c/2")]
    assert not (range_server.root / "a/c/1").exists()
    await array.setitem(slice(768, 900), 0)
    await array.setitem(slice(900, 1024), 0)
    assert not (range_server.root / "a/c/3").exists()
    expected = VALUES.copy()
    expected[256:1024] = 0
    assert_stored(range_server, expected)


async def test_delete_of_chunks_that_are_not_there_is_no_error(range_server: RangeServer) -> None:
    array = await served(range_server, values=np.zeros_like(VALUES), chunks=(256,))
    await array.setitem(slice(None), 0)
    await array.setitem(slice(10, 20), 0)
    assert_stored(range_server, np.zeros_like(VALUES))


async def test_write_empty_chunks_puts_them(range_server: RangeServer) -> None:
    zarr.config.set({"array.write_empty_chunks": True})
    array = await served(range_server, chunks=(256,))
    await array.setitem(slice(256, 512), 0)
    assert asked(range_server) == [("PUT", "c/1")]
    assert (range_server.root / "a/c/1").exists()


@pytest.mark.parametrize("layout", LAYOUTS)
async def test_gathered_writes_to_one_chunk_lose_nothing(range_server: RangeServer, layout: dict[str, Any]) -> None:
    array = await served(range_server, **layout)
    expected = VALUES.copy()
    writes = []
    for at in range(0, 256, 4):
        expected[at : at + 4] += 100
        writes.append(array.setitem(slice(at, at + 4), expected[at : at + 4]))
    await asyncio.gather(*writes)
    assert_stored(range_server, expected)


@pytest.mark.parametrize("layout", LAYOUTS)
async def test_gathered_writes_through_two_stores_to_one_chunk_lose_nothing(
    range_server: RangeServer, layout: dict[str, Any]
) -> None:
    arrays = [
        await served(range_server, **layout),
        await remote.opened(range_server, mode="r+", user_agent="another"),
    ]
    expected = VALUES.copy()
    writes = []
    for at in range(0, 256, 4):
        expected[at : at + 4] += 100
        writes.append(arrays[at // 4 % 2].setitem(slice(at, at + 4), expected[at : at + 4]))
    await asyncio.gather(*writes)
    assert_stored(range_server, expected)


async def test_write_with_steps_and_lists_goes_to_the_right_places(range_server: RangeServer) -> None:
    array = await served(range_server, chunks=(64,), shards=(256,))
    expected = VALUES.copy()
    expected[3:4000:7] = 5
    await array.setitem(slice(3, 4000, 7), 5)
    wanted = np.array([4000, 1, 300, 299])
    expected[wanted] = [9, 8, 7, 6]
    sync = zarr.Array(array)
    await asyncio.to_thread(sync.set_orthogonal_selection, (wanted,), np.array([9, 8, 7, 6], "uint16"))
    assert_stored(range_server, expected)


async def test_read_after_write_sees_it(range_server: RangeServer) -> None:
    zarr.config.set({"array.sharding_coalesce_max_gap_bytes": 0})
    array = await served(range_server, chunks=(64,), shards=(256,))
    for value in range(5):
        await array.setitem(slice(70, 80), value + 1)
        np.testing.assert_array_equal(await array.getitem(slice(70, 80)), value + 1)


async def test_partial_write_that_cannot_read_what_is_there_puts_nothing(
    range_server: RangeServer, native: ModuleType
) -> None:
    array = await served(range_server, chunks=(256,))
    range_server.config(rules=[Rule(action="status", method="GET", status=403)])
    with pytest.raises(native.exceptions.StorePermissionError, match='get of "c/0"'):
        await array.setitem(slice(10, 20), 7)
    assert range_server.stats()["methods"] == {"GET": 1}
    assert_stored(range_server, VALUES)


async def test_partial_write_to_a_damaged_chunk_is_an_error_and_puts_nothing(
    range_server: RangeServer, native: ModuleType
) -> None:
    array = await served(range_server, chunks=(256,), compressors=ZstdCodec())
    damaged = (range_server.root / "a/c/0").read_bytes()[:-10]
    (range_server.root / "a/c/0").write_bytes(damaged)
    with pytest.raises(native.exceptions.ChunkDecodeError, match="c/0"):
        await array.setitem(slice(10, 20), 7)
    assert (range_server.root / "a/c/0").read_bytes() == damaged


async def test_write_counts_bytes_and_chunks(range_server: RangeServer, native: ModuleType) -> None:
    array = await served(range_server, chunks=(256,))
    before = native.stats()
    await array.setitem(slice(None), VALUES + 1)
    after = native.stats()
    assert after["bytes_written"] - before["bytes_written"] == VALUES.nbytes == range_server.stats()["bytes_received"]
    assert after["chunks_encoded"] - before["chunks_encoded"] == 16


async def test_read_only_store_is_not_written(range_server: RangeServer) -> None:
    array = await remote.served(range_server, VALUES, chunks=(256,))
    with pytest.raises(ValueError, match="read-only"):
        await array.setitem(slice(0, 10), 1)
    assert "PUT" not in range_server.stats()["methods"]
