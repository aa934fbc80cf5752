"""Large chunks of which little is wanted: decoded no further than that, and never to anything else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numcodecs import BZ2, LZ4, Blosc, GZip, Zlib, Zstd  # type: ignore[import-untyped]
from zarr.codecs import BloscCodec, Crc32cCodec, GzipCodec, ZstdCodec
from zarr.storage import LocalStore

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType

CHUNK = (64, 96, 128)  # of 2 bytes each, 1.5 MiB
SHAPE = (100, 96, 130)
VALUES = np.cumsum(np.random.default_rng(0).integers(0, 3, SHAPE), axis=0).astype("uint16")

V3: dict[str, Any] = {
    "zstd": ZstdCodec(level=1),
    "zstd with a checksum": ZstdCodec(level=3, checksum=True),
    "gzip": GzipCodec(level=1),
    "blosc lz4": BloscCodec(cname="lz4", shuffle="shuffle", typesize=2),
    "blosc zstd bitshuffle": BloscCodec(cname="zstd", shuffle="bitshuffle", typesize=2, blocksize=4096),
    "blosc of bytes": BloscCodec(cname="blosclz", shuffle="noshuffle", typesize=1),
    "crc32c": (ZstdCodec(level=1), Crc32cCodec()),
    "twice": (BloscCodec(cname="lz4", shuffle="shuffle", typesize=2), GzipCodec(level=1)),
}
V2: dict[str, Any] = {
    "zstd": Zstd(level=1),
    "gzip": GZip(level=1),
    "zlib": Zlib(level=1),
    "bz2": BZ2(level=1),
    "lz4": LZ4(),
    "blosc": Blosc(cname="lz4hc", clevel=1, shuffle=Blosc.SHUFFLE),
}


def made(root: Path, name: str) -> zarr.Array[Any]:
    """Store the values with one codec, and open them."""
    version, codec = name.split(": ")
    store = LocalStore(root)
    if version == "v2":
        order: Literal["C", "F"] = "F" if codec in {"zlib", "blosc"} else "C"
        dtype = ">u2" if order == "F" else "<u2"
        array = zarr.create_array(
            store, shape=SHAPE, dtype=dtype, chunks=CHUNK, compressors=V2[codec], order=order, zarr_format=2
        )
    else:
        array = zarr.create_array(store, shape=SHAPE, dtype="uint16", chunks=CHUNK, compressors=V3[codec])
    array[:] = VALUES
    return zarr.open_array(store, mode="r")


@st.composite
def selections(draw: st.DrawFn) -> tuple[Any, ...]:
    """Draw a slice, an integer or a list for each axis, mostly short ones."""
    chosen: list[Any] = []
    for length in SHAPE:
        start = draw(st.integers(0, length - 1))
        stop = draw(st.one_of(st.integers(start, min(start + 5, length)), st.just(length)))
        positions = st.lists(st.integers(0, length - 1), min_size=1, max_size=4, unique=True).map(sorted)
        step = draw(st.sampled_from([1, 1, 3]))
        chosen.append(draw(st.one_of(st.just(slice(start, stop, step)), st.just(start), positions)))
    return tuple(chosen)


@pytest.mark.usefixtures("rust_only")
@pytest.mark.parametrize("kept", [0, 1 << 30])
@pytest.mark.parametrize("name", [*(f"v2: {codec}" for codec in V2), *(f"v3: {codec}" for codec in V3)])
def test_parts_are_what_they_are_in_the_whole(tmp_path: Path, name: str, kept: int) -> None:
    zarr.config.set({"codec_pipeline.chunk_cache_bytes": kept})
    array = made(tmp_path, name)

    @settings(max_examples=20, suppress_health_check=[HealthCheck.too_slow])
    @given(selections())
    def check(selection: tuple[Any, ...]) -> None:
        lists = [[axis] if isinstance(axis, int) else axis for axis in selection]
        grid = np.ix_(*(np.arange(length)[axis] for length, axis in zip(SHAPE, lists, strict=True)))
        got = array.oindex[selection]
        assert np.array_equal(np.asarray(got).reshape(VALUES[grid].shape), VALUES[grid])

    check()


@pytest.mark.parametrize("codec", ["zstd", "gzip", "blosc lz4"])
def test_damage_is_found_where_it_is_decoded(native: ModuleType, tmp_path: Path, codec: str) -> None:
    zarr.config.set({"codec_pipeline.chunk_cache_bytes": 0})
    array = made(tmp_path, f"v3: {codec}")
    path = tmp_path / "c" / "0" / "0" / "0"
    stored = bytearray(path.read_bytes())
    stored[len(stored) // 2 :] = bytes(len(stored) - len(stored) // 2)
    path.write_bytes(stored)
    assert np.array_equal(array[2, :, :128], VALUES[2, :, :128])
    for rows in (slice(64), slice(63, 64)):
        with pytest.raises(native.exceptions.ChunkDecodeError, match="c/0/0/0"):
            array[rows, :, :128]
