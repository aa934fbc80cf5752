"""Cells to pictures: time against latency, and against the number of gathered arrays."""

from __future__ import annotations

import importlib.util
import math
from typing import TYPE_CHECKING, Any

from benchmarks.contenders import BEFORE, CONTENDERS, OURS, TUNED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from benchmarks.report import Cell

_COLOURS = {name: f"C{at}" for at, name in enumerate([*CONTENDERS, *TUNED, BEFORE])}

_IDEAL = "ideal: round trips × latency"

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
    # At least as wide as the legend, which is below all panels.
    size = max(9, 4.5 * columns), 3.2 * rows + 0.5
    figure, grid = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
    lines: dict[str, Any] = {}
    for axes, (name, cells) in zip(grid.flat, panels.items(), strict=False):
        lines |= _draw_panel(axes, cells, across)
        axes.set_title(name, fontsize="medium")
        axes.set_xlabel(title)
        axes.set_ylabel("wall time, ms")
    for axes in grid.flat[len(panels) :]:
        axes.remove()
    figure.legend(lines.values(), lines, loc="outside lower center", ncols=min(5, len(lines)), fontsize="small")
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path


def _draw_panel(axes: Any, cells: Sequence[Cell], across: str) -> dict[str, Any]:
    """Draw the contenders and the ideal; return the lines by what the legend calls them."""
    lines: dict[str, Any] = {}
    for contender in dict.fromkeys(cell["contender"] for cell in cells):
        mine = [cell for cell in cells if cell["contender"] == contender]
        points = sorted((cell[across], cell["medians"]["wall_s"] * 1e3) for cell in mine)
        # Ours last, and so on top: where it coincides with another it should still be seen.
        style = {"linewidth": 2.5, "zorder": 3} if contender == OURS else {"linewidth": 1.3}
        (lines[mine[0]["label"]],) = axes.plot(
            *zip(*points, strict=True), color=_COLOURS[contender], marker="o", markersize=4, **style
        )
    ideal = _ideal(cells, across)
    if ideal:
        (lines[_IDEAL],) = axes.plot(*zip(*ideal, strict=True), "k--", linewidth=1.2)
    _scale(axes, sorted({cell[across] for cell in cells}), across)
    return lines


def _ideal(cells: Sequence[Cell], across: str) -> list[tuple[float, float]]:
    """Return round trips × latency over the field, as far as a logarithmic axis can show it."""
    points = {(cell[across], cell["round_trips"] * cell["latency_ms"]) for cell in cells if cell["latency_ms"]}
    if across == "latency_ms" and points:
        # It begins at zero, like the axis; a line needs a second point where one latency was measured.
        nearest, time = min(points)
        points.add((nearest / 2, time / 2))
    return sorted(points)


def _scale(axes: Any, measured: Sequence[float], across: str) -> None:
    """Give each measured value its tick, and write all numbers out."""
    if across == "arrays":
        axes.set_xscale("log", base=2)
    else:
        # Zero is one of the latencies, and the rest are not evenly apart.
        axes.set_xscale("symlog", linthresh=next(value for value in measured if value), linscale=0.5)
    axes.set_xticks(measured, [f"{value:g}" for value in measured])
    axes.set_xticks([], minor=True)
    axes.set_yscale("log", subs=(2, 5))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("{x:g}")
    axes.tick_params(axis="y", which="both", labelsize="small")
    axes.grid(visible=True, which="both", alpha=0.2)


def _place(cell: Cell) -> str:
    """Return the scenario, with the store where the layout tells several apart."""
    store, colon, _ = cell["layout"].partition(":")
    return f"{cell['scenario']}, {store}" if colon else str(cell["scenario"])
