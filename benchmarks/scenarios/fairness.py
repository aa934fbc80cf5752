"""A small read beside a huge one: whether it has to queue behind all of it."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.cases import Case, Operation, Place, always
from benchmarks.datasets import Dataset
from benchmarks.servers import http_place
from support.servers import RangeServer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.cases import Plan

_LATENCY_MS = 10.0


def fairness(plan: Plan) -> Iterator[Case]:
    """Yield a read of 4 chunks beside one of 10,000 chunks, over HTTP and on disk."""
    side = 50 if plan.quick else 100
    small = Dataset("fair-small", (128, 128), (64, 64))
    large = Dataset(f"fair-large-{side}", (side * 32, side * 32), (32, 32))
    for dataset in (small, large):
        dataset.build(plan.data)
    with RangeServer(Path(plan.data), latency_ms=_LATENCY_MS) as server:
        places = {"HTTP": http_place(server), "local disk": Place("local", plan.data)}
        for name, place in islice(places.items(), 1 if plan.quick else None):
            yield Case(
                "fairness",
                name,
                f"4 chunks beside {side * side:,}",
                always(_beside(plan, place, small, large)),
                latency_ms=_LATENCY_MS if name == "HTTP" else 0.0,
                fresh=True,
                rounds=1 if plan.quick else 3,
            )


def _beside(plan: Plan, place: Place, small: Dataset, large: Dataset) -> Operation:
    return Operation(
        "read",
        place,
        small.paths,
        small.reference(plan.data),
        beside=Operation("read", place, large.paths, large.reference(plan.data)),
    )
