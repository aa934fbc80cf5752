"""However a root and a path are spelled, an array reads what the store itself has under the key, and writes it there.

Around each key lie other objects: where somebody would look who decodes, encodes, cuts or tidies the key.
"""

from __future__ import annotations

import itertools
import os
import posixpath
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

import fsspec
import numpy as np
import pytest
import zarr
from botocore.exceptions import BotoCoreError, ClientError
from botocore.session import get_session
from fsspec.implementations.asyn_wrapper import AsyncFileSystemWrapper
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from obstore.store import HTTPStore
from obstore.store import LocalStore as ObstoreLocalStore
from zarr.core.buffer import default_buffer_prototype
from zarr.core.buffer.cpu import Buffer
from zarr.core.chunk_key_encodings import ChunkKeyEncoding
from zarr.core.sync import sync
from zarr.errors import ZarrUserWarning
from zarr.registry import register_chunk_key_encoding
from zarr.storage import FsspecStore, LocalStore, ObjectStore, StorePath

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import ModuleType

    from zarr.abc.store import Store

    from support.servers import RangeServer, S3Server

pytestmark = pytest.mark.usefixtures("pipeline")

FILL, WRITTEN = 255, 99
LENGTH = 4
# A server that cannot take a key says so each time.
RETRIES: Any = {"max_retries": 0, "retry_timeout": timedelta(seconds=5)}
PLAIN = ["a", "x.zarr", "c", "year=2020", "a b", "a+b", "~b", "a&b", "(1),'2';$!", "a:b", "a@b", "...", "a.", "-"]
ODD = [
    *["", ".", "..", "%", "%41", "%2F", "%2e%2E", "a%20b", "#", "a#1", "?", "a?q=1", "a?versionId=1", "*", "[a]"],
    *["{x}", "|", "^", "`", '"', "<a>", "\\", "a\\b", "\x01", "\n", "é", "e\u0301", "漢", "\u202e", "\ufeff"],
]
segments = st.sampled_from(PLAIN) | st.sampled_from(ODD)
spellings = st.lists(segments, max_size=3).map("/".join)
numbers = itertools.count(1)


@dataclass(frozen=True)
class Place:
    """Where the objects of one example are."""

    store: Callable[[str], Store]
    """Makes a store of a root, spelled so."""
    plant: Callable[[str, bytes], None]
    """Puts an object below the place without the store's help, where that is possible."""


@pytest.fixture(params=["local", "obstore-local", "fsspec-local", "obstore-http", "fsspec-http", "obstore-s3", "s3fs"])
def places(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], Place]]:
    """Return a function that makes an empty place, of each kind of store that may be native."""
    kind: str = request.param
    filesystems = []

    def filesystem(protocol: str, **options: Any) -> Any:
        filesystems.append(fsspec.filesystem(protocol, asynchronous=True, skip_instance_cache=True, **options))
        return filesystems[-1]

    if kind.endswith("local"):
        wrapper = AsyncFileSystemWrapper(fsspec.filesystem("file", skip_instance_cache=True), asynchronous=True)
        stores: dict[str, Callable[[str], Store]] = {
            "local": LocalStore,
            "obstore-local": lambda root: ObjectStore(ObstoreLocalStore(root, mkdir=True)),
            "fsspec-local": lambda root: FsspecStore(wrapper, path=root),
        }
        yield lambda: files(tmp_path, stores[kind])
    elif kind.endswith("http"):
        server: RangeServer = request.getfixturevalue("range_server")
        web = filesystem("http")
        stores = {
            "obstore-http": lambda url: ObjectStore(
                HTTPStore.from_url(url, client_options={"allow_http": True}, retry_config=RETRIES)
            ),
            "fsspec-http": lambda url: FsspecStore(web, path=url),
        }
        yield lambda: files(server.root, stores[kind], server.url)
    else:
        s3: S3Server = request.getfixturevalue("s3_server")
        s3fs = filesystem("s3", **s3.s3fs_options())
        stores = {
            "obstore-s3": lambda root: ObjectStore(s3.obstore(root, retry_config=RETRIES)),
            "s3fs": lambda root: FsspecStore(s3fs, path=f"{s3.bucket}/{root}"),
        }
        options = s3.s3fs_options()
        client = get_session().create_client(
            "s3", aws_access_key_id=options["key"], aws_secret_access_key=options["secret"], **options["client_kwargs"]
        )
        yield lambda: objects(s3, client, stores[kind])
    for used in filesystems:
        session = getattr(used, "_session", None) or getattr(used, "_s3", None)
        if session is not None:
            sync(session.close())


def files(directory: Path, store: Callable[[str], Store], url: str | None = None) -> Place:
    """Make a place in a directory, far enough below it for some ``..``."""
    below = f"{next(numbers)}/2/3/4/5/6/7/8"
    (directory / below).mkdir(parents=True)

    def plant(path: str, content: bytes) -> None:
        # What the file system cannot hold, or holds a directory in place of, is not there.
        with suppress(OSError, ValueError):
            name = f"{directory}/{below}{path}"
            os.makedirs(os.path.dirname(name), exist_ok=True)  # noqa: PTH103, PTH120  # by the letter
            Path(name).write_bytes(content)

    return Place(lambda root: store(f"{url or directory}/{below}{root}"), plant)


def objects(server: S3Server, client: Any, store: Callable[[str], Store]) -> Place:
    """Make a place in a bucket."""
    prefix = server.new_prefix()

    def plant(path: str, content: bytes) -> None:
        # Not every server takes every key.
        with suppress(BotoCoreError, ClientError):
            client.put_object(Bucket=server.bucket, Key=f"{prefix}{path}", Body=content)

    return Place(lambda root: store(f"{prefix}{root}"), plant)


def around(path: str) -> dict[str, bytes]:
    """Give paths that somebody might take for `path`, the exact one last, each with a content of its own."""
    tidy = "".join(f"/{segment}" for segment in path.split("/") if segment not in {"", "."})
    cut = [path.partition("?")[0], path.partition("#")[0]]
    paths = [tidy, posixpath.normpath(path), unquote(path), quote(path), *cut, path]
    return {name: bytes([number] * LENGTH) for number, name in enumerate(paths, 1)}


def array_at(store: Store, path: str) -> zarr.AsyncArray[Any]:
    """Give an array of one chunk, of which no metadata is stored."""
    array: Any = zarr.create_array(
        {}, shape=(LENGTH,), dtype="uint8", chunks=(LENGTH,), compressors=None, fill_value=FILL
    )
    return zarr.AsyncArray(metadata=array.metadata, store_path=StorePath(store, path))


def outcome(work: Any) -> bytes | None:
    """Give the bytes of the array that a coroutine reads; None where it raises."""
    try:
        result = sync(work)
    except Exception:  # noqa: BLE001  # an error is an error
        return None
    return bytes([FILL] * LENGTH) if result is None else bytes(np.asarray(result).tobytes())


def stored(store: Store, key: str) -> bytes | None:
    """Give what the store has: the fill value where it says that nothing is there, None where it raises."""

    async def get() -> Any:
        buffer = await store.get(key, default_buffer_prototype())
        return None if buffer is None else buffer.as_numpy_array()

    return outcome(get())


@given(root=spellings, leading=st.sampled_from(["/", "//"]), trailing=st.sampled_from(["", "/", "//"]), path=spellings)
@example(root="x.zarr", leading="/", trailing="/", path="")
@example(root="x.zarr", leading="//", trailing="", path="")
@example(root="a//b", leading="/", trailing="", path="")
@example(root="a/../b", leading="/", trailing="", path="")
@example(root="a%20b", leading="/", trailing="", path="c%41")
@example(root="a b", leading="/", trailing="", path="é")
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_array_is_where_the_store_has_it(
    places: Callable[[], Place], root: str, leading: str, trailing: str, path: str
) -> None:
    place = places()
    root = f"{leading}{root}{trailing}"
    try:
        store = place.store(root)
        array = array_at(store, path)
    except Exception:  # noqa: BLE001  # what the store or zarr refuses is no spelling
        assume(False)  # noqa: FBT003  # hypothesis's word
    key = f"{array.store_path.path}/c/0".lstrip("/")
    for name, content in around(f"{root}/{key}").items():
        place.plant(name, content)
    # Twice: what a pipeline has opened serves the batches after.
    for _ in range(2):
        assert outcome(array.getitem(...)) == stored(store, key)
    written = bytes([WRITTEN] * LENGTH)
    try:
        sync(array.setitem(..., WRITTEN))
    except Exception:  # noqa: BLE001  # an error is an error
        with pytest.raises(Exception):  # noqa: B017, PT011  # the store's own, whatever it is
            sync(store.set(key, Buffer.from_bytes(written)))
    else:
        assert stored(store, key) == written


@pytest.mark.parametrize("segment", PLAIN)
def test_plain_spelling_is_native(places: Callable[[], Place], segment: str) -> None:
    array = array_at(places().store(f"/{segment}"), f"x.zarr/{segment}")
    sync(array.setitem(..., WRITTEN))
    pipeline: Any = array.codec_pipeline
    assert not pipeline._native.array.bridged


@dataclass(frozen=True)
class Escaped(ChunkKeyEncoding):
    """Names some chunks in a way in which stores differ."""

    name = "zarrs_async.escaped"

    def encode_chunk_key(self, chunk_coords: tuple[int, ...]) -> str:
        """Give the key of a chunk."""
        return "c/" + ".".join(f"{number}" if number == 0 else f"%3{number}" for number in chunk_coords)


def test_array_that_names_its_chunks_by_itself_is_bridged(range_server: RangeServer) -> None:
    register_chunk_key_encoding(Escaped.name, Escaped)
    store = FsspecStore(fsspec.filesystem("http", asynchronous=True, skip_instance_cache=True), path=range_server.url)
    array = array_at(store, "a")
    metadata = replace(array.metadata, chunk_key_encoding=Escaped(), shape=(2 * LENGTH,))
    array = zarr.AsyncArray(metadata=metadata, store_path=array.store_path)
    (range_server.root / "a/c").mkdir(parents=True)
    (range_server.root / "a/c/0").write_bytes(b"abcd")
    # Where `%31` leads, as fsspec writes URLs.
    (range_server.root / "a/c/1").write_bytes(b"efgh")
    assert outcome(array.getitem(...)) == b"abcdefgh"
    sync(store.fs._session.close())


def test_key_that_is_not_utf8_is_read_by_the_default_pipeline(tmp_path: Path, pipeline: ModuleType) -> None:
    name = os.fsdecode(b"\xff")
    array = array_at(LocalStore(tmp_path), name)
    (tmp_path / name / "c").mkdir(parents=True)
    (tmp_path / name / "c/0").write_bytes(b"abcd")
    pipeline._stats._fallback_causes.clear()  # each is told once
    before = pipeline.stats()["fallback_batches"]
    with pytest.warns(ZarrUserWarning, match="keys that are not UTF-8"):
        assert outcome(array.getitem(...)) == b"abcd"
    assert pipeline.stats()["fallback_batches"] == before + 1
