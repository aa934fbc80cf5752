"""A full disk, a file that may not grow, missing permissions: the old chunk stays, and the key is named."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from oracle import DEFAULT, OURS, created, keys, opened
from zarr.storage import LocalStore

from support.process import finished
from zarrs_async.exceptions import StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CHUNK = 1 << 16


def made(path: Path) -> Any:
    """Make an array of four chunks of 64 KiB, all of them 1."""
    array = created(LocalStore(path), OURS, shape=(4, CHUNK), chunks=(1, CHUNK), dtype="u1", compressors=None)
    array[...] = 1
    return array


def assert_untouched(path: Path) -> None:
    """See that every chunk is the old one, and that there is nothing else."""
    assert (np.asarray(opened(LocalStore(path), DEFAULT)[...]) == 1).all()
    assert keys(LocalStore(path)) == {"zarr.json", *(f"c/{row}/0" for row in range(4))}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a disk of 512 KiB, where that is allowed."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(disk)]
    if not hasattr(os, "geteuid") or os.geteuid() != 0 or subprocess.run(mount, check=False).returncode != 0:  # noqa: S603  # fixed
        pytest.skip("no disk can be mounted")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)  # noqa: S603, S607  # fixed


@pytest.mark.parametrize("part", [False, True], ids=["whole", "part"])
@pytest.mark.usefixtures("native")
def test_a_full_disk_leaves_the_old_chunk_and_names_the_key(
    small_disk: Path,
    part: bool,  # noqa: FBT001  # a parameter
) -> None:
    array = made(small_disk)
    filler = small_disk / "filler"
    with filler.open("wb", buffering=0) as file:
        # A write that fits in part only tells how much.
        while file.write(bytes(4096)) == 4096:
            if os.statvfs(small_disk).f_bavail == 0:
                break
    with pytest.raises(StoreError, match=r"c/2/0.*No space left on device") as failed:
        array[2, 1 if part else 0 :] = 2
    assert failed.value.key == "c/2/0"
    filler.unlink()
    assert_untouched(small_disk)
    array[2, 1 if part else 0 :] = 2
    assert np.asarray(opened(LocalStore(small_disk), DEFAULT)[2, 1:]).tolist() == [2] * (CHUNK - 1)


@pytest.mark.parametrize("direct_io", [False, True], ids=["buffered", "direct"])
def test_a_file_that_may_not_grow_leaves_the_old_chunk_and_names_the_key(
    tmp_path: Path,
    direct_io: bool,  # noqa: FBT001  # a parameter
) -> None:
    made(tmp_path)
    script = f"""
import resource
from zarrs_async.exceptions import StoreError
zarr.config.set({{"codec_pipeline.direct_io": {direct_io}}})
array = zarr.open_array(sys.argv[1], mode="r+")
# Python ignores the signal that goes with it.
resource.setrlimit(resource.RLIMIT_FSIZE, (8192, resource.RLIM_INFINITY))
try:
    array[...] = 2
except StoreError as error:
    assert error.key in {{f"c/{{row}}/0" for row in range(4)}}, error.key
    assert error.key in str(error) and "File too large" in str(error), error
else:
    sys.exit("no error")
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
assert (np.asarray(array[...]) == 1).all()
"""
    finished(script, tmp_path)
    assert_untouched(tmp_path)


# Permissions are not asked of root, so the scripts become somebody else once all is imported and used.
NOBODY = """
import os, stat
from zarrs_async.exceptions import StorePermissionError
root = sys.argv[1]
array = zarr.open_array(root, mode="r+")
array[...] = 1
array[3, 5:] = np.asarray(array[3, 5:])
if os.getuid() == 0:
    for path in [root, f"{root}/c", *(f"{root}/c/{row}" for row in range(4))]:
        os.chown(path, 65534, 65534)
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
array[1] = 1
def refused(job):
    try:
        job()
    except StorePermissionError as error:
        assert error.key == "c/2/0" and "c/2/0" in str(error), error
        return
    sys.exit("no error")
"""


@pytest.fixture
def open_path(tmp_path: Path) -> Iterator[Path]:
    """Give a directory that everybody may reach."""
    path = tmp_path / "a"
    path.mkdir()
    changed = []
    parent = path.parent
    while parent.parent != parent and not parent.stat().st_mode & 0o001:
        changed.append((parent, parent.stat().st_mode))
        parent.chmod(parent.stat().st_mode | 0o011)
        parent = parent.parent
    yield path
    for parent, mode in changed:
        parent.chmod(mode)


def test_a_directory_that_may_not_be_written_leaves_the_old_chunk_and_names_the_key(open_path: Path) -> None:
    made(open_path)
    script = """
os.chmod(f"{root}/c/2", 0o555)
refused(lambda: array.__setitem__(2, 2))
refused(lambda: array.__setitem__((2, slice(1, 9)), 2))
os.chmod(f"{root}/c/2", 0o755)
assert (np.asarray(array[...]) == 1).all()
"""
    finished(NOBODY + script, open_path)
    assert_untouched(open_path)


def test_a_chunk_that_may_not_be_read_is_an_error_and_no_fill_value(open_path: Path) -> None:
    made(open_path)
    script = """
array[2] = 1
os.chmod(f"{root}/c/2/0", 0)
refused(lambda: array[2])
refused(lambda: array.__setitem__((2, slice(1, 9)), 2))
os.chmod(f"{root}/c/2/0", 0o644)
assert (np.asarray(array[...]) == 1).all()
"""
    finished(NOBODY + script, open_path)
    assert_untouched(open_path)
