"""Whole libraries on top of zarr-python, used as their users do, under whichever pipeline the process has.

None of them is imported before a worker needs it. What belongs to no package of the
locks, such as scanpy around its one data file, is not imported at all.
"""

from __future__ import annotations

import importlib.util
import pickle
import shutil
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

ZarrFormat = Literal[2, 3]


class Library(Protocol):
    """What a library does with a data set at a path. Everything blocks, as it does for its users."""

    def open(self, path: Path) -> Any:
        """Open the data set, and read what the library reads at once."""
        ...

    def read(self, path: Path) -> Any:
        """Open the data set and return all of it."""
        ...

    def write(self, path: Path, values: Any) -> None:
        """Store the data set in the place of whatever is there."""
        ...

    def equal(self, one: Any, other: Any) -> bool:
        """Whether two data sets are the same."""
        ...


@dataclass(frozen=True, slots=True)
class Xarray:
    """Data sets of xarray."""

    zarr_format: ZarrFormat

    def open(self, path: Path) -> Any:
        """Open it without dask."""
        import xarray as xr  # noqa: PLC0415

        return xr.open_zarr(path, chunks=None)

    def read(self, path: Path) -> Any:
        """Load all variables."""
        return self.open(path).load()

    def write(self, path: Path, values: Any) -> None:
        """Store all variables, with the encoding that xarray chooses."""
        values.to_zarr(path, mode="w", zarr_format=self.zarr_format)

    def equal(self, one: Any, other: Any) -> bool:
        """Compare values and names; what xarray notes of the encoding is no part of it."""
        return bool(one.equals(other))


@dataclass(frozen=True, slots=True)
class AnnData:
    """Annotated matrices of anndata."""

    zarr_format: ZarrFormat

    def open(self, path: Path) -> Any:
        """Open the group: anndata has nothing in between."""
        import anndata  # noqa: F401, PLC0415
        import zarr  # noqa: PLC0415

        return zarr.open_group(path, mode="r")

    def read(self, path: Path) -> Any:
        """Read everything."""
        import anndata  # noqa: PLC0415

        return anndata.io.read_zarr(path)

    def write(self, path: Path, values: Any) -> None:
        """Store everything."""
        import anndata  # noqa: PLC0415
        import zarr  # noqa: PLC0415

        group = zarr.open_group(path, mode="w", zarr_format=self.zarr_format)
        anndata.io.write_elem(group, "/", values)

    def equal(self, one: Any, other: Any) -> bool:
        """Compare the matrix, the tables, and what belongs to them."""
        same = (one.X != other.X).sum() == 0 and one.obs.equals(other.obs) and one.var.equals(other.var)
        return same and all(np.array_equal(one.obsm[name], other.obsm[name]) for name in other.obsm)


@dataclass(frozen=True, slots=True)
class Annbatch:
    """One epoch of annbatch's loader: all rows, in batches of 4,096, shuffled by runs of `rows`."""

    rows: int
    kind: Literal["sparse", "dense"]

    def open(self, path: Path) -> Any:
        """Make the loader; it is kept, as it is during a training."""
        return _loader(self, path)

    def read(self, path: Path) -> Any:
        """Take all batches."""
        return [batch["X"] for batch in self.open(path)]

    def write(self, path: Path, values: Any) -> None:
        """Store with annbatch's own layout."""
        import annbatch  # noqa: PLC0415
        import zarr  # noqa: PLC0415

        annbatch.write_sharded(zarr.open_group(path, mode="w", zarr_format=3), values)

    def equal(self, one: Any, other: Any) -> bool:
        """Compare sums: the rows come in any order. The numbers are small integers, so sums are exact."""
        return sum(float(batch.sum()) for batch in one) == float(other.X.sum())


@cache
def _loader(batches: Annbatch, path: Path) -> Any:
    import annbatch  # noqa: PLC0415
    import anndata  # noqa: PLC0415
    import zarr  # noqa: PLC0415

    stored = zarr.open_group(path, mode="r")["X"]
    loader = annbatch.Loader(
        chunk_size=batches.rows,
        preload_nchunks=16_384 // batches.rows,
        batch_size=4_096,
        shuffle=True,
        preload_to_gpu=False,
        rng=np.random.default_rng(0),
    )
    return loader.add_dataset(stored if batches.kind == "dense" else anndata.io.sparse_dataset(stored))


@dataclass(frozen=True, slots=True)
class Texts:
    """zarr-python by itself, for arrays of strings: their values fit no ``.npy`` file.

    Parameters
    ----------
    zarr_format
        In which format they are written.
    into_objects
        Whether they are read into an array of Python's own strings, in place of NumPy's.
    chunk
        Strings in a chunk.
    """

    zarr_format: ZarrFormat
    into_objects: bool = False
    chunk: int = 10_000

    def open(self, path: Path) -> Any:
        """Open the array; it is kept, as others are."""
        return _array(path)

    def read(self, path: Path) -> Any:
        """Read all strings."""
        array = self.open(path)
        if not self.into_objects:
            return array[:]
        from zarr.core.buffer.cpu import NDBuffer  # noqa: PLC0415

        values = np.empty(array.shape, dtype=object)
        array.get_basic_selection(..., out=NDBuffer(values))
        return values

    def write(self, path: Path, values: Any) -> None:
        """Store all strings, with the compressor that zarr chooses."""
        import zarr  # noqa: PLC0415

        array = zarr.create_array(
            path,
            shape=values.shape,
            chunks=(self.chunk,),
            dtype="string",
            zarr_format=self.zarr_format,
            overwrite=True,
        )
        array[:] = values

    def equal(self, one: Any, other: Any) -> bool:
        """Compare string by string."""
        return bool(np.array_equal(one.astype(object), other.astype(object)))


@cache
def _array(path: Path) -> Any:
    import zarr  # noqa: PLC0415

    return zarr.open_array(path, mode="r")


def keep(library: Library, values: Any, path: Path) -> None:
    """Store a data set below `path` by zarr's default pipeline, and the values beside it, unless they are there."""
    if not path.exists():
        unfinished = path.with_name(f"unfinished-{path.name}")
        shutil.rmtree(unfinished, ignore_errors=True)
        library.write(unfinished, values)
        reference_of(path).write_bytes(pickle.dumps(values))
        unfinished.rename(path)


def reference_of(path: Path) -> Path:
    """Return where the values of a data set are kept."""
    return path.with_name(f"{path.name}.pickle")


def iris_files() -> Iterator[Path]:
    """Yield the netCDF files of iris-sample-data."""
    yield from sorted((_folder("iris_sample_data") / "sample_data").glob("**/*.nc"))


def pbmc68k() -> Path:
    """Return scanpy's file with the reduced set of 68,000 blood cells."""
    return _folder("scanpy") / "datasets/10x_pbmc68k_reduced.h5ad"


def _folder(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"{package} is not installed", name=package)
    return Path(spec.origin).parent
