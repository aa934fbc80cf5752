"""Asks tile servers with different codec pipelines for random tiles, in turns, and prints what they manage.

All servers run on this machine, and so does this program: figures are good for a comparison only.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import numpy as np
import zarr
from zarr.storage import LocalStore, ObjectStore

ROOT = Path(__file__).resolve().parents[2]
sys.path[:1] = [str(ROOT), str(ROOT / "tests")]

from examples.pipelines import PIPELINES  # noqa: E402
from examples.tile_server.data import SIDE, temperatures, write_pyramid  # noqa: E402
from support.program import serving  # noqa: E402
from support.servers import RangeServer, S3Server  # noqa: E402

SEED = 3


class Data(NamedTuple):
    """Where a pyramid is, and what its server needs to know."""

    url: str
    environment: dict[str, str]


def stored(arguments: argparse.Namespace, stack: contextlib.ExitStack) -> Data:
    """Write a pyramid to an S3 server, or to an HTTP server with latency if one is asked for."""
    numbers = temperatures(arguments.times, arguments.size)
    zarr.config.set({"codec_pipeline.path": PIPELINES["zarrs-async"]})
    if arguments.latency_ms:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        asyncio.run(write_pyramid(LocalStore(root), numbers))
        return Data(stack.enter_context(RangeServer(root, latency_ms=arguments.latency_ms)).url, {})
    server = stack.enter_context(S3Server())
    asyncio.run(write_pyramid(ObjectStore(server.obstore("pyramid")), numbers))
    environment = {
        "AWS_ACCESS_KEY_ID": server.access_key,
        "AWS_SECRET_ACCESS_KEY": server.secret_key,
        "AWS_ENDPOINT": server.endpoint,
    }
    return Data(f"s3://{server.bucket}/pyramid", environment)


async def one_round(url: str, paths: list[str], nb_clients: int) -> tuple[float, list[float]]:
    """Ask for all paths, `nb_clients` at a time; return the seconds of all and of each."""
    latencies: list[float] = []
    waiting = iter(paths)

    async def client(session: aiohttp.ClientSession) -> None:
        for path in waiting:
            start = time.perf_counter()
            async with session.get(url + path) as answer:
                answer.raise_for_status()
                await answer.read()
            latencies.append(time.perf_counter() - start)

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=nb_clients)) as session:
        start = time.perf_counter()
        await asyncio.gather(*(client(session) for _ in range(nb_clients)))
        return time.perf_counter() - start, latencies


async def rounds(urls: dict[str, str], arguments: argparse.Namespace) -> dict[str, list[Any]]:
    """Ask each server in turn, again and again; a first round is not counted."""
    generator = np.random.default_rng(SEED)
    found: dict[str, list[Any]] = {name: [] for name in urls}
    nb_tiles = arguments.size // SIDE
    for number in range(arguments.rounds + 1):
        times = generator.integers(arguments.times, size=arguments.requests)
        tiles = generator.integers(nb_tiles, size=(arguments.requests, 2))
        paths = [f"/tiles/{t}/0/{row}/{column}.png" for t, (row, column) in zip(times, tiles, strict=True)]
        # Each is the first, the second and the third in turn.
        names = list(np.roll(list(urls), number))
        for name in names:
            one = await one_round(urls[name], paths, arguments.clients)
            if number:
                found[name].append(one)
    return found


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=500, help="of each round")
    parser.add_argument("--clients", type=int, default=32, help="requests at a time")
    parser.add_argument("--latency-ms", type=float, default=0.0, help="of an HTTP server in place of the S3 server")
    parser.add_argument("--times", type=int, default=24)
    parser.add_argument("--size", type=int, default=2048)
    arguments = parser.parse_args()
    with contextlib.ExitStack() as stack:
        data = stored(arguments, stack)
        os.environ.update(data.environment)
        urls = {
            name: stack.enter_context(
                serving("examples/tile_server", "--port", 0, "--data", data.url, "--pipeline", pipeline)
            ).url
            for name, pipeline in PIPELINES.items()
        }
        found = asyncio.run(rounds(urls, arguments))
    print("| pipeline | requests/s | p50, ms | p99, ms |\n|---|---|---|---|")
    for name, measured in found.items():
        rate = float(np.median([arguments.requests / seconds for seconds, _ in measured]))
        middle, late = 1e3 * np.percentile(np.concatenate([each for _, each in measured]), [50, 99])
        print(f"| {name} | {rate:.0f} | {middle:.0f} | {late:.0f} |")


if __name__ == "__main__":
    main()
