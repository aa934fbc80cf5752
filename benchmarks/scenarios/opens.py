"""Files that are slow to open, as on Lustre and NFS: how often a gather over many shards opens them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.cases import Case, Operation, Place, Selection, always
from benchmarks.datasets import Dataset
from benchmarks.slow_files import slow_files

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.cases import Plan

_SEED = 6
_SHARDS = 128
_ROWS = 64
_BOX = 16


def opens(plan: Plan) -> Iterator[Case]:
    """Yield 512 boxes of 128 shards, gathered once and four times over, each in a new process."""
    dataset = Dataset("opens", (_SHARDS * _ROWS, _ROWS), (_BOX, _BOX), (_ROWS, _ROWS))
    primer = Dataset("plain-64", (512, 512), (64, 64))
    for needed in (dataset, primer):
        needed.build(plan.data)
    rng = np.random.default_rng(_SEED)
    boxes = []
    for shard in range(_SHARDS):
        for down, right in rng.integers(_ROWS - _BOX, size=(4, 2)).tolist():
            rows = shard * _ROWS + down
            boxes.append(Selection("basic", (slice(rows, rows + _BOX), slice(right, right + _BOX))))
    with slow_files(Path(plan.data)) as files:
        for name, times in (("512 gathered 16² reads", 1), ("the same four times", 4)):
            operation = Operation(
                "read",
                Place("local", plan.data),
                dataset.paths,
                dataset.reference(plan.data),
                tuple(boxes) * times,
                together=len(boxes),
                primer=primer.paths[0],
            )
            yield Case(
                "opens",
                f"{_SHARDS} shards, 1 ms each open and stat",
                name,
                always(operation),
                watch=files.watch,
                fresh=True,
            )
