"""Worker processes of every kind, interrupts, and the end of the interpreter while work is under way.

Each script runs in a process of its own, so that a hang is this test's failure and not the end of the run.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest

from support.process import finished, started
from support.remote import stored

if TYPE_CHECKING:
    from pathlib import Path

    from support.servers import RangeServer

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork"),
]

METHODS = ["fork", "forkserver", "spawn"]
VALUES = np.arange(64 * 64, dtype="i4").reshape(64, 64)
# How often an interpreter ends; `make soak-processes` asks for more.
EXITS = int(os.environ.get("ZARRS_ASYNC_TEST_EXITS", "10"))

MADE = """
import multiprocessing, os, signal, threading, warnings
from support import workers
from zarr.storage import LocalStore, MemoryStore

warnings.simplefilter("ignore", DeprecationWarning)  # of forks while there are threads
root, url, *others = sys.argv[1:]
values = np.arange(4096, dtype="i4").reshape(64, 64)

def local():
    layout = {"shape": (64, 64), "chunks": (8, 8), "shards": (32, 32), "dtype": "i4"}
    array = zarr.create_array(LocalStore(root), overwrite=True, **layout)
    array[...] = values
    return array

def remote():
    return zarr.open_array(http_store(f"{url}/a"), mode="r")

def check(*arrays):
    for array in arrays:
        assert (np.asarray(array[...]) == values).all()

def reading(array):
    # Reads go on in the background until the event is set.
    ended = threading.Event()
    def work():
        while not ended.is_set():
            check(array)
    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    def end():
        ended.set()
        for thread in threads:
            thread.join()
    return end
"""


@pytest.fixture
def url(range_server: RangeServer) -> str:
    """Serve `VALUES` in shards, and give the URL above the array."""
    stored(range_server.root / "a", VALUES, chunks=(8, 8), shards=(32, 32))
    return range_server.url


@pytest.mark.parametrize("method", METHODS)
def test_pools_of_workers_read_and_write_arrays_that_were_passed_to_them(method: str, tmp_path: Path, url: str) -> None:
    script = """
if __name__ == "__main__":
    context = multiprocessing.get_context(others[0])
    arrays = [local(), remote()]
    check(*arrays)
    end = reading(arrays[1])
    with context.Pool(2) as pool:
        for array in arrays:
            sums = pool.starmap(workers.row_sum, [(array, row) for row in range(64)], chunksize=8)
            assert sums == values.sum(axis=1).tolist()
        # Rows of one shard row each: writers of several processes share no shard.
        pool.starmap(workers.write_row, [(arrays[0], row, row + 5) for row in (0, 40)], chunksize=1)
    end()
    check(arrays[1])
    read = np.asarray(arrays[0][...])
    assert (read[[0, 40]] == [[5], [45]]).all() and (read[1:40] == values[1:40]).all()
"""
    finished(MADE + script, tmp_path / "a", url, method)


@pytest.mark.parametrize("method", METHODS)
def test_data_loaders_read_on_loops_of_their_own_while_their_parent_reads(
    method: str, tmp_path: Path, url: str
) -> None:
    script = """
if __name__ == "__main__":
    context = multiprocessing.get_context(others[0])
    arrays = [local(), remote()]
    check(*arrays)
    ends = [reading(array) for array in arrays]
    tasks, results = context.Queue(), context.Queue()
    loaders = [context.Process(target=workers.serve_rows, args=(arrays, tasks, results)) for _ in range(3)]
    for loader in loaders:
        loader.start()
    for row in [*range(64), None, None, None]:
        tasks.put(row)
    got = [results.get(timeout=50) for _ in range(64 + 3)]
    for loader in loaders:
        loader.join(30)
        assert loader.exitcode == 0, loader.exitcode
    for end in ends:
        end()
    sums = values.sum(axis=1).tolist()
    assert sorted(one for one in got if one[0] is not None) == [(row, [sums[row]] * 2) for row in range(64)]
    batches, fallen_back = np.sum([did for row, did in got if row is None], axis=0)
    assert batches == 128 and fallen_back == 0, (batches, fallen_back)
    check(*arrays)
"""
    finished(MADE + script, tmp_path / "a", url, method)


def test_servers_that_fork_after_they_have_loaded_serve_and_are_replaced(tmp_path: Path, url: str) -> None:
    """As gunicorn does with `preload_app`: the parent has read, its workers read, one is killed, one more starts."""
    script = """
arrays = [local(), remote()]
check(*arrays)
ends = [reading(array) for array in arrays]

def serve(tell):
    async def requests():
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        while True:
            read = await asyncio.gather(*(array.async_array.getitem(...) for array in arrays for _ in range(4)))
            assert all((np.asarray(one) == values).all() for one in read)
            os.write(tell, b"!")
    asyncio.run(requests())

def worker():
    hear, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            serve(tell)
        finally:
            os._exit(1)
    os.close(tell)
    return pid, hear

def served(hear, count):
    for _ in range(count):
        assert os.read(hear, 1) == b"!", "a worker has ended"

running = [worker() for _ in range(3)]
for _, hear in running:
    served(hear, 5)
pid, hear = running.pop()
os.kill(pid, signal.SIGKILL)
os.waitpid(pid, 0)
running.append(worker())
for _, hear in running:
    served(hear, 5)
for pid, hear in running:
    os.kill(pid, signal.SIGTERM)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGTERM
for end in ends:
    end()
check(*arrays)
"""
    finished(MADE + script, tmp_path / "a", url)


# Whatever is read, the process says when it is about to wait, and what came of it.
INTERRUPTED = """
import signal, time
# A shell starts its background jobs with this signal ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
print("reading", flush=True)
try:
    array[...]
except KeyboardInterrupt:
    print("interrupted", flush=True)
sys.stdin.readline()
assert (np.asarray(array[...]) == 1).all()
print("read", flush=True)
"""


def test_an_interrupt_ends_a_read_that_waits_for_its_server(range_server: RangeServer) -> None:
    stored(range_server.root / "a", np.ones(64, dtype="i4"), chunks=(8,))
    script = 'array = zarr.open_array(http_store(f"{sys.argv[1]}/a"), mode="r")\n' + INTERRUPTED
    with started(script, range_server.url) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        range_server.hold("/c/")
        assert process.stdout.readline() == "reading\n"
        range_server.wait(held=8, timeout_s=30)
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "interrupted\n"
        # The server has answered nothing by now.
        assert range_server.stats()["held"] == 8
        range_server.release()
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == "read\n"
        assert process.wait(30) == 0


def test_an_interrupt_ends_a_read_that_waits_for_a_bridged_store() -> None:
    script = """
from zarr.storage import MemoryStore

class Gated(MemoryStore):
    gate = None
    async def get(self, key, prototype=None, byte_range=None):
        if self.gate is not None and "c/" in key:
            print("waiting", flush=True)
            await self.gate.wait()
        return await super().get(key, prototype, byte_range)

store = Gated()
array = zarr.create_array(store, shape=(64,), chunks=(64,), dtype="i4")
array[...] = 1
Gated.gate = asyncio.Event()
import threading
def open_gate():
    sys.stdin.readline()
    zarr.core.sync._get_loop().call_soon_threadsafe(Gated.gate.set)
    Gated.gate = None
threading.Thread(target=open_gate, daemon=True).start()
"""
    tail = INTERRUPTED.replace("sys.stdin.readline()\n", "while Gated.gate is not None:\n    time.sleep(0.001)\n")
    with started(script + tail) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == "reading\n"
        assert process.stdout.readline() == "waiting\n"
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "interrupted\n"
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == "read\n"
        assert process.wait(30) == 0


# The parent imports everything and starts nothing; each child of it works on daemon threads and ends as processes do.
EXITING = """
import random, time

class Slow(MemoryStore):
    async def get(self, key, prototype=None, byte_range=None):
        await asyncio.sleep(0.002)
        return await super().get(key, prototype, byte_range)

    async def set(self, key, value, byte_range=None):
        await asyncio.sleep(0.002)
        await super().set(key, value, byte_range)

def work(kind):
    if kind == "local":
        array = zarr.open_array(LocalStore(root), mode="r+")
    elif kind == "remote":
        array = remote()
    else:
        store = Slow() if kind == "slow" else MemoryStore()
        if kind == "fsspec":
            import fsspec
            from fsspec.implementations.asyn_wrapper import AsyncFileSystemWrapper
            memory = AsyncFileSystemWrapper(fsspec.filesystem("memory"))
            store = zarr.storage.FsspecStore(memory, path="a")
        array = zarr.create_array(store, shape=(64, 64), chunks=(8, 8), dtype="i4", overwrite=True)
        array[...] = values

    async def ours():
        while True:
            await asyncio.gather(*(array.async_array.getitem(row) for row in range(64)))
    def sync():
        while True:
            array[...]
            if kind != "remote":
                array[3:50, 7:60] = values[3:50, 7:60]
    for job in (sync, lambda: asyncio.run(ours())):
        threading.Thread(target=job, daemon=True).start()

random.seed(others[0])
local()
for exit in range(int(others[1])):
    pid = os.fork()
    if pid == 0:
        kinds = random.sample(["local", "remote", "memory", "slow", "fsspec"], 2)
        for kind in kinds:
            work(kind)
        while zarrs_async.stats()["batches"] < 20:
            time.sleep(0.001)
        time.sleep(random.uniform(0, 0.02))
        sys.exit(0)
    random.random()
    began = time.monotonic()
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            break
        if time.monotonic() - began > 50:
            os.kill(pid, signal.SIGABRT)
            sys.exit(f"exit {exit} hangs")
        time.sleep(0.002)
    assert os.waitstatus_to_exitcode(status) == 0, (exit, status)
"""


@pytest.mark.timeout(60 + 10 * EXITS)
def test_the_interpreter_ends_while_reads_and_writes_are_under_way(tmp_path: Path, url: str) -> None:
    finished(MADE + EXITING, tmp_path / "a", url, "seed", EXITS, timeout=50 + 10 * EXITS)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="there are no interpreters with locks of their own")
def test_a_second_interpreter_is_refused() -> None:
    script = """
try:
    import _interpreters as interpreters
except ImportError:
    import _xxsubinterpreters as interpreters
code = '''
import importlib.util
spec = importlib.util.spec_from_file_location("zarrs_async._rust", PATH)
try:
    importlib.util.module_from_spec(spec)
except ImportError as error:
    assert "interpreter" in str(error), error
else:
    raise AssertionError("not refused")
'''.replace("PATH", repr(zarrs_async._rust.__file__))
failed = interpreters.run_string(interpreters.create(), code)
assert failed is None, failed
zarr.create_array({}, data=np.arange(4))[...]
"""
    finished(script)
