"""Whether our cells reach their goals: a count per scenario, and the figures of each cell that does not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from benchmarks.cases import AT_ONCE
from benchmarks.contenders import ours
from benchmarks.figures import Figures, Row, as_mib, as_ms, as_times, name_of, row_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from benchmarks.report import Cell

_OVER_IDEAL = 1.15
_OVER_ALONE = 2.0
_LAG_S = 0.010
_CANCEL_S = 0.050
_OVER_LIMIT_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Goal:
    """A figure and the most that it may be.

    Parameters
    ----------
    name
        What is measured.
    figure, limit
        What it came to, and what is allowed.
    text
        How it reads where it is missed.
    """

    name: str
    figure: float
    limit: float
    text: str

    @property
    def is_missed(self) -> bool:
        """Whether the figure is over the limit."""
        return self.figure > self.limit


@dataclass(frozen=True, slots=True)
class Verdict:
    """One of our cells: the goals that it misses, and why it has no figures if so."""

    row: Row
    missed: tuple[Goal, ...]
    problem: str | None

    @property
    def is_reached(self) -> bool:
        """Whether there is nothing to be said."""
        return not self.missed and not self.problem

    def __str__(self) -> str:
        """Say what is missed, in one line."""
        what = [f"n/a: {self.problem}"] if self.problem else [goal.text for goal in self.missed]
        return f"{self.row[1]}, {name_of(self.row)}: {'; '.join(what)}"

    def as_json(self) -> dict[str, Any]:
        """Return it as it is stored."""
        _, layout, case, latency_ms = self.row
        missed = [{"goal": goal.name, "figure": goal.figure, "limit": goal.limit} for goal in self.missed]
        return {"layout": layout, "case": case, "latency_ms": latency_ms, "missed": missed, "problem": self.problem}


def judge(cells: Sequence[Cell]) -> dict[str, list[Verdict]]:
    """Return the verdicts on our cells that have goals in this run, by scenario."""
    figures = Figures(cells)
    verdicts: dict[str, list[Verdict]] = {}
    for cell in cells:
        if cell["contender"] != ours(cell["scenario"]):
            continue
        goals = tuple(_goals(cell, figures)) if cell["medians"] else ()
        if goals or cell["problem"]:
            missed = tuple(goal for goal in goals if goal.is_missed)
            verdicts.setdefault(cell["scenario"], []).append(Verdict(row_of(cell), missed, cell["problem"]))
    return verdicts


def as_json(verdicts: dict[str, list[Verdict]]) -> dict[str, Any]:
    """Return the verdicts as they are stored: per scenario two counts, and the cells that fall short."""
    return {
        scenario: {
            "cells": len(mine),
            "reached": sum(verdict.is_reached for verdict in mine),
            "short": [verdict.as_json() for verdict in mine if not verdict.is_reached],
        }
        for scenario, mine in verdicts.items()
    }


def as_markdown(verdicts: dict[str, list[Verdict]]) -> str:
    """Return the verdicts as they stand above the tables; empty if there are none."""
    if not verdicts:
        return ""
    parts = ["## Verdicts\n"]
    for scenario, mine in verdicts.items():
        short = [verdict for verdict in mine if not verdict.is_reached]
        parts.append(f"{scenario}: {len(mine) - len(short)} of {len(mine)} cells reached\n")
        if short:
            parts.append("".join(f"- {verdict}\n" for verdict in short))
    return "\n".join(parts)


def _goals(cell: Cell, figures: Figures) -> Iterator[Goal]:
    """Yield the goals of a cell that this run has the figures for."""
    seen = cell["medians"]
    match cell["scenario"]:
        case "local" | "codecs" | "slabs" | "small" | "annbatch" | "opens" | "remote" | "s3":
            yield from _speed(cell, figures)
        case "loop":
            lag = figures.above_floor(cell, "lag_worst_s")
            if lag is not None:
                yield Goal("loop lag above the floor's, s", lag, _LAG_S, f"loop {as_ms(lag)} ms later than the floor's")
        case "fairness":
            yield _times_alone(cell, "beside")
        case "memory":
            peak, limit = seen.get("peak_over_output_bytes"), seen.get("memory_limit_bytes")
            if peak is not None and limit is not None:
                text = f"peak {as_mib(peak)} MiB over the output, with a limit of {as_mib(limit)} MiB"
                yield Goal("peak above the output, bytes", peak, limit + _OVER_LIMIT_BYTES, text)
        case "cancel":
            resumed, closed, since = (seen[name] for name in ("resumed_s", "closed_s", "sent_since"))
            yield Goal("caller goes on, s", resumed, _CANCEL_S, f"caller goes on after {as_ms(resumed)} ms")
            yield Goal("no request in flight, s", closed, _CANCEL_S, f"requests end after {as_ms(closed)} ms")
            yield Goal("requests sent since", since, 0, f"{since:.0f} requests sent since")
            yield _times_alone(cell, "right after")


def _speed(cell: Cell, figures: Figures) -> Iterator[Goal]:
    """Yield what holds for a read or write among peers, and for a read against the ideal."""
    ideal = figures.over_ideal(cell)
    if ideal is not None and cell["at_once"] is not None and cell["at_once"] <= AT_ONCE:
        yield _ratio("wall ÷ ideal", ideal, _OVER_IDEAL, "the ideal")
    for name, what in (("wall_s", "wall"), ("cpu_s", "CPU")):
        best = figures.over_best_peer(cell, name)
        if best is not None:
            ratio, peer = best
            yield _ratio(f"{what} ÷ {peer}", ratio, 1.0, f"the {what} of {peer}")


def _times_alone(cell: Cell, when: str) -> Goal:
    ratio = cell["medians"]["wall_s"] / cell["medians"]["alone_s"]
    return _ratio(f"{when} ÷ alone", ratio, _OVER_ALONE, f"its time alone, {when}")


def _ratio(name: str, ratio: float, limit: float, of: str) -> Goal:
    # Judged as it is shown: nobody should read "1.00×" among the misses.
    return Goal(name, round(ratio, 2), limit, f"{as_times(ratio)} {of}")
