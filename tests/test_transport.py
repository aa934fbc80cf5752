"""What the wire does to a request: retries, stalls, broken bodies, connections that are used again, HTTP/2."""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr
from zarr.storage import StorePath

from support import remote
from support.servers import RangeServer, Rule

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import ModuleType

    from zarr import AsyncArray

# Our pipeline is on, and nothing may fall back.
pytestmark = pytest.mark.usefixtures("native")

VALUES = np.arange(64 * 64, dtype="uint16") + 1
TRIES = 4
H2 = {"allow_invalid_certificates": True, "http2_only": True}


def stored(server: RangeServer, values: Any = VALUES, **layout: Any) -> None:
    """Write `values` to where the server serves."""
    remote.stored(server.root / "a", values, **{"chunks": (64,), **layout})


async def opened(
    server: RangeServer, *, pause_ms: float = 1.0, retries: int = TRIES - 1, **options: Any
) -> AsyncArray[Any]:
    """Open the array over HTTP, with pauses between retries of about `pause_ms`."""
    pause = timedelta(milliseconds=pause_ms)
    retry_config = {
        "max_retries": retries,
        "retry_timeout": timedelta(seconds=60),
        "backoff": {"init_backoff": pause, "max_backoff": pause, "base": 2.0},
    }
    return await remote.opened(server, retry_config=retry_config, **options)


@pytest.mark.parametrize(
    "rule",
    [
        *(Rule(action="status", status=status, times=TRIES - 1) for status in (408, 429, 500, 502, 503, 504)),
        Rule(action="reset", times=TRIES - 1),
        Rule(action="truncate", nbytes=50, times=TRIES - 1),
        Rule(action="truncate", nbytes=0, times=TRIES - 1),
    ],
    ids=lambda rule: f"{rule.action}-{rule.status if rule.action == 'status' else rule.nbytes}",
)
async def test_read_is_tried_again_after(range_server: RangeServer, native: ModuleType, rule: Rule) -> None:
    stored(range_server)
    array = await opened(range_server)
    range_server.config(rules=[rule])
    retries = native.stats()["retries"]
    np.testing.assert_array_equal(await array.getitem(slice(0, 64)), VALUES[:64])
    assert range_server.stats()["requests"] == TRIES
    assert native.stats()["retries"] == retries + TRIES - 1


@pytest.mark.parametrize(("status", "name"), [(403, "StorePermissionError"), (401, "StorePermissionError")])
async def test_refused_read_is_not_tried_again(
    range_server: RangeServer, native: ModuleType, status: int, name: str
) -> None:
    stored(range_server)
    array = await opened(range_server)
    range_server.config(rules=[Rule(action="status", status=status)])
    with pytest.raises(getattr(native.exceptions, name), match=f"HTTP status {status}") as raised:
        await array.getitem(slice(0, 64))
    assert (raised.value.status, raised.value.attempts) == (status, 1)
    assert range_server.stats()["requests"] == 1


@pytest.mark.parametrize("status", [400, 402, 405, 409, 410, 451, 501])
async def test_other_client_errors_are_errors_at_once(
    range_server: RangeServer, native: ModuleType, status: int
) -> None:
    stored(range_server)
    array = await opened(range_server)
    range_server.config(rules=[Rule(action="status", status=status)])
    with pytest.raises(native.exceptions.StoreError, match=f"HTTP status {status}"):
        await array.getitem(slice(0, 64))
    assert range_server.stats()["requests"] == 1


async def test_missing_chunk_is_not_asked_for_again(range_server: RangeServer) -> None:
    stored(range_server)
    array = await opened(range_server)
    (range_server.root / "a/c/0").unlink()
    assert not np.asarray(await array.getitem(slice(0, 64))).any()
    assert range_server.stats()["requests"] == 1


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_error_after_the_last_try_says_how_many_there_were(
    range_server: RangeServer, native: ModuleType, status: int
) -> None:
    stored(range_server)
    array = await opened(range_server)
    range_server.config(rules=[Rule(action="status", status=status)])
    with pytest.raises(native.exceptions.StoreError) as raised:
        await array.getitem(slice(0, 64))
    error = raised.value
    assert (error.key, error.status, error.attempts) == ("c/0", status, TRIES)
    for part in ("c/0", str(status), f"{TRIES} attempts", range_server.url):
        assert part in str(error)
    assert range_server.stats()["requests"] == TRIES


@pytest.mark.parametrize("action", ["reset", "truncate"])
async def test_error_after_broken_bodies_is_no_fill_value(
    range_server: RangeServer, native: ModuleType, action: Any
) -> None:
    stored(range_server)
    array = await opened(range_server)
    range_server.config(rules=[Rule(action=action, nbytes=50)])
    with pytest.raises(native.exceptions.StoreError, match=f"{TRIES} attempts") as raised:
        await array.getitem(slice(0, 64))
    assert (raised.value.status, raised.value.attempts) == (None, TRIES)


@pytest.mark.parametrize("status", [429, 503])
async def test_retry_after_is_honoured_where_it_is_shorter(range_server: RangeServer, status: int) -> None:
    stored(range_server)
    # Our own pause would outlast the test.
    array = await opened(range_server, pause_ms=50_000)
    range_server.config(rules=[Rule(action="status", status=status, headers={"Retry-After": "0"}, times=TRIES - 1)])
    np.testing.assert_array_equal(await array.getitem(slice(0, 64)), VALUES[:64])
    assert range_server.stats()["requests"] == TRIES


@pytest.mark.parametrize("status", [429, 503])
async def test_retry_after_is_honoured_where_it_is_longer(range_server: RangeServer, status: int) -> None:
    stored(range_server)
    array = await opened(range_server)
    range_server.config(rules=[Rule(action="status", status=status, headers={"Retry-After": "1"}, times=1)])
    began = time.monotonic()
    np.testing.assert_array_equal(await array.getitem(slice(0, 64)), VALUES[:64])
    assert time.monotonic() - began >= 1.0


async def test_retry_after_beyond_the_retry_timeout_is_an_error_at_once(
    range_server: RangeServer, native: ModuleType
) -> None:
    stored(range_server)
    array = await opened(range_server)
    range_server.config(rules=[Rule(action="status", status=503, headers={"Retry-After": "3600"})])
    with pytest.raises(native.exceptions.StoreError, match="503"):
        await array.getitem(slice(0, 64))
    assert range_server.stats()["requests"] == 1


async def test_store_without_retries_makes_none(range_server: RangeServer, native: ModuleType) -> None:
    stored(range_server)
    array = await opened(range_server, retries=0)
    range_server.config(rules=[Rule(action="status", status=503)])
    with pytest.raises(native.exceptions.StoreError, match="503") as raised:
        await array.getitem(slice(0, 64))
    assert raised.value.attempts == 1
    assert range_server.stats()["requests"] == 1


async def test_waiting_for_a_retry_can_be_cancelled(range_server: RangeServer, native: ModuleType) -> None:
    stored(range_server)
    array = await opened(range_server, pause_ms=50_000)
    range_server.config(rules=[Rule(action="status", status=503)])
    retries = native.stats()["retries"]
    reading = asyncio.create_task(array.getitem(slice(0, 64)))
    while not native._rust.failing():  # noqa: ASYNC110 - a pause between two attempts has no event
        await asyncio.sleep(0)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert range_server.stats()["requests"] == 1
    assert native.stats()["retries"] == retries


async def test_other_chunks_do_not_wait_for_one_that_is_tried_again(range_server: RangeServer) -> None:
    stored(range_server)
    array = await opened(range_server)
    range_server.config(rules=[Rule(action="status", path="c/5$", status=503, times=TRIES - 1)])
    np.testing.assert_array_equal(await array.getitem(slice(None)), VALUES)
    assert range_server.stats()["requests"] == 64 + TRIES - 1


@pytest.mark.parametrize("nbytes", [0, 50])
async def test_stalled_body_ends_in_a_timeout_of_the_client_options(
    range_server: RangeServer, native: ModuleType, nbytes: int
) -> None:
    stored(range_server)
    array = await opened(range_server, retries=0, read_timeout="500ms")
    range_server.config(rules=[Rule(action="stall", nbytes=nbytes)])
    with pytest.raises(native.exceptions.StoreTimeoutError, match="c/0") as raised:
        await array.getitem(slice(0, 64))
    assert raised.value.key == "c/0"
    await range_server.wait_async(aborted=1, idle=True)


async def test_answer_that_never_begins_ends_in_a_timeout(range_server: RangeServer, native: ModuleType) -> None:
    stored(range_server)
    array = await opened(range_server, retries=0, read_timeout="500ms")
    range_server.hold()
    with pytest.raises(native.exceptions.StoreTimeoutError, match="c/0"):
        await array.getitem(slice(0, 64))


async def test_stalled_body_is_fetched_again(range_server: RangeServer) -> None:
    stored(range_server)
    array = await opened(range_server, read_timeout="500ms")
    range_server.config(rules=[Rule(action="stall", nbytes=50, times=1)])
    np.testing.assert_array_equal(await array.getitem(slice(0, 64)), VALUES[:64])
    assert range_server.stats()["requests"] == 2


async def test_slow_body_that_goes_on_is_no_stall(range_server: RangeServer) -> None:
    values = np.arange(2**18, dtype="uint16")
    stored(range_server, values, chunks=values.shape)
    array = await opened(range_server, retries=0, read_timeout="500ms")
    # A second for the whole body.
    range_server.config(bandwidth_mib=0.5)
    np.testing.assert_array_equal(await array.getitem(slice(None)), values)


async def test_total_timeout_of_the_client_options_is_kept(range_server: RangeServer, native: ModuleType) -> None:
    stored(range_server)
    array = await opened(range_server, retries=0, timeout="500ms")
    range_server.hold()
    with pytest.raises(native.exceptions.StoreTimeoutError, match="c/0"):
        await array.getitem(slice(0, 64))


async def test_connections_are_used_again(range_server: RangeServer) -> None:
    stored(range_server)
    zarr.config.set({"codec_pipeline.request_concurrent_maximum": 8})
    array = await opened(range_server)
    for _ in range(5):
        np.testing.assert_array_equal(await array.getitem(slice(None)), VALUES)
    stats = range_server.stats()
    assert stats["requests"] == 5 * 64
    # A connection begun for a request that another one served first is kept too.
    assert stats["connections_opened"] <= 2 * 8


async def test_connections_of_a_full_read_serve_the_next(range_server: RangeServer) -> None:
    stored(range_server)
    array = await opened(range_server)
    range_server.hold()
    reading = asyncio.create_task(array.getitem(slice(None)))
    await range_server.wait_async(held=64)
    range_server.release()
    await reading
    assert range_server.stats()["connections_opened"] == 64
    range_server.reset_counts()
    for _ in range(5):
        np.testing.assert_array_equal(await array.getitem(slice(None)), VALUES)
    assert range_server.stats()["connections_opened"] == 0


async def test_arrays_of_one_store_configuration_share_connections(range_server: RangeServer) -> None:
    stored(range_server)
    arrays = [await opened(range_server) for _ in range(6)]
    zarr.config.set({"codec_pipeline.request_concurrent_maximum": 8})
    arrays.append(await opened(range_server))
    for array in arrays:
        np.testing.assert_array_equal(await array.getitem(slice(None)), VALUES)
    stats = range_server.stats()
    assert stats["requests"] == 7 * 64
    assert stats["connections_opened"] <= 2 * 8


async def test_arrays_at_different_urls_share_connections(range_server: RangeServer) -> None:
    zarr.config.set({"codec_pipeline.request_concurrent_maximum": 8})
    arrays = [await remote.served(range_server, VALUES, name=f"a{number}", chunks=(64,)) for number in range(6)]
    for array in arrays:
        np.testing.assert_array_equal(await array.getitem(slice(None)), VALUES)
    assert range_server.stats()["connections_opened"] <= 2 * 8


async def test_connection_survives_missing_chunks_and_ranges_that_are_ignored(range_server: RangeServer) -> None:
    stored(range_server, shards=(1024,))
    zarr.config.set({"codec_pipeline.request_concurrent_maximum": 1, "array.sharding_coalesce_max_gap_bytes": 0})
    array = await opened(range_server)
    (range_server.root / "a/c/2").unlink()
    range_server.config(rules=[Rule(action="ignore_range")])
    expected = VALUES.copy()
    expected[2048:3072] = 0
    np.testing.assert_array_equal(await array.getitem(slice(64, None, 1024)), expected[64::1024])
    assert range_server.stats()["connections_opened"] <= 2


@pytest.mark.parametrize("rules", [[], [Rule(action="ignore_range")]], ids=["whole", "range"])
async def test_body_whose_length_is_not_told_is_used(range_server: RangeServer, rules: list[Rule]) -> None:
    zarr.config.set({"array.sharding_coalesce_max_gap_bytes": 0})
    array = await remote.served(range_server, VALUES, chunks=(64,), shards=(1024,))
    range_server.config(rules=[*rules, Rule(action="no_length", path="c/")])
    selection = slice(100, 200) if rules else slice(None)
    np.testing.assert_array_equal(await array.getitem(selection), VALUES[selection])


async def test_precondition_that_was_not_asked_for_is_an_error(range_server: RangeServer, native: ModuleType) -> None:
    array = await remote.served(range_server, VALUES, mode="r+", chunks=(64,))
    range_server.config(rules=[Rule(action="status", path="c/3$", status=412, method="GET")])
    with pytest.raises(native.exceptions.StoreError, match="412"):
        await array.getitem(slice(None))
    # A part of the chunk: what cannot be read must not be written over.
    with pytest.raises(native.exceptions.StoreError, match="412"):
        await array.setitem(slice(200, 210), 7)
    range_server.config(rules=[])
    np.testing.assert_array_equal(await array.getitem(slice(None)), VALUES)


async def test_put_refused_without_a_condition_is_an_error_at_once(
    range_server: RangeServer, native: ModuleType
) -> None:
    array = await remote.served(range_server, VALUES, mode="r+", chunks=(64,))
    range_server.config(rules=[Rule(action="status", path="c/3$", status=412, method="PUT")])
    with pytest.raises(native.exceptions.StoreError, match="412"):
        await array.setitem(slice(192, 256), 7)
    assert [logged["method"] for logged in range_server.log()] == ["PUT"]


async def test_long_upload_is_no_stall(range_server: RangeServer) -> None:
    values = np.arange(1 << 16, dtype="uint16")
    remote.stored(range_server.root / "a", values * 0, chunks=(1 << 16,))
    array = await remote.opened(range_server, mode="r+", read_timeout="300ms")
    # As if the upload of 128 KiB took a second; nothing arrives before it is whole.
    range_server.config(rules=[Rule(action="delay", method="PUT", delay_ms=1_000)])
    await array.setitem(slice(None), values)
    assert [logged["method"] for logged in range_server.log()] == ["PUT"]


async def test_retry_of_a_write_stores_the_chunk(range_server: RangeServer) -> None:
    stored(range_server)
    array = await opened(range_server, mode="r+")
    range_server.config(rules=[Rule(action="status", method="PUT", status=503, times=TRIES - 1)])
    await array.setitem(slice(0, 64), VALUES[:64] + 7)
    assert range_server.stats()["methods"] == {"PUT": TRIES}
    np.testing.assert_array_equal(await array.getitem(slice(0, 64)), VALUES[:64] + 7)


async def test_refused_write_is_an_error_that_says_so(range_server: RangeServer, native: ModuleType) -> None:
    stored(range_server)
    array = await opened(range_server, mode="r+")
    range_server.config(rules=[Rule(action="status", method="PUT", status=403)])
    with pytest.raises(native.exceptions.StorePermissionError, match='put of "c/0"'):
        await array.setitem(slice(0, 64), 7)
    assert range_server.stats()["requests"] == 1


async def test_unreachable_server_is_a_store_error(native: ModuleType, tmp_path: Path) -> None:
    with RangeServer(tmp_path) as server:
        stored(server)
        array = await opened(server)
    with pytest.raises(native.exceptions.StoreError, match=f"{TRIES} attempts") as raised:
        await array.getitem(slice(0, 64))
    assert raised.value.status is None
    assert raised.value.__cause__ is not None


@pytest.fixture(scope="module")
def h2_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RangeServer]:
    """Start a server that speaks HTTP/2 too."""
    with RangeServer(tmp_path_factory.mktemp("h2"), h2=True) as server:
        yield server


@pytest.fixture
def h2_server(h2_process: RangeServer, tmp_path: Path) -> RangeServer:
    """Give the server an empty root of the test's own."""
    root = tmp_path / "h2"
    root.mkdir()
    h2_process.serve(root)
    return h2_process


async def test_read_over_http2_shares_one_connection(h2_server: RangeServer) -> None:
    stored(h2_server)
    array = await opened(h2_server, url=h2_server.h2_url, **H2)
    np.testing.assert_array_equal(await array.getitem(slice(0, 64)), VALUES[:64])
    h2_server.reset_counts()
    h2_server.hold()
    reading = asyncio.create_task(array.getitem(slice(None)))
    await h2_server.wait_async(held=64)
    h2_server.release()
    np.testing.assert_array_equal(await reading, VALUES)
    log = h2_server.log()
    assert len(log) == 64
    assert len({logged["connection"] for logged in log}) == 1


async def test_http2_is_spoken_where_the_server_offers_it(h2_server: RangeServer) -> None:
    stored(h2_server)
    array = await reopened(h2_server, allow_invalid_certificates=True)
    np.testing.assert_array_equal(await array.getitem(slice(0, 64)), VALUES[:64])


async def test_cancelled_read_over_http2_aborts_its_requests_and_keeps_the_connection(h2_server: RangeServer) -> None:
    stored(h2_server)
    array = await opened(h2_server, url=h2_server.h2_url, **H2)
    np.testing.assert_array_equal(await array.getitem(slice(0, 64)), VALUES[:64])
    h2_server.hold()
    h2_server.reset_counts()
    reading = asyncio.create_task(array.getitem(slice(None)))
    await h2_server.wait_async(held=64)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    await h2_server.wait_async(aborted=64, idle=True)
    h2_server.release()
    np.testing.assert_array_equal(await array.getitem(slice(0, 64)), VALUES[:64])
    assert h2_server.stats()["requests"] == 65


async def test_http2_parts_of_shards_and_writes(h2_server: RangeServer) -> None:
    stored(h2_server, shards=(1024,))
    zarr.config.set({"array.sharding_coalesce_max_gap_bytes": 0})
    array = await opened(h2_server, url=h2_server.h2_url, mode="r+", **H2)
    np.testing.assert_array_equal(await array.getitem(slice(70, 3000)), VALUES[70:3000])
    await array.setitem(slice(70, 3000), 5)
    expected = VALUES.copy()
    expected[70:3000] = 5
    np.testing.assert_array_equal(await array.getitem(slice(None)), expected)


async def test_unknown_certificate_is_refused_at_once(h2_server: RangeServer, native: ModuleType) -> None:
    stored(h2_server)
    array = await reopened(h2_server, http2_only=True)
    with pytest.raises(native.exceptions.StoreError, match=r"c/0.*certificate") as raised:
        await array.getitem(slice(0, 64))
    assert raised.value.attempts == 1
    assert h2_server.stats()["requests"] == 0


async def reopened(server: RangeServer, **client_options: Any) -> AsyncArray[Any]:
    """Open over TLS the array whose metadata came without: obstore's own client need not get on with the server."""
    array = await opened(server)
    retry_config = {"max_retries": 3, "retry_timeout": timedelta(seconds=10)}
    store = remote.http_store(f"{server.h2_url}/a", retry_config, **client_options)
    return zarr.AsyncArray(metadata=array.metadata, store_path=StorePath(store))
