"""What goes wrong, as the caller sees it: classes, causes, notes; and never a fill value for what could not be read."""

from __future__ import annotations

import asyncio
import errno
import pickle
import re
import struct
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import google_crc32c
import numpy as np
import pytest
import zarr
import zarr.api.asynchronous
from obstore.store import HTTPStore
from zarr.codecs import BytesCodec, Crc32cCodec, GzipCodec, ShardingCodec, ZstdCodec
from zarr.storage import LocalStore, MemoryStore, ObjectStore, WrapperStore

from support.servers import RangeServer, Rule
from zarrs_async import _rust, exceptions

if TYPE_CHECKING:
    from types import ModuleType

    from zarr import AsyncArray
    from zarr.abc.store import ByteRequest, Store
    from zarr.core.buffer import Buffer, BufferPrototype

# Our pipeline is on, and nothing may fall back.
pytestmark = pytest.mark.usefixtures("native")

VALUES = np.arange(1024, dtype="uint16") + 1
INDEX_NBYTES = 16 * 16 + 4
# Where a subchunk of 128 bytes would end one byte within the index.
INTO_THE_INDEX = 16 * 128 - 127


@pytest.fixture(autouse=True)
def _byte_ranges() -> None:
    """Merge adjacent byte ranges only, so that the shards of these tests are not small ones."""
    zarr.config.set({"array.sharding_coalesce_max_gap_bytes": 0})


def stored(path: Path, **layout: Any) -> Path:
    """Write `VALUES` with zarr's default pipeline; return the file of the first chunk."""
    with zarr.config.set({"codec_pipeline.path": "zarr.core.codec_pipeline.BatchedCodecPipeline"}):
        zarr.create_array(path, data=VALUES, **{"chunks": (64,), "compressors": None, "fill_value": 7, **layout})
    return path / "c/0"


@pytest.fixture(params=["local", "http", "bridged"])
async def root(request: pytest.FixtureRequest, range_server: RangeServer) -> tuple[Path, Store]:
    """Return a directory, and the store with which it is read; no request is made twice."""
    path = range_server.root / "a"
    path.mkdir()
    if request.param == "local":
        return path, LocalStore(path)
    if request.param == "bridged":
        return path, WrapperStore(LocalStore(path))
    return path, http_store(range_server)


def http_store(server: RangeServer) -> ObjectStore[HTTPStore]:
    """Return a store of the served array that makes no request twice."""
    return ObjectStore(
        HTTPStore.from_url(
            f"{server.url}/a",
            client_options={"allow_http": True},
            retry_config={"max_retries": 0, "retry_timeout": timedelta(seconds=10)},
        )
    )


async def opened(store: Store, mode: Any = "r") -> AsyncArray[Any]:
    """Open the array at the root of a store."""
    return await zarr.api.asynchronous.open_array(store=store, mode=mode)


@pytest.mark.parametrize(
    ("name", "bases"),
    [
        ("StoreError", (OSError,)),
        ("StorePermissionError", (exceptions.StoreError, PermissionError)),
        ("StoreTimeoutError", (exceptions.StoreError, TimeoutError)),
        ("StoreConflictError", (exceptions.StoreError,)),
        ("ChunkDecodeError", (ValueError,)),
        ("ChunkEncodeError", (ValueError,)),
        ("ChunkMemoryError", (MemoryError,)),
        ("InvalidBatchError", (ValueError,)),
        ("UnsupportedError", (NotImplementedError,)),
        ("ConfigError", (ValueError,)),
        ("ShutdownError", (RuntimeError,)),
    ],
)
def test_exceptions_are_of_the_builtin_kinds_that_people_catch(name: str, bases: tuple[type, ...]) -> None:
    cls = getattr(exceptions, name)
    assert issubclass(cls, (exceptions.ZarrsAsyncError, *bases))
    assert all(issubclass(cls, base) for base in (exceptions.ZarrsAsyncError, *bases))


def test_tree_of_the_documentation_names_every_exception() -> None:
    assert exceptions.__doc__ is not None
    for name in exceptions.__all__:
        assert name in exceptions.__doc__


def test_engine_exceptions_and_documentation_agree_on_the_kinds() -> None:
    table = (Path(__file__).parents[1] / "docs/reference/exceptions.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \|", table, flags=re.MULTILINE)
    documented = {name: kinds for name, cell in rows if (kinds := re.findall(r"`(\w+)`", cell))}
    engine = _rust.error_kinds()
    assert len(set(engine)) == len(engine)
    assert {kind for kinds in documented.values() for kind in kinds} == {*engine, "config"}
    for name, kinds in documented.items():
        assert getattr(exceptions, name).kind == kinds[0]


async def test_kind_of_an_error_is_that_of_the_engine_also_after_a_journey(root: tuple[Path, Store]) -> None:
    path, store = root
    chunk = stored(path, overwrite=True)
    array = await opened(store)
    chunk.write_bytes(b"x")
    with pytest.raises(exceptions.ChunkDecodeError) as raised:
        await array.getitem(slice(None))
    assert raised.value.kind == "decode"
    assert pickle.loads(pickle.dumps(raised.value)).kind == "decode"  # noqa: S301  # our own bytes


async def test_kind_tells_an_object_that_is_too_large(range_server: RangeServer) -> None:
    path = range_server.root / "a"
    path.mkdir()
    stored(path, overwrite=True).write_bytes(bytes(2 << 20))
    array = await opened(http_store(range_server))
    with pytest.raises(exceptions.StoreError) as raised:
        await array.getitem(slice(None))
    assert raised.value.kind == "oversized"


@pytest.mark.parametrize("codec", [ZstdCodec(), GzipCodec(), None], ids=["zstd", "gzip", "bytes"])
async def test_truncated_chunk_is_an_error_that_names_key_and_codec(root: tuple[Path, Store], codec: Any) -> None:
    path, store = root
    chunk = stored(path, compressors=codec, overwrite=True)
    chunk.write_bytes(chunk.read_bytes()[:-9])
    array = await opened(store)
    with pytest.raises(exceptions.ChunkDecodeError) as raised:
        await array.getitem(slice(None))
    error = raised.value
    assert error.key == "c/0"
    assert error.codec == {ZstdCodec: "zstd", GzipCodec: "gzip"}.get(type(codec), "bytes")
    assert error.reason
    assert "c/0" in str(error)
    assert error.codec in str(error)
    np.testing.assert_array_equal(await array.getitem(slice(64, None)), VALUES[64:])


@pytest.mark.parametrize("content", [b"", b"x", b"\x28\xb5\x2f\xfd" + b"\xff" * 12], ids=["empty", "short", "header"])
async def test_chunk_that_is_nonsense_is_an_error(root: tuple[Path, Store], content: bytes) -> None:
    path, store = root
    stored(path, compressors=ZstdCodec(), overwrite=True).write_bytes(content)
    with pytest.raises(exceptions.ChunkDecodeError, match="c/0"):
        await (await opened(store)).getitem(slice(None))


async def test_chunk_that_is_too_long_is_an_error(root: tuple[Path, Store]) -> None:
    path, store = root
    chunk = stored(path, overwrite=True)
    chunk.write_bytes(chunk.read_bytes() + b"x")
    with pytest.raises(exceptions.ChunkDecodeError, match="c/0"):
        await (await opened(store)).getitem(slice(None))


@pytest.mark.parametrize("validate", [True, False, None])
async def test_wrong_checksum_of_a_chunk_is_an_error_unless_it_is_not_wanted(
    root: tuple[Path, Store], *, validate: bool | None
) -> None:
    path, store = root
    chunk = stored(path, compressors=Crc32cCodec(), overwrite=True)
    content = bytearray(chunk.read_bytes())
    content[-1] ^= 1
    chunk.write_bytes(content)
    zarr.config.set({"codec_pipeline.validate_checksums": validate})
    array = await opened(store)
    if validate is False:
        np.testing.assert_array_equal(await array.getitem(slice(None)), VALUES)
        return
    with pytest.raises(exceptions.ChunkDecodeError, match="checksum") as raised:
        await array.getitem(slice(None))
    assert (raised.value.key, raised.value.codec) == ("c/0", "crc32c")


@pytest.mark.parametrize("selection", [slice(None), slice(70, 80)], ids=["whole", "part"])
@pytest.mark.parametrize("validate", [True, False])
async def test_wrong_checksum_of_a_shard_index_is_an_error_unless_it_is_not_wanted(
    root: tuple[Path, Store], selection: slice, *, validate: bool
) -> None:
    path, store = root
    shard = stored(path, shards=(1024,), overwrite=True)
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    zarr.config.set({"codec_pipeline.validate_checksums": validate})
    array = await opened(store)
    if not validate:
        np.testing.assert_array_equal(await array.getitem(selection), VALUES[selection])
        return
    with pytest.raises(exceptions.ChunkDecodeError, match="checksum") as raised:
        await array.getitem(selection)
    assert raised.value.key == "c/0"


@pytest.mark.parametrize("selection", [slice(None), slice(70, 80)], ids=["whole", "part"])
@pytest.mark.parametrize(
    ("offset", "nbytes"),
    [
        (1 << 40, 128),
        (2**64 - 2, 128),
        (0, 1 << 40),
        (2**64 - 1, 128),
        (0, 2**64 - 1),
        (INTO_THE_INDEX, 128),
        (16 * 128 + INDEX_NBYTES, 0),
    ],
)
async def test_shard_index_that_points_elsewhere_is_an_error(
    root: tuple[Path, Store], selection: slice, offset: int, nbytes: int
) -> None:
    path, store = root
    if isinstance(store, WrapperStore) and selection != slice(None) and offset == INTO_THE_INDEX:
        pytest.skip("such a store does not tell where a shard ends")
    shard = stored(path, shards=(1024,), overwrite=True)
    # The index is sound but for what it says of the second subchunk.
    content = shard.read_bytes()
    index = bytearray(content[-INDEX_NBYTES:-4])
    index[16:32] = struct.pack("<QQ", offset, nbytes)
    shard.write_bytes(content[:-INDEX_NBYTES] + index + google_crc32c.value(bytes(index)).to_bytes(4, "little"))
    array = await opened(store)
    with pytest.raises(exceptions.ChunkDecodeError) as raised:
        await array.getitem(selection)
    assert raised.value.key == "c/0"


@pytest.mark.parametrize("nbytes", [0, 100, INDEX_NBYTES - 1, INDEX_NBYTES + 100])
@pytest.mark.parametrize("selection", [slice(None), slice(70, 80)], ids=["whole", "part"])
async def test_truncated_shard_is_an_error(root: tuple[Path, Store], selection: slice, nbytes: int) -> None:
    path, store = root
    shard = stored(path, shards=(1024,), overwrite=True)
    shard.write_bytes(shard.read_bytes()[:nbytes])
    with pytest.raises((exceptions.ChunkDecodeError, exceptions.StoreError), match="c/0"):
        await (await opened(store)).getitem(selection)


@pytest.mark.parametrize("nbytes", [0, 100])
async def test_truncated_shard_with_its_index_at_the_start_is_an_error(root: tuple[Path, Store], nbytes: int) -> None:
    path, store = root
    sharding = ShardingCodec(chunk_shape=(64,), codecs=[BytesCodec()], index_location="start")
    shard = stored(path, chunks=(1024,), serializer=sharding, overwrite=True)
    shard.write_bytes(shard.read_bytes()[: INDEX_NBYTES + nbytes])
    with pytest.raises((exceptions.ChunkDecodeError, exceptions.StoreError), match="c/0"):
        await (await opened(store)).getitem(slice(70, 80))


async def test_damaged_subchunk_is_an_error_that_names_shard_and_codec(root: tuple[Path, Store]) -> None:
    path, store = root
    shard = stored(path, shards=(1024,), compressors=ZstdCodec(), overwrite=True)
    content = bytearray(shard.read_bytes())
    content[0:4] = b"oops"
    shard.write_bytes(content)
    array = await opened(store)
    with pytest.raises(exceptions.ChunkDecodeError, match="c/0") as raised:
        await array.getitem(slice(0, 10))
    assert raised.value.codec == "zstd"
    np.testing.assert_array_equal(await array.getitem(slice(64, 100)), VALUES[64:100])


@pytest.mark.parametrize("status", [400, 401, 403, 405, 408, 409, 410, 416, 429, 451, 500, 501, 502, 503, 504])
@pytest.mark.parametrize("layout", [{}, {"shards": (1024,)}], ids=["chunks", "shards"])
async def test_only_not_found_becomes_the_fill_value(
    range_server: RangeServer, layout: dict[str, Any], status: int
) -> None:
    stored(range_server.root / "a", **layout)
    array = await opened(http_store(range_server))
    range_server.config(rules=[Rule(action="status", status=status)])
    with pytest.raises(exceptions.StoreError, match=str(status)) as raised:
        await array.getitem(slice(70, 80))
    assert raised.value.status == status
    assert raised.value.key.startswith("c/")
    assert raised.value.store == f"{range_server.url}/a"
    assert raised.value.__cause__ is not None
    range_server.config(rules=[Rule(action="status", status=404)])
    np.testing.assert_array_equal(await array.getitem(slice(70, 80)), 7)


async def test_other_chunks_that_failed_are_in_the_notes(range_server: RangeServer) -> None:
    stored(range_server.root / "a")
    array = await opened(http_store(range_server))
    range_server.config(rules=[Rule(action="status", path="c/(3|5|9)$", status=403)])
    range_server.hold()
    reading = asyncio.create_task(array.getitem(slice(None)))
    await range_server.wait_async(held=16)
    range_server.release()
    with pytest.raises(exceptions.StorePermissionError) as raised:
        await reading
    error = raised.value
    assert error.key in {"c/3", "c/5", "c/9"}
    for note in getattr(error, "__notes__", []):
        assert error.key not in note


async def test_all_chunks_of_a_local_batch_that_failed_are_named(tmp_path: Path) -> None:
    stored(tmp_path / "a")
    for chunk in range(16):
        (tmp_path / f"a/c/{chunk}").write_bytes(b"x")
    array = await opened(LocalStore(tmp_path / "a"))
    with pytest.raises(exceptions.ChunkDecodeError) as raised:
        await array.getitem(slice(None))
    (note,) = raised.value.__notes__
    assert note.startswith("15 other chunks")
    assert "c/" in note


async def test_read_that_failed_leaves_no_request_behind(range_server: RangeServer, native: ModuleType) -> None:
    stored(range_server.root / "a")
    array = await opened(http_store(range_server))
    range_server.config(rules=[Rule(action="status", path="c/3$", status=403)])
    range_server.reset_counts()
    range_server.hold(path="c/[^3]$")
    with pytest.raises(exceptions.StorePermissionError, match="c/3"):
        await array.getitem(slice(0, 640))
    stats = await range_server.wait_async(idle=True)
    assert stats["answered"] == 1
    assert native.stats()["requests_in_flight"] == 0


async def test_file_that_cannot_be_opened_is_an_error_with_its_cause(tmp_path: Path) -> None:
    chunk = stored(tmp_path / "a")
    chunk.unlink()
    # Nobody, root included, can open a link to itself.
    chunk.symlink_to(chunk)
    array = await opened(LocalStore(tmp_path / "a"))
    with pytest.raises(exceptions.StoreError, match="c/0") as raised:
        await array.getitem(slice(0, 10))
    assert isinstance(raised.value.__cause__, OSError)
    assert raised.value.__cause__.errno == errno.ELOOP
    assert raised.value.store.endswith("/a")


class _BrokenStore(WrapperStore[Any]):
    """A store whose own code fails."""

    error: BaseException = LookupError("of the store itself")
    operations: tuple[str, ...] = ("get",)

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        if "get" in self.operations and key.startswith("c/"):
            raise self.error
        return await super().get(key, prototype, byte_range)

    async def set(self, key: str, value: Buffer) -> None:
        if "set" in self.operations and key.startswith("c/"):
            raise self.error
        await super().set(key, value)

    async def delete(self, key: str) -> None:
        if "delete" in self.operations and key.startswith("c/"):
            raise self.error
        await super().delete(key)


async def broken(operations: tuple[str, ...], error: BaseException, **layout: Any) -> AsyncArray[Any]:
    """Return an array of a store that fails in these operations."""
    store = _BrokenStore(MemoryStore())
    store.operations = ()
    options = {"chunks": (64,), **layout}
    array = await zarr.api.asynchronous.create_array(store=store, data=VALUES, fill_value=7, **options)
    store.operations, store.error = operations, error
    return array


@pytest.mark.parametrize("layout", [{}, {"shards": (1024,)}], ids=["chunks", "shards"])
async def test_exception_of_a_foreign_store_is_raised(layout: dict[str, Any]) -> None:
    error = LookupError("of the store itself")
    array = await broken(("get",), error, **layout)
    for work in (array.getitem(slice(70, 80)), array.getitem(slice(None)), array.setitem(slice(70, 80), 1)):
        with pytest.raises(LookupError) as raised:
            await work
        assert raised.value is error
        assert 'get of "c/' in error.__notes__[0]
        del error.__notes__


@pytest.mark.parametrize(("operation", "value"), [("set", 1), ("delete", 7)])
async def test_exception_of_a_foreign_store_is_raised_by_a_failed_write(operation: str, value: int) -> None:
    error = RuntimeError("of the store itself")
    array = await broken((operation,), error)
    with pytest.raises(RuntimeError) as raised:
        await array.setitem(slice(0, 64), value)
    assert raised.value is error
    assert f'{"put" if operation == "set" else operation} of "c/0"' in error.__notes__[0]


@pytest.mark.parametrize(
    "error",
    [
        PermissionError("no"),
        TimeoutError("late"),
        FileNotFoundError("of something else"),
        KeyError("c/0"),
        OSError(5, "I/O"),
    ],
    ids=lambda value: type(value).__name__,
)
async def test_exception_of_a_foreign_store_is_never_a_missing_chunk(error: Exception) -> None:
    array = await broken(("get",), error)
    with pytest.raises(type(error)) as raised:
        await array.getitem(slice(0, 64))
    assert raised.value is error


async def test_exception_of_a_foreign_store_that_is_no_error_ends_the_read_too() -> None:
    array = await broken(("get",), asyncio.CancelledError())
    with pytest.raises((asyncio.CancelledError, exceptions.ZarrsAsyncError)):
        await array.getitem(slice(0, 64))


async def test_error_can_be_caught_by_the_kinds_of_python(range_server: RangeServer) -> None:
    stored(range_server.root / "a")
    array = await opened(http_store(range_server))
    for status, kind in ((403, PermissionError), (401, PermissionError), (504, TimeoutError), (500, OSError)):
        range_server.config(rules=[Rule(action="status", status=status)])
        with pytest.raises(kind):
            await array.getitem(slice(0, 10))
