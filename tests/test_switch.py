"""How our pipeline is chosen: by configuration, by environment, by its entry point; then zarr is used as always."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr
from oracle import DEFAULT, OURS, opened
from zarr.storage import LocalStore, MemoryStore

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType

WITHOUT_IMPORT = """
import sys
import numpy as np
import zarr
array = zarr.create_array(sys.argv[1], shape=(6, 4), chunks=(2, 2), dtype="i4")
array[...] = np.arange(24).reshape(6, 4)
assert array[...].sum() == 276
print(type(array.async_array.codec_pipeline).__name__)
print(sys.modules["zarrs_async"].stats()["batches"])
"""


def test_the_entry_point_names_the_class_as_zarr_will_look_for_it() -> None:
    [found] = [point for point in entry_points(group="zarr.codec_pipeline") if point.name == "zarrs_async"]
    made = found.load()
    assert f"{made.__module__}.{made.__qualname__}" == OURS


def test_the_environment_switches_a_process_that_never_imports_us(tmp_path: Path) -> None:
    done = subprocess.run(  # noqa: S603  # our own script
        [sys.executable, "-c", WITHOUT_IMPORT, str(tmp_path / "array.zarr")],
        env={**os.environ, "ZARR_CODEC_PIPELINE__PATH": OURS},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["ZarrsAsyncCodecPipeline", "2"]
    assert (np.asarray(opened(LocalStore(tmp_path / "array.zarr"), DEFAULT)[...]).ravel() == np.arange(24)).all()


def test_configuration_switches_arrays_made_from_then_on(pipeline: ModuleType) -> None:
    with zarr.config.set({"codec_pipeline.path": DEFAULT}):
        before: Any = zarr.create_array(MemoryStore(), shape=(4,), chunks=(2,), dtype="i4")
    after: Any = zarr.create_array(MemoryStore(), shape=(4,), chunks=(2,), dtype="i4")
    assert not isinstance(before.async_array.codec_pipeline, pipeline.ZarrsAsyncCodecPipeline)
    assert isinstance(after.async_array.codec_pipeline, pipeline.ZarrsAsyncCodecPipeline)


def test_a_context_manager_switches_back() -> None:
    with zarr.config.set({"codec_pipeline.path": OURS}):
        assert zarr.config.get("codec_pipeline.path") == OURS
    made: Any = zarr.create_array(MemoryStore(), shape=(4,), chunks=(2,), dtype="i4")
    assert type(made.async_array.codec_pipeline).__name__ != "ZarrsAsyncCodecPipeline"


@pytest.mark.usefixtures("native")
def test_the_synchronous_interface(tmp_path: Path) -> None:
    group = zarr.open_group(tmp_path / "group.zarr", mode="w")
    array = group.create_array("array", shape=(10, 10), chunks=(3, 3), shards=(6, 6), dtype="u1")
    array[...] = np.arange(100, dtype="u1").reshape(10, 10)
    array[2, 3:5] = 0
    array.resize((12, 10))
    array.append(np.full((2, 10), 7, dtype="u1"))
    read = np.asarray(zarr.open_array(tmp_path / "group.zarr", path="array", mode="r")[...])
    assert read.shape == (14, 10)
    assert read[2].tolist() == [20, 21, 22, 0, 0, 25, 26, 27, 28, 29]
    assert (read[10:12] == 0).all()
    assert (read[12:] == 7).all()
    assert np.asarray(array).sum() == read.sum()


@pytest.mark.usefixtures("native")
def test_saving_and_loading(tmp_path: Path) -> None:
    values: Any = np.arange(1000.0).reshape(10, 100)
    zarr.save_array(tmp_path / "saved.zarr", values)
    np.testing.assert_array_equal(np.asarray(zarr.load(str(tmp_path / "saved.zarr"))), values)


@pytest.mark.usefixtures("native")
async def test_the_asynchronous_interface() -> None:
    store = MemoryStore()
    array = await zarr.api.asynchronous.create_array(store, shape=(40, 4), chunks=(4, 4), dtype="i8")
    await asyncio.gather(*(array.setitem(slice(row, row + 4), row) for row in range(0, 40, 4)))
    read: Any = await asyncio.gather(*(array.getitem(row) for row in range(40)))
    assert [int(values[0]) for values in read] == [row - row % 4 for row in range(40)]
    again = await zarr.api.asynchronous.open_array(store=store, mode="r")
    assert int(np.asarray(await again.getitem(...)).sum()) == 4 * 4 * sum(range(0, 40, 4))


@pytest.mark.usefixtures("native")
async def test_many_arrays_gathered(tmp_path: Path) -> None:
    async def round_trip(index: int) -> int:
        array = await zarr.api.asynchronous.create_array(
            LocalStore(tmp_path / str(index)), shape=(32, 32), chunks=(8, 8), shards=(16, 16), dtype="u2"
        )
        await array.setitem(..., np.full((32, 32), index, dtype="u2"))
        return int(np.asarray(await array.getitem(...)).sum())

    sums = await asyncio.gather(*(round_trip(index) for index in range(16)))
    assert sums == [1024 * index for index in range(16)]
