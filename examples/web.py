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

    Receive = Callable[[], Awaitable[dict[str, Any]]]
    Send = Callable[[dict[str, Any]], Awaitable[None]]

zarr.config.set({"codec_pipeline.path": "zarrs_async.ZarrsAsyncCodecPipeline"})

URL = "https://example.com/brain.zarr"
TIMEOUT_S = 2.0


async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    """Open the volume when the server starts; answer each request with a plane."""
    if scope["type"] == "lifespan":
        await lifespan(scope, receive, send)
    elif scope["type"] == "http":
        answer = asyncio.ensure_future(plane(scope["state"]["volume"], scope["path"].removeprefix("/")))
        gone = asyncio.ensure_future(disconnected(receive))
        try:
            await asyncio.wait({answer, gone}, return_when=asyncio.FIRST_COMPLETED)
            if answer.done():
                await respond(send, *answer.result())
        finally:
            # Whichever came first, nobody waits for the other: a read that is cancelled closes its requests.
            answer.cancel()
            gone.cancel()


async def lifespan(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    """Open the volume, or say that the service cannot start."""
    await receive()
    try:
        store = ObjectStore(HTTPStore.from_url(URL), read_only=True)
        scope["state"]["volume"] = await open_array(store=store, mode="r")
    except Exception as error:  # noqa: BLE001  # whatever it is, the server shows it and ends
        await send({"type": "lifespan.startup.failed", "message": f"{URL} cannot be opened: {error!r}"})
        return
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await send({"type": "lifespan.shutdown.complete"})


async def plane(volume: zarr.AsyncArray[Any], name: str) -> tuple[HTTPStatus, bytes]:
    """Read a plane: 404 where there is none of this name, 504 where it takes too long."""
    if not (name.isascii() and name.isdecimal() and int(name) < volume.shape[0]):
        return HTTPStatus.NOT_FOUND, b"there is no such plane"
    try:
        async with asyncio.timeout(TIMEOUT_S):
            values: Any = await volume.getitem(int(name))
    except TimeoutError:
        return HTTPStatus.GATEWAY_TIMEOUT, b"the store is too slow"
    return HTTPStatus.OK, values.tobytes()


async def disconnected(receive: Receive) -> None:
    """Return once the client has gone; what comes before that is its request."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def respond(send: Send, status: HTTPStatus, body: bytes) -> None:
    """Send an answer."""
    content_type = b"application/octet-stream" if status is HTTPStatus.OK else b"text/plain"
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", content_type)]})
    await send({"type": "http.response.body", "body": body})
