"""The arrays that are read and overwritten: made once, by zarr's default pipeline.

Every data set is a directory of equal arrays, ``<name>/0``, ``<name>/1`` and so on, with
the values beside them in a ``.npy`` file. They are a smooth field with three bits of
noise, which zstd at level 1 makes 2.5 to 3 times smaller.
"""

from __future__ import annotations

import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

_BASE = 1_000
_AMPLITUDE = 20
_NOISE = 8
_SLAB_BYTES = 256 << 20
FILL_VALUE = 7

Codec = tuple[str, "Mapping[str, Any]"]
"""A codec's name and configuration."""


@dataclass(frozen=True, slots=True)
class Dataset:
    """Equal arrays of uint16 on disk.

    Parameters
    ----------
    name
        Directory below the data directory.
    shape, chunks, shards
        As zarr takes them. With `shards`, `chunks` are the subchunks.
    copies
        How many equal arrays there are.
    stored
        Whether there are chunks; otherwise only metadata, and the fill value.
    filters, compressors
        Codecs as in the metadata of Zarr v3, by name and configuration; zstd at level 1 where there are none.
    """

    name: str
    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    shards: tuple[int, ...] | None = None
    copies: int = 1
    stored: bool = True
    filters: tuple[Codec, ...] = ()
    compressors: tuple[Codec, ...] = (("zstd", {"level": 1, "checksum": False}),)

    @property
    def paths(self) -> tuple[str, ...]:
        """Paths of the arrays below the data directory."""
        return tuple(f"{self.name}/{copy}" for copy in range(self.copies))

    def reference(self, data: str) -> str:
        """Return the path of the ``.npy`` file with the values."""
        kind = "field" if self.stored else "fill"
        return str(Path(data) / f"{kind}-{'x'.join(map(str, self.shape))}.npy")

    def build(self, data: str) -> None:
        """Make whatever is not there yet."""
        reference = Path(self.reference(data))
        if not reference.exists():
            _write_reference(reference, self.shape, field=self.stored)
        first, *others = (Path(data) / path for path in self.paths)
        if not (first / "zarr.json").exists():
            self._write(first, np.load(reference, mmap_mode="r"))
        for other in others:
            if not (other / "zarr.json").exists():
                copy_array(first, other)

    def _write(self, path: Path, values: npt.NDArray[Any]) -> None:
        import zarr  # noqa: PLC0415 - heavy, and needed only where data is made

        unfinished = path.with_name(f"{path.name}.unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        array = zarr.create_array(
            str(unfinished),
            shape=self.shape,
            chunks=self.chunks,
            shards=self.shards,
            dtype="uint16",
            filters=[{"name": name, "configuration": dict(options)} for name, options in self.filters],
            compressors=[{"name": name, "configuration": dict(options)} for name, options in self.compressors],
            fill_value=FILL_VALUE,
        )
        if self.stored:
            rows = _slab_rows(self.shape, (self.shards or self.chunks)[0])
            for start in range(0, self.shape[0], rows):
                array[start : start + rows] = values[start : start + rows]
        unfinished.rename(path)


def copy_array(source: Path, target: Path, *, chunks: bool = True) -> None:
    """Put a copy of an array in the place of `target`, or only its metadata."""
    unfinished = target.with_name(f"{target.name}.unfinished")
    for stale in (unfinished, target):
        shutil.rmtree(stale, ignore_errors=True)
    if chunks:
        shutil.copytree(source, unfinished)
    else:
        unfinished.mkdir(parents=True)
        shutil.copy(source / "zarr.json", unfinished)
    unfinished.rename(target)


def _slab_rows(shape: tuple[int, ...], multiple: int) -> int:
    """Return how many rows are handled at once: a multiple, of bounded size."""
    rows = _SLAB_BYTES // (2 * math.prod(shape[1:]))
    return max(multiple, rows // multiple * multiple)


def _write_reference(path: Path, shape: tuple[int, ...], *, field: bool) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"unfinished-{path.name}")
    values = np.lib.format.open_memmap(unfinished, mode="w+", dtype=np.uint16, shape=shape)
    if field:
        rng = np.random.default_rng(seed=math.prod(shape))
        rows = _slab_rows(shape, 1)
        for start in range(0, shape[0], rows):
            slab = values[start : start + rows]
            slab[...] = _smooth(slab.shape, start)
            slab += rng.integers(_NOISE, size=slab.shape, dtype=np.uint8)
    else:
        values[...] = FILL_VALUE
    values.flush()
    del values
    unfinished.rename(path)


def _smooth(shape: tuple[int, ...], start: int) -> npt.NDArray[np.float32]:
    """Return a sum of one long wave per axis; rows count from `start`."""
    total = np.full(shape, _BASE, dtype=np.float32)
    for axis, size in enumerate(shape):
        position = np.arange(size, dtype=np.float32) + (start if axis == 0 else 0)
        wave = _AMPLITUDE * np.sin(position / (37 + 11 * axis) + axis)
        total += wave.reshape([-1 if at == axis else 1 for at in range(len(shape))])
    return total
