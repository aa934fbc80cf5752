"""What the engine does within a block of code."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Self

from zarrs_async import _tables
from zarrs_async._stats import Stats, stats

if TYPE_CHECKING:
    from types import TracebackType


class Measurement(Mapping[str, Any]):
    """The differences of `stats` between the beginning and the end of a ``with`` block, or now within it.

    A mapping of counters by name, without the gauges ``requests_in_flight`` and ``requests_in_flight_max``.
    All of the process is counted, whatever else it reads meanwhile.

    Attributes
    ----------
    seconds : float
        Wall time of the block, or of it until now.
    """

    def __init__(self) -> None:
        self._before, self._begun = stats(), time.perf_counter()
        # What was counted, once the block has ended.
        self._difference: Stats | None = None
        self._seconds = 0.0

    def __enter__(self) -> Self:
        """Begin."""
        self._before, self._begun, self._difference = stats(), time.perf_counter(), None
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End: the counters stand still from here."""
        self._seconds, self._difference = time.perf_counter() - self._begun, self._counted()

    @property
    def seconds(self) -> float:
        """Wall time of the block, or of it until now."""
        return time.perf_counter() - self._begun if self._difference is None else self._seconds

    def __getitem__(self, name: str) -> Any:  # noqa: ANN401  # a number, or the causes of fallbacks
        """Give a counter's difference."""
        return self._counted()[name]

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names of the counters."""
        return iter(self._counted())

    def __len__(self) -> int:
        """Count the counters."""
        return len(self._counted())

    def __repr__(self) -> str:
        """Show what is not zero, and bytes per second."""
        return _tables.lines(self._title(), self._counted().rows())

    def _repr_html_(self) -> str:
        return _tables.html(self._title(), self._counted().rows())

    def _counted(self) -> Stats:
        return stats().since(self._before) if self._difference is None else self._difference

    def _title(self) -> str:
        seconds, counted = self.seconds, self._counted()
        rate = (counted["bytes_read"] + counted["bytes_written"]) / max(seconds, 1e-9)
        return f"zarrs_async, in {seconds:.3f} s ({_tables.size(round(rate))}/s)"


def measure() -> Measurement:
    """Measure what the engine does within a block of code.

    Returns
    -------
    Measurement
        A context manager, and the counters of the block; it is shown as a table.

    Examples
    --------
    >>> with zarrs_async.measure() as measured:  # doctest: +SKIP
    ...     array[:]
    >>> measured["requests"]  # doctest: +SKIP
    64
    """
    return Measurement()
