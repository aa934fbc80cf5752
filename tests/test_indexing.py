"""Each form of zarr's indexing, by name: what the default pipeline reads and writes, without a fallback."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import zarr
from oracle import DEFAULT, DEFAULT_WRITES_SHARDS, OURS, assert_same_bits, created, keys, opened
from strategies import Pick
from zarr.storage import LocalStore, MemoryStore

pytestmark = pytest.mark.usefixtures("native")

SHAPE = (13, 11, 7)
LAYOUTS: dict[str, Any] = {
    "chunks": {"chunks": (4, 3, 5)},
    "shards": {"chunks": (2, 3, 2), "shards": (6, 6, 4)},
    "one-chunk": {"chunks": SHAPE},
}
TRUE_FALSE = np.arange(13) % 3 == 0
VALUES = np.arange(1, 1 + 13 * 11 * 7, dtype="<i4").reshape(SHAPE)

BASIC: dict[str, Any] = {
    "everything": ...,
    "empty-tuple": (),
    "one-axis": slice(3, 9),
    "whole-chunks": (slice(4, 8), slice(3, 6), slice(0, 5)),
    "boxes": (slice(1, 12), slice(2, 10), slice(1, 6)),
    "steps": (slice(None, None, 2), slice(1, None, 3), slice(None, None, 4)),
    "step-beyond-chunks": (slice(1, None, 5), slice(None, None, 10), slice(2, None, 6)),
    "negative-bounds": (slice(-9, -2), slice(-5, None), slice(None, -1)),
    "beyond-the-end": (slice(5, 100), slice(-100, 4), slice(None)),
    "integer-first": 5,
    "integer-last": (slice(None), slice(None), 3),
    "integer-middle": (slice(1, 9), 4, slice(None)),
    "negative-integers": (-1, -11, slice(None)),
    "element": (12, 10, 6),
    "numpy-integer": (np.int64(4), slice(None), np.uint8(2)),
    "ellipsis-first": (..., 2),
    "ellipsis-middle": (slice(2, 5), ..., slice(None, None, 2)),
    "ellipsis-for-nothing": (1, 2, ..., 3),
    "empty-slice": (slice(5, 5), slice(None), slice(None)),
    "empty-reversed-bounds": (slice(8, 2), 1, slice(None)),
}
ORTHOGONAL: dict[str, Any] = {
    "list": ([0, 5, 12], slice(None), slice(None)),
    "list-any-order": ([9, 0, 12, 3], slice(2, 9), slice(None)),
    "list-negative": ([-1, 0, -13], slice(None), 2),
    "all-lists": ([1, 4, 8], [0, 10, 5, 2], [6, 0]),
    "lists-and-integer": ([1, 12], 4, [0, 6]),
    "list-and-steps": (slice(1, None, 4), [10, 1], slice(None, None, 3)),
    "list-of-one": ([7], [3], [1]),
    "booleans": (TRUE_FALSE, slice(None), slice(1, 4)),
    "booleans-and-list": (TRUE_FALSE, [1, 10], np.arange(7) > 3),
    "booleans-none-true": (np.zeros(13, dtype=bool), slice(None), slice(None)),
    "numpy-unsigned": (np.array([2, 11], dtype="u2"), slice(None), np.array([5], dtype="i1")),
    "integers-only": (3, 4, 5),
    "ellipsis": ([0, 3], ..., [1, 6]),
}
ORTHOGONAL_READS: dict[str, Any] = {
    "duplicates": ([3, 3, 0, 3], slice(None), slice(None)),
    "duplicates-everywhere": ([1, 12, 1], [0, 0, 10], [6, 6]),
    "duplicates-across-chunks": ([12, 0, 12, 0, 12], 3, slice(None)),
}
COORDINATES: dict[str, Any] = {
    "points": ([0, 12, 5], [10, 0, 5], [6, 0, 3]),
    "one-point": ([3], [4], [5]),
    "scalars": (3, 4, 5),
    "any-order": ([12, 0, 7, 1], [1, 9, 2, 8], [0, 6, 1, 5]),
    "negative": ([-1, -13], [-11, -1], [0, -7]),
    "broadcast": ([1, 2, 3], [4], [5]),
    "2d": (np.arange(6).reshape(2, 3), np.arange(5, 11).reshape(2, 3), np.ones((2, 3), dtype=int)),
    "3d": tuple(np.arange(8).reshape(2, 2, 2) % length for length in (13, 11, 7)),
    "4d": tuple(np.arange(16).reshape(2, 2, 2, 2) % length for length in (13, 11, 7)),
    "2d-broadcast": (np.arange(3)[:, None], np.arange(4)[None, :], np.array(2)),
}
COORDINATE_READS: dict[str, Any] = {
    "duplicates": ([1, 1, 1, 12], [2, 2, 2, 0], [3, 3, 3, 6]),
}
MASKS: dict[str, Any] = {
    "third": np.arange(VALUES.size).reshape(SHAPE) % 3 == 1,
    "one-chunk": np.pad(np.ones((2, 2, 2), dtype=bool), [(4, 7), (3, 6), (0, 5)]),
    "none": np.zeros(SHAPE, dtype=bool),
    "all": np.ones(SHAPE, dtype=bool),
}
BLOCKS: dict[str, Any] = {
    "one": (0, 0, 0),
    "row": (1,),
    "last": (-1, -1, -1),
    "slices": (slice(0, 2), slice(1, None), slice(None)),
    "mixed": (0, slice(None), -1),
}


def _cases(*tables: tuple[str, dict[str, Any]]) -> list[Any]:
    return [
        pytest.param(Pick(form, selection), id=f"{form}-{name}")
        for form, table in tables
        for name, selection in table.items()
    ]


WRITES = (
    ("basic", BASIC),
    ("oindex", ORTHOGONAL),
    ("vindex", COORDINATES),
    ("mask", MASKS),
    ("blocks", BLOCKS),
)
READS = (*WRITES, ("oindex", ORTHOGONAL_READS), ("vindex", COORDINATE_READS))


def _skip_what_the_layout_has_not(layout: str, pick: Pick) -> None:
    if (
        layout == "one-chunk"
        and pick.form == "blocks"
        and pick in (Pick("blocks", (1,)), Pick("blocks", BLOCKS["slices"]))
    ):
        pytest.skip("there is one block only")


def _written_by_default(layout: str) -> dict[str, Any]:
    arguments: dict[str, Any] = LAYOUTS[layout]
    if DEFAULT_WRITES_SHARDS or "shards" not in arguments:
        return arguments
    return {"chunks": arguments["shards"]}


@pytest.fixture(params=list(LAYOUTS))
def layout(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("pick", _cases(*READS))
@pytest.mark.parametrize("order", ["C", "F"])
def test_reads(pick: Pick, layout: str, order: str) -> None:
    _skip_what_the_layout_has_not(layout, pick)
    store = _filled(layout)
    ours, default = (opened(store, pipeline, order=order) for pipeline in (OURS, DEFAULT))
    assert_same_bits(pick.read(ours), pick.read(default))


@cache
def _filled(layout: str) -> MemoryStore:
    store = MemoryStore()
    created(store, DEFAULT, shape=SHAPE, dtype="<i4", **LAYOUTS[layout])[...] = VALUES
    return store


@pytest.mark.parametrize("pick", _cases(*WRITES))
@pytest.mark.parametrize("value", ["array", "scalar", "reversed"])
def test_writes(pick: Pick, layout: str, value: str) -> None:
    _skip_what_the_layout_has_not(layout, pick)
    arrays = [
        created(MemoryStore(), pipeline, shape=SHAPE, dtype="<i4", fill_value=-1, **arguments)
        for pipeline, arguments in ((OURS, LAYOUTS[layout]), (DEFAULT, _written_by_default(layout)))
    ]
    shape = pick.read(opened(_filled("one-chunk"), DEFAULT) if pick.form != "blocks" else arrays[1]).shape
    written: Any = np.arange(1, 1 + int(np.prod(shape)), dtype="<i4").reshape(shape)
    if value == "scalar":
        written = 77
    elif value == "reversed" and shape:
        written = written[::-1]
    for array in arrays:
        pick.write(array, written)
    ours, default = arrays
    expected = default[...]
    assert_same_bits(ours[...], expected)
    assert keys(ours.store) == keys(default.store)
    assert_same_bits(opened(ours.store, DEFAULT)[...], expected)


@pytest.mark.parametrize("pick", _cases(*READS))
def test_reads_of_local_shards(pick: Pick, tmp_path_factory: pytest.TempPathFactory) -> None:
    store = LocalStore(tmp_path_factory.mktemp("array"))
    array = created(store, OURS, shape=SHAPE, dtype="<i4", **LAYOUTS["shards"])
    array[...] = VALUES
    assert_same_bits(pick.read(array), pick.read(opened(store, DEFAULT)))


@pytest.mark.parametrize("spelling", ["oindex", "vindex", "blocks", "getitem"])
def test_spellings(spelling: str) -> None:
    store = MemoryStore()
    created(store, DEFAULT, shape=SHAPE, dtype="<i4", **LAYOUTS["shards"])[...] = VALUES
    results = []
    for pipeline in (OURS, DEFAULT):
        array = opened(store, pipeline)
        match spelling:
            case "oindex":
                array.oindex[[1, 4], :, [0, 5]] = 5
                results.append(array.oindex[[12, 1, 1], 2:9:3, [0, 5]])
            case "vindex":
                array.vindex[[1, 4], [2, 3], [0, 5]] = 6
                results.append(array.vindex[[[1, 4], [4, 4]], [[2, 3], [3, 3]], [[0, 5], [5, 5]]])
            case "blocks":
                array.blocks[1, 0] = 7
                results.append(array.blocks[1, 0])
            case _:
                array[[1, 4], [2, 3], [0, 5]] = 8
                results.append(array[[1, 4], [2, 3], [0, 5]])
    assert_same_bits(*results)


def test_arrays_of_no_axes() -> None:
    for shards in ({}, {"zarr_format": 2}):
        ours, default = (
            created(MemoryStore(), pipeline, shape=(), dtype="f8", fill_value=2.5, **shards)
            for pipeline in (OURS, DEFAULT)
        )
        for array in (ours, default):
            assert array[()] == 2.5
            array[()] = -0.0
        assert_same_bits(ours[...], default[...])
        assert_same_bits(ours[()], default[()])
        assert keys(ours.store) == keys(default.store)


@pytest.mark.parametrize("shape", [(0,), (0, 5), (5, 0, 3)])
def test_arrays_of_no_elements(shape: tuple[int, ...]) -> None:
    ours, default = (
        created(MemoryStore(), pipeline, shape=shape, chunks=(2,) * len(shape), dtype="i4")
        for pipeline in (OURS, DEFAULT)
    )
    for array in (ours, default):
        array[...] = 3
    assert_same_bits(ours[...], default[...])
    assert keys(ours.store) == keys(default.store)


@pytest.mark.parametrize("rank", [1, 2, 3, 4])
def test_coordinates_in_every_rank(rank: int) -> None:
    shape = (9, 7, 5, 4)[:rank]
    store = MemoryStore()
    values = np.arange(np.prod(shape), dtype="<u2").reshape(shape)
    created(store, DEFAULT, shape=shape, chunks=(2,) * rank, dtype="<u2")[...] = values
    generator = np.random.default_rng(rank)
    coordinates = tuple(generator.integers(0, length, 30) for length in shape)
    ours = opened(store, OURS)
    assert_same_bits(ours.vindex[coordinates], values[coordinates])
    unique = np.unravel_index(generator.permutation(values.size)[: values.size // 2], shape)
    ours.vindex[unique] = np.arange(len(unique[0]), dtype="<u2")
    values[unique] = np.arange(len(unique[0]))
    assert_same_bits(opened(store, DEFAULT)[...], values)


BROADCAST: dict[str, Any] = {
    "numpy-scalar": np.int32(9),
    "python-float": 3.0,
    "no-axes": np.array(4, dtype="i4"),
    "from-a-row": np.broadcast_to(np.arange(11, dtype="i4")[:, None], (9, 11, 7)),
    "from-a-scalar": np.broadcast_to(np.int32(8), (9, 11, 7)),
}


@pytest.mark.parametrize("value", BROADCAST.values(), ids=BROADCAST.keys())
def test_broadcast_values(value: Any, layout: str) -> None:
    arrays = [
        created(MemoryStore(), pipeline, shape=SHAPE, dtype="<i4", **arguments)
        for pipeline, arguments in ((OURS, LAYOUTS[layout]), (DEFAULT, _written_by_default(layout)))
    ]
    for array in arrays:
        array[2:11] = value
        array.oindex[[12, 0]] = np.int32(5)
    ours, default = arrays
    assert_same_bits(ours[...], default[...])


@pytest.mark.parametrize("dtype", ["<i4", ">i4", "<f8", "<i8", "<u2"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_out_of_another_type_or_order(dtype: str, order: Any, layout: str) -> None:
    """Zarr reads into the caller's buffer, whatever type it has."""
    store = MemoryStore()
    created(store, DEFAULT, shape=SHAPE, dtype="<i4", **LAYOUTS[layout])[...] = VALUES
    read = []
    for pipeline in (OURS, DEFAULT):
        out = zarr.core.buffer.default_buffer_prototype().nd_buffer.create(
            shape=(6, 7), dtype=np.dtype(dtype), order=order
        )
        opened(store, pipeline).get_basic_selection((slice(1, 13, 2), 4), out=out)
        read.append(out.as_numpy_array())
    assert_same_bits(*read)
    assert (read[0] == VALUES[1:13:2, 4]).all()


def test_out_that_is_a_view() -> None:
    store = MemoryStore()
    created(store, DEFAULT, shape=SHAPE, dtype="<i4", **LAYOUTS["shards"])[...] = VALUES
    base = np.full((26, 11, 14), -5, dtype="<i4")
    out = zarr.core.buffer.default_buffer_prototype().nd_buffer(base[::-2, :, 3:10])
    opened(store, OURS).get_basic_selection(..., out=out)
    expected = np.full_like(base, -5)
    expected[::-2, :, 3:10] = VALUES
    assert_same_bits(base, expected)


def test_what_zarr_refuses_is_refused() -> None:
    array = created(MemoryStore(), OURS, shape=SHAPE, dtype="<i4", **LAYOUTS["chunks"])
    with pytest.raises(IndexError):
        array[13]
    with pytest.raises(IndexError):
        array.oindex[[0, 13]]
    with pytest.raises(IndexError):
        array[::-1]


MISFITS = [(3, 11, 7), (2, 11, 1), (2, 11), (7,), (1, 11, 7), (5,), (2, 11, 8), (0, 11, 7), (1, 2, 11, 7), ()]


@pytest.mark.parametrize("shape", MISFITS, ids=str)
def test_values_of_other_shapes_end_as_with_the_default(shape: tuple[int, ...]) -> None:
    """Zarr takes some of them and leaves others to numpy, which refuses."""
    value = np.arange(np.prod(shape, dtype=int), dtype="i4").reshape(shape)
    ends: list[Any] = []
    for pipeline in (OURS, DEFAULT):
        array = created(MemoryStore(), pipeline, shape=SHAPE, dtype="<i4", **LAYOUTS["chunks"])
        try:
            array[0:2] = value
            ends.append(array[...].tobytes())
        except (ValueError, IndexError) as error:
            ends.append(type(error))
    assert ends[0] == ends[1]
