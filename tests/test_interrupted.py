"""Writers that are killed leave each chunk the old one or the new one, and nothing else that zarr lists."""

from __future__ import annotations

import os
import re
import resource
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from oracle import DEFAULT, OURS, created, keys, opened
from zarr.storage import LocalStore

from support.process import finished

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork"),
]

# How often a writer is killed; `make soak-processes` asks for more.
KILLS = int(os.environ.get("ZARRS_ASYNC_TEST_KILLS", "15"))
ROWS, CHUNK = 64, 2048
TEMPORARY = re.compile(r"\.[0-9a-f]{16}\.partial$")

# A parent that has imported all and started nothing forks writers of one row each and kills them at some time.
KILLED = """
import os, random, signal, time
root, kills, first = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
random.seed(kills + first)
for row in range(kills):
    told, tell = os.pipe()
    writer = os.fork()
    if writer == 0:
        array = zarr.open_array(root, mode="r+")
        os.write(tell, b"!")
        for value in range(first, 1 << 30):
            array[row] = value
            os.write(tell, b"!")
            if first == 1:
                break  # these chunks are new but once
        signal.pause()
    os.close(tell)
    os.read(told, 1)
    time.sleep(random.uniform(0, 0.05))
    os.kill(writer, signal.SIGKILL)
    os.waitpid(writer, 0)
    os.close(told)
"""


def killed_writers(root: Path, *, first: int) -> tuple[Any, set[str]]:
    """Kill writers, see that each chunk is of one write, and give the array and the keys that are no chunk."""
    finished(KILLED, root, KILLS, first, timeout=50 + 2 * KILLS)
    store = LocalStore(root)
    array = opened(store, DEFAULT)
    values = np.asarray(array[...])
    assert (values == values[:, :, :1]).all()
    assert (values >= first - 1).all()
    chunks = {f"c/{row}/{column}/0" for row in range(KILLS) for column in range(ROWS)}
    return array, keys(store) - chunks - {"zarr.json"}


def test_killed_writers_of_new_chunks_leave_no_other_key(tmp_path: Path) -> None:
    created(LocalStore(tmp_path), OURS, shape=(KILLS, ROWS, CHUNK), chunks=(1, 1, CHUNK), dtype="i4", compressors=None)
    _, others = killed_writers(tmp_path, first=1)
    assert others == set()


def test_keys_that_killed_writers_leave_are_removed_by_a_later_one(tmp_path: Path) -> None:
    """Between the link and the rename of a chunk that is replaced, the new one has a name of its own."""
    layout: Any = {"shape": (KILLS, ROWS, CHUNK), "chunks": (1, 1, CHUNK), "dtype": "i4", "compressors": None}
    created(LocalStore(tmp_path), OURS, **layout)[...] = 1
    _, others = killed_writers(tmp_path, first=2)
    assert all(TEMPORARY.search(key) for key in others)
    left = tmp_path / "c/0/0/0.0123456789abcdef.partial"
    left.touch()
    long_ago = time.time() - 2 * 3600
    for key in {*others, "c/0/0/0.0123456789abcdef.partial"}:
        os.utime(tmp_path / key, (long_ago, long_ago))
    opened(LocalStore(tmp_path), OURS)[...] = 9
    assert not {key for key in keys(LocalStore(tmp_path)) if key.endswith("partial")}


@pytest.mark.parametrize("existing", [False, True], ids=["new", "replaced"])
@pytest.mark.parametrize("direct_io", [False, True], ids=["buffered", "direct"])
def test_a_writer_killed_within_a_chunk_leaves_no_other_key(
    existing: bool,  # noqa: FBT001  # a parameter
    direct_io: bool,  # noqa: FBT001  # a parameter
    tmp_path: Path,
) -> None:
    """A file that grows beyond its limit ends the process by SIGXFSZ, in the middle of a write."""
    store = LocalStore(tmp_path)
    array = created(store, OURS, shape=(4, 65536), chunks=(1, 65536), dtype="u1", compressors=None)
    if existing:
        array[...] = 1
    before = keys(store)
    script = f"""
import os, resource, signal
zarr.config.set({{"codec_pipeline.direct_io": {direct_io}}})
array = zarr.open_array(sys.argv[1], mode="r+")
writer = os.fork()
if writer == 0:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, {resource.RLIM_INFINITY}))
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    array[...] = 2
    os._exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(writer, 0)[1]) == -signal.SIGXFSZ
"""
    finished(script, tmp_path)
    assert keys(store) == before
    assert (np.asarray(opened(store, DEFAULT)[...]) == int(existing)).all()
