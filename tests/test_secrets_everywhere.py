"""Wherever a secret is given, and whatever fails then: it is in nothing that is shown.

Of a store that is bridged, what its own client raises and logs is the client's; what is added to it is ours.
"""

from __future__ import annotations

import base64
import json
import logging
import os
import string
import traceback
import warnings
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NamedTuple
from unittest import mock
from urllib.parse import quote

import fsspec
import numpy as np
import pytest
import s3fs
import zarr
import zarr.api.asynchronous
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st
from obstore.store import AzureStore, GCSStore, HTTPStore, S3Store
from zarr.storage import FsspecStore, ObjectStore, StorePath

from support.servers import Rule

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import ModuleType

    from zarr import AsyncArray
    from zarr.abc.store import Store

    from support.servers import RangeServer

VALUES = np.arange(256, dtype="uint16") + 1
# Nobody listens there.
NOWHERE = "http://127.0.0.1:1"
PAUSE = timedelta(milliseconds=1)
RETRIES: Any = {
    "max_retries": 1,
    "retry_timeout": timedelta(seconds=10),
    "backoff": {"init_backoff": PAUSE, "max_backoff": PAUSE, "base": 2.0},
}
LAYOUTS: dict[str, dict[str, Any]] = {"chunks": {"chunks": (64,)}, "shards": {"chunks": (16,), "shards": (256,)}}


class Secret(NamedTuple):
    """A text that begins with letters, which are what is looked for, and goes on with what somebody may escape."""

    letters: str
    rest: str

    def __str__(self) -> str:
        """Return the whole."""
        return self.letters + self.rest

    @property
    def base64(self) -> str:
        """Return 32 bytes that begin with the secret, in base64."""
        return base64.b64encode(str(self).encode().ljust(32, b"=")[:32]).decode()

    def check(self, text: str) -> None:
        """See that it is not in a text: not in other case, and not in base64, wherever it begins there."""
        text = text.lower()
        for before in range(3):
            # What neither the bytes before nor those behind have a part in.
            encoded = base64.b64encode(b"x" * before + self.letters.encode()).decode()[4 if before else 0 : 16]
            assert encoded.lower() not in text
        assert self.letters.lower() not in text


secrets = st.builds(
    Secret,
    st.text(string.ascii_letters + string.digits, min_size=14, max_size=18).map("zQ".__add__),
    st.text("aB3+/=%&?#@:~!$'()*,; -_", max_size=8).map(str.rstrip),
)


class Place(NamedTuple):
    """Where a secret is given: to the store, or to a variable, before the store is made or after."""

    store: Callable[[str, str], Store]
    variable: str | None = None
    value: Callable[[Secret], str] = str
    is_native: bool = True
    is_late: bool = False
    # Whether the store has retry settings; without, what may pass is tried for seconds.
    is_hasty: bool = True


def http(url: str, **client_options: Any) -> Store:
    """Return a store of an HTTP server."""
    options: Any = {"allow_http": True, **client_options}
    return ObjectStore(HTTPStore.from_url(f"{url}/a", client_options=options, retry_config=RETRIES))


def within(url: str, user: str) -> str:
    """Put a user into a URL."""
    return url.replace("://", f"://{user}@")


def s3(url: str, **options: Any) -> Store:
    """Return a store of S3 whose credentials stand in no other place than that of the secret."""
    given: Any = {"region": "us-east-1", "retry_config": RETRIES, "client_options": {"allow_http": True}, **options}
    return ObjectStore(S3Store("bucket", endpoint=url, **given))


def s3_keys(url: str, **options: Any) -> Store:
    """Return a store of S3 with credentials, one of which may be the secret."""
    return s3(url, **{"access_key_id": "id", "secret_access_key": "key", **options})


def azure(url: str, **options: Any) -> Store:
    """Return a store of Azure."""
    given: Any = {"account_name": "account", "endpoint": f"{url}/account", "retry_config": RETRIES, **options}
    return ObjectStore(AzureStore("container", client_options={"allow_http": True}, **given))


def gcs(url: str, **client_options: Any) -> Store:
    """Return a store of GCS."""
    options: Any = {"allow_http": True, **client_options}
    config: Any = {"base_url": url}
    return ObjectStore(GCSStore("bucket", config=config, client_options=options, retry_config=RETRIES))


def s3fs_store(url: str, **options: Any) -> Store:
    """Return a store of s3fs, natively read where the endpoint has no path."""
    endpoint = "/".join(url.split("/")[:3])
    filesystem = s3fs.S3FileSystem(
        asynchronous=True,
        skip_instance_cache=True,
        endpoint_url=endpoint,
        client_kwargs={"region_name": "us-east-1"},
        **{"key": "id", "secret": "key", **options},
    )
    return FsspecStore(filesystem, path="bucket/a")


def fsspec_http(url: str, **client_kwargs: Any) -> Store:
    """Return a store of fsspec's HTTP."""
    filesystem = fsspec.filesystem("http", asynchronous=True, skip_instance_cache=True, client_kwargs=client_kwargs)
    return FsspecStore(filesystem, path=f"{url}/a", read_only=True)


def header(name: str, make: Callable[..., Store]) -> Place:
    """Give the secret in a header."""
    return Place(lambda url, secret: make(url, default_headers={name: secret}))


def service_account(secret: Secret) -> str:
    """Return what is no service account, and holds a secret."""
    account = {"private_key": str(secret), "private_key_id": "1", "client_email": "a@b", "gcs_base_url": NOWHERE}
    return json.dumps(account)


PLACES = {
    "user of a URL": Place(lambda url, secret: http(within(url, f"{quote(secret, safe='')}:x"))),
    "password of a URL": Place(lambda url, secret: http(within(url, f"x:{quote(secret, safe='')}"))),
    "query of a URL": Place(
        lambda url, secret: ObjectStore(
            HTTPStore.from_url(
                f"{url}/a?sig={quote(secret, safe='')}", client_options={"allow_http": True}, retry_config=RETRIES
            )
        )
    ),
    "header Authorization": header("Authorization", http),
    "header Cookie": header("Cookie", http),
    "header X-Api-Key": header("X-Api-Key", http),
    "header X-Api-Key of GCS": Place(
        lambda url, secret: gcs(url, default_headers={"X-Api-Key": secret}), "GOOGLE_SKIP_SIGNATURE", lambda _: "true"
    ),
    "password of a proxy": Place(lambda url, secret: http(url, proxy_url=within(url, f"x:{quote(secret, safe='')}"))),
    "access key of S3": Place(lambda url, secret: s3_keys(url, access_key_id=secret)),
    "secret key of S3": Place(lambda url, secret: s3_keys(url, secret_access_key=secret)),
    "session token of S3": Place(lambda url, secret: s3_keys(url, session_token=secret)),
    "customer's key of S3": Place(
        lambda url, secret: s3_keys(
            url, config={"aws_server_side_encryption": "sse-c", "aws_sse_customer_key_base64": secret}
        ),
        value=lambda secret: secret.base64,
    ),
    "account key of Azure": Place(
        lambda url, secret: azure(url, account_key=secret), value=lambda secret: secret.base64
    ),
    "signature of Azure": Place(
        lambda url, secret: azure(url, sas_key=f"sv=1&sig={quote(secret)}"), value=lambda secret: secret.base64
    ),
    "token of Azure": Place(lambda url, secret: azure(url, config={"azure_storage_token": secret})),
    "client secret of Azure": Place(
        lambda url, secret: azure(url, tenant_id="tenant", client_id="id", client_secret=secret, authority_host=url)
    ),
    "access key of s3fs": Place(lambda url, secret: s3fs_store(url, key=secret), is_hasty=False),
    "secret key of s3fs": Place(lambda url, secret: s3fs_store(url, secret=secret), is_hasty=False),
    "token of s3fs": Place(lambda url, secret: s3fs_store(url, token=secret), is_hasty=False),
    "AWS_ACCESS_KEY_ID": Place(lambda url, _: s3(url, secret_access_key="key"), "AWS_ACCESS_KEY_ID"),  # noqa: S106 - nobody's
    "AWS_SECRET_ACCESS_KEY": Place(lambda url, _: s3(url, access_key_id="id"), "AWS_SECRET_ACCESS_KEY"),
    "AWS_SESSION_TOKEN": Place(lambda url, _: s3_keys(url), "AWS_SESSION_TOKEN"),
    "AZURE_STORAGE_ACCOUNT_KEY": Place(
        lambda url, _: azure(url), "AZURE_STORAGE_ACCOUNT_KEY", lambda secret: secret.base64
    ),
    "AZURE_STORAGE_SAS_KEY": Place(
        lambda url, _: azure(url), "AZURE_STORAGE_SAS_KEY", lambda secret: f"sig={secret.base64}"
    ),
    # obstore would refuse it; what the engine cannot open is bridged.
    "GOOGLE_SERVICE_ACCOUNT_KEY": Place(
        lambda url, _: gcs(url), "GOOGLE_SERVICE_ACCOUNT_KEY", service_account, is_native=False, is_late=True
    ),
    "HTTP_PROXY": Place(
        lambda url, _: http(url), "HTTP_PROXY", lambda secret: f"http://x:{quote(str(secret), safe='')}@127.0.0.1:1"
    ),
    "header of fsspec": Place(
        lambda url, secret: fsspec_http(url, headers={"X-Api-Key": secret, "Authorization": secret}), is_native=False
    ),
}


class Failure(NamedTuple):
    """What a server does; each request meets it."""

    rule: Callable[[str], Rule] | None
    is_sure: bool = True
    # Whether the same may succeed later, and so is tried again.
    may_pass: bool = False


def says(status: int, **headers: str) -> Failure:
    """Answer with an error that repeats the secret, as some servers do."""
    # Of a 404 that names no bucket, there is nothing.
    body = "<Error><Code>AccessDenied</Code><Message>{0}</Message><AWSAccessKeyId>{0}</AWSAccessKeyId></Error>"
    return Failure(
        lambda secret: Rule(
            action="status",
            status=status,
            headers={name: value.format(quote(secret)) for name, value in headers.items()},
            body=body.format(secret),
        ),
        is_sure=status != 404,
        may_pass=status in (307, 500, 503),
    )


FAILURES = {
    "refused": Failure(None, may_pass=True),
    **{str(status): says(status) for status in (400, 401, 403, 404, 409, 412, 416, 500, 503)},
    "no bucket": Failure(
        lambda secret: Rule(action="status", status=404, body=f"<Error><Code>NoSuchBucket</Code>{secret}</Error>")
    ),
    "redirect": says(302, Location="ftp://{0}/"),
    "redirect nowhere": says(307, Location=f"{NOWHERE}/{{0}}?sig={{0}}"),
    "reset": Failure(lambda _: Rule(action="reset"), may_pass=True),
    "truncate": Failure(lambda _: Rule(action="truncate", nbytes=3), is_sure=False, may_pass=True),
    "range": Failure(
        lambda secret: Rule(action="headers", headers={"Content-Range": f"bytes {quote(secret)}"}), is_sure=False
    ),
    "tag": Failure(lambda secret: Rule(action="headers", headers={"ETag": f'"{quote(secret)}"'}), is_sure=False),
    "longer": Failure(lambda _: Rule(action="extend", nbytes=7), is_sure=False),
}
WORK: dict[str, Callable[[AsyncArray[Any]], Any]] = {
    "read": lambda array: array.getitem(slice(None)),
    "read a part": lambda array: array.getitem(slice(3, 5)),
    "write": lambda array: array.setitem(slice(None), VALUES),
    "write a part": lambda array: array.setitem(slice(3, 5), 1),
}


def shown(error: BaseException) -> Iterator[str]:
    """Give all that is shown of an error and of every error that is behind it."""
    yield from traceback.format_exception(error)
    seen: set[int] = set()
    errors = [error]
    while errors:
        one = errors.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        yield from (str(one), repr(one), repr(one.args), repr(vars(one)), *getattr(one, "__notes__", ()))
        errors += [other for other in (one.__cause__, one.__context__) if other is not None]
        errors += getattr(one, "exceptions", ())


class Records(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:  # noqa: D102 - as any handler
        self.texts += [self.format(record), repr(vars(record))]


@contextmanager
def logged() -> Iterator[list[str]]:
    """Record what any logger says, whatever it is."""
    records, root = Records(), logging.getLogger()
    level = root.level
    root.setLevel(logging.DEBUG)
    root.addHandler(records)
    try:
        yield records.texts
    finally:
        root.removeHandler(records)
        root.setLevel(level)


async def made(store: Store, layout: str) -> AsyncArray[Any]:
    """Return an array of which nothing is asked yet."""
    array = await zarr.api.asynchronous.create_array(
        store={}, shape=VALUES.shape, dtype="uint16", compressors=None, **LAYOUTS[layout]
    )
    return zarr.AsyncArray(metadata=array.metadata, store_path=StorePath(store))


def fill(server: RangeServer) -> None:
    """Put chunks where each kind of store looks for them."""
    for prefix in ("a", "bucket", "bucket/a", "account/container"):
        path = server.root / prefix / "c/0"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(VALUES[:64].tobytes())


class Case(NamedTuple):
    """What is tried with a secret, and what goes wrong."""

    secret: Secret
    failure: str
    work: str
    layout: str


cases = st.builds(Case, secrets, *(st.sampled_from(sorted(names)) for names in (FAILURES, WORK, LAYOUTS)))


@pytest.mark.parametrize("name", PLACES)
# What fails is short as it is.
@settings(max_examples=6, phases=[Phase.generate], suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(case=cases)
async def test_a_secret_is_not_shown(
    range_server: RangeServer, pipeline: ModuleType, capfd: pytest.CaptureFixture[str], name: str, case: Case
) -> None:
    secret, failure, work, layout = case
    place, (rule, is_sure, may_pass) = PLACES[name], FAILURES[failure]
    assume(place.is_hasty or not may_pass)
    fill(range_server)
    range_server.config(rules=[] if rule is None else [rule(str(secret))])
    value = place.value(secret)
    variables = {} if place.variable is None else {place.variable: value}
    texts: list[str] = []
    with mock.patch.dict(os.environ), logged() as records, warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        # obstore's stores take the environment in when they are made, and the engine when it opens them.
        os.environ.update({} if place.is_late else variables)
        store = place.store(NOWHERE if rule is None else range_server.url, value)
        os.environ.update(variables)
        array = await made(store, layout)
        texts += [repr(array.codec_pipeline), repr(pipeline.explain(array, slice(3, 5)))]
        raised = None
        try:
            await WORK[work](array)
        except Exception as error:  # noqa: BLE001 - of what class it is, other tests tell
            raised = error
        texts += [repr(array.codec_pipeline), repr(pipeline.explain(array, slice(3, 5))), repr(pipeline.stats())]
    if isinstance(store, FsspecStore) and not place.is_native and hasattr(store.fs, "set_session"):
        await (await store.fs.set_session()).close()
    if place.is_native:
        assert pipeline.explain(array, slice(3, 5)).store == "native"
        assert raised is not None or not is_sure
        texts += [*records, *(str(warning.message) for warning in warned)]
        texts += [] if raised is None else shown(raised)
    else:
        texts += getattr(raised, "__notes__", ())
    texts += capfd.readouterr()
    secret.check("\n".join(texts))
