"""One counted request, from its arrival to the end of its answer, whatever protocol carries it."""

from __future__ import annotations

import asyncio
import contextlib
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from .message import Request, Response
from .rules import spoiled_answer
from .state import Link

if TYPE_CHECKING:
    from collections.abc import Callable

    from .state import State

# Timers are late by up to a few milliseconds; an answer that is being sent gets that much back from the link.
LATENESS_S = 0.01


class Exchange:
    """A request that is counted, delayed and answered as the state of the server wants it.

    Parameters
    ----------
    state
        What the connections of the server share.
    request
        The request, complete with its body.
    connection
        Number of the connection, for the log.
    """

    def __init__(self, state: State, request: Request, connection: int) -> None:
        self._state = state
        self._loop = asyncio.get_running_loop()
        if state.mount:
            # What is not below the mount cannot be found: no file has a leading slash.
            inside = request.path.startswith(state.mount)
            request.path = request.path.removeprefix(state.mount) if inside else f"/{request.path}"
        self.request = request
        self.struck = {rule.action: rule for rule in reversed(state.rules.strike(request))}
        self.response: Response | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.head = b""
        self.sent = 0
        self.stop = 0
        self.ending: Literal["keep", "close", "stall"] = "keep"
        self._passed_at: float | None = None
        # A connection carries one answer at a time.
        self._wire = Link(state.settings.connection_mib)
        self._logged = state.counters.arrive(request, connection)

    def after_delay(self, then: Callable[[], None]) -> None:
        """Call `then` after the latency that this request has."""
        delay = self.struck.get("delay")
        latency_ms = self._state.settings.latency_ms if delay is None else delay.delay_ms
        if latency_ms > 0:
            self.timer = self._loop.call_later(latency_ms / 1000, then)
        else:
            then()

    def after_gate(self, then: Callable[[], None]) -> None:
        """Call `then` as soon as the gate lets this request go."""
        self.timer = None
        if self._state.gate.holds(self.request):
            self._state.gate.add(self, then)
            self._state.counters.changed()
        else:
            then()

    def start(self) -> None:
        """Have the answer ready to be sent, cut short where a rule says so."""
        if self._is_authorized():
            self.response = spoiled_answer(self.request, self.struck, self._state.answer)
        else:
            self.response = Response(HTTPStatus.UNAUTHORIZED, {"WWW-Authenticate": "Basic"})
        self.head = self.response.head()
        self.stop = self.response.body.nbytes if self.response.has_body else 0
        self._logged["status"] = self.response.status
        cut = self.struck.get("truncate") or self.struck.get("stall")
        if cut is not None:
            self.stop = min(self.stop, cut.nbytes)
            self.ending = "close" if cut.action == "truncate" else "stall"
        elif self.request.wants_close or not self.response.has_length or "Content-Length" in self.response.headers:
            self.ending = "close"

    def reserve(self, nbytes: int) -> float | None:
        """When the next `nbytes` bytes have passed wire and link, on the loop's clock; None is at once."""
        now = self._loop.time()
        if self._passed_at is not None:
            now = max(self._passed_at, now - LATENESS_S)
        passed = (link.reserve(nbytes, now) for link in (self._wire, self._state.link))
        self._passed_at = max((at for at in passed if at is not None), default=None)
        return self._passed_at

    def read(self, nbytes: int) -> bytes:
        """Return the next bytes of the body: fewer than asked for only if the file was cut short."""
        if self.response is None or not nbytes:
            return b""
        return self.response.body.read(self.sent, self.sent + nbytes)

    def count(self, nbytes: int) -> None:
        """Note that the next `nbytes` bytes of the body are on their way."""
        self.sent += nbytes
        self._state.counters.sent(self._logged, nbytes)

    def replace(self) -> None:
        """Replace or delete what was just answered with, if a rule says so."""
        rule = self.struck.get("replace")
        if rule is None:
            return
        path = rule.target or self.request.path
        if rule.source is not None:
            self._state.objects.put(path, Path(rule.source).read_bytes())
        else:
            with contextlib.suppress(FileNotFoundError):
                self._state.objects.delete(path)

    def end(self, *, aborted: bool) -> None:
        """Free what is held, and count the request as answered or aborted; once."""
        if self.timer is not None:
            self.timer.cancel()
        if self.response is not None:
            self.response.body.close()
        self._state.gate.forget(self)
        self._state.counters.leave(self._logged, aborted=aborted)

    def _is_authorized(self) -> bool:
        required = self._state.settings.require_header
        if required is None:
            return True
        name, _, value = required.partition(":")
        return self.request.headers.get(name.strip().lower()) == value.strip()
