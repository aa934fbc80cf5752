"""The same chunks again and again, a little of each: slabs, a window that slides, tiles, a map that is panned."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.cases import Case, Operation, Place, Selection
from benchmarks.datasets import Dataset
from benchmarks.servers import http_place, watch
from support.servers import RangeServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from benchmarks.cases import Plan

_LATENCY_MS = 10.0
_CONNECTION_MIB = 25.0
_TILE = 256


def slabs(plan: Plan) -> Iterator[Case]:
    """Yield reads of a volume on disk, and of maps over HTTP, one after the other.

    A sample has an array that its contender has not read before, so that what it finds
    kept is of the same sample; only tiles that are read again are those of the last one.
    """
    copies = plan.rounds + 1
    volume = Dataset("slabs", (128, 512, 512), (64, 64, 64), copies=copies)
    yield from _volume(plan, volume)
    chunks = Dataset("map", (4096, 4096), (_TILE, _TILE), copies=copies)
    shards = Dataset("map-sharded", (4096, 4096), (64, 64), (2048, 2048), copies)
    for dataset in (chunks, shards):
        dataset.build(plan.data)
    with RangeServer(Path(plan.data)) as server:
        for layout, dataset, connection_mib in (
            ("256² chunks", chunks, None),
            ("2048² shards of 64²", shards, None),
            ("2048² shards of 64², 25 MiB/s", shards, _CONNECTION_MIB),
        ):
            server.serve(Path(plan.data))
            server.config(latency_ms=_LATENCY_MS, connection_mib=connection_mib)
            for case in _map(plan, layout, dataset, http_place(server)):
                yield case(watch=partial(watch, server), latency_ms=_LATENCY_MS)


def _volume(plan: Plan, dataset: Dataset) -> Iterator[Case]:
    dataset.build(plan.data)
    rows, _, columns = dataset.shape
    everything = slice(None)
    some = rows // 4 if plan.quick else rows // 2
    cases = {
        "slabs of 6 rows": [slice(at, min(at + 6, rows)) for at in range(0, rows, 6)],
        "slabs of 1 row": [slice(at, at + 1) for at in range(some)],
    }
    place = Place("local", plan.data)
    for name, slices in cases.items():
        selections = tuple(Selection("basic", (at, everything, everything)) for at in slices)
        yield _case("64³ chunks", name, _read(plan, dataset, place, selections))()
    window = tuple(
        Selection("basic", (slice(21, 85), slice(21, 85), slice(at, at + 64))) for at in range(0, columns - 64, 16)
    )
    yield _case("64³ chunks", "a 64³ window that slides by 16", _read(plan, dataset, place, window))()


def _map(plan: Plan, layout: str, dataset: Dataset, place: Place) -> Iterator[Callable[..., Case]]:
    """Yield a map of 3×3 tiles that is panned by a quarter of a tile, and nine tiles that are read again."""
    tiles = tuple(
        Selection("basic", (slice(100 + down, 100 + down + _TILE), slice(100 + right, 100 + right + _TILE)))
        for down in range(0, 3 * _TILE, _TILE)
        for right in range(0, 3 * _TILE, _TILE)
    )
    views = tuple(
        Selection("basic", (slice(1900, 1900 + 3 * _TILE), slice(right, right + 3 * _TILE)))
        for right in range(100, 100 + 16 * _TILE // 4, _TILE // 4)
    )
    yield _case(layout, "a map that is panned", _read(plan, dataset, place, views))
    yield _case(layout, "the same nine tiles again", _read(plan, dataset, place, tiles, again=True))


def _case(layout: str, name: str, operation: Callable[[str, int], Operation]) -> Callable[..., Case]:
    return partial(Case, "slabs", layout, name, operation)


def _read(
    plan: Plan,
    dataset: Dataset,
    place: Place,
    selections: tuple[Selection, ...],
    *,
    again: bool = False,
) -> Callable[[str, int], Operation]:
    """Return the reads of a sample: in turn, of an array of its own; or at once, of the one that all samples have."""

    def operation(_contender: str, sample: int) -> Operation:
        paths = dataset.paths
        path = paths[0 if again else sample % len(paths)]
        return Operation("read", place, (path,), dataset.reference(plan.data), selections, together=0 if again else 1)

    return operation
