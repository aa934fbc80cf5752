"""Counts and the log of requests, and the conditions on them that clients wait for."""

from __future__ import annotations

from collections import Counter, deque
from typing import TYPE_CHECKING, TypedDict

if TYPE_CHECKING:
    from collections.abc import Callable

    from .message import Request

LOG_LENGTH = 20_000


class Logged(TypedDict):
    """One request in the log, in the order of arrival.

    `status` is None until the head of the answer is sent, `nbytes` counts the bytes of the body that were sent,
    `aborted` says that the client went away first, `connection` numbers the connections, and `headers` are names only.
    """

    method: str
    path: str
    range: str | None
    if_match: str | None
    if_none_match: str | None
    status: int | None
    nbytes: int
    aborted: bool
    connection: int
    headers: list[str]


class Stats(TypedDict):
    """The counts since the last reset; bytes are those of bodies only.

    A request is in flight from when it has arrived to when the last byte of its answer is handed to the kernel,
    and aborted if its connection is lost in between.
    """

    requests: int
    methods: dict[str, int]
    answered: int
    aborted: int
    in_flight: int
    in_flight_max: int
    held: int
    bytes_sent: int
    bytes_received: int
    connections_opened: int
    connections_open: int
    connections_open_max: int
    rule_hits: list[int]


class Counters:
    """All counts of one server; every change wakes the conditions that have become true."""

    def __init__(self) -> None:
        self.in_flight = 0
        self.connections_open = 0
        self._waiters: dict[object, tuple[Callable[[], bool], Callable[[], None]]] = {}
        self.reset()

    def reset(self) -> None:
        """Count from here; what is in flight or open now stays so."""
        self.methods: Counter[str] = Counter()
        self.answered = 0
        self.aborted = 0
        self.bytes_sent = 0
        self.bytes_received = 0
        self.in_flight_max = self.in_flight
        self.connections_opened = 0
        self.connections_open_max = self.connections_open
        self.log: deque[Logged] = deque(maxlen=LOG_LENGTH)

    def arrive(self, request: Request, connection: int) -> Logged:
        """Count a request and return its place in the log."""
        self.methods[request.method] += 1
        self.bytes_received += len(request.body)
        self.in_flight += 1
        self.in_flight_max = max(self.in_flight_max, self.in_flight)
        headers = request.headers
        logged: Logged = {
            "method": request.method,
            "path": request.path,
            "range": headers.get("range"),
            "if_match": headers.get("if-match"),
            "if_none_match": headers.get("if-none-match"),
            "status": None,
            "nbytes": 0,
            "aborted": False,
            "connection": connection,
            "headers": sorted(headers),
        }
        self.log.append(logged)
        self.changed()
        return logged

    def leave(self, logged: Logged, *, aborted: bool) -> None:
        """Count a request that is answered, or whose client has gone."""
        self.in_flight -= 1
        if aborted:
            self.aborted += 1
            logged["aborted"] = True
        else:
            self.answered += 1
        self.changed()

    def sent(self, logged: Logged, nbytes: int) -> None:
        """Count bytes of a body."""
        self.bytes_sent += nbytes
        logged["nbytes"] += nbytes
        self.changed()

    def opened(self) -> None:
        """Count a connection."""
        self.connections_opened += 1
        self.connections_open += 1

    def used(self) -> None:
        """Note that a connection carries requests, so that it is none of the control plane's."""
        self.connections_open_max = max(self.connections_open_max, self.connections_open)

    def is_control(self) -> None:
        """Take a connection back out of the counts: it belongs to the control plane."""
        self.connections_opened = max(0, self.connections_opened - 1)
        self.connections_open -= 1

    def closed(self) -> None:
        """Count a connection that has ended."""
        self.connections_open -= 1
        self.changed()

    def when(self, condition: Callable[[], bool], then: Callable[[], None]) -> object:
        """Call `then` as soon as `condition` holds, once; the result is for `forget`."""
        waiter = object()
        self._waiters[waiter] = (condition, then)
        self.changed()
        return waiter

    def forget(self, waiter: object) -> None:
        """Wait for a condition no longer."""
        self._waiters.pop(waiter, None)

    def changed(self) -> None:
        """Wake every condition that has become true."""
        if self._waiters:
            for waiter, (condition, then) in list(self._waiters.items()):
                if condition():
                    self.forget(waiter)
                    then()
