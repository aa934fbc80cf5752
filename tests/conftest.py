"""Fixtures: the servers, a clean configuration for every test, and our pipeline switched on."""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING

import pytest
import zarr
from hypothesis import settings

from support import cloud
from support.servers import RangeServer, S3Server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import ModuleType

# The same examples in every run; `--hypothesis-profile=thorough` looks for new ones.
settings.register_profile("ci", derandomize=True, deadline=None, max_examples=100)
settings.register_profile("thorough", deadline=None, max_examples=2000)
settings.load_profile("ci")

PIPELINE_PATH = "zarrs_async.ZarrsAsyncCodecPipeline"


def pytest_xdist_auto_num_workers() -> int:
    """Take one process more than there are CPUs, as tests wait for servers; each starts its own, hence at most four."""
    return min((os.cpu_count() or 1) + 1, 4)


@pytest.fixture(autouse=True)
def _clean_zarr_config() -> Iterator[None]:
    """Return zarr's configuration to its defaults after the test."""
    yield
    zarr.config.reset()


@pytest.fixture(scope="session")
def range_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RangeServer]:
    """Start one range server for the session; tests take `range_server`."""
    with RangeServer(tmp_path_factory.mktemp("range_process")) as server:
        yield server


@pytest.fixture
def range_server(range_process: RangeServer, tmp_path: Path) -> RangeServer:
    """Give the range server an empty root of the test's own, at a new URL, and all counts at zero."""
    root = tmp_path / "served"
    root.mkdir()
    range_process.serve(root)
    return range_process


@pytest.fixture
def cloud_server(range_process: RangeServer) -> RangeServer:
    """Have the range server serve GCS and Azure, both empty, at a new URL, and all counts at zero."""
    cloud.serve(range_process)
    return range_process


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """Start a real S3 server for the session; take a `new_prefix()` of it for each test."""
    with S3Server() as server:
        yield server


@pytest.fixture
def pipeline() -> ModuleType:
    """Switch our pipeline on for the test, and return `zarrs_async`."""
    zarr.config.set({"codec_pipeline.path": PIPELINE_PATH})
    # Imported here: tests of the servers need no built extension.
    return importlib.import_module("zarrs_async")


@pytest.fixture
def byte_ranges() -> None:
    """Merge adjacent byte ranges only, fetch no shard whole for being small, and keep no chunk."""
    zarr.config.set({"array.sharding_coalesce_max_gap_bytes": 0, "codec_pipeline.chunk_cache_bytes": 0})


@pytest.fixture
def native(pipeline: ModuleType) -> Iterator[ModuleType]:
    """Like `pipeline`, and the test fails if any batch fell back."""
    before = pipeline.stats()
    yield pipeline
    after = pipeline.stats()
    assert after["fallback_batches"] == before["fallback_batches"], after["fallback_causes"]


@pytest.fixture
def rust_only(native: ModuleType) -> Iterator[ModuleType]:
    """Like `native`, and the test fails if a codec was called in Python."""
    before = native.stats()["python_codec_calls"]
    yield native
    assert native.stats()["python_codec_calls"] == before
