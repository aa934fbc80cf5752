"""A service of planes: an ASGI application that reads one plane of a volume for each request.

Any ASGI server runs it, for one ``uvicorn web:app``; ``GET /17`` gives plane 17 as raw bytes.
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import zarr
from obstore.store import HTTPStore
from zarr.api.asynchronous import open_array
from zarr.storage import ObjectStore

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

zarr.config.set({"codec_pipeline.path": "zarrs_async.ZarrsAsyncCodecPipeline"})

URL = "https://example.com/brain.zarr"
TIMEOUT_S = 2.0


async def app(
    scope: dict[str, Any],
    receive: Callable[[], Awaitable[dict[str, Any]]],
    send: Callable[[dict[str, Any]], Awaitable[None]],
) -> None:
    """Open the volume when the server starts; answer each request with a plane, or with 504 where it takes too long."""
    if scope["type"] == "lifespan":
        await receive()
        store = ObjectStore(HTTPStore.from_url(URL), read_only=True)
        scope["state"]["volume"] = await open_array(store=store, mode="r")
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    try:
        async with asyncio.timeout(TIMEOUT_S):
            plane = await scope["state"]["volume"].getitem(int(scope["path"][1:]))
        status, body = HTTPStatus.OK, plane.tobytes()
    except TimeoutError:
        status, body = HTTPStatus.GATEWAY_TIMEOUT, b"the store is too slow"
    headers = [(b"content-type", b"application/octet-stream")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
