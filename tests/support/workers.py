"""What worker processes run, in a module that every start method of multiprocessing can import."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from multiprocessing.queues import Queue

    import zarr


def row_sum(array: zarr.Array[Any], row: int) -> int:
    """Read a row by the synchronous interface."""
    return int(np.asarray(array[row]).sum())


def write_row(array: zarr.Array[Any], row: int, value: int) -> None:
    """Write a row by the synchronous interface."""
    array[row] = value


def serve_rows(arrays: list[zarr.Array[Any]], tasks: Queue[int | None], results: Queue[Any]) -> None:
    """Read rows on a loop of one's own, several at once, until told to end by None; then say what the engine did."""
    import zarrs_async  # noqa: PLC0415 - the worker's own

    async def serve() -> None:
        while True:
            row = await asyncio.to_thread(tasks.get)
            if row is None:
                return
            read: Any = await asyncio.gather(*(array.async_array.getitem(row) for array in arrays))
            results.put((row, [int(np.asarray(values).sum()) for values in read]))

    asyncio.run(serve())
    stats = zarrs_async.stats()
    results.put((None, (stats["batches"], stats["fallback_batches"])))
