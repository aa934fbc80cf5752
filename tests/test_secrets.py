"""Keys, tokens and passwords are in nothing that is shown: errors, warnings, stats, representations."""

from __future__ import annotations

import base64
import pickle
import traceback
import warnings
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import aiohttp
import fsspec
import numpy as np
import pytest
import zarr
import zarr.api.asynchronous
from obstore.store import AzureStore, GCSStore, HTTPStore, S3Store
from zarr.storage import FsspecStore, ObjectStore, StorePath

from support.servers import RangeServer, Rule

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from types import ModuleType

    from obstore.store import RetryConfig
    from zarr import AsyncArray
    from zarr.abc.store import Store

pytestmark = pytest.mark.usefixtures("pipeline")

VALUES = np.arange(1024, dtype="uint16") + 1
SECRET = "SeCrEtHiDdEn"  # noqa: S105 - it must not be found
NO_RETRIES: RetryConfig = {"max_retries": 0, "retry_timeout": timedelta(seconds=10)}
# Nobody listens there.
NOWHERE = "http://127.0.0.1:1"


def s3(endpoint: str) -> Store:
    """Return a store with all credentials that S3 knows."""
    return ObjectStore(
        S3Store(
            "bucket",
            endpoint=endpoint,
            region="us-east-1",
            access_key_id=f"{SECRET}1",
            secret_access_key=f"{SECRET}2",
            session_token=f"{SECRET}3",
            client_options={"allow_http": True, "default_headers": {"X-Token": f"{SECRET}4"}},
            retry_config=NO_RETRIES,
        )
    )


def azure(endpoint: str) -> Store:
    """Return a store with an account key."""
    return ObjectStore(
        AzureStore(
            "container",
            account_name="account",
            account_key=base64.b64encode(SECRET.encode()).decode(),
            endpoint=f"{endpoint}/account",
            client_options={"allow_http": True},
            retry_config=NO_RETRIES,
        )
    )


def gcs(endpoint: str) -> Store:
    """Return a store with a bearer token among its headers."""
    return ObjectStore(
        GCSStore(
            "bucket",
            skip_signature=True,
            base_url=endpoint,
            client_options={"allow_http": True, "default_headers": {"Authorization": f"Bearer {SECRET}"}},
            retry_config=NO_RETRIES,
        )
    )


def http(endpoint: str) -> Store:
    """Return a store whose URL has a user, a password and a query."""
    host = endpoint.removeprefix("http://")
    return ObjectStore(
        HTTPStore.from_url(
            f"http://user:{SECRET}5@{host}/a?token={SECRET}6",
            client_options={"allow_http": True, "default_headers": {"Authorization": f"Bearer {SECRET}7"}},
            retry_config=NO_RETRIES,
        )
    )


# Where the server has what these stores ask for.
PREFIXES = ("bucket", "account/container", "a", "v1/b")
STORES = [s3, azure, gcs, http]


async def made(store: Store) -> AsyncArray[Any]:
    """Return an array of which nothing is stored."""
    array = await zarr.api.asynchronous.create_array(
        store={}, shape=VALUES.shape, dtype="uint16", chunks=(64,), compressors=None
    )
    return zarr.AsyncArray(metadata=array.metadata, store_path=StorePath(store))


def shown(error: BaseException) -> str:
    """Return all that is shown of an error: the traceback with causes, every representation, every attribute."""
    parts = traceback.format_exception(error)
    one: BaseException | None = error
    while one is not None:
        parts += [str(one), repr(one), repr(one.args), repr(vars(one))]
        one = one.__cause__ or one.__context__
    return "\n".join(parts)


def assert_no_secret(text: str) -> None:
    """See that nothing of the secrets is in a text, base64 included."""
    assert text
    encoded = base64.b64encode(SECRET.encode()).decode().rstrip("=")
    for secret in (SECRET, SECRET.lower(), encoded):
        assert secret not in text


@pytest.mark.parametrize("make", STORES, ids=lambda make: make.__name__)
@pytest.mark.parametrize("status", [None, 400, 401, 403, 500, 503])
async def test_errors_show_no_secret(
    range_server: RangeServer, native: ModuleType, make: Any, status: int | None
) -> None:
    range_server.config(rules=[] if status is None else [Rule(action="status", status=status)])
    array = await made(make(NOWHERE if status is None else range_server.url))
    for work in (array.getitem(slice(None)), array.setitem(slice(None), VALUES), array.setitem(slice(3, 5), 1)):
        with pytest.raises(native.exceptions.ZarrsAsyncError) as raised:
            await work
        assert_no_secret(shown(raised.value))


@pytest.mark.parametrize("make", STORES, ids=lambda make: make.__name__)
@pytest.mark.parametrize("action", ["reset", "truncate"])
async def test_errors_of_the_wire_show_no_secret(
    range_server: RangeServer, native: ModuleType, make: Any, action: Any
) -> None:
    array = await made(make(range_server.url))
    # Whatever path a protocol has for it, each chunk is there.
    content = VALUES[:64].tobytes()
    range_server.config(rules=[Rule(action=action, nbytes=3)])
    for prefix in PREFIXES:
        for chunk in range(16):
            path = range_server.root / prefix / f"c/{chunk}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    with pytest.raises(native.exceptions.ZarrsAsyncError) as raised:
        await array.getitem(slice(None))
    assert_no_secret(shown(raised.value))


@pytest.mark.parametrize("make", STORES, ids=lambda make: make.__name__)
async def test_pipeline_shows_no_secret(native: ModuleType, make: Any) -> None:
    array = await made(make(NOWHERE))
    pipeline = array.codec_pipeline
    assert_no_secret(repr(pipeline))
    # And once more after the engine has opened the store.
    with pytest.raises(native.exceptions.ZarrsAsyncError):
        await array.getitem(slice(None))
    assert_no_secret(repr(pipeline) + repr(list(vars(pipeline))))


@pytest.mark.parametrize("make", STORES, ids=lambda make: make.__name__)
async def test_stats_show_no_secret(native: ModuleType, make: Any) -> None:
    array = await made(make(NOWHERE))
    with pytest.raises(native.exceptions.ZarrsAsyncError):
        await array.getitem(slice(None))
    assert_no_secret(repr(native.stats()))


@pytest.fixture(params=["header", "url"])
async def bridged(request: pytest.FixtureRequest, range_server: RangeServer) -> AsyncIterator[Store]:
    """Return a store that is bridged for the sake of its headers or of its URL."""
    url, headers = f"{range_server.url}/a", {"Authorization": f"Bearer {SECRET}"}
    if request.param == "url":
        url, headers = f"{url.replace('://', f'://user:{SECRET}@')}?token={SECRET}", {}
    filesystem = fsspec.filesystem(
        "http", asynchronous=True, skip_instance_cache=True, client_kwargs={"headers": headers} if headers else {}
    )
    yield FsspecStore(filesystem, path=url, read_only=True)
    await (await filesystem.set_session()).close()


async def test_errors_of_a_bridged_store_show_no_secret(
    range_server: RangeServer, native: ModuleType, bridged: Store
) -> None:
    range_server.config(rules=[Rule(action="status", status=500)])
    array = await made(bridged)
    # What the store itself raises may say anything; what is added to it may not.
    with pytest.raises(aiohttp.ClientResponseError) as raised:
        await array.getitem(slice(None))
    assert_no_secret("".join(raised.value.__notes__))
    assert_no_secret(repr(native.explain(array, slice(None))) + repr(native.stats()) + repr(array.codec_pipeline))


async def test_fallback_warning_and_cause_show_no_secret(range_server: RangeServer, pipeline: ModuleType) -> None:
    store = http(range_server.url)
    array = await zarr.api.asynchronous.create_array(store={}, shape=(4,), dtype="str")
    array = zarr.AsyncArray(metadata=array.metadata, store_path=StorePath(store))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        await array.getitem(slice(None))
    assert_no_secret("nothing" + "".join(str(warning.message) for warning in caught))
    assert_no_secret(repr(pipeline.stats()))


def test_errors_that_are_pickled_come_back_with_what_they_say(native: ModuleType) -> None:
    error = native.exceptions.StoreError("get failed", key="c/0", store="s3://bucket", status=503, attempts=4)
    again = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes
    assert (str(again), vars(again)) == (str(error), vars(error))
    assert type(again) is type(error)
