"""What the command ``doctor`` finds: versions, options, and whether reading, writing and cancelling work here."""

from __future__ import annotations

import asyncio
import os
import platform
import tempfile
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr
import zarr.api.asynchronous
from zarr.storage import LocalStore, MemoryStore

import zarrs_async
from zarrs_async import _rust
from zarrs_async._config import Options
from zarrs_async._explain import PATH
from zarrs_async._machine import automatic_memory_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from zarr.abc.store import ByteRequest
    from zarr.core.buffer import Buffer, BufferPrototype

_PACKAGES = ("zarrs-async", "zarr", "numpy", "numcodecs", "obstore", "fsspec", "s3fs", "xarray", "dask", "zarrs")
_VALUES = np.arange(64 * 64, dtype="int32").reshape(64, 64)


def findings() -> dict[str, Any]:
    """Find out how things stand.

    Returns
    -------
    dict
        ``versions``, ``active`` and ``status``, ``options`` (or ``options_error``), ``machine``, and
        ``tests``: by name, None or what went wrong.
    """
    told = zarrs_async.status()
    found: dict[str, Any] = {
        "versions": {"Python": platform.python_version(), **_versions()},
        "active": told.on,
        "status": told.text,
        "machine": {
            "system": platform.platform(),
            "CPUs that may be used": _rust.cpus(),
            "CPUs of the machine": os.cpu_count(),
            "automatic memory limit": automatic_memory_bytes(),
        },
    }
    try:
        found["options"] = asdict(Options.from_config())
    except zarrs_async.exceptions.ConfigError as error:
        found["options_error"] = str(error)
    found["tests"] = {name: asyncio.run(_outcome(test)) for name, test in _TESTS.items()}
    return found


def _versions() -> dict[str, str]:
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    return versions


async def _outcome(test: Callable[[], Coroutine[Any, Any, None]]) -> str | None:
    try:
        with zarr.config.set({"codec_pipeline.path": PATH, "codec_pipeline.strict": True}):
            await test()
    except Exception as error:  # noqa: BLE001  # whatever it is, it is what was looked for
        return f"{type(error).__name__}: {error}"
    return None


async def _round_trip(store: Any) -> None:  # noqa: ANN401  # any store
    array = await zarr.api.asynchronous.create_array(
        store, shape=_VALUES.shape, dtype=_VALUES.dtype, shards=(32, 32), chunks=(8, 8)
    )
    await array.setitem(..., _VALUES)
    await array.setitem((3, slice(5, 40)), 0)
    expected = _VALUES.copy()
    expected[3, 5:40] = 0
    for rows in (slice(None), slice(2, 50, 3)):
        if not np.array_equal(np.asarray(await array.getitem(rows)), expected[rows]):
            msg = "what was read is not what was written"
            raise RuntimeError(msg)


async def _local() -> None:
    with tempfile.TemporaryDirectory() as directory:
        await _round_trip(LocalStore(directory))


async def _bridged() -> None:
    await _round_trip(MemoryStore())


class _Stalled(MemoryStore):
    """A store whose chunks never come."""

    def __init__(self) -> None:
        super().__init__()
        self.asked, self.cancelled = asyncio.Event(), asyncio.Event()

    async def get(
        self, key: str, prototype: BufferPrototype | None = None, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        if not key.startswith("c/"):
            return await super().get(key, prototype, byte_range)
        self.asked.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.cancelled.set()
        return None


async def _cancelled() -> None:
    store = _Stalled()
    array = await zarr.api.asynchronous.create_array(store, shape=(4,), chunks=(4,), dtype="u1")
    async with asyncio.timeout(10):
        reading = asyncio.create_task(array.getitem(...))
        await store.asked.wait()
        reading.cancel()
        await asyncio.wait([reading])
        await store.cancelled.wait()
    if not reading.cancelled():
        msg = "the read went on"
        raise RuntimeError(msg)


_TESTS = {
    "write and read local files": _local,
    "write and read through a store's own methods": _bridged,
    "cancel a read": _cancelled,
}
