"""fsspec's file systems: native where every option is known, bridged where one is not, and right in both cases."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import fsspec
import numpy as np
import pytest
import zarr
import zarr.api.asynchronous
from fsspec.asyn import AsyncFileSystem
from fsspec.implementations.asyn_wrapper import AsyncFileSystemWrapper
from fsspec.implementations.dirfs import DirFileSystem
from fsspec.implementations.local import LocalFileSystem
from s3fs import S3FileSystem
from zarr.storage import FsspecStore

from zarrs_async._stores import Local, Remote, describe

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path
    from types import ModuleType

    from support.servers import RangeServer, S3Server

    Opener = Callable[..., FsspecStore]

# Our pipeline is on, and nothing may fall back.
pytestmark = pytest.mark.usefixtures("native")

VALUES = np.arange(1024, dtype="uint16") + 1


@pytest.fixture(autouse=True)
def _byte_ranges() -> None:
    """Merge adjacent byte ranges only, so that the shards of these tests are not small ones."""
    zarr.config.set({"array.sharding_coalesce_max_gap_bytes": 0})


def stored(path: Path, **layout: Any) -> None:
    """Write `VALUES` with zarr's default pipeline."""
    with zarr.config.set({"codec_pipeline.path": "zarr.core.codec_pipeline.BatchedCodecPipeline"}):
        zarr.create_array(path, data=VALUES, **{"chunks": (64,), "compressors": None, **layout})


@pytest.fixture
async def opened() -> AsyncIterator[Callable[..., FsspecStore]]:
    """Return a function that makes stores, of this test's own event loop, and close their sessions after the test."""
    filesystems = []

    def open_store(kind: str, path: str, **options: Any) -> FsspecStore:
        filesystems.append(fsspec.filesystem(kind, asynchronous=True, skip_instance_cache=True, **options))
        return FsspecStore(filesystems[-1], path=path, read_only=kind == "http")

    yield open_store
    for filesystem in filesystems:
        session = getattr(filesystem, "_session", None) or getattr(filesystem, "_s3", None)
        if session is not None:
            await session.close()


async def test_http_without_options_is_read_natively(
    opened: Opener, range_server: RangeServer, native: ModuleType
) -> None:
    stored(range_server.root / "a")
    store = opened("http", f"{range_server.url}/a")
    assert describe(store).native is not None
    array = await zarr.api.asynchronous.open_array(store=store, mode="r")
    range_server.reset_counts()
    before = native.stats()["requests"]
    np.testing.assert_array_equal(await array.getitem(slice(None)), VALUES)
    assert range_server.stats()["methods"] == {"GET": 16}
    assert native.stats()["requests"] - before == 16


@pytest.mark.parametrize("layout", [{}, {"shards": (256,)}], ids=["chunks", "shards"])
async def test_http_with_headers_of_its_own_is_bridged_and_sends_them(
    opened: Opener, range_server: RangeServer, layout: dict[str, Any]
) -> None:
    stored(range_server.root / "a", **layout)
    range_server.config(require_header="X-Token: abc")
    store = opened("http", f"{range_server.url}/a", client_kwargs={"headers": {"X-Token": "abc"}})
    assert describe(store).native is None
    array = await zarr.api.asynchronous.open_array(store=store, mode="r")
    np.testing.assert_array_equal(await array.getitem(slice(70, 600)), VALUES[70:600])
    np.testing.assert_array_equal(await array.getitem(slice(None)), VALUES)


async def test_missing_chunk_of_a_bridged_store_is_the_fill_value(opened: Opener, range_server: RangeServer) -> None:
    stored(range_server.root / "a", fill_value=9)
    (range_server.root / "a/c/3").unlink()
    store = opened("http", f"{range_server.url}/a", client_kwargs={"headers": {"X-Token": "abc"}})
    array = await zarr.api.asynchronous.open_array(store=store, mode="r")
    np.testing.assert_array_equal(await array.getitem(slice(192, 256)), 9)


@pytest.mark.parametrize(
    "options",
    [
        {"client_kwargs": {"headers": {"Authorization": "Bearer abc"}}},
        {"simple_links": False},
        {"headers": {"X-Token": "abc"}},
        {"encoded": True},
    ],
    ids=lambda options: next(iter(options)),
)
async def test_http_with_an_option_that_cannot_be_carried_over_is_bridged(
    opened: Opener, options: dict[str, Any]
) -> None:
    assert describe(opened("http", "http://127.0.0.1:1/a", **options)).native is None


async def test_http_url_with_a_query_is_bridged(opened: Opener) -> None:
    assert describe(opened("http", "http://127.0.0.1:1/a?token=abc")).native is None


@pytest.mark.parametrize("layout", [{}, {"shards": (256,)}], ids=["chunks", "shards"])
async def test_local_is_native_and_comes_back_as_it_went(
    tmp_path: Path, native: ModuleType, layout: dict[str, Any]
) -> None:
    filesystem = AsyncFileSystemWrapper(fsspec.filesystem("file", skip_instance_cache=True))
    store = FsspecStore(filesystem, path=str(tmp_path / "a"))
    (tmp_path / "a").mkdir()
    where = describe(store).native
    assert isinstance(where, Local)
    assert where.root == str(tmp_path / "a")
    stored(tmp_path / "a", **layout)
    array = await zarr.api.asynchronous.open_array(store=store, mode="r+")
    requests = native.stats()["requests"]
    np.testing.assert_array_equal(await array.getitem(slice(70, 600)), VALUES[70:600])
    await array.setitem(slice(70, 600), 5)
    assert native.stats()["requests"] == requests
    expected = VALUES.copy()
    expected[70:600] = 5
    np.testing.assert_array_equal(zarr.open_array(tmp_path / "a", mode="r")[:], expected)


class Inverting(LocalFileSystem):  # type: ignore[misc]  # fsspec has no types
    """Keeps each byte's complement, as a file system that encrypts would."""

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **_: Any) -> bytes:
        """Read a file."""
        return inverted(super().cat_file(path))[start:end]

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **_: Any) -> None:
        """Write a file."""
        super().pipe_file(path, inverted(value), mode)


class InvertingWrapper(AsyncFileSystemWrapper):  # type: ignore[misc]  # fsspec has no types
    """Does the same around a file system that does not."""

    def __init__(self, fs: Any, **options: Any) -> None:
        super().__init__(fs, **options)
        self._cat_file = self._read
        self._pipe_file = self._write

    async def _read(self, path: str, start: int | None = None, end: int | None = None) -> bytes:
        return inverted(self.sync_fs.cat_file(path))[start:end]

    async def _write(self, path: str, value: bytes) -> None:
        self.sync_fs.pipe_file(path, inverted(value))


class Inside(AsyncFileSystem):  # type: ignore[misc]  # fsspec has no types
    """Has a file system under the name by which a wrapper has it, and is none."""

    def __init__(self, fs: Any, **options: Any) -> None:
        super().__init__(**options)
        self.sync_fs = fs

    async def _cat_file(self, path: str, start: int | None = None, end: int | None = None, **_: Any) -> bytes:
        return inverted(self.sync_fs.cat_file(path))[start:end]

    async def _pipe_file(self, path: str, value: bytes, **_: Any) -> None:
        self.sync_fs.pipe_file(path, inverted(value))


def inverted(content: bytes) -> bytes:
    """Return the complement of each byte."""
    return content.translate(bytes(range(255, -1, -1)))


def plain() -> Any:
    """Return a local file system of the test's own."""
    return fsspec.filesystem("file", skip_instance_cache=True)


def changed_wrapper() -> Any:
    """Return a wrapper that inverts because its methods were replaced."""
    wrapper = AsyncFileSystemWrapper(plain(), asynchronous=True)
    other = InvertingWrapper(plain(), asynchronous=True)
    wrapper._cat_file, wrapper._pipe_file = other._read, other._write
    return wrapper


def changed_inside() -> Any:
    """Return a wrapper around a file system that inverts because its methods were replaced."""
    inside, other = plain(), Inverting(skip_instance_cache=True)
    inside.cat_file, inside.pipe_file = other.cat_file, other.pipe_file
    return AsyncFileSystemWrapper(inside, asynchronous=True)


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: AsyncFileSystemWrapper(Inverting(), asynchronous=True), id="subclass"),
        pytest.param(lambda: InvertingWrapper(plain(), asynchronous=True), id="wrapper"),
        pytest.param(lambda: Inside(plain(), asynchronous=True), id="another-sync_fs"),
        changed_wrapper,
        changed_inside,
    ],
)
async def test_file_system_that_does_more_than_the_local_one_is_bridged(
    tmp_path: Path, make: Callable[[], Any]
) -> None:
    store = FsspecStore(make(), path=str(tmp_path / "a"))
    (tmp_path / "a/c").mkdir(parents=True)
    array = await zarr.api.asynchronous.create_array(store=store, data=VALUES, chunks=(64,), compressors=None)
    assert (tmp_path / "a/c/0").read_bytes() == inverted(VALUES[:64].tobytes())
    np.testing.assert_array_equal(await array.getitem(slice(None)), VALUES)


async def test_file_system_of_a_directory_is_bridged(tmp_path: Path) -> None:
    filesystem = AsyncFileSystemWrapper(DirFileSystem(str(tmp_path), plain()), asynchronous=True)
    store = FsspecStore(filesystem, path="/a")
    stored(tmp_path / "a")
    array = await zarr.api.asynchronous.open_array(store=store, mode="r")
    np.testing.assert_array_equal(await array.getitem(slice(None)), VALUES)


@pytest.mark.parametrize("method", ["_cat_file", "encode_url", "set_session"])
async def test_http_with_a_method_of_its_own_is_bridged(opened: Opener, method: str) -> None:
    store = opened("http", "http://127.0.0.1:1/a")
    assert describe(store).native is not None
    setattr(store.fs, method, getattr(store.fs, method))
    assert describe(store).native is None


async def test_http_behind_a_proxy_is_bridged(opened: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    # aiohttp asks past the proxies of the environment.
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    assert describe(opened("http", "http://127.0.0.1:1/a")).native is None


async def test_local_with_an_option_is_bridged_and_comes_back_as_it_went(tmp_path: Path) -> None:
    filesystem = AsyncFileSystemWrapper(fsspec.filesystem("file", skip_instance_cache=True, auto_mkdir=True))
    store = FsspecStore(filesystem, path=str(tmp_path / "a"))
    assert describe(store).native is None
    array = await zarr.api.asynchronous.create_array(store=store, data=VALUES, chunks=(64,))
    np.testing.assert_array_equal(await array.getitem(slice(None)), VALUES)


async def test_memory_file_system_is_bridged_and_comes_back_as_it_went(native: ModuleType) -> None:
    filesystem = AsyncFileSystemWrapper(fsspec.filesystem("memory", skip_instance_cache=True))
    store = FsspecStore(filesystem, path="/test_fsspec")
    assert describe(store).native is None
    array = await zarr.api.asynchronous.create_array(
        store=store, data=VALUES, chunks=(64,), shards=(256,), overwrite=True
    )
    await array.setitem(slice(100, 300), 4)
    expected = VALUES.copy()
    expected[100:300] = 4
    np.testing.assert_array_equal(await array.getitem(slice(None)), expected)
    assert native.stats()["requests_in_flight"] == 0


def test_s3_with_key_and_secret_is_native(opened: Opener, s3_server: S3Server) -> None:
    native = describe(opened("s3", f"{s3_server.bucket}/some/prefix", **s3_server.s3fs_options())).native
    assert isinstance(native, Remote)
    assert (native.kind, native.prefix, native.environment) == ("s3", "some/prefix", [])


def test_s3_without_credentials_of_its_own_is_bridged(opened: Opener, s3_server: S3Server) -> None:
    # Where boto would look for them, nobody else looks in the same order.
    options = {"client_kwargs": {"endpoint_url": s3_server.endpoint, "region_name": "us-east-1"}}
    assert describe(opened("s3", f"{s3_server.bucket}/prefix", **options)).native is None


@pytest.mark.parametrize(
    "option",
    [
        {"requester_pays": True},
        {"s3_additional_kwargs": {"ServerSideEncryption": "AES256"}},
        {"config_kwargs": {"s3": {"addressing_style": "virtual"}}},
        {"profile": "other"},
        {"version_aware": True},
    ],
    ids=lambda option: next(iter(option)),
)
def test_s3_with_an_option_that_cannot_be_carried_over_is_bridged(
    opened: Opener, s3_server: S3Server, option: dict[str, Any]
) -> None:
    assert describe(opened("s3", f"{s3_server.bucket}/prefix", **s3_server.s3fs_options(), **option)).native is None


async def test_s3_with_credentials_of_the_environment_is_bridged_and_uses_them(
    opened: Opener, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3_server.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3_server.secret_key)
    options = {"client_kwargs": {"endpoint_url": s3_server.endpoint, "region_name": "us-east-1"}}
    store = opened("s3", f"{s3_server.bucket}/{s3_server.new_prefix()}", **options)
    assert describe(store).native is None
    array = await zarr.api.asynchronous.create_array(store=store, data=VALUES, chunks=(64,), shards=(256,))
    await array.setitem(slice(100, 300), 4)
    expected = VALUES.copy()
    expected[100:300] = 4
    np.testing.assert_array_equal(await array.getitem(slice(None)), expected)


async def test_s3_native_never_uses_the_environment(
    opened: Opener, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Of somebody else: whoever took them would be refused.
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "else")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "token")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    store = opened("s3", f"{s3_server.bucket}/{s3_server.new_prefix()}", **s3_server.s3fs_options())
    array = await zarr.api.asynchronous.create_array(store=store, data=VALUES, chunks=(64,))
    np.testing.assert_array_equal(await array.getitem(slice(None)), VALUES)


async def test_http_url_with_a_user_is_bridged(opened: Opener) -> None:
    assert describe(opened("http", "http://user:secret@127.0.0.1:1/a")).native is None


async def test_s3_with_positional_arguments_is_bridged() -> None:
    filesystem = S3FileSystem(False, key="a", secret="b", endpoint_url="http://127.0.0.1:1", asynchronous=True)  # noqa: FBT003, S106  # what is tested
    assert describe(FsspecStore(filesystem, path="bucket/prefix")).native is None


async def test_s3_without_a_bucket_is_bridged(opened: Opener) -> None:
    options = {"key": "a", "secret": "b", "endpoint_url": "http://127.0.0.1:1"}
    assert describe(opened("s3", "bucket", **options)).native is not None
    assert describe(opened("s3", "/", **options)).native is None


async def test_s3_where_botos_files_name_an_endpoint_is_bridged(
    opened: Opener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_CA_BUNDLE", raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    options: dict[str, Any] = {"key": "a", "secret": "b", "client_kwargs": {"region_name": "eu-west-1"}}
    assert describe(opened("s3", "bucket/prefix", **options)).native is not None
    (tmp_path / "config").write_text("[default]\nendpoint_url = http://127.0.0.1:1\n")
    assert describe(opened("s3", "bucket/prefix", **options)).native is None


@pytest.mark.parametrize(
    ("name", "value"), [("AWS_DEFAULT_REGION", "eu-west-1"), ("AWS_REGION", "eu-west-1"), ("AWS_PROFILE", "default")]
)
async def test_s3_with_an_endpoint_and_no_region_is_bridged_where_the_environment_may_have_one(
    opened: Opener, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    for variable in ("AWS_DEFAULT_REGION", "AWS_REGION", "AWS_PROFILE"):
        monkeypatch.delenv(variable, raising=False)
    options: dict[str, Any] = {"key": "a", "secret": "b", "endpoint_url": "http://127.0.0.1:1"}
    assert describe(opened("s3", "bucket/prefix", **options)).native is not None
    monkeypatch.setenv(name, value)
    assert describe(opened("s3", "bucket/prefix", **options)).native is None


@pytest.mark.parametrize("variable", ["AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"])
@pytest.mark.parametrize(
    ("text", "native"),
    [
        ("", True),
        ("# nothing\n[default]\naws_access_key_id = x\n\noutput=json\n", True),
        ("[default]\nregion = eu-west-1\n", False),
        ("[default]\nrequest_checksum_calculation = when_required\n", False),
        ("[default]\ns3 =\n  addressing_style = virtual\n", False),
    ],
)
async def test_s3_with_an_endpoint_is_native_where_botos_files_say_nothing_of_it(  # noqa: PLR0913  # fixtures too
    opened: Opener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, text: str, *, native: bool
) -> None:
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / name))
    (tmp_path / variable).write_text(text)
    options: dict[str, Any] = {"key": "a", "secret": "b", "endpoint_url": "http://127.0.0.1:1"}
    assert (describe(opened("s3", "bucket/prefix", **options)).native is not None) == native


@pytest.mark.parametrize(
    ("region", "native"),
    [
        *[(region, True) for region in ("us-east-1", "eu-central-1", "ap-southeast-2", "us-gov-west-1")],
        *[(region, False) for region in ("cn-north-1", "us-iso-east-1", "eusc-de-east-1", "aws-global", "auto")],
    ],
)
async def test_s3_of_amazon_is_native_in_regions_of_its_usual_domain(
    opened: Opener, monkeypatch: pytest.MonkeyPatch, region: str, *, native: bool
) -> None:
    monkeypatch.delenv("AWS_CA_BUNDLE", raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    options: dict[str, Any] = {"key": "a", "secret": "b", "client_kwargs": {"region_name": region}}
    assert (describe(opened("s3", "bucket/prefix", **options)).native is not None) == native


async def test_s3_with_two_endpoints_is_bridged(opened: Opener) -> None:
    options: dict[str, Any] = {"key": "a", "secret": "b", "endpoint_url": "http://127.0.0.1:1"}
    client = {"endpoint_url": "http://127.0.0.1:2"}
    assert describe(opened("s3", "bucket/prefix", **options, client_kwargs=client)).native is None


async def test_store_with_exceptions_of_its_own_for_missing_keys_is_bridged(opened: Opener) -> None:
    filesystem = opened("http", "http://127.0.0.1:1/a").fs
    store = FsspecStore(filesystem, path="http://127.0.0.1:1/a", allowed_exceptions=(FileNotFoundError,))
    assert describe(store).native is None
