"""Shards with bytes that belong to no subchunk, as writers leave them that append: many times what a shard needs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr
from oracle import DEFAULT, opened
from zarr.codecs import BytesCodec, ShardingCodec
from zarr.storage import LocalStore

from support import remote

if TYPE_CHECKING:
    from pathlib import Path

    from support.servers import RangeServer

# Our pipeline is on, and nothing may fall back.
pytestmark = pytest.mark.usefixtures("native")

VALUES = np.arange(2048, dtype="uint16") + 1
# Two shards of 16 subchunks; the index is 16 pairs of offset and length.
INDEX_NBYTES = 16 * 16
GAP_NBYTES = 4 << 20
SELECTIONS = [slice(None), slice(100, 1500), slice(0, 10), slice(0, None, 300)]


def gapped(path: Path) -> None:
    """Write shards, and move all subchunks of each behind a gap."""
    sharding = ShardingCodec(chunk_shape=(64,), codecs=[BytesCodec()], index_codecs=[BytesCodec()])
    remote.stored(path, VALUES, chunks=(1024,), serializer=sharding, filters=None)
    for shard in (path / "c").iterdir():
        content = shard.read_bytes()
        index = np.frombuffer(content[-INDEX_NBYTES:], dtype="<u8").reshape(16, 2) + np.array([GAP_NBYTES, 0], "<u8")
        shard.write_bytes(bytes(GAP_NBYTES) + content[:-INDEX_NBYTES] + index.tobytes())


def as_default_reads(path: Path) -> Any:
    """Read the files with zarr's default pipeline."""
    return opened(LocalStore(path), DEFAULT)[...]


@pytest.mark.parametrize("gap", [0, 1 << 20], ids=["parts", "whole"])
async def test_read_over_http(range_server: RangeServer, gap: int) -> None:
    zarr.config.set({"array.sharding_coalesce_max_gap_bytes": gap})
    gapped(range_server.root / "a")
    array = await remote.opened(range_server)
    for selection in SELECTIONS:
        np.testing.assert_array_equal(await array.getitem(selection), VALUES[selection])


async def test_write_of_a_part_over_http(range_server: RangeServer) -> None:
    gapped(range_server.root / "a")
    array = await remote.opened(range_server, mode="r+")
    await array.setitem(slice(10, 1030), 7)
    values = VALUES.copy()
    values[10:1030] = 7
    np.testing.assert_array_equal(as_default_reads(range_server.root / "a"), values)


def test_read_and_write_of_local_files(tmp_path: Path) -> None:
    gapped(tmp_path)
    array = zarr.open_array(tmp_path, mode="r+")
    for selection in SELECTIONS:
        np.testing.assert_array_equal(array[selection], VALUES[selection])
    array[10:1030] = 7
    values = VALUES.copy()
    values[10:1030] = 7
    np.testing.assert_array_equal(as_default_reads(tmp_path), values)


async def test_plain_chunk_of_such_a_size_is_refused(range_server: RangeServer) -> None:
    remote.stored(range_server.root / "a", VALUES, chunks=(1024,))
    (range_server.root / "a/c/0").write_bytes(bytes(GAP_NBYTES))
    array = await remote.opened(range_server)
    with pytest.raises(Exception, match=r"4194304 bytes are more than a chunk of this array can have"):
        await array.getitem(slice(None))
