"""An HTTP/1.1 server with byte ranges, counts, latency and faults, as a process of its own.

``python tests/support/range_server.py --root DIR`` prints one line of JSON with its port when it listens, and ends on
SIGTERM or when its standard input closes, so that it never outlives whoever started it. With ``--h2`` it serves the
same files over TLS and HTTP/2 as well, on a port of its own and into the same counts; this needs the package h2.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

if __name__ == "__main__":
    # Run as a script: imports start at the package's parent, not inside the package.
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from support.web.connection import Connection
from support.web.state import Settings, State

if TYPE_CHECKING:
    from collections.abc import Callable

# More clients than this never wait to be accepted at once in any test or benchmark.
BACKLOG = 4096


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="directory to serve")
    parser.add_argument("--port", type=int, default=0, help="port on 127.0.0.1; 0 is any free one")
    parser.add_argument("--latency-ms", type=float, default=0.0, help="from the arrival of a request to its answer")
    parser.add_argument("--bandwidth-mib", type=float, help="MiB per second that all answers share")
    parser.add_argument("--require-header", help="'Name: value' without which the answer is 401")
    parser.add_argument("--h2", action="store_true", help="serve HTTP/2 over TLS too")
    return parser.parse_args()


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    """Return uvloop's event loop where it is installed, else asyncio's."""
    try:
        import uvloop  # noqa: PLC0415 - it need not be installed
    except ImportError:
        return asyncio.new_event_loop
    return uvloop.new_event_loop


def watch_stdin(loop: asyncio.AbstractEventLoop, stop: Callable[[], object]) -> None:
    """Call `stop` on the loop when standard input closes."""
    # Read without the buffered file object, whose lock would outlive the interpreter.
    while os.read(0, 4096):
        pass
    loop.call_soon_threadsafe(stop)


async def serve(arguments: argparse.Namespace) -> None:
    """Listen until told to stop."""
    loop = asyncio.get_running_loop()
    settings = Settings(arguments.latency_ms, arguments.bandwidth_mib, arguments.require_header)
    state = State(arguments.root, settings)
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    threading.Thread(target=watch_stdin, args=(loop, stopped.set), daemon=True).start()
    server = await loop.create_server(lambda: Connection(state), "127.0.0.1", arguments.port, backlog=BACKLOG)
    servers = [server]
    if arguments.h2:
        from support.web.h2_connection import H2ServerConnection, tls_context  # noqa: PLC0415 - few tests need it

        servers.append(await loop.create_server(lambda: H2ServerConnection(state), "127.0.0.1", 0, ssl=tls_context()))
    ports = [server.sockets[0].getsockname()[1] for server in servers]
    print(json.dumps(dict(zip(("port", "h2_port"), ports, strict=False))), flush=True)  # noqa: T201 - read by who started us
    await stopped.wait()
    for server in servers:
        server.close()
    state.reset()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(serve(parse_arguments()))
