"""Chunks of which a codec makes nothing: zarr does not store them, and neither does the engine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pytest
from oracle import DEFAULT, OURS, created, stored
from zarr.codecs import BytesCodec, Crc32cCodec, TransposeCodec, ZstdCodec
from zarr.storage import LocalStore, MemoryStore, ObjectStore

if TYPE_CHECKING:
    from pathlib import Path

    from zarr.core.array_spec import ArraySpec
    from zarr.core.buffer import Buffer, NDBuffer

    from support.servers import S3Server

pytestmark = pytest.mark.usefixtures("native")

NOTHING = 7
"""The codecs below make nothing of a chunk of this value."""


def is_nothing(chunk: np.ndarray[Any, Any]) -> bool:
    """Tell whether the codecs below make nothing of a chunk."""
    return bool((chunk.reshape(-1).view("<i4") == NOTHING).all())


class Filter(TransposeCodec):
    """An array-to-array codec."""

    async def _encode_single(self, chunk_array: NDBuffer, chunk_spec: ArraySpec) -> NDBuffer | None:
        return (
            None if is_nothing(chunk_array.as_numpy_array()) else await super()._encode_single(chunk_array, chunk_spec)
        )


class Serializer(BytesCodec):
    """The codec that makes bytes."""

    def evolve_from_array_spec(self, array_spec: ArraySpec) -> Self:
        """Stay of this class."""
        assert array_spec is not None
        return self

    async def _encode_single(self, chunk_array: NDBuffer, chunk_spec: ArraySpec) -> Buffer | None:
        return (
            None if is_nothing(chunk_array.as_numpy_array()) else await super()._encode_single(chunk_array, chunk_spec)
        )


class Compressor(Crc32cCodec):
    """A bytes-to-bytes codec."""

    async def _encode_single(self, chunk_data: Buffer, chunk_spec: ArraySpec) -> Buffer | None:
        return None if is_nothing(chunk_data.as_numpy_array()) else await super()._encode_single(chunk_data, chunk_spec)


CODECS: dict[str, dict[str, Any]] = {
    "filter": {"filters": [Filter(order=(0,))], "compressors": []},
    "serializer": {"serializer": Serializer(), "compressors": [ZstdCodec()]},
    "compressor": {"compressors": [Compressor()]},
    "compressor before another": {"compressors": [Compressor(), ZstdCodec()]},
}

WRITES: list[tuple[Any, Any]] = [
    (slice(None), [7, 7, 3, 4, 5, 6, 7, 7]),
    (slice(2, 4), 7),
    (slice(4, 5), 7),
    (5, 7),
    (0, 9),
    (slice(6, 8), 1),
    (slice(None), 7),
]


@pytest.mark.parametrize("codecs", CODECS)
@pytest.mark.parametrize("shards", [None, (4,)])
@pytest.mark.parametrize("write_empty_chunks", [False, True])
def test_what_no_codec_stores_is_missing_or_deleted(
    codecs: str,
    shards: Any,
    write_empty_chunks: bool,  # noqa: FBT001  # a parameter
) -> None:
    arrays = [
        created(
            MemoryStore(),
            pipeline,
            shape=(8,),
            chunks=(2,),
            shards=shards,
            dtype="<i4",
            fill_value=1,
            config={"write_empty_chunks": write_empty_chunks},
            **CODECS[codecs],
        )
        for pipeline in (OURS, DEFAULT)
    ]
    elided = set()
    for where, value in WRITES:
        for array in arrays:
            array[where] = value
        ours, default = arrays
        assert stored(ours) == stored(default)
        assert np.asarray(ours[...]).tolist() == np.asarray(default[...]).tolist()
        elided |= {"c/0", "c/1"} - set(stored(ours))
    assert elided


def test_a_chunk_that_becomes_nothing_is_deleted_from_disk(tmp_path: Path) -> None:
    array = created(LocalStore(tmp_path), OURS, shape=(4,), chunks=(2,), dtype="<i4", **CODECS["compressor"])
    array[...] = [1, 2, 7, 3]
    array[3] = 7
    array[0:2] = 7
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["zarr.json"]
    assert np.asarray(array[...]).tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize(("fill", "left"), [(0, True), (NOTHING, False)])
def test_a_part_that_becomes_nothing_in_a_bucket(s3_server: S3Server, fill: int, left: bool) -> None:  # noqa: FBT001  # a parameter
    # No condition goes with a deletion, so a chunk of fill values is put; only one that cannot be encoded is deleted.
    store = s3_server.obstore(s3_server.new_prefix())
    array = created(
        ObjectStore(store), OURS, shape=(2,), chunks=(2,), dtype="<i4", fill_value=fill, **CODECS["compressor"]
    )
    array[...] = [1, 7]
    array[0] = 7
    assert np.asarray(array[...]).tolist() == [fill, fill]
    assert any(item["path"].endswith("c/0") for chunk in store.list() for item in chunk) == left
