"""The pipeline on the workers of dask.distributed: set up by one call, and counted by another."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import zarr
from distributed import WorkerPlugin

from zarrs_async._explain import PATH
from zarrs_async._stats import Stats
from zarrs_async._stats import stats as own_stats

if TYPE_CHECKING:
    from collections.abc import Mapping

    from distributed import Client, Worker

__all__ = ["stats", "use"]


class _Configured(WorkerPlugin):
    """Sets options of ``zarr.config`` on a worker as it starts."""

    name = "zarrs_async"

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.options = dict(options)

    def setup(self, worker: Worker) -> None:  # noqa: ARG002  # as distributed calls it
        zarr.config.set(self.options)


def use(client: Client, options: Mapping[str, Any] | None = None) -> None:
    """Turn zarrs_async on for all workers of a cluster, those that come later or start again included.

    Parameters
    ----------
    client : distributed.Client
        Of the cluster. zarrs_async must be installed where its workers run.
    options : Mapping[str, Any], optional
        Of ``zarr.config``, beside the pipeline itself: ``codec_pipeline.strict``, or the process-wide bounds, which
        hold for each worker process. A second call replaces what an earlier one has set, name by name.

    Notes
    -----
    Arrays that tasks open from then on use the pipeline, and those that travel to a worker take the options there. This
    process's own configuration stays as it is.
    """
    client.register_plugin(_Configured({"codec_pipeline.path": PATH, **(options or {})}))


def stats(client: Client) -> dict[str, Stats]:
    """Give the counters of each worker.

    Returns
    -------
    dict
        What `zarrs_async.stats` says there, by the worker's address.
    """
    found: dict[str, Stats] = client.run(own_stats)
    return found
