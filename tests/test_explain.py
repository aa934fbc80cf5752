"""What a read would do, as `explain` tells it: held against what the server sees of the read itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numcodecs  # type: ignore[import-untyped]
import numpy as np
import pytest
import zarr
import zarr.api.asynchronous
from oracle import DEFAULT, OURS, created, opened
from zarr.codecs import BytesCodec, ShardingCodec
from zarr.storage import LocalStore, LoggingStore, MemoryStore

from support.remote import ranges, served
from support.servers import RangeServer, Rule

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import ModuleType

    from zarr import AsyncArray

# Our pipeline is on, nothing may fall back, and an index is asked for by itself.
pytestmark = pytest.mark.usefixtures("native", "byte_ranges")

VALUES = np.arange(4096, dtype="uint16") + 1
# Two subchunks of the second shard are not stored.
VALUES[1152:1280] = 0
INDEX = "bytes=-260"

PLAIN: dict[str, Any] = {"chunks": (512,)}
SHARDS: dict[str, Any] = {"chunks": (64,), "shards": (1024,)}
INNER = ShardingCodec(chunk_shape=(16,), codecs=[BytesCodec()])
NESTED: dict[str, Any] = {"chunks": (1024,), "serializer": ShardingCodec(chunk_shape=(64,), codecs=[INNER])}

FIRST = slice(0, 1)
TWICE = np.array([5, 600, 5, 7, 601, 5])
TWICE_MASK = np.isin(np.arange(VALUES.size), TWICE)
POINTS = np.array([100, 1124, 2148, 3172])
# Of the first shard the subchunks 0, 1, 3, 4 and 8, of 128 bytes each.
SCATTERED = np.concatenate([np.arange(at * 64, at * 64 + 64) for at in (0, 1, 3, 4, 8)])


@dataclass(frozen=True)
class Read:
    """A read of a served array."""

    layout: dict[str, Any]
    selection: Any
    indexing: str = "basic"
    known: slice | None = None
    """What is read before, so that the indexes of its shards are cached."""
    removed: tuple[int, ...] = ()
    """Chunks that are not there."""
    config: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Work:
    """What a read takes; bytes are None where an explanation does not tell them."""

    units: int
    requests: int
    nbytes: int | None
    round_trips: int
    index_hits: int
    index_misses: int


def merged(gap: int, largest: int) -> Read:
    """Read five scattered subchunks, merged by these limits in bytes."""
    limits = {"array.sharding_coalesce_max_gap_bytes": gap, "array.sharding_coalesce_max_bytes": largest}
    return Read(SHARDS, SCATTERED, "orthogonal", FIRST, config=limits)


EXACT = {
    "whole chunks": Read(PLAIN, ...),
    "missing chunks": Read(PLAIN, ..., removed=(2, 5)),
    "parts of chunks": Read(PLAIN, slice(500, 1030, 3)),
    "chunks named twice in a list": Read(PLAIN, TWICE, "orthogonal"),
    "chunks named twice by points": Read(PLAIN, TWICE, "coordinate"),
    "chunks named twice in a mask": Read(PLAIN, TWICE_MASK, "mask"),
    "nothing": Read(SHARDS, slice(0, 0)),
    "whole shards": Read(SHARDS, slice(1024, 3072)),
    "small shards": Read(SHARDS, slice(130, 1400), config={"array.sharding_coalesce_max_gap_bytes": 2048}),
    "part of a known shard": Read(SHARDS, slice(130, 400), known=FIRST),
    "part of a known nested shard": Read(NESTED, slice(70, 130), known=FIRST),
    "known shard beyond memory": Read(
        SHARDS, slice(0, 1024), known=FIRST, config={"codec_pipeline.memory_limit_bytes": 1024}
    ),
    "points over known shards": Read(SHARDS, POINTS, "coordinate", slice(0, None, 1024)),
    "subchunks named twice in a list": Read(SHARDS, TWICE, "orthogonal", FIRST),
    "subchunks named twice by points": Read(SHARDS, TWICE, "coordinate", FIRST),
    "subchunks named twice in a mask": Read(SHARDS, TWICE_MASK, "mask", FIRST),
    "subchunks that adjoin": merged(127, 4096),
    "subchunks with small gaps": merged(128, 4096),
    "subchunks with large gaps": merged(384, 4096),
    "subchunks in ranges of five": merged(384, 640),
    "subchunks in ranges of one": merged(384, 128),
    "some missing subchunks of a known shard": Read(SHARDS, slice(1100, 1200), known=slice(1024, 1025)),
    "missing subchunks of a known shard": Read(SHARDS, slice(1160, 1200), known=slice(1024, 1025)),
}
LEAST = {
    "part of a shard": Read(SHARDS, slice(130, 400)),
    "part of a nested shard": Read(NESTED, slice(70, 130)),
    "points over shards": Read(SHARDS, POINTS, "coordinate"),
    "points over shards of which one is known": Read(SHARDS, POINTS, "coordinate", FIRST),
    "scattered subchunks": Read(SHARDS, SCATTERED, "orthogonal"),
    "missing subchunks": Read(SHARDS, slice(1160, 1200)),
    "missing shard": Read(SHARDS, slice(130, 400), removed=(0,)),
}


def method(array: AsyncArray[Any], indexing: str) -> Callable[..., Any]:
    """Return the array's method that reads by this way of indexing."""
    reader: Callable[..., Any] = getattr(array, "getitem" if indexing == "basic" else f"get_{indexing}_selection")
    return reader


async def told_and_seen(server: RangeServer, package: ModuleType, read: Read) -> tuple[Any, Work]:
    """Explain a read, see that this does nothing, then do it; return the explanation and what it took."""
    zarr.config.set(read.config)
    array = await served(server, VALUES, **read.layout)
    for chunk in read.removed:
        (server.root / f"a/c/{chunk}").unlink()
    if read.known is not None:
        await array.getitem(read.known)
    server.reset_counts()
    before = package.stats()
    told = package.explain(array, read.selection, indexing=read.indexing)
    assert (package.stats(), server.log()) == (before, [])
    await method(array, read.indexing)(read.selection)
    after, log = package.stats(), server.log()
    # Of a shard, its ranges are asked for at once, after its index.
    stages = {(logged["path"], logged["range"] == INDEX) for logged in log}
    paths = [path for path, _ in stages]
    return told, Work(
        units=sum(logged["range"] != INDEX for logged in log),
        requests=len(log),
        nbytes=None if told.bytes is None else server.stats()["bytes_sent"],
        round_trips=max(map(paths.count, paths), default=0),
        index_hits=after["shard_index_hits"] - before["shard_index_hits"],
        index_misses=after["shard_index_misses"] - before["shard_index_misses"],
    )


@pytest.mark.parametrize("read", EXACT.values(), ids=EXACT)
async def test_explain_exactly_tells_what_the_server_sees(
    range_server: RangeServer, native: ModuleType, read: Read
) -> None:
    told, seen = await told_and_seen(range_server, native, read)
    assert told.exact
    assert seen == Work(told.units, told.requests, told.bytes, told.round_trips, told.index_hits, told.index_misses)


@pytest.mark.parametrize("read", LEAST.values(), ids=LEAST)
async def test_explain_without_an_index_tells_the_least_that_the_server_sees(
    range_server: RangeServer, native: ModuleType, read: Read
) -> None:
    told, seen = await told_and_seen(range_server, native, read)
    assert not told.exact
    assert told.bytes is None
    assert (told.index_hits, told.index_misses) == (seen.index_hits, seen.index_misses)
    assert told.requests <= seen.requests
    assert told.units <= seen.units
    assert told.round_trips >= seen.round_trips


async def test_explain_without_indexes_counts_them_alone(range_server: RangeServer, native: ModuleType) -> None:
    array = await served(range_server, VALUES, **SHARDS)
    told = native.explain(array, POINTS, indexing="coordinate")
    assert (told.chunks, told.units, told.requests, told.round_trips) == (4, 0, 4, 2)


async def test_explain_tells_the_round_trips_of_a_store_without_suffixes(
    range_server: RangeServer, native: ModuleType
) -> None:
    array = await served(range_server, VALUES, **SHARDS)
    range_server.config(rules=[Rule(action="refuse_suffix")])
    await array.getitem(FIRST)
    range_server.reset_counts()
    told = native.explain(array, slice(1100, 1120))
    await array.getitem(slice(1100, 1120))
    # The length, the index, the data: each waits for the one before.
    assert ranges(range_server) == ["bytes=0-0", "bytes=1792-2051", "bytes=128-255"]
    assert told.round_trips >= 3


async def test_explain_takes_a_synchronous_array_too(range_server: RangeServer, native: ModuleType) -> None:
    array = await served(range_server, VALUES, **SHARDS)
    await array.getitem(FIRST)
    told = native.explain(zarr.Array(array), slice(130, 400))
    assert told == native.explain(array, slice(130, 400))
    assert told != native.explain(array)


async def test_explanation_reads_as_a_sentence(range_server: RangeServer, native: ModuleType) -> None:
    array = await served(range_server, VALUES, **SHARDS)
    assert str(native.explain(array, slice(130, 400))) == (
        "zarrs_async reads 1 chunk (sharding_indexed of [64] [bytes]; native store) in at least 0 units with "
        "at least 1 request and 2 round trips; shard indexes: 1 to fetch"
    )
    await array.getitem(FIRST)
    told = native.explain(array, slice(0, 1000))
    assert str(told) == (
        "zarrs_async reads 1 chunk (sharding_indexed of [64] [bytes]; native store) in 1 unit with 1 request, "
        "2,048 bytes and 1 round trip; shard indexes: 1 cached"
    )
    assert repr(told) == (
        "Explanation(pipeline='zarrs_async', fallback=None, store='native', "
        "layout='sharding_indexed of [64] [bytes]', chunks=1, units=1, requests=1, bytes=2048, round_trips=1, "
        "index_hits=1, index_misses=0, exact=True, python_codecs=())"
    )


def test_explain_of_local_files_tells_units_and_no_requests(native: ModuleType, tmp_path: Path) -> None:
    # Chunks of 512 KiB share units of 1 MiB.
    array = created(LocalStore(tmp_path), OURS, shape=(5 << 20,), chunks=(1 << 19,), dtype="u1")
    told = native.explain(array, slice(0, (3 << 19) + 1))
    assert (told.store, told.chunks, told.units) == ("native", 4, 2)
    assert (told.requests, told.round_trips, told.exact) == (0, 0, True)
    assert str(told) == "zarrs_async reads 4 chunks (bytes, zstd; native store) from files in 2 jobs"


def test_tiny_local_chunks_share_a_unit_by_number(native: ModuleType, tmp_path: Path) -> None:
    # Opening 32 files takes about as long as decoding 1 MiB.
    array = created(LocalStore(tmp_path), OURS, shape=(100,), chunks=(1,), dtype="u1")
    assert native.explain(array).units == 4


async def test_explain_of_a_bridged_store_tells_its_gets(native: ModuleType) -> None:
    store = LoggingStore(MemoryStore())
    created(store, OURS, data=VALUES, **SHARDS)
    array = await zarr.api.asynchronous.open_array(store=store)
    gets = store.counter["get"]
    told = native.explain(array, slice(1000, 1100))
    assert store.counter["get"] == gets
    assert (told.store, told.requests, told.round_trips, told.exact) == ("bridged", 2, 2, False)
    await array.getitem(slice(1000, 1100))
    # An index and one range of each of two shards.
    assert store.counter["get"] == gets + 4


def test_explain_by_an_unknown_way_of_indexing_names_those_there_are(native: ModuleType) -> None:
    array = created(MemoryStore(), OURS, shape=(8,), chunks=(2,), dtype="u2")
    with pytest.raises(ValueError, match=r"'blocks'.*'coordinate'"):
        native.explain(array, indexing="blocks")


def test_explain_names_the_codecs_that_python_runs(native: ModuleType) -> None:
    filters = [numcodecs.Base64()]
    array = created(MemoryStore(), OURS, shape=(8,), chunks=(2,), dtype="u2", zarr_format=2, filters=filters)
    before = native.stats()
    told = native.explain(array)
    assert told.fallback is None
    assert told.python_codecs == ("base64, zstd",)
    assert f"({told.layout}; bridged store; Python runs base64, zstd)" in str(told)
    assert native.explain(created(MemoryStore(), OURS, shape=(8,), dtype="?")).python_codecs == ()
    # Nothing has been called yet.
    assert native.stats() == before


def test_explain_tells_the_fallback(native: ModuleType) -> None:
    array = created(MemoryStore(), OURS, name="\udcff", shape=(8,), chunks=(2,), dtype="u2")
    before = native.stats()
    told = native.explain(array)
    assert told.pipeline == "zarr's default pipeline"
    assert "UTF-8" in told.fallback
    assert str(told) == f"zarr's default pipeline reads 4 chunks: {told.fallback}"
    assert (told.store, told.layout, told.requests, told.exact) == (None, None, None, None)
    # Nothing has fallen back yet.
    assert native.stats() == before


def test_explain_of_another_pipeline_names_it(native: ModuleType) -> None:
    created(store := MemoryStore(), DEFAULT, data=VALUES, **PLAIN)
    told = native.explain(opened(store, DEFAULT), slice(0, 1000))
    assert str(told) == f"{DEFAULT} reads 2 chunks: it was opened when codec_pipeline.path named another pipeline"


async def test_explanation_says_where_indexes_of_whole_shards_are(
    range_server: RangeServer, native: ModuleType
) -> None:
    array = await served(range_server, VALUES, **SHARDS)
    await array.getitem(FIRST)
    assert str(native.explain(array, slice(130, 3000))) == (
        "zarrs_async reads 3 chunks (sharding_indexed of [64] [bytes]; native store) in at least 2 units with at "
        "least 3 requests and 2 round trips; shard indexes: 1 cached, 1 to fetch, "
        "1 within shards that are fetched whole"
    )


async def test_explanation_without_shards_says_nothing_of_indexes(
    range_server: RangeServer, native: ModuleType
) -> None:
    array = await served(range_server, VALUES, **PLAIN)
    assert str(native.explain(array)) == (
        "zarrs_async reads 8 chunks (bytes; native store) in 8 units with 8 requests and 1 round trip"
    )
    assert str(native.explain(array, slice(0, 0))) == (
        "zarrs_async reads 0 chunks (bytes; native store) without a request"
    )


@pytest.mark.parametrize("asynchronous", [False, True])
def test_explain_of_a_group_explains_each_array_below_it(native: ModuleType, *, asynchronous: bool) -> None:
    group = zarr.create_group(MemoryStore())
    group.create_array("a", shape=(8,), chunks=(2,), dtype="u2")
    group.create_array("below/b", shape=(6,), chunks=(2,), dtype="u2")
    told = native.explain(group._async_group if asynchronous else group, slice(0, 4))
    assert {name: explanation.chunks for name, explanation in told.items()} == {"a": 2, "below/b": 2}
    assert sorted(repr(told).splitlines())[1].startswith("below/b: zarrs_async reads 2 chunks")
    assert "<th style='text-align:left'>below/b</th>" in told._repr_html_()


def test_an_explanation_is_a_table_in_a_notebook(native: ModuleType) -> None:
    array = created(MemoryStore(), OURS, shape=(8,), chunks=(2,), dtype="u2")
    shown = native.explain(array)._repr_html_()
    assert "<caption>what zarrs_async would do</caption>" in shown
    assert "<th style='text-align:left'>requests</th><td style='text-align:left'>4</td>" in shown
    assert "fallback" not in shown
