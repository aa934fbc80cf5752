"""Training on single cells with annbatch: one batch has hundreds of short runs of rows of the same shards."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.cases import Case, Operation, Place, always
from benchmarks.libraries import Annbatch, keep, reference_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.cases import Plan

_SEED = 5
_ROWS = (1, 8, 64, 512)
_GENES = 2_000
_EXPRESSED = 0.05


def annbatch(plan: Plan) -> Iterator[Case]:
    """Yield an epoch of all cells, drawn by runs of 1 to 512 rows, of a sparse and of a dense matrix."""
    cells = 8_192 if plan.quick else 32_768
    folder = Path(plan.data, "annbatch")
    folder.mkdir(exist_ok=True)
    for kind in ("sparse", "dense"):
        path = folder / f"{kind}-{cells}"
        if not path.exists():
            keep(Annbatch(1, kind), _cells(cells, kind), path)
        for rows in _ROWS:
            operation = Operation(
                "read", Place("local", str(folder)), (path.name,), str(reference_of(path)), library=Annbatch(rows, kind)
            )
            yield Case("annbatch", f"{cells:,} {kind} cells", f"{rows} rows a request", always(operation))


def _cells(count: int, kind: str) -> Any:
    """Return counts of genes in cells: small integers, most of them zero."""
    import anndata  # noqa: PLC0415 - slow to import
    from scipy import sparse  # noqa: PLC0415 - slow to import

    rng = np.random.default_rng(_SEED)
    genes = _GENES if kind == "sparse" else _GENES // 4
    counts = (rng.geometric(0.4, size=(count, genes)) * (rng.random((count, genes)) < _EXPRESSED)).astype(np.float32)
    return anndata.AnnData(X=sparse.csr_matrix(counts) if kind == "sparse" else counts)
