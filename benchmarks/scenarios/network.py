"""The reads and writes that both remote scenarios ask for, at any place and latency."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.cases import AT_ONCE, WHOLE, Case, Operation, Selection
from benchmarks.datasets import Dataset
from benchmarks.pictures import GATHER

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from benchmarks.cases import Place, Plan

_SEED = 4
_PLAIN = Dataset("plain-64", (512, 512), (64, 64))


@dataclass(frozen=True, slots=True)
class Remote:
    """A case that has no place yet.

    Parameters
    ----------
    layout, name
        What the row is called.
    dataset
        What is read, or the metadata of what is written.
    selections
        What is read or written of each array.
    requests
        How many requests a perfect reader needs.
    steps
        How many of them depend on one another: a shard's data on its index.
    arrays
        How many of the data set's arrays are gathered.
    unseen
        Whether each sample goes to an array that its contender has not read before, so
        that no shard index can be remembered.
    increment
        For writes: what is added to the reference; ``None`` for reads.
    quick
        Whether a quick run has the case too.
    """

    layout: str
    name: str
    dataset: Dataset
    selections: tuple[Selection, ...] = (WHOLE,)
    requests: int = 1
    steps: int = 1
    arrays: int = 1
    unseen: bool = False
    increment: int | None = None
    quick: bool = False

    def before(self, put: Callable[[str, bool], None]) -> Callable[[str, int], None]:
        """Return what goes ahead of each sample of a write.

        `put` is called once per contender, with the path of its array and whether there are
        chunks to be overwritten; later samples write over what is there.
        """

        def prepare(contender: str, sample: int) -> None:
            if self.increment is not None and sample == 0:
                put(self._written_by(contender), self.increment > 0)

        return prepare

    def _written_by(self, contender: str) -> str:
        """Return the path of the array that a contender writes."""
        return f"written/{self.dataset.name}-{self.increment}/{contender}"

    def case(self, scenario: str, place: Place, plan: Plan, *, below: str = "") -> Case:
        """Return the case at a place, with its arrays `below` a path there."""

        def operation(contender: str, sample: int) -> Operation:
            paths = self.dataset.paths
            if self.increment is not None:
                arrays: tuple[str, ...] = (self._written_by(contender),)
            elif self.unseen:
                arrays = (paths[sample % len(paths)],)
            else:
                arrays = paths[: self.arrays]
            return Operation(
                "read" if self.increment is None else "write",
                place,
                tuple(f"{below}{path}" for path in arrays),
                self.dataset.reference(plan.data),
                self.selections,
                increment=self.increment or 0,
            )

        return Case(
            scenario,
            self.layout,
            self.name,
            operation,
            arrays=self.arrays,
            round_trips=self.steps * math.ceil(self.requests / AT_ONCE),
            at_once=self.requests if self.increment is None else None,
        )


def remotes(plan: Plan) -> Iterator[Remote]:
    """Yield the cases, with their data built below ``plan.data``."""
    for remote in (*_plain(), *_shards(plan.rounds + 1), *_gathers(), *_writes()):
        if remote.quick or not plan.quick:
            remote.dataset.build(plan.data)
            yield remote


def _plain() -> Iterator[Remote]:
    """Yield reads of whole arrays in plain chunks."""
    small = "8 KiB chunks"
    yield Remote(small, "64 chunks", _PLAIN, requests=64, quick=True)
    thousand = Dataset("plain-1000", (25 * 64, 40 * 64), (64, 64))
    yield Remote(small, "1,000 chunks", thousand, requests=1_000)
    missing = Dataset("missing-64", (512, 512), (64, 64), stored=False)
    yield Remote(small, "64 missing chunks", missing, requests=64, quick=True)
    large = Dataset("large-64", (8 * 512, 8 * 1024), (512, 1024))
    yield Remote("1 MiB chunks", "64 chunks", large, requests=64)


def _shards(copies: int) -> Iterator[Remote]:
    """Yield reads of whole shards and of their parts."""
    one = Dataset("shard", (2048, 2048), (32, 32), (2048, 2048), copies)
    middle = Selection("basic", (slice(10 * 32, 50 * 32), slice(13 * 32, 53 * 32)))
    part = Remote(
        "shard of 64×64",
        "40×40 subchunks",
        one,
        (middle,),
        steps=2,
        unseen=True,
        quick=True,
    )
    yield part
    yield replace(part, name="the same again", steps=1, unseen=False, quick=False)
    many = Dataset("shards-16", (1024, 1024), (32, 32), (256, 256), copies)
    rng = np.random.default_rng(_SEED)
    points = Selection("points", tuple(tuple(rng.integers(1024, size=200).tolist()) for _ in range(2)))
    whole = Remote("16 shards of 8×8", "whole shards", many, requests=16, unseen=True)
    yield whole
    yield replace(whole, name="200 points", selections=(points,), steps=2, quick=True)


def _gathers() -> Iterator[Remote]:
    """Yield gathers over more and more small arrays."""
    dataset = Dataset("many", (256, 256), (64, 64), copies=64)
    for arrays in (1, 4, 16, 64):
        yield Remote(
            "8 KiB chunks",
            f"{arrays} {GATHER}",
            dataset,
            requests=16 * arrays,
            arrays=arrays,
            quick=arrays in {1, 4},
        )


def _writes() -> Iterator[Remote]:
    """Yield a write of whole chunks, and one that has to read them first."""
    whole = Remote("8 KiB chunks", "write 64 chunks", _PLAIN, requests=64, increment=0, quick=True)
    yield whole
    yield replace(
        whole,
        name="write [::2, ::2] of 64 chunks",
        selections=(Selection("basic", (slice(None, None, 2),) * 2),),
        steps=2,
        increment=1,
        quick=False,
    )
