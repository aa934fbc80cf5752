"""A file system that a program serves: it may interrupt a read, and give less than was asked for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import zarr
import zarr.api.asynchronous
from zarr.storage import LocalStore

from support.remote import stored

if TYPE_CHECKING:
    from collections.abc import Iterator

# Our pipeline is on, and nothing may fall back.
pytestmark = pytest.mark.usefixtures("native", "byte_ranges")

VALUES = np.arange(8192, dtype="uint16") + 1
LAYOUTS = [
    pytest.param({"chunks": (1024,)}, id="chunks"),
    pytest.param({"chunks": (256,), "shards": (2048,)}, id="shards"),
]


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Serve `tmp_path/files` at `tmp_path/mount`, where that is allowed."""
    for name in ("files", "mount"):
        (tmp_path / name).mkdir()
    command = [sys.executable, "-m", "support.fuse", str(tmp_path / "files"), str(tmp_path / "mount")]
    tests = Path(__file__).parent
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, cwd=tests) as server:  # noqa: S603 - our own script
        if server.stdout is None or server.stdout.readline() != "mounted\n":
            pytest.skip("no file system can be mounted")
        yield server
        if server.stdin is not None:
            server.stdin.close()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("direct_io", [False, True], ids=["buffered", "direct"])
async def test_reads_that_are_interrupted_and_cut_short_are_whole(
    tmp_path: Path, mounted: subprocess.Popen[str], *, direct_io: bool, layout: dict[str, tuple[int]]
) -> None:
    stored(tmp_path / "files/a", VALUES, **layout)
    zarr.config.set({"codec_pipeline.direct_io": direct_io})
    array = await zarr.api.asynchronous.open_array(store=LocalStore(tmp_path / "mount/a", read_only=True), mode="r")
    np.testing.assert_array_equal(await array.getitem(...), VALUES)
    np.testing.assert_array_equal(await array.getitem(slice(1030, 1200)), VALUES[1030:1200])
    interrupted, _ = mounted.communicate()
    # Each chunk of 2 KiB, and each shard, is read in parts, each interrupted once.
    assert int(interrupted) > len(VALUES) * VALUES.itemsize // 1000
