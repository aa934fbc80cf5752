"""The benchmarks' verdicts, on figures that nobody had to measure."""

from __future__ import annotations

from typing import Any

from benchmarks.verdicts import as_json, as_markdown, judge


def cell(contender: str, scenario: str = "remote", *, latency_ms: float = 0.0, **figures: float) -> dict[str, Any]:
    """Return a contender's cell of a read of 64 chunks in one round trip."""
    row = {"scenario": scenario, "layout": "plain", "case": "64 chunks", "latency_ms": latency_ms}
    who = {"contender": contender, "label": contender.title()}
    return {**row, **who, "round_trips": 1, "at_once": 64, "medians": figures, "problem": None, "note": None}


def lines(*cells: dict[str, Any]) -> list[str]:
    """Return what the report says of the cells, without its headings."""
    return [line for line in as_markdown(judge(cells)).splitlines() if line and not line.startswith("#")]


def test_ours_ahead_of_every_peer_is_reached() -> None:
    ours, peer = cell("ours", wall_s=1.0, cpu_s=1.0), cell("fused", wall_s=1.0, cpu_s=1.001)
    assert lines(ours, peer) == ["remote: 1 of 1 cells reached"]


def test_best_peer_is_named_per_figure_and_the_floor_is_none() -> None:
    cells = (
        cell("ours", wall_s=1.2, cpu_s=0.9),
        cell("fused", wall_s=2.0, cpu_s=0.6),
        cell("tensorstore", wall_s=1.0, cpu_s=0.8),
        cell("floor", wall_s=0.1, cpu_s=0.1),
    )
    assert lines(*cells) == [
        "remote: 0 of 1 cells reached",
        "- plain, 64 chunks: 1.20× the wall of Tensorstore; 1.50× the CPU of Fused",
    ]


def test_ideal_is_round_trips_and_the_own_time_without_latency() -> None:
    cells = (cell("ours", wall_s=0.1), cell("ours", latency_ms=100.0, wall_s=0.25))
    assert lines(*cells) == ["remote: 0 of 1 cells reached", "- plain, 64 chunks +100 ms: 1.25× the ideal"]


def test_ideal_is_no_goal_for_more_requests_than_are_allowed_at_once() -> None:
    cells = (cell("ours", wall_s=0.1), cell("ours", latency_ms=100.0, wall_s=0.25))
    assert judge([{**each, "at_once": 1_000} for each in cells]) == {}


def test_cell_of_ours_without_figures_is_not_reached() -> None:
    failed = {**cell("ours"), "problem": "over 4 s"}
    assert lines(failed) == ["remote: 0 of 1 cells reached", "- plain, 64 chunks: n/a: over 4 s"]


def test_loop_lag_counts_from_the_floor() -> None:
    cells = (cell("ours", "loop", lag_worst_s=0.025), cell("floor", "loop", lag_worst_s=0.005))
    assert lines(*cells)[1:] == ["- plain, 64 chunks: loop 20 ms later than the floor's"]


def test_memory_is_held_to_the_limit_and_an_allowance() -> None:
    limit = 1 << 30
    reached = cell("ours", "memory", memory_limit_bytes=limit, peak_over_output_bytes=limit + (64 << 20))
    missed = cell("ours", "memory", memory_limit_bytes=limit, peak_over_output_bytes=limit + (65 << 20))
    assert lines(reached)[1:] == []
    assert lines(missed)[1:] == ["- plain, 64 chunks: peak 1,089 MiB over the output, with a limit of 1,024 MiB"]


def test_cancelled_read_must_end_and_leave_the_next_one_as_fast_as_before() -> None:
    figures = {"resumed_s": 0.002, "closed_s": 0.06, "sent_since": 3, "alone_s": 0.01, "wall_s": 0.03}
    assert lines(cell("ours", "cancel", **figures))[1:] == [
        "- plain, 64 chunks: requests end after 60 ms; 3 requests sent since; 3.00× its time alone, right after"
    ]


def test_what_is_stored_has_the_counts_and_the_figures() -> None:
    stored = as_json(judge([cell("ours", "fairness", wall_s=0.05, alone_s=0.02)]))
    assert stored["fairness"]["cells"] == 1
    assert stored["fairness"]["reached"] == 0
    assert stored["fairness"]["short"][0]["missed"] == [{"goal": "beside ÷ alone", "figure": 2.5, "limit": 2.0}]
