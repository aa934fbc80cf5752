"""Writes: none is lost, whole files appear at once, and a write that has ended is read."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import obstore.store
import pytest
import zarr
from oracle import DEFAULT, OURS, assert_same_bits, created, keys, opened
from zarr.codecs import ShardingCodec
from zarr.storage import LocalStore, MemoryStore, ObjectStore

if TYPE_CHECKING:
    from pathlib import Path

    from zarr.abc.store import Store

pytestmark = pytest.mark.usefixtures("native")

WRITERS = 200
LAYOUTS: dict[str, Any] = {
    "chunk": {"chunks": (WRITERS, 3)},
    "shard": {"chunks": (10, 3), "shards": (WRITERS, 3)},
    "nested": {
        "chunks": (WRITERS, 3),
        "serializer": ShardingCodec(chunk_shape=(50, 3), codecs=[ShardingCodec(chunk_shape=(5, 3))]),
        "compressors": None,
    },
}
ROWS = np.arange(1, 1 + 3 * WRITERS, dtype="i4").reshape(WRITERS, 3)


@pytest.fixture(params=["memory", "local", "obstore-memory", "obstore-local"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    match request.param:
        case "memory":
            return MemoryStore()
        case "local":
            return LocalStore(tmp_path)
        case "obstore-memory":
            return ObjectStore(obstore.store.MemoryStore())
        case _:
            return ObjectStore(obstore.store.LocalStore(tmp_path))


@pytest.mark.parametrize("layout", LAYOUTS)
async def test_gathered_partial_writes_lose_nothing(store: Store, layout: str) -> None:
    array = await zarr.api.asynchronous.create_array(store, shape=(WRITERS, 3), dtype="i4", **LAYOUTS[layout])
    await asyncio.gather(*(array.setitem(row, ROWS[row]) for row in range(WRITERS)))
    assert_same_bits(await array.getitem(...), ROWS)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_partial_writes_from_threads_lose_nothing(store: Store, layout: str) -> None:
    array = created(store, OURS, shape=(WRITERS, 3), dtype="i4", **LAYOUTS[layout])
    with ThreadPoolExecutor(16) as threads:
        list(threads.map(lambda row: array.__setitem__(row, ROWS[row]), range(WRITERS)))
    assert_same_bits(opened(store, DEFAULT)[...], ROWS)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_partial_writes_through_several_arrays_lose_nothing(store: Store, layout: str) -> None:
    """Each opens the array for itself, so that only the object that they write is the same."""
    created(store, OURS, shape=(WRITERS, 3), dtype="i4", **LAYOUTS[layout])
    arrays = [opened(store, OURS) for _ in range(8)]
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda row: arrays[row % 8].__setitem__(row, ROWS[row]), range(WRITERS)))
    assert_same_bits(opened(store, DEFAULT)[...], ROWS)


def test_partial_writes_through_two_stores_of_one_directory_lose_nothing(tmp_path: Path) -> None:
    """One opens the directory above, the other by another class; the file is the same."""
    created(LocalStore(tmp_path / "inner"), OURS, shape=(WRITERS, 3), dtype="i4", **LAYOUTS["shard"])
    with zarr.config.set({"codec_pipeline.path": OURS}):
        arrays: list[Any] = [
            opened(LocalStore(tmp_path / "inner"), OURS),
            zarr.open_array(LocalStore(tmp_path), path="inner", mode="r+"),
            opened(ObjectStore(obstore.store.LocalStore(tmp_path / "inner")), OURS),
        ]
    with ThreadPoolExecutor(9) as threads:
        list(threads.map(lambda row: arrays[row % 3].__setitem__(row, ROWS[row]), range(WRITERS)))
    assert_same_bits(opened(LocalStore(tmp_path / "inner"), DEFAULT)[...], ROWS)


async def test_whole_and_partial_writes_of_one_chunk_are_one_after_the_other(store: Store) -> None:
    array = await zarr.api.asynchronous.create_array(store, shape=(8,), chunks=(8,), dtype="i4")
    for _ in range(10):
        whole = array.setitem(..., np.zeros(8, dtype="i4") + 5)
        partial = [array.setitem(index, 100 + index) for index in range(4)]
        await asyncio.gather(whole, *partial)
        read: Any = await array.getitem(...)
        assert all(read[index] in (5, 100 + index) for index in range(4))
        assert (read[4:] == 5).all()


async def test_what_was_written_is_read(store: Store) -> None:
    array = await zarr.api.asynchronous.create_array(store, shape=(16,), chunks=(4,), shards=(16,), dtype="i4")

    async def follow(chunk: int) -> None:
        for value in range(1, 20):
            await array.setitem(slice(4 * chunk, 4 * chunk + 4), value)
            read: Any = await array.getitem(slice(4 * chunk, 4 * chunk + 4))
            assert (read == value).all()

    await asyncio.gather(*(follow(chunk) for chunk in range(4)))


async def test_readers_see_a_chunk_before_or_after_a_write(tmp_path: Path) -> None:
    array = await zarr.api.asynchronous.create_array(LocalStore(tmp_path), shape=(4096,), chunks=(4096,), dtype="i8")
    await array.setitem(..., 1)
    ended = asyncio.Event()

    async def write() -> None:
        for value in range(2, 60):
            await array.setitem(..., value)
        ended.set()

    async def read() -> None:
        seen = 1
        while not ended.is_set():
            values: Any = await array.getitem(...)
            assert (values == values[0]).all()
            assert values[0] >= seen
            seen = values[0]

    await asyncio.gather(write(), read(), read())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_no_temporary_files_stay(tmp_path: Path, layout: str) -> None:
    store = LocalStore(tmp_path)
    array = created(store, OURS, shape=(2 * WRITERS, 3), dtype="i4", **LAYOUTS[layout])
    array[...] = 1
    array[5:390] = 2
    files = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert files == {"zarr.json", "c/0/0", "c/1/0"}


def test_a_write_that_fails_leaves_the_old_chunk_and_no_temporary_file(tmp_path: Path) -> None:
    array = created(LocalStore(tmp_path), OURS, shape=(4,), chunks=(2,), dtype="i4", compressors=None)
    array[...] = 3
    chunk = tmp_path / "c/0"
    chunk.write_bytes(b"short")
    with pytest.raises(ValueError, match="c/0"):
        array[1] = 5  # must merge with what it cannot decode
    assert chunk.read_bytes() == b"short"
    assert sorted(path.name for path in (tmp_path / "c").iterdir()) == ["0", "1"]


def test_read_only_stores_refuse_as_ever(store: Store) -> None:
    created(store, OURS, shape=(4,), chunks=(2,), dtype="i4")[...] = 1
    messages = []
    for pipeline in (DEFAULT, OURS):
        with zarr.config.set({"codec_pipeline.path": pipeline}):
            array = zarr.open_array(store.with_read_only(), mode="r")
        with pytest.raises(ValueError, match="read-only") as refused:
            array[...] = 2
        messages.append(str(refused.value))
    assert messages[0] == messages[1]
    assert (np.asarray(opened(store, OURS)[...]) == 1).all()


VALUES = np.arange(1, 13, dtype="i4").reshape(3, 4)
READ_ONLY = VALUES.copy()
READ_ONLY.flags.writeable = False


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(np.asfortranarray(VALUES), id="fortran"),
        pytest.param(np.repeat(np.repeat(VALUES, 2, 0), 3, 1)[::2, ::3], id="strided"),
        pytest.param(np.ascontiguousarray(VALUES[::-1, ::-1])[::-1, ::-1], id="reversed"),
        pytest.param(READ_ONLY, id="read-only"),
        pytest.param(VALUES.astype(">i4"), id="byte-swapped"),
        pytest.param(VALUES.astype("f8"), id="floats"),
        pytest.param(VALUES.tolist(), id="lists"),
        pytest.param(np.frombuffer(b"\0" + VALUES.tobytes(), dtype="i4", offset=1).reshape(3, 4), id="unaligned"),
        pytest.param(np.ma.masked_array(VALUES), id="subclass"),
        pytest.param(np.broadcast_to(VALUES[0], (3, 4)), id="broadcast"),
    ],
)
@pytest.mark.parametrize("shards", [None, (2, 4)], ids=["chunks", "shards"])
def test_values_of_every_layout(value: Any, shards: Any) -> None:
    array = created(MemoryStore(), OURS, shape=(5, 4), chunks=(2, 2), shards=shards, dtype="i4")
    array[1:4] = value
    expected = np.zeros((5, 4), dtype="i4")
    expected[1:4] = value
    assert_same_bits(opened(array.store, DEFAULT)[...], expected)


def test_chunks_that_become_empty_are_deleted(store: Store) -> None:
    array = created(store, OURS, shape=(8,), chunks=(2,), dtype="f4", fill_value=np.nan)
    array[...] = 1
    assert keys(store) == {"zarr.json", "c/0", "c/1", "c/2", "c/3"}
    array[1:6] = np.nan
    assert keys(store) == {"zarr.json", "c/0", "c/3"}
    array[0] = np.nan
    assert keys(store) == {"zarr.json", "c/3"}
    array[4:6] = np.nan  # what is not there is deleted without complaint
    assert keys(store) == {"zarr.json", "c/3"}


def test_write_empty_chunks_of_the_configuration_is_heeded(store: Store) -> None:
    with zarr.config.set({"array.write_empty_chunks": True}):
        array = created(store, OURS, shape=(8,), chunks=(2,), dtype="i4")
    array[0:4] = 0
    assert keys(store) == {"zarr.json", "c/0", "c/1"}
