"""HTTP/2 over TLS: many requests at once on one client connection, counted, delayed and answered like any other."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, cast
from urllib.parse import unquote

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    RequestReceived,
    StreamEnded,
    StreamReset,
)
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes

from .connection import connection_numbers
from .exchange import Exchange
from .message import Request

if TYPE_CHECKING:
    from .state import State

MAX_STREAMS = 1000


class H2ServerConnection(asyncio.Protocol):
    """One client connection.

    Of the rules, ``reset``, ``lose_answer`` and ``truncate`` reset the stream; the link has no limit here.

    ``lose_answer`` and ``endless`` are known to HTTP/1.1 alone.

    Parameters
    ----------
    state
        What the connections of the server share.
    """

    def __init__(self, state: State) -> None:
        self._state = state
        self._number = next(connection_numbers)
        self._h2 = H2Connection(H2Configuration(client_side=False, header_encoding="utf-8"))
        self._arriving: dict[int, Request] = {}
        self._exchanges: dict[int, Exchange] = {}
        self._is_paused = False
        self._is_gone = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Count the connection and greet; see `asyncio.Protocol`."""
        self._transport = cast("asyncio.Transport", transport)
        self._state.connections.add(self)
        self._state.counters.opened()
        self._state.counters.used()
        self._h2.update_settings({SettingCodes.MAX_CONCURRENT_STREAMS: MAX_STREAMS})
        self._h2.initiate_connection()
        self._flush()

    def data_received(self, data: bytes) -> None:
        """Take what has arrived."""
        try:
            for event in self._h2.receive_data(data):
                self._handle(event)
        except ProtocolError:
            self._flush()
            self._transport.close()
            return
        self._pump()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """Give up what was under way."""
        self._leave()

    def pause_writing(self) -> None:
        """Wait for the client."""
        self._is_paused = True

    def resume_writing(self) -> None:
        """Go on sending."""
        self._is_paused = False
        self._pump()

    def drop(self) -> None:
        """End the connection at once."""
        self._leave()
        self._transport.abort()

    def _leave(self) -> None:
        """Take the connection out of all counts, once."""
        if self._is_gone:
            return
        self._is_gone = True
        self._state.connections.discard(self)
        self._state.counters.closed()
        for stream in list(self._exchanges):
            self._end(stream, aborted=True)

    def _handle(self, event: Event) -> None:
        match event:
            case RequestReceived(stream_id=int(stream), headers=fields) if fields is not None:
                headers = {str(name): str(value) for name, value in fields}
                target, _, query = headers[":path"].partition("?")
                self._arriving[stream] = Request(headers[":method"], unquote(target).lstrip("/"), query, headers)
            case DataReceived(stream_id=int(stream), data=bytes(data), flow_controlled_length=int(nbytes)):
                self._arriving[stream].body += data
                self._h2.acknowledge_received_data(nbytes, stream)
            case StreamEnded(stream_id=int(stream)):
                self._begin(stream)
            case StreamReset(stream_id=int(stream)):
                self._arriving.pop(stream, None)
                self._end(stream, aborted=True)
            case ConnectionTerminated():
                self._transport.close()
            case _:
                # Windows and settings: what they allow is sent after every event.
                pass

    def _begin(self, stream: int) -> None:
        exchange = Exchange(self._state, self._arriving.pop(stream), self._number)
        self._exchanges[stream] = exchange
        exchange.after_delay(lambda: exchange.after_gate(lambda: self._answer(stream)))

    def _answer(self, stream: int) -> None:
        exchange = self._exchanges[stream]
        if "reset" in exchange.struck:
            self._reset(stream)
        else:
            exchange.start()
            if "lose_answer" in exchange.struck:
                self._reset(stream)
            else:
                self._send_head(stream, exchange)
        self._pump()

    def _send_head(self, stream: int, exchange: Exchange) -> None:
        response = exchange.response
        if response is None:
            return
        fields = {":status": str(int(response.status)), "content-length": str(response.body.nbytes)}
        fields |= {name.lower(): value for name, value in response.headers.items()}
        is_all = exchange.stop == 0 and exchange.ending == "keep"
        self._h2.send_headers(stream, list(fields.items()), end_stream=is_all)
        if is_all:
            exchange.replace()
            self._end(stream, aborted=False)

    def _pump(self) -> None:
        """Send one frame of every answer in turn, until the windows or the client say to stop."""
        has_progress = True
        while has_progress and not self._is_paused and not self._is_gone:
            has_progress = False
            for stream, exchange in list(self._exchanges.items()):
                if exchange.response is not None and exchange.sent < exchange.stop:
                    has_progress |= self._send_frame(stream, exchange)
            self._flush()

    def _send_frame(self, stream: int, exchange: Exchange) -> bool:
        window = min(self._h2.local_flow_control_window(stream), self._h2.max_outbound_frame_size)
        nbytes = min(window, exchange.stop - exchange.sent)
        if nbytes <= 0:
            return False
        is_last = exchange.sent + nbytes == exchange.stop
        self._h2.send_data(stream, exchange.read(nbytes), end_stream=is_last and exchange.ending == "keep")
        exchange.count(nbytes)
        if is_last and exchange.ending == "close":
            self._reset(stream)
        elif is_last and exchange.ending == "keep":
            exchange.replace()
            self._end(stream, aborted=False)
        return True

    def _reset(self, stream: int) -> None:
        self._h2.reset_stream(stream, ErrorCodes.INTERNAL_ERROR)
        self._end(stream, aborted=False)

    def _end(self, stream: int, *, aborted: bool) -> None:
        exchange = self._exchanges.pop(stream, None)
        if exchange is not None:
            exchange.end(aborted=aborted)

    def _flush(self) -> None:
        data = self._h2.data_to_send()
        if data and not self._is_gone:
            self._transport.write(data)


def tls_context() -> ssl.SSLContext:
    """Make a server's context that offers HTTP/2 alone, with a certificate that nobody has signed."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_alpn_protocols(["h2"])
    with tempfile.TemporaryDirectory() as directory:
        key, certificate = Path(directory, "key.pem"), Path(directory, "certificate.pem")
        command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        command += ["-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"]
        command += ["-keyout", str(key), "-out", str(certificate)]
        subprocess.run(command, check=True, capture_output=True)  # noqa: S603 - nothing in it comes from elsewhere
        context.load_cert_chain(certificate, key)
    return context
