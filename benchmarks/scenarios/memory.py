"""Peak memory above the output: what is in flight, decoded or forgotten."""

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

_LATENCY_MS = 30.0


def memory(plan: Plan) -> Iterator[Case]:
    """Yield one read of 64 large chunks, over HTTP and on disk, each in a new process.

    The chunks of 64 MiB, 4 GiB in all, are only for ``--full``.
    """
    side = 4 if plan.quick else 8
    mebibytes = 64 if plan.full else 4
    chunk = (mebibytes * 256, 2048)
    dataset = Dataset(f"memory-{side}-{mebibytes}", (side * chunk[0], side * chunk[1]), chunk)
    primer = Dataset("plain-64", (512, 512), (64, 64))
    for needed in (dataset, primer):
        needed.build(plan.data)
    layout = f"{mebibytes} MiB chunks"
    with RangeServer(Path(plan.data), latency_ms=_LATENCY_MS) as server:
        places = {"HTTP": http_place(server), "local disk": Place("local", plan.data)}
        for name, place in islice(places.items(), 1 if plan.quick else None):
            operation = Operation(
                "read",
                place,
                dataset.paths,
                dataset.reference(plan.data),
                primer=primer.paths[0],
            )
            yield Case(
                "memory",
                layout,
                f"{side * side} chunks, {name}",
                always(operation),
                latency_ms=_LATENCY_MS if name == "HTTP" else 0.0,
                fresh=True,
                rounds=1 if plan.quick or plan.full else 3,
            )
