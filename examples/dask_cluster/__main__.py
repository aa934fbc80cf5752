"""Reduces an array larger than a worker's memory, and writes one as long, with dask.distributed.

``python examples/dask_cluster`` starts a cluster of processes on this machine. ``--kill`` kills one of them by
SIGKILL while they write; what is written is the same.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import zarr
from dask.utils import parse_bytes
from distributed import Client, LocalCluster

import zarrs_async.distributed

PIPELINE = "zarrs_async.ZarrsAsyncCodecPipeline"
SUBCHUNK, SHARD = (40, 128, 128), (40, 512, 512)
SEED = 5


def write_source(path: Path, shape: tuple[int, int, int]) -> None:
    """Write temperatures in hundredths of degrees, the times of one row of shards after those of another."""
    array = zarr.create_array(path, shape=shape, dtype="i2", chunks=SUBCHUNK, shards=SHARD, overwrite=True)
    random = np.random.default_rng(SEED)
    ground = 500 * np.add.outer(np.sin(np.linspace(0, 6, shape[1])), np.cos(np.linspace(0, 9, shape[2])))
    for start in range(0, shape[0], SHARD[0]):
        times = np.arange(start, min(start + SHARD[0], shape[0]))
        season = 1000 * np.sin(2 * np.pi * times / 365)
        noise = random.integers(-64, 64, (len(times), *shape[1:]), dtype="i2")
        array[start : start + len(times)] = noise + ground.astype("i2") + season.astype("i2")[:, None, None]


def reduce_and_write(client: Client, source: Path, target: Path, *, kill: bool) -> None:
    """Write the mean over time, and the differences from it.

    Notes
    -----
    Two passes, each of which reads the array once: in one, the chunks of all times would be kept until their mean is
    known.
    """
    values = da.from_zarr(str(source), chunks=SHARD)  # type: ignore[no-untyped-call]
    group = zarr.create_group(target, overwrite=True)
    group.create_array("mean", data=values.mean(axis=0).compute(), chunks=SHARD[1:])
    # Tasks read the mean from where it is stored: as part of the graph it would be sent to the scheduler.
    mean = da.from_zarr(str(target / "mean"))  # type: ignore[no-untyped-call]
    written: Any = group.create_array("differences", shape=values.shape, dtype="f4", chunks=SUBCHUNK, shards=SHARD)
    # A task writes one whole shard, so no two write to the same, and nobody has to wait for a lock.
    differences = values.astype("f4") - mean.astype("f4")
    stored = da.store(differences, written, lock=False, compute=False)
    writing = client.compute(stored)  # type: ignore[no-untyped-call]
    if kill:
        shards = target / "differences" / "c"
        while not any(path.is_file() for path in shards.rglob("*")):
            time.sleep(0.01)
        victim = min(client.run(os.getpid).values())
        os.kill(victim, signal.SIGKILL)
        print(f"killed the worker of process {victim}; done by then: {writing.done()}")
    writing.result()


def memory() -> int:
    """Return the most bytes that this process has had in memory, as Linux counts them.

    Notes
    -----
    ``getrusage`` would count what the parent had when it started this process, too.
    """
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])


def run(nb_workers: int, arguments: argparse.Namespace, directory: Path) -> str:
    """Run with that many workers; return a row of a table."""
    source, target = directory / "source.zarr", directory / "target.zarr"
    limit = parse_bytes(arguments.memory_limit)
    cluster: Any = LocalCluster(  # type: ignore[no-untyped-call]
        n_workers=nb_workers, threads_per_worker=1, memory_limit=limit, dashboard_address="127.0.0.1:0"
    )
    with cluster, Client(cluster) as client:  # type: ignore[no-untyped-call]
        zarrs_async.distributed.use(
            client,
            {
                "codec_pipeline.strict": True,
                # Bounds hold for each process: a fraction of its memory, and one of its two CPUs.
                "codec_pipeline.memory_limit_bytes": limit // 8,
                "threading.max_workers": 1,
            },
        )
        start = time.perf_counter()
        reduce_and_write(client, source, target, kill=arguments.kill)
        seconds = time.perf_counter() - start
        client.wait_for_workers(nb_workers)
        counts = zarrs_async.distributed.stats(client).values()
        most = max(client.run(memory).values())
        batches = sum(count["batches"] for count in counts)
    return f"| {nb_workers} | {seconds:.1f} | {batches} | {most / 2**20:.0f} |"


def main() -> None:
    """Write the source and run with each number of workers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="+", default=[2], help="processes; several numbers in turn")
    parser.add_argument("--memory-limit", default="512MiB", help="of each worker")
    parser.add_argument("--shape", type=int, nargs=3, default=(200, 1536, 1024), help="of the array, two bytes each")
    parser.add_argument("--directory", type=Path, help="where the arrays go and stay; by default they are temporary")
    parser.add_argument("--kill", action="store_true", help="kill a worker while it writes")
    arguments = parser.parse_args()
    zarr.config.set({"codec_pipeline.path": PIPELINE, "codec_pipeline.strict": True})
    with tempfile.TemporaryDirectory(prefix="zarrs-async-dask-") as temporary:
        directory = arguments.directory or Path(temporary)
        write_source(directory / "source.zarr", tuple(arguments.shape))
        nbytes = 2 * int(np.prod(arguments.shape))
        print(f"{nbytes / 2**20:.0f} MiB of int16; each worker may have {arguments.memory_limit}", file=sys.stderr)
        print("| workers | seconds | batches | most memory of a worker, MiB |\n|---|---|---|---|", flush=True)
        for nb_workers in arguments.workers:
            print(run(nb_workers, arguments, directory), flush=True)


if __name__ == "__main__":
    main()
