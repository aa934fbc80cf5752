"""What all connections of a server share: settings, what is served, rules, gate, link and counts."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Protocol

from . import site
from .cloud import Cloud
from .counters import Counters, Stats
from .files import Directory
from .rules import Rulebook, spoiled_answer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from .message import Request, Response


@dataclass(frozen=True, slots=True)
class Settings:
    """What can be changed while the server runs.

    Parameters
    ----------
    latency_ms
        Milliseconds from the arrival of a request to its answer.
    bandwidth_mib
        MiB per second that all answers share; None is without limit.
    connection_mib
        MiB per second that the answers on one connection share; None is without limit.
    require_header
        ``Name: value`` without which a request is answered 401.
    """

    latency_ms: float = 0.0
    bandwidth_mib: float | None = None
    connection_mib: float | None = None
    require_header: str | None = None


class Gate:
    """Holds the answers to matching requests until they are let go."""

    def __init__(self) -> None:
        self._path: re.Pattern[str] | None = None
        self._method: str | None = None
        self._held: dict[object, Callable[[], None]] = {}

    def __len__(self) -> int:
        """Return how many answers are held."""
        return len(self._held)

    def hold(self, path: str, method: str | None) -> None:
        """Hold the answers to requests that match from now on."""
        self._path = re.compile(path)
        self._method = method

    def holds(self, request: Request) -> bool:
        """Whether the answer to this request has to wait."""
        if self._path is None or self._method not in (None, request.method):
            return False
        return self._path.search(request.path) is not None

    def add(self, owner: object, answer: Callable[[], None]) -> None:
        """Keep an answer until it is let go."""
        self._held[owner] = answer

    def forget(self, owner: object) -> None:
        """Drop an answer nobody waits for any more."""
        self._held.pop(owner, None)

    def release(self, count: int | None = None) -> None:
        """Let the `count` oldest answers go and hold on, or let all go and hold no more."""
        if count is None:
            self._path = None
        for owner in list(self._held)[:count]:
            # One answer may close other connections, and so take their answers out of the gate.
            answer = self._held.pop(owner, None)
            if answer is not None:
                answer()


class Link:
    """A wire of limited bandwidth that answers share, first come, first served."""

    def __init__(self, bandwidth_mib: float | None) -> None:
        self._bytes_per_s = None if bandwidth_mib is None else bandwidth_mib * 2**20
        self._free_at = 0.0

    def reserve(self, nbytes: int, now: float) -> float | None:
        """When the last of `nbytes` bytes has passed, on the clock of `now`; None is at once."""
        if self._bytes_per_s is None:
            return None
        self._free_at = max(now, self._free_at) + nbytes / self._bytes_per_s
        return self._free_at


class Droppable(Protocol):
    """A connection, as far as this module knows it."""

    def drop(self) -> None:
        """End the connection at once, if it is not the control plane's."""


class Objects(Protocol):
    """What is served, as rules change it."""

    def put(self, path: str, content: bytes) -> None:
        """Store `content` at `path`."""

    def delete(self, path: str) -> None:
        """Remove what is at `path`."""


class State:
    """One server's state.

    Parameters
    ----------
    root
        Directory to serve.
    settings
        Where `reset` returns to.
    """

    def __init__(self, root: Path, settings: Settings) -> None:
        self._initial = settings
        self.connections: set[Droppable] = set()
        self.counters = Counters()
        self.gate = Gate()
        self.serve(root, "")

    def serve(self, root: Path, mount: str) -> None:
        """Serve another directory at ``/{mount}/``, with nothing left of what was before."""
        directory = Directory(root)
        self._mount(mount, directory, partial(site.answer, directory=directory))

    def serve_cloud(self, mount: str, modulus: int) -> None:
        """Serve GCS and Azure at ``/{mount}/``, empty, for the service account whose RSA key has this modulus."""
        cloud = Cloud(modulus, self._answer_part)
        self._mount(mount, cloud, cloud.answer)

    def _mount(self, mount: str, objects: Objects, answer: Callable[[Request], Response]) -> None:
        self.mount = f"{mount}/" if mount else ""
        self.objects = objects
        self.answer = answer
        self.reset()

    def _answer_part(self, request: Request, answer: Callable[[Request], Response]) -> Response:
        struck = {rule.action: rule for rule in reversed(self.rules.strike(request))}
        return spoiled_answer(request, struck, answer)

    def reset(self) -> None:
        """Return to the first settings, no rules and no holds; end all connections; count from here."""
        self.configure(self._initial)
        self.rules = Rulebook([])
        for connection in list(self.connections):
            connection.drop()
        self.gate.release()
        self.counters.reset()

    def configure(self, settings: Settings) -> None:
        """Follow `settings` from the next request on."""
        self.settings = settings
        self.link = Link(settings.bandwidth_mib)

    def change(self, **changes: object) -> None:
        """Change some of the settings, by name."""
        self.configure(dataclasses.replace(self.settings, **changes))  # type: ignore[arg-type]  # checked by the control plane

    def stats(self) -> Stats:
        """Return all counts."""
        counters = self.counters
        return {
            "requests": counters.methods.total(),
            "methods": dict(counters.methods),
            "answered": counters.answered,
            "aborted": counters.aborted,
            "in_flight": counters.in_flight,
            "in_flight_max": counters.in_flight_max,
            "held": len(self.gate),
            "bytes_sent": counters.bytes_sent,
            "bytes_received": counters.bytes_received,
            "connections_opened": counters.connections_opened,
            "connections_open": counters.connections_open,
            "connections_open_max": counters.connections_open_max,
            "rule_hits": self.rules.hits,
        }
