"""Icechunk's store, where it is installed: its snapshots are read and its sessions written through the bridge."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr
from oracle import DEFAULT, OURS, assert_same_bits, created

if TYPE_CHECKING:
    from pathlib import Path

icechunk = pytest.importorskip("icechunk")
# Our pipeline is on, and nothing may fall back.
pytestmark = pytest.mark.usefixtures("native")

VALUES = np.arange(13 * 11, dtype="i4").reshape(13, 11)


def read(store: Any, pipeline: str) -> Any:
    """Read the array of a session."""
    with zarr.config.set({"codec_pipeline.path": pipeline}):
        return np.asarray(zarr.open_array(store, mode="r")[...])


@pytest.mark.parametrize("layout", [{"chunks": (4, 3)}, {"chunks": (2, 3), "shards": (4, 6)}], ids=["chunks", "shards"])
def test_what_is_committed_is_what_was_written(layout: dict[str, Any], tmp_path: Path) -> None:
    repository = icechunk.Repository.create(icechunk.local_filesystem_storage(str(tmp_path)))
    session = repository.writable_session("main")
    array = created(session.store, OURS, shape=VALUES.shape, dtype="i4", **layout)
    array[...] = VALUES
    first = session.commit("first")
    session = repository.writable_session("main")
    with zarr.config.set({"codec_pipeline.path": OURS}):
        array = zarr.open_array(session.store)
    array[2:11:3, 4:] = -1
    array[:4, :6] = 0
    changed = VALUES.copy()
    changed[2:11:3, 4:] = -1
    changed[:4, :6] = 0
    second = session.commit("second")
    for snapshot, values in ((first, VALUES), (second, changed)):
        store = repository.readonly_session(snapshot_id=snapshot).store
        for pipeline in (OURS, DEFAULT):
            assert_same_bits(read(store, pipeline), values)
