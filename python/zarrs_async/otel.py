"""OpenTelemetry: a span for each batch, and the engine's counters as metrics.

It uses the API alone; a program that wants to see something sets up the SDK and its exporters.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from opentelemetry import metrics, trace
from opentelemetry.metrics import Observation

from zarrs_async import _observe
from zarrs_async._stats import stats

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from opentelemetry.metrics import CallbackOptions, MeterProvider
    from opentelemetry.trace import Span, TracerProvider

__all__ = ["instrument", "uninstrument"]

_NAME = "zarrs_async"
_GAUGES = ("requests_in_flight",)
# A maximum since the process began is no metric: whoever wants one takes it of the gauge.
_LEFT_OUT = ("requests_in_flight_max", "fallback_causes")


class _Spans:
    """Makes a span of each batch, below the span of the task that awaits it."""

    def __init__(self, provider: TracerProvider | None) -> None:
        self._tracer = trace.get_tracer(_NAME, tracer_provider=provider)
        self._open: dict[int, Span] = {}

    def begin(self, batch: _observe.Batch) -> None:
        self._open[id(batch)] = self._tracer.start_span(
            f"{_NAME}.{batch.operation}",
            attributes={
                f"{_NAME}.key": batch.key,
                f"{_NAME}.chunks": batch.chunks,
                f"{_NAME}.bytes": batch.nbytes,
                f"{_NAME}.sharded": batch.sharded,
            },
        )

    def end(self, batch: _observe.Batch, error: BaseException | None) -> None:
        # A batch that began before this was set up has no span.
        span = self._open.pop(id(batch), None)
        if span is None:
            return
        if error is not None:
            span.record_exception(error)
            span.set_status(trace.StatusCode.ERROR, type(error).__name__)
        span.end()


_spans: list[_Spans] = []


def instrument(*, tracer_provider: TracerProvider | None = None, meter_provider: MeterProvider | None = None) -> None:
    """Trace batches, and offer the counters of `zarrs_async.stats` as metrics.

    Parameters
    ----------
    tracer_provider, meter_provider
        Of OpenTelemetry; those of the process where none are given.

    Notes
    -----
    Spans are called ``zarrs_async.read`` and ``zarrs_async.write``, and have the first chunk's key, the number of
    chunks, and the bytes of the output or the values. Metrics are called ``zarrs_async.requests`` and so on. A second
    call does nothing.
    """
    if _spans:
        return
    _spans.append(_Spans(tracer_provider))
    _observe.observers.append(_spans[0])
    meter = metrics.get_meter(_NAME, meter_provider=meter_provider)
    for name in stats():
        if name in _LEFT_OUT:
            continue
        make = meter.create_observable_gauge if name in _GAUGES else meter.create_observable_counter
        make(f"{_NAME}.{name}", callbacks=[_observed(name)], unit="By" if name.startswith("bytes_") else "1")


def uninstrument() -> None:
    """Trace no more batches; metrics stay, as OpenTelemetry cannot take them back."""
    for spans in _spans:
        _observe.observers.remove(spans)
    _spans.clear()


def _observed(name: str) -> Callable[[CallbackOptions], Iterable[Observation]]:
    def observe(_options: CallbackOptions) -> Iterable[Observation]:
        return [Observation(stats()[name])]

    return observe
