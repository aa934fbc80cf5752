"""What the command ``bench`` measures: one array, read through the installed pipelines in turn."""

from __future__ import annotations

import asyncio
import statistics
import time
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import product
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr.core.codec_pipeline

from zarrs_async._explain import PATH
from zarrs_async.cli.places import PlaceError, array_of

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    Read = Callable[[zarr.AsyncArray[Any]], Coroutine[Any, Any, list[Any]]]

_SEED = 0
_BOXES = 32


@dataclass(frozen=True)
class Result:
    """How one pipeline did one kind of read.

    Attributes
    ----------
    read : str
        The kind of read.
    pipeline : str
        The pipeline's name.
    seconds : float or None
        Median of the rounds; None where it failed.
    mib_per_s : float or None
        Decoded MiB for each second.
    ratio : float or None
        How many times the time of zarrs-async it took.
    error : str or None
        Why it failed.
    """

    read: str
    pipeline: str
    seconds: float | None = None
    mib_per_s: float | None = None
    ratio: float | None = None
    error: str | None = None


def pipelines() -> dict[str, str]:
    """Give the pipelines that are installed: their names, and their values of ``codec_pipeline.path``."""
    found = {"zarrs-async": PATH, "zarr, batched": "zarr.core.codec_pipeline.BatchedCodecPipeline"}
    if hasattr(zarr.core.codec_pipeline, "FusedCodecPipeline"):
        found["zarr, fused"] = "zarr.core.codec_pipeline.FusedCodecPipeline"
    if find_spec("zarrs") is not None:
        found["zarrs-python"] = "zarrs.ZarrsCodecPipeline"
    return found


def bench(place: str, *, mib: float, rounds: int, anonymous: bool) -> list[Result]:
    """Read an array through each pipeline.

    Parameters
    ----------
    place
        The array's path or URL.
    mib
        Decoded MiB to read at most in each round.
    rounds
        How often each read is timed; the first one, which opens connections, is not.
    anonymous
        Whether requests to a bucket are not signed.

    Raises
    ------
    PlaceError
        When there is no array, or it is empty.
    """
    arrays = {}
    for name, path in pipelines().items():
        if path.startswith("zarrs."):
            __import__("zarrs")
        arrays[name] = array_of(place, anonymous=anonymous, pipeline=path).async_array
    first = next(iter(arrays.values()))
    if not first.size:
        msg = f"{place} has no elements to read"
        raise PlaceError(msg)
    results: list[Result] = []
    for kind, (read, nbytes) in _reads(first, round(mib * 2**20)).items():
        times, errors = asyncio.run(_times(arrays, read, rounds, kind))
        ours = times[next(iter(arrays))]
        results += [
            Result(kind, name, seconds, nbytes / 2**20 / max(seconds, 1e-9), seconds / max(ours, 1e-9))
            for name, seconds in times.items()
        ]
        results += [Result(kind, name, error=error) for name, error in errors.items()]
    return results


async def _times(
    arrays: dict[str, zarr.AsyncArray[Any]], read: Read, rounds: int, kind: str
) -> tuple[dict[str, float], dict[str, str]]:
    """Time a read through each pipeline, in turn in each round, as the machine may be busy with other things.

    Returns
    -------
    tuple
        The median seconds by pipeline; and why those failed that did.
    """
    errors: dict[str, str] = {}
    # The first read, which opens connections, is compared and not timed.
    expected: list[Any] | None = None
    for name, array in arrays.items():
        try:
            values = await read(array)
        except Exception as error:
            if expected is None:
                raise
            # A pipeline that cannot do this array is a result, not the end.
            errors[name] = f"{type(error).__name__}: {error}"
            continue
        expected = values if expected is None else expected
        if not all(_same(one, other) for one, other in zip(values, expected, strict=True)):
            errors[name] = f"reads other values than {next(iter(arrays))} ({kind})"
    times: dict[str, list[float]] = {name: [] for name in arrays if name not in errors}
    for _, name in product(range(rounds), times):
        begun = time.perf_counter()
        await read(arrays[name])
        times[name].append(time.perf_counter() - begun)
    return {name: statistics.median(taken) for name, taken in times.items()}, errors


def _same(one: Any, other: Any) -> bool:  # noqa: ANN401  # arrays of any type
    one, other = np.asarray(one), np.asarray(other)
    return bool(np.array_equal(one, other, equal_nan=one.dtype.kind in "fc"))


def _reads(array: zarr.AsyncArray[Any], nbytes: int) -> dict[str, tuple[Read, int]]:
    """Give the kinds of reads, each with the decoded bytes that it brings."""
    itemsize = array.dtype.itemsize
    region = _region(array, nbytes // itemsize)
    corner = tuple(min(chunk, length) for chunk, length in zip(_chunks(array)[0], region, strict=True))
    random = np.random.default_rng(_SEED)
    count = max(1, min(_BOXES, prod(region) // prod(corner)))
    boxes = [
        tuple(
            slice(start, start + size)
            for start, size in zip(
                (int(random.integers(0, length - size + 1)) for length, size in zip(region, corner, strict=True)),
                corner,
                strict=True,
            )
        )
        for _ in range(count)
    ]

    async def whole(array: zarr.AsyncArray[Any]) -> list[Any]:
        return [await array.getitem(tuple(slice(0, length) for length in region))]

    async def one_by_one(array: zarr.AsyncArray[Any]) -> list[Any]:
        return [await array.getitem(box) for box in boxes]

    async def gathered(array: zarr.AsyncArray[Any]) -> list[Any]:
        return await asyncio.gather(*(array.getitem(box) for box in boxes))

    in_boxes = count * prod(corner) * itemsize
    return {
        f"whole {'×'.join(map(str, region)) or 'element'}": (whole, prod(region) * itemsize),
        f"{count} random boxes, one by one": (one_by_one, in_boxes),
        f"{count} random boxes, gathered": (gathered, in_boxes),
    }


def _chunks(array: zarr.AsyncArray[Any]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Give the shapes of what is decoded and of what is stored as one; along each axis the longest where they vary."""
    try:
        return array.chunks, array.shards or array.chunks
    except NotImplementedError:
        sizes: Any = array  # not in each version of zarr
        decoded, stored = (tuple(map(max, axes)) for axes in (sizes.read_chunk_sizes, sizes.write_chunk_sizes))
        return decoded, stored


def _region(array: zarr.AsyncArray[Any], elements: int) -> tuple[int, ...]:
    """Give the shape of a region at the origin, of whole chunks along each axis, and of so many elements at most."""
    region = [min(size, length) for size, length in zip(_chunks(array)[1], array.shape, strict=True)]
    grain = tuple(region)
    grown = True
    while grown:
        grown = False
        for axis in reversed(range(array.ndim)):
            longer = min(array.shape[axis], region[axis] + grain[axis])
            if longer > region[axis] and prod(region) // region[axis] * longer <= elements:
                region[axis], grown = longer, True
    return tuple(region)
