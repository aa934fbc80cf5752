"""Data sets as most are: dozens of small arrays, opened, read and written by the libraries that people use."""

from __future__ import annotations

import shutil
import warnings
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.cases import Case, Operation, Place, always
from benchmarks.libraries import AnnData, Library, Xarray, ZarrFormat, iris_files, keep, pbmc68k, reference_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from benchmarks.cases import Plan

_QUICK = 3
"""How many of xarray's data sets a quick run has."""
_FORMATS: tuple[ZarrFormat, ...] = (2, 3)


def small(plan: Plan) -> Iterator[Case]:
    """Yield the files of iris-sample-data that xarray can read, and an AnnData, in both formats."""
    folder = Path(plan.data, "small")
    folder.mkdir(exist_ok=True)
    for name, values, library_of in _datasets(plan):
        for zarr_format in _FORMATS:
            library, path = library_of(zarr_format), folder / f"{name}-v{zarr_format}"
            keep(library, values, path)
            operation = Operation(
                "read", Place("local", str(folder)), (path.name,), str(reference_of(path)), library=library
            )
            row = f"v{zarr_format}"
            yield Case("small", f"{row}, open", name, always(replace(operation, verb="open")))
            yield Case("small", f"{row}, read", name, always(operation))
            scratch = Path(plan.data, "scratch", path.name)
            place = Place("local", str(scratch))
            write = replace(operation, verb="write", place=place)
            yield Case("small", f"{row}, write", name, partial(own, write), before=partial(empty, scratch))
            shutil.rmtree(scratch, ignore_errors=True)


def _datasets(plan: Plan) -> Iterator[tuple[str, Any, Callable[[ZarrFormat], Library]]]:
    warnings.simplefilter("ignore")  # those of each library about the files of the others
    for name, values in islice(_iris(), _QUICK if plan.quick else None):
        yield name, values, Xarray
    import anndata  # noqa: PLC0415 - slow to import

    yield "pbmc68k_reduced", anndata.io.read_h5ad(pbmc68k()), AnnData


def _iris() -> Iterator[tuple[str, Any]]:
    import xarray as xr  # noqa: PLC0415 - slow to import

    for path in iris_files():
        # Some have times or units that xarray does not decode.
        with suppress(ValueError), xr.open_dataset(path, engine="netcdf4") as dataset:
            values = dataset.load()
            for variable in values.variables.values():
                # How the file had it is of no use to zarr.
                variable.encoding.clear()
            yield path.stem, values


def own(write: Operation, contender: str, _sample: int) -> Operation:
    """Give each contender an array of its own to write."""
    return replace(write, arrays=(contender,))


def empty(scratch: Path, contender: str, _sample: int) -> None:
    """Have each sample create its files anew."""
    shutil.rmtree(scratch / contender, ignore_errors=True)
    scratch.mkdir(parents=True, exist_ok=True)
