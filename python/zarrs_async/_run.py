"""A batch of the engine's, awaited on the running loop and stopped when the await is cancelled."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

from zarrs_async import _observe, _rust
from zarrs_async.exceptions import ShutdownError

if TYPE_CHECKING:
    from collections.abc import Callable

_NOTES = 3
"""Failures that are told of a batch that is cancelled."""


async def run(
    start: Callable[..., _rust.Running], arguments: tuple[Any, ...], keys: Callable[[], list[str]], nbytes: int
) -> Any:  # noqa: ANN401  # the result of the batch
    """Await a batch of the engine's; when cancelled, return only once nothing touches its array.

    Parameters
    ----------
    start
        ``read`` or ``write`` of the engine's array.
    arguments
        What it takes after the future that gets the result.
    keys
        Gives the keys of the chunks.
    nbytes
        Bytes of the output, or of the values.
    """
    if not _observe.watched():
        return await _run(start, arguments, keys)
    with _observe.watching(start, keys(), nbytes):
        return await _run(start, arguments, keys)


async def _run(start: Callable[..., _rust.Running], arguments: tuple[Any, ...], keys: Callable[[], list[str]]) -> Any:  # noqa: ANN401  # as `run`
    loop = asyncio.get_running_loop()
    if _rust.begin_call(loop):
        # Calls of one iteration of the loop may share what they fetch.
        loop.call_soon(_rust.end_iteration)
    future = loop.create_future()
    running = start(future, *arguments)
    try:
        return await future
    except asyncio.CancelledError as error:
        _note_failures(error, keys())
        running.abort()
        await _drained(running)
        raise
    except BaseException as error:
        # A batch that fails has ended. After anything else, as KeyboardInterrupt, nothing can be awaited.
        if not isinstance(error, Exception):
            running.stop()
        raise


def _note_failures(error: asyncio.CancelledError, keys: list[str]) -> None:
    """Say what went wrong so far: under a deadline, a store that fails looks like one that is slow."""
    wanted = set(keys)
    failures = [words for key, words in _rust.failing() if key in wanted]
    for words in failures[:_NOTES]:
        error.add_note(f"when this was cancelled, it was to be tried again: {words}")
    if len(failures) > _NOTES:
        error.add_note(f"and {len(failures) - _NOTES} more")


async def _drained(running: _rust.Running) -> None:
    """Wait until nothing touches the batch's array any more, however often we are cancelled."""
    drained = asyncio.get_running_loop().create_future()
    try:
        running.drained(drained)
    except ShutdownError:
        running.stop()
        return
    while not drained.done():
        with contextlib.suppress(asyncio.CancelledError):
            # Unlike `await drained`, this does not cancel what is waited for.
            await asyncio.wait([drained])
