"""Hedging: a request far slower than its peers gets a second one beside it, and the first answer counts."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr

from support.process import started
from support.remote import served, stored
from support.servers import RangeServer, Rule

if TYPE_CHECKING:
    from types import ModuleType

    from zarr import AsyncArray

# Our pipeline is on, nothing may fall back, and an index is asked for by itself.
pytestmark = pytest.mark.usefixtures("native", "byte_ranges")

VALUES = np.arange(64 * 64, dtype="uint16") + 1
CHUNKS: dict[str, Any] = {"chunks": (64,)}
SHARDS: dict[str, Any] = {"chunks": (64,), "shards": (512,)}
# What is slow in these tests, and a part of it: of the chunk 16, or of the shard 2.
SLOW = "c/[1-9]"
PART = slice(1030, 1050)
# Of a median of about one millisecond: far above what a busy machine may take for an answer, and far below the time
# for which a request that must not come is awaited.
FACTOR = 100
IN_VAIN_S = 0.5


@pytest.fixture
def _hedging() -> None:
    """Send second requests, and never be short of the right to."""
    zarr.config.set({"codec_pipeline.hedge_factor": FACTOR, "codec_pipeline.request_concurrent_maximum": 128})


async def among_peers(
    server: RangeServer, layout: dict[str, Any], *, peers: int = 40, mode: str = "r"
) -> AsyncArray[Any]:
    """Serve `VALUES`, and make requests that are fast; the server's counts begin again."""
    array = await served(server, VALUES, mode=mode, **layout)
    for _ in range(peers):
        await array.getitem(slice(0, 20))
    server.reset_counts()
    return array


async def assert_no_more_than(server: RangeServer, requests: int) -> None:
    """Wait for one more request, in vain."""
    with pytest.raises(TimeoutError):
        await server.wait_async(requests=requests + 1, timeout_s=IN_VAIN_S)


@pytest.mark.parametrize(
    ("factor", "peers"),
    [
        pytest.param(None, 40, id="nothing is set"),
        pytest.param(1e9, 40, id="it is not so slow"),
        pytest.param(FACTOR, 10, id="its peers are few"),
    ],
)
async def test_slow_request_has_no_second_one_where(
    range_server: RangeServer, native: ModuleType, factor: float | None, peers: int
) -> None:
    zarr.config.set({"codec_pipeline.hedge_factor": factor, "codec_pipeline.request_concurrent_maximum": 128})
    array = await among_peers(range_server, CHUNKS, peers=peers)
    hedges = native.stats()["hedges"]
    range_server.hold(SLOW)
    reading = asyncio.create_task(array.getitem(PART))
    await range_server.wait_async(held=1)
    await assert_no_more_than(range_server, 1)
    range_server.release()
    np.testing.assert_array_equal(await reading, VALUES[PART])
    assert native.stats()["hedges"] == hedges


@pytest.mark.usefixtures("_hedging")
@pytest.mark.parametrize(
    ("layout", "nth", "requests"),
    [
        pytest.param(CHUNKS, 1, 1, id="chunk"),
        pytest.param(SHARDS, 1, 2, id="index"),
        pytest.param(SHARDS, 2, 2, id="range"),
    ],
)
async def test_slow_request_is_overtaken_by_its_second_one(
    range_server: RangeServer,
    native: ModuleType,
    layout: dict[str, Any],
    nth: int,
    requests: int,
) -> None:
    array = await among_peers(range_server, layout)
    before = native.stats()
    # An hour: the read has ended long before.
    range_server.config(rules=[Rule(action="delay", path=SLOW, nth=nth, delay_ms=3_600_000)])
    np.testing.assert_array_equal(await array.getitem(PART), VALUES[PART])
    await range_server.wait_async(aborted=1, idle=True)
    log = range_server.log()
    assert len(log) == requests + 1
    slow, second = log[nth - 1 : nth + 1]
    assert (slow["aborted"], second["aborted"]) == (True, False)
    assert (slow["range"], slow["if_match"]) == (second["range"], second["if_match"])
    after = native.stats()
    assert after["hedges"] == before["hedges"] + 1
    assert after["retries"] == before["retries"]
    assert after["requests"] == before["requests"] + requests + 1
    assert after["requests_in_flight"] == 0


@pytest.mark.usefixtures("_hedging")
async def test_slow_request_has_one_second_one_and_no_third(range_server: RangeServer, native: ModuleType) -> None:
    array = await among_peers(range_server, CHUNKS)
    hedges = native.stats()["hedges"]
    range_server.hold(SLOW)
    reading = asyncio.create_task(array.getitem(PART))
    await range_server.wait_async(held=2)
    await assert_no_more_than(range_server, 2)
    # The first one after all: the second is not waited for.
    range_server.release(1)
    np.testing.assert_array_equal(await reading, VALUES[PART])
    await range_server.wait_async(answered=1, aborted=1, idle=True)
    assert native.stats()["hedges"] == hedges + 1


@pytest.mark.usefixtures("_hedging")
@pytest.mark.parametrize(("permits", "requests"), [(1, 1), (2, 2)])
async def test_second_request_is_sent_only_while_a_request_is_free(
    range_server: RangeServer, permits: int, requests: int
) -> None:
    zarr.config.set({"codec_pipeline.request_concurrent_maximum": permits})
    array = await among_peers(range_server, CHUNKS)
    range_server.hold(SLOW)
    reading = asyncio.create_task(array.getitem(PART))
    await range_server.wait_async(held=requests)
    await assert_no_more_than(range_server, requests)
    range_server.release()
    np.testing.assert_array_equal(await reading, VALUES[PART])


@pytest.mark.usefixtures("_hedging")
async def test_cancelled_read_aborts_both_requests_and_frees_both(range_server: RangeServer) -> None:
    zarr.config.set({"codec_pipeline.request_concurrent_maximum": 2})
    array = await among_peers(range_server, CHUNKS)
    range_server.hold()
    reading = asyncio.create_task(array.getitem(PART))
    await range_server.wait_async(held=2)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    await range_server.wait_async(aborted=2, idle=True)
    reading = asyncio.create_task(array.getitem(slice(None)))
    await range_server.wait_async(held=2)
    range_server.release()
    np.testing.assert_array_equal(await reading, VALUES)


@pytest.mark.usefixtures("_hedging")
async def test_slow_put_has_no_second_one(range_server: RangeServer) -> None:
    array = await among_peers(range_server, CHUNKS, mode="r+")
    range_server.hold(SLOW, "PUT")
    writing = asyncio.create_task(array.setitem(slice(1024, 1088), 7))
    await range_server.wait_async(held=1)
    await assert_no_more_than(range_server, 1)
    range_server.release()
    await writing


READER = """
async def read():
    array = await zarr.api.asynchronous.open_array(store=http_store(sys.argv[1]), mode="r")
    for _ in range(40):
        await array.getitem(slice(0, 20))
    np.testing.assert_array_equal(await array.getitem(slice(640, None)), np.arange(640, 4096) + 1)

zarr.config.set({"codec_pipeline.hedge_factor": float(sys.argv[2]), "codec_pipeline.request_concurrent_maximum": 128})
asyncio.run(read())
print(zarrs_async.stats()["hedges"], zarrs_async.stats()["requests"])
"""


def test_second_requests_are_one_in_twenty(range_server: RangeServer) -> None:
    stored(range_server.root / "a", VALUES, **CHUNKS)
    range_server.hold(SLOW)
    with started(READER, f"{range_server.url}/a", FACTOR) as process:
        # After 40 fast requests there are 54 slow ones at once, of which the first to lose patience are hedged.
        range_server.wait(held=54 + 1)
        with pytest.raises(TimeoutError):
            range_server.wait(held=54 + 6, timeout_s=IN_VAIN_S)
        range_server.release()
        output, _ = process.communicate(timeout=60)
    hedges, requests = map(int, output.split())
    assert 1 <= hedges <= 5
    assert requests == 40 + 54 + hedges


@pytest.mark.usefixtures("_hedging")
async def test_second_request_that_fails_leaves_the_first_its_chance(
    range_server: RangeServer, native: ModuleType
) -> None:
    array = await among_peers(range_server, CHUNKS)
    hedges = native.stats()["hedges"]
    rules = [
        Rule(action="delay", path=SLOW, nth=1, delay_ms=2_000),
        Rule(action="status", path=SLOW, nth=2, status=403),
    ]
    range_server.config(rules=rules)
    np.testing.assert_array_equal(await array.getitem(PART), VALUES[PART])
    assert native.stats()["hedges"] == hedges + 1
