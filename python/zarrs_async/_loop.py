"""What happens on the event loop when the engine calls: results delivered, foreign stores served."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from zarr.abc.store import RangeByteRequest, SuffixByteRequest
from zarr.core.buffer import default_buffer_prototype

if TYPE_CHECKING:
    from collections.abc import Iterable

    from zarr.abc.store import ByteRequest, Store

    from zarrs_async._rust import Reply


def serve(
    resolved: Iterable[tuple[asyncio.Future[Any], BaseException | None, Any]],
    calls: Iterable[tuple[Store, str, str, Any, Reply]],
    cancelled: Iterable[asyncio.Task[None]],
) -> None:
    """Do all that has come for this loop since it was last woken.

    Parameters
    ----------
    resolved : Iterable
        Futures of batches that have ended, each with an exception or a result.
    calls : Iterable
        Calls of foreign stores: store, operation, key, argument, and where the answer goes.
    cancelled : Iterable
        Tasks of such calls that nobody waits for any more.
    """
    for future, error, result in resolved:
        if future.done():
            continue
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)
    for store, operation, key, argument, reply in calls:
        reply.started(asyncio.create_task(_call(store, operation, key, argument, reply)))
    for task in cancelled:
        task.cancel()


async def _call(store: Store, operation: str, key: str, argument: Any, reply: Reply) -> None:  # noqa: ANN401  # bytes, a range, or nothing
    try:
        if operation == "get":
            value = await store.get(key, default_buffer_prototype(), _byte_request(argument))
            reply.done(None if value is None else value.as_numpy_array())
        elif operation == "put":
            await store.set(key, default_buffer_prototype().buffer.from_bytes(argument))
            reply.done(None)
        else:
            await store.delete(key)
            reply.done(None)
    except BaseException as error:
        # Whatever a store raises is its answer; what is meant for the loop goes on to it.
        reply.failed(error)
        if not isinstance(error, Exception):
            raise


def _byte_request(argument: tuple[int, int] | int | None) -> ByteRequest | None:
    match argument:
        case None:
            return None
        case (start, end):
            return RangeByteRequest(start, end)
        case suffix:
            return SuffixByteRequest(suffix)
