"""Codecs to the bit: each reads what the other wrote, the engine and numcodecs; or zarr's pipeline does it."""

from __future__ import annotations

import inspect
import math
import warnings
from itertools import product
from typing import TYPE_CHECKING, Any

import numcodecs  # type: ignore[import-untyped]
import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from numcodecs.blosc import list_compressors  # type: ignore[import-untyped]
from oracle import DEFAULT, OURS, assert_same_bits, created, opened, stored
from strategies import random_values
from zarr.codecs import (
    BloscCodec,
    BytesCodec,
    Crc32cCodec,
    GzipCodec,
    ShardingCodec,
    TransposeCodec,
    ZstdCodec,
)
from zarr.storage import MemoryStore

if TYPE_CHECKING:
    from types import ModuleType

try:
    from zarr.codecs import numcodecs as extensions
except ImportError:
    from numcodecs import zarr3 as extensions  # type: ignore[no-redef]

pytestmark = [
    pytest.mark.filterwarnings("ignore:Numcodecs codecs are not in the Zarr version 3 specification"),
    pytest.mark.filterwarnings("ignore:The data type .* does not have a Zarr V3 specification"),
    pytest.mark.filterwarnings("ignore:zarrs_async does not support"),
    pytest.mark.filterwarnings("ignore:Combining a `sharding_indexed` codec disables partial reads"),
]

SHUFFLES: tuple[Any, ...] = ("noshuffle", "shuffle", "bitshuffle")
DTYPES = ("|i1", "<u2", ">f8", "|S3")
WRITE_ORDERS = (
    (None, "morton", "lexicographic", "colexicographic", "unordered")
    if "subchunk_write_order" in inspect.signature(ShardingCodec).parameters
    else (None,)
)
"""Of the subchunks in a shard; before zarr 3.4 there is one, the default."""
LENGTHS = (1, 7, 333)
"""Of a chunk, in elements: with these types odd and even numbers of bytes, one included."""
TYPES_AND_LENGTHS = tuple(product(DTYPES, LENGTHS))[::2]
"""Each type and each length, though not each type with each length."""


def _extension(kind: str, **settings: Any) -> Any:
    """Make a codec of numcodecs'; older zarr warns of each."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return getattr(extensions, kind)(**settings)


def _named(*codecs: Any) -> tuple[str, tuple[Any, ...]]:
    return " ".join(str(codec.to_dict()) for codec in codecs), codecs


CNAMES = [cname for cname in list_compressors() if cname != "snappy"]
"""Compressors of Blosc that the engine runs."""
COPIES = dict(
    [
        ("bytes", ()),
        _named(Crc32cCodec()),
        _named(_extension("Fletcher32")),
        _named(_extension("Shuffle")),
        _named(_extension("Shuffle", elementsize=1)),
        _named(_extension("Fletcher32"), Crc32cCodec()),
        _named(_extension("Shuffle"), _extension("Fletcher32")),
    ]
)
"""Chains that do not compress: what they make is the same bytes, whoever makes it."""
COMPRESSORS = dict(
    [
        *(
            _named(ZstdCodec(level=level, checksum=check))
            for level, check in ((-7, True), (0, False), (3, True), (22, False))
        ),
        *(_named(GzipCodec(level=level)) for level in range(10)),
        *(_named(_extension("Zlib", level=level)) for level in (-1, 0, 1, 9)),
        _named(_extension("Zlib")),
        *(_named(_extension("BZ2", level=level)) for level in (1, 9)),
        _named(_extension("BZ2")),
        *(
            _named(BloscCodec(cname=cname, shuffle=shuffle, clevel=clevel))
            for cname, shuffle, clevel in product(CNAMES, SHUFFLES, (0, 5))
        ),
        *(_named(_extension("Zstd", level=level, checksum=True)) for level in (-7, 3)),
        *(_named(_extension("GZip", level=level)) for level in (-1, 0, 9)),
        *(_named(_extension("Blosc", cname="lz4", shuffle=shuffle)) for shuffle in (-1, 0, 1, 2)),
        _named(_extension("LZ4"), ZstdCodec()),
        *(_named(BloscCodec(typesize=typesize, shuffle="shuffle")) for typesize in (1, 3, 255, 300)),
        *(_named(BloscCodec(cname="lz4", clevel=9, blocksize=blocksize)) for blocksize in (1, 100, 2**20)),
        *(_named(first, ZstdCodec()) for first in (Crc32cCodec(), GzipCodec(), _extension("Shuffle"), BloscCodec())),
        _named(ZstdCodec(), Crc32cCodec(), GzipCodec()),
        _named(_extension("Zlib"), _extension("Fletcher32"), _extension("BZ2")),
    ]
)
COMPRESSORS_V2 = {
    str(codec and codec.get_config()): codec
    for codec in (
        None,
        *(numcodecs.Zstd(level=level, checksum=check) for level, check in ((-7, True), (0, False), (22, False))),
        *(kind(level=level) for kind in (numcodecs.GZip, numcodecs.Zlib) for level in (-1, 0, 1, 9)),
        *(numcodecs.BZ2(level=level) for level in (1, 9)),
        *(
            numcodecs.Blosc(cname=cname, shuffle=shuffle, clevel=clevel)
            for cname, shuffle, clevel in product(CNAMES, (-1, 0, 1, 2), (0, 5))
        ),
        numcodecs.Blosc(blocksize=100),
    )
}
LEFT: dict[str, dict[str, Any]] = {
    "delta-of-booleans": {"filters": [_extension("Delta", dtype="bool")], "dtype": "bool"},
    "delta-to-floats": {"filters": [_extension("Delta", dtype="i4", astype="f8")], "dtype": "i4"},
    "delta-of-another-type": {"filters": [_extension("Delta", dtype="i8")]},
    "bytes-before-numbers": {"zarr_format": 2, "filters": [numcodecs.Shuffle(8), numcodecs.Delta("f8")]},
    "astype-to-uint32": {"filters": [_extension("AsType", encode_dtype="u4", decode_dtype="f8")]},
    "astype-of-complex-numbers": {
        "filters": [_extension("AsType", encode_dtype="c8", decode_dtype="c16")],
        "dtype": "c16",
    },
    "an-offset-of-numpy's": {"zarr_format": 2, "filters": [numcodecs.FixedScaleOffset(np.float64(0.5), 2, "f8")]},
    "bitround-in-F-order": {
        "zarr_format": 2,
        "filters": [numcodecs.BitRound(3)],
        "shape": (6, 7),
        "chunks": (3, 7),
        "order": "F",
    },
    "numcodecs.lzma": {"compressors": [_extension("LZMA")]},
    "before shards": {"filters": [TransposeCodec(order=(0,))], "serializer": ShardingCodec(chunk_shape=(7,))},
    "after shards": {"serializer": ShardingCodec(chunk_shape=(7,)), "compressors": [Crc32cCodec()]},
    "sum of an index": {
        "serializer": ShardingCodec(chunk_shape=(7,), index_codecs=[BytesCodec(), _extension("Fletcher32")])
    },
}
"""Codecs that zarr's own pipeline does."""


def both_ways(dtype: str, length: int, *, same_bytes: bool, **arguments: Any) -> None:
    """Write three chunks with either pipeline and read each with both."""
    values = random_values(np.dtype(dtype), (3 * length,), length)
    values[length : 2 * length] = values[0]
    arguments.update(shape=values.shape, chunks=(length,), dtype=dtype)
    arrays = [created(MemoryStore(), pipeline, **arguments) for pipeline in (OURS, DEFAULT)]
    for array in arrays:
        array[...] = values
        ours, default = (opened(array.store, pipeline) for pipeline in (OURS, DEFAULT))
        expected = values.astype(default.dtype)  # Zarr v3 knows no byte order in memory
        assert_same_bits(ours[...], expected)
        assert_same_bits(default[...], expected)
        assert_same_bits(ours[1:-1], expected[1:-1])
    kept = [stored(array) for array in arrays]
    assert kept[0].keys() == kept[1].keys()
    assert len(kept[0]) == 3
    if same_bytes:
        assert kept[0] == kept[1]


def assert_python_ran(pipeline: ModuleType, before: dict[str, Any]) -> None:
    """Assert that codecs were called in Python since `before`, and that no batch was left to zarr."""
    after = pipeline.stats()
    assert after["python_codec_calls"] > before["python_codec_calls"]
    assert after["fallback_batches"] == before["fallback_batches"]


@pytest.mark.usefixtures("rust_only")
@pytest.mark.parametrize("name", [*COPIES, *COMPRESSORS])
def test_each_reads_what_the_other_wrote(name: str) -> None:
    codecs = COPIES.get(name, COMPRESSORS.get(name))
    for dtype, length in TYPES_AND_LENGTHS:
        both_ways(dtype, length, same_bytes=name in COPIES, compressors=codecs, filters=())


@pytest.mark.usefixtures("rust_only")
@pytest.mark.parametrize("name", COMPRESSORS_V2)
def test_each_reads_what_the_other_wrote_in_v2(name: str) -> None:
    codec = COMPRESSORS_V2[name]
    for dtype, length in TYPES_AND_LENGTHS:
        both_ways(dtype, length, same_bytes=codec is None, compressors=codec, filters=None, zarr_format=2)


@pytest.mark.usefixtures("rust_only")
@pytest.mark.parametrize("shuffle", [-1, 0, 1, 2])
@pytest.mark.parametrize("typesize", [None, 1, 2, 3, 300])
@pytest.mark.parametrize("filters", [None, [numcodecs.Delta("<u2", "<i8")], [numcodecs.Shuffle(2)]])
def test_headers_of_blosc_are_numcodecs(shuffle: int, typesize: int | None, filters: Any) -> None:
    """The bytes of its version, of how it shuffles and of its size of elements."""
    if typesize is not None and "typesize" not in inspect.signature(numcodecs.Blosc).parameters:
        pytest.skip("this numcodecs has no such setting")
    blosc = numcodecs.Blosc(shuffle=shuffle, **({} if typesize is None else {"typesize": typesize}))
    headers = []
    for path in (OURS, DEFAULT):
        array = created(
            MemoryStore(), path, shape=(900,), dtype="<u2", zarr_format=2, filters=filters, compressors=blosc
        )
        array[...] = np.arange(900) // 3
        headers.append([value[:4] for value in stored(array).values()])
    assert headers[0] == headers[1]


@pytest.mark.usefixtures("rust_only")
@pytest.mark.parametrize("cname", CNAMES)
@pytest.mark.parametrize("shuffle", SHUFFLES)
@pytest.mark.parametrize("clevel", [0, 1, 5, 9])
def test_blocks_of_blosc_are_numcodecs(cname: Any, shuffle: Any, clevel: int) -> None:
    """All of the header but its last number: how long the chunk became is the compressor's version's."""
    values = np.arange(60_000, dtype="<i4") // 7
    values[:20_000] = 1
    values[40_000:] = np.random.default_rng(0).integers(-(2**31), 2**31, 20_000)  # stored as they are
    for blocksize, length in product((0, 4096), (20_000, 30_000, 60_000)):
        codec = BloscCodec(cname=cname, shuffle=shuffle, clevel=clevel, blocksize=blocksize, typesize=4)
        headers = []
        for path in (OURS, DEFAULT):
            array = created(
                MemoryStore(), path, shape=(60_000,), chunks=(length,), dtype="<i4", compressors=codec, filters=()
            )
            array[...] = values
            headers.append({key: value[:12] for key, value in stored(array).items()})
        assert headers[0] == headers[1]


@pytest.mark.skipif("snappy" in list_compressors(), reason="this numcodecs has snappy")
def test_blosc_does_not_write_what_numcodecs_does_not(pipeline: ModuleType) -> None:
    before = pipeline.stats()
    for path in (OURS, DEFAULT):
        array = created(MemoryStore(), path, shape=(9,), dtype="u2", compressors=BloscCodec(cname="snappy"), filters=())
        with pytest.raises(ValueError, match="snappy"):
            array[...] = np.arange(9)
        assert not stored(array)
    assert_python_ran(pipeline, before)


@pytest.mark.usefixtures("rust_only")
@pytest.mark.parametrize("endian", ["little", "big"])
@pytest.mark.parametrize("location", ["start", "end"])
@pytest.mark.parametrize("checksum", [True, False])
def test_indexes_of_shards(endian: Any, location: Any, checksum: bool) -> None:  # noqa: FBT001  # a parameter
    index: list[Any] = [BytesCodec(endian=endian), *([Crc32cCodec()] if checksum else [])]
    sharding = ShardingCodec(chunk_shape=(9,), index_codecs=index, index_location=location)
    for length in (9, 27):
        both_ways("<i4", length, same_bytes=True, serializer=sharding, filters=(), compressors=())


@pytest.mark.usefixtures("rust_only")
@given(
    grid=st.lists(st.integers(1, 5), min_size=1, max_size=3) | st.lists(st.integers(1, 3), min_size=4, max_size=4),
    order=st.sampled_from(WRITE_ORDERS),
    location=st.sampled_from(["start", "end"]),
    nested=st.booleans(),
    data=st.data(),
)
@settings(max_examples=40, deadline=None)
def test_subchunks_are_written_in_zarrs_order(
    grid: list[int],
    order: Any,  # a literal of zarr's
    location: Any,  # a literal of zarr's
    nested: bool,  # noqa: FBT001  # a parameter
    data: st.DataObject,
) -> None:
    """Whole shards and shards that a partial write has changed, some subchunks of them not there."""
    chosen = {} if order is None else {"subchunk_write_order": order}
    codecs: list[Any] = [BytesCodec(), Crc32cCodec()]
    if nested:
        codecs = [ShardingCodec(chunk_shape=(1,) * len(grid), codecs=codecs, **chosen)]
    sharding = ShardingCodec(chunk_shape=(2,) * len(grid), codecs=codecs, index_location=location, **chosen)
    shape = tuple(2 * length for length in grid)
    arguments: dict[str, Any] = {"shape": shape, "chunks": shape, "dtype": "u2", "fill_value": 0}
    arrays = [
        created(MemoryStore(), path, serializer=sharding, filters=(), compressors=(), **arguments)
        for path in (OURS, DEFAULT)
    ]
    values = np.arange(1, math.prod(shape) + 1, dtype="u2").reshape(shape)
    empty = data.draw(st.lists(st.sampled_from(list(np.ndindex(*grid))), max_size=4))
    for subchunk in empty:
        values[tuple(slice(2 * at, 2 * at + 2) for at in subchunk)] = 0
    part = tuple(slice(0, data.draw(st.integers(1, length))) for length in shape)
    ours, default = arrays
    for array in arrays:
        array[...] = values
    assert stored(ours) == stored(default)
    for array in arrays:
        array[part] = 7
    assert_same_bits(ours[...], default[...])
    assert stored(ours) == stored(default)


@pytest.mark.parametrize("name", LEFT)
def test_what_python_runs_is_stored_as_zarr_stores_it(pipeline: ModuleType, name: str) -> None:
    arguments: dict[str, Any] = {"dtype": "f8", "compressors": None, "shape": (42,), "chunks": (14,), **LEFT[name]}
    values = (np.arange(42) * 123456.789).astype(arguments["dtype"]).reshape(arguments["shape"])
    before = pipeline.stats()
    arrays = [created(MemoryStore(), path, **arguments) for path in (OURS, DEFAULT)]
    for array in arrays:
        array[...] = values
    ours, default = arrays
    assert stored(ours) == stored(default)
    assert_same_bits(ours[...], default[...])
    assert_python_ran(pipeline, before)


def test_pcodec_is_run_by_python(pipeline: ModuleType) -> None:
    pytest.importorskip("pcodec")
    array = created(
        MemoryStore(), OURS, shape=(9,), dtype="f8", serializer=_extension("PCodec", level=8), compressors=None
    )
    before = pipeline.stats()
    array[...] = np.arange(9)
    assert_same_bits(opened(array.store, DEFAULT)[...], np.arange(9.0))
    assert_python_ran(pipeline, before)


@pytest.mark.skipif(not hasattr(zarr.codecs, "ScaleOffset"), reason="the page is about the newest zarr")
def test_the_documented_table_is_what_a_run_gives() -> None:
    import support_table  # noqa: PLC0415  # it needs the newest zarr

    told = support_table.PAGE.read_text().partition(support_table.BEGIN)[2].partition(support_table.END)[0]
    assert told == support_table.table()


@pytest.mark.parametrize("codec", [GzipCodec(level=1), _extension("Shuffle", elementsize=2), Crc32cCodec()])
def test_a_codec_of_another_class_is_asked(pipeline: ModuleType, codec: Any) -> None:
    """Wherever it stands: in the chain, in a shard, in the index of a shard."""
    asked = []

    class Asked(type(codec)):  # type: ignore[misc]  # the class of the parameter
        def _encode_sync(self, *arguments: Any) -> Any:
            asked.append("encode")
            return super()._encode_sync(*arguments)

        def _decode_sync(self, *arguments: Any) -> Any:
            asked.append("decode")
            return super()._decode_sync(*arguments)

        async def _encode_single(self, *arguments: Any) -> Any:
            asked.append("encode")
            return await super()._encode_single(*arguments)

        async def _decode_single(self, *arguments: Any) -> Any:
            asked.append("decode")
            return await super()._decode_single(*arguments)

    if not hasattr(codec, "_encode_sync"):  # older zarr has blocking methods for its own codecs alone
        del Asked._encode_sync, Asked._decode_sync
    settings = codec.to_dict().get("configuration", {})
    uses: list[dict[str, Any]] = [
        {"compressors": [Asked(**settings)]},
        {"serializer": ShardingCodec(chunk_shape=(2,), codecs=[BytesCodec(), Asked(**settings)]), "compressors": ()},
    ]
    if isinstance(codec, Crc32cCodec):
        index: list[Any] = [BytesCodec(), Asked()]
        uses.append({"serializer": ShardingCodec(chunk_shape=(2,), index_codecs=index), "compressors": ()})
    for use in uses:
        asked.clear()
        before = pipeline.stats()
        array = created(MemoryStore(), OURS, shape=(4,), chunks=(4,), dtype="u2", filters=(), **use)
        array[...] = np.arange(1, 5)
        assert_same_bits(array[...], np.arange(1, 5, dtype="u2"))
        assert {"encode", "decode"} <= set(asked)
        assert_python_ran(pipeline, before)


def test_a_compressor_of_v2_of_another_class_is_asked(pipeline: ModuleType) -> None:
    asked = []

    class Asked(numcodecs.Zlib):  # type: ignore[misc]  # untyped
        def encode(self, buf: Any) -> Any:
            asked.append(len(buf))
            return super().encode(buf)

    before = pipeline.stats()
    array = created(MemoryStore(), OURS, shape=(4,), dtype="i4", zarr_format=2, compressors=Asked(level=1))
    array[...] = 5
    assert asked == [4]
    assert_python_ran(pipeline, before)


def test_a_codec_that_numcodecs_was_told_of_is_asked(pipeline: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    class Asked(numcodecs.Zlib):  # type: ignore[misc]  # untyped
        def encode(self, buf: Any) -> Any:
            asked.append(len(buf))
            return super().encode(buf)

    monkeypatch.setitem(numcodecs.registry.codec_registry, "zlib", Asked)
    before = pipeline.stats()
    array = created(MemoryStore(), OURS, shape=(4,), dtype="i4", compressors=[_extension("Zlib", level=1)])
    array[...] = 5
    assert len(asked) == 1
    assert_python_ran(pipeline, before)


def test_a_filter_of_v2_of_another_class_is_asked(pipeline: ModuleType) -> None:
    asked = []

    class Asked(numcodecs.Delta):  # type: ignore[misc]  # untyped
        def encode(self, buf: Any) -> Any:
            asked.append(buf.shape)
            return super().encode(buf)

    before = pipeline.stats()
    delta = Asked(dtype="i4")
    array = created(MemoryStore(), OURS, shape=(4,), dtype="i4", zarr_format=2, filters=[delta], compressors=None)
    array[...] = np.arange(4)
    assert asked == [(4,)]
    assert_same_bits(opened(array.store, DEFAULT)[...], np.arange(4, dtype="i4"))
    assert_python_ran(pipeline, before)


def test_a_wrong_level_is_refused_as_zarr_refuses_it() -> None:
    for compressor, zarr_format in (
        (numcodecs.Zlib(level=12), 2),
        (numcodecs.BZ2(level=0), 2),
        (_extension("BZ2", level=0), 3),
    ):
        for path in (DEFAULT, OURS):
            arguments: Any = {"zarr_format": zarr_format, "compressors": compressor}
            array = created(MemoryStore(), path, shape=(4,), dtype="i4", **arguments)
            with pytest.raises(Exception, match=r"[Cc]ompression level|compresslevel") as refused:
                array[...] = 1
            assert "zarrs_async" not in type(refused.value).__module__
    assert zarr.config.get("codec_pipeline.path") != OURS
