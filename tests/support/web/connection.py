"""One client connection: requests in, one after the other, and each answer out at the pace the client takes it."""

from __future__ import annotations

import asyncio
import itertools
import socket
import struct
from http import HTTPStatus
from typing import TYPE_CHECKING, Literal, cast

from . import control
from .exchange import Exchange
from .message import BadRequestError, BytesBody, Request, Response, parse_head

if TYPE_CHECKING:
    from .state import State

PIECE_NBYTES = 256 * 1024
# Answers share a limited link piece by piece, so there the pieces are small.
LIMITED_PIECE_NBYTES = 64 * 1024

connection_numbers = itertools.count(1)


class Connection(asyncio.Protocol):
    """Reads all the time, so that a client that goes away is noticed at once, whatever its request waits for.

    Parameters
    ----------
    state
        What the connections of the server share.
    """

    def __init__(self, state: State) -> None:
        self._state = state
        self._loop = asyncio.get_running_loop()
        self._number = next(connection_numbers)
        self._unread = bytearray()
        self._arriving: Request | None = None
        self._exchange: Exchange | None = None
        self._kind: Literal["unknown", "site", "control"] = "unknown"
        self._is_busy = False
        self._is_paused = False
        self._is_gone = False
        self._waiter: object = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Count the connection; see `asyncio.Protocol`."""
        self._transport = cast("asyncio.Transport", transport)
        # Writing pauses until the kernel has taken everything: only then is an answer sent.
        self._transport.set_write_buffer_limits(high=0)
        self._state.connections.add(self)
        self._state.counters.opened()

    def data_received(self, data: bytes) -> None:
        """Take what has arrived."""
        self._unread += data
        self._serve_next()

    def eof_received(self) -> bool:
        """Treat a client that sends no more as gone: none of ours closes one direction only."""
        self._leave()
        self._transport.abort()
        return False

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
        """End the connection at once, if it is not the control plane's."""
        if self._kind != "control":
            self._leave()
            self._transport.abort()

    def _leave(self) -> None:
        """Take the connection out of all counts, once."""
        if self._is_gone:
            return
        self._is_gone = True
        self._state.connections.discard(self)
        self._state.counters.forget(self._waiter)
        if self._kind != "control":
            self._state.counters.closed()
        if self._exchange is not None:
            self._end_exchange(aborted=True)

    # Requests in.

    def _serve_next(self) -> None:
        """Begin with the next request, if it has arrived and none is under way."""
        if self._is_busy or self._is_gone or self._transport.is_closing():
            return
        try:
            request = self._next_request()
        except BadRequestError as error:
            reason = BytesBody(str(error).encode())
            self._transport.write(Response(HTTPStatus.BAD_REQUEST, body=reason).head() + reason.read(0, reason.nbytes))
            self._transport.close()
            return
        if request is None:
            return
        self._is_busy = True
        if request.path.startswith(control.PREFIX):
            self._become("control")
            self._waiter = control.handle(self._state, request, self._reply)
        else:
            self._become("site")
            self._begin(request)

    def _next_request(self) -> Request | None:
        if self._arriving is None:
            self._arriving = parse_head(self._unread)
            if self._arriving is None:
                return None
            if self._arriving.headers.get("expect", "").lower() == "100-continue":
                self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request = self._arriving
        nbytes = request.body_nbytes
        if len(self._unread) < nbytes:
            return None
        if nbytes:
            request.body = bytes(self._unread[:nbytes])
            del self._unread[:nbytes]
        self._arriving = None
        return request

    def _become(self, kind: Literal["site", "control"]) -> None:
        if self._kind == "unknown":
            self._kind = kind
            if kind == "site":
                self._state.counters.used()
            else:
                self._state.counters.is_control()

    def _reply(self, response: Response) -> None:
        """Answer the control plane, past all counts and delays."""
        if not self._is_gone:
            self._transport.write(response.head() + response.body.read(0, response.body.nbytes))
            self._is_busy = False
            self._loop.call_soon(self._serve_next)

    # One request: delay, gate, answer.

    def _begin(self, request: Request) -> None:
        self._exchange = Exchange(self._state, request, self._number)
        self._exchange.after_delay(self._pass_gate)

    def _pass_gate(self) -> None:
        if self._exchange is not None:
            self._exchange.after_gate(self._answer)

    def _answer(self) -> None:
        if self._exchange is None:
            return
        if "reset" in self._exchange.struck:
            self._end_exchange(aborted=False)
            self._reset()
            return
        self._exchange.start()
        if "lose_answer" in self._exchange.struck:
            self._end_exchange(aborted=False)
            self._reset()
            return
        self._pump()

    def _reset(self) -> None:
        """Close so that the kernel sends a reset and not an orderly end."""
        peer: socket.socket = self._transport.get_extra_info("socket")
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()

    # The answer out.

    def _pump(self) -> None:
        """Send pieces until the client, the link or the end of the answer says to stop."""
        while (exchange := self._exchange) is not None and exchange.response is not None:
            # A client that has gone takes no more, and that is heard of only after this loop.
            if self._is_paused or exchange.timer is not None or self._transport.is_closing():
                return
            if not exchange.head and exchange.sent == exchange.stop:
                if exchange.ending != "stall":
                    self._finish(exchange)
                return
            self._send_piece(exchange)

    def _send_piece(self, exchange: Exchange) -> None:
        settings = self._state.settings
        is_limited = settings.bandwidth_mib is not None or settings.connection_mib is not None
        nbytes = min(LIMITED_PIECE_NBYTES if is_limited else PIECE_NBYTES, exchange.stop - exchange.sent)
        passed_at = exchange.reserve(nbytes)
        if passed_at is None:
            self._write(exchange, nbytes)
        else:
            exchange.timer = self._loop.call_at(passed_at, self._write_and_pump, exchange, nbytes)

    def _write_and_pump(self, exchange: Exchange, nbytes: int) -> None:
        exchange.timer = None
        self._write(exchange, nbytes)
        self._pump()

    def _write(self, exchange: Exchange, nbytes: int) -> None:
        piece = exchange.read(nbytes)
        if len(piece) != nbytes:
            # The file was cut short in place: what was announced can no longer be sent.
            self._end_exchange(aborted=False)
            self._transport.abort()
            return
        head, exchange.head = exchange.head, b""
        self._transport.write(head + piece if head else piece)
        exchange.count(nbytes)

    def _finish(self, exchange: Exchange) -> None:
        exchange.replace()
        self._end_exchange(aborted=False)
        if exchange.ending == "close":
            self._transport.close()
        elif self._unread:
            # Not called from here: a thousand pipelined requests would be a thousand frames deep.
            self._loop.call_soon(self._serve_next)

    def _end_exchange(self, *, aborted: bool) -> None:
        exchange = self._exchange
        if exchange is None:
            return
        self._exchange = None
        self._is_busy = False
        exchange.end(aborted=aborted)
