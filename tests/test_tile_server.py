"""The example of a tile server, as its README starts it: a process of its own, over a real S3 server or over HTTP."""

from __future__ import annotations

import asyncio
import io
import json
import re
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pytest
from PIL import Image
from zarr.storage import LocalStore

from examples.tile_server.data import SIDE, Scale, temperatures, write_pyramid
from support.program import Serving, serving
from support.servers import Rule

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.servers import RangeServer

pytestmark = pytest.mark.long

PROGRAM = "examples/tile_server"
NB_TIMES, SIZE = 3, 600
NUMBERS = temperatures(NB_TIMES, SIZE)


class Answer(NamedTuple):
    """Status and body."""

    status: int
    body: bytes


def get(server: Serving, path: str) -> Answer:
    """Ask for a path."""
    try:
        with urllib.request.urlopen(f"{server.url}{path}") as answer:  # noqa: S310 - our own server
            return Answer(answer.status, answer.read())
    except urllib.error.HTTPError as error:
        with error:
            return Answer(error.code, error.read())


def stats(server: Serving) -> dict[str, Any]:
    """Return the counters of the server's process."""
    counters: dict[str, Any] = json.loads(get(server, "/stats").body)
    return counters


@pytest.fixture(scope="module")
def with_s3() -> Iterator[Serving]:
    """Start the example with an S3 server of its own."""
    with serving(PROGRAM, "--port", 0, "--times", NB_TIMES, "--size", SIZE) as server:
        yield server


@pytest.fixture
async def stored(range_server: RangeServer) -> str:
    """Write a pyramid to where the range server serves it, and return its URL."""
    await write_pyramid(LocalStore(range_server.root), NUMBERS)
    return range_server.url


@pytest.fixture
def over_http(stored: str) -> Iterator[Serving]:
    """Start the example over the pyramid of the range server."""
    with serving(PROGRAM, "--port", 0, "--data", stored) as server:
        yield server


@pytest.mark.parametrize("time", [0, 2])
@pytest.mark.parametrize("level", [0, 1, 2])
def test_each_pixel_of_a_tile_is_the_number_in_the_array(with_s3: Serving, time: int, level: int) -> None:
    expected = NUMBERS[time, :: 2**level, :: 2**level]
    read = np.zeros_like(expected)
    for row in range(-(-expected.shape[0] // SIDE)):
        for column in range(-(-expected.shape[1] // SIDE)):
            status, body = get(with_s3, f"/tiles/{time}/{level}/{row}/{column}.png")
            assert status == 200
            picture = np.asarray(Image.open(io.BytesIO(body)))
            read[row * SIDE :, column * SIDE :][: picture.shape[0], : picture.shape[1]] = picture
    np.testing.assert_array_equal(read, expected)


@pytest.mark.parametrize("pixel", [(0, 0), (599, 17), (255, 256)])
def test_a_series_is_that_of_its_pixel(with_s3: Serving, pixel: tuple[int, int]) -> None:
    status, body = get(with_s3, "/series/{}/{}".format(*pixel))
    assert status == 200
    assert json.loads(body)["degrees"] == Scale().degrees(NUMBERS[:, *pixel]).tolist()


def test_the_engine_does_all_reads(with_s3: Serving) -> None:
    before = stats(with_s3)
    get(with_s3, "/tiles/0/0/1/1.png")
    after = stats(with_s3)
    assert after["batches"] == before["batches"] + 1
    assert after["fallback_batches"] == 0


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/tiles/3/0/0/0.png", 404),
        ("/tiles/0/3/0/0.png", 404),
        ("/tiles/0/0/3/0.png", 404),
        ("/tiles/0/0/0/3.png", 404),
        (f"/tiles/0/0/{10**30}/0.png", 404),
        ("/series/600/0", 404),
        ("/series/0/600", 404),
        ("/tiles/0/0/0", 404),
        ("/tiles/0/0/0/0.jpg", 404),
        ("/tiles/-1/0/0/0.png", 422),
        ("/tiles/0/0/0/x.png", 422),
        ("/tiles/0/0/1.5/0.png", 422),
        (f"/tiles/{'9' * 5000}/0/0/0.png", 422),
        ("/series/0/-1", 422),
        ("/series/%00/%F0", 422),
    ],
)
def test_wrong_input_is_the_clients_fault(with_s3: Serving, path: str, status: int) -> None:
    assert get(with_s3, path).status == status


def test_a_told_end_ends_the_s3_server_too() -> None:
    with serving(PROGRAM, "--port", 0, "--times", 1, "--size", SIDE) as server:
        (endpoint,) = re.findall(r"S3 server listens at (\S+)", server.printed)
        server.process.terminate()
        assert server.process.wait() == 0
    with pytest.raises(urllib.error.URLError, match="refused"):
        urllib.request.urlopen(endpoint)  # noqa: S310 - our own server


async def test_a_client_that_leaves_takes_its_requests_along(over_http: Serving, range_server: RangeServer) -> None:
    range_server.reset_counts()
    range_server.hold("/c/")
    host, port = over_http.url.removeprefix("http://").split(":")
    _, writer = await asyncio.open_connection(host, port)
    writer.write(b"GET /tiles/0/0/0/0.png HTTP/1.1\r\nHost: tiles\r\n\r\n")
    await range_server.wait_async(held=1)
    writer.close()
    await writer.wait_closed()
    await range_server.wait_async(aborted=1, idle=True)
    while (counters := await asyncio.to_thread(stats, over_http))["clients_gone"] == 0:
        pass
    assert counters["batches_cancelled"] == 1
    assert counters["requests_in_flight"] == 0


async def test_a_client_that_leaves_stops_nobody_else(over_http: Serving, range_server: RangeServer) -> None:
    range_server.reset_counts()
    range_server.hold("/c/")
    host, port = over_http.url.removeprefix("http://").split(":")
    leaves, stays = [await asyncio.open_connection(host, port) for _ in range(2)]
    for number, (_, writer) in enumerate((leaves, stays)):
        writer.write(b"GET /tiles/0/0/0/0.png HTTP/1.1\r\nHost: tiles\r\nConnection: close\r\n\r\n")
        await range_server.wait_async(held=number + 1)
    leaves[1].close()
    await leaves[1].wait_closed()
    await range_server.wait_async(aborted=1)
    range_server.release()
    answer = await stays[0].read()
    stays[1].close()
    await stays[1].wait_closed()
    picture = Image.open(io.BytesIO(answer.partition(b"\r\n\r\n")[2]))
    np.testing.assert_array_equal(np.asarray(picture), NUMBERS[0, :SIDE, :SIDE])


def test_a_store_that_is_too_slow_is_a_504(stored: str, range_server: RangeServer) -> None:
    with serving(PROGRAM, "--port", 0, "--data", stored, "--timeout", 0.05) as server:
        range_server.reset_counts()
        range_server.hold("/c/")
        assert get(server, "/tiles/0/0/0/0.png").status == 504
        range_server.wait(aborted=1, idle=True)


def test_a_store_that_refuses_is_a_502(over_http: Serving, range_server: RangeServer) -> None:
    range_server.config(rules=[Rule(action="status", status=403, path="/c/")])
    assert get(over_http, "/tiles/0/0/0/0.png").status == 502
