"""Cells to Markdown: per scenario its tables, then who could not, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.contenders import OURS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from benchmarks.report import Cell

Row = tuple[str, str, str, float]
"""What a row is told by: scenario, layout, case, latency in ms."""


def tables(cells: Sequence[Cell]) -> str:
    """Return everything that was measured, and what was not."""
    figures = Figures(cells)
    parts: list[str] = []
    for scenario in dict.fromkeys(cell["scenario"] for cell in cells):
        mine = [cell for cell in cells if cell["scenario"] == scenario]
        parts.append(f"## {scenario}\n")
        for title, figure in figures.of(scenario).items():
            table = _table(mine, figure)
            if table:
                parts.append(f"{title}:\n\n{table}\n")
        parts.append(_remarks(mine))
    return "\n".join(parts)


class Figures:
    """How a cell reads in each of the tables; empty where a table does not concern it.

    Parameters
    ----------
    cells
        All cells, since most figures compare one with another.
    """

    def __init__(self, cells: Iterable[Cell]) -> None:
        self._medians = {(_row(cell), cell["contender"]): cell["medians"] for cell in cells}

    def of(self, scenario: str) -> dict[str, Callable[[Cell], str]]:
        """Return the tables of a scenario: a title, and the figure of a cell."""
        match scenario:
            case "fairness":
                return {"Alone → beside, ms (ratio)": self._beside}
            case "memory":
                return {
                    "Peak resident memory above the output, MiB (negative: the output was never touched)": self._peak,
                    "Wall ms / CPU ms": self._times,
                }
            case "loop":
                return {
                    "Loop lag above the floor's, worst / p99, ms": self._lags_above_floor,
                    "Loop lag, worst / p99, ms": self._lags,
                    "Wall ms / CPU ms": self._times,
                }
            case _:
                return {
                    "Wall ms / CPU ms": self._times,
                    "Ours ÷ each, wall / CPU": self._ratios,
                    "Requests / most in flight, as the server saw them": self._requests,
                    "Wall ÷ ideal (round trips × latency + the contender's own time at 0 ms)": self._against_ideal,
                }

    def _median(self, cell: Cell, name: str, *, contender: str = "", latency_ms: float | None = None) -> float | None:
        """Return a figure of the cell, or of the one beside it."""
        if latency_ms is not None:
            cell = {**cell, "latency_ms": latency_ms}
        medians: dict[str, float] = self._medians.get((_row(cell), contender or cell["contender"]), {})
        return medians.get(name)

    @staticmethod
    def _times(cell: Cell) -> str:
        return f"{_ms(cell['medians']['wall_s'])} / {_ms(cell['medians']['cpu_s'])}"

    def _ratios(self, cell: Cell) -> str:
        ratios = [
            _ratio(self._median(cell, name, contender=OURS), cell["medians"][name]) for name in ("wall_s", "cpu_s")
        ]
        return " / ".join(ratios) if all(ratios) else ""

    @staticmethod
    def _requests(cell: Cell) -> str:
        seen = cell["medians"]
        return f"{seen['requests']:.0f} / {seen['in_flight_max']:.0f}" if "requests" in seen else ""

    def _against_ideal(self, cell: Cell) -> str:
        without = self._median(cell, "wall_s", latency_ms=0.0)
        if not cell["latency_ms"] or not cell["round_trips"] or without is None:
            return ""
        return _ratio(cell["medians"]["wall_s"], cell["round_trips"] * cell["latency_ms"] / 1e3 + without)

    @staticmethod
    def _lags(cell: Cell) -> str:
        seen = cell["medians"]
        return f"{seen['lag_worst_s'] * 1e3:.1f} / {seen['lag_p99_s'] * 1e3:.1f}"

    def _lags_above_floor(self, cell: Cell) -> str:
        lags: list[str] = []
        for name in ("lag_worst_s", "lag_p99_s"):
            floor = self._median(cell, name, contender="floor")
            if floor is None:
                return ""
            lags.append(f"{(cell['medians'][name] - floor) * 1e3:.1f}")
        return " / ".join(lags)

    @staticmethod
    def _beside(cell: Cell) -> str:
        alone, wall = cell["medians"]["alone_s"], cell["medians"]["wall_s"]
        return f"{_ms(alone)} → {_ms(wall)} ({_ratio(wall, alone)})"

    @staticmethod
    def _peak(cell: Cell) -> str:
        nbytes = cell["medians"].get("peak_over_output_bytes")
        return "" if nbytes is None else f"{nbytes / 2**20:,.0f}"


def _table(cells: Sequence[Cell], figure: Callable[[Cell], str]) -> str:
    """Return a table with a row per case and a column per contender; empty if it says nothing."""
    labels = {cell["contender"]: cell["label"] for cell in cells}
    index = {(_row(cell), cell["contender"]): cell for cell in cells}
    lines: list[str] = []
    for row in dict.fromkeys(_row(cell) for cell in cells):
        mine = [index[row, contender] for contender in labels]
        shown = [figure(cell) if cell["medians"] else "n/a" for cell in mine]
        if any(text not in {"", "n/a"} for text in shown):
            lines.append(f"| {row[1]} | {_name(row)} | {' | '.join(shown)} |")
    if not lines:
        return ""
    return "\n".join((f"| | | {' | '.join(labels.values())} |", f"|{'---|' * (len(labels) + 2)}", *lines))


def _remarks(cells: Sequence[Cell]) -> str:
    """Return who has no figures and why, and what to know about the figures of others."""
    places: dict[tuple[str, str, str], list[str]] = {}
    for cell in cells:
        for kind, text in (("n/a", cell["problem"]), ("note", cell["note"])):
            if text:
                row = _row(cell)
                places.setdefault((kind, cell["label"], text), []).append(f"{row[1]}, {_name(row)}")
    count = len({_row(cell) for cell in cells})
    return "".join(
        f"- {who}, {kind}: {text} ({'everywhere' if len(where) == count else '; '.join(where)})\n"
        for (kind, who, text), where in places.items()
    )


def _row(cell: Cell) -> Row:
    return cell["scenario"], cell["layout"], cell["case"], cell["latency_ms"]


def _name(row: Row) -> str:
    _, _, case, latency_ms = row
    return f"{case} +{latency_ms:g} ms" if latency_ms else case


def _ms(seconds: float) -> str:
    milliseconds = seconds * 1e3
    return f"{milliseconds:,.0f}" if milliseconds >= 100 else f"{milliseconds:.3g}"


def _ratio(value: float | None, by: float) -> str:
    if value is None or by <= 0:
        return ""
    ratio = value / by
    return f"{ratio:.2f}×" if ratio < 10 else f"{ratio:.0f}×"
