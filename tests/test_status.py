"""Is it on? What `status` answers for each thing that a user may have at hand."""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
import pytest
import xarray
import zarr
from oracle import DEFAULT, OURS, created, opened
from zarr.storage import LocalStore, MemoryStore

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType

# What xarray says of consolidated metadata and its own indexes is nothing to us.
pytestmark = [pytest.mark.usefixtures("pipeline"), pytest.mark.filterwarnings("ignore::FutureWarning:xarray")]

ODD = "b\udcff"
"""A name that is not UTF-8, whose keys only zarr's pipeline can ask for."""


def small(store: Any, path: str, **arguments: Any) -> zarr.Array[Any]:
    """Make a small array."""
    return zarr.create_array(store, name=path, **{"shape": (8,), "chunks": (2,), "dtype": "i4", **arguments})


@pytest.fixture
def dataset(tmp_path: Path) -> Any:
    """Write a data set with two variables in a directory, and a coordinate."""
    values = {"t": (("x", "y"), np.arange(12.0).reshape(3, 4)), "u": (("x",), np.arange(3))}
    xarray.Dataset(values, {"x": [10, 20, 30]}).to_zarr(tmp_path / "set.zarr", zarr_format=3, consolidated=False)
    return xarray.open_zarr(tmp_path / "set.zarr", consolidated=False, chunks=None)


def test_nothing_asks_the_configuration(pipeline: ModuleType) -> None:
    told = pipeline.status()
    assert told
    assert told.on is True
    assert repr(told) == "zarrs_async is on for arrays that are opened from now on"
    with zarr.config.set({"codec_pipeline.path": DEFAULT}):
        told = pipeline.status()
    assert not told
    assert f"zarrs_async is off: codec_pipeline.path is {DEFAULT!r}" in repr(told)
    assert f'zarr.config.set({{"codec_pipeline.path": "{OURS}"}})' in repr(told)


@pytest.mark.parametrize("asynchronous", [False, True])
def test_of_an_array_it_tells_the_store(pipeline: ModuleType, tmp_path: Path, *, asynchronous: bool) -> None:
    for store, word in ((LocalStore(tmp_path), "native"), (MemoryStore(), "bridged")):
        array = small(store, "a/b")
        told = pipeline.status(array.async_array if asynchronous else array)
        assert told
        assert repr(told) == f"zarrs_async is on for 'a/b': {word} store"
        assert [(one.name, one.on, one.store, one.cause) for one in told.arrays] == [("a/b", True, word, None)]


def test_asking_reads_no_chunk_and_counts_nothing(pipeline: ModuleType, tmp_path: Path) -> None:
    array = small(LocalStore(tmp_path), "a")
    before = pipeline.stats()
    pipeline.status(array)
    assert pipeline.stats() == before


@pytest.mark.parametrize("shape", [(), (0,), (5, 0)])
def test_an_array_of_any_shape(pipeline: ModuleType, shape: tuple[int, ...]) -> None:
    assert pipeline.status(created(MemoryStore(), OURS, shape=shape, chunks=(1,) * len(shape), dtype="i4"))


def test_an_array_of_another_pipeline_must_be_opened_again(pipeline: ModuleType) -> None:
    created(store := MemoryStore(), DEFAULT, shape=(8,), chunks=(2,), dtype="i4")
    told = pipeline.status(opened(store, DEFAULT))
    assert not told
    assert repr(told) == "zarrs_async is off: it was opened when codec_pipeline.path named another pipeline"
    assert pipeline.status(opened(store, OURS))


def test_an_array_that_falls_back_tells_why(pipeline: ModuleType) -> None:
    told = pipeline.status(small(MemoryStore(), ODD))
    assert not told
    assert repr(told).startswith(f"zarrs_async is off for {ODD!r}: zarrs_async does not support ")
    assert "keys that are not UTF-8" in repr(told)


@pytest.mark.parametrize("asynchronous", [False, True])
def test_of_a_group_it_tells_all_arrays_below(pipeline: ModuleType, *, asynchronous: bool) -> None:
    group = zarr.create_group(store := MemoryStore())
    small(store, "a")
    small(store, ODD)
    zarr.create_group(store, path="c")
    small(store, "c/d")
    told = pipeline.status(group._async_group if asynchronous else group)
    assert not told
    assert {one.name: one.on for one in told.arrays} == {"a": True, ODD: False, "c/d": True}
    first, second = repr(told).splitlines()
    assert first == "zarrs_async is on for 2 of 3 arrays: 2 in bridged stores"
    assert second.startswith(f"  off for {ODD!r}: zarrs_async does not support")
    assert "<th style='text-align:left'>c/d</th><td style='text-align:left'>on, bridged store</td>" in (
        told._repr_html_()
    )


def test_a_group_without_arrays_is_not_on(pipeline: ModuleType) -> None:
    told = pipeline.status(zarr.create_group(MemoryStore()))
    assert not told
    assert repr(told) == "zarrs_async is on for 0 of 0 arrays"


def test_objects_of_xarray(pipeline: ModuleType, dataset: Any) -> None:
    for source, names in (
        (dataset, {"t", "u"}),
        (dataset["t"], {"t"}),
        (dataset["t"][1:], {"t"}),
        (dataset["t"].variable, {"t"}),
        (xarray.DataTree(dataset), {"/t", "/u"}),
    ):
        told = pipeline.status(source)
        assert told, source
        assert {one.name.strip("/") for one in told.arrays} >= {name.strip("/") for name in names}
        assert {one.store for one in told.arrays} == {"native"}


def test_what_xarray_has_in_memory_is_no_array_of_a_store(pipeline: ModuleType, dataset: Any) -> None:
    told = pipeline.status(dataset["t"].load())
    assert not told
    assert repr(told) == "zarrs_async is on for 0 of 0 arrays"


def test_objects_of_dask(pipeline: ModuleType, dataset: Any, tmp_path: Path) -> None:
    assert repr(pipeline.status(dataset["t"].chunk({"x": 1}))) == "zarrs_async is on for 't': native store"
    lazy = xarray.open_zarr(tmp_path / "set.zarr", consolidated=False, chunks={})
    assert pipeline.status(lazy["t"])
    assert pipeline.status(lazy["t"].data + 1)
    assert pipeline.status(da.from_zarr(tmp_path / "set.zarr", component="t"))  # type: ignore[no-untyped-call]


def test_what_was_opened_before_it_was_on(pipeline: ModuleType, dataset: Any, tmp_path: Path) -> None:
    assert dataset.sizes["x"] == 3
    with zarr.config.set({"codec_pipeline.path": DEFAULT}):
        before = xarray.open_zarr(tmp_path / "set.zarr", consolidated=False, chunks=None)
    assert not pipeline.status(before)
    assert "'t': it was opened when codec_pipeline.path named another pipeline" in repr(pipeline.status(before))


def test_of_anything_else_it_says_what_it_takes(pipeline: ModuleType) -> None:
    with pytest.raises(TypeError, match=r"numpy\.ndarray is no zarr array or group"):
        pipeline.status(np.zeros(3))


def test_the_version_is_that_of_the_installed_package(pipeline: ModuleType) -> None:
    assert pipeline.__version__ == version("zarrs-async")
