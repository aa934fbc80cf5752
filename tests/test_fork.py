"""After a fork the child works, and so does its parent; neither ever hangs.

Each script runs in a process of its own, so that a hang is this test's failure and not the end of the run.
"""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork"),
]

HEAD = """
import asyncio, multiprocessing, os, sys, threading, warnings
import numpy as np
import zarr
from zarr.storage import LocalStore, MemoryStore
import zarrs_async

warnings.simplefilter("ignore", DeprecationWarning)  # of forks while there are threads
zarr.config.set({"codec_pipeline.path": "zarrs_async.ZarrsAsyncCodecPipeline", "codec_pipeline.strict": True})
store = MemoryStore() if sys.argv[1] == "memory" else LocalStore(sys.argv[1])
array = zarr.create_array(store, shape=(64, 64), chunks=(8, 8), shards=(32, 32), dtype="i4")
values = np.arange(4096, dtype="i4").reshape(64, 64)

def check(array=array):
    assert (np.asarray(array[...]) == values).all()
    assert (np.asarray(array.oindex[[63, 0], 1:9]) == values[[63, 0], 1:9]).all()

def in_child(job):
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            job()
            code = 0
        finally:
            sys.stderr.flush()
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0, status
"""

SCRIPTS = {
    "used-before": """
array[...] = values
check()
in_child(check)
check()
""",
    "fewer-cpus-in-the-child": """
from zarrs_async._config import Options
Options.from_config()
def job():
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, list(os.sched_getaffinity(0))[:1])
        assert Options.from_config().threads == 1
in_child(job)
""",
    "first-used-in-the-child": """
def job():
    array[...] = values
    check()
in_child(job)
array[...] = values
check()
""",
    "writes-in-the-child": """
array[...] = 0
def job():
    array[...] = values
    array[3:50, 7] = values[3:50, 7]
    check()
in_child(job)
if isinstance(store, LocalStore):
    check()
""",
    "with-the-options-of-its-parent": """
zarr.config.set({"threading.max_workers": 3})
array = zarr.open_array(store)
array[...] = values
def job():
    check(array)
    names = [open(f"/proc/self/task/{task}/comm").read() for task in os.listdir("/proc/self/task")]
    assert sum(name.startswith("zarrs-async-cpu") for name in names) == 3, names
if sys.platform == "linux":
    in_child(job)
check()
""",
    "opened-in-the-child": """
array[...] = values
in_child(lambda: check(zarr.open_array(store, mode="r")))
check()
""",
    "a-loop-of-the-childs-own": """
array[...] = values
async def read():
    rows = await asyncio.gather(*(array.async_array.getitem(row) for row in range(64)))
    assert (np.array(rows) == values).all()
asyncio.run(read())
in_child(lambda: asyncio.run(read()))
asyncio.run(read())
""",
    "a-child-of-the-child": """
array[...] = values
def job():
    check()
    in_child(check)
    check()
in_child(job)
check()
""",
    "while-batches-run": """
array[...] = values
ended = threading.Event()
def work():
    while not ended.is_set():
        array[5:60] = values[5:60]
        check()
threads = [threading.Thread(target=work, daemon=True) for _ in range(3)]
for thread in threads:
    thread.start()
private = zarr.create_array(MemoryStore(), shape=(64, 64), chunks=(8, 8), dtype="i4")
private[...] = values
for _ in range(10):
    in_child(lambda: check(private))
ended.set()
for thread in threads:
    thread.join()
check()
""",
    "multiprocessing": """
array[...] = values
check()
def row(index):
    return np.asarray(array[index]).sum()
with multiprocessing.get_context("fork").Pool(2) as pool:
    assert pool.map(row, range(64), chunksize=8) == values.sum(axis=1).tolist()
check()
""",
    "a-child-that-ends-as-processes-do": """
array[...] = values
check()
child = multiprocessing.get_context("fork").Process(target=check)
child.start()
child.join(30)
assert child.exitcode == 0, child.exitcode
""",
    "statistics-and-options-in-the-child": """
array[...] = values
def job():
    before = zarrs_async.stats()
    with zarr.config.set({"codec_pipeline.request_concurrent_maximum": 2, "threading.max_workers": 1}):
        check(zarr.open_array(store, mode="r"))
    assert zarrs_async.stats()["batches"] == before["batches"] + 2
in_child(job)
check()
""",
}


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("store", ["local", "memory"])
def test_forks(script: str, store: str, tmp_path: Path) -> None:
    done = subprocess.run(  # noqa: S603  # our own script
        [sys.executable, "-c", HEAD + SCRIPTS[script], "memory" if store == "memory" else str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
