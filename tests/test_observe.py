"""What is seen of batches while they run: lines in a log, and progress bars."""

from __future__ import annotations

import asyncio
import io
import logging
import re
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr
from tqdm import tqdm
from zarr.storage import LocalStore, MemoryStore

from support.remote import served
from support.servers import RangeServer, Rule

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType

VALUES = np.arange(1024, dtype="uint16") + 1
PLAIN: dict[str, Any] = {"chunks": (256,)}
SHARDS: dict[str, Any] = {"chunks": (64,), "shards": (256,)}

pytestmark = pytest.mark.usefixtures("pipeline")


def lines(caplog: pytest.LogCaptureFixture, level: int) -> list[str]:
    """Return what was logged on a level, with its times taken out."""
    told = [record for record in caplog.records if record.name == "zarrs_async" and record.levelno == level]
    return [re.sub(r"[\d.]+ ms", "… ms", record.getMessage()) for record in told]


@pytest.fixture
def debug(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """Log everything."""
    caplog.set_level(logging.DEBUG, logger="zarrs_async")
    return caplog


def test_one_line_for_each_batch(debug: pytest.LogCaptureFixture) -> None:
    array = zarr.create_array(MemoryStore(), name="a/b", shape=(1024,), chunks=(256,), dtype="u2")
    array[...] = VALUES
    array[300:310]
    sharded = zarr.create_array(MemoryStore(), shape=(1024,), chunks=(64,), shards=(512,), dtype="u2")
    sharded[...] = VALUES
    assert lines(debug, logging.DEBUG) == [
        "write of 4 chunks from a/b/c/0 on, 2.0 KiB: done after … ms",
        "read of 1 chunk from a/b/c/1 on, 20 bytes: done after … ms",
        "write of 2 shards from c/0 on, 2.0 KiB: done after … ms",
    ]
    assert lines(debug, logging.INFO) == []


@pytest.mark.usefixtures("native")
async def test_retries_are_logged(range_server: RangeServer, debug: pytest.LogCaptureFixture) -> None:
    array = await served(range_server, VALUES, **PLAIN)
    range_server.config(rules=[Rule(action="status", path="/c/", status=503, times=3)])
    await array.getitem(...)
    await array.getitem(...)
    assert lines(debug, logging.INFO) == ["sent again after a failure: 3 requests"]


async def test_a_cancelled_batch_is_logged(range_server: RangeServer, debug: pytest.LogCaptureFixture) -> None:
    array = await served(range_server, VALUES, **PLAIN)
    range_server.hold("/c/")
    reading = asyncio.create_task(array.getitem(...))
    await range_server.wait_async(held=4)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert lines(debug, logging.DEBUG) == ["read of 4 chunks from c/0 on, 2.0 KiB: cancelled after … ms"]


async def test_a_failed_batch_is_logged_without_its_secrets(
    range_server: RangeServer, debug: pytest.LogCaptureFixture
) -> None:
    array = await served(range_server, VALUES, **PLAIN)
    range_server.config(rules=[Rule(action="status", path="/c/", status=403)])
    with pytest.raises(PermissionError):
        await array.getitem(...)
    assert lines(debug, logging.DEBUG) == [
        "read of 4 chunks from c/0 on, 2.0 KiB: failed with StorePermissionError after … ms"
    ]


@pytest.mark.filterwarnings("ignore:zarrs_async does not support")
def test_a_fallback_is_logged_once_for_each_cause(pipeline: ModuleType, debug: pytest.LogCaptureFixture) -> None:
    pipeline._stats._fallback_causes.clear()
    array = zarr.create_array(MemoryStore(), name="\udcff", shape=(4,), chunks=(2,), dtype="i4")
    array[...] = 7
    array[:]
    [said] = lines(debug, logging.INFO)
    assert said.startswith("done by zarr's default pipeline: zarrs_async does not support ")
    assert lines(debug, logging.DEBUG) == [said]


def test_nothing_is_watched_unless_asked_for(pipeline: ModuleType, caplog: pytest.LogCaptureFixture) -> None:
    assert not pipeline._observe.watched()
    caplog.set_level(logging.INFO, logger="zarrs_async")
    assert pipeline._observe.watched()


@pytest.mark.usefixtures("native")
@pytest.mark.parametrize(("layout", "chunks"), [(PLAIN, 4), (SHARDS, 4)], ids=["chunks", "shards"])
def test_bars_show_chunks_and_bytes(pipeline: ModuleType, tmp_path: Path, layout: dict[str, Any], chunks: int) -> None:
    array = zarr.create_array(LocalStore(tmp_path), shape=(1024,), dtype="u2", compressors=None, **layout)
    shown = io.StringIO()
    with pipeline.measure() as measured, pipeline.progress(file=shown):
        array[...] = VALUES
        array[:]
    last = [line for line in re.split(r"[\r\n]+", shown.getvalue()) if "chunks:" in line or "bytes:" in line][-2:]
    assert any(f"{2 * chunks}/{2 * chunks}" in line for line in last), last
    nbytes = measured["bytes_read"] + measured["bytes_written"]
    assert nbytes >= 4096
    assert any(f"bytes: {tqdm.format_sizeof(nbytes, 'B', divisor=1024)} " in line for line in last), last
    assert not pipeline._observe.observers


def test_bars_move_while_a_batch_is_under_way(pipeline: ModuleType, range_server: RangeServer) -> None:
    async def read_in_part() -> tuple[int, int]:
        array = await served(range_server, VALUES, **PLAIN)
        range_server.hold("/c/3")
        with pipeline.progress(file=io.StringIO()):
            [bars] = pipeline._observe.observers
            reading = asyncio.create_task(array.getitem(...))
            await range_server.wait_async(held=1, answered=3)
            while bars._chunks.n < 3:  # its thread looks ten times a second  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            seen = bars._chunks.n, bars._chunks.total
            reading.cancel()
            await asyncio.wait([reading])
        return seen

    assert asyncio.run(read_in_part()) == (3, 4)


def test_bars_end_where_the_block_fails(pipeline: ModuleType) -> None:
    array = zarr.create_array(MemoryStore(), shape=(4,), chunks=(2,), dtype="u2")
    with pytest.raises(IndexError), pipeline.progress(file=io.StringIO()):
        array[99]
    assert not pipeline._observe.observers


def test_without_tqdm_the_error_names_the_extra(pipeline: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    with pytest.raises(ImportError, match=r"pip install 'zarrs-async\[progress\]'"), pipeline.progress():
        pass
