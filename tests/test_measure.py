"""What `stats` and `measure` show, and that a measurement has the differences of its block alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr
from zarr.storage import MemoryStore

if TYPE_CHECKING:
    from types import ModuleType

GAUGES = {"requests_in_flight", "requests_in_flight_max"}


@pytest.fixture
def array() -> Any:
    """Make an array of four chunks of 1 KiB, three of them stored."""
    array = zarr.create_array(MemoryStore(), shape=(1024,), chunks=(256,), dtype="i4", compressors=None)
    array[:768] = np.arange(768) + 1
    return array


@pytest.mark.usefixtures("pipeline")
def test_stats_are_shown_as_a_table(pipeline: ModuleType, array: Any) -> None:
    array[:]
    told = pipeline.stats()
    lines = repr(told).splitlines()
    assert lines[0] == "zarrs_async, since the process began"
    assert ["batches", f"{told['batches']:,}"] in [line.split() for line in lines]
    assert not any(line.endswith(" 0") for line in lines)
    assert "<th style='text-align:left'>chunks_decoded</th>" in told._repr_html_()


@pytest.mark.usefixtures("native")
def test_a_measurement_has_the_differences_of_its_block(pipeline: ModuleType, array: Any) -> None:
    array[:]
    with pipeline.measure() as measured:
        array[:]
    array[:]
    assert (measured["batches"], measured["requests"], measured["bytes_read"]) == (1, 4, 3 * 1024)
    assert (measured["chunks_decoded"], measured["chunks_missing"], measured["chunks_encoded"]) == (3, 1, 0)
    assert set(measured) == set(pipeline.stats()) - GAUGES
    assert len(measured) == len(set(measured))
    assert measured.seconds == measured.seconds > 0


@pytest.mark.usefixtures("native")
def test_a_measurement_is_live_within_its_block(pipeline: ModuleType, array: Any) -> None:
    with pipeline.measure() as measured:
        assert measured["batches"] == 0
        array[:256]
        assert measured["batches"] == 1
        array[:256]
        assert measured["batches"] == 2
    with measured:
        assert measured["batches"] == 0


@pytest.mark.usefixtures("native")
def test_a_measurement_ends_where_its_block_fails(pipeline: ModuleType, array: Any) -> None:
    with pytest.raises(IndexError), pipeline.measure() as measured:  # noqa: PT012  # the block is what is tested
        array[:256]
        array[5000]
    array[:]
    assert measured["batches"] == 1


def test_a_measurement_tells_fallbacks_by_cause(pipeline: ModuleType) -> None:
    array = zarr.create_array(MemoryStore(), name="\udcff", shape=(4,), chunks=(2,), dtype="i4")
    pipeline._stats._fallback_causes.clear()
    with pytest.warns(match="zarrs_async does not support"):
        array[...] = 7
    with pipeline.measure() as measured:
        array[:]
    [(cause, count)] = measured["fallback_causes"].items()
    assert count == measured["fallback_batches"] == 1
    assert f"  fallback: {cause}" in repr(measured)


@pytest.mark.usefixtures("native")
def test_a_measurement_shows_what_was_done_and_how_fast(pipeline: ModuleType, array: Any) -> None:
    with pipeline.measure() as measured:
        array[:]
    first, *rows = repr(measured).splitlines()
    assert first.startswith("zarrs_async, in 0.")
    assert first.endswith("/s)")
    assert [row.split() for row in rows] == [
        ["batches", "1"],
        ["requests", "4"],
        ["bytes_read", "3.0", "KiB"],
        ["chunks_decoded", "3"],
        ["chunks_missing", "1"],
    ]
    assert "<caption>zarrs_async, in 0." in measured._repr_html_()
    with pipeline.measure() as nothing:
        pass
    assert [row.split() for row in repr(nothing).splitlines()[1:]] == [["batches", "0"]]
