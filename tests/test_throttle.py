"""Servers that are overrun: they are sent fewer requests at once, by themselves."""

from __future__ import annotations

import socket
import struct
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr
from obstore.store import HTTPStore
from zarr.storage import LocalStore, ObjectStore

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import ModuleType

VALUES = np.arange(256, dtype="uint16") + 1
AT_ONCE = 8
# In flight where nothing sets a bound.
CROWD = 128


class SmallServer(ThreadingHTTPServer):
    """Python's own server, with room for a few connections: it resets the others. The first answers wait for some."""

    request_queue_size = 256  # what is turned away is turned away here, not by the kernel

    def __init__(self, root: Path) -> None:
        super().__init__(("127.0.0.1", 0), partial(Handler, directory=str(root)))
        self.room = threading.Semaphore(AT_ONCE)
        self.turned_away = 0
        self.overrun = threading.Event()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve a connection where there is room."""
        if self.room.acquire(blocking=False):
            super().process_request(request, client_address)
            return
        # Without lingering, the end of a connection is a reset.
        request.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        request.close()
        self.turned_away += 1
        if self.turned_away == CROWD // 4:
            self.overrun.set()

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serve a connection to its end."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self.room.release()


class Handler(SimpleHTTPRequestHandler):
    """Serves files without a word."""

    def do_GET(self) -> None:
        """Answer; chunks when there has been a crowd, or none comes: the throttle may be as quick."""
        if "/c/" in self.path and isinstance(self.server, SmallServer):
            self.server.overrun.wait(2)
            self.server.overrun.set()
        super().do_GET()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def small_server(tmp_path: Path) -> Iterator[SmallServer]:
    """Serve an array of 256 chunks of one element each."""
    array = zarr.create_array(LocalStore(tmp_path), shape=VALUES.shape, dtype=VALUES.dtype, chunks=(1,), filters=None)
    array[:] = VALUES
    with SmallServer(tmp_path) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_server_that_resets_connections_of_a_crowd_is_sent_fewer(native: ModuleType, small_server: SmallServer) -> None:
    url = f"http://127.0.0.1:{small_server.server_port}"
    store = ObjectStore(HTTPStore(url, client_options={"allow_http": True}))
    array = zarr.open_array(store, mode="r", zarr_format=3)
    with native.measure() as measured:
        assert np.array_equal(array[:], VALUES)
    assert small_server.turned_away > 0
    # What was turned away came back in a file, not as one more crowd; nor did the other half of the chunks.
    assert measured["retries"] < 2 * CROWD
    before = small_server.turned_away
    for _ in range(3):
        assert np.array_equal(array[:], VALUES)
    # Of three crowds most would have been turned away.
    assert small_server.turned_away - before < CROWD
