"""Random mini-batches of the rows of a sharded array, read ahead by threads or by worker processes.

`Rows` is a data set for PyTorch's ``DataLoader``. `Loader` stands in for that where there is no PyTorch. This module
imports neither, so that workers start fast.
"""

from __future__ import annotations

import multiprocessing
from collections import deque
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt
import zarr

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Batch = npt.NDArray[np.float32]
PIPELINE = "zarrs_async.ZarrsAsyncCodecPipeline"


@dataclass(frozen=True)
class Rows:
    """The rows of a 2-d array, read a mini-batch at a time.

    Parameters
    ----------
    path
        Of the array.
    options
        Of ``zarr.config``, set before the array is opened. The bounds among them hold for each process.

    Notes
    -----
    The array is opened at the first read of each process and never pickled: so the options are set first, with every
    start method of multiprocessing.
    """

    path: str
    options: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def array(self) -> zarr.Array[Any]:
        """The open array."""
        zarr.config.set({"codec_pipeline.path": PIPELINE, **self.options})
        return zarr.open_array(self.path, mode="r")

    def __len__(self) -> int:
        """Return the number of rows."""
        return int(self.array.shape[0])

    def __getitem__(self, row: int) -> Batch:
        """Read one row."""
        return np.asarray(self.array[row])

    def __getitems__(self, rows: list[int]) -> Batch:
        """Read a mini-batch at once; PyTorch's ``DataLoader`` calls this where a data set has it.

        Returns
        -------
        numpy.ndarray
            Shape ``(len(rows), columns)``, in the order of `rows`.
        """
        return np.asarray(self.array.oindex[np.asarray(rows), :])

    def __getstate__(self) -> dict[str, Any]:
        """Leave the open array behind."""
        return {"path": self.path, "options": self.options}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Know the path and the options again."""
        self.__dict__.update(state)


def shuffled_rows(nb_rows: int, batch_size: int, random: np.random.Generator) -> Iterator[list[int]]:
    """Yield mini-batches of rows from anywhere: as random as can be, and a chunk is decoded for nearly every row."""
    order = random.permutation(nb_rows)
    for start in range(0, nb_rows, batch_size):
        yield order[start : start + batch_size].tolist()


def shuffled_chunks(
    nb_rows: int, batch_size: int, random: np.random.Generator, *, rows_per_chunk: int, chunks_at_once: int = 8
) -> Iterator[list[int]]:
    """Yield mini-batches of rows that are shuffled within some random chunks: few chunks for each mini-batch.

    Parameters
    ----------
    nb_rows
        Of the array.
    batch_size
        Rows of a mini-batch.
    random
        What draws.
    rows_per_chunk
        Rows of a chunk, or of a subchunk of shards.
    chunks_at_once
        Chunks whose rows are mixed.
    """
    chunks = random.permutation(-(-nb_rows // rows_per_chunk))
    for start in range(0, len(chunks), chunks_at_once):
        firsts = chunks[start : start + chunks_at_once] * rows_per_chunk
        rows = (firsts[:, None] + np.arange(rows_per_chunk)).ravel()
        rows = random.permutation(rows[rows < nb_rows])
        for first in range(0, len(rows), batch_size):
            yield rows[first : first + batch_size].tolist()


class Loader:
    """Reads mini-batches ahead, and gives them in order.

    Parameters
    ----------
    rows
        Where they come from.
    workers
        Processes that read; none for threads of this one, which is as fast unless Python code works on each row.
    start_method
        Of the processes: ``fork``, ``spawn`` or ``forkserver``.
    ahead
        Mini-batches under way at most.

    Examples
    --------
    >>> with Loader(Rows("samples.zarr"), workers=2) as loader:
    ...     for batch in loader.read(shuffled_rows(len(loader.rows), 256, random)):
    ...         step(batch)
    """

    def __init__(self, rows: Rows, workers: int = 0, start_method: str = "spawn", ahead: int = 4) -> None:
        self.rows, self.ahead = rows, ahead
        self._executor: Executor
        self._read: Callable[[list[int]], Batch]
        if workers:
            context = multiprocessing.get_context(start_method)
            self._executor = ProcessPoolExecutor(workers, context, initializer=_set_up, initargs=(rows,))
            self._read = _read_in_worker
        else:
            self._executor = ThreadPoolExecutor(ahead)
            self._read = rows.__getitems__

    def __enter__(self) -> Self:
        """Return the loader; its workers start with the first mini-batch."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the workers; what nobody has begun to read is not read."""
        self._executor.shutdown(cancel_futures=True)

    def read(self, batches: Iterator[list[int]]) -> Iterator[Batch]:
        """Yield the values of each mini-batch, while the next ones are on their way."""
        under_way: deque[Future[Batch]] = deque()
        try:
            for rows in islice(batches, self.ahead):
                under_way.append(self._executor.submit(self._read, rows))
            while under_way:
                yield under_way.popleft().result()
                for rows in islice(batches, 1):
                    under_way.append(self._executor.submit(self._read, rows))
        finally:
            for future in under_way:
                future.cancel()


_rows: Rows


def _set_up(rows: Rows) -> None:
    """Give a worker process its rows: sent once, so that they are opened once."""
    global _rows  # noqa: PLW0603 - a worker has one data set
    _rows = rows


def _read_in_worker(rows: list[int]) -> Batch:
    """Read a mini-batch."""
    return _rows.__getitems__(rows)
