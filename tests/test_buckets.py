"""Buckets of S3, GCS and Azure: round trips, conditional puts between processes, large objects, refusals."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import traceback
from typing import TYPE_CHECKING, Any

import botocore.session
import numpy as np
import pytest
import s3fs
import zarr
import zarr.api.asynchronous
from zarr.codecs import ZstdCodec
from zarr.storage import FsspecStore, StorePath

from support import buckets
from zarrs_async._stores import describe

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from types import ModuleType

    from zarr.abc.store import Store

    from support.buckets import Bucket
    from support.servers import RangeServer, S3Server

# Our pipeline is on, and nothing may fall back.
pytestmark = pytest.mark.usefixtures("native")

VALUES = np.random.default_rng(5).integers(0, 1000, (96, 80), "uint16")
LAYOUTS = [
    pytest.param({"chunks": (32, 16)}, id="chunks"),
    pytest.param({"chunks": (8, 8), "shards": (32, 16)}, id="shards"),
]
PROCESSES, ROWS = 4, 64
# How often all rows are written, at most, until the processes have met.
TIMES = 20

# Ends without the interpreter's own end, in which threads of obstore can abort the process.
WRITER = """
import asyncio, json, os, sys
import numpy as np, obstore.store, zarr, zarr.api.asynchronous
from zarr.storage import ObjectStore

zarr.config.set({"codec_pipeline.path": "zarrs_async.ZarrsAsyncCodecPipeline"})
task = json.loads(sys.stdin.readline())

async def main():
    store = ObjectStore(getattr(obstore.store, task["store_type"])(**task["options"]))
    array = await zarr.api.asynchronous.open_array(store=store, mode="r+")
    print("ready", flush=True)
    import zarrs_async
    for first in iter(sys.stdin.readline, ""):
        writes = (array.setitem((row, slice(None)), np.uint16(int(first) + row)) for row in task["rows"])
        await asyncio.gather(*writes)
        stats = zarrs_async.stats()
        print(json.dumps({name: stats[name] for name in ("write_conflicts", "fallback_batches")}), flush=True)

asyncio.run(main())
os._exit(0)
"""


@pytest.fixture(params=["s3", "gcs", "azure"])
def bucket(request: pytest.FixtureRequest) -> Bucket:
    """Return an empty prefix of a bucket."""
    return bucket_of(request.param, request)


@pytest.fixture(params=["s3", "s3fs", "gcs", "azure"])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[Store]:
    """Return a store of an empty prefix."""
    if request.param != "s3fs":
        yield bucket_of(request.param, request).store()
        return
    server: S3Server = request.getfixturevalue("s3_server")
    # No instance of another test, whose event loop may be closed.
    filesystem = s3fs.S3FileSystem(asynchronous=True, skip_instance_cache=True, **server.s3fs_options())
    yield FsspecStore(filesystem, path=f"{server.bucket}/{server.new_prefix()}")
    await (await filesystem.set_session()).close()


def bucket_of(service: str, request: pytest.FixtureRequest) -> Bucket:
    """Return an empty prefix of a bucket of that service."""
    if service == "s3":
        return buckets.s3(request.getfixturevalue("s3_server"))
    server: RangeServer = request.getfixturevalue("cloud_server")
    return buckets.gcs(server) if service == "gcs" else buckets.azure(server)


def by_default() -> Any:
    """Work with zarr's default pipeline, in a with block."""
    return zarr.config.set({"codec_pipeline.path": "zarr.core.codec_pipeline.BatchedCodecPipeline"})


async def test_store_is_native(store: Store) -> None:
    assert describe(store).native is not None


@pytest.mark.parametrize("layout", LAYOUTS)
async def test_array_comes_back_as_it_went(store: Store, native: ModuleType, layout: dict[str, Any]) -> None:
    before = native.stats()["requests"]
    array = await zarr.api.asynchronous.create_array(store=store, data=VALUES, compressors=ZstdCodec(), **layout)
    np.testing.assert_array_equal(await array.getitem(Ellipsis), VALUES)
    assert native.stats()["requests"] - before == 30
    expected = VALUES.copy()
    expected[5:70:3, 9:40] = 7
    await array.setitem((slice(5, 70, 3), slice(9, 40)), 7)
    np.testing.assert_array_equal(await array.getitem((slice(1, 95), slice(3, 79))), expected[1:95, 3:79])
    with by_default():
        other = await zarr.api.asynchronous.open_array(store=store, mode="r")
        np.testing.assert_array_equal(await other.getitem(Ellipsis), expected)


@pytest.mark.parametrize("layout", LAYOUTS)
async def test_array_of_the_default_pipeline_is_read(store: Store, layout: dict[str, Any]) -> None:
    with by_default():
        await zarr.api.asynchronous.create_array(store=store, data=VALUES, **layout)
    zarr.config.set({"array.sharding_coalesce_max_gap_bytes": 0})
    array = await zarr.api.asynchronous.open_array(store=store, mode="r")
    for _ in range(2):
        np.testing.assert_array_equal(await array.getitem((slice(3, 50), slice(9, 10))), VALUES[3:50, 9:10])


async def test_missing_chunks_are_the_fill_value_and_only_a_whole_write_deletes(
    store: Store, native: ModuleType
) -> None:
    array = await zarr.api.asynchronous.create_array(
        store=store, shape=(64,), chunks=(16,), dtype="float32", fill_value=np.nan
    )
    missing = native.stats()["chunks_missing"]
    assert np.isnan(await array.getitem(Ellipsis)).all()
    assert native.stats()["chunks_missing"] == missing + 4
    await array.setitem(slice(None), 1.0)
    await array.setitem(slice(16, 32), np.nan)
    await array.setitem(slice(32, 40), np.nan)
    await array.setitem(slice(40, 48), np.nan)
    assert sorted([key async for key in store.list_prefix("c/")]) == ["c/0", "c/2", "c/3"]
    assert np.isnan(await array.getitem(slice(16, 48))).all()


async def test_shard_replaced_by_another_client_is_seen(bucket: Bucket) -> None:
    zarr.config.set({"array.sharding_coalesce_max_gap_bytes": 0})
    store = bucket.store()
    array = await zarr.api.asynchronous.create_array(
        store=store, data=np.ones(1024, "uint16"), chunks=(64,), shards=(1024,), compressors=None
    )
    np.testing.assert_array_equal(await array.getitem(slice(0, 100)), 1)
    with by_default():
        other = await zarr.api.asynchronous.open_array(store=store, mode="r+")
        await other.setitem(slice(None), 2)
        np.testing.assert_array_equal(await array.getitem(slice(0, 100)), 2)
        await other.setitem(slice(None), 0)
    np.testing.assert_array_equal(await array.getitem(slice(0, 100)), 0)


@pytest.mark.parametrize("layout", LAYOUTS)
async def test_gathered_partial_writes_lose_nothing(store: Store, layout: dict[str, Any]) -> None:
    array = await zarr.api.asynchronous.create_array(store=store, shape=(32, 16), dtype="uint16", **layout)
    await asyncio.gather(*(array.setitem((row, slice(None)), row + 1) for row in range(32)))
    np.testing.assert_array_equal(await array.getitem((slice(None), 3)), np.arange(32) + 1)


@pytest.mark.long
@pytest.mark.parametrize("exists", [False, True])
@pytest.mark.parametrize(
    "layout",
    [
        pytest.param({"chunks": (ROWS, 32)}, id="chunk"),
        pytest.param({"chunks": (8, 8), "shards": (ROWS, 32)}, id="shard"),
    ],
)
def test_processes_that_write_rows_of_one_object_lose_nothing(
    bucket: Bucket, layout: dict[str, Any], *, exists: bool
) -> None:
    array = zarr.create_array(bucket.store(), shape=(ROWS, 32), dtype="uint16", fill_value=0, **layout)
    if exists:
        array[:] = 1000
    writers = [
        subprocess.Popen(  # noqa: S603 - our own script
            [sys.executable, "-c", WRITER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(PROCESSES)
    ]
    try:
        for number, writer in enumerate(writers):
            rows = list(range(number, ROWS, PROCESSES))
            say(writer, json.dumps({"store_type": bucket.store_type, "options": bucket.options, "rows": rows}))
        for writer in writers:
            assert hear(writer) == "ready"
        met = False
        # On a busy machine each may have written its rows before the next begins.
        for first in range(1, TIMES * ROWS, ROWS):
            for writer in writers:
                say(writer, str(first))
            outcomes = [json.loads(hear(writer)) for writer in writers]
            expected = np.repeat(np.arange(first, first + ROWS, dtype="uint16"), 32).reshape(ROWS, 32)
            np.testing.assert_array_equal(array[:], expected)
            assert {outcome["fallback_batches"] for outcome in outcomes} == {0}
            if met := any(outcome["write_conflicts"] for outcome in outcomes):
                break
        # Otherwise this test has shown nothing.
        assert met
    finally:
        for writer in writers:
            writer.kill()
            writer.communicate()


def say(process: subprocess.Popen[str], line: str) -> None:
    """Write a line to the process's standard input."""
    assert process.stdin is not None
    process.stdin.write(line + "\n")
    process.stdin.flush()


def hear(process: subprocess.Popen[str]) -> str:
    """Read a line of the process's standard output."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


async def test_large_object_is_put_in_parts(bucket: Bucket, native: ModuleType) -> None:
    store = bucket.store()
    # Above 64 MiB, and nothing that a codec would shrink.
    values = np.random.default_rng(1).integers(0, 256, 70 << 20, "uint8")
    array = await zarr.api.asynchronous.create_array(
        store=store, shape=values.shape, chunks=values.shape, dtype="uint8", compressors=None
    )
    before = native.stats()
    await array.setitem(slice(None), values)
    after = native.stats()
    # Five parts of 16 MiB at most; completed, and begun where a service wants that.
    assert after["requests"] - before["requests"] == (6 if bucket.scheme == "az" else 7)
    assert after["bytes_written"] - before["bytes_written"] == values.nbytes
    np.testing.assert_array_equal(await array.getitem(slice(None)), values)


async def test_cancelled_upload_in_parts_leaves_none(s3_server: S3Server, native: ModuleType) -> None:
    options = s3_server.s3fs_options()
    client = botocore.session.get_session().create_client(
        "s3", aws_access_key_id=options["key"], aws_secret_access_key=options["secret"], **options["client_kwargs"]
    )

    def uploads() -> list[Any]:
        listed: list[Any] = client.list_multipart_uploads(Bucket=s3_server.bucket).get("Uploads", [])
        return listed

    store = buckets.s3(s3_server).store()
    array = await zarr.api.asynchronous.create_array(
        store=store, shape=(160 << 20,), chunks=(160 << 20,), dtype="uint8", compressors=None
    )
    values = np.random.default_rng(1).integers(0, 256, 160 << 20, "uint8")
    before = native.stats()["requests"]
    writing = asyncio.create_task(array.setitem(slice(None), values))
    # Begun, and some of its ten parts on their way.
    while native.stats()["requests"] < before + 3:  # noqa: ASYNC110  # counters have no event
        await asyncio.sleep(0)
    assert len(uploads()) == 1
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    async with asyncio.timeout(20):
        while uploads():  # noqa: ASYNC110  # as above
            await asyncio.sleep(0.05)


async def test_wrong_credentials_are_a_permission_error(bucket: Bucket, native: ModuleType) -> None:
    array = await zarr.api.asynchronous.create_array(store=bucket.store(), data=VALUES, chunks=(32, 16))
    wrong = bucket.store(**bucket.wrong_key)
    refused = zarr.AsyncArray(metadata=array.metadata, store_path=StorePath(wrong))
    for work in (refused.getitem(Ellipsis), refused.setitem(Ellipsis, 1), refused.setitem((0, 0), 1)):
        with pytest.raises(native.exceptions.StorePermissionError, match=r"HTTP status 40[13]") as raised:
            await work
        assert isinstance(raised.value, PermissionError)
        assert bucket.secret not in "".join(traceback.format_exception(raised.value)) + repr(raised.value)
    np.testing.assert_array_equal(await array.getitem(Ellipsis), VALUES)


async def test_bucket_that_is_not_there_is_named(bucket: Bucket, native: ModuleType) -> None:
    array = await zarr.api.asynchronous.create_array(store=bucket.store(), data=VALUES, chunks=(32, 16))
    other = zarr.AsyncArray(metadata=array.metadata, store_path=StorePath(bucket.other("no-such-bucket")))
    with pytest.raises(native.exceptions.StoreError, match=f"{bucket.scheme}://no-such-bucket"):
        await other.setitem(Ellipsis, 1)


async def test_read_of_a_bucket_that_is_not_there_is_an_error(bucket: Bucket, native: ModuleType) -> None:
    array = await zarr.api.asynchronous.create_array(store=bucket.store(), data=VALUES, chunks=(32, 16))
    other = zarr.AsyncArray(metadata=array.metadata, store_path=StorePath(bucket.other("no-such-bucket")))
    with pytest.raises(native.exceptions.StoreError, match=f"{bucket.scheme}://no-such-bucket"):
        await other.getitem(Ellipsis)
