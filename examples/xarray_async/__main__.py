"""Loads a region of many variables from a web server, one after the other and all at once.

``python examples/xarray_async`` writes a data set, serves it over HTTP with a latency, and prints what each pipeline of
zarr's takes. ``--url`` reads one that `weather.write` has written elsewhere.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import xarray
import zarr
from obstore.store import HTTPStore
from zarr.storage import ObjectStore

# Run as a directory, Python looks for imports in it alone. The web server is the one that the tests start.
ROOT = Path(__file__).resolve().parents[2]
sys.path[:1] = [str(ROOT), str(ROOT / "tests")]

from examples.pipelines import PIPELINES  # noqa: E402
from examples.xarray_async.weather import weather, write  # noqa: E402
from support.servers import RangeServer  # noqa: E402


def opened(url: str, pipeline: str) -> xarray.Dataset:
    """Open the data set for one pipeline: without dask, and with one request for all metadata."""
    with zarr.config.set({"codec_pipeline.path": pipeline}):
        store = ObjectStore(HTTPStore.from_url(url, client_options={"allow_http": True}), read_only=True)
        dataset: xarray.Dataset = xarray.open_zarr(store, chunks=None, consolidated=True)
    return dataset


def region(dataset: xarray.Dataset) -> xarray.Dataset:
    """Return a part of a day and of the northern hemisphere, which is not loaded yet."""
    return dataset.isel(time=slice(6, 18)).sel(lat=slice(70, 10), lon=slice(20, 120))


async def measure(datasets: dict[str, xarray.Dataset], nb_rounds: int, timeout_s: float) -> dict[str, list[Any]]:
    """Load the region with each pipeline in turn; a first round is not counted."""
    seconds: dict[str, list[Any]] = {name: [] for name in datasets}
    for number in range(nb_rounds + 1):
        for name in np.roll(list(datasets), number).tolist():
            start = time.perf_counter()
            in_turn = await asyncio.to_thread(region(datasets[name]).load)
            between = time.perf_counter()
            async with asyncio.timeout(timeout_s):
                at_once = await region(datasets[name]).load_async()
            end = time.perf_counter()
            xarray.testing.assert_identical(in_turn, at_once)
            if number:
                seconds[name].append((between - start, end - between))
    return seconds


def main() -> None:
    """Write, serve, load and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", help="of a data set that is there already")
    parser.add_argument("--latency-ms", type=float, default=30.0, help="of the server")
    parser.add_argument("--hours", type=int, default=48)
    parser.add_argument("--lats", type=int, default=181)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--timeout", type=float, default=60.0, help="seconds that load_async may take")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore", "Consolidated metadata is currently not part")
    with contextlib.ExitStack() as stack:
        url = arguments.url
        if not url:
            root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="zarrs-async-weather-")))
            write(weather(arguments.hours, arguments.lats), root / "weather.zarr")
            server = stack.enter_context(RangeServer(root, latency_ms=arguments.latency_ms))
            url = f"{server.url}/weather.zarr"
        datasets = {name: opened(url, pipeline) for name, pipeline in PIPELINES.items()}
        ours = region(next(iter(datasets.values())))
        print(f"{len(ours.data_vars)} variables, {ours.nbytes / 1e6:.0f} MB\n", flush=True)
        seconds = asyncio.run(measure(datasets, arguments.rounds, arguments.timeout))
    print("| pipeline | `load`, s | `load_async`, s |\n|---|---|---|")
    for name, measured in seconds.items():
        print("| {} | {:.2f} | {:.2f} |".format(name, *np.median(measured, axis=0)))


if __name__ == "__main__":
    main()
