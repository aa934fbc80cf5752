"""OpenTelemetry: a span for each batch, and the counters as metrics."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from support.remote import served

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

    from support.servers import RangeServer

VALUES = np.arange(1024, dtype="uint16") + 1


class Traced:
    """What the SDK gathers."""

    def __init__(self) -> None:
        self.exporter, self.reader = InMemorySpanExporter(), InMemoryMetricReader()
        self.tracers = TracerProvider()
        self.tracers.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.meters = MeterProvider([self.reader])

    def spans(self) -> list[Any]:
        """Return the spans that have ended."""
        return list(self.exporter.get_finished_spans())

    def metrics(self) -> dict[str, Any]:
        """Return the metrics by name."""
        data: Any = self.reader.get_metrics_data()
        [resource] = data.resource_metrics
        [scope] = resource.scope_metrics
        return {metric.name: metric.data.data_points[0].value for metric in scope.metrics}


@pytest.fixture
def traced(pipeline: ModuleType) -> Iterator[Traced]:
    """Trace what the test does."""
    from zarrs_async import otel  # noqa: PLC0415  # the fixture has imported the package

    traced = Traced()
    otel.instrument(tracer_provider=traced.tracers, meter_provider=traced.meters)
    yield traced
    otel.uninstrument()
    traced.meters.shutdown()
    assert not pipeline._observe.observers


@pytest.mark.usefixtures("native")
async def test_a_batch_is_a_span_below_that_of_its_task(range_server: RangeServer, traced: Traced) -> None:
    array = await served(range_server, VALUES, chunks=(256,))
    with traced.tracers.get_tracer("test").start_as_current_span("request"):
        await asyncio.gather(array.getitem(...), array.getitem(slice(300, 310)))
    *batches, request = traced.spans()
    assert [span.name for span in batches] == ["zarrs_async.read"] * 2
    assert {span.parent.span_id for span in batches} == {request.context.span_id}
    assert sorted(span.attributes["zarrs_async.chunks"] for span in batches) == [1, 4]
    assert {span.attributes["zarrs_async.key"] for span in batches} == {"c/0", "c/1"}
    assert all(span.status.is_unset for span in batches)


async def test_a_cancelled_batch_is_a_span_that_says_so(range_server: RangeServer, traced: Traced) -> None:
    array = await served(range_server, VALUES, chunks=(256,))
    range_server.hold("/c/")
    reading = asyncio.create_task(array.getitem(...))
    await range_server.wait_async(held=4)
    reading.cancel()
    await asyncio.wait([reading])
    [span] = traced.spans()
    assert span.status.description == "CancelledError"


@pytest.mark.usefixtures("native")
async def test_counters_are_metrics(range_server: RangeServer, traced: Traced, pipeline: ModuleType) -> None:
    array = await served(range_server, VALUES, chunks=(256,))
    before = traced.metrics()
    await array.getitem(...)
    after = traced.metrics()
    assert set(after) == {
        f"zarrs_async.{name}" for name in pipeline.stats() if name not in {"requests_in_flight_max", "fallback_causes"}
    }
    assert after["zarrs_async.batches"] - before["zarrs_async.batches"] == 1
    assert after["zarrs_async.bytes_read"] - before["zarrs_async.bytes_read"] == VALUES.nbytes
    assert after["zarrs_async.requests_in_flight"] == 0


def test_a_second_call_does_nothing(traced: Traced, pipeline: ModuleType) -> None:
    from zarrs_async import otel  # noqa: PLC0415  # as above

    otel.instrument(tracer_provider=traced.tracers, meter_provider=traced.meters)
    assert len(pipeline._observe.observers) == 1
