"""Who watches batches: logging, and what is put up for a while, as progress bars. Where nobody does, nothing is done.

Python sees when a batch begins and ends. What only the engine knows, as retries, is told at the end of a batch, by
what its counters have grown since the last one.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from zarrs_async import _rust, _tables

if TYPE_CHECKING:
    from collections.abc import Iterator

logger = logging.getLogger("zarrs_async")

_EVENTS = {
    "retries": "sent again after a failure: %s",
    "hedges": "sent a second time because the first was slow: %s",
    "replans": "planned anew because a shard had been replaced: %s",
    "write_conflicts": "merged again because another process had stored the chunk: %s",
}
_NOUNS = {"retries": "request", "hedges": "request", "replans": "read", "write_conflicts": "write"}


@dataclass(frozen=True)
class Batch:
    """A batch of the engine's, as it begins.

    Attributes
    ----------
    operation : str
        ``"read"`` or ``"write"``.
    key : str
        Of its first chunk.
    chunks : int
        Chunks, or shards.
    nbytes : int
        Bytes of the output, or of the values.
    sharded : bool
        Whether its chunks are shards.
    """

    operation: str
    key: str
    chunks: int
    nbytes: int
    sharded: bool


class Observer(Protocol):
    """Sees batches begin and end, on the threads of their event loops."""

    def begin(self, batch: Batch) -> None:
        """See a batch begin."""

    def end(self, batch: Batch, error: BaseException | None) -> None:
        """See a batch end; with what it raised."""


observers: list[Observer] = []
_told: dict[str, int] = {}
"""The counters of `_EVENTS`, as far as they are logged."""

if hasattr(os, "register_at_fork"):
    # The engine's counters begin anew in a child.
    os.register_at_fork(after_in_child=_told.clear)


def watched() -> bool:
    """Tell whether anybody watches."""
    return bool(observers) or logger.isEnabledFor(logging.INFO)


@contextlib.contextmanager
def watching(start: Any, keys: list[str], nbytes: int) -> Iterator[None]:  # noqa: ANN401  # a method of the engine's array
    """Show a batch to all who watch.

    Parameters
    ----------
    start
        ``read`` or ``write`` of the engine's array.
    keys
        The keys of its chunks.
    nbytes
        Bytes of the output, or of the values.
    """
    sharded = "sharding_indexed" in start.__self__.layout
    batch = Batch(start.__name__, keys[0] if keys else "", len(keys), nbytes, sharded)
    present, begun = tuple(observers), time.perf_counter()
    if not _told:
        _told.update(_rust.stats())
    for observer in present:
        observer.begin(batch)
    raised: BaseException | None = None
    try:
        yield
    except BaseException as error:
        raised = error
        raise
    finally:
        for observer in present:
            observer.end(batch, raised)
        _log(batch, raised, time.perf_counter() - begun)


def _log(batch: Batch, raised: BaseException | None, seconds: float) -> None:
    if not logger.isEnabledFor(logging.INFO):
        return
    now = _rust.stats()
    for name, text in _EVENTS.items():
        more = now[name] - _told.get(name, 0)
        if more > 0:
            logger.info(text, _tables.counted(more, _NOUNS[name]))
    _told.update(now)
    logger.debug(
        "%s of %s from %s on, %s: %s after %.1f ms",
        batch.operation,
        _tables.counted(batch.chunks, "shard" if batch.sharded else "chunk"),
        batch.key,
        _tables.size(batch.nbytes),
        _outcome(raised),
        seconds * 1e3,
    )


def _outcome(raised: BaseException | None) -> str:
    match raised:
        case None:
            return "done"
        case asyncio.CancelledError():
            return "cancelled"
        case _:
            return f"failed with {type(raised).__name__}"
