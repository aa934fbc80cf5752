"""`DirectArray`: what zarr reads and writes, without its indexing, one selection or many in a batch."""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from oracle import DEFAULT, OURS, assert_same_bits, created, keys, opened
from strategies import STORES, ArrayCase, array_cases, made_store, picks, random_values, values
from zarr.storage import LocalStore, MemoryStore

import zarrs_async
from support.remote import http_store, stored
from zarrs_async import DirectArray

if TYPE_CHECKING:
    from pathlib import Path

    from support.range_client import RangeServer

pytestmark = [
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("ignore:The data type .* does not have a Zarr V3 specification"),
    pytest.mark.filterwarnings("ignore:Numcodecs codecs are not in the Zarr version 3 specification"),
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),  # numpy's, of comparisons with signalling NaN
]
relaxed = settings(max_examples=50, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
VALUES = np.arange(13 * 11, dtype="<i4").reshape(13, 11)
LAYOUTS: dict[str, Any] = {"chunks": {"chunks": (4, 3)}, "shards": {"chunks": (2, 3), "shards": (6, 6)}}


@pytest.fixture(autouse=True)
def _rectilinear() -> None:
    zarr.config.set({"array.rectilinear_chunks": True})


@pytest.fixture(params=list(LAYOUTS))
def array(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    made = created(LocalStore(tmp_path), OURS, shape=VALUES.shape, dtype="<i4", **LAYOUTS[request.param])
    made[...] = VALUES
    return made


def made(case: ArrayCase, store: Any, pipeline: str) -> Any:
    with zarr.config.set({"codec_pipeline.path": pipeline}):
        return case.create(store)


async def read_all_ways(array: DirectArray, selections: list[Any]) -> list[list[Any]]:
    """Read selections one by one and as one batch, awaited and on a thread that waits."""

    def blocking() -> list[list[Any]]:
        return [[array.read_blocking(one) for one in selections], array.read_many_blocking(selections)]

    return [
        [await array.read(one) for one in selections],
        await array.read_many(selections),
        *await asyncio.to_thread(blocking),
    ]


@relaxed
@given(st.data(), array_cases(), st.sampled_from(STORES), st.sampled_from((OURS, DEFAULT)))
def test_reads_are_what_zarr_reads(data: st.DataObject, case: ArrayCase, kind: str, pipeline: str) -> None:
    with made_store(kind) as store:
        default = made(case, store, DEFAULT)
        if 0 not in case.shape:
            default[...] = random_values(np.dtype(case.dtype), case.shape, data.draw(st.integers(0, 9)))
        chosen = [data.draw(picks(case, products=True)) for _ in range(data.draw(st.integers(1, 4)))]
        direct = DirectArray(opened(store, pipeline))
        reopened = opened(store, DEFAULT)
        expected = [np.asarray(pick.read(reopened)) for pick in chosen]
        for results in asyncio.run(read_all_ways(direct, [pick.selection for pick in chosen])):
            for result, wanted in zip(results, expected, strict=True):
                # numpy's scalars have the byte order of the machine.
                assert_same_bits(result if wanted.shape else np.asarray(result, wanted.dtype), wanted)


@relaxed
@given(st.data(), array_cases(), st.sampled_from(STORES), st.sampled_from(("awaited", "blocking")))
def test_writes_store_what_zarr_stores(data: st.DataObject, case: ArrayCase, kind: str, way: str) -> None:
    with made_store(kind) as store:
        ours, default = made(case, store, OURS), made(case.without_shards(), MemoryStore(), DEFAULT)
        direct = DirectArray(ours)
        chosen = [data.draw(picks(case, unique=True, products=True)) for _ in range(data.draw(st.integers(1, 3)))]
        shapes = [np.shape(pick.read(default)) for pick in chosen]
        written = [np.broadcast_to(data.draw(values(case, shape)), shape) for shape in shapes]
        for pick, value in zip(chosen, written, strict=True):
            pick.write(default, value)
        selections = [pick.selection for pick in chosen]
        if way == "blocking":
            direct.write_many_blocking(selections, written)
        else:
            asyncio.run(direct.write_many(selections, written))
        assert_same_bits(ours[...], default[...])
        if case.without_shards() == case:
            assert keys(store) == keys(default.store)


async def test_a_list_of_selections_is_one_batch_that_decodes_each_chunk_once(array: Any) -> None:
    direct = DirectArray(array)
    before = zarrs_async.stats()
    rows = await direct.read_many([(row,) for row in range(13)])
    after = zarrs_async.stats()
    assert_same_bits(np.stack(rows), VALUES)
    assert after["batches"] - before["batches"] == 1
    # In both layouts no chunk, and no subchunk, is decoded twice.
    assert after["chunks_decoded"] - before["chunks_decoded"] <= 28


async def test_what_is_written_together_is_stored_once(array: Any) -> None:
    before = zarrs_async.stats()["chunks_encoded"]
    await DirectArray(array).write_many([(0, 0), (0, 1), (1, slice(0, 2)), (0, 0)], [1, 2, [3, 4], 5])
    assert zarrs_async.stats()["chunks_encoded"] - before == 1
    assert array[:2, :2].tolist() == [[5, 2], [3, 4]]


async def test_outputs_that_are_given(array: Any) -> None:
    direct = DirectArray(array)
    out = np.zeros((4, 11), "<i4")
    assert await direct.read(slice(2, 6), out=out) is out
    assert_same_bits(out, VALUES[2:6])
    boxes = [np.s_[at : at + 2, 3:5] for at in range(5)]
    for stacked in (np.zeros((5, 2, 2), "<i4"), np.zeros((2, 2, 5), "<i4").transpose(2, 1, 0)):
        views = await direct.read_many(boxes, out=stacked)
        assert_same_bits(stacked, np.stack([VALUES[box] for box in boxes]))
        assert all(np.shares_memory(view, stacked) for view in views)
    with pytest.raises(ValueError, match="shape"):
        await direct.read(slice(2, 6), out=np.zeros((3, 11), "<i4"))
    with pytest.raises(ValueError, match="int64"):
        await direct.read(slice(2, 6), out=np.zeros((4, 11), "i8"))
    with pytest.raises(ValueError, match="several shapes"):
        await direct.read_many([0, (0, 0)], out=np.zeros(2, "<i4"))
    frozen = np.zeros((4, 11), "<i4")
    frozen.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        await direct.read(slice(2, 6), out=frozen)


@pytest.mark.parametrize(
    "selection",
    [13, -14, (0, 11), (0, 0, 0), (..., ...), [0, 13], np.zeros(12, bool), [0.5], "a", slice(None, None, -1), [[0]]],
)
async def test_what_is_no_selection_of_the_array(array: Any, selection: Any) -> None:
    with pytest.raises(IndexError):
        await DirectArray(array).read(selection)
    with pytest.raises(IndexError):
        await DirectArray(array).write(selection, 0)


async def test_values_that_do_not_fit(array: Any) -> None:
    with pytest.raises(ValueError, match="broadcast"):
        await DirectArray(array).write(slice(0, 3), np.zeros(4))
    with pytest.raises(ValueError, match="1 values for 2"):
        await DirectArray(array).write_many([0, 1], [0])
    assert_same_bits(array[...], VALUES)


async def test_nothing_selected(array: Any) -> None:
    direct = DirectArray(array)
    assert await direct.read_many([]) == []
    assert (await direct.read((slice(0, 0), 1))).shape == (0,)
    await direct.write((slice(0, 0), 1), 3)
    assert_same_bits(array[...], VALUES)


async def test_an_array_that_is_resized(array: Any) -> None:
    direct = DirectArray(array)
    await direct.read(12)
    await array.async_array.resize((15, 11))
    assert direct.shape == (15, 11)
    assert_same_bits(await direct.read(slice(12, 15)), np.concatenate([VALUES[12:], np.zeros((2, 11), "<i4")]))


async def test_read_only_stores_are_not_written(tmp_path: Path, array: Any) -> None:
    direct = DirectArray(zarr.open_array(LocalStore(tmp_path, read_only=True)))
    with pytest.raises(ValueError, match="read-only"):
        await direct.write(0, 1)
    assert_same_bits(array[...], VALUES)


async def test_opened_by_itself_and_pickled(tmp_path: Path, array: Any) -> None:
    direct = await DirectArray.open(LocalStore(tmp_path))
    assert (direct.shape, direct.dtype) == (VALUES.shape, VALUES.dtype)
    assert_same_bits(await pickle.loads(pickle.dumps(direct)).read(3), VALUES[3])  # noqa: S301  # our own
    assert str(tmp_path) in repr(direct)
    assert_same_bits(array[...], VALUES)


async def test_a_cancelled_read_leaves_its_output_alone(array: Any) -> None:
    direct, out = DirectArray(array), np.zeros(VALUES.shape, "<i4")
    for _ in range(20):
        reading = asyncio.create_task(direct.read(out=out))
        await asyncio.sleep(0)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        seen = out.copy()
        await asyncio.sleep(0)
        assert_same_bits(out, seen)


def test_a_thread_that_waits_hears_signals(tmp_path: Path, range_server: RangeServer) -> None:
    """A read that hangs is ended by Ctrl-C, as any other blocking call of Python's."""
    stored(tmp_path, VALUES, chunks=(4, 3))
    range_server.serve(tmp_path)
    direct = DirectArray(zarr.open_array(http_store(range_server.url), mode="r"))
    range_server.hold()
    # A shell that starts programs in the background has them ignore it.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)

    def interrupt() -> None:
        range_server.wait(in_flight=1)
        os.kill(os.getpid(), signal.SIGINT)

    with ThreadPoolExecutor() as threads:
        interrupting = threads.submit(interrupt)
        with pytest.raises(KeyboardInterrupt):
            direct.read_blocking()
        interrupting.result()
    signal.signal(signal.SIGINT, before)
    range_server.wait(idle=True)
    range_server.release()
    assert_same_bits(direct.read_blocking(), VALUES)
