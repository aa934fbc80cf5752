"""The engine, as the package sees it: an array made once, batches that run on it, and what the process shares."""
# ruff: noqa: PYI021 - what an editor shows of a compiled module is what stands here

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any, final

import numpy.typing as npt

from zarrs_async._config import Options
from zarrs_async._stores import Description

__all__ = [
    "Direct",
    "NativeArray",
    "Plan",
    "Reply",
    "Running",
    "Selected",
    "begin_call",
    "configure",
    "cpus",
    "end_iteration",
    "error_kinds",
    "failing",
    "held",
    "is_native",
    "shutdown",
    "stats",
]

@final
class NativeArray:
    """An array whose chunks the engine reads and writes.

    Parameters
    ----------
    metadata : str
        How chunks are encoded, as JSON: ``codecs`` of Zarr v3; or ``filters``, ``compressor``, ``order`` and
        ``ndim`` of Zarr v2. ``{"name": "foreign", "configuration": {"number": n}}`` in place of a codec, or of
        the first codecs of a chain, is the step of that number; so is ``first``, in place of all of Zarr v2,
        where ``texts`` names the filter that makes bytes of elements of any length.
    steps : list
        The array's codecs that Python runs, each a ``zarrs_async._codecs.Step``.
    element : tuple[int, str, int, bool]
        Bytes of one element, how it compares (``"bits"``, ``"float"``, ``"complex"``, ``"text"``, ``"binary"``
        or ``"foreign"``), bytes of the parts that a change of byte order reverses, and whether it is big-endian
        in memory. Texts and binary elements have any length: arrays hold references to them.
    fill : bytes
        The fill value, one element, or its bytes where elements have any length.
    store : Description
        Where the chunks are, a ``zarrs_async._stores.Description``.
    options : Options
        ``zarrs_async._config.Options``, of which ``chunk_concurrent_maximum``, ``chunk_concurrent_minimum``,
        ``validate_checksums``, ``hedge_factor`` and ``coalesce`` are read: the last is the gap and size in bytes up
        to which byte ranges are merged where an array's own settings do not say.

    Raises
    ------
    UnsupportedError
        When a codec, a data type or a store's setting is not known to the engine.
    """

    def __new__(
        cls,
        metadata: str,
        steps: list[Any],
        element: tuple[int, str, int, bool],
        fill: bytes,
        store: Description,
        options: Options,
    ) -> NativeArray: ...
    def read(
        self,
        future: asyncio.Future[tuple[Mapping[str, str], ...]],
        batch_info: Iterable[tuple[Any, ...]],
        out: npt.NDArray[Any],
        drop_axes: tuple[int, ...],
    ) -> Running:
        """Start to read a batch.

        Parameters
        ----------
        future : asyncio.Future
            Of the running loop; gets the result, zarr's ``GetResult`` for each chunk.
        batch_info : Iterable
            zarr's: byte getter, array spec, chunk selection, out selection, is complete.
        out : numpy.ndarray
            Where the elements go; must not be touched before the batch has ended.
        drop_axes : tuple[int, ...]
            Axes of the chunk selections that `out` does not have.

        Returns
        -------
        Running
            The batch under way.
        """

    def write(
        self,
        future: asyncio.Future[None],
        batch_info: Iterable[tuple[Any, ...]],
        value: npt.NDArray[Any],
        drop_axes: tuple[int, ...],
    ) -> Running:
        """Start to write a batch; see `read`."""

    def plan(
        self,
        batch_info: Iterable[tuple[Any, ...]],
        out: npt.NDArray[Any],
        drop_axes: tuple[int, ...],
    ) -> Plan:
        """Tell what reading a batch would do, without doing it; arguments as for `read`.

        Returns
        -------
        Plan
            How many of each there would be.
        """

    @property
    def bridged(self) -> bool:
        """Whether the store's own ``get`` and ``set`` are awaited."""

    @property
    def python_codecs(self) -> tuple[str, ...]:
        """Names of the steps that Python runs."""

    @property
    def layout(self) -> str:
        """How chunks are encoded, in one line."""

@final
class Direct:
    """An array with its chunk grid.

    Parameters
    ----------
    native : NativeArray
        Reads and writes the chunks.
    shape, chunks : tuple[int, ...]
        Elements along each axis of the array, and of a chunk or shard.
    keys : tuple[str, str | None, str]
        The array's path in its store, what stands before the numbers in the name of a chunk, and what stands
        between them.
    write_empty_chunks : bool
        Whether chunks that equal the fill value are stored.
    coalesce : tuple[int, int]
        Gap and size in bytes up to which byte ranges are merged.

    Raises
    ------
    UnsupportedError
        When there are more chunks than can be counted.
    """

    def __new__(
        cls,
        native: NativeArray,
        shape: tuple[int, ...],
        chunks: tuple[int, ...],
        keys: tuple[str, str | None, str],
        write_empty_chunks: bool,  # by position only
        coalesce: tuple[int, int],
    ) -> Direct: ...
    def select(self, selection: object) -> Selected:
        """Parse a selection: integers, slices, an ellipsis, and lists of positions or masks of one axis each."""

    def select_many(self, selections: Iterable[object]) -> Selected:
        """Parse several selections."""

    def keys(self, selected: Selected) -> list[str]:
        """Give the keys of the chunks that a selection touches."""

    def read(self, future: asyncio.Future[None], selected: Selected, out: npt.NDArray[Any]) -> Running:
        """Start to read into `out`; the result of `future` is None."""

    def write(self, future: asyncio.Future[None], selected: Selected, values: npt.NDArray[Any]) -> Running:
        """Start to write `values`; the result of `future` is None."""

    def read_blocking(self, selected: Selected, out: npt.NDArray[Any]) -> None:
        """Read into `out` on this thread, which waits; signals are heard."""

    def write_blocking(self, selected: Selected, values: npt.NDArray[Any]) -> None:
        """Write `values` on this thread, which waits; signals are heard."""

    @property
    def layout(self) -> str:
        """How chunks are encoded, in one line."""

@final
class Selected:
    """What is selected of an array, once or several times.

    Attributes
    ----------
    shape : tuple[int, ...] | None
        Of the output: that of the one selection, or of several equal ones with a first axis over them; None
        where they differ.
    shapes : list[tuple[int, ...]]
        Of each selection.
    """

    @property
    def shape(self) -> tuple[int, ...] | None: ...
    @property
    def shapes(self) -> list[tuple[int, ...]]: ...

@final
class Plan:
    """What reading a batch would do."""

    @property
    def chunks(self) -> int: ...
    @property
    def units(self) -> int: ...
    @property
    def requests(self) -> int: ...
    @property
    def bytes(self) -> int | None: ...
    @property
    def round_trips(self) -> int: ...
    @property
    def index_hits(self) -> int: ...
    @property
    def index_misses(self) -> int: ...
    @property
    def exact(self) -> bool: ...

@final
class Running:
    """A batch under way."""

    def abort(self) -> None:
        """Stop the batch: no further request is made, those in flight are closed."""

    def stop(self) -> None:
        """Stop the batch, and wait on this thread until nothing touches its array any more."""

    def drained(self, future: asyncio.Future[None]) -> None:
        """Resolve a future of the running loop when nothing touches the batch's array any more."""

@final
class Reply:
    """Where the loop puts a foreign store's answer."""

    def started(self, task: asyncio.Task[None]) -> None:
        """Note the task that is to be cancelled when nobody waits for the answer any more."""

    def done(self, answer: npt.NDArray[Any] | None) -> None:
        """Give the answer: a contiguous buffer, or None for what is not there."""

    def failed(self, error: BaseException) -> None:
        """Give an exception for an answer."""

def configure(
    threads: int,
    requests: int | None,
    memory_bytes: int,
    shard_index_cache_bytes: int,
    chunk_cache_bytes: int,
    chunk_cache_recheck_s: float,
) -> None:
    """Set the process-wide bounds.

    Parameters
    ----------
    threads : int
        Threads that decode and encode.
    requests : int or None
        Requests in flight at most; None for as many as the latency of the stores asks for.
    memory_bytes : int
        Bytes of encoded and decoded data in memory at most.
    shard_index_cache_bytes : int
        Bytes of decoded shard indexes kept at most.
    chunk_cache_bytes : int
        Bytes of decoded chunks kept at most, part of `memory_bytes`.
    chunk_cache_recheck_s : float
        Seconds for which a remote object counts as unchanged after it was last seen.
    """

def begin_call(event_loop: asyncio.AbstractEventLoop) -> bool:
    """Note a call on the running loop; tell whether `end_iteration` is to be called in its next iteration."""

def end_iteration() -> None:
    """End the iteration of this thread's event loop: the next call begins by itself."""

def cpus() -> int:
    """Return the CPUs that this process may use: its affinity and the quotas of its control groups, rounded down."""

def error_kinds() -> list[str]:
    """Return the ``kind`` of every error that the engine raises."""

def stats() -> dict[str, int]:
    """Return the engine's counters since the process began."""

def held() -> dict[str, int]:
    """Return what batches hold or wait for at this moment, by name; nothing is held when none is under way.

    ``memory_kib``, ``requests``, ``local_units`` and ``cpu_jobs`` are permits; ``fetches``, ``index_loads`` and
    ``locks`` are objects.
    """

def failing() -> list[tuple[str, str]]:
    """Return the last failures of requests that are being tried again, as key and words; of all batches."""

def shutdown() -> None:
    """End what is under way, within a bounded time; for the end of the interpreter."""

def is_native(metadata: str, size: int, big_endian: bool) -> bool:
    """Tell whether the engine itself knows all codecs of an array, with their settings.

    Parameters
    ----------
    metadata : str
        How chunks are encoded, as for `NativeArray`.
    size : int
        Bytes of one element.
    big_endian : bool
        Whether elements are big-endian in memory.
    """
