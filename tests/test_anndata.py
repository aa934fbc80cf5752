"""AnnData, untouched: what it writes and reads with our pipeline is what it does with zarr's default one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd  # type: ignore[import-untyped]
import pytest
import zarr
from oracle import DEFAULT, OURS

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType

anndata = pytest.importorskip("anndata")
sparse = pytest.importorskip("scipy.sparse")
pytestmark = pytest.mark.filterwarnings("ignore")  # its own, and those of the formats it chooses


def annotated() -> Any:
    """Give a sparse matrix with strings, categories, gaps and nested values."""
    counts = np.arange(35, dtype="f4").reshape(5, 7) % 3
    cells = pd.DataFrame(
        {
            "kind": pd.Categorical(["B", "T", "B", "żółty", "T"]),
            "note": ["", "long " * 40, "x", "日本", "y"],
            "age": pd.array([1, None, 3, 4, 5], dtype="Int64"),
            "kept": [True, False, True, True, False],
        },
        index=[f"cell {cell}" for cell in range(5)],
    )
    return anndata.AnnData(
        X=sparse.csr_matrix(counts),
        obs=cells,
        var=pd.DataFrame(index=[f"gene {gene}" for gene in range(7)]),
        obsm={"place": np.arange(10.0).reshape(5, 2)},
        layers={"dense": counts},
        uns={"title": "cells", "half": 0.5, "names": np.array(["a", "bc"], dtype=object)},
    )


def assert_same(found: Any, expected: Any) -> None:
    """Compare all that `annotated` fills; of strings and gaps pandas has several kinds."""
    assert found.obs.to_dict() == expected.obs.to_dict()
    assert found.obs_names.tolist() == expected.obs_names.tolist()
    assert found.var_names.tolist() == expected.var_names.tolist()
    np.testing.assert_array_equal(found.X.toarray(), expected.X.toarray())
    np.testing.assert_array_equal(found.obsm["place"], expected.obsm["place"])
    np.testing.assert_array_equal(found.layers["dense"], expected.layers["dense"])
    assert found.uns.keys() == expected.uns.keys()
    assert found.uns["title"] == "cells"
    assert found.uns["half"] == 0.5
    assert found.uns["names"].tolist() == ["a", "bc"]


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize(
    ("writer", "reader"), [(OURS, DEFAULT), (DEFAULT, OURS), (OURS, OURS)], ids=["writes", "reads", "both"]
)
def test_anndata_writes_and_reads(
    native: ModuleType, tmp_path: Path, writer: str, reader: str, zarr_format: int
) -> None:
    expected, before = annotated(), native.stats()["batches"]
    with zarr.config.set({"codec_pipeline.path": writer}), anndata.settings.override(zarr_write_format=zarr_format):
        expected.write_zarr(tmp_path / "cells.zarr")
    with zarr.config.set({"codec_pipeline.path": reader}):
        assert_same(anndata.read_zarr(tmp_path / "cells.zarr"), expected)
        lazy = anndata.experimental.read_lazy(str(tmp_path / "cells.zarr"))
        assert_same(lazy[1:4].to_memory(), expected[1:4])
    assert native.stats()["batches"] > before
