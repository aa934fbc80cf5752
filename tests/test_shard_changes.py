"""Shards that are replaced or deleted while they are read: the result is of one state, never a mix."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import oracle
import pytest
import zarr
from zarr.codecs import ZstdCodec
from zarr.storage import LocalStore

from support.remote import opened, ranges, stored
from support.servers import RangeServer, Rule

if TYPE_CHECKING:
    from types import ModuleType


# Our pipeline is on, nothing may fall back, and an index is asked for by itself.
pytestmark = pytest.mark.usefixtures("native", "byte_ranges")

SHAPE = 1024
OLD, NEW, FILL = 1, 2, 9
# The subchunks 0, 4, 8 and 12 of a shard of 16: an index and four byte ranges.
SCATTERED = slice(0, None, 256)
INDEX_NBYTES = 260
INDEX = f"bytes=-{INDEX_NBYTES}"
WEAK = Rule(action="weak_etag")


def sharded(path: Path, value: int, **layout: Any) -> str:
    """Write an array of one shard, all of it `value`; return the shard's file."""
    stored(path, np.full(SHAPE, value, "uint16"), **{"chunks": (64,), "shards": (SHAPE,), "fill_value": FILL, **layout})
    return str(path / "c/0")


def put(source: str | None, shard: str) -> None:
    """Replace a shard at once, as a client of the server would, or delete it."""
    Path(shard).unlink()
    if source is not None:
        Path(shard).hardlink_to(source)


def replacing(server: RangeServer, nth: int, source: str | None, *others: Rule) -> None:
    """Replace the shard, or delete it, as soon as its `nth` request from now on is answered."""
    server.config(rules=[Rule(action="replace", path="c/0$", nth=nth, source=source), *others])


def the_one_value(got: Any) -> int:
    """Return the value that all elements have."""
    values = np.unique(got)
    assert values.size == 1, f"a mix of {values}"
    return int(values[0])


@pytest.mark.parametrize("layout", [{}, {"compressors": ZstdCodec()}], ids=["uncompressed", "zstd"])
async def test_shard_replaced_between_index_and_data_is_read_anew(
    range_server: RangeServer, native: ModuleType, tmp_path: Path, layout: dict[str, Any]
) -> None:
    sharded(range_server.root / "a", OLD, **layout)
    new = sharded(tmp_path / "new", NEW, **layout)
    array = await opened(range_server)
    replans = native.stats()["replans"]
    replacing(range_server, 1, new)
    assert the_one_value(await array.getitem(SCATTERED)) == NEW
    assert native.stats()["replans"] == replans + 1
    assert ranges(range_server).count(INDEX) == 2
    assert [logged["status"] for logged in range_server.log() if logged["if_match"]].count(412) == 4
    assert range_server.stats()["requests"] == 2 + 4 + 4


async def test_shard_deleted_between_index_and_data_reads_as_fill_value(
    range_server: RangeServer, native: ModuleType
) -> None:
    sharded(range_server.root / "a", OLD)
    array = await opened(range_server)
    missing = native.stats()["chunks_missing"]
    replacing(range_server, 1, None)
    assert the_one_value(await array.getitem(SCATTERED)) == FILL
    assert native.stats()["chunks_missing"] == missing + 1


@pytest.mark.parametrize("source", ["new", None])
@pytest.mark.parametrize("nth", [2, 3, 4, 5])
async def test_shard_changed_between_two_data_requests_is_of_one_state(
    range_server: RangeServer, tmp_path: Path, nth: int, source: str | None
) -> None:
    sharded(range_server.root / "a", OLD)
    new = sharded(tmp_path / "new", NEW) if source else None
    zarr.config.set({"codec_pipeline.request_concurrent_maximum": 1})
    array = await opened(range_server)
    replacing(range_server, nth, new)
    # Only after the last of the requests is the change too late to be seen.
    expected = OLD if nth == 5 else NEW if source else FILL
    assert the_one_value(await array.getitem(SCATTERED)) == expected


@pytest.mark.parametrize("released", [1, 2, 3])
async def test_shard_changed_under_requests_at_once_is_of_one_state(
    range_server: RangeServer, tmp_path: Path, released: int
) -> None:
    sharded(range_server.root / "a", OLD)
    new = sharded(tmp_path / "new", NEW)
    array = await opened(range_server)
    range_server.hold()
    reading = asyncio.create_task(array.getitem(SCATTERED))
    await range_server.wait_async(held=1)
    range_server.release(1)
    await range_server.wait_async(held=4, answered=1)
    range_server.release(released)
    await range_server.wait_async(answered=1 + released)
    put(new, str(range_server.root / "a/c/0"))
    range_server.release()
    assert the_one_value(await reading) == NEW


async def test_shard_replaced_twice_is_of_the_last_state(range_server: RangeServer, tmp_path: Path) -> None:
    sharded(range_server.root / "a", OLD)
    new, newest = sharded(tmp_path / "new", NEW), sharded(tmp_path / "newest", 3)
    zarr.config.set({"codec_pipeline.request_concurrent_maximum": 1})
    array = await opened(range_server)
    replacing(range_server, 2, new, Rule(action="replace", path="c/0$", nth=7, source=newest))
    assert the_one_value(await array.getitem(SCATTERED)) == 3


async def test_shard_replaced_again_and_again_is_fetched_whole_and_no_mix(
    range_server: RangeServer, native: ModuleType, tmp_path: Path
) -> None:
    sharded(range_server.root / "a", OLD)
    new = sharded(tmp_path / "new", NEW)
    array = await opened(range_server)
    replans = native.stats()["replans"]
    range_server.config(rules=[Rule(action="replace", path="c/0$", source=new)])
    assert the_one_value(await array.getitem(SCATTERED)) == NEW
    assert native.stats()["replans"] == replans + 2
    assert ranges(range_server)[-1] is None


async def test_shard_replaced_again_and_again_without_memory_for_it_is_an_error_and_not_a_mix(
    range_server: RangeServer, native: ModuleType, tmp_path: Path
) -> None:
    zarr.config.set({"codec_pipeline.memory_limit_bytes": 2 * SHAPE})
    sharded(range_server.root / "a", OLD)
    new = sharded(tmp_path / "new", NEW)
    array = await opened(range_server)
    range_server.config(rules=[Rule(action="replace", path="c/0$", source=new)])
    with pytest.raises(native.exceptions.StoreConflictError, match="c/0") as raised:
        await array.getitem(SCATTERED)
    assert raised.value.key == "c/0"
    assert isinstance(raised.value, OSError)


async def test_stale_cached_index_is_noticed(range_server: RangeServer, tmp_path: Path) -> None:
    sharded(range_server.root / "a", OLD)
    new = sharded(tmp_path / "new", NEW)
    array = await opened(range_server)
    assert the_one_value(await array.getitem(SCATTERED)) == OLD
    replacing(range_server, 1, new)
    range_server.reset_counts()
    # Answered with the old shard, whose index was known, but for the requests after the replacement.
    assert the_one_value(await array.getitem(SCATTERED)) == NEW
    assert INDEX in ranges(range_server)


async def test_stale_cached_index_of_a_deleted_shard_is_noticed(range_server: RangeServer) -> None:
    sharded(range_server.root / "a", OLD)
    array = await opened(range_server)
    assert the_one_value(await array.getitem(SCATTERED)) == OLD
    (range_server.root / "a/c/0").unlink()
    assert the_one_value(await array.getitem(SCATTERED)) == FILL


@pytest.mark.parametrize("rule", [Rule(action="weak_etag"), Rule(action="ignore_range")], ids=["weak", "no ranges"])
async def test_stale_cached_index_beyond_the_end_of_a_smaller_shard_is_noticed(
    range_server: RangeServer, tmp_path: Path, rule: Rule
) -> None:
    shard = sharded(range_server.root / "a", OLD)
    new = sharded(tmp_path / "new", NEW)
    # All but the last subchunk are the fill value, so the new shard ends where the old one's second subchunk is.
    oracle.opened(LocalStore(tmp_path / "new"), oracle.DEFAULT)[:960] = FILL
    range_server.config(rules=[Rule(action="weak_etag")])
    remote = await opened(range_server)
    assert the_one_value(await remote.getitem(slice(960, 1000))) == OLD
    put(new, shard)
    range_server.config(rules=[rule])
    assert the_one_value(await remote.getitem(slice(960, 1000))) == NEW


async def test_stale_cached_index_without_the_wanted_subchunks_is_noticed(
    range_server: RangeServer, tmp_path: Path
) -> None:
    shard = sharded(range_server.root / "a", OLD)
    oracle.opened(LocalStore(range_server.root / "a"), oracle.DEFAULT)[:512] = FILL
    new = sharded(tmp_path / "new", NEW)
    remote = await opened(range_server)
    assert the_one_value(await remote.getitem(slice(512, 600))) == OLD
    assert the_one_value(await remote.getitem(slice(0, 100))) == FILL
    put(new, shard)
    assert the_one_value(await remote.getitem(slice(0, 100))) == NEW


async def test_index_without_etag_is_not_cached(range_server: RangeServer, native: ModuleType) -> None:
    sharded(range_server.root / "a", OLD)
    array = await opened(range_server)
    range_server.config(rules=[Rule(action="no_etag")])
    hits = native.stats()["shard_index_hits"]
    for _ in range(2):
        range_server.reset_counts()
        assert the_one_value(await array.getitem(slice(0, 64))) == OLD
        assert ranges(range_server) == [INDEX, None]
    assert native.stats()["shard_index_hits"] == hits


@pytest.mark.parametrize("source", ["new", None])
@pytest.mark.parametrize("nth", [1, 2, 3])
async def test_shard_without_etag_is_of_one_state_too(
    range_server: RangeServer, tmp_path: Path, nth: int, source: str | None
) -> None:
    sharded(range_server.root / "a", OLD)
    new = sharded(tmp_path / "new", NEW) if source else None
    zarr.config.set({"codec_pipeline.request_concurrent_maximum": 1})
    array = await opened(range_server)
    replacing(range_server, nth, new, Rule(action="no_etag"))
    assert the_one_value(await array.getitem(SCATTERED)) in {OLD, NEW if source else FILL}


@pytest.mark.parametrize("source", ["new", None])
@pytest.mark.parametrize("nth", [1, 2, 3, 4, 5])
async def test_shard_with_weak_etag_is_of_one_state_too(
    range_server: RangeServer, tmp_path: Path, nth: int, source: str | None
) -> None:
    sharded(range_server.root / "a", OLD)
    new = sharded(tmp_path / "new", NEW) if source else None
    zarr.config.set({"codec_pipeline.request_concurrent_maximum": 1})
    array = await opened(range_server)
    replacing(range_server, nth, new, WEAK)
    expected = OLD if nth == 5 else NEW if source else FILL
    assert the_one_value(await array.getitem(SCATTERED)) == expected
    # No server may hold a weak tag to be matched.
    assert {logged["if_match"] for logged in range_server.log()} == {None}


async def test_index_with_weak_etag_is_cached(range_server: RangeServer) -> None:
    sharded(range_server.root / "a", OLD)
    array = await opened(range_server)
    range_server.config(rules=[WEAK])
    for _ in range(2):
        assert the_one_value(await array.getitem(slice(0, 64))) == OLD
    assert ranges(range_server) == [INDEX, "bytes=0-127", "bytes=0-127"]


@pytest.mark.parametrize("source", ["new", None])
async def test_stale_cached_index_with_weak_etag_is_noticed(
    range_server: RangeServer, native: ModuleType, tmp_path: Path, source: str | None
) -> None:
    shard = sharded(range_server.root / "a", OLD)
    array = await opened(range_server)
    range_server.config(rules=[WEAK])
    assert the_one_value(await array.getitem(SCATTERED)) == OLD
    replans = native.stats()["replans"]
    put(sharded(tmp_path / "new", NEW) if source else None, shard)
    assert the_one_value(await array.getitem(SCATTERED)) == (NEW if source else FILL)
    assert native.stats()["replans"] == replans + 1
    assert {logged["if_match"] for logged in range_server.log()} == {None}


async def test_shard_replaced_between_its_length_and_its_index_is_read_anew(
    range_server: RangeServer, tmp_path: Path
) -> None:
    # A server without suffixes is asked for the length first; the new shard has another one.
    sharded(range_server.root / "a", OLD)
    new = sharded(tmp_path / "new", NEW)
    content = (tmp_path / "new/c/0").read_bytes()
    (tmp_path / "new/c/0").write_bytes(content[:-INDEX_NBYTES] + bytes(64) + content[-INDEX_NBYTES:])
    array = await opened(range_server)
    replacing(range_server, 2, new, Rule(action="refuse_suffix"))
    assert the_one_value(await array.getitem(SCATTERED)) == NEW


async def test_shards_replaced_under_gathered_reads_are_each_of_one_state(
    range_server: RangeServer, tmp_path: Path
) -> None:
    sharded(range_server.root / "a", OLD)
    new = sharded(tmp_path / "new", NEW)
    array = await opened(range_server)
    replacing(range_server, 3, new)
    got = await asyncio.gather(*(array.getitem(SCATTERED) for _ in range(8)))
    assert {the_one_value(one) for one in got} <= {OLD, NEW}
    assert the_one_value(await array.getitem(SCATTERED)) == NEW
