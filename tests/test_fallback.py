"""What the engine does not do: zarr's default pipeline does it, once said and always counted, or it is an error."""

from __future__ import annotations

import asyncio
import linecache
import threading
import warnings
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr
from oracle import DEFAULT, OURS, opened
from zarr.core.buffer import BufferPrototype, cpu
from zarr.core.sync import sync
from zarr.errors import ZarrUserWarning
from zarr.storage import LocalStore, MemoryStore

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType


class OtherBuffer(cpu.Buffer):
    """A class of bytes whose memory the engine does not know."""


class OtherNDBuffer(cpu.NDBuffer):
    """A class of arrays whose memory the engine does not know."""


OTHER = BufferPrototype(OtherBuffer, cpu.NDBuffer)
ANOTHER = BufferPrototype(cpu.Buffer, OtherNDBuffer)


@pytest.fixture
def counted(pipeline: ModuleType, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Our pipeline, with no cause known yet: warnings are given once for each."""
    from zarrs_async import _stats  # noqa: PLC0415  # the fixture has imported the package

    monkeypatch.setattr(_stats, "_fallback_causes", Counter())
    return pipeline


def plain(store: Any = None) -> Any:
    """Make an array that only its buffers can make the engine refuse; its codecs need none of zarr's threads."""
    target = MemoryStore() if store is None else store
    return zarr.create_array(target, shape=(6,), chunks=(2,), dtype="i4", compressors=None)


def test_other_buffers_are_filled_by_the_default_pipeline(counted: ModuleType) -> None:
    array = plain()
    with pytest.warns(ZarrUserWarning, match="OtherBuffer") as told:
        array.set_basic_selection(..., np.arange(6), prototype=OTHER)
    assert array.get_basic_selection(..., prototype=OTHER).tolist() == [0, 1, 2, 3, 4, 5]
    assert array.get_orthogonal_selection([4, 0], prototype=OTHER).tolist() == [4, 0]
    assert np.asarray(opened(array.store, DEFAULT)[...]).tolist() == [0, 1, 2, 3, 4, 5]
    assert len(told) == 1
    stats = counted.stats()
    assert stats["fallback_batches"] == 3
    [(cause, count)] = stats["fallback_causes"].items()
    assert "OtherBuffer" in cause
    assert count == 3


def test_one_warning_for_each_cause(counted: ModuleType) -> None:
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for _ in range(3):
            plain().set_basic_selection(..., 1, prototype=OTHER)
        for _ in range(2):
            plain().set_basic_selection(..., 1, prototype=ANOTHER)
    said = [str(warning.message) for warning in told if "zarrs_async" in str(warning.message)]
    assert len(said) == 2
    assert "OtherBuffer" in said[0]
    assert "OtherNDBuffer" in said[1]
    assert counted.stats()["fallback_batches"] == 5
    assert sorted(counted.stats()["fallback_causes"].values()) == [2, 3]


def line_of(told: Any) -> str:
    """Return the line that a warning points at; it must be one of this file."""
    assert told[0].filename == __file__
    return linecache.getline(told[0].filename, told[0].lineno)


def test_the_warning_points_at_the_users_line(counted: ModuleType) -> None:
    assert counted.stats()["fallback_batches"] == 0
    with pytest.warns(ZarrUserWarning) as told:
        plain().set_basic_selection(..., 1, prototype=OTHER)  # here
    assert line_of(told).endswith("# here\n")


@pytest.mark.usefixtures("counted")
def test_the_warning_points_at_the_line_of_the_thread_that_waits() -> None:
    """Other threads wait for zarr's loop at the same time."""
    held = threading.Event()

    async def hold() -> None:
        await asyncio.to_thread(held.wait)

    waiting = threading.Thread(target=sync, args=(hold(),))
    waiting.start()
    try:
        with pytest.warns(ZarrUserWarning) as told:
            plain().set_basic_selection(..., 1, prototype=OTHER)  # here
    finally:
        held.set()
        waiting.join()
    assert line_of(told).endswith("# here\n")


@pytest.mark.usefixtures("counted")
async def test_the_warning_points_at_the_line_that_awaits() -> None:
    array = await zarr.api.asynchronous.create_array(MemoryStore(), shape=(6,), chunks=(2,), dtype="i4")
    with pytest.warns(ZarrUserWarning) as told:
        await array.getitem(0, prototype=OTHER)  # here
    assert line_of(told).endswith("# here\n")


@pytest.mark.usefixtures("counted")
@pytest.mark.parametrize("store", ["memory", "local"])
def test_strict_makes_it_an_error(store: str, tmp_path: Path) -> None:
    from zarrs_async.exceptions import UnsupportedError, ZarrsAsyncError  # noqa: PLC0415  # the fixture imports it

    array = plain(MemoryStore() if store == "memory" else LocalStore(tmp_path))
    array[...] = 5
    with zarr.config.set({"codec_pipeline.strict": True}):
        strict = opened(array.store, OURS)
        for _ in range(2):
            with pytest.raises(UnsupportedError, match="OtherBuffer") as refused:
                strict.get_basic_selection(..., prototype=OTHER)
            with pytest.raises(UnsupportedError, match="OtherBuffer"):
                strict.set_basic_selection(0, 1, prototype=OTHER)
        assert np.asarray(strict[...]).tolist() == [5] * 6
    assert isinstance(refused.value, NotImplementedError)
    assert isinstance(refused.value, ZarrsAsyncError)


def test_strict_is_nothing_to_what_is_supported(counted: ModuleType) -> None:
    with zarr.config.set({"codec_pipeline.strict": True}):
        array = zarr.create_array(MemoryStore(), shape=(6,), chunks=(2,), shards=(4,), dtype="i4")
        array[...] = 3
        assert (np.asarray(array[...]) == 3).all()
    assert counted.stats()["fallback_batches"] == 0


@pytest.mark.filterwarnings("ignore:zarrs_async does not support")
async def test_gathered_batches_are_each_counted(counted: ModuleType) -> None:
    array = await zarr.api.asynchronous.create_array(MemoryStore(), shape=(40,), chunks=(2,), dtype="i4")
    writes = (array.setitem(slice(at, at + 2), at, prototype=OTHER) for at in range(0, 40, 2))
    await asyncio.gather(*writes)
    assert counted.stats()["fallback_batches"] == 20
    assert int(np.asarray(await array.getitem(...)).sum()) == 2 * sum(range(0, 40, 2))
