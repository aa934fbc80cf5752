"""What the cells come to when one is set against another, and how a figure is written."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.contenders import DIRECT, KEEPING, OURS, ours

if TYPE_CHECKING:
    from collections.abc import Iterable

    from benchmarks.report import Cell

Row = tuple[str, str, str, float]
"""What a row is told by: scenario, layout, case, latency in ms."""

_FLOOR = "floor"


class Figures:
    """The medians of all cells, and what follows from several of them.

    Every method returns ``None`` where one of the figures is missing.
    """

    def __init__(self, cells: Iterable[Cell]) -> None:
        self._cells = {(row_of(cell), cell["contender"]): cell for cell in cells}

    def median(self, row: Row, contender: str, name: str) -> float | None:
        """Return a figure of one contender."""
        cell = self._cells.get((row, contender))
        return None if cell is None else cell["medians"].get(name)

    def over_ours(self, cell: Cell, name: str) -> float | None:
        """Return how many times the cell's figure goes into ours."""
        return _quotient(self.median(row_of(cell), ours(cell["scenario"]), name), cell["medians"].get(name))

    def over_best_peer(self, cell: Cell, name: str) -> tuple[float, str] | None:
        """Return how many times the smallest figure of the peers goes into the cell's, and whose that is."""
        row = row_of(cell)
        peers = (
            (other["medians"][name], other["label"])
            for (where, contender), other in self._cells.items()
            if where == row and contender not in {OURS, KEEPING, DIRECT, _FLOOR} and name in other["medians"]
        )
        best, label = min(peers, default=(None, ""))
        ratio = _quotient(cell["medians"].get(name), best)
        return None if ratio is None else (ratio, label)

    def over_ideal(self, cell: Cell) -> float | None:
        """Return how many times round trips × latency, and the contender's own time at 0 ms, go into its time."""
        if not cell["latency_ms"] or not cell["round_trips"]:
            return None
        scenario, layout, case, _ = row_of(cell)
        own = self.median((scenario, layout, case, 0.0), cell["contender"], "wall_s")
        if own is None:
            return None
        return _quotient(cell["medians"].get("wall_s"), cell["round_trips"] * cell["latency_ms"] / 1e3 + own)

    def above_floor(self, cell: Cell, name: str) -> float | None:
        """Return by how much the cell's figure is above the floor's."""
        mine, floor = cell["medians"].get(name), self.median(row_of(cell), _FLOOR, name)
        return None if mine is None or floor is None else mine - floor


def row_of(cell: Cell) -> Row:
    """Return the row that the cell belongs to."""
    return cell["scenario"], cell["layout"], cell["case"], cell["latency_ms"]


def name_of(row: Row) -> str:
    """Return what a row is called beside its layout."""
    _, _, case, latency_ms = row
    return f"{case} +{latency_ms:g} ms" if latency_ms else case


def as_ms(seconds: float) -> str:
    """Write seconds as milliseconds, to three digits."""
    milliseconds = seconds * 1e3
    return f"{milliseconds:,.0f}" if abs(milliseconds) >= 100 else f"{milliseconds:.3g}"


def as_mib(nbytes: float) -> str:
    """Write bytes as whole MiB."""
    return f"{nbytes / 2**20:,.0f}"


def as_times(ratio: float | None) -> str:
    """Write a ratio; nothing where there is none."""
    if ratio is None:
        return ""
    return f"{ratio:.2f}×" if ratio < 10 else f"{ratio:.0f}×"


def _quotient(value: float | None, by: float | None) -> float | None:
    return None if value is None or by is None or by <= 0 else value / by
