"""What the tile server shows: temperatures of a country that does not exist, through a year, as a pyramid of arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from zarr.api.asynchronous import create_group

if TYPE_CHECKING:
    from zarr.abc.store import Store

SIDE = 256
"""Pixels of a tile, and of a subchunk, along each axis."""
SHARD = 1024
"""Pixels of a shard along each axis."""
SEED = 7


@dataclass(frozen=True)
class Scale:
    """What a stored number means: ``offset + factor * number``, in degrees Celsius."""

    offset: float = -30.0
    factor: float = 0.3

    def degrees(self, numbers: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
        """Return temperatures."""
        return np.round(self.offset + self.factor * numbers, 1)


def temperatures(nb_times: int, size: int) -> npt.NDArray[np.uint8]:
    """Return stored numbers, shape ``(nb_times, size, size)``: hills, a season that moves over them, and noise."""
    generator = np.random.default_rng(SEED)
    at = np.linspace(0, 2 * np.pi, size, dtype=np.float32)
    hills = np.zeros((size, size), np.float32)
    for waves in range(1, 8):
        phases = generator.uniform(0, 2 * np.pi, 2)
        hills += np.outer(np.sin(waves * at + phases[0]), np.cos(waves * at + phases[1])) / np.float32(waves)
    series = np.empty((nb_times, size, size), np.uint8)
    for t, plane in enumerate(series):
        season = np.cos(2 * np.pi * t / nb_times + at / 2, dtype=np.float32)
        noise = generator.standard_normal((size, size), np.float32)
        plane[:] = (128 - 40 * season[:, None] + 30 * hills + noise).clip(0, 255)
    return series


async def write_pyramid(store: Store, numbers: npt.NDArray[np.uint8]) -> None:
    """Write the levels ``0``, ``1``, … of a pyramid, each of half the size, down to one that fits into a tile.

    Notes
    -----
    A subchunk is one tile at one time, so a tile is one byte range. A shard holds all times of 4×4 tiles, so the series
    of a pixel is in one shard.
    """
    nb_levels = max(1, (-(-numbers.shape[1] // SIDE) - 1).bit_length() + 1)
    group = await create_group(store=store, attributes={"levels": nb_levels}, overwrite=True)
    for level in range(nb_levels):
        shard = -(-min(SHARD, numbers.shape[1]) // SIDE) * SIDE
        array: Any = await group.create_array(
            f"{level}",
            shape=numbers.shape,
            dtype=numbers.dtype,
            chunks=(1, SIDE, SIDE),
            shards=(numbers.shape[0], shard, shard),
        )
        await array.setitem(slice(None), numbers)
        numbers = numbers[:, ::2, ::2]
