"""Zarr v2: orders, byte orders, compressors, fill values that are not set, and keys with dots."""

from __future__ import annotations

import json
from typing import Any

import numcodecs  # type: ignore[import-untyped]
import numpy as np
import pytest
from oracle import DEFAULT, OURS, assert_same_bits, created, keys, opened
from zarr.storage import LocalStore, MemoryStore

pytestmark = pytest.mark.usefixtures("native")

SHAPE = (7, 5, 3)
COMPRESSORS: dict[str, Any] = {
    "none": None,
    "zstd": numcodecs.Zstd(level=1),
    "gzip": numcodecs.GZip(level=1),
    "zlib": numcodecs.Zlib(level=1),
    "bz2": numcodecs.BZ2(level=1),
    "blosc": numcodecs.Blosc(),
    "blosc-bits": numcodecs.Blosc(cname="zstd", shuffle=numcodecs.Blosc.BITSHUFFLE),
    "blosc-auto": numcodecs.Blosc(cname="lz4", shuffle=numcodecs.Blosc.AUTOSHUFFLE),
    "blosc-plain": numcodecs.Blosc(cname="lz4", shuffle=numcodecs.Blosc.NOSHUFFLE, blocksize=256),
}


@pytest.mark.parametrize("compressor", COMPRESSORS)
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["<i4", ">i4", ">f8", "|u1", "<c16", ">M8[s]", "|S4", ">U3"])
def test_each_reads_what_the_other_wrote(compressor: str, order: str, dtype: str) -> None:
    values = np.arange(105).reshape(SHAPE).astype(dtype)
    arguments: Any = {
        "shape": SHAPE,
        "chunks": (3, 2, 2),
        "dtype": dtype,
        "order": order,
        "zarr_format": 2,
        "compressors": COMPRESSORS[compressor],
    }
    ours, default = (created(MemoryStore(), pipeline, **arguments) for pipeline in (OURS, DEFAULT))
    for array in (ours, default):
        array[...] = values
        array[1:5, ::2] = values[0:4, ::2]
        array.oindex[[6, 0], [4, 1]] = values[2:4, 0:2]
    assert keys(ours.store) == keys(default.store)
    expected = default[...]
    assert_same_bits(ours[...], expected)
    assert_same_bits(opened(ours.store, DEFAULT)[...], expected)
    assert_same_bits(opened(default.store, OURS)[...], expected)
    assert_same_bits(opened(default.store, OURS)[1, :, 2], expected[1, :, 2])


def test_uncompressed_chunks_are_the_same_bytes() -> None:
    arguments: Any = {"shape": (5, 4), "chunks": (3, 3), "dtype": ">i2", "zarr_format": 2, "compressors": None}
    stored = []
    for pipeline in (OURS, DEFAULT):
        array = created(MemoryStore(), pipeline, order="F", **arguments)
        array[...] = np.arange(20).reshape(5, 4)
        stored.append({key: value.to_bytes() for key, value in array.store._store_dict.items()})
    assert stored[0] == stored[1]


@pytest.mark.parametrize("fill", [None, 0, 7])
@pytest.mark.parametrize("write_empty_chunks", [True, False])
def test_fill_values_that_may_be_unset(fill: Any, write_empty_chunks: bool) -> None:  # noqa: FBT001  # a parameter
    arrays = [
        created(
            MemoryStore(),
            pipeline,
            shape=(8,),
            chunks=(2,),
            dtype="<i4",
            zarr_format=2,
            fill_value=fill,
            config={"write_empty_chunks": write_empty_chunks},
        )
        for pipeline in (OURS, DEFAULT)
    ]
    for array in arrays:
        array[0:4] = 0
        array[5] = 7
        array[6:8] = 7
    ours, default = arrays
    assert keys(ours.store) == keys(default.store)
    assert_same_bits(ours[...], default[...])


@pytest.mark.parametrize("separator", [".", "/"])
def test_separators(separator: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    found = []
    for pipeline in (OURS, DEFAULT):
        store = LocalStore(tmp_path_factory.mktemp("array"))
        array = created(
            store,
            pipeline,
            shape=(4, 4),
            chunks=(2, 2),
            dtype="i4",
            zarr_format=2,
            chunk_key_encoding={"name": "v2", "separator": separator},
        )
        array[0:2] = 1
        found.append(keys(store))
    assert found[0] == found[1]
    assert f"0{separator}1" in found[0]


def test_metadata_of_other_writers() -> None:
    """Fields that zarr-python would not write: no fill value, a compressor with settings left out."""
    metadata = {
        "zarr_format": 2,
        "shape": [4],
        "chunks": [2],
        "dtype": "<f4",
        "compressor": {"id": "zstd", "level": 3},
        "fill_value": None,
        "order": "C",
        "filters": None,
    }
    values = np.arange(2, dtype="<f4")
    store = MemoryStore()
    buffer = type(created(MemoryStore(), DEFAULT, shape=(1,), dtype="i1").store._store_dict["zarr.json"])
    store._store_dict[".zarray"] = buffer.from_bytes(json.dumps(metadata).encode())
    store._store_dict["1"] = buffer.from_bytes(numcodecs.Zstd(level=3).encode(values.tobytes()))
    array = opened(store, OURS)
    assert np.asarray(array[...]).tolist() == [0, 0, 0, 1]
