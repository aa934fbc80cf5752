"""Codecs: whole reads and writes on a local disk, and over HTTP one that only Python has."""

from __future__ import annotations

import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.cases import Case, Operation, Place, always
from benchmarks.datasets import Dataset
from benchmarks.libraries import Texts, keep, reference_of
from benchmarks.scenarios.local import whole_write
from benchmarks.scenarios.small import empty, own
from benchmarks.servers import http_place, watch
from support.servers import RangeServer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.cases import Plan

_ZSTD = ("zstd", {"level": 1, "checksum": False})
_BLOSC = {"typesize": 2, "clevel": 5, "blocksize": 0}
_LATENCY_MS = 30.0
_SEED = 7

_CODECS: dict[str, dict[str, Any]] = {
    "raw": {"compressors": ()},
    "zstd": {"compressors": (_ZSTD,)},
    "gzip": {"compressors": (("gzip", {"level": 1}),)},
    "blosc, lz4": {"compressors": (("blosc", {**_BLOSC, "cname": "lz4", "shuffle": "shuffle"}),)},
    "blosc, zstd": {"compressors": (("blosc", {**_BLOSC, "cname": "zstd", "shuffle": "bitshuffle"}),)},
    "lz4": {"compressors": (("numcodecs.lz4", {"acceleration": 1}),)},
    "zlib": {"compressors": (("numcodecs.zlib", {"level": 1}),)},
    "bz2": {"compressors": (("numcodecs.bz2", {"level": 1}),)},
    "shuffle, zstd": {"compressors": (("numcodecs.shuffle", {"elementsize": 2}), _ZSTD)},
    "zstd, fletcher32": {"compressors": (_ZSTD, ("numcodecs.fletcher32", {}))},
    "zstd, crc32c": {"compressors": (_ZSTD, ("crc32c", {}))},
    "delta, zstd": {"filters": (("numcodecs.delta", {"dtype": "<u2"}),), "compressors": (_ZSTD,)},
}
_PYTHON = (("numcodecs.lzma", {"preset": 0}),)


def codecs(plan: Plan) -> Iterator[Case]:
    """Yield a whole read and a whole write for each codec, and reads of an array whose codec Python runs."""
    size = 128 if plan.quick else 256
    for name, chain in _CODECS.items():
        dataset = Dataset(f"codecs-{size}-{name.replace(', ', '-')}", (size,) * 3, (64,) * 3, **chain)
        dataset.build(plan.data)
        place = Place("local", plan.data)
        yield Case("codecs", name, "whole read", always(_read(dataset, place, plan)))
        yield from whole_write("codecs", name, dataset, plan)
    yield from _texts(plan)
    yield from _remote(plan)


def _texts(plan: Plan) -> Iterator[Case]:
    """Yield reads of all strings of an array, as NumPy's and as Python's, and a write."""
    count = 50_000 if plan.quick else 200_000
    lengths = np.random.default_rng(_SEED).integers(4, 24, size=count)
    values = np.array([f"{at:x}".rjust(length, "~") for at, length in enumerate(lengths)], dtype=object)
    for zarr_format in (2, 3):
        path = Path(plan.data, f"texts-{count}-v{zarr_format}")
        keep(Texts(zarr_format), values, path)
        read = Operation("read", Place("local", plan.data), (path.name,), str(reference_of(path)))
        layout = f"{count:,} strings, v{zarr_format}"
        for name, into_objects in (("read as StringDType", False), ("read as objects", True)):
            library = Texts(zarr_format, into_objects)
            yield Case("codecs", layout, name, always(replace(read, library=library)))
        scratch = Path(plan.data, "scratch", path.name)
        write = replace(read, verb="write", place=Place("local", str(scratch)), library=Texts(zarr_format))
        yield Case("codecs", layout, "write", partial(own, write), before=partial(empty, scratch))
        shutil.rmtree(scratch, ignore_errors=True)


def _remote(plan: Plan) -> Iterator[Case]:
    dataset = Dataset("codecs-lzma", (256, 256), (32, 32), compressors=_PYTHON)
    dataset.build(plan.data)
    with RangeServer(Path(plan.data)) as server:
        for latency_ms in (0.0, _LATENCY_MS):
            server.serve(Path(plan.data))
            server.config(latency_ms=latency_ms)
            yield Case(
                "codecs",
                "lzma, in Python",
                "64 chunks",
                always(_read(dataset, http_place(server), plan)),
                watch=partial(watch, server),
                latency_ms=latency_ms,
                round_trips=1,
                at_once=64,
            )


def _read(dataset: Dataset, place: Place, plan: Plan) -> Operation:
    return Operation("read", place, dataset.paths, dataset.reference(plan.data))
