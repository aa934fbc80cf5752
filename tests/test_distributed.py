"""The workers of dask.distributed: set up by one call, and counted by another."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import cloudpickle
import dask.array as da
import numpy as np
import pytest
import zarr
from distributed import Client, LocalCluster
from oracle import DEFAULT, OURS
from zarr.storage import LocalStore

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import ModuleType

# Workers cannot import this file.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

VALUES = np.arange(4096, dtype="int64").reshape(64, 64)


def pipeline_of_config() -> Any:
    """Return what an array that is opened here would use."""
    import zarr  # noqa: PLC0415  # runs on a worker

    return zarr.config.get("codec_pipeline.path"), zarr.config.get("codec_pipeline.request_concurrent_maximum", None)


@pytest.fixture
def client() -> Iterator[Any]:
    """Start two workers, each a process of its own."""
    cluster: Any = LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None)  # type: ignore[no-untyped-call]
    with cluster, Client(cluster) as client:  # type: ignore[no-untyped-call]
        yield client


@pytest.mark.long
# Sockets of dask's that are left to the garbage collector.
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_one_call_sets_all_workers_up(pipeline: ModuleType, client: Any, tmp_path: Path) -> None:
    from zarrs_async import distributed  # noqa: PLC0415  # the fixture has imported the package

    zarr.create_array(LocalStore(tmp_path / "a"), data=VALUES, chunks=(16, 64))
    assert set(client.run(pipeline_of_config).values()) == {(DEFAULT, None)}
    distributed.use(client, {"codec_pipeline.request_concurrent_maximum": 7})
    assert set(client.run(pipeline_of_config).values()) == {(OURS, 7)}
    before = pipeline.stats()["batches"]
    array = da.from_zarr(str(tmp_path / "a"))  # type: ignore[no-untyped-call]
    assert int(array.sum().compute()) == int(VALUES.sum())
    counted = distributed.stats(client)
    assert len(counted) == 2
    assert sum(worker["batches"] for worker in counted.values()) == 4
    assert pipeline.stats()["batches"] == before
    client.cluster.scale(3)
    client.wait_for_workers(3)
    assert set(client.run(pipeline_of_config).values()) == {(OURS, 7)}
