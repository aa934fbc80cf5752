"""What happens on the event loop when the engine calls: results delivered, foreign stores served."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from zarr.abc.store import RangeByteRequest, SuffixByteRequest
from zarr.core.buffer import cpu

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

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
    steps: list[tuple[Callable[..., None], Any]] = [
        *((_resolve, future) for future in resolved),
        *((_start, call) for call in calls),
        *((_cancel, (task,)) for task in cancelled),
    ]
    loop = asyncio.get_running_loop()
    for at, (step, arguments) in enumerate(steps, start=1):
        try:
            step(*arguments)
        except Exception as error:  # noqa: BLE001  # what is wrong with one must not lose the others
            loop.call_exception_handler({"message": "zarrs_async could not deliver to this loop", "exception": error})
        except BaseException:
            # As a KeyboardInterrupt, which ends this run of the loop: the rest waits for the next.
            loop.call_soon(_go_on, steps[at:])
            raise


def _go_on(steps: list[tuple[Callable[..., None], Any]]) -> None:
    for step, arguments in steps:
        step(*arguments)


def _resolve(future: asyncio.Future[Any], error: BaseException | None, result: Any) -> None:  # noqa: ANN401  # a result
    if future.done():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)


def _start(store: Store, operation: str, key: str, argument: Any, reply: Reply) -> None:  # noqa: ANN401  # as `_call`
    call = _call(store, operation, key, argument, reply)
    try:
        reply.started(asyncio.create_task(call))
    except BaseException as error:
        call.close()
        reply.failed(error)
        raise


def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()


async def _call(store: Store, operation: str, key: str, argument: Any, reply: Reply) -> None:  # noqa: ANN401  # bytes, a range, or nothing
    try:
        if operation == "get":
            value = await store.get(key, cpu.buffer_prototype, _byte_request(argument))
            reply.done(None if value is None else value.as_numpy_array())
        elif operation == "put":
            await store.set(key, cpu.Buffer.from_bytes(argument))
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
