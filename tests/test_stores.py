"""Every kind of store: the same work ends alike with our pipeline and with zarr's default, and is the engine's."""

from __future__ import annotations

import json
from contextlib import ExitStack
from itertools import cycle, islice
from typing import TYPE_CHECKING, Any

import fsspec
import numpy as np
import obstore.store
import pytest
import zarr
from fsspec.implementations.asyn_wrapper import AsyncFileSystemWrapper
from fsspec.implementations.dirfs import DirFileSystem
from oracle import DEFAULT, OURS, assert_same_bits, created, keys, opened
from zarr.storage import FsspecStore, LocalStore, LoggingStore, MemoryStore, ObjectStore, WrapperStore, ZipStore
from zarr.testing.store import LatencyStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from zarr.abc.store import Store

# Our pipeline is on, and nothing may fall back.
pytestmark = pytest.mark.usefixtures("native")

VALUES = np.arange(1, 13 * 11 + 1, dtype="i4").reshape(13, 11)
LAYOUTS: dict[str, dict[str, Any]] = {
    "chunks": {"chunks": (4, 3)},
    "shards": {"chunks": (2, 3), "shards": (4, 6)},
    "Zarr v2": {"chunks": (4, 3), "zarr_format": 2},
}


def cached(_: Path) -> Store:
    """Make zarr's own cache before a store."""
    cache_store = pytest.importorskip("zarr.experimental.cache_store")
    store: Store = cache_store.CacheStore(MemoryStore(), cache_store=MemoryStore())
    return store


def chained(url: str) -> Callable[[Path], Store]:
    """Make a store of a chain of fsspec's file systems, in which `@` stands for an empty directory."""

    def make(root: Path) -> Store:
        # Without directories that are made where they are missing, no chunk can be written.
        options: dict[str, Any] = {"file": {"auto_mkdir": True}} if "file:" in url else {}
        if "simplecache:" in url:
            options["simplecache"] = {"cache_storage": str(root.with_name(f"{root.name} cache"))}
        return FsspecStore.from_url(url.replace("@", str(root)), storage_options=options)

    return make


def directory(root: Path) -> Store:
    """Make a store of a directory of another file system of fsspec's."""
    inner = DirFileSystem(str(root), fsspec.filesystem("memory"))
    return FsspecStore(AsyncFileSystemWrapper(inner, asynchronous=True), path="/a")


WRITABLE: dict[str, Callable[[Path], Store]] = {
    "MemoryStore": lambda _: MemoryStore(),
    "LocalStore": LocalStore,
    "ZipStore": lambda root: ZipStore(root / "a.zip", mode="w"),
    "WrapperStore": lambda _: WrapperStore(MemoryStore()),
    "LoggingStore": lambda _: LoggingStore(MemoryStore(), log_level="ERROR"),
    "LatencyStore": lambda _: LatencyStore(MemoryStore(), get_latency=1e-4, set_latency=1e-4),
    "CacheStore": cached,
    "obstore memory": lambda _: ObjectStore(obstore.store.MemoryStore()),
    "obstore local": lambda root: ObjectStore(obstore.store.LocalStore(root)),
    "fsspec local": chained("file://@"),
    "fsspec memory": chained("memory://@"),
    "fsspec directory": directory,
}


def zipped(root: Path) -> Store:
    """Make a store of a zip file through fsspec."""
    with ZipStore(root / "a.zip", mode="w") as store:
        filled(store)
    return FsspecStore.from_url(f"zip::file://{root}/a.zip", read_only=True)


def simply_cached(root: Path) -> Store:
    """Make a store of files that fsspec keeps copies of, which it would not renew after a write."""
    filled(LocalStore(root))
    return chained("simplecache::file://@")(root).with_read_only()


def referred(root: Path) -> Store:
    """Make a store of references, some of which hold bytes and some say where bytes are, as kerchunk makes them."""
    filled(LocalStore(root / "a"))
    references: dict[str, Any] = {}
    with (root / "all").open("wb") as joined:
        for path in sorted(path for path in (root / "a").rglob("*") if path.is_file()):
            data, key = path.read_bytes(), path.relative_to(root / "a").as_posix()
            if key.endswith(".json"):
                references[key] = data.decode()
            else:
                references[key] = [f"file://{root}/all", joined.tell(), len(data)]
            joined.write(data)
    (root / "references.json").write_text(json.dumps({"version": 1, "refs": references}))
    filesystem = fsspec.filesystem(
        "reference", fo=f"{root}/references.json", remote_protocol="file", asynchronous=True, skip_instance_cache=True
    )
    return FsspecStore(filesystem, path="", read_only=True)


def read_only(root: Path, make: Callable[[Path], Store]) -> Store:
    """Make a store, fill it, and give it read-only."""
    store = make(root)
    filled(store)
    return store.with_read_only()


def zip_read_only(root: Path) -> Store:
    """Make zarr's own store of a zip file, to be read."""
    with ZipStore(root / "a.zip", mode="w") as store:
        filled(store)
    return ZipStore(root / "a.zip", mode="r")


def read_only_memory() -> Store:
    """Make a store in memory, to be read."""
    store = MemoryStore()
    filled(store)
    return store.with_read_only()


READ_ONLY: dict[str, Callable[[Path], Store]] = {
    "fsspec zip": zipped,
    "fsspec cache": simply_cached,
    "fsspec references": referred,
    "ZipStore": zip_read_only,
    "LocalStore": lambda root: read_only(root, LocalStore),
    "MemoryStore": lambda _: read_only_memory(),
    "obstore memory": lambda root: read_only(root, WRITABLE["obstore memory"]),
    "fsspec local": lambda root: read_only(root, WRITABLE["fsspec local"]),
}


def filled(store: Store) -> None:
    """Write an array with shards, one of which is missing."""
    array = created(store, DEFAULT, shape=VALUES.shape, dtype="i4", fill_value=-1, **LAYOUTS["shards"])
    array[...] = np.where(VALUES < 40, -1, VALUES)


READS: dict[str, Callable[[Any], Any]] = {
    "all": lambda array: array[...],
    "a part": lambda array: array[2:11:3, 4],
    "an element": lambda array: array[-1, 0],
    "orthogonal": lambda array: array.oindex[[12, 0, 5], 2:9:2],
    "coordinates": lambda array: array.vindex[[12, 0, 5, 5], [10, 3, 7, 7]],
    "mask": lambda array: array.vindex[np.asarray(VALUES % 7 == 0)[: array.shape[0], : array.shape[1]]],
    "block": lambda array: array.blocks[1, 1:],
}

WRITES: dict[str, Callable[[Any], Any]] = {
    "all": lambda array: array.__setitem__(..., VALUES),
    "a part": lambda array: array.__setitem__(np.s_[2:11:3, 4:], 7),
    "orthogonal": lambda array: array.oindex.__setitem__(np.s_[[12, 0, 5], 2:9:2], 8),
    "coordinates": lambda array: array.vindex.__setitem__(([12, 0, 5], [10, 3, 7]), [1, 2, 3]),
    "block": lambda array: array.blocks.__setitem__((1, 1), 9),
    "fill values": lambda array: array.__setitem__(np.s_[:4, :6], -1),
    "smaller": lambda array: array.resize((6, 11)),
    "larger": lambda array: array.resize((13, 11)),
    "longer": lambda array: array.append(VALUES[:3]),
}


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Callable[[Callable[[Path], Store]], Store]]:
    """Return a function that makes a store in an empty directory; they are closed after the test."""
    with ExitStack() as stores:

        def make(kind: Callable[[Path], Store]) -> Store:
            root = tmp_path / str(len(list(tmp_path.iterdir())))
            root.mkdir()
            store = kind(root)
            stores.callback(store.close)
            return store

        yield make


def outcome(use: Callable[[Any], Any], array: Any) -> Any:
    """Give what is read, or the class of what is raised."""
    try:
        read = use(array)
    except Exception as error:  # noqa: BLE001  # whatever it is, the other pipeline raises it too
        return type(error)
    return None if read is None or isinstance(read, tuple) else np.asarray(read)


def assert_alike(ours: Any, default: Any) -> None:
    """Compare two outcomes."""
    if isinstance(default, np.ndarray):
        assert_same_bits(ours, default)
    else:
        assert ours == default


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", WRITABLE)
@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")  # of a zip file, where a chunk is written twice
def test_writes_and_reads_end_as_with_the_default(
    kind: str, layout: str, made: Callable[[Callable[[Path], Store]], Store]
) -> None:
    arguments = {"shape": VALUES.shape, "dtype": "i4", "fill_value": -1, **LAYOUTS[layout]}
    ours, default = (created(made(WRITABLE[kind]), pipeline, **arguments) for pipeline in (OURS, DEFAULT))
    reads = cycle(READS.values())
    for write in WRITES.values():
        assert_alike(outcome(write, ours), outcome(write, default))
        for read in (READS["all"], *islice(reads, 2)):
            assert_alike(outcome(read, ours), outcome(read, default))
    assert keys(ours.store) == keys(default.store)
    assert_same_bits(opened(ours.store, DEFAULT)[...], default[...])


@pytest.mark.parametrize("kind", READ_ONLY)
def test_read_only_stores(kind: str, made: Callable[[Callable[[Path], Store]], Store]) -> None:
    store = made(READ_ONLY[kind])
    ours, default = (opened_to_read(store, pipeline) for pipeline in (OURS, DEFAULT))
    # Not of the same store: of one zip file, parts that threads read are mixed up, and of copies no end is read.
    expected = opened_to_read(read_only_memory(), DEFAULT)
    for read in READS.values():
        assert_alike(outcome(read, ours), outcome(read, expected))
    for write in WRITES.values():
        refused = outcome(write, default)
        assert isinstance(refused, type)
        assert outcome(write, ours) == refused
    assert_same_bits(ours[...], np.where(VALUES < 40, -1, VALUES))


def opened_to_read(store: Store, pipeline: str) -> Any:
    """Open the array of a store that cannot be written to."""
    with zarr.config.set({"codec_pipeline.path": pipeline}):
        return zarr.open_array(store, mode="r")
