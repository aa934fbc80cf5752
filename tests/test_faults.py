"""Faulty servers: correct data or a clear error, and never the fill value for what could not be read."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr
from obstore.store import AzureStore, GCSStore, S3Store
from zarr.storage import ObjectStore, StorePath

from support import remote
from support.servers import RangeServer, Rule

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

    from obstore.store import RetryConfig
    from zarr import AsyncArray
    from zarr.abc.store import Store

    from support.servers import S3Server

# Our pipeline is on, nothing may fall back, and an index is asked for by itself.
pytestmark = pytest.mark.usefixtures("native", "byte_ranges")

VALUES = np.arange(4096, dtype="uint16") + 1
FILL = 9
# The subchunks 0, 4, 8 and 12 of the first shard: an index and four byte ranges.
SCATTERED = slice(0, 1024, 256)
INDEX_NBYTES = 16 * 16 + 4
SHARD_NBYTES = 16 * 128 + INDEX_NBYTES
# The requests for them, and not the one for the index.
DATA = r"^bytes=\d"
INDEX = "^bytes=-"

TRIES = 3
RETRIES: RetryConfig = {
    "max_retries": TRIES - 1,
    "retry_timeout": timedelta(seconds=60),
    "backoff": {"init_backoff": timedelta(milliseconds=1), "max_backoff": timedelta(milliseconds=1), "base": 2.0},
}


async def sharded(server: RangeServer, **options: Any) -> AsyncArray[Any]:
    """Serve four shards of 16 subchunks of 64 elements each."""
    remote.stored(server.root / "a", VALUES, shards=(1024,), chunks=(64,), fill_value=FILL)
    return await remote.opened(server, retry_config=RETRIES, **options)


async def plain(server: RangeServer, **options: Any) -> AsyncArray[Any]:
    """Serve 64 chunks of 64 elements each."""
    remote.stored(server.root / "a", VALUES, chunks=(64,), fill_value=FILL)
    return await remote.opened(server, retry_config=RETRIES, **options)


def s3(endpoint: str) -> Store:
    """Return a store of a bucket ``a``."""
    return ObjectStore(
        S3Store(
            "a",
            endpoint=endpoint,
            region="us-east-1",
            skip_signature=True,
            virtual_hosted_style_request=False,
            client_options={"allow_http": True},
            retry_config=RETRIES,
        )
    )


def gcs(endpoint: str) -> Store:
    """Return a store of a bucket ``a``; puts want credentials, if only such that nobody is asked for."""
    key = {"gcs_base_url": endpoint, "disable_oauth": True, "client_email": "", "private_key": "", "private_key_id": ""}
    return ObjectStore(
        GCSStore(
            "a",
            service_account_key=json.dumps(key),
            client_options={"allow_http": True},
            retry_config=RETRIES,
        )
    )


def azure(endpoint: str) -> Store:
    """Return a store of a container ``a``."""
    return ObjectStore(
        AzureStore(
            "a",
            account_name="account",
            skip_signature=True,
            endpoint=f"{endpoint}/account",
            client_options={"allow_http": True},
            retry_config=RETRIES,
        )
    )


def http(endpoint: str) -> Store:
    """Return a store of what is below ``a``."""
    return remote.http_store(f"{endpoint}/a", RETRIES)


async def through(store: Store, **layout: Any) -> AsyncArray[Any]:
    """Return an array of which nothing is stored, to be read and written through a store."""
    options: Any = {"shape": VALUES.shape, "dtype": "uint16", "fill_value": FILL, "compressors": None, **layout}
    array = await zarr.api.asynchronous.create_array(store={}, **options)
    return zarr.AsyncArray(metadata=array.metadata, store_path=StorePath(store))


def xml(code: str) -> str:
    """Return what S3 answers in an error."""
    return f'<?xml version="1.0" encoding="UTF-8"?><Error><Code>{code}</Code><Message>Words.</Message></Error>'


NO_BUCKET = [
    pytest.param(s3, {"body": xml("NoSuchBucket")}, id="s3"),
    pytest.param(gcs, {"body": xml("NoSuchBucket")}, id="gcs"),
    pytest.param(gcs, {"body": '{"error": {"message": "The specified bucket does not exist."}}'}, id="gcs-json"),
    pytest.param(azure, {"body": xml("ContainerNotFound")}, id="azure"),
    pytest.param(azure, {"headers": {"x-ms-error-code": "ContainerNotFound"}}, id="azure-header"),
    pytest.param(http, {"body": xml("NoSuchBucket")}, id="http"),
]
NAMES: dict[Callable[[str], Store], str] = {s3: "s3://a", gcs: "gs://a", azure: "az://a", http: "http://127.0.0.1"}


@pytest.mark.parametrize(("make", "answer"), NO_BUCKET)
@pytest.mark.parametrize("shards", [None, (1024,)])
async def test_bucket_that_does_not_exist_is_an_error(
    range_server: RangeServer, native: ModuleType, make: Callable[[str], Store], answer: dict[str, Any], shards: Any
) -> None:
    array = await through(make(range_server.url), chunks=(64 if shards else 1024,), shards=shards)
    range_server.config(rules=[Rule(action="status", status=404, **answer)])
    # Read, read and merge, put, delete.
    for work in (
        lambda: array.getitem(slice(0, 10)),
        lambda: array.setitem(slice(0, 10), 1),
        lambda: array.setitem(slice(0, 1024), 1),
        lambda: array.setitem(slice(0, 1024), FILL),
    ):
        with pytest.raises(native.exceptions.StoreError, match="the bucket does not exist") as raised:
            await work()
        assert (raised.value.status, raised.value.key) == (404, "c/0")
        assert NAMES[make] in str(raised.value)


async def test_bucket_that_a_real_server_does_not_have_is_an_error(s3_server: S3Server, native: ModuleType) -> None:
    store = S3Store(
        "no-such-bucket",
        endpoint=s3_server.endpoint,
        access_key_id=s3_server.access_key,
        secret_access_key=s3_server.secret_key,
        region="us-east-1",
        virtual_hosted_style_request=False,
        client_options={"allow_http": True},
    )
    array = await through(ObjectStore(store), chunks=(64,))
    with pytest.raises(native.exceptions.StoreError, match=r"s3://no-such-bucket .*\(NoSuchBucket\): the bucket does"):
        await array.getitem(slice(0, 10))


@pytest.mark.parametrize(
    "body", ["", xml("NoSuchKey"), xml("BlobNotFound"), "<html>M\xfcller hat das nicht</html>", "x" * 100_000]
)
async def test_missing_object_is_the_fill_value_whatever_the_server_says(range_server: RangeServer, body: str) -> None:
    for make in (s3, gcs, azure, http):
        array = await through(make(range_server.url), chunks=(64,))
        range_server.config(rules=[Rule(action="status", status=404, body=body)])
        np.testing.assert_array_equal(await array.getitem(slice(0, 100)), FILL)


@pytest.mark.parametrize("rule", ["truncate", "headers", "endless"])
async def test_missing_object_is_believed_only_when_all_is_said(
    range_server: RangeServer, native: ModuleType, rule: Any
) -> None:
    array = await through(http(range_server.url), chunks=(64,))
    spoiled = Rule(action=rule, nbytes=20, headers={"Content-Length": str(2**63)})
    range_server.config(rules=[Rule(action="status", status=404, body=xml("NoSuchBucket")), spoiled])
    if rule == "endless":
        # Of a body only the beginning is looked at.
        np.testing.assert_array_equal(await array.getitem(slice(0, 10)), FILL)
    else:
        with pytest.raises(native.exceptions.StoreError, match="c/0"):
            await array.getitem(slice(0, 10))


@pytest.mark.parametrize(
    "code", ["SignatureDoesNotMatch", "InvalidAccessKeyId", "AccessDenied", "RequestTimeTooSkewed", "ExpiredToken"]
)
async def test_code_of_a_refusal_is_told(range_server: RangeServer, native: ModuleType, code: str) -> None:
    array = await through(s3(range_server.url), chunks=(64,))
    range_server.config(rules=[Rule(action="status", status=403, body=xml(code))])
    with pytest.raises(native.exceptions.StorePermissionError, match=rf"403 Forbidden \({code}\)"):
        await array.getitem(slice(0, 10))


async def test_nothing_else_that_a_server_says_is_told(range_server: RangeServer, native: ModuleType) -> None:
    array = await through(s3(range_server.url), chunks=(64,))
    range_server.config(rules=[Rule(action="status", status=403, body=xml("HiddenSecret"))])
    with pytest.raises(native.exceptions.StorePermissionError) as raised:
        await array.getitem(slice(0, 10))
    assert "Hidden" not in f"{raised.value!r} {raised.value.__cause__!r}"


async def test_url_without_tls_names_the_option(native: ModuleType) -> None:
    store = remote.http_store("http://127.0.0.1:1/a", RETRIES, allow_http=False)
    array = await through(store, chunks=(64,))
    with pytest.raises(native.exceptions.StoreError, match="allow_http") as raised:
        await array.getitem(slice(0, 10))
    assert raised.value.attempts == 1


async def test_host_that_does_not_exist_is_an_error_that_names_the_key(native: ModuleType) -> None:
    store = remote.http_store("http://user:hidden@nonexistent.invalid/a?token=hidden", RETRIES)
    array = await through(store, chunks=(64,))
    with pytest.raises(native.exceptions.StoreError, match=r'"c/0" in http://nonexistent\.invalid/a failed') as raised:
        await array.getitem(slice(0, 10))
    assert "hidden" not in str(raised.value)
    assert raised.value.attempts == TRIES


# Parts of shards.

SPOILED = [
    pytest.param(Rule(action="status", status=403), "403 Forbidden", id="refused"),
    pytest.param(Rule(action="status", status=500), "500 Internal", id="failed"),
    pytest.param(Rule(action="reset"), f"after {TRIES} attempts", id="reset"),
    pytest.param(Rule(action="truncate", nbytes=50), "end of file before", id="truncated"),
    pytest.param(Rule(action="extend", nbytes=50), "more than the", id="longer"),
    pytest.param(Rule(action="headers", headers={"Content-Range": "bytes 64-191/2308"}), "64", id="other-bytes"),
    pytest.param(Rule(action="headers", headers={"Content-Range": "bytes 0-49/2308"}), "49|50", id="fewer-bytes"),
    pytest.param(Rule(action="headers", headers={"Content-Range": "bytes 0-9999/99999"}), "9999|10000", id="more"),
    pytest.param(Rule(action="headers", headers={"Content-Range": "none"}), "none", id="no-range"),
    pytest.param(Rule(action="headers", headers={"Content-Length": str(2**63)}), "c/0", id="lying-length"),
]


@pytest.mark.parametrize(("rule", "said"), SPOILED)
@pytest.mark.parametrize("asked", [INDEX, DATA], ids=["index", "data"])
async def test_part_that_cannot_be_read_is_an_error(
    range_server: RangeServer, native: ModuleType, rule: Rule, said: str, asked: str
) -> None:
    array = await sharded(range_server)
    range_server.config(rules=[replace(rule, byte_range=asked)])
    with pytest.raises(native.exceptions.StoreError, match=said) as raised:
        await array.getitem(slice(0, 64))
    assert raised.value.key == "c/0"


@pytest.mark.parametrize(
    "rule",
    [
        Rule(action="status", status=503, times=TRIES - 1),
        Rule(action="reset", times=TRIES - 1),
        Rule(action="truncate", nbytes=50, times=TRIES - 1),
        Rule(action="truncate", nbytes=0, times=TRIES - 1),
        Rule(action="ignore_range"),
        Rule(action="ignore_range", times=1),
        Rule(action="no_length"),
        # Once gone, then there again: the whole object is of one state.
        Rule(action="status", status=404),
        Rule(action="status", status=404, times=1),
        Rule(action="status", status=412),
        Rule(action="status", status=416),
    ],
    ids=lambda rule: f"{rule.action}-{rule.status if rule.action == 'status' else rule.nbytes}-{rule.times}",
)
async def test_parts_are_read_all_the_same(range_server: RangeServer, rule: Rule) -> None:
    array = await sharded(range_server)
    range_server.config(rules=[replace(rule, byte_range=DATA)])
    np.testing.assert_array_equal(await array.getitem(SCATTERED), VALUES[SCATTERED])


@pytest.mark.parametrize("status", [404, 412, 416])
async def test_data_that_is_never_there_is_no_fill_value(
    range_server: RangeServer, native: ModuleType, status: int
) -> None:
    array = await sharded(range_server)
    # Of the whole object as well: only the index is answered.
    whole = Rule(action="status", status=status, byte_range="^$")
    range_server.config(rules=[Rule(action="status", status=status, byte_range=DATA), whole])
    with pytest.raises(native.exceptions.StoreError, match="c/0"):
        await array.getitem(SCATTERED)


@pytest.mark.parametrize("weak", [False, True])
async def test_shard_whose_tag_differs_by_request_is_fetched_whole(range_server: RangeServer, *, weak: bool) -> None:
    array = await sharded(range_server)
    rules = [Rule(action="new_etag"), *([Rule(action="weak_etag")] if weak else [])]
    range_server.config(rules=rules)
    np.testing.assert_array_equal(await array.getitem(slice(0, 64)), VALUES[:64])
    data = "bytes=0-127"
    index = f"bytes=-{INDEX_NBYTES}"
    assert remote.ranges(range_server) == [index, data, index, data, None]


async def test_shard_whose_tag_differs_and_for_which_there_is_no_memory_is_a_conflict(
    range_server: RangeServer, native: ModuleType
) -> None:
    zarr.config.set({"codec_pipeline.memory_limit_bytes": 2048})
    array = await sharded(range_server)
    range_server.config(rules=[Rule(action="new_etag")])
    with pytest.raises(native.exceptions.StoreConflictError, match="c/0"):
        await array.getitem(slice(0, 64))
    assert None not in remote.ranges(range_server)


# What a store learns of its server.


@pytest.mark.parametrize("status", [400, 416])
async def test_refusal_of_everything_does_not_turn_suffixes_off(
    range_server: RangeServer, native: ModuleType, status: int
) -> None:
    array = await sharded(range_server)
    # The suffix, and the first byte in its place.
    range_server.config(rules=[Rule(action="status", status=status, times=2)])
    with pytest.raises(native.exceptions.StoreError, match=str(status)):
        await array.getitem(slice(0, 64))
    range_server.reset_counts()
    np.testing.assert_array_equal(await array.getitem(slice(0, 64)), VALUES[:64])
    assert remote.ranges(range_server) == [f"bytes=-{INDEX_NBYTES}", "bytes=0-127"]


@pytest.mark.parametrize("status", [400, 416])
async def test_suffix_refused_where_its_bytes_can_be_had_turns_suffixes_off(
    range_server: RangeServer, status: int
) -> None:
    array = await sharded(range_server)
    range_server.config(rules=[Rule(action="refuse_suffix", status=status)])
    index = f"bytes={SHARD_NBYTES - INDEX_NBYTES}-{SHARD_NBYTES - 1}"
    np.testing.assert_array_equal(await array.getitem(slice(0, 64)), VALUES[:64])
    assert remote.ranges(range_server) == [f"bytes=-{INDEX_NBYTES}", "bytes=0-0", index, "bytes=0-127"]
    range_server.reset_counts()
    np.testing.assert_array_equal(await array.getitem(slice(1024, 1088)), VALUES[1024:1088])
    assert remote.ranges(range_server) == ["bytes=0-0", index, "bytes=0-127"]


# Bodies without bounds.


@pytest.mark.parametrize("shards", [False, True])
async def test_body_without_end_is_an_error(range_server: RangeServer, native: ModuleType, *, shards: bool) -> None:
    array = await (sharded if shards else plain)(range_server)
    range_server.config(rules=[Rule(action="ignore_range"), Rule(action="endless")])
    with pytest.raises(native.exceptions.StoreError, match=r'"c/0" .*no announced length') as raised:
        await array.getitem(slice(0, 64))
    assert raised.value.attempts == 1
    await range_server.wait_async(aborted=1, idle=True)


async def test_part_without_end_is_an_error(range_server: RangeServer, native: ModuleType) -> None:
    array = await sharded(range_server)
    range_server.config(rules=[Rule(action="endless", byte_range=DATA)])
    with pytest.raises(native.exceptions.StoreError, match=r'"c/0" .*more than the 128 bytes'):
        await array.getitem(slice(0, 64))
    assert range_server.stats()["bytes_sent"] < 64 << 20


async def test_error_without_end_is_an_error(range_server: RangeServer, native: ModuleType) -> None:
    array = await plain(range_server)
    range_server.config(rules=[Rule(action="status", status=403), Rule(action="endless")])
    with pytest.raises(native.exceptions.StorePermissionError, match="c/0"):
        await array.getitem(slice(0, 64))


@pytest.mark.parametrize("length", [2**63, 2**63 - 1, 2**40])
@pytest.mark.parametrize("status", [200, 403, 404, 500])
async def test_announced_length_is_not_believed(
    range_server: RangeServer, native: ModuleType, length: int, status: int
) -> None:
    array = await plain(range_server)
    lying = Rule(action="headers", headers={"Content-Length": str(length)})
    refused = [] if status == 200 else [Rule(action="status", status=status, body="x" * 100)]
    range_server.config(rules=[*refused, lying])
    with pytest.raises(native.exceptions.StoreError, match="c/0"):
        await array.getitem(slice(0, 64))


async def test_body_without_a_length_larger_than_a_chunk_is_an_error(
    range_server: RangeServer, native: ModuleType
) -> None:
    array = await plain(range_server)
    nbytes = 3 << 20
    (range_server.root / "a/c/0").write_bytes(bytes(nbytes))
    range_server.config(rules=[Rule(action="no_length")])
    with pytest.raises(native.exceptions.StoreError, match=f"{nbytes} bytes are more than a chunk"):
        await array.getitem(slice(0, 64))


# Writes.


async def test_put_whose_answer_is_lost_is_stored_and_no_conflict(range_server: RangeServer) -> None:
    array = await through(s3(range_server.url), chunks=(64,))
    for value, existed in ((1, False), (2, True)):
        range_server.config(rules=[Rule(action="lose_answer", method="PUT", times=1)])
        range_server.reset_counts()
        # A part of the chunk: the put depends on what was read, and its retry is refused for its own first attempt.
        await array.setitem(slice(0, 10), value)
        log = [(logged["method"], logged["status"]) for logged in range_server.log()]
        assert log[0] == ("GET", 200 if existed else 404)
        assert ("PUT", 412) in log
        np.testing.assert_array_equal(await array.getitem(slice(0, 64)), [value] * 10 + [FILL] * 54)


async def test_put_whose_answer_is_lost_keeps_what_another_wrote_since(
    range_server: RangeServer, native: ModuleType
) -> None:
    array = await through(s3(range_server.url), chunks=(64,))
    await array.setitem(slice(0, 64), 1)
    # As another client would: the first ten elements are ours, and its own follow them.
    theirs = range_server.root / "theirs"
    theirs.write_bytes(np.array([2] * 10 + [3] * 54, "uint16").tobytes())
    lost = Rule(action="lose_answer", method="PUT", times=1)
    range_server.config(rules=[lost, Rule(action="replace", method="PUT", nth=2, source=str(theirs))])
    conflicts = native.stats()["write_conflicts"]
    await array.setitem(slice(0, 10), 2)
    assert native.stats()["write_conflicts"] == conflicts + 1
    np.testing.assert_array_equal(await array.getitem(slice(0, 64)), [2] * 10 + [3] * 54)


async def test_delete_whose_answer_is_lost_is_done(range_server: RangeServer) -> None:
    array = await through(s3(range_server.url), chunks=(64,))
    await array.setitem(slice(0, 64), 1)
    range_server.config(rules=[Rule(action="lose_answer", method="DELETE", times=1)])
    await array.setitem(slice(0, 64), FILL)
    assert not (range_server.root / "a/c/0").exists()


@pytest.mark.parametrize("action", ["reset", "lose_answer"])
async def test_put_that_is_never_answered_is_an_error_that_says_how_long(
    range_server: RangeServer, native: ModuleType, action: Any
) -> None:
    array = await through(s3(range_server.url), chunks=(64,))
    range_server.config(rules=[Rule(action=action, method="PUT")])
    with pytest.raises(native.exceptions.StoreError, match=rf"after {TRIES} attempts: .* given up after \d+\.\d s"):
        await array.setitem(slice(0, 64), 1)
