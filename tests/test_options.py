"""The options: what each does, and that a wrong value names the option, itself and what is allowed."""

from __future__ import annotations

import asyncio
import os
import pickle
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import oracle
import pytest
import zarr
from oracle import OURS, created, opened
from zarr.codecs import BytesCodec, Crc32cCodec
from zarr.errors import ZarrUserWarning
from zarr.storage import LocalStore, MemoryStore

if TYPE_CHECKING:
    from types import ModuleType

    from zarr.abc.store import ByteRequest
    from zarr.core.buffer import Buffer, BufferPrototype

pytestmark = pytest.mark.usefixtures("native")

COUNTS = (
    "threading.max_workers",
    "codec_pipeline.chunk_concurrent_maximum",
    "codec_pipeline.chunk_concurrent_minimum",
    "codec_pipeline.request_concurrent_maximum",
    "codec_pipeline.memory_limit_bytes",
)
FLAGS = ("codec_pipeline.validate_checksums", "codec_pipeline.direct_io", "codec_pipeline.strict")
WRONG = [
    *((name, value) for name in COUNTS for value in (0, -1, 1.5, "4", True, [4], 2**63)),
    *(("codec_pipeline.shard_index_cache_bytes", value) for value in (-1, 1.5, "4", False)),
    *((name, value) for name in FLAGS for value in (2, 1.0, "yes", "")),
]


def small(store: Any = None, **arguments: Any) -> Any:
    """Make a small array."""
    return created(
        MemoryStore() if store is None else store, OURS, **{"shape": (64,), "chunks": (2,), "dtype": "i4", **arguments}
    )


def options_of(array: zarr.Array[Any]) -> Any:
    """Give the options of an array's pipeline."""
    pipeline: Any = array.async_array.codec_pipeline
    return pipeline.options


@pytest.mark.parametrize(("name", "value"), WRONG)
def test_wrong_values(name: str, value: Any) -> None:
    from zarrs_async.exceptions import ConfigError  # noqa: PLC0415  # the fixture imports it

    array = small()
    pipeline: Any = array.async_array.codec_pipeline
    with zarr.config.set({name: value}):
        with pytest.raises(ConfigError) as refused:
            pipeline.from_array_metadata_and_store(array.metadata, array.store)
        message = str(refused.value)
        assert name in message
        assert repr(value) in message
        assert "must be" in message
        with pytest.raises(ConfigError):
            pickle.loads(pickle.dumps(pipeline))  # noqa: S301  # our own
    assert isinstance(refused.value, ValueError)
    small()[...] = 1  # and nothing is broken


def test_wrong_values_show_when_an_array_is_opened() -> None:
    from zarrs_async.exceptions import ConfigError  # noqa: PLC0415  # the fixture imports it

    store = small().store
    with (
        zarr.config.set({"codec_pipeline.direct_io": "yes"}),
        pytest.raises(ConfigError, match=r"codec_pipeline\.direct_io is 'yes'"),
    ):
        opened(store, OURS)


@pytest.mark.parametrize("name", [*COUNTS, *FLAGS, "codec_pipeline.shard_index_cache_bytes"])
def test_none_is_automatic(name: str) -> None:
    automatic = options_of(small())
    with zarr.config.set({name: None}):
        assert options_of(small()) == automatic


@pytest.mark.parametrize("name", ["strict", "validate_checksums"])
@pytest.mark.parametrize(
    ("word", "value"), [("true", True), ("True", True), ("1", True), ("false", False), ("FALSE", False), ("0", False)]
)
def test_flags_of_the_environment(name: str, word: str, *, value: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"ZARR_CODEC_PIPELINE__{name.upper()}", word)
    zarr.config.refresh()
    zarr.config.set({"codec_pipeline.path": OURS})
    assert getattr(options_of(small()), name) is value


@pytest.fixture
def unjudged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget which names of options were compared: each is warned of once."""
    from zarrs_async import _config  # noqa: PLC0415  # the fixture imports it

    monkeypatch.setattr(_config, "_judged", set())


@pytest.mark.usefixtures("unjudged")
@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("codec_pipeline.request_concurrent_maximun", "codec_pipeline.request_concurrent_maximum"),
        ("codec_pipeline.memory_limit", "codec_pipeline.memory_limit_bytes"),
        ("codec_pipline.strict", "codec_pipeline.strict"),
        ("codec_pipline.memory_limit", "codec_pipeline.memory_limit_bytes"),
        ("threading.max_worker", "threading.max_workers"),
    ],
)
def test_a_misspelt_option_is_warned_of_once_with_the_right_name(name: str, meant: str) -> None:
    with zarr.config.set({name: 1}):
        with pytest.warns(ZarrUserWarning) as told:
            small()
        small()  # and any warning is an error here
    assert [str(one.message) for one in told] == [f"zarr.config has {name!r}, which is no option; {meant!r} is"]
    assert told[0].filename == oracle.__file__


@pytest.mark.usefixtures("unjudged")
@pytest.mark.parametrize(
    "name",
    [
        "codec_pipeline.strict",
        "codec_pipeline.batch_size",
        "codec_pipeline.colour",
        "codecs.numcodecs.zstdx",
        "dask.scheduler",
        "solitary",
    ],
)
def test_no_other_option_is_warned_of(name: str) -> None:
    with zarr.config.set({name: None}):
        small()


def test_memory_is_bounded_where_the_system_does_not_tell_how_much_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    from zarrs_async import _machine  # noqa: PLC0415  # the fixture imports it

    monkeypatch.delattr(os, "sysconf")
    assert 0 < _machine.usable_memory() <= 2**32


def test_automatic_values() -> None:
    options = options_of(small())
    assert options.requests is None
    assert options.threads >= 1
    assert 0 < options.memory_bytes <= 2**30
    assert options.chunk_concurrent_maximum is None
    assert options.validate_checksums is True
    assert options.direct_io is False
    assert options.strict is False


def test_options_belong_to_the_pipeline_they_were_read_for() -> None:
    with zarr.config.set({"codec_pipeline.strict": True, "codec_pipeline.chunk_concurrent_maximum": 3}):
        first = small()
    second = small()
    assert options_of(first).strict is True
    assert options_of(first).chunk_concurrent_maximum == 3
    assert options_of(second).strict is False
    assert options_of(second).chunk_concurrent_maximum is None


def test_options_are_read_once_for_arrays_of_one_configuration() -> None:
    options = options_of(small())
    assert options_of(small()) is options
    with zarr.config.set({"codec_pipeline.strict": True}):
        assert options_of(small()).strict is True
    assert options_of(small()) == options


@pytest.mark.parametrize("name", ["codec_pipeline.request_concurrent_maximum", "threading.max_workers"])
def test_a_value_that_only_equals_an_allowed_one_is_refused(name: str) -> None:
    from zarrs_async.exceptions import ConfigError  # noqa: PLC0415  # the fixture imports it

    with zarr.config.set({name: 1}):
        small()
        for equal in (True, 1.0):
            with zarr.config.set({name: equal}), pytest.raises(ConfigError, match=name):
                small()
        small()


def test_every_way_to_change_the_configuration_is_seen() -> None:
    with zarr.config.set({"codec_pipeline.strict": False}):
        assert options_of(small()).strict is False
        zarr.config.config["codec_pipeline"]["strict"] = True
        assert options_of(small()).strict is True
        del zarr.config.config["codec_pipeline"]["strict"]
        assert options_of(small()).strict is False
        section = zarr.config.get("codec_pipeline")
        with zarr.config.set({"codec_pipeline": {**section, "strict": True}}):
            assert options_of(small()).strict is True
        assert options_of(small()).strict is False
        zarr.config.update({"codec_pipeline": {"strict": True}})
        assert options_of(small()).strict is True
        zarr.config.reset()
        assert options_of(small()).strict is False


def test_what_zarr_says_of_arrays_is_seen() -> None:
    from zarrs_async._codecs import chunk_spec  # noqa: PLC0415  # the fixture imports it

    metadata = small().metadata
    before = chunk_spec(metadata).config
    with zarr.config.set({"array.write_empty_chunks": True}):
        assert chunk_spec(metadata).config == replace(before, write_empty_chunks=True)
    assert chunk_spec(metadata).config == before


def test_options_are_read_again_on_unpickling() -> None:
    with zarr.config.set({"codec_pipeline.strict": True, "codec_pipeline.chunk_concurrent_maximum": 3}):
        array = small()
        array[...] = 1
        pickled = pickle.dumps(array)
        assert options_of(pickle.loads(pickled)).chunk_concurrent_maximum == 3  # noqa: S301  # our own
    again = pickle.loads(pickled)  # noqa: S301  # our own
    assert options_of(again).strict is False
    assert options_of(again).chunk_concurrent_maximum is None
    assert (np.asarray(again[...]) == 1).all()


class CountingStore(MemoryStore):
    """A store that sees how many gets and sets are under way at once."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.now: Counter[str] = Counter()
        self.most: Counter[str] = Counter()

    async def _count(self, operation: str) -> None:
        self.now[operation] += 1
        self.most[operation] = max(self.most[operation], self.now[operation])
        # Whoever else may set out, does so now.
        for _ in range(20):
            await asyncio.sleep(0.0005)
        self.now[operation] -= 1

    async def get(  # noqa: D102  # as any store
        self, key: str, prototype: BufferPrototype | None = None, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        if not key.endswith("json"):
            await self._count("get")
        return await super().get(key, prototype, byte_range)

    async def set(  # noqa: D102  # as any store
        self, key: str, value: Buffer, byte_range: tuple[int, int] | None = None
    ) -> None:
        if not key.endswith("json"):
            await self._count("set")
        await super().set(key, value, byte_range)


@pytest.mark.parametrize(
    "name", ["codec_pipeline.chunk_concurrent_maximum", "codec_pipeline.request_concurrent_maximum"]
)
@pytest.mark.parametrize("most", [1, 3, 16])
def test_bounds_on_what_is_in_flight(name: str, most: int) -> None:
    with zarr.config.set({name: most}):
        store = CountingStore()
        array = small(store)
        array[...] = np.arange(1, 65)
        assert np.asarray(array[...]).tolist() == list(range(1, 65))
        assert store.most == {"get": most, "set": most}


def test_requests_do_not_depend_on_threads() -> None:
    with zarr.config.set({"threading.max_workers": 1}):
        store = CountingStore()
        array = small(store)
        array[...] = np.arange(1, 65)
        assert np.asarray(array[...]).tolist() == list(range(1, 65))
        assert store.most["get"] == 32


def test_the_bound_follows_the_pipeline_made_last() -> None:
    store = CountingStore()
    array = small(store)
    array[...] = np.arange(1, 65)
    with zarr.config.set({"codec_pipeline.request_concurrent_maximum": 2}):
        small()
    store.most.clear()
    array[...]
    assert store.most["get"] == 2
    small()
    store.most.clear()
    array[...]
    assert store.most["get"] == 32


def test_resizing_while_batches_run_loses_no_permit() -> None:
    store = CountingStore()
    array = small(store)
    array[...] = np.arange(1, 65)

    async def read_and_resize() -> None:
        reading = [asyncio.create_task(array.async_array.getitem(...)) for _ in range(4)]
        for most in (1, 50, 2, 7, 3):
            with zarr.config.set({"codec_pipeline.request_concurrent_maximum": most}):
                opened_again = await zarr.api.asynchronous.open_array(store=store, mode="r")
                assert int(np.asarray(await opened_again.getitem(slice(0, 8))).sum()) == 36
        await asyncio.gather(*reading)

    with zarr.config.set({"codec_pipeline.path": OURS}):
        asyncio.run(read_and_resize())
    small()
    store.most.clear()
    array[...]
    assert store.most["get"] == 32


@pytest.mark.parametrize("limit", [1, 1000, 10**7])
@pytest.mark.parametrize("shards", [None, (32, 32)], ids=["chunks", "shards"])
@pytest.mark.parametrize("kind", ["memory", "local"])
def test_any_memory_limit_lets_everything_through(limit: int, shards: Any, kind: str, tmp_path: Path) -> None:
    with zarr.config.set({"codec_pipeline.memory_limit_bytes": limit}):
        store = MemoryStore() if kind == "memory" else LocalStore(tmp_path)
        array = small(store, shape=(64, 64), chunks=(8, 8), shards=shards)
        array[...] = np.arange(4096).reshape(64, 64)
        array[3:40, 5] = 0
        assert int(np.asarray(array[...]).sum()) == 4096 * 4095 // 2 - sum(64 * row + 5 for row in range(3, 40))


@pytest.mark.parametrize("workers", [2, 5])
def test_threads(workers: int) -> None:
    if not sys.platform.startswith("linux"):
        pytest.skip("threads have names to be read on Linux only")
    with zarr.config.set({"threading.max_workers": workers}):
        array = small(shape=(1 << 16,), chunks=(256,))
        array[...] = 1
        assert int(np.asarray(array[...]).sum()) == 1 << 16
        assert options_of(array).threads == workers
        assert _pool_threads() >= workers


def _pool_threads() -> int:
    names = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
    return sum(name.startswith("zarrs-async-cpu") for name in names)


def _corrupted() -> MemoryStore:
    """Make a store with one chunk of bytes 1, 2, 3, 4, whose checksum was made for others."""
    store = MemoryStore()
    array = small(
        store, shape=(4,), chunks=(4,), dtype="u1", serializer=BytesCodec(endian=None), compressors=[Crc32cCodec()]
    )
    array[...] = [1, 2, 3, 5]
    stored = store._store_dict["c/0"]
    raw = bytearray(stored.to_bytes())
    raw[3] = 4
    store._store_dict["c/0"] = type(stored).from_bytes(bytes(raw))
    return store


def test_checksums_are_validated_unless_told_otherwise() -> None:
    from zarrs_async.exceptions import ChunkDecodeError  # noqa: PLC0415  # the fixture imports it

    store = _corrupted()
    with pytest.raises(ChunkDecodeError, match="c/0") as refused:
        opened(store, OURS)[...]
    assert refused.value.codec == "crc32c"
    assert refused.value.key == "c/0"
    with zarr.config.set({"codec_pipeline.validate_checksums": False}):
        assert np.asarray(opened(store, OURS)[...]).tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize("shards", [None, (3000,)], ids=["chunks", "shards"])
def test_direct_io_works_or_says_that_it_cannot(shards: Any, tmp_path: Path) -> None:
    from zarrs_async.exceptions import StoreError  # noqa: PLC0415  # the fixture imports it

    values = np.random.default_rng(1).integers(0, 2**31, 9001, dtype="i4")
    with zarr.config.set({"codec_pipeline.direct_io": True}):
        array = small(LocalStore(tmp_path), shape=(9001,), chunks=(1000,), shards=shards)
        try:
            array[...] = values
        except StoreError as error:
            assert "O_DIRECT" in str(error)  # noqa: PT017  # either end is right
            assert "codec_pipeline.direct_io" in str(error)  # noqa: PT017  # as above
            assert not list(tmp_path.rglob("*.partial"))
            return
        array[17:2500] = 5
        values[17:2500] = 5
        assert np.asarray(array[...]).tolist() == values.tolist()
        assert np.asarray(array[100:9001:777]).tolist() == values[100:9001:777].tolist()
    assert np.asarray(opened(LocalStore(tmp_path), OURS)[...]).tolist() == values.tolist()


def until_settled(root: Path) -> None:
    """Wait until all files are old enough for one more change to show in their times."""
    youngest = max(path.stat().st_ctime for path in root.rglob("*"))
    while time.time() < youngest + 0.05:
        time.sleep(0.01)


def test_the_shard_index_cache_can_be_switched_off(pipeline: ModuleType, tmp_path: Path) -> None:
    hits = []
    for nbytes in (None, 0):
        with zarr.config.set({"codec_pipeline.shard_index_cache_bytes": nbytes}):
            array = small(LocalStore(tmp_path / str(nbytes)), chunks=(2,), shards=(32,))
            array[...] = np.arange(64)
            until_settled(tmp_path)
            before = pipeline.stats()["shard_index_hits"]
            for index in range(0, 64, 5):
                assert array[index] == index
            hits.append(pipeline.stats()["shard_index_hits"] - before)
    assert hits[0] > 0
    assert hits[1] == 0
