"""Cells to pictures: time against latency, and against the number of gathered arrays."""

from __future__ import annotations

import importlib.util
import math
from typing import TYPE_CHECKING, Any

from benchmarks.contenders import CONTENDERS, OURS, TUNED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from benchmarks.report import Cell

_COLOURS = {name: f"C{at}" for at, name in enumerate(CONTENDERS | TUNED)}

GATHER = "× 16 chunks"
"""How the cases are called that differ in the number of arrays only."""


def pictures(cells: Sequence[Cell], out: Path) -> list[Path]:
    """Draw time against latency and against number of arrays; none without matplotlib."""
    if importlib.util.find_spec("matplotlib") is None:
        return []
    # The floor asks for nothing, and would only press the others together.
    measured = [cell for cell in cells if cell["medians"] and cell["round_trips"] and cell["contender"] != "floor"]
    by_latency = _panels(measured, "latency_ms", lambda cell: f"{cell['layout']}: {cell['case']}")
    gathers = [cell for cell in measured if cell["case"].endswith(GATHER)]
    by_arrays = _panels(gathers, "arrays", lambda cell: f"{_place(cell)}, {cell['latency_ms']:g} ms per request")
    drawn = []
    if by_latency:
        drawn.append(_draw(by_latency, "latency_ms", "injected latency, ms", out / "latency.png"))
    if by_arrays:
        drawn.append(_draw(by_arrays, "arrays", "arrays gathered, 16 chunks each", out / "arrays.png"))
    return drawn


def _panels(cells: Iterable[Cell], across: str, title: Callable[[Cell], str]) -> dict[str, list[Cell]]:
    """Return the cells by panel: those that differ in one field and in contender only."""
    panels: dict[str, list[Cell]] = {}
    for cell in cells:
        panels.setdefault(title(cell), []).append(cell)
    return {name: chosen for name, chosen in panels.items() if len({cell[across] for cell in chosen}) > 1}


def _draw(panels: dict[str, list[Cell]], across: str, title: str, path: Path) -> Path:
    """Draw a panel each, with a line per contender: wall time over one of the cells' fields."""
    import matplotlib as mpl  # noqa: PLC0415 - optional, and slow to import

    mpl.use("agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415 - optional, and slow to import

    columns = min(3, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure, grid = plt.subplots(rows, columns, figsize=(5 * columns, 3.6 * rows), squeeze=False, layout="constrained")
    for axes, (name, cells) in zip(grid.flat, panels.items(), strict=False):
        _draw_panel(axes, cells, across)
        axes.set_title(name, fontsize="medium")
        axes.set_xlabel(title)
        axes.set_ylabel("wall time, ms")
    for axes in grid.flat[len(panels) :]:
        axes.remove()
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path


def _draw_panel(axes: Any, cells: Sequence[Cell], across: str) -> None:
    for contender in dict.fromkeys(cell["contender"] for cell in cells):
        mine = [cell for cell in cells if cell["contender"] == contender]
        points = sorted((cell[across], cell["medians"]["wall_s"] * 1e3) for cell in mine)
        width = 3 if contender == OURS else 1.5
        style = {"color": _COLOURS[contender], "linewidth": width, "marker": "o", "label": mine[0]["label"]}
        axes.plot(*zip(*points, strict=True), **style)
    ideal = sorted({(cell[across], cell["round_trips"] * cell["latency_ms"]) for cell in cells if cell["latency_ms"]})
    if ideal:
        axes.plot(*zip(*ideal, strict=True), "kx:", label="round trips alone")
    if across == "arrays":
        axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.grid(visible=True, which="both", alpha=0.2)
    axes.legend(fontsize="x-small")


def _place(cell: Cell) -> str:
    """Return the scenario, with the store where the layout tells several apart."""
    store, colon, _ = cell["layout"].partition(":")
    return f"{cell['scenario']}, {store}" if colon else str(cell["scenario"])
