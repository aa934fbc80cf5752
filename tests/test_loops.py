"""Any event loop, several at once, and loops that end before their batches do."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from oracle import OURS, created
from zarr.storage import LocalStore, MemoryStore

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import ModuleType

    import zarr
    from zarr.abc.store import ByteRequest, Store
    from zarr.core.buffer import Buffer, BufferPrototype

pytestmark = pytest.mark.usefixtures("native")

VALUES = np.arange(4096, dtype="i4").reshape(64, 64)


@pytest.fixture(params=["memory", "local"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return MemoryStore() if request.param == "memory" else LocalStore(tmp_path)


@pytest.fixture(params=["asyncio", "uvloop"])
def new_loop(request: pytest.FixtureRequest) -> Callable[[], asyncio.AbstractEventLoop]:
    if request.param == "asyncio":
        return asyncio.new_event_loop
    factory: Any = pytest.importorskip("uvloop").new_event_loop
    return factory  # type: ignore[no-any-return]


def made(store: Store) -> Any:
    """Make an array of `VALUES`."""
    array = created(store, OURS, shape=(64, 64), chunks=(8, 8), shards=(32, 32), dtype="i4")
    array[...] = VALUES
    return array


async def read_rows(array: zarr.Array[Any]) -> None:
    """Read all rows at once, and compare."""
    rows = await asyncio.gather(*(array.async_array.getitem(row) for row in range(64)))
    assert (np.array(rows) == VALUES).all()


def test_every_loop(store: Store, new_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    array = made(store)

    async def use() -> None:
        await asyncio.gather(*(array.async_array.setitem(row, VALUES[row]) for row in range(64)))
        await read_rows(array)

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(use())


def test_several_loops_at_once(store: Store, new_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    """Each thread has its loop, and all read one array, while zarr's own loop reads it too."""
    array = made(store)
    together = threading.Barrier(6)

    def use() -> None:
        with asyncio.Runner(loop_factory=new_loop) as runner:
            together.wait(30)
            for _ in range(5):
                runner.run(read_rows(array))

    with ThreadPoolExecutor(6) as threads:
        using = [threads.submit(use) for _ in range(5)]
        together.wait(30)
        for _ in range(5):
            assert (np.asarray(array[...]) == VALUES).all()
        for one in using:
            one.result(60)


def test_one_array_on_one_loop_after_another(store: Store, new_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    array = made(store)
    for _ in range(5):
        with asyncio.Runner(loop_factory=new_loop) as runner:
            runner.run(read_rows(array))


def test_the_synchronous_interface_from_threads(store: Store) -> None:
    array = made(store)

    def use(row: int) -> None:
        array[row] = VALUES[row]
        assert (np.asarray(array[row]) == VALUES[row]).all()
        assert (np.asarray(array[...]) == VALUES).all()

    with ThreadPoolExecutor(12) as threads:
        list(threads.map(use, range(64)))


async def test_the_synchronous_interface_beside_a_running_loop(store: Store) -> None:
    array = made(store)
    results: Any = await asyncio.gather(
        read_rows(array), *(asyncio.to_thread(array.__getitem__, slice(None)) for _ in range(4)), read_rows(array)
    )
    assert all((values == VALUES).all() for values in results[1:-1])


class GatedStore(MemoryStore):
    """A store whose chunks come when the gate is opened."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.gate: asyncio.Event | None = None
        self.waiting = 0

    async def get(  # noqa: D102  # as any store
        self, key: str, prototype: BufferPrototype | None = None, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        if self.gate is not None and not key.endswith("json"):
            self.waiting += 1
            await self.gate.wait()
        return await super().get(key, prototype, byte_range)


def _leave(loop: asyncio.AbstractEventLoop, until: Callable[[], bool], reading: Any) -> Any:
    """Begin a read on the loop, close the loop before it has ended, and give the task that was left."""

    async def begin() -> None:
        left.append(asyncio.ensure_future(reading))
        while not until():  # noqa: ASYNC110  # what is waited for sets no event
            await asyncio.sleep(0.001)

    left: list[Any] = []
    loop.run_until_complete(begin())
    loop.close()
    # Nobody will ever hear of the task again, and asyncio need not complain of it.
    left[0]._log_destroy_pending = False
    return left[0]


def test_a_loop_that_closes_while_its_store_is_awaited(
    native: ModuleType, new_loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    """Its requests will never be answered, so their permits must come back."""
    store = GatedStore()
    array = made(store)
    before = native.stats()["requests_in_flight"]
    store.gate = asyncio.Event()
    _leave(new_loop(), lambda: store.waiting > 0, array.async_array.getitem(...))
    gc.collect()
    store.gate = None
    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(read_rows(array))
    assert (np.asarray(array[...]) == VALUES).all()
    deadline = time.monotonic() + 5
    while native.stats()["requests_in_flight"] > before:
        assert time.monotonic() < deadline, "requests of a loop that has closed hold their permits"
        gc.collect()
        time.sleep(0.01)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes")
def test_a_result_for_a_loop_that_has_closed_is_dropped_and_counted(
    native: ModuleType, new_loop: Callable[[], asyncio.AbstractEventLoop], tmp_path: Path
) -> None:
    """A named pipe in a chunk's place holds the read up for as long as nobody writes to it."""
    array = created(LocalStore(tmp_path), OURS, shape=(4,), chunks=(4,), dtype="i4")
    (tmp_path / "c").mkdir()
    os.mkfifo(tmp_path / "c/0")
    before = native.stats()
    task = _leave(
        new_loop(), lambda: bool(native.stats()["batches"] > before["batches"]), array.async_array.getitem(...)
    )
    with (tmp_path / "c/0").open("wb"):
        pass
    deadline = time.monotonic() + 10
    while native.stats()["results_dropped"] == before["results_dropped"]:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    assert native.stats()["results_dropped"] == before["results_dropped"] + 1
    assert not task.done()
    (tmp_path / "c/0").unlink()
    assert np.asarray(array[...]).tolist() == [0, 0, 0, 0]
