"""What a read would do, and why: told without reading."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np
import zarr
from zarr.core.buffer.cpu import NDBuffer
from zarr.core.sync import sync

from zarrs_async import _tables
from zarrs_async._inside import arrays
from zarrs_async._tables import counted
from zarrs_async.pipeline import ZarrsAsyncCodecPipeline

if TYPE_CHECKING:
    from collections.abc import Iterable

    from zarr import AsyncArray, AsyncGroup

    Indexing = Literal["basic", "orthogonal", "coordinate", "mask"]

PATH = "zarrs_async.ZarrsAsyncCodecPipeline"
"""What ``codec_pipeline.path`` must be."""

_METHODS = {
    "basic": "getitem",
    "orthogonal": "get_orthogonal_selection",
    "coordinate": "get_coordinate_selection",
    "mask": "get_mask_selection",
}


@dataclass(frozen=True)
class Explanation:
    """What a read would do.

    Attributes
    ----------
    pipeline : str
        ``"zarrs_async"``, or the class that would do the read.
    fallback : str or None
        Why zarr's default pipeline would do it; None where the engine does.
    store : str or None
        ``"native"`` where the engine does the I/O, ``"bridged"`` where the store's own ``get`` is awaited.
    layout : str or None
        The codec chain.
    chunks : int
        Chunks, or shards, that the selection touches.
    units : int or None
        What would be fetched and decoded at once; of local files, jobs.
    requests : int or None
        Requests to the store; none for local files.
    bytes : int or None
        Encoded bytes that would be fetched, where cached shard indexes tell.
    round_trips : int or None
        Requests that must wait for one another, at most.
    index_hits, index_misses : int or None
        Shard indexes that are cached, and that would be fetched first.
    exact : bool or None
        False where a shard index is not cached: requests and units are then the least that is needed.
    python_codecs : tuple of str or None
        Codecs that the engine does not know, and calls in Python.

    Notes
    -----
    All but the first two and ``chunks`` are None where the engine does not do the read.
    """

    pipeline: str
    fallback: str | None
    store: str | None
    layout: str | None
    chunks: int
    units: int | None = None
    requests: int | None = None
    bytes: int | None = None
    round_trips: int | None = None
    index_hits: int | None = None
    index_misses: int | None = None
    exact: bool | None = None
    python_codecs: tuple[str, ...] | None = None

    def __str__(self) -> str:
        if self.fallback is not None:
            return f"{self.pipeline} reads {counted(self.chunks, 'chunk')}: {self.fallback}"
        python = f"; Python runs {', '.join(self.python_codecs)}" if self.python_codecs else ""
        chunks = counted(self.chunks, "chunk")
        return f"{self.pipeline} reads {chunks} ({self.layout}; {self.store} store{python}) {self._how()}"

    def _repr_html_(self) -> str:
        rows = [(name, value) for name, value in vars(self).items() if value is not None and name != "pipeline"]
        return _tables.html(f"what {self.pipeline} would do", rows)

    def _how(self) -> str:
        units, requests, trips = self.units or 0, self.requests or 0, self.round_trips or 0
        if not requests:
            return f"from files in {counted(units, 'job')}" if units else "without a request"
        least = "" if self.exact else "at least "
        size = "" if self.bytes is None else f", {self.bytes:,} bytes"
        return (
            f"in {least}{counted(units, 'unit')} with {least}{counted(requests, 'request')}{size} and "
            f"{counted(trips, 'round trip')}{self._indexes()}"
        )

    def _indexes(self) -> str:
        """Tell where the indexes of shards come from; nothing where there are no shards."""
        if "sharding_indexed" not in (self.layout or ""):
            return ""
        hits, misses = self.index_hits or 0, self.index_misses or 0
        sources = {
            "cached": hits,
            "to fetch": misses,
            "within shards that are fetched whole": self.chunks - hits - misses,
        }
        return "; shard indexes: " + ", ".join(f"{count:,} {source}" for source, count in sources.items() if count)


class Explanations(dict[str, Explanation]):
    """What reading each array of a group would do, by the array's path; shown with one line for each."""

    def __repr__(self) -> str:
        return "\n".join(f"{name}: {explanation}" for name, explanation in self.items())

    def _repr_html_(self) -> str:
        return _tables.html("what reading each array would do", list(self.items()))


@overload
def explain(
    array: zarr.Array[Any] | AsyncArray[Any],
    selection: Any = ...,  # noqa: ANN401  # whatever zarr takes
    *,
    indexing: Indexing = ...,
) -> Explanation: ...


@overload
def explain(
    array: zarr.Group | AsyncGroup,
    selection: Any = ...,  # noqa: ANN401  # whatever zarr takes
    *,
    indexing: Indexing = ...,
) -> Explanations: ...


def explain(
    array: zarr.Array[Any] | AsyncArray[Any] | zarr.Group | AsyncGroup,
    selection: Any = ...,  # as above
    *,
    indexing: Indexing = "basic",
) -> Explanation | Explanations:
    """Tell what reading a selection would do, without reading it.

    Parameters
    ----------
    array : zarr.Array, zarr.AsyncArray, zarr.Group or zarr.AsyncGroup
        The array; or a group, for all arrays below it, whose metadata is then read.
    selection
        What would be read.
    indexing : {"basic", "orthogonal", "coordinate", "mask"}
        By which of zarr's ways of indexing.

    Returns
    -------
    Explanation
        For a group, a dict of them by the arrays' paths.

    Raises
    ------
    ValueError
        For another word than these. Blocks are given as the slices that they are.
    """
    if indexing not in _METHODS:
        msg = f"indexing is {indexing!r}, but must be one of {', '.join(map(repr, _METHODS))}"
        raise ValueError(msg)
    if isinstance(array, zarr.Group | zarr.AsyncGroup):
        return Explanations((name, _explained(member, selection, indexing)) for name, member in arrays(array))
    return _explained(array, selection, indexing)


def _explained(array: zarr.Array[Any] | AsyncArray[Any], selection: Any, indexing: Indexing) -> Explanation:  # noqa: ANN401  # as above
    source = array.async_array if isinstance(array, zarr.Array) else array
    pipeline = source.codec_pipeline
    recorder = _Recorder(pipeline)
    recording = copy.copy(source)
    object.__setattr__(recording, "codec_pipeline", recorder)

    async def record() -> Explanation:
        await getattr(recording, _METHODS[indexing])(selection)
        # Where nothing is selected, nothing is asked of the pipeline.
        nothing = NDBuffer.from_numpy_array(np.empty(0))
        return recorder.told or recorder.explanation([], nothing, ())

    return sync(record())


class _Recorder:
    """Stands in for a pipeline while zarr plans a read."""

    def __init__(self, pipeline: Any) -> None:  # noqa: ANN401  # any pipeline
        self.pipeline = pipeline
        self.told: Explanation | None = None

    async def read(
        self,
        batch_info: Iterable[Any],
        out: NDBuffer,
        drop_axes: tuple[int, ...] = (),
    ) -> tuple[Any, ...]:
        batch = list(batch_info)
        self.told = self.explanation(batch, out, drop_axes)
        return ({"status": "present"},) * len(batch)

    def explanation(self, batch: list[Any], out: NDBuffer, drop_axes: tuple[int, ...]) -> Explanation:
        if not isinstance(self.pipeline, ZarrsAsyncCodecPipeline):
            name = f"{type(self.pipeline).__module__}.{type(self.pipeline).__qualname__}"
            cause = "it was opened when codec_pipeline.path named another pipeline"
            return Explanation(name, cause, None, None, len(batch))
        native, cause = self.pipeline.engine_for(batch, out)
        if native is None:
            default = "zarr's default pipeline"
            return Explanation(default, f"zarrs_async does not support {cause}", None, None, len(batch))
        store = "bridged" if native.bridged else "native"
        array = np.empty(out.shape, dtype=self.pipeline.dtype)
        plan = native.plan(batch, array, drop_axes)
        return Explanation(
            "zarrs_async",
            None,
            store,
            native.layout,
            chunks=plan.chunks,
            units=plan.units,
            requests=plan.requests,
            bytes=plan.bytes,
            round_trips=plan.round_trips,
            index_hits=plan.index_hits,
            index_misses=plan.index_misses,
            exact=plan.exact,
            python_codecs=native.python_codecs,
        )
