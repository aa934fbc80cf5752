"""Arrays travel to other processes: pickled before and after use, spawned, copied."""

from __future__ import annotations

import copy
import multiprocessing
import pickle
from concurrent.futures import ProcessPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import obstore.store
import pytest
from oracle import OURS, created
from zarr.storage import LocalStore, MemoryStore, ObjectStore

if TYPE_CHECKING:
    from pathlib import Path

    import zarr

pytestmark = pytest.mark.usefixtures("native")


def made(store: Any) -> Any:
    """Make an array of the numbers from 0 to 63."""
    array = created(store, OURS, shape=(8, 8), chunks=(2, 2), shards=(4, 4), dtype="i4")
    array[...] = np.arange(64).reshape(8, 8)
    return array


def row_sum(array: zarr.Array[Any], row: int) -> tuple[int, str, int]:
    """Sum a row, in whatever process this is; say who did it."""
    import zarrs_async  # noqa: PLC0415  # in the other process

    total = int(np.asarray(array[row]).sum())
    pipeline = type(array.async_array.codec_pipeline)  # type: ignore[attr-defined, unused-ignore]
    return total, f"{pipeline.__module__}.{pipeline.__qualname__}", zarrs_async.stats()["fallback_batches"]


def write_row(array: zarr.Array[Any], row: int) -> None:
    """Write a row, in whatever process this is."""
    array[row] = -row


@pytest.mark.parametrize("used", [False, True])
@pytest.mark.parametrize("kind", ["local", "obstore"])
def test_round_trips(kind: str, used: bool, tmp_path: Path) -> None:  # noqa: FBT001  # a parameter
    store: Any = LocalStore(tmp_path) if kind == "local" else ObjectStore(obstore.store.LocalStore(tmp_path))
    array = made(store)
    if used:
        array[...]
    again = pickle.loads(pickle.dumps(array))  # noqa: S301  # our own
    assert type(again.async_array.codec_pipeline) is type(array.async_array.codec_pipeline)  # type: ignore[attr-defined, unused-ignore]
    assert (np.asarray(again[...]) == np.asarray(array[...])).all()
    again[0] = 99
    assert (np.asarray(array[0]) == 99).all()


def test_pipelines_are_equal_after_a_round_trip(tmp_path: Path) -> None:
    pipeline: Any = made(LocalStore(tmp_path)).async_array.codec_pipeline  # type: ignore[attr-defined, unused-ignore]
    assert pickle.loads(pickle.dumps(pipeline)) == pipeline  # noqa: S301  # our own
    bare = type(pipeline).from_codecs(list(pipeline))
    assert pickle.loads(pickle.dumps(bare)) == bare  # noqa: S301  # our own


def test_deep_copies() -> None:
    array = made(MemoryStore())
    again = copy.deepcopy(array)
    again[0] = 7
    assert (np.asarray(again[0]) == 7).all()
    assert np.asarray(array[0]).tolist() == list(range(8))


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_other_processes(method: str, tmp_path: Path) -> None:
    array = made(LocalStore(tmp_path))
    context = multiprocessing.get_context(method)
    with ProcessPoolExecutor(2, mp_context=context) as processes:
        found = list(processes.map(row_sum, [array] * 8, range(8), timeout=90))
        list(processes.map(write_row, [array] * 2, (0, 4), timeout=90))
    assert found == [(sum(range(8 * row, 8 * row + 8)), OURS, 0) for row in range(8)]
    assert np.asarray(array[4]).tolist() == [-4] * 8
