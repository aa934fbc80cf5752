"""Chunks and shards whose lengths vary along an axis: zarr's rectilinear grids."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr
from oracle import DEFAULT, OURS, assert_same_bits, created, keys, opened, stored
from strategies import RECTILINEAR, made_store
from typer.testing import CliRunner
from zarr.codecs import BytesCodec, ShardingCodec, TransposeCodec, ZstdCodec
from zarr.storage import LocalStore, MemoryStore

from support import remote

if TYPE_CHECKING:
    from pathlib import Path

    from support.servers import RangeServer

pytestmark = [
    pytest.mark.skipif(not RECTILINEAR, reason="this zarr has none"),
    # Our pipeline is on, and nothing may fall back.
    pytest.mark.usefixtures("native"),
]

SHARDS = ShardingCodec(chunk_shape=(1, 2), codecs=[TransposeCodec(order=(1, 0)), BytesCodec(), ZstdCodec()])
LAYOUTS: dict[str, dict[str, Any]] = {
    "chunks": {"chunks": [[3, 1, 4], [2, 5, 1, 2]]},
    "one axis varies": {"chunks": [[3, 1, 4], [5, 5]]},
    "transposed": {"chunks": [[3, 1, 4], [2, 5, 1, 2]], "filters": [TransposeCodec(order=(1, 0))]},
    "shards": {"chunks": [[3, 1, 4], [2, 6, 2]], "serializer": SHARDS, "compressors": []},
    "texts": {"chunks": [[3, 1, 4], [2, 5, 1, 2]], "dtype": "string", "fill_value": ""},
    "codecs in Python": {"chunks": [[3, 1, 4], [2, 5, 1, 2]], "dtype": [("x", "i4"), ("y", "f8")], "fill_value": 0},
}


@pytest.fixture(autouse=True)
def _rectilinear() -> None:
    zarr.config.set({"array.rectilinear_chunks": True})


def values(dtype: Any, *shape: int) -> Any:
    """Make values of which no two are equal."""
    numbers = np.arange(1, np.prod(shape) + 1).reshape(shape)
    return numbers.astype("U4").astype(np.dtypes.StringDType()) if dtype == "string" else numbers.astype(dtype)


@pytest.mark.filterwarnings("ignore:The data type .* does not have a Zarr V3 specification")
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", ["memory", "local", "obstore-memory"])
def test_arrays_grow_and_shrink(layout: str, kind: str) -> None:
    arguments = {"dtype": "i4", "fill_value": -1, **LAYOUTS[layout]}
    dtype = arguments["dtype"]
    with made_store(kind) as store:
        arrays = [
            created(target, pipeline, shape=(8, 10), **arguments)
            for target, pipeline in ((store, OURS), (MemoryStore(), DEFAULT))
        ]
        ours, default = arrays

        def agree() -> None:
            for read in (ours, opened(store, DEFAULT)):
                assert np.asarray(read[...]).tolist() == np.asarray(default[...]).tolist()
            assert keys(store) == keys(default.store)

        for array in arrays:
            array[...] = values(dtype, 8, 10)
            array[2:7:2, 1:] = values(dtype, 3, 9)
            array.oindex[[7, 0, 3], [1, 9]] = values(dtype, 3, 2)
            array.vindex[[4, 3], [6, 7]] = values(dtype, 2)
            array.blocks[1, 0] = values(dtype, *array.blocks[1, 0].shape)
        agree()
        for array in arrays:
            array.resize((5, 9))  # chunks reach past the end
            array[3:] = values(dtype, 2, 9)
        agree()
        for array in arrays:
            array.resize((9, 12))
        agree()
        for array in arrays:
            array.append(values(dtype, 2, 12))
        agree()
        for pick in (np.s_[4:, ::3], np.s_[-1], np.s_[1:10:4, 11]):
            assert np.asarray(ours[pick]).tolist() == np.asarray(default[pick]).tolist()


@pytest.mark.parametrize("layout", ["chunks", "shards"])
def test_stored_bytes_are_those_of_the_default(layout: str) -> None:
    arrays = [
        created(MemoryStore(), pipeline, shape=(8, 10), dtype="i4", **LAYOUTS[layout]) for pipeline in (OURS, DEFAULT)
    ]
    for array in arrays:
        array[...] = values("i4", 8, 10)
    assert stored(arrays[0]) == stored(arrays[1])


async def test_a_part_of_a_remote_shard_is_fetched_in_parts(range_server: RangeServer) -> None:
    array = created(
        LocalStore(range_server.root / "a"),
        DEFAULT,
        shape=(1000,),
        chunks=[[300, 100, 600]],
        dtype="u2",
        serializer=ShardingCodec(chunk_shape=(100,), codecs=[BytesCodec()]),
        compressors=[],
    )
    array[...] = values("u2", 1000)
    zarr.config.set({"array.sharding_coalesce_max_gap_bytes": 0})
    array = await remote.opened(range_server)
    assert_same_bits(await array.getitem(slice(650, 780)), values("u2", 1000)[650:780])
    # An index of six subchunks, and the two of them that are wanted.
    assert sorted(map(str, remote.ranges(range_server))) == ["bytes=-100", "bytes=400-799"]


def test_bench_reads_whole_chunks(tmp_path: Path) -> None:
    array = created(LocalStore(tmp_path), DEFAULT, shape=(8, 10), dtype="i4", **LAYOUTS["shards"])
    array[...] = values("i4", 8, 10)
    from zarrs_async.cli.app import app  # noqa: PLC0415  # the fixture has imported the package

    ran = CliRunner().invoke(app, ["bench", str(tmp_path), "--rounds", "1", "--mib", "0", "--json"])
    assert ran.exit_code == 0, ran.output
    assert json.loads(ran.stdout)[0]["read"] == "whole 4×6"
