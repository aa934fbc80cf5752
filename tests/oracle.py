"""zarr's default pipeline beside ours: arrays made and opened with either, and how they are compared."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr
from packaging.version import Version
from zarr.core.array_spec import ArrayConfig, ArraySpec
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync

if TYPE_CHECKING:
    from collections.abc import Iterator

    from zarr.abc.store import Store

DEFAULT = "zarr.core.codec_pipeline.BatchedCodecPipeline"
OURS = "zarrs_async.ZarrsAsyncCodecPipeline"

DEFAULT_WRITES_SHARDS = Version(zarr.__version__) >= Version("3.3")
"""Whether zarr's default pipeline writes any selection to shards; before, it fails for lists of positions,
for arrays of no axes and for raw bytes. What shards would hold, unsharded arrays with chunks of the shards'
shape hold too: they stand in."""


@contextmanager
def no_fallback() -> Iterator[None]:
    """Fail if zarr's default pipeline did any batch meant for the engine."""
    import zarrs_async  # noqa: PLC0415  # some tests need that nothing of theirs imports it

    before = zarrs_async.stats()
    yield
    after = zarrs_async.stats()
    assert after["fallback_batches"] == before["fallback_batches"], after["fallback_causes"]


def way(array: Any) -> str:
    """Say which way an array's batches go: ``native``, by ``python`` codecs within the engine, or ``fallback``."""
    import zarrs_async  # noqa: PLC0415  # as above

    explained = zarrs_async.explain(array)
    if explained.fallback is not None:
        return "fallback"
    return "python" if explained.python_codecs else "native"


@contextmanager
def goes(expected: str) -> Iterator[None]:
    """Fail if a batch fell back, or if codecs were called in Python though all was to be native."""
    import zarrs_async  # noqa: PLC0415  # as above

    before = zarrs_async.stats()["python_codec_calls"]
    with no_fallback():
        yield
    assert expected == "python" or zarrs_async.stats()["python_codec_calls"] == before


def created(store: Store, pipeline: str, **arguments: Any) -> Any:
    """Make an array with one of the pipelines; of any type, because zarr takes more selections than it types."""
    with zarr.config.set({"codec_pipeline.path": pipeline}):
        return zarr.create_array(store, **arguments)


def opened(store: Store, pipeline: str, **config: Any) -> Any:
    """Open the array that is in the store, with one of the pipelines."""
    with zarr.config.set({"codec_pipeline.path": pipeline}):
        return zarr.open_array(store, mode="r+", config=config)  # type: ignore[arg-type]


def keys(store: Store) -> set[str]:
    """All keys of the store."""

    async def listed() -> set[str]:
        return {key async for key in store.list()}

    return sync(listed())


def stored(array: Any) -> dict[str, bytes]:
    """Give the chunks that a memory store holds."""
    return {
        key: bytes(value.to_bytes())
        for key, value in array.store._store_dict.items()
        if not key.endswith((".json", ".zarray", ".zattrs"))
    }


def assert_same_bits(actual: Any, expected: Any) -> None:
    """Compare shape, data type and every bit."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape
    assert actual.dtype == expected.dtype
    assert np.ascontiguousarray(actual).tobytes() == np.ascontiguousarray(expected).tobytes()


def chunk_spec(array: zarr.AsyncArray[Any], shape: tuple[int, ...]) -> ArraySpec:
    """Say of a chunk what zarr says to a pipeline."""
    return ArraySpec(
        shape=shape,
        dtype=array.metadata.dtype,
        fill_value=array.metadata.fill_value,
        config=ArrayConfig.from_dict({}),
        prototype=default_buffer_prototype(),
    )


def whole_batch(array: zarr.AsyncArray[Any]) -> list[Any]:
    """Give the batch that reads or writes all of an array of one axis, whose chunks fit evenly."""
    [length], [chunk] = array.shape, array.chunks
    spec = chunk_spec(array, (chunk,))
    return [
        (
            array.store_path / array.metadata.encode_chunk_key((start // chunk,)),
            spec,
            (slice(0, chunk),),
            (slice(start, start + chunk),),
            True,
        )
        for start in range(0, length, chunk)
    ]
