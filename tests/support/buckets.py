"""A bucket of each service, as obstore reaches it: what tests of all of them take."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import obstore.store
from zarr.storage import ObjectStore

from .cloud import azure_url, gcs_url, rsa_key, service_account
from .web.azure import ACCOUNT, KEY

if TYPE_CHECKING:
    from .range_client import RangeServer
    from .s3_server import S3Server

BUCKET = "zarr"
# Base64, as Azure's are.
WRONG_KEY = "bm90LXRoZS1rZXk="
_prefixes = itertools.count(1)


@dataclass(frozen=True)
class Bucket:
    """A prefix, empty at first, in a bucket of a service.

    Parameters
    ----------
    options
        Arguments of obstore's store; values that JSON has.
    wrong_key
        Options with a key that the service does not know.
    secret
        A part of that key.
    """

    options: dict[str, Any]
    wrong_key: dict[str, Any]
    secret: str

    scheme: ClassVar[str]
    store_type: ClassVar[str]
    # The option that names the bucket.
    bucket_option: ClassVar[str] = "bucket"

    def store(self, **options: Any) -> ObjectStore[Any]:
        """Return a store of the prefix; `options` take the place of those that reach it."""
        return ObjectStore(getattr(obstore.store, self.store_type)(**self.options | options))

    def other(self, name: str) -> ObjectStore[Any]:
        """Return a store of another bucket, which need not be there."""
        return self.store(**{self.bucket_option: name})


class S3(Bucket):
    """SeaweedFS's."""

    scheme = "s3"
    store_type = "S3Store"


class Gcs(Bucket):
    """Our own server's."""

    scheme = "gs"
    store_type = "GCSStore"


class Azure(Bucket):
    """Our own server's."""

    scheme = "az"
    store_type = "AzureStore"
    bucket_option = "container_name"


def s3(server: S3Server) -> S3:
    """Return a prefix of the S3 server."""
    return S3(
        {
            "bucket": server.bucket,
            "prefix": server.new_prefix(),
            "endpoint": server.endpoint,
            "access_key_id": server.access_key,
            "secret_access_key": server.secret_key,
            "region": "us-east-1",
            "virtual_hosted_style_request": False,
            "client_options": {"allow_http": True},
        },
        {"secret_access_key": WRONG_KEY},
        WRONG_KEY,
    )


def gcs(server: RangeServer) -> Gcs:
    """Return a prefix of a server that serves the cloud."""
    return Gcs(
        {
            "bucket": BUCKET,
            "prefix": _new_prefix(),
            "base_url": gcs_url(server),
            "service_account_key": service_account(),
            "client_options": {"allow_http": True},
        },
        {"service_account_key": service_account("another")},
        rsa_key("another").splitlines()[2],
    )


def azure(server: RangeServer) -> Azure:
    """Return a prefix of a server that serves the cloud."""
    return Azure(
        {
            "container_name": BUCKET,
            "prefix": _new_prefix(),
            "endpoint": azure_url(server),
            "account_name": ACCOUNT,
            "account_key": KEY,
            "client_options": {"allow_http": True},
        },
        {"account_key": WRONG_KEY},
        WRONG_KEY,
    )


def _new_prefix() -> str:
    return f"prefix{next(_prefixes)}"
