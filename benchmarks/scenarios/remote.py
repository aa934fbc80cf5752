"""Plain HTTP at several latencies: the cost of each wait that was not needed."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.datasets import copy_array
from benchmarks.scenarios.network import remotes
from benchmarks.servers import http_place, watch
from support.servers import RangeServer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.cases import Case, Plan


def remote(plan: Plan) -> Iterator[Case]:
    """Yield each case at each latency, with the requests that the server saw."""
    latencies = (0.0, 10.0) if plan.quick else (0.0, 10.0, 30.0, 100.0)
    root = Path(plan.data)
    with RangeServer(root) as server:
        for job in remotes(plan):
            for latency_ms in latencies:
                # A new URL: what was remembered at one latency is unknown at the next.
                server.serve(root)
                server.config(latency_ms=latency_ms)
                yield replace(
                    job.case("remote", http_place(server), plan),
                    latency_ms=latency_ms,
                    before=job.before(partial(_put, root / job.dataset.paths[0], root)),
                    watch=partial(watch, server),
                )


def _put(source: Path, root: Path, target: str, chunks: bool) -> None:  # noqa: FBT001 - as `before` calls it
    copy_array(source, root / target, chunks=chunks)
