"""A local disk, out of the page cache: what remains is decoding, files and Python."""

from __future__ import annotations

import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.cases import WHOLE, Case, Operation, Place, Selection, always
from benchmarks.datasets import Dataset, copy_array

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.cases import Plan

_SEED = 3
_BOX = 32


def local(plan: Plan) -> Iterator[Case]:
    """Yield whole, strided, small and gathered reads, and writes, on three layouts."""
    size = 256 if plan.quick else 512
    for layout, chunk, shard in (
        ("32³ chunks", 32, None),
        ("128³ chunks", 128, None),
        ("128³ shards of 32³", 32, 128),
    ):
        dataset = Dataset(
            name=f"local-{size}-{chunk}-{shard or 'plain'}",
            shape=(size,) * 3,
            chunks=(chunk,) * 3,
            shards=None if shard is None else (shard,) * 3,
        )
        dataset.build(plan.data)
        yield from _reads(plan, layout, dataset)
        yield from _writes(plan, layout, dataset)


def _reads(plan: Plan, layout: str, dataset: Dataset) -> Iterator[Case]:
    rng = np.random.default_rng(_SEED)
    size = dataset.shape[0]
    everything = slice(None)
    rows = tuple(rng.choice(size, size=100, replace=False).tolist())
    boxes = rng.integers(size - _BOX, size=(50 if plan.quick else 500, 3)).tolist()
    cases = {
        "whole read": (WHOLE,),
        "100 random rows": (Selection("orthogonal", (rows, everything, everything)),),
        "[::2, ::2, ::2]": (Selection("basic", (slice(None, None, 2),) * 3),),
        "64³ read": (_middle(size),),
        f"{len(boxes)} gathered {_BOX}³ reads": tuple(
            Selection("basic", tuple(slice(at, at + _BOX) for at in box)) for box in boxes
        ),
    }
    for name, selections in cases.items():
        operation = Operation(
            "read",
            Place("local", plan.data),
            dataset.paths,
            dataset.reference(plan.data),
            selections,
        )
        yield Case("local", layout, name, always(operation))


def _writes(plan: Plan, layout: str, dataset: Dataset) -> Iterator[Case]:
    """Yield writes, each contender's to an array of its own."""
    yield from whole_write("local", layout, dataset, plan)
    scratch = _scratch(dataset, plan, 1)
    yield Case(
        "local",
        layout,
        "64³ overwrite",
        partial(_own, _write(dataset, plan, scratch, _middle(dataset.shape[0]), 1)),
        before=partial(_full, Path(plan.data, dataset.paths[0]), scratch),
    )
    shutil.rmtree(scratch)


def whole_write(scenario: str, layout: str, dataset: Dataset, plan: Plan) -> Iterator[Case]:
    """Yield a write of the whole array, whose files are new each time."""
    scratch = _scratch(dataset, plan, 0)
    yield Case(
        scenario,
        layout,
        "whole write",
        partial(_own, _write(dataset, plan, scratch, WHOLE, 0)),
        before=partial(_empty, Path(plan.data, dataset.paths[0]), scratch),
    )
    shutil.rmtree(scratch)


def _scratch(dataset: Dataset, plan: Plan, increment: int) -> Path:
    return Path(plan.data, "scratch", f"{dataset.name}-{increment}")


def _write(dataset: Dataset, plan: Plan, scratch: Path, selection: Selection, increment: int) -> Operation:
    return Operation(
        "write",
        Place("local", str(scratch)),
        ("the contender's",),
        dataset.reference(plan.data),
        (selection,),
        increment=increment,
    )


def _own(write: Operation, contender: str, _sample: int) -> Operation:
    return replace(write, arrays=(contender,))


def _empty(source: Path, scratch: Path, contender: str, _sample: int) -> None:
    """Have each sample create its files anew."""
    copy_array(source, scratch / contender, chunks=False)


def _full(source: Path, scratch: Path, contender: str, sample: int) -> None:
    """Have something to overwrite; later samples write the same over it again."""
    if sample == 0:
        copy_array(source, scratch / contender)


def _middle(size: int) -> Selection:
    """Return a 64³ box that no chunk boundary is aligned with."""
    return Selection("basic", (slice(size // 2 - 21, size // 2 + 43),) * 3)
