"""A brain through time: written to disk and read back from there and over HTTP, beside zarr's default pipeline.

The MNI152 volume flows into a seeded time series, that into one shard for each point in time, and these through many
reads at once back into memory, where every value is compared. ``make demo`` runs this.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import struct
import sys
import tempfile
import time
import zlib
from dataclasses import dataclass
from importlib.metadata import distribution
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt
import zarr
import zarr.api.asynchronous
from obstore.store import HTTPStore
from zarr.codecs import ZstdCodec
from zarr.storage import LocalStore, ObjectStore

import zarrs_async
from support.range_client import RangeServer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterable

T = TypeVar("T")
Series = npt.NDArray[np.uint16]
Selection = tuple[int | slice, ...]

PIPELINES = {
    "zarrs-async": "zarrs_async.ZarrsAsyncCodecPipeline",
    "zarr's default": "zarr.core.codec_pipeline.BatchedCodecPipeline",
}
BRAIN = "nilearn/datasets/data/mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"
SEED = 152
# A subchunk is 184 kB of decoded data; a shard holds the volume of one point in time, padded to whole subchunks.
SUBCHUNKS = (1, 40, 48, 48)
SHARDS = (1, 200, 240, 192)
EVERYTHING = slice(None)


def brain() -> npt.NDArray[np.uint8]:
    """Return the MNI152 volume, shape ``(x, y, z)``, from the file that nilearn ships.

    Notes
    -----
    NIfTI-1: little-endian shape at byte 40, offset of the data at byte 108, data in Fortran order.
    """
    content = gzip.decompress(Path(str(distribution("nilearn").locate_file(BRAIN))).read_bytes())
    shape = struct.unpack_from("<3h", content, 42)
    (offset,) = struct.unpack_from("<f", content, 108)
    return np.frombuffer(content, np.uint8, int(np.prod(shape)), int(offset)).reshape(shape, order="F")


def time_series(volume: npt.NDArray[np.uint8], nb_times: int) -> Series:
    """Return the volume at several points in time, shape ``(t, x, y, z)``: a slow wave, and noise everywhere."""
    generator = np.random.default_rng(SEED)
    series = np.empty((nb_times, *volume.shape), np.uint16)
    for t, at_t in enumerate(series):
        values = generator.standard_normal(volume.shape, np.float32)
        values *= 12
        values += volume * np.float32(16 + np.sin(2 * np.pi * t / nb_times))
        np.abs(values, out=values)
        at_t[:] = values
    return series


def slices(shape: tuple[int, ...], per_plane: int) -> list[Selection]:
    """Return selections of planes, as many along each axis at each point in time; the first three cross the centre."""
    generator = np.random.default_rng(SEED)
    centre = [
        (0, *(size // 2 if axis == fixed else EVERYTHING for axis, size in enumerate(shape[1:]))) for fixed in range(3)
    ]
    drawn = [
        (t, *(int(generator.integers(size)) if axis == fixed else EVERYTHING for axis, size in enumerate(shape[1:])))
        for t, fixed, _ in product(range(shape[0]), range(3), range(per_plane))
    ]
    return centre + drawn


async def gather(label: str, awaitables: Iterable[Awaitable[T]]) -> tuple[list[T], float]:
    """Await all at once, under a progress bar; return the results and the seconds that they took."""
    pending = list(awaitables)
    nb_done = 0

    async def one(awaitable: Awaitable[T]) -> T:
        nonlocal nb_done
        result = await awaitable
        nb_done += 1
        if sys.stderr.isatty() or nb_done == len(pending):
            bar = "█" * (30 * nb_done // len(pending))
            print(f"\r{label:<48} [{bar:<30}] {nb_done}/{len(pending)}", end="", file=sys.stderr, flush=True)
        return result

    start = time.perf_counter()
    results = await asyncio.gather(*map(one, pending))
    seconds = time.perf_counter() - start
    print(file=sys.stderr)
    return results, seconds


@dataclass
class Figures:
    """What one pipeline took, in seconds, and the requests it sent."""

    write: float
    read_all: float
    read_slices: float
    read_slices_http: float
    requests: int
    in_flight_max: int


async def run(name: str, series: Series, root: Path, server: RangeServer) -> tuple[Figures, list[Any]]:
    """Write and read the series through one pipeline; return the figures and the slices read over HTTP.

    Raises
    ------
    ValueError
        If a value that was read is not the one that was written.
    """
    selections = slices(series.shape, per_plane=3)
    with zarr.config.set({"codec_pipeline.path": PIPELINES[name]}):
        array = await zarr.api.asynchronous.create_array(
            LocalStore(root),
            shape=series.shape,
            dtype=series.dtype,
            chunks=SUBCHUNKS,
            shards=SHARDS,
            compressors=ZstdCodec(level=1),
        )
        _, write = await gather(
            f"{name}: write to disk", (array.setitem((t,), volume) for t, volume in enumerate(series))
        )

        volumes, read_all = await gather(f"{name}: read all from disk", map(array.getitem, range(len(series))))
        compare(series, zip(range(len(series)), volumes, strict=True))
        del volumes

        planes, read_slices = await gather(f"{name}: read slices from disk", map(array.getitem, selections))
        compare(series, zip(selections, planes, strict=True))

        server.serve(root)
        store = ObjectStore(HTTPStore.from_url(server.url, client_options={"allow_http": True}), read_only=True)
        remote = await zarr.api.asynchronous.open_array(store=store, mode="r", zarr_format=3)
        server.reset_counts()
        planes, read_slices_http = await gather(f"{name}: read slices over HTTP", map(remote.getitem, selections))
        counts = server.stats()
        compare(series, zip(selections, planes, strict=True))
    figures = Figures(write, read_all, read_slices, read_slices_http, counts["requests"], counts["in_flight_max"])
    return figures, planes


def compare(series: Series, read: Iterable[tuple[Any, Any]]) -> None:
    """Hold what was read against what was written."""
    for selection, values in read:
        if not np.array_equal(series[selection], values):
            msg = f"{selection} does not read as it was written"
            raise ValueError(msg)


def report(figures: dict[str, Figures], latency_ms: float) -> None:
    """Print the figures side by side, and how many times faster the first pipeline is."""
    ours, theirs = figures.values()
    over_http = f"{latency_ms:g} ms per request"
    rows = [
        ("write all to disk", ours.write, theirs.write),
        ("read all from disk", ours.read_all, theirs.read_all),
        ("read slices from disk", ours.read_slices, theirs.read_slices),
        (f"read slices over HTTP, {over_http}", ours.read_slices_http, theirs.read_slices_http),
    ]
    counts = [
        ("  requests", ours.requests, theirs.requests),
        ("  requests in flight, at most", ours.in_flight_max, theirs.in_flight_max),
    ]
    print("\n" + " " * 42 + "".join(f"{name:>18}" for name in figures))
    for label, mine, other in rows:
        print(f"{label:<42}{mine:>16.2f} s{other:>16.2f} s{other / mine:>9.1f}×")
    for label, mine, other in counts:
        print(f"{label:<42}{mine:>18,}{other:>18,}")


def picture(planes: list[npt.NDArray[np.uint16]]) -> npt.NDArray[np.uint8]:
    """Return three planes side by side, head up, as a grey image of 8 bits."""
    height = max(plane.shape[1] for plane in planes)
    above = [(height - plane.shape[1]) // 2 for plane in planes]
    upright = [
        np.pad(np.rot90(plane), ((top, height - plane.shape[1] - top), (0, 0)))
        for top, plane in zip(above, planes, strict=True)
    ]
    image = np.concatenate(upright, axis=1).astype(np.float32)
    image *= np.float32(255 / np.percentile(image, 99.8))
    return np.kron(image.clip(0, 255), np.ones((2, 2))).astype(np.uint8)


def write_png(path: Path, image: npt.NDArray[np.uint8]) -> None:
    """Write a grey image of shape ``(height, width)``."""

    def block(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    height, width = image.shape
    rows = b"".join(b"\0" + row.tobytes() for row in image)
    header = block(b"IHDR", struct.pack(">2I5B", width, height, 8, 0, 0, 0, 0))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + block(b"IDAT", zlib.compress(rows)) + block(b"IEND", b""))


async def main(nb_times: int, latency_ms: float, output: Path) -> None:
    """Run both pipelines and report."""
    volume = brain()
    print(f"MNI152 brain volume {'×'.join(map(str, volume.shape))}; making {nb_times} points in time ...")
    series = time_series(volume, nb_times)
    print(
        f"{series.nbytes / 1e6:.0f} MB of {series.dtype}; each shard one point in time, subchunks of {SUBCHUNKS[1:]}\n"
    )

    figures: dict[str, Figures] = {}
    planes: dict[str, list[Any]] = {}
    with (
        tempfile.TemporaryDirectory(prefix="zarrs-async-demo-") as root,
        RangeServer(Path(root), latency_ms=latency_ms) as server,
    ):
        for name in PIPELINES:
            figures[name], planes[name] = await run(name, series, Path(root, name.replace("'", "")), server)

    report(figures, latency_ms)
    stats = zarrs_async.stats()
    print("\nEvery value that was read is the one that was written.")
    print("zarrs_async.stats():", ", ".join(f"{name} {count}" for name, count in stats.items() if count))
    if stats["fallback_batches"]:
        sys.exit("The figures are not ours: zarr's default pipeline has done some batches.")

    write_png(output / "brain.png", picture(planes["zarrs-async"][:3]))
    print(f"The slices through the centre, as read over HTTP: {output / 'brain.png'}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=20, help="points in time, 17 MB each")
    parser.add_argument("--latency-ms", type=float, default=5.0, help="of the HTTP server, per request")
    parser.add_argument("--output", type=Path, default=Path("demo-output"), help="where the picture goes")
    arguments = parser.parse_args()
    asyncio.run(main(arguments.times, arguments.latency_ms, arguments.output))
