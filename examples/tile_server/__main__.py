"""Starts the tile server, and beforehand an S3 server with an array in it: ``python examples/tile_server``.

With ``--data`` it serves what is stored elsewhere: ``s3://bucket/prefix`` (credentials and endpoint come from the
environment, as for every tool that speaks S3) or ``https://host/path``.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import socket
import sys
from pathlib import Path
from typing import Any

import uvicorn
import zarr
from obstore.store import from_url
from zarr.storage import ObjectStore

ROOT = Path(__file__).resolve().parents[2]
# Run as a directory, Python looks for imports in it alone. The S3 server is the one that the tests start.
sys.path[:1] = [str(ROOT), str(ROOT / "tests")]

from examples.tile_server.app import create_app  # noqa: E402
from examples.tile_server.data import temperatures, write_pyramid  # noqa: E402
from support.s3_server import S3Server  # noqa: E402

PIPELINE = "zarrs_async.ZarrsAsyncCodecPipeline"


class Server(uvicorn.Server):
    """Uvicorn, which says where it listens once it does."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and print the address."""
        await super().startup(sockets)
        for listening in (sockets or []) if self.started else []:
            print("http://{}:{}/".format(*listening.getsockname()), flush=True)


def data_store(arguments: argparse.Namespace, stack: contextlib.ExitStack) -> ObjectStore[Any]:
    """Return the store that is named, or that of a new S3 server with a pyramid in it."""
    if arguments.data:
        return ObjectStore(from_url(arguments.data, client_options={"allow_http": True}), read_only=True)
    server = stack.enter_context(S3Server())
    print(f"an S3 server listens at {server.endpoint}", flush=True)
    numbers = temperatures(arguments.times, arguments.size)
    print(f"writing {numbers.nbytes / 1e6:.0f} MB of temperatures, shape {numbers.shape}", flush=True)
    asyncio.run(write_pyramid(ObjectStore(server.obstore("pyramid")), numbers))
    return ObjectStore(server.obstore("pyramid"), read_only=True)


def main() -> None:
    """Run until interrupted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=8000, help="port of 127.0.0.1; 0 is any free one")
    parser.add_argument("--data", help="URL of a pyramid that is there already")
    parser.add_argument("--times", type=int, default=24, help="points in time of the new one")
    parser.add_argument("--size", type=int, default=2048, help="pixels of the new one along each axis")
    parser.add_argument("--timeout", type=float, default=10.0, help="seconds that an answer may take")
    parser.add_argument("--pipeline", default=PIPELINE, help="codec pipeline, as module.Class")
    arguments = parser.parse_args()
    zarr.config.set({"codec_pipeline.path": arguments.pipeline})
    # Uvicorn ends in order and then raises the signal again, which would leave nothing to the blocks below.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    with contextlib.ExitStack() as stack:
        listening = stack.enter_context(socket.create_server(("127.0.0.1", arguments.port)))
        app = create_app(data_store(arguments, stack), arguments.timeout)
        config = uvicorn.Config(app, log_level="warning")
        with contextlib.suppress(KeyboardInterrupt):
            Server(config).run(sockets=[listening])


if __name__ == "__main__":
    main()
