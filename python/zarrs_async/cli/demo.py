"""What the command ``demo`` shows: an array that is written, explained, read and drawn."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr
from rich.text import Text
from zarr.api.asynchronous import create_array
from zarr.storage import LocalStore

import zarrs_async
from zarrs_async._explain import PATH

if TYPE_CHECKING:
    import numpy.typing as npt
    from rich.console import Console

_SIDE = 192
_STEP = 3
_SHADES = " .:-=+*#%@"


def demo(directory: str, console: Console) -> None:
    """Write an array to a directory, tell what reads of it would do, do them, and draw a plane."""
    with zarr.config.set({"codec_pipeline.path": PATH}):
        asyncio.run(_demo(directory, console))


async def _demo(directory: str, console: Console) -> None:
    console.rule("Write: 27 shards of 64³, each of 64 subchunks of 16³")
    with zarrs_async.measure() as measured:
        array = await create_array(
            LocalStore(directory),
            shape=(_SIDE,) * 3,
            dtype="uint8",
            shards=(64,) * 3,
            chunks=(16,) * 3,
            overwrite=True,
        )
        await array.setitem(..., _volume())
    console.print(repr(measured), highlight=False, markup=False, soft_wrap=True)

    console.rule("Read a plane")
    middle = _SIDE // 2
    console.print(str(zarrs_async.explain(array, middle)), highlight=False, markup=False, soft_wrap=True)
    with zarrs_async.measure() as measured:
        plane = np.asarray(await array.getitem(middle))
    console.print(repr(measured), highlight=False, markup=False, soft_wrap=True)

    console.rule("Read 200 boxes at once")
    corners = np.random.default_rng(0).integers(0, _SIDE - 16, size=(200, 3)).tolist()
    with zarrs_async.measure() as measured:
        boxes = [tuple(slice(at, at + 16) for at in corner) for corner in corners]
        await asyncio.gather(*(array.getitem(box) for box in boxes))
    console.print(repr(measured), highlight=False, markup=False, soft_wrap=True)

    console.rule("The plane")
    console.print(_drawn(plane) if console.color_system else _written(plane))


def _volume() -> npt.NDArray[np.uint8]:
    """Make a gyroid within a ball."""
    at = np.linspace(-1, 1, _SIDE)
    x, y, z = at[:, None, None], at[:, None], at
    gyroid = np.sin(9 * x) * np.cos(9 * y) + np.sin(9 * y) * np.cos(9 * z) + np.sin(9 * z) * np.cos(9 * x)
    ball = x**2 + y**2 + z**2 < 1
    return np.where(ball, 40 + 70 * (gyroid + 1.5), 0).clip(0, 255).astype(np.uint8)


def _drawn(plane: npt.NDArray[Any]) -> Text:
    """Draw a plane with two pixels in each character."""
    pixels, text = plane[::_STEP, ::_STEP], Text()
    for upper, lower in zip(pixels[::2], pixels[1::2], strict=True):
        for above, below in zip(upper.tolist(), lower.tolist(), strict=True):
            text.append("▀", style=f"rgb({above},{above},{above}) on rgb({below},{below},{below})")
        text.append("\n")
    return text


def _written(plane: npt.NDArray[Any]) -> str:
    """Draw a plane where there are no colours."""
    shades = plane[:: 2 * _STEP, ::_STEP].astype(int) * len(_SHADES) // 256
    return "\n".join("".join(_SHADES[shade] for shade in row) for row in shades.tolist())
