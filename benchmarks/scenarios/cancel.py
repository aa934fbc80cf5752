"""A large read that nobody waits for any more: what the caller, the server and the next read see of it."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.cases import Case, Operation, always
from benchmarks.datasets import Dataset
from benchmarks.servers import http_place
from support.servers import RangeServer, Rule

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.cases import Plan, Sample
    from support.web.counters import Stats

    Glance = tuple[float, Stats]
    """What the server had counted, and when on the monotonic clock that was known."""

WATCHED_S = 1.5
"""How long the server is watched after a cancellation: late answers would lead to more requests by then."""

_LATENCY_MS = 10.0
_LATE_MS = 1_000.0
_BEGUN_BYTES = 128 << 10
_GLANCE_S = 0.002


def cancel(plan: Plan) -> Iterator[Case]:
    """Yield a read whose answers are late, and one whose bodies stop midway, each in a new process.

    No request of the large read is answered before it is cancelled, so there are as many in
    flight by then as the contender ever has. The small read goes to the same server, which
    answers that one as usual.
    """
    small = Dataset("fair-small", (128, 128), (64, 64))
    many = Dataset("plain-256", (1024, 1024), (64, 64))
    large = Dataset("large-64", (8 * 512, 8 * 1024), (512, 1024))
    late = Rule(action="delay", path=many.name, delay_ms=_LATE_MS)
    midway = Rule(action="stall", path=large.name, nbytes=_BEGUN_BYTES)
    for dataset in (small, many, large):
        dataset.build(plan.data)
    with RangeServer(Path(plan.data), latency_ms=_LATENCY_MS) as server:
        for layout, name, dataset, rule in (
            ("256 chunks of 8 KiB", "answers 1 s late", many, late),
            ("64 chunks of 1 MiB", "bodies that stop midway", large, midway),
        ):
            read, cancelled = (
                Operation("read", http_place(server), which.paths, which.reference(plan.data))
                for which in (small, dataset)
            )
            yield Case(
                "cancel",
                layout,
                name,
                always(replace(read, after=cancelled)),
                watch=partial(_watch, server, rule),
                latency_ms=_LATENCY_MS,
                fresh=True,
                rounds=1 if plan.quick else 3,
            )


@contextmanager
def _watch(server: RangeServer, rule: Rule) -> Iterator[Sample]:
    """Spoil the large read, and see when the last of its requests has ended and whether any came late."""
    server.config(rules=[rule])
    server.reset_counts()
    glances: list[Glance] = []
    is_over = threading.Event()
    watcher = threading.Thread(target=_look, args=(server, glances, is_over))
    watcher.start()
    sample: Sample = {}
    try:
        yield sample
        cancelled_at = sample.pop("cancelled_at_s", None)
        if cancelled_at is not None:
            time.sleep(max(0.0, cancelled_at + WATCHED_S - time.monotonic()))
    finally:
        is_over.set()
        watcher.join()
        # Those who did not stop are stopped here, as the next sample has the server to itself.
        server.reset()
    if cancelled_at is not None:
        sample |= _aftermath(glances, cancelled_at)


def _look(server: RangeServer, glances: list[Glance], is_over: threading.Event) -> None:
    while not is_over.wait(_GLANCE_S):
        stats = server.stats()
        glances.append((time.monotonic(), stats))


def _aftermath(glances: list[Glance], cancelled_at: float) -> Sample:
    """Return the seconds until no request of the large read was in flight, and how many it sent since."""
    before = [stats for at, stats in glances if at <= cancelled_at]
    after = [(at, stats) for at, stats in glances if at > cancelled_at]
    # The one rule strikes the large read only.
    sent = before[-1]["rule_hits"][0]
    closed = (at for at, stats in after if not stats["in_flight"] or stats["aborted"] == stats["rule_hits"][0])
    return {
        "closed_s": next(closed, cancelled_at + WATCHED_S) - cancelled_at,
        "in_flight_cancelled": before[-1]["in_flight"],
        "sent_since": after[-1][1]["rule_hits"][0] - sent,
    }
