"""What a read would do, and why: told without reading."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import zarr
from zarr.core.buffer.cpu import NDBuffer
from zarr.core.sync import sync

from zarrs_async.pipeline import ZarrsAsyncCodecPipeline

if TYPE_CHECKING:
    from collections.abc import Iterable

    from zarr import AsyncArray

    Indexing = Literal["basic", "orthogonal", "coordinate", "mask"]

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
    store : str
        ``"native"`` where the engine does the I/O, ``"bridged"`` where the store's own ``get`` is awaited.
    layout : str
        The codec chain.
    chunks : int
        Chunks, or shards, that the selection touches.
    units : int
        What would be fetched and decoded at once.
    requests : int
        Requests to the store; none for local files.
    bytes : int or None
        Encoded bytes that would be fetched, where cached shard indexes tell.
    round_trips : int
        Requests that must wait for one another, at most.
    index_hits, index_misses : int
        Shard indexes that are cached, and that would be fetched first.
    exact : bool
        False where a shard index is not cached: requests and units are then the least that is needed.
    python_codecs : tuple of str
        Codecs that the engine does not know, and calls in Python.
    """

    pipeline: str
    fallback: str | None
    store: str
    layout: str
    chunks: int
    units: int = 0
    requests: int = 0
    bytes: int | None = None
    round_trips: int = 0
    index_hits: int = 0
    index_misses: int = 0
    exact: bool = False
    python_codecs: tuple[str, ...] = ()

    def __str__(self) -> str:
        if self.fallback is not None:
            return f"{self.pipeline} reads {_counted(self.chunks, 'chunk')}: {self.fallback}"
        least = "" if self.exact else "at least "
        size = "" if self.bytes is None else f", {self.bytes:,} bytes"
        python = f"; Python runs {', '.join(self.python_codecs)}" if self.python_codecs else ""
        return (
            f"{self.pipeline} reads {_counted(self.chunks, 'chunk')} ({self.layout}; {self.store} store{python}) in "
            f"{least}{_counted(self.units, 'unit')} with {least}{_counted(self.requests, 'request')}{size} and "
            f"{_counted(self.round_trips, 'round trip')}; shard indexes: {self.index_hits} cached, "
            f"{self.index_misses} to fetch"
        )


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def explain(
    array: zarr.Array[Any] | AsyncArray[Any],
    selection: Any = ...,  # noqa: ANN401  # whatever zarr takes
    *,
    indexing: Indexing = "basic",
) -> Explanation:
    """Tell what reading a selection would do, without reading it.

    Parameters
    ----------
    array : zarr.Array or zarr.AsyncArray
        The array.
    selection
        What would be read.
    indexing : {"basic", "orthogonal", "coordinate", "mask"}
        By which of zarr's ways of indexing.

    Returns
    -------
    Explanation

    Raises
    ------
    ValueError
        For another word than these. Blocks are given as the slices that they are.
    """
    if indexing not in _METHODS:
        msg = f"indexing is {indexing!r}, but must be one of {', '.join(map(repr, _METHODS))}"
        raise ValueError(msg)
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
        name = f"{type(self.pipeline).__module__}.{type(self.pipeline).__qualname__}"
        if not isinstance(self.pipeline, ZarrsAsyncCodecPipeline):
            cause = "codec_pipeline.path names another pipeline"
            return Explanation(name, cause, "bridged", "", len(batch))
        native, cause = self.pipeline.engine_for(batch, out)
        if native is None:
            default = "zarr's default pipeline"
            return Explanation(default, f"zarrs_async does not support {cause}", "bridged", "", len(batch))
        store = "bridged" if native.bridged else "native"
        array = np.empty(out.shape, dtype=self.pipeline.dtype)
        plan = native.plan(batch, array, drop_axes)
        return Explanation("zarrs_async", None, store, native.layout, python_codecs=native.python_codecs, **plan)
