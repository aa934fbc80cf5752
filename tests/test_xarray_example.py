"""The example of many variables over HTTP: what is loaded at once is what was written, and can be given up at once."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import xarray
from oracle import DEFAULT, OURS

from examples.pipelines import PIPELINES
from examples.xarray_async.__main__ import opened, region
from examples.xarray_async.weather import VARIABLES, weather, write
from support.program import ROOT

if TYPE_CHECKING:
    from types import ModuleType

    from support.servers import RangeServer

pytestmark = pytest.mark.filterwarnings("ignore:Consolidated metadata is currently not part in the Zarr format 3")


@pytest.fixture
def url(range_server: RangeServer) -> str:
    """Write the data set with zarr's default pipeline and serve it."""
    write(weather(30, 25), range_server.root / "weather.zarr")
    return f"{range_server.url}/weather.zarr"


async def test_all_variables_are_those_that_zarr_reads(native: ModuleType, url: str) -> None:
    before = native.stats()["batches"]
    loaded = await region(opened(url, OURS)).load_async()
    assert native.stats()["batches"] - before >= len(VARIABLES)
    expected = region(opened(url, DEFAULT)).load()
    xarray.testing.assert_identical(loaded, expected)
    assert loaded["sst"].isnull().any()
    assert loaded["sst"].notnull().any()
    xarray.testing.assert_allclose(loaded, region(weather(30, 25)), atol=3)


async def test_all_variables_are_asked_for_before_one_is_answered(
    native: ModuleType, url: str, range_server: RangeServer
) -> None:
    part: Any = region(opened(url, OURS))
    range_server.reset_counts()
    range_server.hold("/c/")
    loading = asyncio.create_task(part.load_async())
    await range_server.wait_async(held=len(VARIABLES))
    loading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await loading
    assert (await range_server.wait_async(aborted=len(VARIABLES), idle=True))["answered"] == 0
    assert native.stats()["requests_in_flight"] == 0


@pytest.mark.long
def test_the_program_prints_a_row_for_each_pipeline() -> None:
    command = [sys.executable, str(ROOT / "examples/xarray_async"), "--lats", "25", "--hours", "24", "--rounds", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)  # noqa: S603 - our own
    assert done.returncode == 0, done.stderr
    rows = [line for line in done.stdout.splitlines() if line.startswith("| zarr")]
    assert len(rows) == len(PIPELINES)
