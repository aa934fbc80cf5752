"""Trains a linear model on random mini-batches of a sharded array: ``python examples/training``.

Reads ahead by threads, by worker processes of its own (``--workers 2 --start-method fork``), or through PyTorch's
``DataLoader`` where PyTorch is installed (``--torch``). The result is the same to the last bit.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import zarr

# Run as a directory, Python looks for imports in it alone; and worker processes import this file again.
sys.path[:1] = [str(Path(__file__).resolve().parents[2])]

from examples.training.loader import PIPELINE, Batch, Loader, Rows, shuffled_chunks, shuffled_rows  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

FEATURES = 64
ROWS_PER_CHUNK, ROWS_PER_SHARD = 256, 16_384
SEED = 11
RATE = 0.05


def write_samples(path: Path, nb_rows: int) -> None:
    """Write samples: features, and in the last column the target, which depends on them linearly but for noise."""
    zarr.config.set({"codec_pipeline.path": PIPELINE})
    random = np.random.default_rng(SEED)
    features = random.standard_normal((nb_rows, FEATURES), np.float32)
    target = features @ np.linspace(-1, 1, FEATURES, dtype=np.float32) + 0.1 * random.standard_normal(
        nb_rows, np.float32
    )
    values = np.column_stack([features, target])
    columns = values.shape[1]
    array = zarr.create_array(
        path, shape=values.shape, dtype="f4", chunks=(ROWS_PER_CHUNK, columns), shards=(ROWS_PER_SHARD, columns)
    )
    array[:] = values


def order(arguments: argparse.Namespace, nb_rows: int, epoch: int) -> Iterator[list[int]]:
    """Return the rows of each mini-batch of an epoch, which depend on nothing but the epoch."""
    random = np.random.default_rng([SEED, epoch])
    if arguments.shuffle == "rows":
        return shuffled_rows(nb_rows, arguments.batch, random)
    return shuffled_chunks(nb_rows, arguments.batch, random, rows_per_chunk=ROWS_PER_CHUNK)


def train(weights: npt.NDArray[np.float32], batches: Iterable[Batch]) -> float:
    """Take a step of gradient descent for each mini-batch; return the mean of the squared errors."""
    losses = []
    for batch in batches:
        features, target = batch[:, :-1], batch[:, -1]
        error = features @ weights - target
        weights -= RATE * (features.T @ error) / len(batch)
        losses.append(float(np.mean(error**2)))
    return float(np.mean(losses))


def torch_batches(rows: Rows, batches: Iterator[list[int]], arguments: argparse.Namespace) -> Iterator[Batch]:
    """Yield the same mini-batches, read by PyTorch's ``DataLoader``."""
    import torch  # noqa: PLC0415 - it need not be installed

    loader: Any = torch.utils.data.DataLoader(
        rows,  # type: ignore[arg-type,unused-ignore]  # anything with a length and items is a data set
        batch_sampler=list(batches),
        collate_fn=torch.from_numpy,
        num_workers=arguments.workers,
        multiprocessing_context=arguments.start_method if arguments.workers else None,
    )
    for tensor in loader:
        yield tensor.numpy()


def main() -> None:
    """Write samples to a temporary directory and train on them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--batch", type=int, default=256, help="rows of a mini-batch")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--workers", type=int, default=0, help="processes that read; 0 for threads of this one")
    parser.add_argument("--start-method", choices=["fork", "spawn", "forkserver"], default="spawn")
    parser.add_argument("--shuffle", choices=["rows", "chunks"], default="rows")
    parser.add_argument("--torch", action="store_true", help="read through PyTorch's DataLoader")
    arguments = parser.parse_args()
    weights = np.zeros(FEATURES, np.float32)
    with tempfile.TemporaryDirectory(prefix="zarrs-async-training-") as directory, contextlib.ExitStack() as stack:
        path = Path(directory, "samples.zarr")
        write_samples(path, arguments.rows)
        # What the machine has is divided by the processes that read.
        shares = max(1, arguments.workers)
        rows = Rows(str(path), {"codec_pipeline.memory_limit_bytes": (256 << 20) // shares})
        if not arguments.torch:
            loader = stack.enter_context(Loader(rows, arguments.workers, arguments.start_method))
        for epoch in range(arguments.epochs):
            batches = order(arguments, arguments.rows, epoch)
            start = time.perf_counter()
            loss = train(weights, torch_batches(rows, batches, arguments) if arguments.torch else loader.read(batches))
            rate = arguments.rows / (time.perf_counter() - start)
            print(f"epoch {epoch}: loss {loss:.9f}, {rate:.0f} rows/s", flush=True)


if __name__ == "__main__":
    main()
