"""What every codec pipeline of zarr must do the same, done by ours: on stores it knows and on bridged ones.

The behaviours are those of zarr-python's own suite for its pipelines, with its cases in our words: an array
of a certain kind, some writes, what must be read afterwards, and which chunks must be stored.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numcodecs  # type: ignore[import-untyped]
import numpy as np
import pytest
import zarr
from oracle import DEFAULT, chunk_spec, keys, opened, whole_batch
from zarr.codecs import BytesCodec, GzipCodec, ShardingCodec, TransposeCodec, ZstdCodec
from zarr.core.array_spec import ArrayConfig
from zarr.core.buffer import default_buffer_prototype
from zarr.registry import get_pipeline_class
from zarr.storage import LocalStore, MemoryStore, WrapperStore

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType

    from zarr.abc.store import Store

HAS_READ_MISSING_CHUNKS = "read_missing_chunks" in ArrayConfig.__dataclass_fields__
needs_read_missing_chunks = pytest.mark.skipif(
    not HAS_READ_MISSING_CHUNKS, reason="this zarr has no setting read_missing_chunks"
)


class WrappedStore(WrapperStore[MemoryStore]):
    """A store of somebody's own."""


@pytest.fixture(params=["memory", "wrapped", "local"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    match request.param:
        case "memory":
            return MemoryStore()
        case "wrapped":
            return WrappedStore(MemoryStore())
        case _:
            return LocalStore(tmp_path)


@dataclass(frozen=True)
class Story:
    """An array, what is written to it, what is read, and which chunks must or must not be stored."""

    array: dict[str, Any]
    writes: list[tuple[Any, Any]] = field(default_factory=list)
    reads: list[Any] = field(default_factory=lambda: [slice(None)])
    stored: set[str] | None = None

    def expected(self) -> np.ndarray[Any, Any]:
        """Play the writes on a numpy array."""
        values = np.full(self.array["shape"], self.array["fill_value"], dtype=self.array["dtype"])
        for selection, value in self.writes:
            values[selection] = value
        return values


DOUBLES = {"shape": (100,), "chunks": (10,), "dtype": "float64", "fill_value": 0.0, "compressors": None}
PLANE = {"shape": (20, 20), "chunks": (5, 5), "dtype": "int32", "fill_value": -1, "compressors": None}
TURNED = {
    "shape": (8, 12),
    "chunks": (2, 4),
    "dtype": "int32",
    "fill_value": -1,
    "filters": [TransposeCodec(order=(1, 0))],
    "serializer": BytesCodec(),
}
COUNT = np.arange(1.0, 101.0)
GRID = np.arange(400, dtype="int32").reshape(20, 20)
OBLONG = np.arange(96, dtype="int32").reshape(8, 12)
ALL = slice(None)

STORIES = {
    "chunks": Story(DOUBLES, [(ALL, COUNT)]),
    "one-shard": Story({**DOUBLES, "shards": (100,)}, [(ALL, COUNT)]),
    "shards": Story({**DOUBLES, "shards": (50,)}, [(ALL, COUNT)]),
    "plane": Story({**PLANE, "chunks": (5, 10)}, [(ALL, GRID)]),
    "plane-of-shards": Story({**PLANE, "shards": (10, 10)}, [(ALL, GRID)]),
    "gzip": Story({**DOUBLES, "compressors": GzipCodec(level=1)}, [(ALL, COUNT)]),
    "zstd": Story({**DOUBLES, "compressors": ZstdCodec(level=1)}, [(ALL, COUNT)]),
    "singles": Story({**DOUBLES, "dtype": "float32"}, [(ALL, COUNT)]),
    "v2": Story({**DOUBLES, "zarr_format": 2}, [(ALL, COUNT)]),
    "v2-gzip": Story({**DOUBLES, "zarr_format": 2, "compressors": numcodecs.GZip(level=1)}, [(ALL, COUNT)]),
    "v2-filter": Story({**DOUBLES, "zarr_format": 2, "filters": [numcodecs.Delta(dtype="float64")]}, [(ALL, COUNT)]),
    "v2-lzma": Story({**DOUBLES, "zarr_format": 2, "compressors": numcodecs.LZMA()}, [(ALL, COUNT)]),
    "nothing-written": Story({**DOUBLES, "fill_value": -7.0}, stored=set()),
    "nothing-written-to-shards": Story({**DOUBLES, "fill_value": -7.0, "shards": (100,)}, stored=set()),
    "part-of-chunks": Story(DOUBLES, [(slice(5, 15), COUNT[:10])], stored={"c/0", "c/1"}),
    "read-with-steps": Story(DOUBLES, [(ALL, COUNT)], [np.s_[::3], np.s_[10:20]]),
    "part-of-a-shard": Story({**DOUBLES, "shards": (100,)}, [(slice(20, 70), COUNT[:50])], [np.s_[30:60], ALL]),
    "elements-of-shards": Story(
        {**DOUBLES, "shards": (50,)}, [(ALL, COUNT)], [np.s_[0], np.s_[50], np.s_[99], np.s_[::3]]
    ),
    "elements-of-plane-shards": Story(
        {**PLANE, "shards": (10, 10)}, [(ALL, GRID)], [np.s_[0, 0], np.s_[10, 10], np.s_[19, 19]]
    ),
    "transposed": Story({**TURNED, "compressors": None}, [(ALL, OBLONG)], [ALL, np.s_[1:7, 2:10]]),
    "transposed-gzip": Story({**TURNED, "compressors": GzipCodec(level=1)}, [(ALL, OBLONG)], [ALL, np.s_[1:7, 2:10]]),
    "nested-shards": Story(
        {
            **PLANE,
            "chunks": (10, 10),
            "serializer": ShardingCodec(chunk_shape=(10, 10), codecs=[ShardingCodec(chunk_shape=(5, 5))]),
        },
        [(ALL, GRID)],
    ),
    "shard-overwritten-in-part": Story(
        {
            "shape": (40,),
            "chunks": (4,),
            "shards": (40,),
            "dtype": "int32",
            "fill_value": -1,
            "compressors": None,
            "config": {"write_empty_chunks": True},
        },
        [(ALL, np.arange(40)), (slice(7, 18), np.arange(700, 711))],
    ),
    "empty-not-stored": Story(
        {**DOUBLES, "shape": (20,), "config": {"write_empty_chunks": False}},
        [(slice(0, 10), COUNT[:10]), (slice(10, 20), 0.0)],
        stored={"c/0"},
    ),
    "empty-stored": Story(
        {**DOUBLES, "shape": (20,), "config": {"write_empty_chunks": True}}, [(ALL, 0.0)], stored={"c/0", "c/1"}
    ),
    "empty-by-default-not-stored": Story({**DOUBLES, "shape": (20,)}, [(slice(10, 20), 0.0)], stored=set()),
    "empty-again": Story({**DOUBLES, "shape": (20,)}, [(ALL, 5.0), (slice(0, 10), 0.0)], stored={"c/1"}),
}


@pytest.mark.parametrize("story", STORIES.values(), ids=STORIES.keys())
@pytest.mark.filterwarnings("ignore:zarrs_async does not support")
def test_stories(pipeline: ModuleType, store: Store, story: Story) -> None:
    before = pipeline.stats()["fallback_batches"]
    array = zarr.create_array(store, **story.array)
    for selection, value in story.writes:
        array[selection] = value
    expected = story.expected()
    for selection in story.reads:
        np.testing.assert_array_equal(np.asarray(array[selection]), expected[selection])
    if story.stored is not None:
        assert keys(store) - {"zarr.json"} == story.stored
    np.testing.assert_array_equal(np.asarray(opened(store, DEFAULT)[...]), expected)
    assert pipeline.stats()["fallback_batches"] == before


@needs_read_missing_chunks
@pytest.mark.usefixtures("native")
def test_missing_chunks_can_be_errors(store: Store) -> None:
    from zarr.errors import ChunkNotFoundError  # noqa: PLC0415  # older zarr has it not

    config: Any = {"read_missing_chunks": False}
    array: Any = zarr.create_array(store, shape=(20,), chunks=(10,), dtype="f8", fill_value=0.0, config=config)
    with pytest.raises(ChunkNotFoundError):
        array[:]
    array[0:10] = 1.0
    assert (array[0:10] == 1).all()
    with pytest.raises(ChunkNotFoundError):
        array[5:15]


@needs_read_missing_chunks
@pytest.mark.usefixtures("native")
def test_missing_shards_can_be_errors_but_missing_subchunks_are_not(store: Store) -> None:
    from zarr.errors import ChunkNotFoundError  # noqa: PLC0415  # older zarr has it not

    config: Any = {"read_missing_chunks": False}
    array = zarr.create_array(
        store, shape=(100,), chunks=(10,), shards=(50,), dtype="f8", fill_value=-1.0, config=config
    )
    with pytest.raises(ChunkNotFoundError):
        array[:]
    array[20:30] = np.arange(10.0)
    expected = np.full(20, -1.0)
    expected[5:15] = np.arange(10.0)
    np.testing.assert_array_equal(np.asarray(array[15:35]), expected)
    with pytest.raises(ChunkNotFoundError):
        array[45:55]


@pytest.mark.usefixtures("native")
async def test_read_tells_of_each_chunk(store: Store) -> None:
    """The promise behind that setting: zarr's ``GetResult`` per chunk, in the batch's order."""
    array = await zarr.api.asynchronous.create_array(store, shape=(6,), chunks=(2,), dtype="i4", fill_value=9)
    await array.setitem(slice(2, 4), 5)
    prototype = default_buffer_prototype()
    out = prototype.nd_buffer.create(shape=(6,), dtype=np.dtype("i4"))
    results = await array.codec_pipeline.read(whole_batch(array), out)
    assert results == ({"status": "missing"}, {"status": "present"}, {"status": "missing"})  # type: ignore[comparison-overlap, unused-ignore]
    assert out.as_numpy_array().tolist() == [9, 9, 5, 5, 9, 9]
    assert await array.codec_pipeline.read([], out) == ()  # type: ignore[comparison-overlap, unused-ignore]


@pytest.mark.parametrize("write_order", ["morton", "lexicographic", "colexicographic"])
@pytest.mark.usefixtures("native")
def test_the_stored_index_says_where_subchunks_are(store: Store, write_order: str) -> None:
    """Whatever order the shard was written in by another pipeline, a partial write must keep the rest."""
    if "subchunk_write_order" not in ShardingCodec.__dataclass_fields__:
        pytest.skip("this zarr has one order of subchunks only")
    serializer = ShardingCodec(
        chunk_shape=(2, 2),
        codecs=[BytesCodec()],
        subchunk_write_order=write_order,  # type: ignore[arg-type, unused-ignore]
    )
    expected = np.arange(24, dtype="int32").reshape(6, 4)
    with zarr.config.set({"codec_pipeline.path": DEFAULT}):
        array = zarr.create_array(
            store, shape=(6, 4), chunks=(6, 4), dtype="int32", fill_value=-1, compressors=None, serializer=serializer
        )
        array[...] = expected
    reopened = zarr.open_array(store, mode="r+")
    np.testing.assert_array_equal(np.asarray(reopened[...]), expected)
    reopened[1:5, 0:3] = 777
    expected[1:5, 0:3] = 777
    np.testing.assert_array_equal(np.asarray(reopened[...]), expected)
    np.testing.assert_array_equal(np.asarray(opened(store, DEFAULT)[...]), expected)


@pytest.mark.usefixtures("native")
def test_a_shard_that_becomes_empty_is_deleted(store: Store) -> None:
    array = zarr.create_array(store, shape=(16,), chunks=(4,), shards=(8,), dtype="f8", fill_value=0.0)
    array[0:8] = np.arange(1.0, 9.0)
    assert keys(store) == {"zarr.json", "c/0"}
    array[0:6] = 0.0
    assert keys(store) == {"zarr.json", "c/0"}
    array[6:8] = 0.0
    assert keys(store) == {"zarr.json"}


@pytest.mark.usefixtures("pipeline")
def test_the_pipeline_is_made_from_codecs_alone() -> None:
    """Zarr's own sharding codec does so, for its subchunks and its index."""
    made: Any = get_pipeline_class().from_codecs([BytesCodec(), GzipCodec()])
    assert [type(codec) for codec in made] == [BytesCodec, GzipCodec]
    assert made.supports_partial_decode is False
    assert made.supports_partial_encode is False


@pytest.mark.usefixtures("native")
async def test_the_pipeline_encodes_and_decodes_what_is_in_memory() -> None:
    array = await zarr.api.asynchronous.create_array(MemoryStore(), shape=(4,), chunks=(4,), dtype="i4")
    prototype = default_buffer_prototype()
    spec = chunk_spec(array, (4,))
    values = prototype.nd_buffer.from_numpy_array(np.arange(4, dtype="i4"))
    [encoded] = await array.codec_pipeline.encode([(values, spec)])
    [decoded] = await array.codec_pipeline.decode([(encoded, spec)])
    assert decoded is not None
    assert decoded.as_numpy_array().tolist() == [0, 1, 2, 3]
    nothing = await array.codec_pipeline.decode([(None, spec)])
    assert list(nothing) == [None]
