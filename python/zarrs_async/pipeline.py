"""zarr's contract: the one place that chooses between the engine and zarr's own pipeline.

A pipeline is made in one of two ways. With an array's metadata and its store, which is what opening an
array does, batches go to the engine. From codecs alone, which zarr's sharding codec does for its own
needs, there is no store to read from, and everything is zarr's default pipeline's, which knows how.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from zarr.abc.codec import CodecPipeline
from zarr.codecs._v2 import V2Codec
from zarr.core.buffer import cpu
from zarr.core.chunk_key_encodings import DefaultChunkKeyEncoding, V2ChunkKeyEncoding
from zarr.core.codec_pipeline import BatchedCodecPipeline
from zarr.core.metadata import ArrayV2Metadata
from zarr.storage import LocalStore, StorePath

from zarrs_async import _process, _rust
from zarrs_async._codecs import chunk_spec, describe_native, in_step
from zarrs_async._codecs import describe as describe_codecs
from zarrs_async._config import Options
from zarrs_async._metadata import element, empty, fill
from zarrs_async._run import run
from zarrs_async._stats import count_fallback
from zarrs_async._stores import Description, describe, is_utf8, place
from zarrs_async._warn import warn
from zarrs_async.exceptions import UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from zarr.abc.codec import Codec
    from zarr.abc.store import ByteGetter, ByteSetter, Store
    from zarr.core.array_spec import ArraySpec
    from zarr.core.buffer import Buffer, NDBuffer
    from zarr.core.dtype import ZDType
    from zarr.core.indexing import SelectorTuple
    from zarr.core.metadata import ArrayMetadata

    Item = tuple[ByteGetter, ArraySpec, SelectorTuple, SelectorTuple, bool]
    WriteItem = tuple[ByteSetter, ArraySpec, SelectorTuple, SelectorTuple, bool]


@dataclass(frozen=True)
class _Native:
    """The engine's array for one store, made in one process."""

    description: Description
    generation: int
    array: _rust.NativeArray | None
    cause: str

    def serves(self, store: Store, key: str) -> bool:
        """Tell whether this is the array of a store that is still where it was, and reaches `key` in it."""
        return (
            self.description.store is store
            and self.generation == _process.generation()
            and self.description.place == place(store)
            and self.description.takes(key)
        )


@dataclass
class ZarrsAsyncCodecPipeline(CodecPipeline):
    """Reads and writes batches of chunks in Rust, awaited by asyncio.

    Not made by hand: set ``zarr.config``'s ``codec_pipeline.path`` to
    ``zarrs_async.ZarrsAsyncCodecPipeline``, and use zarr as always.

    Attributes
    ----------
    default : BatchedCodecPipeline
        zarr's own pipeline with the same codecs, for what the engine does not do.
    metadata : ArrayMetadata or None
        The array's metadata; None when the pipeline was made from codecs alone.
    store : Store or None
        The array's store.
    options : Options
        The options as they were when the pipeline was made, or unpickled.
    """

    default: BatchedCodecPipeline
    metadata: ArrayMetadata | None = None
    store: Store | None = field(default=None, repr=False)
    options: Options = field(default_factory=Options.from_config, compare=False)
    _native: _Native | None = field(default=None, init=False, repr=False, compare=False)
    # Made with the pipeline: credentials of the environment are those of that moment. A directory has none.
    _description: Description | None = field(default=None, init=False, repr=False, compare=False)

    __module__ = "zarrs_async"

    @classmethod
    def from_codecs(cls, codecs: Iterable[Codec]) -> Self:
        """Make a pipeline without a store: zarr's default pipeline under another name."""
        return cls(default=BatchedCodecPipeline.from_codecs(codecs))

    @classmethod
    def from_array_metadata_and_store(cls, array_metadata: ArrayMetadata, store: Store) -> Self:
        """Make the pipeline of an array.

        Parameters
        ----------
        array_metadata : ArrayMetadata
            Of Zarr v2 or v3.
        store : Store
            Where the chunks are.

        Raises
        ------
        ConfigError
            When an option in ``zarr.config`` has a value that is not allowed.
        """
        made = cls(default=_default(array_metadata), metadata=array_metadata, store=store)
        if type(store) is not LocalStore:
            made._description = describe(store, direct_io=made.options.direct_io)  # its own class
        _process.configure(made.options)
        return made

    def evolve_from_array_spec(self, array_spec: ArraySpec) -> Self:
        """Fill in what codecs infer from an array's spec."""
        evolved = replace(self, default=_evolved(self.default, array_spec))
        evolved._description = self._description  # noqa: SLF001  # its own class
        return evolved

    def __getstate__(self) -> dict[str, Any]:
        """Leave options and the engine's array behind: whoever unpickles has their own."""
        return {"default": self.default, "metadata": self.metadata, "store": self.store}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Read the options anew."""
        self.__dict__.update(state)
        self.options = Options.from_config()
        self._native = self._description = None
        if self.store is not None:
            _process.configure(self.options)

    def __iter__(self) -> Iterator[Codec]:
        """Iterate over the codecs."""
        return iter(self.default)

    @property
    def supports_partial_decode(self) -> bool:
        """Whether a part of a chunk can be read without the rest."""
        return self.default.supports_partial_decode

    @property
    def supports_partial_encode(self) -> bool:
        """Whether a part of a chunk can be written without the rest."""
        return self.default.supports_partial_encode

    def validate(
        self,
        *,
        shape: tuple[int, ...],
        dtype: ZDType[Any, Any],
        chunk_grid: Any,  # noqa: ANN401  # its type has another name in each version of zarr
    ) -> None:
        """Check that the codecs go with an array."""
        self.default.validate(shape=shape, dtype=dtype, chunk_grid=chunk_grid)

    def compute_encoded_size(self, byte_length: int, array_spec: ArraySpec) -> int:
        """Give the bytes that `byte_length` bytes become; an error where that varies."""
        return self.default.compute_encoded_size(byte_length, array_spec)

    async def decode(
        self, chunk_bytes_and_specs: Iterable[tuple[Buffer | None, ArraySpec]]
    ) -> Iterable[NDBuffer | None]:
        """Decode chunks that are in memory, by zarr's default pipeline."""
        return await self.default.decode(chunk_bytes_and_specs)

    async def encode(
        self, chunk_arrays_and_specs: Iterable[tuple[NDBuffer | None, ArraySpec]]
    ) -> Iterable[Buffer | None]:
        """Encode chunks that are in memory, by zarr's default pipeline."""
        return await self.default.encode(chunk_arrays_and_specs)

    async def read(
        self,
        batch_info: Iterable[Item],
        out: NDBuffer,
        drop_axes: tuple[int, ...] = (),
    ) -> tuple[Any, ...]:
        """Read chunks into `out`.

        Returns
        -------
        tuple
            zarr's ``GetResult`` of each chunk.

        Raises
        ------
        StoreError, ChunkDecodeError
            When a chunk cannot be read; only what the store says is not there becomes the fill value.
        UnsupportedError
            Under ``strict``, when the engine cannot do this array.
        """
        batch = list(batch_info)
        if not batch:
            return ()
        native = self._choose(batch, out)
        if native is None:
            # Nothing comes back from zarr 3.1.
            return await self.default.read(batch, out, drop_axes) or ()
        array: Any = out.as_ndarray_like()
        dtype = self.dtype
        # Strings go into objects at once, as numpy would make them of its own.
        as_it_is = array.dtype == dtype or (array.dtype.kind == "O" and dtype.kind == "T")
        if as_it_is and array.flags.writeable:
            return await _run(native.read, batch, array, drop_axes)
        # numpy converts on assignment, and so does a pipeline.
        converted = empty(array.shape, dtype)
        results = await _run(native.read, batch, converted, drop_axes)
        array[...] = converted
        return results

    async def write(
        self,
        batch_info: Iterable[WriteItem],
        value: NDBuffer,
        drop_axes: tuple[int, ...] = (),
    ) -> None:
        """Write `value` to chunks, merging with what is stored where a chunk is written in part.

        Raises
        ------
        StoreError, ChunkDecodeError, ChunkEncodeError
            When a chunk cannot be written, or the stored one not be read to merge with.
        UnsupportedError
            Under ``strict``, when the engine cannot do this array.
        """
        batch = list(batch_info)
        if not batch:
            return
        native = self._choose(batch, value)
        if native is None:
            await self.default.write(batch, value, drop_axes)
            return
        getter = batch[0][0]
        if isinstance(getter, StorePath):
            getter.store._check_writable()  # noqa: SLF001  # what its own `set` would call
        array = np.asarray(value.as_ndarray_like())
        if array.dtype != self.dtype:
            converted = empty(array.shape, self.dtype)
            converted[...] = array
            array = converted
        await _run(native.write, batch, array, drop_axes)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The data type of the array in memory."""
        return _dtype(self.metadata)

    def engine_for(self, batch: list[Any], buffer: NDBuffer) -> tuple[_rust.NativeArray | None, str]:
        """Give the engine's array for a batch; or None, and why there is none.

        The reason is empty for batches that are not an array's: zarr's own codecs call each other.
        """
        getter = batch[0][0] if batch else None
        store = self.store if getter is None else getattr(getter, "store", None)
        if self.metadata is None or store is None or not isinstance(getter, StorePath | None):
            return None, ""
        array, cause = self.native_for(store, "" if getter is None else getter.path)
        if array is not None:
            kinds = [type(buffer), *(batch[0][1].prototype if batch else ())]
            other = [kind.__name__ for kind in kinds if kind not in cpu.buffer_prototype]
            if not isinstance(buffer.as_ndarray_like(), np.ndarray):
                other.append(type(buffer.as_ndarray_like()).__name__)
            if other:
                return None, f"buffers of {other[0]}"
        return array, cause

    def native_for(self, store: Store, key: str) -> tuple[_rust.NativeArray | None, str]:
        """Give the engine's array whose chunks have keys like `key` in a store; or None, and why there is none."""
        assert self.metadata is not None  # noqa: S101  # a pipeline that was made from codecs has no store
        native = self._native
        if native is None or not native.serves(store, key):
            native = self._native = self._make(self.metadata, store, key)
        return native.array, native.cause

    def _choose(self, batch: list[Any], buffer: NDBuffer) -> _rust.NativeArray | None:
        """Give the engine's array for a batch; None, counted and said, where zarr's pipeline does it."""
        if in_step():
            return None
        native, cause = self.engine_for(batch, buffer)
        if native is not None or not cause:
            return native
        if self.options.strict:
            msg = f"zarrs_async does not support {cause}, and codec_pipeline.strict is set"
            raise UnsupportedError(msg)
        if count_fallback(cause):
            warn(f"zarrs_async does not support {cause}: zarr's default pipeline does this array")
        return None

    def _make(self, metadata: ArrayMetadata, store: Store, key: str) -> _Native:
        if not _process.is_configured():
            _process.configure(self.options)
        known = self._description
        if known is None or known.store is not store or known.place != place(store):
            known = describe(store, direct_io=self.options.direct_io)
        # All keys of an array are spelled alike but where its own way of naming chunks is not zarr's.
        description = known if known.takes(key) and _names_chunks_as_zarr(metadata) else known.bridged()
        try:
            if not is_utf8(key):
                msg = "keys that are not UTF-8"
                raise UnsupportedError(msg)
            array = _native_array(metadata, tuple(self.default), description, self.options)
        except NotImplementedError as unsupported:
            return _Native(description, _process.generation(), None, str(unsupported))
        return _Native(description, _process.generation(), array, "")


async def _run(
    start: Callable[..., _rust.Running], batch: list[Any], array: np.ndarray[Any, Any], drop_axes: tuple[int, ...]
) -> tuple[Any, ...]:
    """Await a batch; give zarr's ``GetResult`` of each chunk that was read."""
    results: tuple[Any, ...] = await run(
        start, (batch, array, drop_axes), lambda: [item[0].path for item in batch], array.nbytes
    )
    return results


def _dtype(metadata: ArrayMetadata | None) -> np.dtype[Any]:
    assert metadata is not None  # noqa: S101  # only batches with metadata come here
    dtype: np.dtype[Any] = metadata.dtype.to_native_dtype()
    return dtype


def _default(metadata: ArrayMetadata) -> BatchedCodecPipeline:
    """Make zarr's own pipeline as zarr would have made it."""
    if isinstance(metadata, ArrayV2Metadata):
        codecs: Iterable[Codec] = [V2Codec(filters=metadata.filters, compressor=metadata.compressor)]
    else:
        codecs = metadata.codecs
    return _evolved(codecs, chunk_spec(metadata))


def _evolved(codecs: Iterable[Codec], spec: ArraySpec) -> BatchedCodecPipeline:
    """Evolve each codec with the spec that the one before leaves."""
    evolved = []
    for codec in codecs:
        evolved.append(codec.evolve_from_array_spec(array_spec=spec))
        spec = evolved[-1].resolve_metadata(spec)
    return BatchedCodecPipeline.from_codecs(evolved)


def _names_chunks_as_zarr(metadata: ArrayMetadata) -> bool:
    """Tell whether the names of chunks are numbers and separators."""
    encoding = getattr(metadata, "chunk_key_encoding", None)
    return encoding is None or type(encoding) in (DefaultChunkKeyEncoding, V2ChunkKeyEncoding)


def _native_array(
    metadata: ArrayMetadata, codecs: Sequence[Codec], description: Description, options: Options
) -> _rust.NativeArray:
    """Make the engine's array.

    Raises
    ------
    NotImplementedError
        With the cause, when the engine cannot do it.
    """
    layout = element(metadata)
    made = partial(_rust.NativeArray, element=layout, fill=fill(metadata), store=description, options=options)
    # Elements of this kind are known to their codecs only.
    if layout[1] != "foreign":
        # To ask for each codec takes several times as long.
        with suppress(UnsupportedError):
            return made(describe_native(metadata, codecs), [])
    return made(*describe_codecs(metadata, codecs, layout))
