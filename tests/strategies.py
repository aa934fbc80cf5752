"""Hypothesis strategies: arrays of every kind that the engine knows, and the selections zarr has for them.

`array_cases` draws how an array is made, `picks` how a part of it is selected, `values` what is written
there. What is drawn is plain data, so that a failing example can be read and typed in again.
"""

from __future__ import annotations

import math
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numcodecs  # type: ignore[import-untyped]
import numpy as np
import obstore.store
import zarr
from hypothesis import strategies as st
from oracle import DEFAULT_WRITES_SHARDS
from zarr.abc.codec import ArrayBytesCodec
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec, GzipCodec, ShardingCodec, TransposeCodec, ZstdCodec
from zarr.storage import LocalStore, MemoryStore, ObjectStore

if TYPE_CHECKING:
    from collections.abc import Iterator

    from zarr.abc.store import Store

STORES = ("memory", "local", "obstore-local", "obstore-memory")
INTEGERS = ("i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8")
FLOATS = ("f2", "f4", "f8")
COMPLEX = ("c8", "c16")
RECTILINEAR = hasattr(zarr.core.metadata.v3, "RectilinearChunkGridMetadata")
"""Whether zarr has chunks of lengths that vary."""
OPAQUE = ("M8[s]", "M8[10ns]", "m8[us]", "S3", "U2", "V5")


class UnknownCodec(Crc32cCodec):
    """A codec that is not zarr's own to the engine; an array that is opened again has zarr's in its place."""


@dataclass(frozen=True)
class ArrayCase:
    """How an array is made.

    Attributes
    ----------
    shape : tuple[int, ...]
        Of the array.
    chunks : tuple[int, ...]
        Of a chunk, or of a shard where the serializer is a sharding codec.
    dtype : str
        As numpy knows it, with its byte order.
    fill : object
        The fill value.
    zarr_format : int
        2 or 3.
    codecs : dict
        `create_array`'s ``filters``, ``serializer`` and ``compressors``.
    order : str
        Memory order: of what is read in Zarr v3, and of the stored chunk in v2.
    write_empty_chunks : bool
        Whether chunks that hold the fill value only are stored.
    separator : str
        Between the coordinates in a chunk's key.
    edges : tuple[tuple[int, ...], ...]
        Lengths of the chunks along each axis, where those vary; the last one may reach past the end.
    """

    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    dtype: str
    fill: Any
    zarr_format: int = 3
    codecs: dict[str, Any] = field(default_factory=dict)
    order: str = "C"
    write_empty_chunks: bool = False
    separator: str = "/"
    edges: tuple[tuple[int, ...], ...] = ()

    def without_shards(self) -> ArrayCase:
        """Make each shard one chunk."""
        if not isinstance(self.codecs.get("serializer"), ShardingCodec):
            return self
        return replace(self, codecs={"filters": [], "compressors": []})

    def create(self, store: Store) -> zarr.Array[Any]:
        """Make the array, with the pipeline that is configured now."""
        encoding: Any = {"name": "default" if self.zarr_format == 3 else "v2", "separator": self.separator}
        config: Any = {"write_empty_chunks": self.write_empty_chunks}
        order: Any = self.order
        if self.zarr_format == 3:
            config["order"], order = order, None
        chunks: Any = self.edges or self.chunks
        array = zarr.create_array(
            store,
            # zarr makes arrays that end with a chunk; they may be shrunk.
            shape=tuple(map(sum, self.edges)) or self.shape,
            chunks=chunks,
            dtype=self.dtype,
            fill_value=self.fill,
            zarr_format=self.zarr_format,  # type: ignore[arg-type]
            chunk_key_encoding=encoding,
            order=order,
            config=config,
            **self.codecs,
        )
        if array.shape != self.shape:
            array.resize(self.shape)
        return array

    def way(self) -> str:
        """Say which way batches of the array go that is made; all others are native."""
        codecs = [*(self.codecs["compressors"] or [])] if self.zarr_format == 3 else []
        serializer = self.codecs.get("serializer")
        while isinstance(serializer, ShardingCodec):
            codecs += serializer.codecs
            serializer = next(codec for codec in serializer.codecs if isinstance(codec, ArrayBytesCodec))
        return "python" if any(isinstance(codec, UnknownCodec) for codec in codecs) else "native"

    def counts(self) -> tuple[int, ...]:
        """Give the number of chunks along each axis."""
        if self.edges:
            return tuple(map(len, self.edges))
        return tuple(-(-length // chunk) for length, chunk in zip(self.shape, self.chunks, strict=True))


@dataclass(frozen=True)
class Pick:
    """A selection, and the form of zarr's indexing that it is for.

    Attributes
    ----------
    form : str
        ``basic``, ``oindex``, ``vindex``, ``mask`` or ``blocks``.
    selection : object
        As that form takes it.
    """

    form: str
    selection: Any

    def read(self, array: zarr.Array[Any]) -> np.ndarray[Any, Any]:
        """Read what is selected."""
        match self.form:
            case "basic":
                read: Any = array.get_basic_selection(self.selection)
            case "oindex":
                read = array.get_orthogonal_selection(self.selection)
            case "vindex":
                read = array.get_coordinate_selection(self.selection)
            case "mask":
                read = array.get_mask_selection(self.selection)
            case _:
                read = array.get_block_selection(self.selection)
        return np.asarray(read)

    def write(self, array: zarr.Array[Any], value: Any) -> None:
        """Write to what is selected."""
        match self.form:
            case "basic":
                array.set_basic_selection(self.selection, value)
            case "oindex":
                array.set_orthogonal_selection(self.selection, value)
            case "vindex":
                array.set_coordinate_selection(self.selection, value)
            case "mask":
                array.set_mask_selection(self.selection, value)
            case _:
                array.set_block_selection(self.selection, value)


@contextmanager
def made_store(kind: str) -> Iterator[Store]:
    """Make an empty store of one of `STORES`."""
    match kind:
        case "memory":
            yield MemoryStore()
        case "obstore-memory":
            yield ObjectStore(obstore.store.MemoryStore())
        case _:
            with tempfile.TemporaryDirectory() as root:
                if kind == "local":
                    yield LocalStore(root)
                else:
                    yield ObjectStore(obstore.store.LocalStore(root))


def dtypes(zarr_format: int) -> st.SearchStrategy[str]:
    """Draw a data type; numbers more often than others."""
    orders = st.sampled_from("<>")
    numbers = st.sampled_from(("?", *INTEGERS, *FLOATS, *COMPLEX))
    others = st.sampled_from(OPAQUE)
    assert zarr_format in (2, 3)
    return st.builds(_ordered, orders, numbers | numbers | others)


def _ordered(order: str, name: str) -> str:
    return np.dtype(order + name).str


def random_values(dtype: np.dtype[Any], shape: tuple[int, ...], seed: int) -> np.ndarray[Any, Any]:
    """Make an array of any bits that the data type allows, not-a-numbers and not-a-times included."""
    generator = np.random.default_rng(seed)
    if dtype.kind == "b":
        return generator.integers(0, 2, shape).astype(dtype)
    if dtype.kind == "U":
        letters = generator.integers(0x20, 0x2000, (*shape, dtype.itemsize // 4), dtype=np.uint32)
        return np.ascontiguousarray(letters).view("<U" + str(dtype.itemsize // 4)).reshape(shape).astype(dtype)
    raw = generator.integers(0, 256, (*shape, dtype.itemsize), dtype=np.uint8)
    special = generator.random((*shape, 1)) < 0.1  # all bits set: a NaN in each type of floats
    raw = np.ascontiguousarray(np.where(special & (dtype.kind in "fc"), np.uint8(255), raw))
    return raw.view(dtype).reshape(shape)


@st.composite
def fills(draw: st.DrawFn, dtype: str) -> Any:  # noqa: PLR0911  # one for each kind of type
    """Draw a fill value, the awkward ones among them."""
    resolved = np.dtype(dtype)
    match resolved.kind:
        case "b":
            return draw(st.booleans())
        case "f":
            return draw(st.sampled_from((0.0, -0.0, math.nan, math.inf, -math.inf, 1.5)))
        case "c":
            parts = st.sampled_from((0.0, -0.0, math.nan, math.inf, 2.5))
            return complex(draw(parts), draw(parts))
        case "M" | "m":
            return np.array(draw(st.sampled_from((0, 7, -(2**63)))), dtype="i8").view(resolved.newbyteorder("="))[()]
        case "S":
            return draw(st.sampled_from((b"", b"ab")))
        case "U":
            return draw(st.sampled_from(("", "xé")))
        case "V":
            return np.void(draw(st.sampled_from((b"\0\0\0\0\0", b"abcde"))))
        case _:
            limits = np.iinfo(resolved)
            return draw(st.sampled_from((0, 1, int(limits.min), int(limits.max))))


def _lengths(most: int, rank: int, least: int = 1) -> st.SearchStrategy[tuple[int, ...]]:
    return st.lists(st.integers(least, most), min_size=rank, max_size=rank).map(tuple)


@st.composite
def _compressors(draw: st.DrawFn, itemsize: int) -> list[Any]:
    one = st.one_of(
        st.builds(ZstdCodec, level=st.sampled_from((0, 1, 3, -5)), checksum=st.booleans()),
        st.builds(GzipCodec, level=st.sampled_from((1, 6))),
        st.builds(
            BloscCodec,
            typesize=st.just(itemsize),
            cname=st.sampled_from(("lz4", "zstd", "blosclz", "zlib", "lz4hc")),
            clevel=st.sampled_from((0, 1, 5)),
            shuffle=st.sampled_from(("noshuffle", "shuffle", "bitshuffle")),
        ),
        st.builds(Crc32cCodec),
        st.builds(UnknownCodec),
    )
    return draw(st.lists(one, max_size=2))


@st.composite
def _bytes_codecs(draw: st.DrawFn, dtype: np.dtype[Any], rank: int) -> tuple[list[Any], Any, list[Any]]:
    """Draw filters, serializer and compressors of one chain."""
    filters = []
    if rank > 1 and draw(st.booleans()):
        filters.append(TransposeCodec(order=tuple(draw(st.permutations(range(rank))))))
    # Types of single bytes have no byte order.
    endian: Any = draw(st.sampled_from(("little", "big"))) if dtype.kind not in "SV" and dtype.itemsize > 1 else None
    compressors = draw(_compressors(max(1, min(dtype.itemsize, 255))))
    return filters, BytesCodec(endian=endian), compressors


@st.composite
def _v3_codecs(
    draw: st.DrawFn, dtype: np.dtype[Any], subchunks: tuple[int, ...]
) -> tuple[tuple[int, ...], dict[str, Any]]:
    """Draw the codecs, sharded up to two deep, and the shape of what is one object."""
    rank = len(subchunks)
    filters, serializer, compressors = draw(_bytes_codecs(dtype, rank))
    shape = subchunks
    depth = draw(st.sampled_from((0, 0, 1, 1, 2)))
    if not DEFAULT_WRITES_SHARDS and (rank == 0 or dtype.kind == "V"):
        depth = 0
    for _ in range(depth):
        inner = shape
        shape = tuple(length * draw(st.integers(1, 3)) for length in inner)
        index: Any = [BytesCodec(endian="little")]
        if draw(st.booleans()):
            index.append(Crc32cCodec())
        serializer = ShardingCodec(
            chunk_shape=inner,
            codecs=[*filters, serializer, *compressors],
            index_codecs=index,
            index_location=draw(st.sampled_from(("start", "end"))),
        )
        filters, compressors = [], []
    return shape, {"filters": filters, "serializer": serializer, "compressors": compressors}


def _v2_compressors(itemsize: int) -> st.SearchStrategy[Any]:
    assert itemsize > 0
    return st.one_of(
        st.none(),
        st.builds(numcodecs.Zstd, level=st.sampled_from((0, 1))),
        st.builds(numcodecs.GZip, level=st.just(1)),
        st.builds(numcodecs.Zlib, level=st.just(1)),
        st.builds(numcodecs.BZ2, level=st.just(1)),
        st.builds(
            numcodecs.Blosc,
            cname=st.sampled_from(("lz4", "zstd", "blosclz")),
            clevel=st.just(1),
            shuffle=st.sampled_from((-1, 0, 1, 2)),
        ),
    )


@st.composite
def _rectilinear(
    draw: st.DrawFn, shape: tuple[int, ...], serializer: Any
) -> tuple[tuple[int, ...], tuple[tuple[int, ...], ...]]:
    """Draw chunks of lengths that vary, which hold whole subchunks, and the shape of an array of about `shape`."""
    units = serializer.chunk_shape if isinstance(serializer, ShardingCodec) else (1,) * len(shape)
    lengths, edges = [], []
    for length, unit in zip(shape, units, strict=True):
        drawn: list[int] = []
        while sum(drawn) < length:
            drawn.append(unit * draw(st.integers(1, 5)))
        edges.append(tuple(drawn))
        lengths.append(draw(st.integers(sum(drawn[:-1]) + 1, sum(drawn))))
    return tuple(lengths), tuple(edges)


@st.composite
def array_cases(draw: st.DrawFn) -> ArrayCase:
    """Draw how an array is made."""
    zarr_format = draw(st.sampled_from((3, 3, 2)))
    dtype = draw(dtypes(zarr_format))
    rank = draw(st.sampled_from((1, 2, 2, 3, 3, 4, 0)))
    shape = draw(_lengths({1: 40, 2: 12, 3: 7}.get(rank, 4), rank))
    if rank and draw(st.integers(0, 19)) == 0:
        shape = (0, *shape[1:])
    chunks = tuple(draw(st.integers(1, max(1, min(length + 1, 8)))) for length in shape)
    if zarr_format == 3:
        chunks, codecs = draw(_v3_codecs(np.dtype(dtype), chunks))
    else:
        codecs = {"filters": None, "compressors": draw(_v2_compressors(np.dtype(dtype).itemsize))}
    edges: tuple[tuple[int, ...], ...] = ()
    if RECTILINEAR and zarr_format == 3 and rank and 0 not in shape and draw(st.integers(0, 3)) == 0:
        shape, edges = draw(_rectilinear(shape, codecs["serializer"]))
    return ArrayCase(
        edges=edges,
        shape=shape,
        chunks=chunks,
        dtype=dtype,
        fill=draw(fills(dtype)),
        zarr_format=zarr_format,
        codecs=codecs,
        order=draw(st.sampled_from("CF")),
        write_empty_chunks=draw(st.booleans()),
        separator=draw(st.sampled_from("/.")),
    )


@st.composite
def _slices(draw: st.DrawFn, length: int) -> slice:
    start = draw(st.none() | st.integers(-length - 1, length + 1))
    stop = draw(st.none() | st.integers(-length - 1, length + 1))
    return slice(start, stop, draw(st.none() | st.integers(1, max(1, length))))


@st.composite
def _basic(draw: st.DrawFn, shape: tuple[int, ...]) -> Any:
    items: list[Any] = []
    for length in shape:
        integers = st.integers(-length, length - 1) if length else st.nothing()
        items.append(draw(_slices(length) | integers | _slices(length)))
    if draw(st.booleans()):
        at = draw(st.integers(0, len(items)))
        return (*items[:at], ..., *items[at + draw(st.integers(0, len(items) - at)) :])
    return tuple(items)


@st.composite
def _orthogonal(draw: st.DrawFn, shape: tuple[int, ...], *, unique: bool) -> Any:
    items: list[Any] = []
    for length in shape:
        kind = draw(st.sampled_from(("slice", "integer", "list", "list", "mask"))) if length else "slice"
        match kind:
            case "slice":
                items.append(draw(_slices(length)))
            case "integer":
                items.append(draw(st.integers(-length, length - 1)))
            case "list":
                # Where each is written once, the same position must not come as -1 and as the last.
                least = 0 if unique else -length
                positions = st.lists(st.integers(least, length - 1), min_size=1, max_size=length + 3, unique=unique)
                items.append(np.array(draw(positions), dtype=np.intp))
            case _:
                items.append(np.array(draw(st.lists(st.booleans(), min_size=length, max_size=length)), dtype=bool))
    return tuple(items)


@st.composite
def _coordinates(draw: st.DrawFn, shape: tuple[int, ...], *, unique: bool) -> Any:
    total = math.prod(shape)
    flat = draw(st.lists(st.integers(0, total - 1), min_size=1, max_size=min(total, 24), unique=unique))
    picked: list[Any] = [np.asarray(axis) for axis in np.unravel_index(flat, shape)]
    if not unique:
        negative = draw(st.booleans())
        picked = [axis - length if negative else axis for axis, length in zip(picked, shape, strict=True)]
    if len(flat) % 2 == 0 and draw(st.booleans()):
        picked = [axis.reshape(2, -1) for axis in picked]
    return tuple(picked)


@st.composite
def _masks(draw: st.DrawFn, shape: tuple[int, ...]) -> Any:
    share = draw(st.sampled_from((0.0, 0.1, 0.5, 1.0)))
    return np.random.default_rng(draw(st.integers(0, 2**16))).random(shape) < share


@st.composite
def _blocks(draw: st.DrawFn, case: ArrayCase) -> Any:
    items: list[Any] = []
    for count in case.counts():
        start = draw(st.integers(0, count - 1))
        items.append(draw(st.sampled_from((start, start - count, slice(start, None), slice(start, start + 1)))))
    return tuple(items)


@st.composite
def picks(draw: st.DrawFn, case: ArrayCase, *, unique: bool = False, products: bool = False) -> Pick:
    """Draw a selection; with `unique`, one that names no element twice; with `products`, basic or orthogonal."""
    forms = ["basic", "basic"]
    if case.shape:
        forms.append("oindex")
    if case.shape and 0 not in case.shape and not products:
        forms += ["vindex", "mask", "blocks"]
    form = draw(st.sampled_from(forms))
    match form:
        case "basic":
            selection: Any = draw(_basic(case.shape))
        case "oindex":
            selection = draw(_orthogonal(case.shape, unique=unique))
        case "vindex":
            selection = draw(_coordinates(case.shape, unique=unique))
        case "mask":
            selection = draw(_masks(case.shape))
        case _:
            selection = draw(_blocks(case))
    return Pick(form, selection)


@st.composite
def values(draw: st.DrawFn, case: ArrayCase, shape: tuple[int, ...]) -> Any:
    """Draw what is written: a scalar, the fill value, or an array in one of several layouts."""
    dtype = np.dtype(case.dtype)
    kind = draw(st.sampled_from(("array", "array", "array", "fortran", "reversed", "swapped", "scalar", "fill")))
    drawn = random_values(dtype, shape, draw(st.integers(0, 2**16)))
    fill = np.array(case.fill, dtype=dtype)
    partly_empty = draw(st.booleans())
    match kind:
        case "scalar":
            return random_values(dtype, (1,), draw(st.integers(0, 2**16)))[0]
        case "fill":
            return np.full(shape, fill, dtype=dtype)
        case "fortran" if shape:  # numpy would make one axis of none
            return np.asfortranarray(drawn)
        case "reversed":
            return drawn[::-1] if shape else drawn
        case "swapped" if dtype.kind != "V":
            return drawn.astype(dtype.newbyteorder())
        case _ if shape and partly_empty:
            drawn[: -(-shape[0] // 2)] = fill
    return drawn
