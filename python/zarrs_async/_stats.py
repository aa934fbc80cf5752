"""Counters of what the engine did, and of what fell back."""

from __future__ import annotations

import logging
import os
from collections import Counter
from typing import Any

from zarrs_async import _rust, _tables
from zarrs_async._observe import logger

_fallback_causes: Counter[str] = Counter()

_GAUGES = ("requests_in_flight", "requests_in_flight_max")
"""What is no count of things that happened, so that two values have no difference."""

if hasattr(os, "register_at_fork"):
    # The engine's counters begin anew in a child, and so do these.
    os.register_at_fork(after_in_child=_fallback_causes.clear)


class Stats(dict[str, Any]):
    """Counters by name, as a dict that a terminal and a notebook show as a table of what is not zero."""

    def since(self, before: Stats) -> Stats:
        """Give what was counted after `before`; without gauges, which count nothing.

        Parameters
        ----------
        before : Stats
            An earlier value of `stats`.
        """
        counted = {
            name: value - before[name] for name, value in self.items() if isinstance(value, int) and name not in _GAUGES
        }
        causes = Counter(self["fallback_causes"]) - Counter(before["fallback_causes"])
        return Stats(counted, fallback_causes=dict(causes))

    def rows(self) -> list[tuple[str, Any]]:
        """Give the rows of the table: what is not zero, and each cause of a fallback."""
        counts = [(name, self._shown(name)) for name, value in self.items() if value and name != "fallback_causes"]
        causes = [(f"fallback: {cause}", count) for cause, count in self["fallback_causes"].items()]
        return [*counts, *causes] or [("batches", 0)]

    def _shown(self, name: str) -> int | str:
        value: int = self[name]
        return _tables.size(value) if name.startswith("bytes_") else value

    def __repr__(self) -> str:
        """Show what is not zero."""
        return _tables.lines("zarrs_async, since the process began", self.rows())

    def _repr_html_(self) -> str:
        return _tables.html("zarrs_async, since the process began", self.rows())


def stats() -> Stats:
    """Give the counters of this process.

    Returns
    -------
    Stats
        A dict of integers by name: ``batches``, ``requests``, ``requests_in_flight``, ``retries``,
        ``bytes_read`` and so on, the engine's; ``fallback_batches``, the batches that zarr's default
        pipeline did; and under ``fallback_causes`` a dict with the number of batches by cause. It is shown as
        a table.
    """
    return Stats(
        _rust.stats(),
        fallback_batches=_fallback_causes.total(),
        fallback_causes=dict(_fallback_causes),
    )


def count_fallback(cause: str) -> bool:
    """Count a batch that fell back; tell whether its cause is new."""
    _fallback_causes[cause] += 1
    new = _fallback_causes[cause] == 1
    level = logging.INFO if new else logging.DEBUG
    logger.log(level, "done by zarr's default pipeline: zarrs_async does not support %s", cause)
    return new
