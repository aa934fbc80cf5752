"""A soak: reads, writes, cancellations, faults and dropped arrays on several loops and threads, then a look for leaks.

``python tests/soak.py --minutes 10`` prints a line of figures for each round. Every round is the same work on threads
and loops of its own. When it has ended, nothing may be held; and once the first rounds have filled pools and caches,
memory, file descriptors, threads and connections may not grow. Memory is what malloc and Python have given out: that is
the same whatever an allocator keeps. 1 KiB, or one small object, that each batch leaves behind fails a soak of ten
minutes.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ctypes
import gc
import linecache
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import uvloop
import zarr
from oracle import DEFAULT, OURS, created
from zarr.storage import LocalStore, MemoryStore

import zarrs_async
from support.remote import http_store
from support.servers import RangeServer, Rule
from zarrs_async import _rust
from zarrs_async.exceptions import StoreError

if TYPE_CHECKING:
    from collections.abc import Callable

    from zarr.abc.store import ByteRequest, Store
    from zarr.core.buffer import Buffer, BufferPrototype

ROWS, COLUMNS = 64, 512
VALUES = np.arange(ROWS * COLUMNS, dtype="i4").reshape(ROWS, COLUMNS)
# Tasks of each loop, and threads that use the synchronous interface.
TASKS, THREADS = 8, 2
# Rounds after which pools, caches and the allocator are as large as they get: that many, and a quarter of all.
WARM_ROUNDS = 3
# Threads that resolve names or open files live for ten seconds after their last job.
GROWTH = {"rss_mib": 32, "fds": 8, "threads": 40, "connections": 8}
# And what a number of batches may add to: numpy keeps seven blocks of each size up to 1 KiB, 3.5 MiB of them.
HEAP_KIB, OBJECTS = 4 << 10, 5000
# How many batches may leave 1 KiB, or an object: a quarter of what they are to be caught with.
BATCHES = 4
RETRIES = {
    "max_retries": 3,
    "backoff": {"init_backoff": timedelta(milliseconds=1), "max_backoff": timedelta(milliseconds=5), "base": 2.0},
}
LAYOUTS: dict[str, dict[str, Any]] = {
    "chunks": {"chunks": (8, 64)},
    "shards": {"chunks": (4, 32), "shards": (16, 128)},
}
FAULTS = [
    Rule(action="status", path="faulty/.*c/", status=503, nth=7, times=1),
    Rule(action="truncate", path="faulty/.*c/", nbytes=40, nth=31, times=2),
    Rule(action="reset", path="faulty/.*c/", nth=53, times=1),
    Rule(action="status", path="faulty/.*c/1/", status=403, nth=100, times=3),
]


class SlowStore(MemoryStore):
    """A store of one's own that takes its time and, once told, fails now and then."""

    fails = False

    async def get(  # noqa: D102 - as any store
        self, key: str, prototype: BufferPrototype | None = None, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        await self._pause(key)
        return await super().get(key, prototype, byte_range)

    async def set(  # noqa: D102 - as any store
        self, key: str, value: Buffer, byte_range: tuple[int, int] | None = None
    ) -> None:
        await self._pause(key)
        await super().set(key, value, byte_range)

    async def _pause(self, key: str) -> None:
        if key.startswith("c/"):
            await asyncio.sleep(random.uniform(0, 0.003))
            if self.fails and random.random() < 0.002:
                msg = "a bad day"
                raise OSError(msg)


class Soak:
    """Stores, each with three arrays.

    One is read and never changes; of one each worker writes a row of its own and reads it back; writes to the third are
    cancelled, and may arrive or not.
    """

    def __init__(self, root: Path, server: RangeServer) -> None:
        self.root, self.server = root, server
        self.did: Counter[str] = Counter()
        self.failures: list[BaseException] = []
        self._bridged: dict[str, Store] = {}
        for layout, arguments in LAYOUTS.items():
            for kind in ("local", "http", "faulty", "memory", "slow"):
                for role in ("read", "write", "cancel"):
                    name = f"{kind}/{layout}/{role}"
                    self._bridged[name] = SlowStore() if kind == "slow" else MemoryStore()
                    created(self._store(name, own=False), DEFAULT, data=VALUES, **arguments)
        self.names = [name for name in self._bridged if name.endswith("read")]

    def _store(self, name: str, *, own: bool = True) -> Store:
        kind = name.partition("/")[0]
        if kind in ("memory", "slow"):
            return self._bridged[name]
        if kind == "local" or not own:
            return LocalStore(self.root / name)
        retries: Any = RETRIES if kind == "faulty" else None
        return http_store(f"{self.server.url}/{name}", retry_config=retries)

    def open(self, name: str) -> Any:
        """Open an array once more."""
        return zarr.open_array(self._store(name), mode="r+")

    async def work(self, worker: int, until: float) -> None:
        """Do this and that on the running loop; what is dropped is left to the garbage collector."""
        arrays: dict[str, Any] = {}
        while time.monotonic() < until:
            name = random.choice(self.names)
            if name not in arrays or random.random() < 0.1:
                arrays[name] = [
                    (await asyncio.to_thread(self.open, name.replace("read", role))).async_array
                    for role in ("read", "write", "cancel")
                ]
            action = random.choices(["read", "gather", "write", "cancel", "cancel write"], [4, 2, 3, 4, 2])[0]
            try:
                await _act(action, worker, arrays[name])
                self.did[action] += 1
            except (StoreError, OSError) as error:
                if not name.startswith(("faulty", "slow")):
                    raise
                self.did[type(error).__name__] += 1
            except Exception as error:
                error.add_note(f"{action} of {name}")
                raise

    def run_loop(self, first: int, factory: Callable[[], asyncio.AbstractEventLoop], until: float) -> None:
        """Run tasks on a loop, and leave some unawaited when it closes."""

        async def main() -> None:
            await asyncio.gather(*(self.work(first + task, until) for task in range(TASKS)))
            async with asyncio.timeout(20):
                # Calls of bridged stores that were cancelled end on their own.
                while len(asyncio.all_tasks()) > 1:  # noqa: ASYNC110 - tasks of others set no event
                    await asyncio.sleep(0.001)
            name = random.choice(self.names)
            array = await asyncio.to_thread(self.open, name)
            left = [asyncio.ensure_future(array.async_array.getitem(...)) for _ in range(3)]
            await asyncio.sleep(0)
            del left

        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(main())

    def run_sync(self, until: float) -> None:
        """Use the synchronous interface."""
        while time.monotonic() < until:
            name = random.choice([name for name in self.names if not name.startswith(("faulty", "slow"))])
            rows, columns = _selection()
            np.testing.assert_array_equal(np.asarray(self.open(name)[rows, columns]), VALUES[rows, columns])
            self.did["sync"] += 1

    def round(self, seconds: float) -> None:
        """Work on several loops and threads for a while."""
        self.server.config(rules=FAULTS)
        SlowStore.fails = True
        until = time.monotonic() + seconds
        factories = [asyncio.new_event_loop, uvloop.new_event_loop, asyncio.new_event_loop]
        jobs: list[Callable[[], None]] = [lambda: self.run_sync(until)] * THREADS
        for number, factory in enumerate(factories):
            jobs.append(lambda first=number * TASKS, factory=factory: self.run_loop(first, factory, until))  # type: ignore[misc]
        threads = [threading.Thread(target=self._guarded, args=(job,)) for job in jobs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
            if thread.is_alive():
                msg = f"a loop or thread hangs; held: {_rust.held()}"
                raise RuntimeError(msg)
        SlowStore.fails = False
        if self.failures:
            raise ExceptionGroup("workers failed", self.failures)  # type: ignore[type-var]

    def _guarded(self, job: Callable[[], None]) -> None:
        try:
            job()
        except BaseException as failed:  # noqa: BLE001 - told by the thread that waits
            self.failures.append(failed)

    def settled(self) -> dict[str, int]:
        """See that nothing is held, and give what may not grow."""
        deadline = time.monotonic() + 20
        while held := {name: count for name, count in _rust.held().items() if count}:
            if time.monotonic() > deadline:
                msg = f"still held when nothing is under way: {held}"
                raise RuntimeError(msg)
            gc.collect()
            time.sleep(0.01)
        gc.collect()
        # The lines of each file that a traceback was printed of.
        linecache.clearcache()
        # All permits there are: the whole memory limit, and every request.
        with zarr.config.set({"codec_pipeline.memory_limit_bytes": 1 << 20}):
            for name in self.names:
                if not name.startswith(("faulty", "slow")):
                    np.testing.assert_array_equal(np.asarray(self.open(name)[...]), VALUES)
        self.open(self.names[0])
        assert zarrs_async.stats()["requests_in_flight"] == 0
        assert zarrs_async.stats()["fallback_batches"] == 0
        status = dict(
            line.split(":\t", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":\t" in line
        )
        stats = self.server.stats()
        return {
            "batches": zarrs_async.stats()["batches"],
            "heap_kib": heap() >> 10,
            "objects": sys.getallocatedblocks(),
            "rss_mib": int(status["VmRSS"].split()[0]) >> 10,
            "fds": len(list(Path("/proc/self/fd").iterdir())),
            "threads": int(status["Threads"]),
            "connections": stats["connections_open"],
        }


class _Mallinfo(ctypes.Structure):
    """glibc's ``struct mallinfo2``."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    )


def heap() -> int:
    """Return how many bytes malloc has given out: no memory that it keeps counts, in whatever arena."""
    mallinfo = ctypes.CDLL(None).mallinfo2
    mallinfo.restype = _Mallinfo
    info = mallinfo()
    given_out: int = info.uordblks + info.hblkhd
    return given_out


def _selection() -> tuple[slice, slice]:
    rows, columns = sorted(random.choices(range(ROWS + 1), k=2)), sorted(random.choices(range(COLUMNS + 1), k=2))
    return slice(*rows), slice(*columns)


async def _act(action: str, worker: int, arrays: list[Any]) -> None:
    reading, writing, cancelling = arrays
    if action == "read":
        await _read(reading)
    elif action == "gather":
        await asyncio.gather(*(_read(reading) for _ in range(8)))
    elif action == "write":
        value = random.randrange(1 << 20)
        columns = slice(random.randrange(COLUMNS // 2), random.randrange(COLUMNS // 2, COLUMNS))
        await writing.setitem((worker, columns), value)
        assert (np.asarray(await writing.getitem((worker, columns))) == value).all()
    elif action == "cancel":
        await _cancelled(reading.getitem(...))
    else:
        await _cancelled(cancelling.setitem((worker, slice(None)), worker))


async def _read(array: Any) -> None:
    rows, columns = _selection()
    np.testing.assert_array_equal(np.asarray(await array.getitem((rows, columns))), VALUES[rows, columns])


async def _cancelled(work: Any) -> None:
    task = asyncio.ensure_future(work)
    for _ in range(random.randrange(4)):
        await asyncio.sleep(0)
    await asyncio.sleep(random.choice([0, 0, random.uniform(0, 0.01)]))
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


def main() -> int:
    """Run rounds until the time is over."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--round", type=float, default=5.0, help="seconds of each")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    random.seed(arguments.seed)
    end = time.monotonic() + 60 * arguments.minutes
    with tempfile.TemporaryDirectory() as directory, RangeServer(Path(directory)) as server:
        soak = Soak(Path(directory), server)
        # Set once: threads that each set it for a while would give back what the others had set.
        zarr.config.set(
            {
                "codec_pipeline.path": OURS,
                "codec_pipeline.request_concurrent_maximum": 32,
                "array.sharding_coalesce_max_gap_bytes": 0,
            }
        )
        figures: list[dict[str, int]] = []
        while time.monotonic() < end or len(figures) <= WARM_ROUNDS:
            soak.round(arguments.round)
            figures.append(soak.settled())
            print(f"round {len(figures)}: {figures[-1]}", flush=True)  # noqa: T201 - read by who started us
        print(dict(soak.did), flush=True)  # noqa: T201 - read by who started us
        print({name: count for name, count in zarrs_async.stats().items() if count}, flush=True)  # noqa: T201 - the same
    warm_rounds = max(WARM_ROUNDS, len(figures) // 4)
    warm, last = figures[warm_rounds - 1], figures[-1]
    more = {name: last[name] - warm[name] for name in last}
    most = GROWTH | {
        "heap_kib": HEAP_KIB + more["batches"] // BATCHES,
        "objects": OBJECTS + more["batches"] // BATCHES,
    }
    grown = {name: more[name] for name in most if more[name] > most[name]}
    if grown:
        print(f"grown since round {warm_rounds}: {grown}")  # noqa: T201 - read by who started us
    return 1 if grown else 0


if __name__ == "__main__":
    sys.exit(main())
