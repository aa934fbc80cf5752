"""The example of a training loop: the same mini-batches, and so the same model, whoever reads them."""

from __future__ import annotations

import itertools
import pickle
import re
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr
from oracle import DEFAULT, created
from zarr.storage import LocalStore

from examples.training.loader import Loader, Rows, shuffled_chunks, shuffled_rows
from support.program import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from types import ModuleType

    Order = Callable[[np.random.Generator], Iterator[list[int]]]

NB_ROWS, NB_COLUMNS, BATCH = 1000, 5, 64
VALUES = np.random.default_rng(0).standard_normal((NB_ROWS, NB_COLUMNS)).astype("f4")


def by_rows(random: np.random.Generator) -> Iterator[list[int]]:
    return shuffled_rows(NB_ROWS, BATCH, random)


def by_chunks(random: np.random.Generator) -> Iterator[list[int]]:
    return shuffled_chunks(NB_ROWS, BATCH, random, rows_per_chunk=48, chunks_at_once=3)


ORDERS = pytest.mark.parametrize("order", [by_rows, by_chunks])


@pytest.fixture
def rows(native: ModuleType, tmp_path: Path) -> Rows:
    """Have zarr's default pipeline write the array."""
    assert native.stats()
    created(LocalStore(tmp_path), DEFAULT, data=VALUES, chunks=(48, NB_COLUMNS), shards=(480, NB_COLUMNS))
    return Rows(str(tmp_path), {"codec_pipeline.strict": True})


@ORDERS
def test_an_epoch_has_each_row_once(order: Order) -> None:
    drawn = list(order(np.random.default_rng(1)))
    rows = list(itertools.chain.from_iterable(drawn))
    assert sorted(rows) == list(range(NB_ROWS))
    assert rows != sorted(rows)
    assert max(map(len, drawn)) == BATCH
    assert drawn == list(order(np.random.default_rng(1)))


@ORDERS
@pytest.mark.parametrize("ahead", [1, 4, 100])
def test_mini_batches_come_in_order(rows: Rows, order: Order, ahead: int) -> None:
    with Loader(rows, ahead=ahead) as loader:
        read = list(loader.read(order(np.random.default_rng(2))))
    for batch, drawn in zip(read, order(np.random.default_rng(2)), strict=True):
        np.testing.assert_array_equal(batch, VALUES[drawn])


def test_a_loader_that_is_left_early_ends(rows: Rows) -> None:
    with Loader(rows, ahead=2) as loader:
        for batch in loader.read(by_rows(np.random.default_rng(3))):
            assert batch.shape == (BATCH, NB_COLUMNS)
            break
        again = next(loader.read(iter([[7, 3, 7]])))
    np.testing.assert_array_equal(again, VALUES[[7, 3, 7]])


def test_rows_are_what_a_data_loader_takes(rows: Rows) -> None:
    assert len(rows) == NB_ROWS
    np.testing.assert_array_equal(rows[17], VALUES[17])
    there = pickle.loads(pickle.dumps(rows))  # noqa: S301 - our own
    assert "array" not in vars(there)
    np.testing.assert_array_equal(there.__getitems__([5, 1]), VALUES[[5, 1]])
    assert zarr.config.get("codec_pipeline.strict")


def test_an_error_of_a_read_is_that_of_its_mini_batch(rows: Rows) -> None:
    with Loader(rows) as loader:
        read = loader.read(iter([[0], [NB_ROWS]]))
        np.testing.assert_array_equal(next(read), VALUES[:1])
        with pytest.raises(IndexError):
            next(read)


def losses(*arguments: str) -> Any:
    """Run the program and return what it learned."""
    command = [sys.executable, str(ROOT / "examples/training"), "--rows", "5000", "--epochs", "2", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)  # noqa: S603 - our own
    assert done.returncode == 0, done.stderr
    return re.findall(r"epoch (\d): loss ([0-9.]+)", done.stdout)


@pytest.mark.long
@pytest.mark.parametrize("shuffle", ["rows", "chunks"])
def test_workers_of_every_kind_train_the_same_model(shuffle: str) -> None:
    by_threads = losses("--shuffle", shuffle)
    assert len(by_threads) == 2
    assert float(by_threads[1][1]) < float(by_threads[0][1])
    for start_method in ("fork", "spawn"):
        assert losses("--shuffle", shuffle, "--workers", "2", "--start-method", start_method) == by_threads
