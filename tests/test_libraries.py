"""Whole libraries on top of zarr, untouched: what they write and read is what zarr's default pipeline does.

Each test writes with one pipeline and reads with the other, both ways round. The engine does every batch of ours.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dask.array
import numpy as np
import pytest
import xarray
import zarr
from oracle import DEFAULT, OURS, assert_same_bits

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import ModuleType

pytestmark = [
    # What xarray says of consolidated metadata and of its own indexes, and zarr of its format, is nothing to us.
    pytest.mark.filterwarnings("ignore::FutureWarning:xarray"),
    pytest.mark.filterwarnings("ignore:Consolidated metadata is currently not part in the Zarr format 3"),
    pytest.mark.filterwarnings("ignore:The data type .* does not have a Zarr V3 specification"),
    pytest.mark.filterwarnings("ignore:The codec `vlen-.*` is currently not part in the Zarr format 3 specification"),
]

FORMATS = pytest.mark.parametrize("zarr_format", [2, 3])


@pytest.fixture(autouse=True)
def _engine_at_work(native: ModuleType) -> Iterator[None]:
    """Fail if a batch of ours fell back, or if there was none."""
    before = native.stats()["batches"]
    yield
    assert native.stats()["batches"] > before


@pytest.fixture(params=[(OURS, DEFAULT), (DEFAULT, OURS), (OURS, OURS)], ids=["writes", "reads", "both"])
def pipelines(request: pytest.FixtureRequest) -> Any:
    """Give the pipeline that writes and the one that reads."""
    return request.param


def using(pipeline: str) -> Any:
    """Have every array that is made or opened meanwhile use the pipeline."""
    return zarr.config.set({"codec_pipeline.path": pipeline})


def dataset(days: int = 6) -> xarray.Dataset:
    """Give numbers with gaps, packed numbers, strings, times, and attributes that are not finite."""
    temperature = np.arange(days * 4.0).reshape(days, 4)
    temperature[1, 2] = np.nan
    names = np.array(["Kraków", "", "Ål", "日本"], dtype=object)
    return xarray.Dataset(
        {
            "temperature": (("day", "station"), temperature, {"missing": np.nan, "limits": [-np.inf, np.inf]}),
            "packed": (
                ("day", "station"),
                temperature.copy(),
                {},
                {"dtype": "i2", "scale_factor": 0.5, "_FillValue": -9},
            ),
            "note": (("day",), np.array([f"day {day}" * day for day in range(days)], dtype=object)),
        },
        {
            "day": np.datetime64("2024-02-27", "ns") + np.arange(days) * np.timedelta64(1, "D"),
            "station": names,
            "code": ("station", np.array(["a", "bc", "", "def"], dtype="U3")),
        },
        {"nothing": np.nan},
    )


@FORMATS
def test_xarray_writes_and_reads(pipelines: Any, tmp_path: Path, zarr_format: Any) -> None:
    writer, reader = pipelines
    with using(writer):
        dataset().to_zarr(tmp_path / "set.zarr", zarr_format=zarr_format)
    with using(reader), xarray.open_zarr(tmp_path / "set.zarr", chunks=None) as found:
        xarray.testing.assert_identical(found.load(), dataset())


@FORMATS
def test_xarray_appends_and_writes_regions(pipelines: Any, tmp_path: Path, zarr_format: Any) -> None:
    writer, reader = pipelines
    expected = dataset()
    chunks = {"temperature": {"chunks": (2, 3)}, "note": {"chunks": (2,)}}
    with using(writer):
        dataset(4).to_zarr(tmp_path / "set.zarr", zarr_format=zarr_format, encoding=chunks)
        expected.isel(day=slice(4, 6)).to_zarr(tmp_path / "set.zarr", append_dim="day")
        expected["temperature"][1:3, :] = 7
        expected["note"][1:3] = "wet"
        changed = expected[["temperature", "note"]].isel(day=slice(1, 3)).drop_vars(["station", "code"])
        changed.to_zarr(tmp_path / "set.zarr", region="auto", align_chunks=True)
    with using(reader), xarray.open_zarr(tmp_path / "set.zarr") as found:
        xarray.testing.assert_identical(found.load(), expected)


async def test_xarray_loads_asynchronously(pipelines: Any, tmp_path: Path) -> None:
    writer, reader = pipelines
    with using(writer):
        dataset().to_zarr(tmp_path / "set.zarr", zarr_format=3)
    with using(reader), xarray.open_zarr(tmp_path / "set.zarr", chunks=None) as found:
        part = await found.isel(day=[4, 1], station=slice(1, None)).load_async()
        xarray.testing.assert_identical(part, dataset().isel(day=[4, 1], station=slice(1, None)))


def test_xarray_writes_shards_and_trees(pipelines: Any, tmp_path: Path) -> None:
    writer, reader = pipelines
    encoding = {"temperature": {"chunks": (2, 2), "shards": (4, 4)}, "note": {"chunks": (2,), "shards": (4,)}}
    tree = xarray.DataTree.from_dict({"/": dataset(), "/child": dataset()[["temperature"]]})
    with using(writer):
        tree.to_zarr(tmp_path / "tree.zarr", zarr_format=3, encoding={"/": encoding})
    with using(reader), xarray.open_datatree(tmp_path / "tree.zarr", engine="zarr") as found:
        xarray.testing.assert_identical(found.load(), tree)


@FORMATS
def test_dask_stores_and_reads(pipelines: Any, tmp_path: Path, zarr_format: Any) -> None:
    writer, reader = pipelines
    arrays: Any = dask.array  # partly typed
    values = np.arange(35.0).reshape(5, 7)
    lazy = arrays.from_array(values, chunks=(2, 3))
    with using(writer):
        target = zarr.create_array(
            tmp_path / "stored", shape=(5, 7), chunks=(2, 3), dtype="f8", zarr_format=zarr_format
        )
        arrays.store(lazy, target, lock=False)
        lazy.to_zarr(tmp_path / "written", zarr_format=zarr_format)
    with using(reader):
        for name in ("stored", "written"):
            found = arrays.from_zarr(tmp_path / name)
            assert_same_bits(found.compute(), values)
            assert_same_bits(found[::-2, [1, 5]].compute(), values[::-2, [1, 5]])


@FORMATS
@pytest.mark.parametrize("dtype", ["i4", "string"])
def test_zarr_appends_and_resizes(pipelines: Any, tmp_path: Path, zarr_format: Any, dtype: str) -> None:
    writer, reader = pipelines
    values: Any = np.arange(12, dtype="i4").reshape(4, 3)
    if dtype == "string":
        values = np.array([f"text {value}" for value in values.flat], dtype=object).reshape(4, 3)
    for name, pipeline in {"expected": DEFAULT, "found": writer}.items():
        with using(pipeline):
            array: Any = zarr.create_array(
                tmp_path / name, shape=(4, 3), chunks=(3, 2), dtype=dtype, zarr_format=zarr_format
            )
            array[...] = values
            array.append(values[:2])
            array.append(np.repeat(values[:3, :1], 2, axis=0), axis=1)
            # A chunk that keeps a row keeps the others, too; one that keeps none is gone.
            array.resize((4, 2))
            array.resize((7, 5))
    with using(DEFAULT):
        expected: Any = zarr.open_array(tmp_path / "expected", mode="r")
    with using(reader):
        found: Any = zarr.open_array(tmp_path / "found", mode="r")
    assert found.shape == (7, 5)
    assert found[...].tolist() == expected[...].tolist()
    assert found[:4, :2].tolist() == values[:, :2].tolist()


@FORMATS
def test_zarr_saves_and_loads(pipelines: Any, tmp_path: Path, zarr_format: Any) -> None:
    writer, reader = pipelines
    numbers: Any = np.arange(20.0).reshape(4, 5)
    flags: Any = np.array([True, False, True])
    with using(writer):
        zarr.save_array(tmp_path / "one", numbers, zarr_format=zarr_format)
        zarr.save_group(tmp_path / "two", numbers=numbers, flags=flags, zarr_format=zarr_format)
        zarr.consolidate_metadata(str(tmp_path / "two"))
    with using(reader):
        assert_same_bits(zarr.load(str(tmp_path / "one")), numbers)
        group: Any = zarr.open_consolidated(str(tmp_path / "two"))
        assert sorted(group) == ["flags", "numbers"]
        assert_same_bits(group["numbers"][::2], numbers[::2])
        assert_same_bits(group["flags"][...], flags)


def test_zarr_copies_arrays(pipelines: Any, tmp_path: Path) -> None:
    writer, reader = pipelines
    values: Any = np.arange(30, dtype="i2").reshape(5, 6)
    with using(writer):
        first = zarr.from_array(tmp_path / "first", data=values, chunks=(2, 2), shards=(4, 4))
        zarr.from_array(tmp_path / "second", data=first, chunks=(3, 4), shards=None)
        zarr.from_array(tmp_path / "third", data=first)
    with using(reader):
        for name in ("first", "second", "third"):
            found: Any = zarr.open_array(tmp_path / name)
            assert_same_bits(found[...], values)
