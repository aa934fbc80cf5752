"""Strings and byte strings of any length: written, merged and read as zarr's default pipeline does it, to the byte."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Any

import numcodecs  # type: ignore[import-untyped]
import numpy as np
import pytest
import zarr
import zarr.dtype as zd
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import DEFAULT, OURS, created, opened, stored
from packaging.version import Version
from zarr.codecs import BloscCodec, GzipCodec, TransposeCodec, ZstdCodec
from zarr.core.buffer.cpu import Buffer, NDBuffer
from zarr.storage import LocalStore, MemoryStore

from support.remote import served

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType

    from support.servers import RangeServer

pytestmark = [
    pytest.mark.usefixtures("rust_only"),
    pytest.mark.filterwarnings("ignore:The data type .* does not have a Zarr V3 specification"),
    pytest.mark.filterwarnings("ignore:Numcodecs codecs are not in the Zarr version 3 specification"),
    pytest.mark.filterwarnings("ignore:The codec `vlen-.*` is currently not part in the Zarr format 3 specification"),
]

KEEPS_ORDER = Version(zarr.__version__) >= Version("3.4")
"""Whether zarr encodes the elements of a transposed chunk in the order in which it decodes them."""

SAFE = np.lib.NumpyVersion(np.__version__) >= "2.5.0"
"""Whether numpy does not crash where zarr's own pipeline sets strings by lists of positions."""

TEXTS = ["", "a", "ünï", "x" * 15, "y" * 16, "日本語" * 9, "\0", "end\0", "z" * 300, "\U0001f600"]
DTYPES = {"text": "string", "binary": zd.VariableLengthBytes()}


def values_of(kind: str, texts: list[str], shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """Give texts, or their bytes, as an array of objects."""
    values = np.empty(len(texts), dtype=object)
    values[:] = texts if kind == "text" else [text.encode() for text in texts]
    return values.reshape(shape)


def layouts() -> st.SearchStrategy[dict[str, Any]]:
    """Draw formats, codecs and shards."""
    v2 = st.fixed_dictionaries(
        {
            "zarr_format": st.just(2),
            "compressors": st.sampled_from([None, numcodecs.CRC32(), numcodecs.LZ4()]),
            "order": st.sampled_from("CF"),
        }
    )
    v3 = st.fixed_dictionaries(
        {
            "compressors": st.sampled_from([None, [ZstdCodec(level=1)], [BloscCodec()]]),
            "shards": st.sampled_from([None, (4, 6)]),
            "filters": st.sampled_from([None, [TransposeCodec(order=(1, 0))]] if KEEPS_ORDER else [None]),
        }
    )
    return st.one_of(v2, v3)


@pytest.mark.parametrize("kind", DTYPES)
@given(data=st.data(), layout=layouts())
@settings(max_examples=60, deadline=None)
def test_texts_are_what_zarr_stores_and_reads(kind: str, data: st.DataObject, layout: dict[str, Any]) -> None:
    texts = data.draw(st.lists(st.sampled_from(TEXTS) | st.text(max_size=20), min_size=35, max_size=35))
    values = values_of(kind, texts, (5, 7))
    first, second = (
        (
            slice(*sorted(data.draw(st.tuples(*[st.integers(0, 5)] * 2)))),
            slice(None, None, data.draw(st.integers(1, 3))),
        ),
        (
            data.draw(st.lists(st.integers(0, 4), min_size=1, unique=True)),
            data.draw(st.lists(st.integers(0, 6), min_size=1, unique=True)),
        ),
    )
    made = []
    for path in (OURS, DEFAULT):
        arguments: dict[str, Any] = {"shape": (5, 7), "chunks": (2, 3), "dtype": DTYPES[kind], **layout}
        array = created(MemoryStore(), path, **arguments)
        array[...] = values
        array[first] = values[::-1, ::-1][first]
        if SAFE:
            array.oindex[second] = values[0, 0]
        again = opened(array.store, path)
        reads = [again[...], again[first], again.oindex[second], again.vindex[[0, 4, 4], [6, 0, 0]]]
        made.append((stored(array), [(read.dtype, read.shape, read.tolist()) for read in map(np.asarray, reads)]))
        assert np.asarray(opened(array.store, DEFAULT if path == OURS else OURS)[...]).tolist() == reads[0].tolist()
    assert made[0] == made[1]


@pytest.mark.parametrize("kind", DTYPES)
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_fill_values(kind: str, zarr_format: Any) -> None:
    texts = "nöthing"
    fill: Any = texts if kind == "text" else texts.encode()
    for path in (OURS, DEFAULT):
        array = created(
            MemoryStore(), path, shape=(6,), chunks=(2,), dtype=DTYPES[kind], zarr_format=zarr_format, fill_value=fill
        )
        assert np.asarray(array[...]).tolist() == [fill] * 6
        array[1:2] = values_of(kind, ["x"], (1,))
        array[2:4] = values_of(kind, ["y", "y"], (2,))
        array[2:4] = values_of(kind, [texts] * 2, (2,))
        name = "0" if zarr_format == 2 else "c/0"
        assert set(stored(array)) == {name}
        assert np.asarray(array[...]).tolist() == [fill, "x" if kind == "text" else b"x", *[fill] * 4]


@pytest.mark.parametrize("store", ["local", "http"])
@pytest.mark.parametrize("shards", [None, (500,)])
async def test_long_texts_of_native_stores(store: str, shards: Any, tmp_path: Path, range_server: RangeServer) -> None:
    """Encoded, a chunk may be far larger than what its elements take in an array."""
    texts = np.array(["t" * (index * 37 % 5000) for index in range(1000)], dtype=np.dtypes.StringDType())
    if store == "http":
        array = await served(range_server, texts, chunks=(100,), shards=shards, compressors=[GzipCodec(level=1)])
    else:
        created(LocalStore(tmp_path), DEFAULT, data=texts, chunks=(100,), shards=shards)
        array = opened(LocalStore(tmp_path), OURS).async_array
    np.testing.assert_array_equal(await array.getitem(slice(None)), texts)
    np.testing.assert_array_equal(await array.getitem(slice(90, 310, 7)), texts[90:310:7])


async def test_gathered_reads_into_one_array() -> None:
    texts = np.array([f"{index}" * (index % 40) for index in range(2000)], dtype=np.dtypes.StringDType())
    array = created(MemoryStore(), OURS, data=texts, chunks=(50,)).async_array
    parts = await asyncio.gather(*(array.getitem(slice(at, at + 170)) for at in range(0, 2000, 170)))
    np.testing.assert_array_equal(np.concatenate(parts), texts)


def test_elements_that_are_none_are_empty() -> None:
    values = np.array([b"a", None, 0, b"b"], dtype=object)
    for path in (OURS, DEFAULT):
        array = created(MemoryStore(), path, shape=(4,), dtype=DTYPES["binary"])
        array[...] = values
        assert np.asarray(array[...]).tolist() == [b"a", b"", b"", b"b"]


def test_elements_of_another_type_are_refused_as_zarr_refuses_them() -> None:
    for path in (OURS, DEFAULT):
        array = created(MemoryStore(), path, shape=(3,), dtype=DTYPES["binary"])
        with pytest.raises(TypeError, match="Expected bytes, got str"):
            array[...] = np.array([b"a", "text", b"c"], dtype=object)
        assert not stored(array)


@pytest.mark.parametrize(
    "layout", [{"zarr_format": 2, "order": "F"}, {"zarr_format": 3}, {"zarr_format": 3, "shards": (60, 80)}]
)
def test_strings_are_read_into_objects(layout: dict[str, Any]) -> None:
    """As many in a chunk as take more than one visit to the interpreter; views that leave gaps; missing chunks."""
    texts = np.array([f"{TEXTS[at % len(TEXTS)]}{at}" for at in range(4800)], dtype=object).reshape(60, 80)
    store = MemoryStore()
    array = created(store, DEFAULT, shape=(90, 80), chunks=(60, 80), dtype="string", fill_value="nöthing", **layout)
    array[:60] = texts
    selections: list[Any] = [..., (slice(3, 80, 7), slice(None)), (slice(50, 70), slice(None, None, 3)), (59, 5)]
    for selection in selections:
        shape = np.empty((90, 80), dtype=bool)[selection].shape
        reads = []
        for path in (OURS, DEFAULT):
            whole = np.full(tuple(2 * length + 1 for length in shape), "before", dtype=object)
            out = whole[tuple(slice(1, None, 2) for _ in shape)] if shape else whole
            opened(store, path).get_basic_selection(selection, out=NDBuffer.from_numpy_array(out))
            reads.append(whole.tolist())
        assert reads[0] == reads[1]


def test_objects_that_strings_replace_are_let_go() -> None:
    array = created(MemoryStore(), OURS, shape=(4,), dtype="string")
    array[...] = [f"a string of its own, {at}" for at in range(4)]
    out = np.empty(4, dtype=object)
    out[:] = [str(index) * 9 for index in range(4)]
    before = out.tolist()
    array.get_basic_selection(..., out=NDBuffer.from_numpy_array(out))
    assert out.tolist() == np.asarray(array[...]).tolist()
    # The list's, the loop's, and the one that is counted here.
    assert [sys.getrefcount(element) for element in before] == [3] * 4
    assert [sys.getrefcount(element) for element in out] == [3] * 4


def test_references_are_counted() -> None:
    """Each element that is read has one reference, the array's; and what an array held before is let go."""
    array = created(MemoryStore(), OURS, shape=(4,), dtype=DTYPES["binary"])
    array[...] = values_of("binary", ["some bytes"] * 4, (4,))
    read = np.asarray(array[...])
    # The array's, the loop's, and the one that is counted here.
    assert [sys.getrefcount(element) for element in read] == [3] * 4
    out = np.empty(4, dtype=object)
    out[:] = [str(index) * 9 for index in range(4)]
    before = out.tolist()
    array.get_basic_selection(..., out=NDBuffer.from_numpy_array(out))
    assert out.tolist() == read.tolist()
    assert [sys.getrefcount(element) for element in before] == [3] * 4


DAMAGED = {
    "empty": b"",
    "short header": b"\2\0",
    "too few": b"\1\0\0\0" + b"\1\0\0\0a",
    "too many": b"\3\0\0\0" + 3 * b"\1\0\0\0a",
    "beyond the end": b"\2\0\0\0" + b"\1\0\0\0a" + b"\xff\xff\xff\xff",
    "no length": b"\2\0\0\0" + b"\1\0\0\0a" + b"\1\0",
    "not UTF-8": b"\2\0\0\0" + b"\1\0\0\0a" + b"\1\0\0\0\xff",
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_chunks_are_errors(name: str, rust_only: ModuleType) -> None:
    array = created(MemoryStore(), OURS, shape=(2,), dtype="string", compressors=None)
    array[...] = ["a", "b"]
    array.store._store_dict["c/0"] = Buffer.from_bytes(DAMAGED[name])
    with pytest.raises(rust_only.exceptions.ChunkDecodeError, match="c/0"):
        array[...]
    with pytest.raises(rust_only.exceptions.ChunkDecodeError, match="c/0"):
        array[0] = "x"


def test_a_chunk_with_more_behind_its_elements_is_read() -> None:
    """Zarr does not look behind the last element either."""
    for path in (OURS, DEFAULT):
        array = created(MemoryStore(), path, shape=(2,), dtype="string", compressors=None)
        array.store._store_dict["c/0"] = Buffer.from_bytes(b"\2\0\0\0" + 2 * b"\1\0\0\0a" + b"more")
        assert np.asarray(array[...]).tolist() == ["a", "a"]
