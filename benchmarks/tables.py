"""Cells to Markdown: per scenario its tables, then who could not, and why."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING

from benchmarks.contenders import OURS
from benchmarks.figures import Figures, as_mib, as_ms, as_times, name_of, row_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from benchmarks.report import Cell


def tables(cells: Sequence[Cell]) -> str:
    """Return everything that was measured, and what was not."""
    columns = _Columns(Figures(cells))
    parts: list[str] = []
    for scenario in dict.fromkeys(cell["scenario"] for cell in cells):
        mine = [cell for cell in cells if cell["scenario"] == scenario]
        parts.append(f"## {scenario}\n")
        for title, figure in columns.of(scenario).items():
            table = _table(mine, figure)
            if table:
                parts.append(f"{title}:\n\n{table}\n")
        if scenario == "small":
            parts.append(columns.means(mine))
        parts.append(_remarks(mine))
    return "\n".join(parts)


class _Columns:
    """How a cell reads in each of the tables; empty where a table does not concern it."""

    def __init__(self, figures: Figures) -> None:
        self._figures = figures

    def of(self, scenario: str) -> dict[str, Callable[[Cell], str]]:
        """Return the tables of a scenario: a title, and the figure of a cell."""
        match scenario:
            case "fairness":
                return {"Alone → beside, ms (ratio)": _beside}
            case "cancel":
                return {
                    "Cancelled → caller goes on / server sees no request in flight, ms "
                    "(1,500: not while it was watched)": _stopped,
                    "Requests in flight when cancelled / sent since": _sent_since,
                    "The next small read: alone → right after, ms (ratio; 1,500: given up)": _beside,
                }
            case "memory":
                return {
                    "Peak resident memory above the output, MiB, of what is allowed where there is a limit "
                    "(negative: the output was never touched)": _peak,
                    "Wall ms / CPU ms": _times,
                }
            case "loop":
                return {
                    "Loop lag above the floor's, worst / p99, ms": self._lags_above_floor,
                    "Loop lag, worst / p99, ms": _lags,
                    "Wall ms / CPU ms": _times,
                }
            case _:
                sent = {"MiB that the server sent": _sent} if scenario == "slabs" else {}
                return {
                    "Wall ms / CPU ms": _times,
                    "Ours ÷ each, wall / CPU": self._ratios,
                    "Opens / stats of files": _opens,
                    "Requests / most in flight, as the server saw them": _requests,
                    "Wall ÷ ideal (round trips × latency + the contender's own time at 0 ms)": self._against_ideal,
                    **sent,
                }

    def means(self, cells: Sequence[Cell]) -> str:
        """Return ours ÷ the best of the others in wall time, over all rows of a layout."""
        ratios: dict[str, list[float]] = {}
        for cell in cells:
            best = self._figures.over_best_peer(cell, "wall_s") if cell["contender"] == OURS else None
            if best is not None:
                ratios.setdefault(cell["layout"], []).append(best[0])
        lines = (
            f"| {layout} | {as_times(statistics.geometric_mean(mine))} | {as_times(max(mine))} |"
            for layout, mine in ratios.items()
        )
        return "\n".join(("Ours ÷ the best, wall:\n", "| | geometric mean | worst |", "|---|---|---|", *lines, ""))

    def _ratios(self, cell: Cell) -> str:
        ratios = [as_times(self._figures.over_ours(cell, name)) for name in ("wall_s", "cpu_s")]
        return " / ".join(ratios) if all(ratios) else ""

    def _against_ideal(self, cell: Cell) -> str:
        return as_times(self._figures.over_ideal(cell))

    def _lags_above_floor(self, cell: Cell) -> str:
        lags = [self._figures.above_floor(cell, name) for name in ("lag_worst_s", "lag_p99_s")]
        return " / ".join(f"{lag * 1e3:.1f}" for lag in lags if lag is not None)


def _times(cell: Cell) -> str:
    return f"{as_ms(cell['medians']['wall_s'])} / {as_ms(cell['medians']['cpu_s'])}"


def _requests(cell: Cell) -> str:
    seen = cell["medians"]
    return f"{seen['requests']:.0f} / {seen['in_flight_max']:.0f}" if "requests" in seen else ""


def _opens(cell: Cell) -> str:
    seen = cell["medians"]
    return f"{seen['opens']:.0f} / {seen['stats']:.0f}" if "opens" in seen else ""


def _sent(cell: Cell) -> str:
    return f"{cell['medians']['sent_bytes'] / 2**20:.1f}" if "sent_bytes" in cell["medians"] else ""


def _lags(cell: Cell) -> str:
    seen = cell["medians"]
    return f"{seen['lag_worst_s'] * 1e3:.1f} / {seen['lag_p99_s'] * 1e3:.1f}"


def _beside(cell: Cell) -> str:
    alone, wall = cell["medians"]["alone_s"], cell["medians"]["wall_s"]
    return f"{as_ms(alone)} → {as_ms(wall)} ({as_times(wall / alone)})"


def _stopped(cell: Cell) -> str:
    return f"{as_ms(cell['medians']['resumed_s'])} / {as_ms(cell['medians']['closed_s'])}"


def _sent_since(cell: Cell) -> str:
    return f"{cell['medians']['in_flight_cancelled']:.0f} / {cell['medians']['sent_since']:.0f}"


def _peak(cell: Cell) -> str:
    peak, limit = (cell["medians"].get(name) for name in ("peak_over_output_bytes", "memory_limit_bytes"))
    if peak is None:
        return ""
    return as_mib(peak) if limit is None else f"{as_mib(peak)} of {as_mib(limit)}"


def _table(cells: Sequence[Cell], figure: Callable[[Cell], str]) -> str:
    """Return a table with a row per case and a column per contender; empty if it says nothing."""
    labels = {cell["contender"]: cell["label"] for cell in cells}
    index = {(row_of(cell), cell["contender"]): cell for cell in cells}
    lines: list[str] = []
    for row in dict.fromkeys(row_of(cell) for cell in cells):
        mine = [index[row, contender] for contender in labels]
        shown = [figure(cell) if cell["medians"] else "n/a" for cell in mine]
        if any(text not in {"", "n/a"} for text in shown):
            lines.append(f"| {row[1]} | {name_of(row)} | {' | '.join(shown)} |")
    if not lines:
        return ""
    return "\n".join((f"| | | {' | '.join(labels.values())} |", f"|{'---|' * (len(labels) + 2)}", *lines))


def _remarks(cells: Sequence[Cell]) -> str:
    """Return who has no figures and why, and what to know about the figures of others."""
    places: dict[tuple[str, str, str], list[str]] = {}
    for cell in cells:
        for kind, text in (("n/a", cell["problem"]), ("note", cell["note"])):
            if text:
                row = row_of(cell)
                places.setdefault((kind, cell["label"], text), []).append(f"{row[1]}, {name_of(row)}")
    count = len({row_of(cell) for cell in cells})
    return "".join(
        f"- {who}, {kind}: {text} ({'everywhere' if len(where) == count else '; '.join(where)})\n"
        for (kind, who, text), where in places.items()
    )
