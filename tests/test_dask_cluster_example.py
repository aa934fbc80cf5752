"""The example of a cluster: what its workers write is right, also where one of them is killed meanwhile."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest
from oracle import DEFAULT, opened
from zarr.storage import LocalStore

from support.program import ROOT

if TYPE_CHECKING:
    from pathlib import Path

SHAPE = (80, 520, 600)


@pytest.mark.long
# Seven processes import dask one after the other, which takes a busy machine a minute.
@pytest.mark.timeout(240)
def test_a_cluster_writes_all_though_a_worker_is_killed(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "examples/dask_cluster"), "--kill", "--directory", str(tmp_path), "--shape"]
    done = subprocess.run(  # noqa: S603 - our own
        [*command, *map(str, SHAPE)], capture_output=True, text=True, timeout=230, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "killed the worker of process" in done.stdout

    source, mean, differences = (
        np.asarray(opened(LocalStore(tmp_path / name), DEFAULT)[:])
        for name in ("source.zarr", "target.zarr/mean", "target.zarr/differences")
    )
    assert source.shape == SHAPE
    assert source.std() > 0
    np.testing.assert_array_equal(mean, source.mean(axis=0))
    np.testing.assert_array_equal(differences, source.astype("f4") - mean.astype("f4"))
