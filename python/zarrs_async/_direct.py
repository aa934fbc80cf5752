"""Arrays that are read and written without zarr's indexing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import zarr
from zarr.core.array import AsyncArray
from zarr.core.buffer import default_buffer_prototype
from zarr.core.chunk_key_encodings import DefaultChunkKeyEncoding
from zarr.core.indexing import OrthogonalIndexer, ensure_tuple, replace_lists
from zarr.core.metadata import ArrayV2Metadata
from zarr.core.sync import sync

from zarrs_async import _rust
from zarrs_async._metadata import empty
from zarrs_async._run import run
from zarrs_async.pipeline import ZarrsAsyncCodecPipeline

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import numpy.typing as npt
    from zarr.core.metadata import ArrayMetadata

    Selection = Any
    """Integers, slices with steps of 1 or more, an ellipsis, and lists of positions or masks of one axis each."""
    Output = np.ndarray[Any, Any]


@dataclass(frozen=True)
class _Known:
    """The engine's array for one state of an array's metadata."""

    metadata: ArrayMetadata
    native: _rust.NativeArray
    direct: _rust.Direct
    blocking: bool


class DirectArray:
    """An array that is read and written without zarr's indexing, for many or small selections.

    What zarr computes in Python for each call and each chunk is computed in Rust: which chunks a selection touches,
    their keys, and where each part goes. A list of selections is one batch, in which each chunk is fetched and
    decoded once. Options, bounds, cancellation, caches and errors are those of `ZarrsAsyncCodecPipeline`.

    Parameters
    ----------
    array : zarr.Array or zarr.AsyncArray
        Opened with whichever pipeline. What the engine does not do, as for chunks of several shapes, goes through
        this array and its pipeline.

    Notes
    -----
    A selection is what zarr's basic and orthogonal indexing take: integers, slices with steps of 1 or more, an
    ellipsis, and arrays or lists of positions or masks of one axis each, whose product is selected.
    """

    __module__ = "zarrs_async"

    def __init__(self, array: zarr.Array[Any] | AsyncArray[Any]) -> None:
        self._array: AsyncArray[Any] = array if isinstance(array, AsyncArray) else array.async_array
        self._known: _Known | None = None
        self._pipeline: ZarrsAsyncCodecPipeline | None = None

    @classmethod
    async def open(cls, store: Any, **options: Any) -> Self:  # noqa: ANN401  # whatever zarr takes
        """Open an array; the arguments are those of ``zarr.api.asynchronous.open_array``."""
        return cls(await zarr.api.asynchronous.open_array(store=store, **options))

    @property
    def shape(self) -> tuple[int, ...]:
        """Elements along each axis."""
        return self._array.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """The data type of the elements."""
        dtype: np.dtype[Any] = self._array.metadata.dtype.to_native_dtype()
        return dtype

    def __repr__(self) -> str:
        return f"<DirectArray {self._array.store_path} shape={self.shape} dtype={self.dtype}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._array,)

    async def read(self, selection: Selection = ..., *, out: Output | None = None) -> Any:  # noqa: ANN401  # an array, or a scalar
        """Read a selection.

        Parameters
        ----------
        selection
            See the notes of the class.
        out : numpy.ndarray, optional
            Where the elements go: of the selection's shape and the array's data type. It must not be touched before
            the read has ended.

        Returns
        -------
        numpy.ndarray or scalar
            `out`, or a new array in C order; a scalar where every axis is selected by an integer.

        Raises
        ------
        IndexError
            When the selection is outside of the array, or is none.
        StoreError, ChunkDecodeError
            When a chunk cannot be read; only what the store says is not there becomes the fill value.
        """
        known = self._engine()
        if known is None:
            return _into(out, await self._array.oindex.getitem(selection))
        selected = known.direct.select(selection)
        result = self._output(selected, out)
        await run(known.direct.read, (selected, result), lambda: known.direct.keys(selected), result.nbytes)
        return result if result.shape or out is not None else result[()]

    async def read_many(self, selections: Iterable[Selection], *, out: Output | None = None) -> list[Any]:
        """Read several selections in one batch: each chunk is fetched and decoded once.

        Parameters
        ----------
        selections
            Each as for `read`.
        out : numpy.ndarray, optional
            Where the elements go, if all selections are of one shape: an array of that shape with one more axis
            before the others, over the selections.

        Returns
        -------
        list of numpy.ndarray
            One for each selection, in their order. They are views of one array.
        """
        known = self._engine()
        if known is None:
            return _each_into(out, [await self.read(selection) for selection in selections])
        selected = known.direct.select_many(selections)
        result = self._output(selected, out)
        await run(known.direct.read, (selected, result), lambda: known.direct.keys(selected), result.nbytes)
        return _each(selected, result)

    async def write(self, selection: Selection, value: npt.ArrayLike) -> None:
        """Write `value`, which is broadcast, to a selection.

        Raises
        ------
        IndexError
            When the selection is outside of the array, or is none.
        ValueError
            When `value` cannot be broadcast to the shape of the selection.
        StoreError, ChunkDecodeError, ChunkEncodeError
            When a chunk cannot be written, or the stored one not be read to merge with.
        """
        known = self._engine(writing=True)
        if known is None:
            await _set_through_zarr(self._array, selection, value)
            return
        selected = known.direct.select(selection)
        values = self._values(selected, value)
        await run(known.direct.write, (selected, values), lambda: known.direct.keys(selected), values.nbytes)

    async def write_many(self, selections: Iterable[Selection], values: Sequence[npt.ArrayLike] | Output) -> None:
        """Write to several selections in one batch: each chunk is stored once.

        Where selections overlap, the later one's values stay.

        Parameters
        ----------
        selections
            Each as for `write`.
        values
            One for each selection.
        """
        known = self._engine(writing=True)
        if known is None:
            for selection, value in zip(selections, values, strict=True):
                await self.write(selection, value)
            return
        selected = known.direct.select_many(selections)
        together = self._values_together(selected, values)
        await run(known.direct.write, (selected, together), lambda: known.direct.keys(selected), together.nbytes)

    def read_blocking(self, selection: Selection = ..., *, out: Output | None = None) -> Any:  # noqa: ANN401  # as `read`
        """Read as `read` does, on a thread that waits: for threads without an event loop."""
        known = self._engine()
        if known is None or not known.blocking:
            return sync(self.read(selection, out=out))
        selected = known.direct.select(selection)
        result = self._output(selected, out)
        known.direct.read_blocking(selected, result)
        return result if result.shape or out is not None else result[()]

    def read_many_blocking(self, selections: Iterable[Selection], *, out: Output | None = None) -> list[Any]:
        """Read as `read_many` does, on a thread that waits: for threads without an event loop."""
        known = self._engine()
        if known is None or not known.blocking:
            return sync(self.read_many(selections, out=out))
        selected = known.direct.select_many(selections)
        result = self._output(selected, out)
        known.direct.read_blocking(selected, result)
        return _each(selected, result)

    def write_blocking(self, selection: Selection, value: npt.ArrayLike) -> None:
        """Write as `write` does, on a thread that waits: for threads without an event loop."""
        known = self._engine(writing=True)
        if known is None or not known.blocking:
            sync(self.write(selection, value))
            return
        selected = known.direct.select(selection)
        known.direct.write_blocking(selected, self._values(selected, value))

    def write_many_blocking(self, selections: Iterable[Selection], values: Sequence[npt.ArrayLike] | Output) -> None:
        """Write as `write_many` does, on a thread that waits: for threads without an event loop."""
        known = self._engine(writing=True)
        if known is None or not known.blocking:
            sync(self.write_many(selections, values))
            return
        selected = known.direct.select_many(selections)
        known.direct.write_blocking(selected, self._values_together(selected, values))

    def _engine(self, *, writing: bool = False) -> _Known | None:
        """Give what reads and writes the array; None where that is zarr."""
        array = self._array
        path, metadata, known = array.store_path, array.metadata, self._known
        if writing:
            path.store._check_writable()  # noqa: SLF001  # what its own `set` would call
        if self._pipeline is None or known is None or known.metadata is not metadata:
            pipeline = array.codec_pipeline
            if not isinstance(pipeline, ZarrsAsyncCodecPipeline) or pipeline.metadata is not metadata:
                pipeline = ZarrsAsyncCodecPipeline.from_array_metadata_and_store(metadata, path.store)
            self._pipeline = pipeline
        native, _ = self._pipeline.native_for(path.store, path.path)
        if native is None or not getattr(array.config, "read_missing_chunks", True):
            return None
        if writing and getattr(metadata, "_stored_document", None) is not None:
            # zarr stores metadata that it has repaired before it writes chunks.
            return None
        if known is None or known.native is not native or known.metadata is not metadata:
            direct = _direct(native, array, self._pipeline.options.coalesce)
            if direct is None:
                return None
            known = self._known = _Known(metadata, native, direct, not native.bridged)
        return known

    def _output(self, selected: _rust.Selected, out: Output | None) -> Output:
        shape, dtype = selected.shape, self._dtype
        if out is not None:
            if out.dtype != dtype:
                msg = f"out is of {out.dtype}, the array of {dtype}"
                raise ValueError(msg)
            if out.shape != shape:
                msg = f"out is of shape {out.shape}, the selection of {shape or 'several shapes'}"
                raise ValueError(msg)
            return out
        if shape is None:
            shape = (sum(int(np.prod(shape)) for shape in selected.shapes),)
        return empty(shape, dtype)

    def _values(self, selected: _rust.Selected, value: npt.ArrayLike) -> Output:
        values = np.asarray(value)
        if values.dtype != self._dtype:
            converted = empty(values.shape, self._dtype)
            converted[...] = values
            values = converted
        shape = selected.shape
        assert shape is not None  # noqa: S101  # only several selections have none
        return np.broadcast_to(values, shape)

    def _values_together(self, selected: _rust.Selected, values: Sequence[npt.ArrayLike] | Output) -> Output:
        shape, shapes = selected.shape, selected.shapes
        if len(values) != len(shapes):
            msg = f"{len(values)} values for {len(shapes)} selections"
            raise ValueError(msg)
        if shape is not None and isinstance(values, np.ndarray):
            return self._values(selected, values)
        together = self._output(selected, None)
        for place, value in zip(_places(selected, together), values, strict=True):
            place[...] = value
        return together

    @property
    def _dtype(self) -> np.dtype[Any]:
        assert self._pipeline is not None  # noqa: S101  # made before any selection is parsed
        return self._pipeline.dtype


def _direct(native: _rust.NativeArray, array: AsyncArray[Any], coalesce: tuple[int, int]) -> _rust.Direct | None:
    """Make the engine's array with its chunk grid; None where chunks are of several shapes or there are too many."""
    metadata, config = array.metadata, array.config
    first: str | None
    if isinstance(metadata, ArrayV2Metadata):
        chunks, first, separator = metadata.chunks, None, metadata.dimension_separator
    else:
        encoding: Any = metadata.chunk_key_encoding
        chunks = getattr(metadata.chunk_grid, "chunk_shape", ())
        first, separator = "c" if type(encoding) is DefaultChunkKeyEncoding else None, encoding.separator
    if len(chunks) != len(metadata.shape):
        return None
    gap = getattr(config, "sharding_coalesce_max_gap_bytes", coalesce[0])
    most = getattr(config, "sharding_coalesce_max_bytes", coalesce[1])
    keys = (array.store_path.path, first, separator)
    try:
        return _rust.Direct(native, metadata.shape, chunks, keys, config.write_empty_chunks, (gap, most))
    except NotImplementedError:
        return None


async def _set_through_zarr(array: AsyncArray[Any], selection: Selection, value: npt.ArrayLike) -> None:
    grid: Any = getattr(array, "_chunk_grid", None) or array.metadata.chunk_grid
    indexer = OrthogonalIndexer(replace_lists(ensure_tuple(selection)), array.shape, grid)
    await array._set_selection(indexer, value, prototype=default_buffer_prototype())  # noqa: SLF001  # it has no other name


def _places(selected: _rust.Selected, result: Output) -> list[Output]:
    """Give each selection its view of the elements of all."""
    if selected.shape is not None:
        return [result[at, ...] for at in range(len(result))]
    views, start = [], 0
    for shape in selected.shapes:
        end = start + int(np.prod(shape))
        views.append(result[start:end].reshape(shape))
        start = end
    return views


def _each(selected: _rust.Selected, result: Output) -> list[Any]:
    """Give what was read for each selection: views, or scalars."""
    if selected.shape is not None:
        return list(result)
    return [place if place.shape else place[()] for place in _places(selected, result)]


def _into(out: Output | None, result: Any) -> Any:  # noqa: ANN401  # an array, or a scalar
    if out is None:
        return result
    out[...] = result
    return out


def _each_into(out: Output | None, results: list[Any]) -> list[Any]:
    if out is None:
        return results
    for place, result in zip(out, results, strict=True):
        place[...] = result
    return list(out)
