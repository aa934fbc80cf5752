"""Whatever is drawn: our pipeline stores and reads what zarr's default pipeline does, bit for bit."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st
from oracle import DEFAULT, DEFAULT_WRITES_SHARDS, OURS, assert_same_bits, goes, keys, no_fallback, opened, way
from strategies import FLOATS, STORES, ArrayCase, Pick, array_cases, made_store, picks, random_values, values
from zarr.storage import MemoryStore

if TYPE_CHECKING:
    from zarr.abc.store import Store

pytestmark = [
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("ignore:The data type .* does not have a Zarr V3 specification"),
    pytest.mark.filterwarnings("ignore:Numcodecs codecs are not in the Zarr version 3 specification"),
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),  # numpy's, of comparisons with signalling NaN
]
relaxed = settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


@pytest.fixture(autouse=True)
def _rectilinear() -> None:
    """Have zarr take chunks of lengths that vary."""
    zarr.config.set({"array.rectilinear_chunks": True})


def reopened(store: Store, pipeline: str, case: ArrayCase) -> Any:
    """Open the array that is in the store, with one of the pipelines."""
    config: Any = {"write_empty_chunks": case.write_empty_chunks}
    if case.zarr_format == 3:
        config["order"] = case.order
    return opened(store, pipeline, **config)


def made(case: ArrayCase, store: Store, pipeline: str) -> zarr.Array[Any]:
    """Make the array with one of the pipelines."""
    with zarr.config.set({"codec_pipeline.path": pipeline}):
        return case.create(store)


def twins(case: ArrayCase, store: Store) -> tuple[zarr.Array[Any], zarr.Array[Any]]:
    """Make the same array twice: ours in the store, the default's in memory."""
    return made(case, store, OURS), made(written_by_default(case), MemoryStore(), DEFAULT)


def written_by_default(case: ArrayCase) -> ArrayCase:
    """Give the array that zarr's default pipeline can write any selection to."""
    return case if DEFAULT_WRITES_SHARDS else case.without_shards()


@relaxed
@given(st.data(), array_cases(), st.sampled_from(STORES))
def test_writes_store_what_the_default_stores(data: st.DataObject, case: ArrayCase, kind: str) -> None:
    with made_store(kind) as store, goes(case.way()):
        ours, default = twins(case, store)
        assert way(ours) == case.way()
        for _ in range(data.draw(st.integers(1, 3))):
            pick = data.draw(picks(case, unique=True))
            value = data.draw(values(case, pick.read(default).shape))
            pick.write(default, value)
            pick.write(ours, value)
        note(f"keys of ours: {sorted(keys(store))}")
        assert keys(store) == keys(default.store)
        assert_same_bits(ours[...], default[...])
        # What is reopened has native byte order in Zarr v3.
        assert_same_bits(reopened(store, DEFAULT, case)[...], reopened(default.store, DEFAULT, case)[...])


@relaxed
@given(st.data(), array_cases(), st.sampled_from(STORES))
def test_reads_are_what_the_default_reads(data: st.DataObject, case: ArrayCase, kind: str) -> None:
    with made_store(kind) as store, goes("native"):
        default = made(written_by_default(case), MemoryStore(), DEFAULT)
        if 0 not in case.shape:
            pick = data.draw(picks(case, unique=True))
            pick.write(default, data.draw(values(case, pick.read(default).shape)))
        made(case, store, DEFAULT)[...] = default[...]
        ours = reopened(store, OURS, case)
        assert way(ours) == "native"
        default = reopened(store, DEFAULT, case)
        assert_same_bits(ours[...], default[...])
        for _ in range(data.draw(st.integers(1, 3))):
            pick = data.draw(picks(case))
            assert_same_bits(pick.read(ours), pick.read(default))


@pytest.mark.parametrize("sharded", [False, True])
@pytest.mark.parametrize("name", FLOATS)
@given(data=st.data())
@settings(max_examples=15)
def test_fill_values_keep_every_bit(name: str, sharded: bool, data: st.DataObject) -> None:  # noqa: FBT001  # a parameter
    """NaN has payloads, which only metadata in hexadecimal can hold."""
    dtype = np.dtype(name)
    bits = data.draw(
        st.sampled_from([0x7E01, 0xFE00, 0x7C01, 0x8000]) if name == "f2" else st.integers(0, 256**dtype.itemsize - 1)
    )
    fill = f"0x{bits:0{2 * dtype.itemsize}x}"
    store = MemoryStore()
    shards = (4,) if sharded else None
    zarr.create_array(store, shape=(8,), chunks=(2,), shards=shards, dtype=name, fill_value=0, compressors=None)
    _replace(store, '"fill_value": 0.0', f'"fill_value": "{fill}"')
    case = ArrayCase(shape=(8,), chunks=(2,), dtype=name, fill=None)
    with no_fallback():
        ours = reopened(store, OURS, case)
        # zarr itself loses the payload of a float16.
        expected = np.asarray(ours.fill_value).view(f"u{dtype.itemsize}")
        assert expected == bits or name == "f2"
        ours[0:1] = np.ones(1, dtype)
        assert (ours[1:].view(expected.dtype) == expected).all()
        default = reopened(store, DEFAULT, case)
        assert_same_bits(ours[...], default[...])
        # A chunk of nothing but the fill value is empty.
        ours[...] = np.full(8, expected).view(dtype)
        assert keys(store) == {"zarr.json"}


def _replace(store: MemoryStore, old: str, new: str) -> None:
    """Replace text in the array's metadata."""
    document = store._store_dict["zarr.json"]
    text = document.to_bytes().decode()
    assert old in text
    store._store_dict["zarr.json"] = type(document).from_bytes(text.replace(old, new).encode())


@pytest.mark.parametrize(
    ("dtype", "fill", "value"),
    [
        ("f8", 0.0, -0.0),
        ("f4", -0.0, 0.0),
        ("f8", math.nan, -math.nan),
        ("f2", math.nan, math.nan),
        ("c16", 0j, complex(0.0, -0.0)),
        ("c8", complex(-0.0, 0.0), 0j),
        ("c8", complex(math.nan, 1), complex(2, math.nan)),
        ("M8[s]", np.datetime64("NaT", "s"), np.datetime64("NaT", "s")),
        ("i4", 7, 7),
        ("?", True, True),
        ("S3", b"ab", b"ab"),
        ("U2", "", ""),
    ],
)
@pytest.mark.parametrize("shape", [(4,), (8,)], ids=["chunk", "shard"])
@pytest.mark.parametrize("write_empty_chunks", [True, False])
@pytest.mark.usefixtures("native")
def test_emptiness_is_decided_as_by_the_default(
    dtype: str,
    fill: Any,
    value: Any,
    shape: tuple[int],
    write_empty_chunks: bool,  # noqa: FBT001  # a parameter
) -> None:
    shards: Any = {"chunks": (4,), "shards": (8,)} if shape == (8,) else {"chunks": (4,)}
    stored = []
    for pipeline in (OURS, DEFAULT):
        with zarr.config.set({"codec_pipeline.path": pipeline}):
            store = MemoryStore()
            array = zarr.create_array(
                store,
                shape=(16,),
                dtype=dtype,
                fill_value=fill,
                config={"write_empty_chunks": write_empty_chunks},
                compressors=None,
                **shards,
            )
            array[0:8] = np.full(8, value, dtype=dtype)
            array[8:16] = random_values(np.dtype(dtype), (8,), 1)
            array[8:16] = np.full(8, value, dtype=dtype)
            stored.append({key: bytes(value.to_bytes()) for key, value in store._store_dict.items()})
    assert stored[0] == stored[1]


@pytest.mark.parametrize("codec", ["gzip", "crc32c", "zstd"])
@pytest.mark.filterwarnings("ignore:Combining a `sharding_indexed` codec disables partial reads")
@pytest.mark.filterwarnings("ignore:zarrs_async does not support")
def test_codecs_around_shards(codec: str) -> None:
    from zarr.codecs import Crc32cCodec, GzipCodec, ShardingCodec, ZstdCodec  # noqa: PLC0415  # for this test only

    outer: Any = {"gzip": GzipCodec(), "crc32c": Crc32cCodec(), "zstd": ZstdCodec()}[codec]
    case = ArrayCase(
        shape=(9, 9),
        chunks=(4, 4),
        dtype="<i4",
        fill=-1,
        codecs={"filters": [], "serializer": ShardingCodec(chunk_shape=(2, 2)), "compressors": [outer]},
    )
    store = MemoryStore()
    ours, default = twins(case, store)
    pick = Pick("basic", (slice(1, 8, 3), slice(None)))
    value = random_values(np.dtype("i4"), (3, 9), 3)
    for array in (ours, default):
        pick.write(array, value)
    assert keys(store) == keys(default.store)
    assert_same_bits(reopened(store, DEFAULT, case)[...], default[...])
    assert_same_bits(ours[2:, ::2], default[2:, ::2])
