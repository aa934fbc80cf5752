"""Bars that show how far reads and writes are."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, Any

from zarrs_async import _observe
from zarrs_async._stats import stats

if TYPE_CHECKING:
    from collections.abc import Iterator

_SECONDS = 0.1
"""Between two looks at the engine's counters."""


@contextlib.contextmanager
def progress(**options: Any) -> Iterator[None]:  # noqa: ANN401  # whatever tqdm takes
    """Show bars of chunks and bytes over all reads and writes of the process within a block.

    Parameters
    ----------
    **options
        For both bars, as tqdm takes them: ``disable``, ``leave``, ``file`` and so on.

    Raises
    ------
    ImportError
        Where tqdm is not installed.

    Notes
    -----
    The chunks are those of the batches that have begun, so that their number grows as reads are started. Shards count
    when all of their batch is done. The bytes are encoded ones, of which the number is not known beforehand. What
    zarr's default pipeline does is not shown.

    Examples
    --------
    >>> with zarrs_async.progress():  # doctest: +SKIP
    ...     array[:]
    """
    try:
        from tqdm.auto import tqdm  # noqa: PLC0415  # it need not be installed
    except ImportError as error:
        msg = "progress bars are tqdm's: pip install 'zarrs-async[progress]'"
        raise ImportError(msg) from error
    with (
        tqdm(total=0, unit="chunk", desc="chunks", **options) as chunks,
        tqdm(unit="B", desc="bytes", unit_scale=True, unit_divisor=1024, **options) as nbytes,
    ):
        bars = _Bars(chunks, nbytes)
        _observe.observers.append(bars)
        try:
            with bars.followed():
                yield
        finally:
            _observe.observers.remove(bars)


class _Bars:
    """Both bars, and the thread that follows the engine's counters while batches are under way."""

    def __init__(self, chunks: Any, nbytes: Any) -> None:  # noqa: ANN401  # tqdm's class depends on where it is shown
        self._chunks, self._nbytes = chunks, nbytes
        self._before = stats()
        # Event loops in several threads may begin and end batches at once.
        self._lock = threading.Lock()
        self._begun = self._ended = 0
        self._sharded = False

    def begin(self, batch: _observe.Batch) -> None:
        with self._lock:
            self._begun += batch.chunks
            self._sharded |= batch.sharded

    def end(self, batch: _observe.Batch, _error: BaseException | None) -> None:
        with self._lock:
            self._ended += batch.chunks

    @contextlib.contextmanager
    def followed(self) -> Iterator[None]:
        """Move the bars from a thread, as the caller's waits for zarr."""
        over = threading.Event()

        def follow() -> None:
            while not over.wait(_SECONDS):
                self._show()

        thread = threading.Thread(target=follow, name="zarrs-async-progress", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
            self._show()

    def _show(self) -> None:
        counted = stats().since(self._before)
        with self._lock:
            begun, ended = self._begun, self._ended
        # Subchunks are counted by the engine too, but how many there will be is not known.
        worked = 0 if self._sharded else counted["chunks_decoded"] + counted["chunks_missing"]
        self._chunks.total = begun
        self._chunks.n = max(ended, min(worked, begun))
        self._nbytes.n = counted["bytes_read"] + counted["bytes_written"]
        self._chunks.refresh()
        self._nbytes.refresh()
