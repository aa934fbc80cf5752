"""One array by several paths is one array: its writers take turns."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from oracle import DEFAULT, OURS, created, opened
from zarr.storage import LocalStore, StorePath

if TYPE_CHECKING:
    from pathlib import Path

ROWS = 64


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("there/group/a", "link/group/a"),
        ("there/group/a", "there/group/../group/a"),
        ("there/group/a", "there/group/alias"),
        ("there/group/alias", "link/group/b/a"),
        ("there", "link"),
    ],
)
@pytest.mark.usefixtures("native")
async def test_gathered_partial_writes_of_one_chunk_by_two_paths_keep_all_rows(
    first: str, second: str, tmp_path: Path
) -> None:
    array_path = tmp_path / "there/group/a"
    created(LocalStore(array_path), OURS, shape=(ROWS, 1000), chunks=(ROWS, 1000), dtype="i8")
    (tmp_path / "link").symlink_to("there")
    (tmp_path / "there/group/alias").symlink_to("a")
    (tmp_path / "there/group/b").symlink_to(".")
    arrays: list[Any] = []
    for spelling in (first, second):
        # The root is at the array, or two levels above it.
        at, path = (spelling, "") if "group" in spelling else (spelling, "group/a")
        place: Any = StorePath(LocalStore(tmp_path / at), path)
        arrays.append(opened(place, OURS).async_array)
    for value in (1, 2, 3):
        await asyncio.gather(*(arrays[row % 2].setitem((row, slice(None)), value * ROWS + row) for row in range(ROWS)))
        rows = np.asarray(opened(LocalStore(array_path), DEFAULT)[:, 7])
        np.testing.assert_array_equal(rows, value * ROWS + np.arange(ROWS))
        for array in arrays:
            np.testing.assert_array_equal(np.asarray(await array.getitem((slice(None), 9))), rows)


@pytest.mark.skipif(sys.platform != "linux", reason="names of files must be text")
@pytest.mark.usefixtures("native")
async def test_roots_that_differ_in_bytes_that_are_no_text_are_two(tmp_path: Path) -> None:
    arrays: list[Any] = [
        created(LocalStore(tmp_path / name), OURS, shape=(1 << 16,), chunks=(1 << 16,), dtype="i4")
        for name in ("\udcfe", "\udcff")
    ]
    for value, array in enumerate(arrays):
        array[...] = value + 1
    for _ in range(10):
        read: Any = await asyncio.gather(*(array.async_array.getitem(...) for array in 4 * arrays))
        assert [int(values[0]) for values in read] == 4 * [1, 2]
