"""Arrays over HTTP: written by zarr's default pipeline, served by the range server, opened there, and what it saw."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import zarr.api.asynchronous
from obstore.store import HTTPStore
from oracle import DEFAULT, created
from zarr.storage import LocalStore, ObjectStore

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType

    from zarr import AsyncArray

    from .range_client import RangeServer


def stored(path: Path, values: Any, **layout: Any) -> None:
    """Write an array to a directory, uncompressed unless its layout says otherwise."""
    created(LocalStore(path), DEFAULT, data=values, **{"compressors": None, **layout})


def http_store(url: str, retry_config: Any = None, **client_options: Any) -> ObjectStore[HTTPStore]:
    """Return a store that has a client of its own where no other has the same options."""
    options: Any = {"allow_http": True, **client_options}
    return ObjectStore(HTTPStore.from_url(url, client_options=options, retry_config=retry_config))


async def opened(
    server: RangeServer, name: str = "a", *, mode: Any = "r", url: str | None = None, **options: Any
) -> AsyncArray[Any]:
    """Open an array with the configured pipeline; `options` are the store's, and the server's counts begin again."""
    store = http_store(f"{url or server.url}/{name}", **options)
    array = await zarr.api.asynchronous.open_array(store=store, mode=mode)
    server.reset_counts()
    return array


async def served(
    server: RangeServer, values: Any, *, name: str = "a", mode: Any = "r", **layout: Any
) -> AsyncArray[Any]:
    """Write an array to where the server serves, and open it there."""
    stored(server.root / name, values, **layout)
    return await opened(server, name, mode=mode)


def ranges(server: RangeServer) -> list[str | None]:
    """Return the range of each request, in the order of arrival."""
    return [logged["range"] for logged in server.log()]


async def until_shared(package: ModuleType, count: int) -> None:
    """Wait until so many fetches have been shared since the process began, for 30 s at most."""
    async with asyncio.timeout(30):
        while package.stats()["flights_shared"] < count:  # noqa: ASYNC110 - counters have no event
            await asyncio.sleep(0)
