"""The FastAPI application: tiles as PNG, time series as JSON, the page with the map, and counters."""

from __future__ import annotations

import asyncio
import io
from contextlib import asynccontextmanager
from pathlib import Path as FilePath
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import numpy as np
from fastapi import FastAPI, HTTPException, Path, Request, Response
from fastapi.responses import FileResponse, PlainTextResponse
from PIL import Image
from zarr.api.asynchronous import open_group

import zarrs_async
from zarrs_async.exceptions import StoreError

from .data import SIDE, Scale

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine

    import numpy.typing as npt
    from zarr.abc.store import Store

T = TypeVar("T")

PAGE = FilePath(__file__).with_name("page.html")
CLIENT_GONE = 499
"""The status that nginx logs for a client that has gone. Nobody receives it."""
# Blue, white, red: the picture stores the array's own numbers, and this table turns them into colours.
PALETTE = np.stack(
    [
        np.interp(np.arange(256), [0, 110, 140, 255], colour)
        for colour in ([20, 235, 245, 140], [60, 240, 235, 10], [150, 245, 225, 25])
    ],
    axis=1,
).astype(np.uint8)

Index = Annotated[int, Path(ge=0)]


class ClientGoneError(Exception):
    """The client has disconnected before the answer was there."""


def create_app(store: Store, timeout_s: float = 10.0) -> FastAPI:
    """Return an application that serves the pyramid in `store`.

    Parameters
    ----------
    store
        Holds the group that `data.write_pyramid` writes.
    timeout_s
        Seconds that an answer may take; 504 after that.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        # Opened once: connections and shard indexes live as long as the arrays do.
        group: Any = await open_group(store=store, mode="r")
        app.state.levels = [await group.getitem(f"{level}") for level in range(group.attrs["levels"])]
        app.state.clients_gone = 0
        yield

    app = FastAPI(title="Tiles", lifespan=lifespan)
    app.add_exception_handler(ClientGoneError, client_gone)
    app.add_exception_handler(TimeoutError, too_slow)
    app.add_exception_handler(StoreError, bad_store)

    @app.get("/", response_class=FileResponse)
    async def page() -> FilePath:
        return PAGE

    @app.get("/map")
    async def description(request: Request) -> dict[str, Any]:
        levels = request.app.state.levels
        nb_times, *size = levels[0].shape
        return {"times": nb_times, "size": size, "side": SIDE, "levels": len(levels)}

    @app.get("/tiles/{time}/{level}/{row}/{column}.png")
    async def tile(time: Index, level: Index, row: Index, column: Index, request: Request) -> Response:
        levels = request.app.state.levels
        if level >= len(levels):
            raise HTTPException(404, f"there are {len(levels)} levels")
        rows, columns = (slice(at * SIDE, (at + 1) * SIDE) for at in (row, column))
        nb_times, height, width = levels[level].shape
        if time >= nb_times or rows.start >= height or columns.start >= width:
            raise HTTPException(404, "there is no such tile")
        numbers = await unless_gone(request, levels[level].getitem((time, rows, columns)), timeout_s)
        return Response(png(numbers), media_type="image/png", headers={"cache-control": "max-age=3600"})

    @app.get("/series/{row}/{column}")
    async def series(row: Index, column: Index, request: Request) -> dict[str, list[float]]:
        array = request.app.state.levels[0]
        if row >= array.shape[1] or column >= array.shape[2]:
            raise HTTPException(404, "there is no such pixel")
        numbers = await unless_gone(request, array.getitem((slice(None), row, column)), timeout_s)
        return {"degrees": Scale().degrees(numbers).tolist()}

    @app.get("/stats")
    async def stats(request: Request) -> dict[str, Any]:
        return {"clients_gone": request.app.state.clients_gone, **zarrs_async.stats()}

    return app


async def unless_gone(request: Request, reading: Coroutine[Any, Any, T], timeout_s: float) -> T:
    """Await a read; cancel it as soon as the client has disconnected, or when the time is over.

    Raises
    ------
    ClientGoneError
        The client has disconnected. The requests that only it wanted are closed.
    TimeoutError
        It took too long; they are closed then, too.
    """
    read = asyncio.ensure_future(reading)
    gone = asyncio.ensure_future(disconnected(request))
    try:
        async with asyncio.timeout(timeout_s):
            await asyncio.wait({read, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not read.done():
            raise ClientGoneError
        return read.result()
    finally:
        read.cancel()
        gone.cancel()


async def disconnected(request: Request) -> None:
    """Return once the client has gone.

    Notes
    -----
    Waiting for the server's message costs nothing and is told at once; `Request.is_disconnected` only looks, and would
    have to be asked again and again.
    """
    while (await request.receive())["type"] != "http.disconnect":
        pass


def png(numbers: npt.NDArray[np.uint8]) -> bytes:
    """Return a picture whose pixels are the numbers themselves, shown in the colours of the palette."""
    image = Image.fromarray(numbers)
    image.putpalette(PALETTE.tobytes())
    content = io.BytesIO()
    image.save(content, "PNG", compress_level=1)
    return content.getvalue()


async def client_gone(request: Request, _: Exception) -> Response:
    """Count a client that has gone; the answer goes nowhere."""
    request.app.state.clients_gone += 1
    return Response(status_code=CLIENT_GONE)


async def too_slow(_: Request, __: Exception) -> Response:
    """Say that there was no answer in time."""
    return PlainTextResponse("the store is too slow", 504)


async def bad_store(_: Request, error: Exception) -> Response:
    """Say that the store failed; what exactly is for the log and not for clients."""
    print(f"the store failed: {error!r}", flush=True)
    return PlainTextResponse("the store does not answer as it should", 502)
