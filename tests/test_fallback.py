"""What the engine does not know: zarr's default pipeline does it, once said and always counted, or it is an error."""

from __future__ import annotations

import asyncio
import warnings
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numcodecs  # type: ignore[import-untyped]
import numpy as np
import pytest
import zarr
from oracle import DEFAULT, OURS, keys, opened
from zarr.abc.codec import BytesBytesCodec
from zarr.errors import ZarrUserWarning
from zarr.registry import register_codec
from zarr.storage import LocalStore, MemoryStore

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import ModuleType

    from zarr.core.array_spec import ArraySpec
    from zarr.core.buffer import Buffer


@dataclass(frozen=True)
class InvertCodec(BytesBytesCodec):
    """A codec that nobody else knows."""

    is_fixed_size = True

    @classmethod
    def from_dict(cls, data: Any) -> Self:
        """Take the metadata of this codec."""
        assert data["name"] == "zarrs_async_tests.invert"
        return cls()

    def to_dict(self) -> dict[str, Any]:
        """Give the metadata of this codec."""
        return {"name": "zarrs_async_tests.invert", "configuration": {}}

    async def _decode_single(self, chunk_data: Buffer, _chunk_spec: ArraySpec) -> Buffer:
        return type(chunk_data).from_bytes((~chunk_data.as_numpy_array().view("u1")).tobytes())

    async def _encode_single(self, chunk_data: Buffer, chunk_spec: ArraySpec) -> Buffer:
        return await self._decode_single(chunk_data, chunk_spec)

    def compute_encoded_size(self, input_byte_length: int, _chunk_spec: ArraySpec) -> int:
        """Give the size of what is encoded."""
        return input_byte_length


register_codec("zarrs_async_tests.invert", InvertCodec)


@pytest.fixture
def counted(pipeline: ModuleType, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Our pipeline, with no cause known yet: warnings are given once for each."""
    from zarrs_async import _stats  # noqa: PLC0415  # the fixture has imported the package

    monkeypatch.setattr(_stats, "_fallback_causes", Counter())
    return pipeline


def unknown(store: Any = None, **arguments: Any) -> Any:
    """Make an array with the codec that only zarr knows."""
    return zarr.create_array(
        MemoryStore() if store is None else store,
        **{"shape": (6,), "chunks": (2,), "dtype": "i4", "compressors": [InvertCodec()], **arguments},
    )


def test_an_unknown_codec_is_done_by_the_default_pipeline(counted: ModuleType) -> None:
    array = unknown()
    with pytest.warns(ZarrUserWarning, match=r"zarrs_async_tests\.invert") as told:
        array[...] = np.arange(6)
    assert np.asarray(array[...]).tolist() == [0, 1, 2, 3, 4, 5]
    assert np.asarray(array.oindex[[4, 0]]).tolist() == [4, 0]
    assert np.asarray(opened(array.store, DEFAULT)[...]).tolist() == [0, 1, 2, 3, 4, 5]
    assert len(told) == 1
    stats = counted.stats()
    assert stats["fallback_batches"] == 3
    [(cause, count)] = stats["fallback_causes"].items()
    assert "zarrs_async_tests.invert" in cause
    assert count == 3


def test_one_warning_for_each_cause(counted: ModuleType) -> None:
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for _ in range(3):
            unknown()[...] = 1
        for filters in ([numcodecs.Delta(dtype="i4")], [numcodecs.Delta(dtype="i4")]):
            zarr.create_array(MemoryStore(), shape=(4,), dtype="i4", zarr_format=2, filters=filters)[...] = 1
    said = [str(warning.message) for warning in told if "zarrs_async" in str(warning.message)]
    assert len(said) == 2
    assert "zarrs_async_tests.invert" in said[0]
    assert "delta" in said[1]
    assert counted.stats()["fallback_batches"] == 5
    assert sorted(counted.stats()["fallback_causes"].values()) == [2, 3]


def test_the_warning_points_at_no_line_of_ours(counted: ModuleType) -> None:
    assert counted.stats()["fallback_batches"] == 0
    with pytest.warns(ZarrUserWarning) as told:
        unknown()[...] = 1
    assert "zarrs_async/pipeline.py" not in told[0].filename


@pytest.mark.filterwarnings("ignore:zarrs_async does not support")
def test_an_unknown_codec_inside_shards(counted: ModuleType) -> None:
    """Zarr's sharding codec then makes a pipeline of the configured class, ours, without a store."""
    array = unknown(shape=(8, 8), chunks=(2, 2), shards=(4, 4))
    values = np.arange(64).reshape(8, 8)
    array[...] = values
    array[3:6, 1] = -1
    values[3:6, 1] = -1
    np.testing.assert_array_equal(np.asarray(array[...]), values)
    np.testing.assert_array_equal(np.asarray(array[2:7:2, 1:3]), values[2:7:2, 1:3])
    np.testing.assert_array_equal(np.asarray(opened(array.store, DEFAULT)[...]), values)
    assert counted.stats()["fallback_batches"] == 4
    assert len(counted.stats()["fallback_causes"]) == 1


@pytest.mark.usefixtures("counted")
@pytest.mark.parametrize("store", ["memory", "local"])
def test_strict_makes_it_an_error_of_the_first_use(store: str, tmp_path: Path) -> None:
    from zarrs_async.exceptions import UnsupportedError, ZarrsAsyncError  # noqa: PLC0415  # the fixture imports it

    array = unknown(MemoryStore() if store == "memory" else LocalStore(tmp_path))
    with zarr.config.set({"codec_pipeline.path": DEFAULT}):
        opened(array.store, DEFAULT)[...] = 5
    with zarr.config.set({"codec_pipeline.strict": True}):
        strict = opened(array.store, OURS)  # zarr swallows this class of errors here
        for _ in range(2):
            with pytest.raises(UnsupportedError, match=r"zarrs_async_tests\.invert") as refused:
                strict[...]
            with pytest.raises(UnsupportedError, match=r"zarrs_async_tests\.invert"):
                strict[0] = 1
    assert isinstance(refused.value, NotImplementedError)
    assert isinstance(refused.value, ZarrsAsyncError)
    assert (np.asarray(opened(array.store, DEFAULT)[...]) == 5).all()


def test_strict_is_nothing_to_what_is_supported(counted: ModuleType) -> None:
    with zarr.config.set({"codec_pipeline.strict": True}):
        array = zarr.create_array(MemoryStore(), shape=(6,), chunks=(2,), shards=(4,), dtype="i4")
        array[...] = 3
        assert (np.asarray(array[...]) == 3).all()
    assert counted.stats()["fallback_batches"] == 0


@pytest.mark.filterwarnings("ignore:zarrs_async does not support")
@pytest.mark.filterwarnings("ignore:The data type .* does not have a Zarr V3 specification")
@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.usefixtures("counted")
def test_variable_lengths(zarr_format: Any) -> None:
    values = np.array(["a", "", "ünï", "long " * 50, "e"], dtype=object)
    array = zarr.create_array(MemoryStore(), shape=(5,), chunks=(2,), dtype="string", zarr_format=zarr_format)
    array[...] = values
    array[1] = values[3]
    values[1] = values[3]
    assert np.asarray(array[...]).tolist() == values.tolist()
    assert np.asarray(array[1:4:2]).tolist() == values[1:4:2].tolist()
    assert np.asarray(opened(array.store, DEFAULT)[...]).tolist() == values.tolist()


@pytest.mark.filterwarnings("ignore:zarrs_async does not support")
@pytest.mark.filterwarnings("ignore:The data type .* does not have a Zarr V3 specification")
@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.usefixtures("counted")
def test_fields_of_structures(zarr_format: Any) -> None:
    """Zarr's default pipeline cannot do all of it, and then neither can we."""
    dtype = np.dtype([("x", "<i4"), ("y", "<f8")])
    values = np.array([(index, index / 2) for index in range(5)], dtype=dtype)
    field = np.array([9, 8, 7], dtype="i4")

    def ends(pipeline: str) -> list[Any]:
        with zarr.config.set({"codec_pipeline.path": pipeline}):
            array: Any = zarr.create_array(MemoryStore(), shape=(5,), chunks=(2,), dtype=dtype, zarr_format=zarr_format)
        array[...] = values
        ended = [np.asarray(array[...]).tolist(), np.asarray(array[1:4]).tolist()]
        uses: list[Callable[[], Any]] = [
            lambda: np.asarray(array["x"]).tolist(),
            lambda: array.set_basic_selection(slice(1, 4), field, fields="x"),
            lambda: np.asarray(array[...]).tolist(),
        ]
        for use in uses:
            try:
                ended.append(use())
            except (TypeError, ValueError) as error:
                ended.append(repr(error))
        return [*ended, keys(array.store)]

    ours = ends(OURS)
    assert ours[0] == values.tolist()
    assert ours == ends(DEFAULT)


@pytest.mark.filterwarnings("ignore:zarrs_async does not support")
async def test_gathered_batches_are_each_counted(counted: ModuleType) -> None:
    array = await zarr.api.asynchronous.create_array(
        MemoryStore(), shape=(40,), chunks=(2,), dtype="i4", compressors=[InvertCodec()]
    )
    await asyncio.gather(*(array.setitem(slice(start, start + 2), start) for start in range(0, 40, 2)))
    assert counted.stats()["fallback_batches"] == 20
    assert int(np.asarray(await array.getitem(...)).sum()) == 2 * sum(range(0, 40, 2))
