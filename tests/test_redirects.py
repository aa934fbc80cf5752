"""Redirects: reads follow them, and take to another server nothing but what they ask for there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr
from obstore.store import S3Store
from zarr.storage import ObjectStore, StorePath

from support.remote import opened, ranges, stored
from support.servers import RangeServer, Rule

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

    from zarr import AsyncArray

# Our pipeline is on, and nothing may fall back.
pytestmark = pytest.mark.usefixtures("native")

VALUES = np.arange(64, dtype="uint16") + 1
# What a server may be told that is not the one that was asked.
HARMLESS = {"accept", "host", "if-match", "range", "user-agent"}
STATUSES = (301, 302, 303, 307, 308)


@pytest.fixture
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RangeServer]:
    """Start a server that holds the chunk to which another server points."""
    with RangeServer(tmp_path_factory.mktemp("elsewhere")) as server:
        stored(server.root / "a", VALUES, chunks=(64,))
        yield server


def point(server: RangeServer, to: str, status: int = 307) -> None:
    """Have a server point somewhere else for a chunk, of which it has zeros; beside it, at `b`, is the right one."""
    stored(server.root / "a", VALUES * 0, chunks=(64,), config={"write_empty_chunks": True})
    stored(server.root / "b", VALUES, chunks=(64,))
    # With S3, the bucket comes first.
    rule = Rule(action="status", path="(a|bucket)/c/0$", status=status, headers={"Location": to})
    server.config(rules=[rule])


async def signed(server: RangeServer) -> AsyncArray[Any]:
    """Open the array through a store that signs its requests, and sends more than the signature that is secret."""
    store = ObjectStore(
        S3Store(
            "bucket",
            endpoint=server.url,
            region="us-east-1",
            access_key_id="id",
            secret_access_key="secret",  # noqa: S106 - nobody's
            session_token="token",  # noqa: S106 - nobody's
            client_options={"allow_http": True},
        )
    )
    array = await opened(server)
    return zarr.AsyncArray(metadata=array.metadata, store_path=StorePath(store))


@pytest.mark.parametrize("status", STATUSES)
async def test_read_follows_a_redirect_to_another_server(
    range_server: RangeServer, elsewhere: RangeServer, status: int
) -> None:
    point(range_server, f"{elsewhere.url}/a/c/0", status)
    array = await opened(range_server)
    np.testing.assert_array_equal(await array.getitem(...), VALUES)


async def test_read_follows_a_redirect_without_scheme_and_host(range_server: RangeServer) -> None:
    point(range_server, "../../b/c/0", 302)
    array = await opened(range_server)
    np.testing.assert_array_equal(await array.getitem(...), VALUES)


@pytest.mark.parametrize("name", ["Authorization", "Cookie", "X-Api-Key", "Range-Key"])
async def test_headers_of_the_store_do_not_follow_to_another_server(
    range_server: RangeServer, elsewhere: RangeServer, native: ModuleType, name: str
) -> None:
    point(range_server, f"{elsewhere.url}/a/c/0")
    headers: Any = {name: "abc"}
    array = await opened(range_server, default_headers=headers)
    elsewhere.reset_counts()
    np.testing.assert_array_equal(await array.getitem(...), VALUES)
    assert [set(logged["headers"]) - HARMLESS for logged in elsewhere.log()] == [set()]
    assert [name.lower() in logged["headers"] for logged in range_server.log()] == [True]
    # Whoever asks with the header is answered now.
    elsewhere.config(require_header=f"{name}: abc")
    with pytest.raises(native.exceptions.StorePermissionError, match="401"):
        await array.getitem(...)
    direct = await opened(elsewhere, default_headers=headers)
    np.testing.assert_array_equal(await direct.getitem(...), VALUES)


async def test_headers_of_the_store_follow_within_its_server(range_server: RangeServer) -> None:
    point(range_server, f"{range_server.url}/b/c/0")
    headers: Any = {"X-Api-Key": "abc"}
    array = await opened(range_server, default_headers=headers)
    np.testing.assert_array_equal(await array.getitem(...), VALUES)
    assert ["x-api-key" in logged["headers"] for logged in range_server.log()] == [True, True]


async def test_headers_of_the_store_do_not_come_back_with_a_redirect(
    range_server: RangeServer, elsewhere: RangeServer
) -> None:
    """Another server that points back chooses the path, and must not have it asked for with the store's rights."""
    point(range_server, f"{elsewhere.url}/a/c/0")
    back = {"Location": f"{range_server.url}/b/c/0"}
    elsewhere.config(rules=[Rule(action="status", path="c/0$", status=307, headers=back)])
    headers: Any = {"X-Api-Key": "abc"}
    array = await opened(range_server, default_headers=headers)
    np.testing.assert_array_equal(await array.getitem(...), VALUES)
    assert ["x-api-key" in logged["headers"] for logged in range_server.log()] == [True, False]


async def test_query_of_the_store_does_not_follow_as_referer(range_server: RangeServer, elsewhere: RangeServer) -> None:
    point(range_server, f"{elsewhere.url}/a/c/0")
    array = await opened(range_server, name="a?signature=abc")
    elsewhere.reset_counts()
    np.testing.assert_array_equal(await array.getitem(...), VALUES)
    assert [set(logged["headers"]) - HARMLESS for logged in elsewhere.log()] == [set()]


async def test_session_token_does_not_follow_to_another_server(
    range_server: RangeServer, elsewhere: RangeServer
) -> None:
    point(range_server, f"{elsewhere.url}/a/c/0")
    array = await signed(range_server)
    elsewhere.reset_counts()
    np.testing.assert_array_equal(await array.getitem(...), VALUES)
    assert [set(logged["headers"]) - HARMLESS for logged in elsewhere.log()] == [set()]


@pytest.mark.usefixtures("byte_ranges")
async def test_byte_range_follows_to_another_server(range_server: RangeServer, elsewhere: RangeServer) -> None:
    layout: dict[str, Any] = {"chunks": (4,), "shards": (64,)}
    for server in (range_server, elsewhere):
        stored(server.root / "s", VALUES, **layout)
    to = {"Location": f"{elsewhere.url}/s/c/0"}
    range_server.config(rules=[Rule(action="status", path="c/0$", status=302, headers=to)])
    array = await opened(range_server, name="s")
    elsewhere.reset_counts()
    np.testing.assert_array_equal(await array.getitem(slice(8, 12)), VALUES[8:12])
    assert ranges(elsewhere) == ranges(range_server)
    assert None not in ranges(elsewhere)


async def test_redirects_without_end_are_an_error(range_server: RangeServer, native: ModuleType) -> None:
    point(range_server, f"{range_server.url}/a/c/0")
    array = await opened(range_server)
    with pytest.raises(native.exceptions.StoreError, match="307 Temporary Redirect"):
        await array.getitem(...)
    # The first request, and ten that follow.
    assert len(range_server.log()) == 11


@pytest.mark.parametrize("to", ["file:///etc/passwd", "ftp://127.0.0.1/a", "http://["])
async def test_redirect_that_is_no_http_url_is_an_error(range_server: RangeServer, native: ModuleType, to: str) -> None:
    point(range_server, to, 302)
    array = await opened(range_server)
    with pytest.raises(native.exceptions.StoreError, match="302 Found"):
        await array.getitem(...)


async def test_write_follows_no_redirect(range_server: RangeServer, elsewhere: RangeServer, native: ModuleType) -> None:
    point(range_server, f"{elsewhere.url}/a/c/0")
    array = await opened(range_server, mode="r+")
    elsewhere.reset_counts()
    with pytest.raises(native.exceptions.StoreError, match="307 Temporary Redirect"):
        await array.setitem(slice(None), VALUES)
    assert elsewhere.log() == []
