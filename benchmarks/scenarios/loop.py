"""How late the event loop is for everybody else while an array is being read."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.cases import Case, Operation, Place, always
from benchmarks.datasets import Dataset
from benchmarks.servers import http_place, watch
from support.servers import RangeServer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.cases import Plan

_LATENCY_MS = 100.0


def loop(plan: Plan) -> Iterator[Case]:
    """Yield a slow remote read, the same of a shard's part, and two large local reads."""
    plain = Dataset("plain-64", (512, 512), (64, 64))
    shard = Dataset("shard", (2048, 2048), (32, 32), (2048, 2048))
    with RangeServer(Path(plan.data), latency_ms=_LATENCY_MS) as server:
        for layout, dataset, name in (
            ("8 KiB chunks", plain, "64 chunks"),
            ("shard of 64×64", shard, "whole shard"),
        ):
            yield Case(
                "loop",
                layout,
                name,
                always(_read(plan, http_place(server), dataset)),
                watch=partial(watch, server),
                latency_ms=_LATENCY_MS,
            )
    size = 256 if plan.quick else 512
    for layout, chunk, shards in (("32³ chunks", 32, None), ("128³ shards of 32³", 32, 128)):
        dataset = Dataset(
            f"local-{size}-{chunk}-{shards or 'plain'}",
            (size,) * 3,
            (chunk,) * 3,
            None if shards is None else (shards,) * 3,
        )
        operation = _read(plan, Place("local", plan.data), dataset)
        yield Case("loop", layout, "whole local read", always(operation))


def _read(plan: Plan, place: Place, dataset: Dataset) -> Operation:
    dataset.build(plan.data)
    return Operation("read", place, dataset.paths, dataset.reference(plan.data), heartbeat=True)
