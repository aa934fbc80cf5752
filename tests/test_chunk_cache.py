"""Decoded chunks are kept: what is asked of stores again, and that nothing stale is ever read."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import DEFAULT, OURS, assert_same_bits, opened
from zarr.storage import LocalStore

import zarrs_async
from support.process import started
from support.remote import http_store, stored

if TYPE_CHECKING:
    from pathlib import Path

    from support.servers import RangeServer, S3Server

LAYOUTS: dict[str, Any] = {
    "chunks": {"chunks": (8, 8)},
    "shards": {"chunks": (4, 4), "shards": (16, 16)},
    "raw": {"chunks": (8, 8), "compressors": None},
}
VALUES = np.arange(32 * 32, dtype="<i4").reshape(32, 32)
WRITER = """
from zarr.storage import LocalStore, ObjectStore
zarr.config.set({"codec_pipeline.chunk_cache_bytes": 0})
if sys.argv[1] == "local":
    store = LocalStore(sys.argv[2])
else:
    from obstore.store import S3Store
    store = ObjectStore(S3Store("zarr", prefix=sys.argv[2], endpoint=sys.argv[1], access_key_id=sys.argv[3],
        secret_access_key=sys.argv[4], region="us-east-1", client_options={"allow_http": True}))
array = zarr.open_array(store, mode="r+")
for number in range(1, 1000):
    sys.stdin.readline()
    array[:16, :16] = number
    print(number, flush=True)
"""


def settle() -> None:
    """Wait until files are old enough for one more change to show in their times."""
    time.sleep(0.05)


def counted(name: str) -> int:
    return int(zarrs_async.stats()[name])


@pytest.fixture(params=list(LAYOUTS))
def layout(request: pytest.FixtureRequest) -> dict[str, Any]:
    return dict(LAYOUTS[request.param])


@pytest.fixture(autouse=True)
def _byte_ranges() -> None:
    """Have shards read in parts, small as they are."""
    zarr.config.set({"codec_pipeline.path": OURS, "array.sharding_coalesce_max_gap_bytes": 0})


def test_a_local_chunk_is_decoded_once(tmp_path: Path, layout: dict[str, Any]) -> None:
    stored(tmp_path, VALUES, **layout)
    settle()
    array = zarr.open_array(LocalStore(tmp_path), mode="r")
    decoded = counted("chunks_decoded")
    for row in range(4):
        assert_same_bits(array[row], VALUES[row])
    assert counted("chunks_decoded") - decoded == 32 // array.chunks[1]
    assert counted("chunk_cache_hits") > 0


def test_a_remote_chunk_is_sent_once(range_server: RangeServer, layout: dict[str, Any]) -> None:
    stored(range_server.root, VALUES, **layout)
    array = zarr.open_array(http_store(range_server.url), mode="r")
    assert_same_bits(array[:3], VALUES[:3])
    range_server.reset_counts()
    assert_same_bits(array[1:4], VALUES[1:4])
    log = range_server.log()
    assert {logged["status"] for logged in log} == {304}
    assert sum(logged["nbytes"] for logged in log) == 0
    # One request for each object, however many of its subchunks are wanted.
    assert len(log) == 32 // (array.shards or array.chunks)[1]


def test_nothing_is_asked_within_the_time_that_the_user_allows(
    range_server: RangeServer, layout: dict[str, Any]
) -> None:
    zarr.config.set({"codec_pipeline.chunk_cache_recheck_s": 3600})
    stored(range_server.root, VALUES, **layout)
    array = zarr.open_array(http_store(range_server.url), mode="r")
    assert_same_bits(array[:3], VALUES[:3])
    range_server.reset_counts()
    assert_same_bits(array[1:4], VALUES[1:4])
    assert range_server.log() == []


def test_a_scan_of_whole_chunks_keeps_none(tmp_path: Path, layout: dict[str, Any]) -> None:
    stored(tmp_path, VALUES, **layout)
    settle()
    array = zarr.open_array(LocalStore(tmp_path), mode="r")
    hits = []
    for _ in range(3):
        before = counted("chunk_cache_hits")
        assert_same_bits(array[...], VALUES)
        hits.append(counted("chunk_cache_hits") - before)
    assert hits[:2] == [0, 0]
    assert hits[2] > 0


def test_the_cache_can_be_switched_off(tmp_path: Path, layout: dict[str, Any]) -> None:
    zarr.config.set({"codec_pipeline.chunk_cache_bytes": 0})
    stored(tmp_path, VALUES, **layout)
    settle()
    array = zarr.open_array(LocalStore(tmp_path), mode="r")
    before = counted("chunk_cache_hits")
    for row in range(4):
        assert_same_bits(array[row], VALUES[row])
    assert counted("chunk_cache_hits") == before


def test_what_is_kept_of_one_server_is_not_another_ones(range_server: RangeServer, tmp_path: Path) -> None:
    """Two arrays of one key, one shape and other codecs, or at other URLs, share nothing."""
    stored(range_server.root / "a", VALUES, chunks=(8, 8))
    stored(range_server.root / "b", -VALUES, chunks=(8, 8))
    for _ in range(2):
        for name, values in (("a", VALUES), ("b", -VALUES)):
            array = zarr.open_array(http_store(f"{range_server.url}/{name}"), mode="r")
            assert_same_bits(array[:3], values[:3])
    assert tmp_path.exists()


@settings(max_examples=50)
@given(st.data())
def test_reads_between_writes_of_others_see_the_last_of_them(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Another pipeline writes, removes and leaves alone; ours reads the same rows over and over."""
    layout = LAYOUTS[data.draw(st.sampled_from(sorted(LAYOUTS)))]
    root = tmp_path_factory.mktemp("store")
    stored(root, VALUES, **layout)
    ours, other, model = opened(LocalStore(root), OURS), opened(LocalStore(root), DEFAULT), VALUES.copy()
    for _ in range(data.draw(st.integers(2, 8))):
        start, stop = sorted(data.draw(st.tuples(st.integers(0, 32), st.integers(0, 32))))
        match data.draw(st.sampled_from(["write", "read", "read", "settle", "own"])):
            case "write":
                other[start:stop] = model[start:stop] = data.draw(st.integers(0, 9))
            case "own":
                ours[start:stop] = model[start:stop] = data.draw(st.integers(0, 9))
            case "settle":
                time.sleep(0.03)
            case _:
                columns = slice(data.draw(st.integers(0, 15)), data.draw(st.integers(16, 32)))
                assert_same_bits(ours[start:stop, columns], model[start:stop, columns])
    assert_same_bits(ours[...], model)


@pytest.mark.long
@pytest.mark.parametrize("kind", ["local", "http", "s3"])
@pytest.mark.parametrize("layout_name", ["chunks", "shards"])
def test_no_read_is_older_than_what_another_process_has_stored(
    kind: str, layout_name: str, range_server: RangeServer, request: pytest.FixtureRequest
) -> None:
    layout: dict[str, Any] = {**LAYOUTS[layout_name], "fill_value": 0}
    if kind == "s3":
        server: S3Server = request.getfixturevalue("s3_server")
        prefix = server.new_prefix()
        store: Any = zarr.storage.ObjectStore(server.obstore(prefix))
        zarr.create_array(store, data=VALUES * 0, **layout)
        options = server.s3fs_options()
        writer: tuple[Any, ...] = (options["client_kwargs"]["endpoint_url"], prefix, options["key"], options["secret"])
    else:
        stored(range_server.root, VALUES * 0, **layout)
        writer = ("local", str(range_server.root))
        store = LocalStore(range_server.root) if kind == "local" else http_store(range_server.url)
    array = zarr.open_array(store, mode="r")
    with started(WRITER, *writer) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for number in range(1, 20):
            process.stdin.write("\n")
            process.stdin.flush()
            # Of a chunk that is being replaced, the old one or the new one.
            assert set(np.unique(array[:3, :7])) <= {number - 1, number}
            assert process.stdout.readline() == f"{number}\n"
            if number % 4 == 0:
                settle()  # else no chunk of a file would be kept, unless by chance
            for part in (np.s_[:3, :7], np.s_[1, :5]):
                assert set(np.unique(array[part])) == {number}
    assert counted("chunk_cache_hits") > 0
