"""An open array follows its store: where that moves to, and what it is changed to, is read and written at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import fsspec
import numpy as np
import pytest
import zarr
import zarr.api.asynchronous
from fsspec.implementations.asyn_wrapper import AsyncFileSystemWrapper
from obstore.store import LocalStore as ObstoreLocalStore
from zarr.storage import FsspecStore, LocalStore, ObjectStore

if TYPE_CHECKING:
    from pathlib import Path

    from zarr.abc.store import Store

# Our pipeline is on, and nothing may fall back.
pytestmark = pytest.mark.usefixtures("native")

VALUES = np.arange(256, dtype="uint16") + 1


async def opened(store: Store) -> zarr.AsyncArray[Any]:
    """Write `VALUES`, and read them with the array that is returned."""
    array = await zarr.api.asynchronous.create_array(store=store, data=VALUES, chunks=(64,), overwrite=True)
    np.testing.assert_array_equal(await array.getitem(...), VALUES)
    return array


async def check(array: zarr.AsyncArray[Any], directory: Path) -> None:
    """See that the array reads and writes in a directory."""
    np.testing.assert_array_equal(await array.getitem(...), VALUES)
    await array.setitem(slice(3, 100), 7)
    expected = VALUES.copy()
    expected[3:100] = 7
    np.testing.assert_array_equal(zarr.open_array(directory, mode="r")[:], expected)


async def test_array_of_a_moved_store_is_where_the_store_is(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "old")
    array = await opened(store)
    await store.move(tmp_path / "new")
    await check(array, tmp_path / "new")
    assert not (tmp_path / "old").exists()


async def test_pipeline_that_has_read_nothing_follows_a_moved_store(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "old")
    await opened(store)
    array = await zarr.api.asynchronous.open_array(store=store)
    await store.move(tmp_path / "new")
    await check(array, tmp_path / "new")


async def test_relative_root_is_of_the_directory_that_is_current(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "here")
    array = await opened(LocalStore("x.zarr"))
    (tmp_path / "here/x.zarr").rename(tmp_path / "there/x.zarr")
    monkeypatch.chdir(tmp_path / "there")
    await check(array, tmp_path / "there/x.zarr")


async def test_array_follows_the_path_of_an_fsspec_store(tmp_path: Path) -> None:
    filesystem = AsyncFileSystemWrapper(fsspec.filesystem("file", skip_instance_cache=True), asynchronous=True)
    await opened(LocalStore(tmp_path / "old"))
    store = FsspecStore(filesystem, path=str(tmp_path / "old"))
    array = await zarr.api.asynchronous.open_array(store=store)
    np.testing.assert_array_equal(await array.getitem(...), VALUES)
    (tmp_path / "old").rename(tmp_path / "new")
    store.path = str(tmp_path / "new")
    await check(array, tmp_path / "new")


async def test_array_follows_the_store_inside_an_object_store(tmp_path: Path) -> None:
    store = ObjectStore(ObstoreLocalStore(tmp_path / "old", mkdir=True))
    array = await opened(store)
    (tmp_path / "old").rename(tmp_path / "new")
    store.store = ObstoreLocalStore(tmp_path / "new")
    await check(array, tmp_path / "new")


async def test_link_that_changes_after_an_obstore_was_made_changes_nothing(tmp_path: Path) -> None:
    # obstore resolves its directory when it is made.
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    (tmp_path / "link").symlink_to("one")
    store = ObjectStore(ObstoreLocalStore(tmp_path / "link"))
    (tmp_path / "link").unlink()
    (tmp_path / "link").symlink_to("two")
    array = await opened(store)
    await check(array, tmp_path / "one")


async def test_obstore_that_removes_directories_removes_them(tmp_path: Path) -> None:
    store = ObjectStore(ObstoreLocalStore(tmp_path, automatic_cleanup=True))
    array = await zarr.api.asynchronous.create_array(
        store=store, name="a", data=VALUES, chunks=(64,), fill_value=0, config={"write_empty_chunks": False}
    )
    await array.setitem(..., 0)
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["zarr.json"]
