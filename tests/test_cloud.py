"""GCS and Azure on the wire: what is asked of them, on what puts depend, what becomes of answers that are lost."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr
import zarr.api.asynchronous

from support import buckets, remote
from support.servers import RangeServer, Rule

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType

    from zarr import AsyncArray

    from support.buckets import Bucket

# Our pipeline is on, and nothing may fall back.
pytestmark = pytest.mark.usefixtures("native")

CHUNK = "c/0$"
VALUES = np.arange(64, dtype="uint16") + 1
PAUSE = timedelta(milliseconds=1)
RETRIES = {
    "max_retries": 5,
    "retry_timeout": timedelta(seconds=60),
    "backoff": {"init_backoff": PAUSE, "max_backoff": PAUSE, "base": 2.0},
}
PUT_IN_PARTS = 70 << 20


@pytest.fixture(params=[buckets.gcs, buckets.azure], ids=lambda make: make.__name__)
def bucket(request: pytest.FixtureRequest, cloud_server: RangeServer) -> Bucket:
    """Return an empty prefix of a bucket of either service."""
    made: Bucket = request.param(cloud_server)
    return made


async def created(bucket: Bucket, server: RangeServer, **arguments: Any) -> AsyncArray[Any]:
    """Make an array of one uncompressed chunk, unless `arguments` say otherwise; the counts begin after that."""
    layout = {"chunks": VALUES.shape, "compressors": None, **arguments}
    if "shape" not in layout:
        layout = {"data": VALUES, **layout}
    array = await zarr.api.asynchronous.create_array(store=bucket.store(retry_config=RETRIES), **layout)
    server.reset_counts()
    return array


def statuses(server: RangeServer, method: str) -> list[int | None]:
    """Return what the requests of that method were answered with, in the order of arrival."""
    return [logged["status"] for logged in server.log() if logged["method"] == method]


def replaced_after_get(server: RangeServer, path: Path, values: Any, **layout: Any) -> None:
    """Have somebody else replace the chunk by one with these values as soon as the next get of it is answered."""
    remote.stored(path, values, **{"chunks": VALUES.shape, **layout})
    server.config(rules=[Rule(action="replace", path=CHUNK, method="GET", source=str(path / "c/0"), times=1)])


@pytest.mark.usefixtures("byte_ranges")
async def test_part_of_a_shard_is_fetched_by_ranges(bucket: Bucket, cloud_server: RangeServer) -> None:
    values = np.arange(1024, dtype="uint16")
    array = await created(bucket, cloud_server, data=values, chunks=(64,), shards=(1024,))
    for _ in range(2):
        np.testing.assert_array_equal(await array.getitem(slice(100, 200)), values[100:200])
    log = cloud_server.log()
    # 16 subchunks; of each, two integers of 8 bytes in the index, which has a checksum of 4.
    index = ["bytes=0-0", "bytes=2048-2307"] if bucket.scheme == "az" else ["bytes=-260"]
    data = "bytes=128-511"
    assert [logged["range"] for logged in log] == [*index, data, data]
    assert all(logged["status"] == 206 for logged in log)
    # The index is believed only as long as the shard is the one it was read from.
    assert log[-1]["if_match"] is not None
    assert log[-1]["if_match"] == log[-2]["if_match"]


async def test_missing_chunk_is_asked_for_once_and_is_the_fill_value(bucket: Bucket, cloud_server: RangeServer) -> None:
    array = await created(bucket, cloud_server, shape=(64,), dtype="uint16", fill_value=9)
    np.testing.assert_array_equal(await array.getitem(Ellipsis), np.full(64, 9))
    assert statuses(cloud_server, "GET") == [404]


@pytest.mark.parametrize("others", [VALUES, VALUES + 100], ids=["unchanged", "changed"])
async def test_chunk_replaced_between_get_and_put_is_merged_again(
    bucket: Bucket, cloud_server: RangeServer, native: ModuleType, tmp_path: Path, others: Any
) -> None:
    array = await created(bucket, cloud_server)
    replaced_after_get(cloud_server, tmp_path, others)
    conflicts = native.stats()["write_conflicts"]
    await array.setitem(slice(0, 8), 7)
    expected = others.copy()
    expected[:8] = 7
    np.testing.assert_array_equal(await array.getitem(Ellipsis), expected)
    # GCS gives what has equal content an equal tag: there it is the generation that tells.
    assert native.stats()["write_conflicts"] == conflicts + 1
    assert len(statuses(cloud_server, "PUT")) == 2


async def test_chunk_that_appears_between_get_and_put_is_merged_with(
    bucket: Bucket, cloud_server: RangeServer, native: ModuleType, tmp_path: Path
) -> None:
    array = await created(bucket, cloud_server, shape=(64,), dtype="uint16")
    replaced_after_get(cloud_server, tmp_path, VALUES)
    conflicts = native.stats()["write_conflicts"]
    await array.setitem(slice(0, 8), 7)
    expected = VALUES.copy()
    expected[:8] = 7
    np.testing.assert_array_equal(await array.getitem(Ellipsis), expected)
    assert native.stats()["write_conflicts"] == conflicts + 1


@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.parametrize("exists", [False, True])
async def test_partial_write_whose_answer_is_lost_is_kept(
    bucket: Bucket, cloud_server: RangeServer, *, exists: bool, times: int
) -> None:
    content: dict[str, Any] = {"data": VALUES} if exists else {"shape": VALUES.shape, "dtype": "uint16"}
    array = await created(bucket, cloud_server, **content)
    cloud_server.config(rules=[Rule(action="lose_answer", path=CHUNK, method="PUT", times=times)])
    await array.setitem(slice(0, 8), 7)
    expected = VALUES.copy() if exists else np.zeros_like(VALUES)
    expected[:8] = 7
    np.testing.assert_array_equal(await array.getitem(Ellipsis), expected)
    # Stored once, whatever came of what was sent again.
    assert len([status for status in statuses(cloud_server, "PUT") if status in (200, 201)]) == 1


async def test_partial_write_is_tried_again_after_503(bucket: Bucket, cloud_server: RangeServer) -> None:
    array = await created(bucket, cloud_server)
    cloud_server.config(rules=[Rule(action="status", path=CHUNK, method="PUT", status=503, times=3)])
    await array.setitem(slice(0, 8), 7)
    assert statuses(cloud_server, "PUT")[:3] == [503] * 3
    assert len(statuses(cloud_server, "PUT")) == 4
    assert np.asarray(await array.getitem(3)) == 7


async def test_cancelled_write_leaves_the_old_chunk(bucket: Bucket, cloud_server: RangeServer) -> None:
    array = await created(bucket, cloud_server)
    cloud_server.hold(path=CHUNK, method="PUT")
    writing = asyncio.create_task(array.setitem(slice(0, 8), 7))
    await cloud_server.wait_async(held=1)
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    await cloud_server.wait_async(aborted=1, idle=True)
    cloud_server.release()
    np.testing.assert_array_equal(await array.getitem(Ellipsis), VALUES)


async def test_cancelled_read_aborts_its_requests(bucket: Bucket, cloud_server: RangeServer) -> None:
    array = await created(bucket, cloud_server, chunks=(8,))
    cloud_server.hold(path="c/", method="GET")
    reading = asyncio.create_task(array.getitem(Ellipsis))
    await cloud_server.wait_async(held=8)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    await cloud_server.wait_async(aborted=8, idle=True)


async def test_cancelled_upload_in_parts_stores_nothing(bucket: Bucket, cloud_server: RangeServer) -> None:
    array = await created(bucket, cloud_server, shape=(PUT_IN_PARTS,), chunks=(PUT_IN_PARTS,), dtype="uint8")
    cloud_server.hold(path=CHUNK, method="PUT")
    writing = asyncio.create_task(array.setitem(slice(None), 1))
    await cloud_server.wait_async(held=5)
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    # Azure forgets blocks that nobody commits; GCS is told.
    gone = {"az": 5, "gs": 7}
    await cloud_server.wait_async(requests=gone[bucket.scheme], idle=True)
    cloud_server.release()
    methods = cloud_server.stats()["methods"]
    assert methods == ({"PUT": 5} if bucket.scheme == "az" else {"POST": 1, "PUT": 5, "DELETE": 1})
    assert np.asarray(await array.getitem(3)) == 0


@pytest.mark.parametrize("exists", [False, True])
async def test_write_to_a_leased_blob_is_an_error_at_once(
    cloud_server: RangeServer, native: ModuleType, *, exists: bool
) -> None:
    """Nobody was faster: that the blob is leased is answered with the status of a condition that does not hold."""
    content: dict[str, Any] = {"data": VALUES} if exists else {"shape": VALUES.shape, "dtype": "uint16"}
    array = await created(buckets.azure(cloud_server), cloud_server, **content)
    leased = {"x-ms-error-code": "LeaseIdMissing"}
    cloud_server.config(rules=[Rule(action="status", path=CHUNK, method="PUT", status=412, headers=leased)])
    for selection in (slice(0, 8), slice(None)):
        with pytest.raises(native.exceptions.StoreError, match=r"LeaseIdMissing.*lease") as raised:
            await array.setitem(selection, 7)
        error = raised.value
        assert (error.key, error.status, error.attempts) == ("c/0", 412, 1)
    assert statuses(cloud_server, "PUT") == [412, 412]
    np.testing.assert_array_equal(await array.getitem(Ellipsis), VALUES if exists else 0)


async def test_put_that_is_refused_while_nobody_replaces_the_chunk_is_given_up(
    bucket: Bucket, cloud_server: RangeServer, native: ModuleType
) -> None:
    array = await created(bucket, cloud_server)
    cloud_server.config(rules=[Rule(action="status", path=CHUNK, method="PUT", status=412)])
    with pytest.raises(native.exceptions.StoreError, match="nobody else has replaced it") as raised:
        await array.setitem(slice(0, 8), 7)
    # No conflict: to write once more would not help.
    assert type(raised.value) is native.exceptions.StoreError
    assert (raised.value.key, raised.value.attempts) == ("c/0", 20)
    np.testing.assert_array_equal(await array.getitem(Ellipsis), VALUES)


@pytest.mark.parametrize("layout", [{}, {"chunks": (8,), "shards": (64,)}], ids=["chunk", "shard"])
async def test_write_that_empties_a_chunk_keeps_what_somebody_else_writes_meanwhile(
    bucket: Bucket, cloud_server: RangeServer, tmp_path: Path, layout: dict[str, Any]
) -> None:
    values = np.zeros_like(VALUES)
    values[:8] = 1
    array = await created(bucket, cloud_server, data=values, **layout)
    values[8:16] = 2
    replaced_after_get(cloud_server, tmp_path, values, **layout)
    await array.setitem(slice(0, 8), 0)
    values[:8] = 0
    np.testing.assert_array_equal(await array.getitem(Ellipsis), values)


@pytest.mark.parametrize(("status", "name"), [(403, "StorePermissionError"), (412, "StoreError")])
async def test_refused_deletion_is_an_error_at_once(
    bucket: Bucket, cloud_server: RangeServer, native: ModuleType, status: int, name: str
) -> None:
    array = await created(bucket, cloud_server)
    # Azure says so of a part of a batch, whose own status is good.
    cloud_server.config(rules=[Rule(action="status", path=CHUNK, method="DELETE", status=status)])
    with pytest.raises(getattr(native.exceptions, name), match=f'delete of "c/0" .* HTTP status {status}') as raised:
        await array.setitem(Ellipsis, 0)
    assert (raised.value.status, raised.value.attempts) == (status, 1)
    np.testing.assert_array_equal(await array.getitem(Ellipsis), VALUES)


async def test_deletion_is_tried_again_after_503(bucket: Bucket, cloud_server: RangeServer) -> None:
    array = await created(bucket, cloud_server)
    cloud_server.config(rules=[Rule(action="status", path=CHUNK, method="DELETE", status=503, times=2)])
    await array.setitem(Ellipsis, 0)
    assert cloud_server.stats()["requests"] == 3
    assert not np.asarray(await array.getitem(Ellipsis)).any()
    assert statuses(cloud_server, "GET") == [404]


async def test_deletion_of_a_chunk_that_is_not_there_is_no_error(bucket: Bucket, cloud_server: RangeServer) -> None:
    array = await created(bucket, cloud_server, shape=(64,), dtype="uint16")
    await array.setitem(Ellipsis, 0)
    assert cloud_server.stats()["requests"] == 1
