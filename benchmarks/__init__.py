"""Ways to read and write Zarr from asyncio, measured side by side.

``python -m benchmarks`` (from the root of the repository) flows top to bottom through
the files of this package::

    scenarios/   what is measured: cases, each an operation on arrays at a place
    datasets     the arrays, written once, with a NumPy reference beside them
    runner       case after case, round after round, contenders in random order
    worker       one process per contender: does an operation, verifies
    measure      what that took: time, CPU, lag of the loop, memory
    contenders   which library, which pipeline, which settings
    clients      how each library opens, reads and writes one array
    libraries    what xarray, anndata and annbatch do with whole data sets
    slow_files   a file system where opening takes long
    figures      medians set against one another
    verdicts     whether ours reach their goals
    report, tables, pictures   what a run leaves behind

`instructions` stands apart: it counts those of the engine alone, for CI.

Every contender runs as it comes, with its own defaults, because that is what its user
gets; ``--contenders`` also knows variants with more requests allowed in flight.
"""

from __future__ import annotations

import sys
from pathlib import Path

# The servers are those of the tests, which are no package that could be installed.
sys.path.append(str(Path(__file__).parents[1] / "tests"))
