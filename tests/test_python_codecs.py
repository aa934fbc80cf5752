"""Codecs that Python runs for the engine: what they make, where they run, and what the engine does around them."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import pytest
import zarr
import zarr.dtype as zd
from oracle import DEFAULT, OURS, created, keys, opened, stored
from zarr.abc.codec import BytesBytesCodec
from zarr.codecs import GzipCodec, ShardingCodec, VLenBytesCodec, VLenUTF8Codec, ZstdCodec
from zarr.registry import register_codec
from zarr.storage import LocalStore, MemoryStore

from support.remote import served

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import ModuleType

    from zarr.core.array_spec import ArraySpec
    from zarr.core.buffer import Buffer

    from support.servers import RangeServer

# Our pipeline is on, and nothing may fall back.
pytestmark = pytest.mark.usefixtures("native")


@dataclass(frozen=True)
class InvertCodec(BytesBytesCodec):
    """A codec that nobody else knows."""

    is_fixed_size = True

    @classmethod
    def from_dict(cls, data: Any) -> Self:
        """Take the metadata of this codec."""
        assert data["name"] == "zarrs_async_tests.invert"
        return cls()

    def to_dict(self) -> dict[str, Any]:
        """Give the metadata of this codec."""
        return {"name": "zarrs_async_tests.invert", "configuration": {}}

    async def _decode_single(self, chunk_data: Buffer, _chunk_spec: ArraySpec) -> Buffer:
        return type(chunk_data).from_bytes((~chunk_data.as_numpy_array().view("u1")).tobytes())

    async def _encode_single(self, chunk_data: Buffer, chunk_spec: ArraySpec) -> Buffer:
        return await self._decode_single(chunk_data, chunk_spec)

    def compute_encoded_size(self, input_byte_length: int, _chunk_spec: ArraySpec) -> int:
        """Give the size of what is encoded."""
        return input_byte_length


class CalledCodec(InvertCodec):
    """The same, which calls a function before it decodes."""

    called: ClassVar[Callable[[], Any]]

    async def _decode_single(self, chunk_data: Buffer, chunk_spec: ArraySpec) -> Buffer:
        raise NotImplementedError

    def _decode_sync(self, chunk_data: Buffer, _chunk_spec: ArraySpec) -> Buffer:
        type(self).called()
        return type(chunk_data).from_bytes((~chunk_data.as_numpy_array().view("u1")).tobytes())

    async def _encode_single(self, chunk_data: Buffer, chunk_spec: ArraySpec) -> Buffer:
        return await InvertCodec()._encode_single(chunk_data, chunk_spec)

    def _encode_sync(self, chunk_data: Buffer, _chunk_spec: ArraySpec) -> Buffer:
        return type(chunk_data).from_bytes((~chunk_data.as_numpy_array().view("u1")).tobytes())


class RepeatCodec(InvertCodec):
    """A codec whose bytes are a thousand times as many as those it is given."""

    async def _decode_single(self, chunk_data: Buffer, _chunk_spec: ArraySpec) -> Buffer:
        return type(chunk_data).from_bytes(chunk_data.to_bytes()[::1000])

    async def _encode_single(self, chunk_data: Buffer, _chunk_spec: ArraySpec) -> Buffer:
        return type(chunk_data).from_bytes(np.repeat(chunk_data.as_numpy_array(), 1000).tobytes())


register_codec("zarrs_async_tests.invert", InvertCodec)


def unknown(store: Any = None, codec: Any = None, **arguments: Any) -> Any:
    """Make an array with a codec that the engine does not know."""
    arguments = {"shape": (6,), "chunks": (2,), "dtype": "i4", "compressors": [codec or InvertCodec()], **arguments}
    return created(MemoryStore() if store is None else store, OURS, **arguments)


@pytest.mark.parametrize("store", ["memory", "local"])
def test_an_unknown_codec_is_called(native: ModuleType, store: str, tmp_path: Path) -> None:
    with zarr.config.set({"codec_pipeline.strict": True}):
        array = unknown(MemoryStore() if store == "memory" else LocalStore(tmp_path))
        before = native.stats()["python_codec_calls"]
        array[...] = np.arange(6)
        assert np.asarray(array[...]).tolist() == [0, 1, 2, 3, 4, 5]
        assert np.asarray(array.oindex[[4, 0]]).tolist() == [4, 0]
        assert native.stats()["python_codec_calls"] == before + 3 + 3 + 2
    assert np.asarray(opened(array.store, DEFAULT)[...]).tolist() == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("store", ["memory", "local"])
def test_an_unknown_codec_inside_shards(native: ModuleType, store: str, tmp_path: Path) -> None:
    array = unknown(
        MemoryStore() if store == "memory" else LocalStore(tmp_path), shape=(8, 8), chunks=(2, 2), shards=(4, 4)
    )
    values = np.arange(64).reshape(8, 8)
    array[...] = values
    array[3:6, 1] = -1
    values[3:6, 1] = -1
    before = native.stats()["python_codec_calls"]
    np.testing.assert_array_equal(np.asarray(array[...]), values)
    assert native.stats()["python_codec_calls"] == before + 16
    np.testing.assert_array_equal(np.asarray(array[2:7:2, 1:3]), values[2:7:2, 1:3])
    # Of a shard, only what is wanted is decoded.
    assert native.stats()["python_codec_calls"] == before + 16 + 6
    np.testing.assert_array_equal(np.asarray(opened(array.store, DEFAULT)[...]), values)


async def test_ranges_of_a_remote_shard_are_merged_and_requests_bounded(range_server: RangeServer) -> None:
    values = np.arange(4096, dtype="u2")
    array = await served(range_server, values, chunks=(64,), shards=(2048,), compressors=[InvertCodec()])
    zarr.config.set({"codec_pipeline.request_concurrent_maximum": 1, "array.sharding_coalesce_max_gap_bytes": 0})
    array = await zarr.api.asynchronous.open_array(store=array.store)
    before = range_server.stats()["requests"]
    np.testing.assert_array_equal(await array.getitem(slice(100, 300)), values[100:300])
    # The index, and four subchunks that follow each other.
    assert range_server.stats()["requests"] == before + 2


@pytest.mark.parametrize("store", ["memory", "local"])
@pytest.mark.parametrize("shards", [None, (4,)])
def test_encoded_chunks_may_be_far_larger_than_their_elements(
    store: str, shards: tuple[int, ...] | None, tmp_path: Path
) -> None:
    target = MemoryStore() if store == "memory" else LocalStore(tmp_path)
    array = unknown(target, RepeatCodec(), shape=(4000,), chunks=(1000,), shards=shards and (2000,))
    array[...] = np.arange(4000)
    array[1:3] = -1
    values = np.arange(4000)
    values[1:3] = -1
    np.testing.assert_array_equal(np.asarray(array[...]), values)
    np.testing.assert_array_equal(np.asarray(array[5:1500]), values[5:1500])


def called(function: Callable[[], Any], **arguments: Any) -> Any:
    """Make an array, filled, whose codec calls a function before it decodes."""

    class Codec(CalledCodec):
        called = staticmethod(function)

    array = unknown(codec=Codec(), **arguments)
    array[...] = np.arange(array.shape[0])
    return array


def test_what_a_codec_raises_is_raised() -> None:
    class OddError(Exception):
        pass

    def raises() -> None:
        raise OddError

    with pytest.raises(OddError) as raised:
        called(raises)[...]
    [note] = [note for note in raised.value.__notes__ if "cannot be decoded" in note]
    assert "c/" in note
    assert "zarrs_async_tests.invert" in note


@pytest.mark.parametrize("raised", [KeyboardInterrupt, StopIteration])
def test_what_no_future_takes_is_a_decode_error(raised: type[BaseException]) -> None:
    from zarrs_async.exceptions import ChunkDecodeError  # noqa: PLC0415  # the fixture has imported the package

    def raises() -> None:
        raise raised

    with pytest.raises(ChunkDecodeError, match=raised.__name__):
        called(raises)[...]


async def test_a_codec_runs_beside_the_loop() -> None:
    looped = threading.Event()
    array = called(lambda: looped.wait(60))
    reading = asyncio.ensure_future(array.async_array.getitem(...))
    # The loop goes on, or the codec would wait in vain.
    await asyncio.sleep(0)
    looped.set()
    assert np.asarray(await reading).tolist() == [0, 1, 2, 3, 4, 5]


def test_chunks_are_decoded_beside_each_other() -> None:
    zarr.config.set({"threading.max_workers": 2})
    both = threading.Barrier(2, timeout=60)
    array = called(both.wait, shape=(4,))
    assert np.asarray(array[...]).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("shards", [None, (6,)])
def test_a_codec_may_read_another_array(shards: Any) -> None:
    zarr.config.set({"threading.max_workers": 1, "codec_pipeline.request_concurrent_maximum": 1})
    other = unknown(shards=shards)
    other[...] = 7
    seen = []
    array = called(lambda: seen.append(int(np.asarray(other[...]).sum())), shards=shards)
    assert np.asarray(array[...]).tolist() == [0, 1, 2, 3, 4, 5]
    assert seen == [42] * 3


async def test_nothing_is_written_after_a_cancelled_read(native: ModuleType) -> None:
    began, goes_on = threading.Event(), threading.Event()

    def wait() -> None:
        began.set()
        goes_on.wait(60)

    array = called(wait, chunks=(6,))
    reading = asyncio.ensure_future(array.async_array.getitem(...))
    await asyncio.to_thread(began.wait, 60)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        # The codec still waits, and holds nothing that the caller needs.
        await reading
    goes_on.set()
    assert np.asarray(await array.async_array.getitem(...)).tolist() == [0, 1, 2, 3, 4, 5]
    assert native.stats()["batches_cancelled"] > 0


def test_empty_chunks_are_not_stored() -> None:
    array = unknown(fill_value=5)
    array[...] = [5, 5, 5, 1, 5, 5]
    assert keys(array.store) == {"zarr.json", "c/1"}


STRUCTURES: dict[str, tuple[Any, Any]] = {
    "numbers": ([("x", "<i4"), ("y", "<f8")], (3, -0.0)),
    "big-endian": ([("x", ">i4"), ("y", ">c16"), ("z", "S3")], (3, 1 - 1j, b"ab")),
    "not-a-number": ([("x", "<f4"), ("t", "S2")], (np.nan, b"no")),
    "nested": ([("x", "<i2"), ("y", [("a", "u1"), ("b", "<f4")])], (1, (2, 3.5))),
}


@pytest.mark.filterwarnings("ignore:The data type .* does not have a Zarr V3 specification")
@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("name", STRUCTURES)
def test_structures(name: str, zarr_format: Any) -> None:
    names, one = STRUCTURES[name]
    dtype = np.dtype(names)
    try:
        created(MemoryStore(), DEFAULT, shape=(9,), dtype=dtype, zarr_format=zarr_format)
    except (TypeError, ValueError, NotImplementedError) as refused:
        pytest.skip(f"zarr: {refused}")
    values = np.zeros(9, dtype)
    values[2:7] = np.array(one, dtype)
    made = []
    for path in (OURS, DEFAULT):
        array = created(MemoryStore(), path, shape=(9,), chunks=(2,), dtype=dtype, zarr_format=zarr_format)
        array[...] = values
        array[3:6] = values[2]
        array[0:1] = np.array(one, dtype)
        made.append((stored(array), np.asarray(array[...]).tobytes(), np.asarray(array[1:8:3]).tobytes()))
    assert made[0] == made[1]


@pytest.mark.filterwarnings("ignore:The data type .* does not have a Zarr V3 specification")
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_a_fill_value_that_is_not_equal_to_itself(zarr_format: Any) -> None:
    """A structure with a NaN never equals the fill value, so its chunks are stored."""
    dtype = np.dtype([("x", "<f8")])
    fill = np.array([(np.nan,)], dtype)[0]
    for path in (OURS, DEFAULT):
        array = created(
            MemoryStore(), path, shape=(4,), chunks=(2,), dtype=dtype, zarr_format=zarr_format, fill_value=fill
        )
        array[...] = np.full(4, fill, dtype)
        assert len(stored(array)) == 2


@pytest.mark.filterwarnings("ignore:Combining a `sharding_indexed` codec")
@pytest.mark.filterwarnings("ignore:The data type .* does not have a Zarr V3 specification")
@pytest.mark.filterwarnings("ignore:Numcodecs codecs are not in the Zarr version 3 specification")
@pytest.mark.filterwarnings("ignore:The codec `vlen-.*` is currently not part in the Zarr format 3 specification")
@pytest.mark.parametrize("dtype", ["string", zd.VariableLengthBytes()], ids=["text", "binary"])
def test_elements_of_any_length(native: ModuleType, dtype: Any) -> None:
    """What makes bytes of them stays native before an unknown codec; beside shards Python does it all."""
    values = np.empty(10, dtype=object)
    values[:] = ["", "a", "ünï", "x" * 15, "y" * 16, "\0", "z" * 300, "b", "c", ""]
    if dtype != "string":
        values[:] = [text.encode() for text in values]
    serializer: Any = VLenUTF8Codec() if dtype == "string" else VLenBytesCodec()
    sharding = ShardingCodec(chunk_shape=(5,), codecs=[serializer, ZstdCodec()])
    for use in (
        {"compressors": [InvertCodec()]},
        {"compressors": [InvertCodec()], "shards": (10,)},
        {"serializer": sharding, "compressors": [GzipCodec()], "chunks": (10,)},
    ):
        before = native.stats()["python_codec_calls"]
        made = []
        for path in (OURS, DEFAULT):
            arguments: dict[str, Any] = {"shape": (10,), "chunks": (5,), "dtype": dtype, **use}
            array = created(MemoryStore(), path, **arguments)
            array[...] = values
            array[2:4] = values[3:5]
            made.append(np.asarray(array[...]).tolist())
            assert np.asarray(opened(array.store, DEFAULT)[...]).tolist() == made[-1]
        assert made[0] == made[1]
        assert native.stats()["python_codec_calls"] > before


PROGRAM = """
import threading, numpy as np, zarr
import test_python_codecs as steps
zarr.config.set({"codec_pipeline.path": steps.OURS})
began = threading.Event()
def wait():
    began.set()
    threading.Event().wait(0.3)
array = steps.called(wait, chunks=(6,))
threading.Thread(target=lambda: array[...], daemon=True).start()
began.wait(60)
print("ends")
"""


def test_the_interpreter_ends_while_a_codec_runs() -> None:
    ended = subprocess.run(  # noqa: S603  # a program of ours
        [sys.executable, "-c", PROGRAM], cwd="tests", capture_output=True, text=True, timeout=60, check=False
    )
    assert (ended.returncode, ended.stdout) == (0, "ends\n"), ended.stderr


@pytest.mark.filterwarnings("ignore:The data type .* does not have a Zarr V3 specification")
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_fields_of_structures(zarr_format: Any) -> None:
    """Zarr's default pipeline cannot do all of it, and then neither can we."""
    dtype = np.dtype([("x", "<i4"), ("y", "<f8")])
    values = np.array([(index, index / 2) for index in range(5)], dtype=dtype)
    field = np.array([9, 8, 7], dtype="i4")

    def ends(pipeline: str) -> list[Any]:
        with zarr.config.set({"codec_pipeline.path": pipeline}):
            array: Any = zarr.create_array(MemoryStore(), shape=(5,), chunks=(2,), dtype=dtype, zarr_format=zarr_format)
        array[...] = values
        ended = [np.asarray(array[...]).tolist(), np.asarray(array[1:4]).tolist()]
        uses: list[Callable[[], Any]] = [
            lambda: np.asarray(array["x"]).tolist(),
            lambda: array.set_basic_selection(slice(1, 4), field, fields="x"),
            lambda: np.asarray(array[...]).tolist(),
        ]
        for use in uses:
            try:
                ended.append(use())
            except (TypeError, ValueError) as error:
                ended.append(repr(error))
        return [*ended, keys(array.store)]

    ours = ends(OURS)
    assert ours[0] == values.tolist()
    assert ours == ends(DEFAULT)
