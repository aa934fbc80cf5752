"""Variables that are not UTF-8 neither stop the engine nor are shown."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from support.remote import stored

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.servers import RangeServer

SECRET = "SeCrEtHiDdEn"  # noqa: S105 - it must not be found

# Ends without the interpreter's own end, in which threads of obstore can abort the process.
READER = """
import os, sys
from datetime import timedelta
import zarr
from obstore.store import HTTPStore, S3Store
from zarr.storage import ObjectStore, StorePath

zarr.config.set({"codec_pipeline.path": "zarrs_async.ZarrsAsyncCodecPipeline"})
store = ObjectStore(HTTPStore.from_url(sys.argv[1], client_options={"allow_http": True}))
array = zarr.open_array(store, mode="r")
print(array[:].sum())
retries = {"max_retries": 0, "retry_timeout": timedelta(seconds=5)}
s3 = S3Store("bucket", endpoint="http://127.0.0.1:1", client_options={"allow_http": True}, retry_config=retries)
other = zarr.Array(zarr.AsyncArray(metadata=array.metadata, store_path=StorePath(ObjectStore(s3))))
import zarrs_async
try:
    other[:16]
except zarrs_async.exceptions.StoreError as error:
    print(error)
print(zarrs_async.stats()["fallback_batches"], flush=True)
os._exit(0)
"""


@pytest.mark.parametrize("name", ["ODD", "http_proxy", "NO_PROXY", "AWS_REGION", "AWS_SECRET_ACCESS_KEY", "AWS_ODD"])
def test_variable_that_is_not_utf8_neither_stops_a_read_nor_is_shown(range_server: RangeServer, name: str) -> None:
    values = np.arange(64, dtype="uint16")
    stored(range_server.root / "a", values, chunks=(16,))
    environment = {**os.environb, name.encode(): b"\xff" + SECRET.encode(), b"AWS_SKIP_SIGNATURE": b"true"}
    ran = subprocess.run(  # noqa: S603 - our own script
        [sys.executable, "-c", READER, f"{range_server.url}/a"], env=environment, capture_output=True, check=False
    )
    shown = (ran.stdout + ran.stderr).decode(errors="replace")
    assert SECRET not in shown
    lines = ran.stdout.decode().splitlines()
    assert (ran.returncode, lines[0], lines[-1]) == (0, str(values.sum()), "0"), shown
    assert 'get of "c/0" in s3://bucket failed' in lines[1]


@pytest.fixture
def quota_of_one_cpu() -> Iterator[Path]:
    """Give the file that takes process ids into a control group with a quota of one CPU."""
    root = Path("/sys/fs/cgroup")
    is_v1 = (root / "cpu").is_dir()
    group = root / ("cpu" if is_v1 else "") / f"zarrs-async-{os.getpid()}"
    try:
        group.mkdir()
    except OSError:
        pytest.skip("control groups cannot be made here")
    try:
        try:
            if is_v1:
                (group / "cpu.cfs_quota_us").write_text("100000", encoding="ascii")
            else:
                (group / "cpu.max").write_text("100000 100000", encoding="ascii")
        except OSError:
            pytest.skip("control groups here have no quotas")
        yield group / "cgroup.procs"
    finally:
        group.rmdir()


def test_a_cpu_quota_is_heeded(quota_of_one_cpu: Path) -> None:
    program = f"""
import os
open({str(quota_of_one_cpu)!r}, "w").write(str(os.getpid()))
import zarrs_async._config
print(zarrs_async._config.Options.from_config().threads)
"""
    done = subprocess.run(  # noqa: S603 - our own script
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    assert done.stdout.strip() == "1"
