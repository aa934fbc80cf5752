"""Codecs of numcodecs' and zarr's that change values, and those of bytes beside them: stored as they store it.

Each test draws data types, settings, lengths and bits, writes with the engine and with zarr's default
pipeline, and reads each with both. Where zarr's own pipeline refuses the values, so does the engine.
"""

from __future__ import annotations

import contextlib
import warnings
from typing import TYPE_CHECKING, Any

import numcodecs  # type: ignore[import-untyped]
import numpy as np
import pytest
import zarr.codecs
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from numcodecs.fletcher32 import Fletcher32  # type: ignore[import-untyped]
from oracle import DEFAULT, OURS, assert_same_bits, created, opened, stored
from packaging.version import Version
from zarr.codecs import BytesCodec, Crc32cCodec, ShardingCodec, TransposeCodec
from zarr.storage import MemoryStore

from zarrs_async.exceptions import ChunkDecodeError

try:
    from zarr.codecs import numcodecs as extensions
except ImportError:
    from numcodecs import zarr3 as extensions  # type: ignore[no-redef]

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [
    pytest.mark.usefixtures("rust_only"),
    pytest.mark.filterwarnings("ignore:Numcodecs codecs are not in the Zarr version 3 specification"),
    # numpy's, of what the oracle computes.
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),
]

INTEGERS = ("i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8")
FLOATS = ("f2", "f4", "f8")
ORDERS = "<>"


def named(kind: str, order: str = "<") -> str:
    """Give a dtype's name with its byte order."""
    return f"{'|' if kind.endswith('1') else order}{kind}"


def numbers(draw: st.DrawFn, dtype: str, count: int) -> np.ndarray[Any, Any]:
    """Draw any bits, small numbers, or those at the ends of their type; no NaN but numpy's own, of either sign."""
    kind = np.dtype(dtype)
    seed = draw(st.integers(0, 2**32 - 1))
    random = np.random.default_rng(seed)
    how = draw(st.sampled_from(["bits", "small", "ends", "spread"]))
    if how == "bits":
        values = random.integers(0, 256, count * kind.itemsize, dtype="u1").view(kind)
    elif how == "small":
        values = (random.standard_normal(count) * 100).astype(kind)
    elif how == "ends":
        info: Any = np.iinfo(kind) if kind.kind in "iu" else np.finfo(kind)
        special = [
            info.min,
            info.max,
            0,
            1,
            *([np.nan, -np.nan, np.inf, -np.inf, -0.0, 0.5] if kind.kind == "f" else []),
        ]
        values = np.array(special, kind)[random.integers(0, len(special), count)]
    else:
        exponents = random.uniform(-30, 30, count)
        values = (random.choice([-1, 1], count) * 2.0**exponents).astype(kind)
    values = values.copy()
    if kind.kind == "f":
        values[np.isnan(values)] = np.nan
    return values


def same_both_ways(values: np.ndarray[Any, Any], **arguments: Any) -> None:
    """Write with either pipeline and read each with both; or have both refuse to."""
    arguments = {"chunks": values.shape, "fill_value": 0, "config": {"write_empty_chunks": True}, **arguments}
    arrays: list[Any] = []
    refusals: list[Exception] = []
    for path in (OURS, DEFAULT):
        try:
            array = created(MemoryStore(), path, shape=values.shape, dtype=values.dtype, **arguments)
            array[...] = values
        except Exception as refusal:  # noqa: BLE001  # any way of refusing
            refusals.append(refusal)
        else:
            arrays.append(array)
    assert len(refusals) in (0, 2), refusals
    if refusals:
        return
    ours, default = arrays
    assert stored(ours) == stored(default)
    try:
        expected = opened(default.store, DEFAULT)[...]
    except ValueError:  # zarr does not see where 64 bits overflow before it reads
        with pytest.raises(ChunkDecodeError):
            opened(ours.store, OURS)[...]
        return
    assert_same_bits(opened(ours.store, OURS)[...], expected)
    assert_same_bits(opened(default.store, OURS)[1:], expected[1:])


@st.composite
def placed(draw: st.DrawFn) -> dict[str, Any]:
    """Draw what stands around a filter: a format, other codecs, a shard."""
    if not FILTERS_IN_V3 or draw(st.booleans()):
        return {"zarr_format": 2, "compressors": draw(st.sampled_from([None, numcodecs.CRC32()]))}
    endian: Any = draw(st.sampled_from(["little", "big"]))
    inner: list[Any] = [BytesCodec(endian=endian), *draw(st.sampled_from([[], [Crc32cCodec()]]))]
    return {"zarr_format": 3, "inner": inner, "sharded": draw(st.booleans())}


FILTERS_IN_V3 = Version(zarr.__version__) >= Version("3.4")
"""Whether zarr's own codec turns what it reads into the type that a filter expects; before, it may fail for it."""


def around(place: dict[str, Any], codecs: list[Any], length: int) -> dict[str, Any]:
    """Give `create_array`'s arguments for filters in their place; numcodecs' own, to be wrapped for v3."""
    if place["zarr_format"] == 2:
        return {**place, "filters": codecs}
    wrapped = [extension(codec) for codec in codecs]
    if place["sharded"]:
        sharding = ShardingCodec(chunk_shape=(length,), codecs=[*wrapped, *place["inner"]])
        return {"zarr_format": 3, "serializer": sharding, "filters": (), "compressors": ()}
    return {"zarr_format": 3, "filters": wrapped, "serializer": place["inner"][0], "compressors": place["inner"][1:]}


def extension(codec: Any) -> Any:
    """Give the codec of v3 that asks one of numcodecs'; older zarr warns of each."""
    configuration = codec.get_config()
    configuration.pop("id")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return getattr(extensions, type(codec).__name__)(**configuration)


LENGTHS = st.sampled_from([1, 2, 7, 8, 33, 250])


@given(data=st.data(), place=placed(), order=st.sampled_from(ORDERS), length=LENGTHS)
@settings(max_examples=50, deadline=None)
def test_delta(data: st.DataObject, place: dict[str, Any], order: str, length: int) -> None:
    kind, to = data.draw(st.sampled_from(INTEGERS)), data.draw(st.sampled_from(INTEGERS))
    assume(not ("u8" in (kind, to) and (kind[0] == "i" or to[0] == "i")))  # numpy makes floats of them
    order = order if place["zarr_format"] == 2 else "<"
    dtype, astype = (
        named(kind, order),
        named(to, data.draw(st.sampled_from(ORDERS)) if place["zarr_format"] == 2 else "<"),
    )
    values = data.draw(st.composite(numbers)(dtype, length))
    same_both_ways(values, **around(place, [numcodecs.Delta(dtype=dtype, astype=astype)], length))


@given(data=st.data(), place=placed(), length=LENGTHS)
@settings(max_examples=75, deadline=None)
def test_astype(data: st.DataObject, place: dict[str, Any], length: int) -> None:
    kind, to = (data.draw(st.sampled_from(INTEGERS + FLOATS)) for _ in range(2))
    assume("u4" not in (kind, to) or not {kind, to} & {*FLOATS})  # numpy's result depends on the place
    orders = data.draw(st.sampled_from(["<<", "<>", "><", ">>"])) if place["zarr_format"] == 2 else "<<"
    dtype, astype = named(kind, orders[0]), named(to, orders[1])
    values = data.draw(st.composite(numbers)(dtype, length))
    same_both_ways(values, **around(place, [numcodecs.AsType(encode_dtype=astype, decode_dtype=dtype)], length))


@given(data=st.data(), place=placed(), length=LENGTHS)
@settings(max_examples=60, deadline=None)
def test_quantize(data: st.DataObject, place: dict[str, Any], length: int) -> None:
    kind = data.draw(st.sampled_from(FLOATS))
    dtype = named(kind, data.draw(st.sampled_from(ORDERS)) if place["zarr_format"] == 2 else "<")
    astype = named(data.draw(st.sampled_from(FLOATS))) if place["zarr_format"] == 2 else dtype
    values = data.draw(st.composite(numbers)(dtype, length))
    digits = data.draw(st.integers(-4, 18))
    same_both_ways(values, **around(place, [numcodecs.Quantize(digits=digits, dtype=dtype, astype=astype)], length))


@given(data=st.data(), place=placed(), length=LENGTHS)
@settings(max_examples=60, deadline=None)
def test_bitround(data: st.DataObject, place: dict[str, Any], length: int) -> None:
    kind, bits = data.draw(st.sampled_from([("f2", 10), ("f4", 23), ("f8", 52)]))
    values = data.draw(st.composite(numbers)(named(kind), length))
    same_both_ways(values, **around(place, [numcodecs.BitRound(keepbits=data.draw(st.integers(0, bits)))], length))


@given(data=st.data(), place=placed(), length=LENGTHS)
@settings(max_examples=75, deadline=None)
def test_fixedscaleoffset(data: st.DataObject, place: dict[str, Any], length: int) -> None:
    kind, to = (data.draw(st.sampled_from(INTEGERS + FLOATS)) for _ in range(2))
    assume("u4" not in (kind, to))  # what numpy makes of floats that it does not hold depends on their place
    orders = data.draw(st.sampled_from(["<<", "<>", "><", ">>"])) if place["zarr_format"] == 2 else "<<"
    dtype, astype = named(kind, orders[0]), named(to, orders[1])
    number = st.integers(-100, 1000) | st.floats(-1e4, 1e4).filter(lambda number: abs(number) > 1e-5)
    offset, scale = data.draw(number), data.draw(number.filter(bool))
    values = data.draw(st.composite(numbers)(dtype, length))
    codec = numcodecs.FixedScaleOffset(offset=offset, scale=scale, dtype=dtype, astype=astype)
    with refusing(kind, to, offset, scale):
        same_both_ways(values, **around(place, [codec], length))


@contextlib.contextmanager
def refusing(kind: str, to: str, offset: object, scale: object) -> Iterator[None]:
    """Leave out integers that numpy refuses to compute with."""

    def fits(number: object, kind: str) -> bool:
        return not isinstance(number, int) or kind in FLOATS or np.iinfo(kind).min <= number <= np.iinfo(kind).max

    assume(isinstance(offset, float) or (fits(offset, kind) and fits(scale, kind)))
    assume(fits(scale, to))
    yield


@given(data=st.data(), length=st.integers(1, 40), compressed=st.booleans())
@settings(max_examples=60, deadline=None)
def test_packbits(data: st.DataObject, length: int, compressed: bool) -> None:  # noqa: FBT001  # a parameter
    values = np.array(data.draw(st.lists(st.booleans(), min_size=length, max_size=length)))
    compressor = numcodecs.Adler32() if compressed else None
    same_both_ways(values, zarr_format=2, filters=[numcodecs.PackBits()], compressors=compressor)


@pytest.mark.skipif(not hasattr(zarr.codecs, "ScaleOffset"), reason="this zarr has no such codec")
@given(data=st.data(), length=LENGTHS)
@settings(max_examples=75, deadline=None)
def test_scale_offset(data: st.DataObject, length: int) -> None:
    kind = data.draw(st.sampled_from(INTEGERS + FLOATS))
    values = data.draw(st.composite(numbers)(named(kind), length))
    if kind in FLOATS:
        number: Any = st.floats(-1e3, 1e3, width=16)
    else:
        info = np.iinfo(kind)
        number = st.integers(max(-3, info.min), 5) | st.integers(int(info.min), int(info.max))
    offset, scale = data.draw(number), data.draw(number.filter(bool))
    same_both_ways(values, filters=[zarr.codecs.ScaleOffset(offset=offset, scale=scale)], compressors=())


@given(data=st.data(), length=LENGTHS)
@settings(max_examples=60, deadline=None)
def test_filters_in_a_row(data: st.DataObject, length: int) -> None:
    """Of which each changes the type, with shuffled bytes and a checksum behind them."""
    values = data.draw(st.composite(numbers)("<f8", length))
    filters = [
        numcodecs.FixedScaleOffset(offset=3, scale=7, dtype="<f8", astype="<f4"),
        numcodecs.AsType(encode_dtype=">i4", decode_dtype="<f4"),
        numcodecs.Delta(dtype=">i4", astype="<i2"),
        numcodecs.Shuffle(elementsize=2),
        Fletcher32(),
    ]
    same_both_ways(values, zarr_format=2, filters=filters, compressors=numcodecs.Adler32())


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize(
    "codec",
    [
        numcodecs.Delta(dtype="<i4"),
        numcodecs.AsType(encode_dtype="<i8", decode_dtype="<i4"),
        numcodecs.FixedScaleOffset(offset=1, scale=2, dtype="<i4", astype="<f8"),
    ],
)
def test_filters_see_elements_as_they_are_stored(order: str, codec: Any) -> None:
    values = np.arange(24, dtype="<i4").reshape(2, 3, 4) ** 3
    same_both_ways(values, zarr_format=2, order=order, filters=[codec], compressors=None)
    transposed = [] if order == "C" else [TransposeCodec(order=(2, 0, 1))]
    same_both_ways(values, filters=[*transposed, extension(codec)], compressors=())


@given(
    codec=st.sampled_from(
        [
            *(
                kind(location=location)
                for kind in (numcodecs.CRC32, numcodecs.Adler32)
                for location in ("start", "end")
            ),
            *(kind() for kind in (numcodecs.CRC32, numcodecs.Adler32, numcodecs.JenkinsLookup3, Fletcher32)),
            numcodecs.JenkinsLookup3(initval=2**32 - 1),
            *(numcodecs.LZ4(acceleration=acceleration) for acceleration in (-1, 0, 1, 50)),
            *(numcodecs.Shuffle(elementsize=size) for size in (0, 1, 2)),
            numcodecs.Zstd(level=3, checksum=True),
        ]
    ),
    place=placed(),
    length=st.integers(1, 70),
    data=st.data(),
)
@settings(max_examples=50, deadline=None)
@example(codec=numcodecs.LZ4(), place={"zarr_format": 2, "compressors": None}, length=1 << 18, data=None)
def test_codecs_of_bytes(codec: Any, place: dict[str, Any], length: int, data: st.DataObject | None) -> None:
    values = np.arange(length, dtype="u2") // 3 if data is None else data.draw(st.composite(numbers)("<u2", length))
    if place["zarr_format"] == 2:
        same_both_ways(values, zarr_format=2, filters=[codec], compressors=place["compressors"])
    else:
        codecs = [*place["inner"][1:], extension(codec)]
        if isinstance(codec, numcodecs.Shuffle):
            codecs.reverse()
        same_both_ways(values, serializer=place["inner"][0], filters=(), compressors=codecs)


@pytest.mark.parametrize("kind", ["CRC32", "Adler32", "CRC32C"])
@pytest.mark.parametrize("location", ["start", "end"])
def test_a_wrong_checksum_is_an_error(kind: str, location: str) -> None:
    codec = getattr(extensions, kind)(location=location)
    array = created(MemoryStore(), OURS, shape=(4,), dtype="u1", filters=(), compressors=[codec])
    array[...] = 7
    [(key, value)] = stored(array).items()
    damaged = bytes([value[0] ^ 1]) + value[1:]
    array.store._store_dict[key] = type(array.store._store_dict[key]).from_bytes(damaged)
    with pytest.raises(Exception, match="checksum does not match"):
        array[...]
