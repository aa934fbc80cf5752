"""A zarr store as the engine opens it: natively where everything can be carried over, else bridged.

Native are local files and what ``object_store`` speaks. A store is only opened natively when each of its
settings is known here: it is never opened with other credentials than its own. Everything else is
*foreign*: its own ``get``, ``set`` and ``delete`` are awaited.
"""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zarr.storage import LocalStore

if TYPE_CHECKING:
    from collections.abc import Mapping

    from zarr.abc.store import Store

Description = dict[str, Any]

_KINDS = {"S3Store": "s3", "GCSStore": "gcs", "AzureStore": "azure", "HTTPStore": "http"}
_S3FS_OPTIONS = {"anon", "asynchronous", "client_kwargs", "endpoint_url", "key", "loop", "secret", "token"}
_S3FS_CLIENT_OPTIONS = {"endpoint_url", "region_name"}
_CLIENT_VARIABLES = ("ALLOW_HTTP", "ALLOW_INVALID_CERTIFICATES", "PROXY_URL", "PROXY_CA_CERTIFICATE", "PROXY_EXCLUDES")


def describe(store: Store, *, direct_io: bool = False) -> Description:
    """Say where a store's objects are.

    Parameters
    ----------
    store : zarr.abc.store.Store
        Any zarr store.
    direct_io : bool
        Whether local files are read and written past the page cache.

    Returns
    -------
    dict
        With ``root`` a local store, with ``kind`` a remote one, with neither a foreign one; ``store`` is the
        store itself, which the engine awaits where it cannot do the rest.
    """
    # Subclasses may do anything, so only the classes themselves are taken for what they are.
    name = f"{type(store).__module__}.{type(store).__name__}"
    native: Description | None = None
    if type(store) is LocalStore:
        native = _local(store.root, direct_io=direct_io)
    elif name == "zarr.storage._obstore.ObjectStore":
        native = _obstore(getattr(store, "store", None), direct_io=direct_io)
    elif name == "zarr.storage._fsspec.FsspecStore":
        native = _fsspec(store, direct_io=direct_io)
    return {"store": store, **(native or {})}


def is_native(description: Mapping[str, Any]) -> bool:
    """Tell whether the engine itself reads and writes the store."""
    return "root" in description or "kind" in description


def _local(root: object, *, direct_io: bool) -> Description:
    return {"root": str(root), "direct_io": direct_io}


def _obstore(store: Any, *, direct_io: bool) -> Description | None:  # noqa: ANN401  # obstore need not be there
    name = type(store).__name__
    if type(store).__module__ != "obstore.store":
        return None
    if name == "LocalStore":
        return None if store.prefix is None else _local(store.prefix, direct_io=direct_io)
    if name not in _KINDS or getattr(store, "credential_provider", None) is not None:
        return None
    config = _config(store)
    if config is None:
        return None
    client_options = dict(store.client_options or {})
    headers = client_options.pop("default_headers", {})
    description = {
        "kind": _KINDS[name],
        # Client options that are given stand in place of all that the environment has.
        "environment": _environment(_KINDS[name], client=store.client_options is None),
        "url": store.url if name == "HTTPStore" else "",
        "prefix": getattr(store, "prefix", None) or "",
        "options": _texts(config),
        "client_options": _texts(client_options),
        "headers": [(key, _bytes(value)) for key, value in headers.items()],
        **_retries(store.retry_config or {}),
    }
    if _has_odd_values(description):
        return None
    return description


def _config(store: Any) -> Mapping[str, Any] | None:  # noqa: ANN401  # obstore need not be there
    """Give an obstore store's settings; None where it cannot tell them."""
    try:
        return getattr(store, "config", None) or {}
    except BaseException as error:
        # Settings of the client among those of the service make obstore panic, which is no `Exception`.
        if type(error).__name__ != "PanicException":
            raise
        return None


def _environment(kind: str, *, client: bool) -> list[tuple[str, str]]:
    """Variables that obstore would take settings from, as they are now: a store keeps those it was made with."""
    prefixes = {"s3": ("AWS_",), "gcs": ("SERVICE_ACCOUNT", "GOOGLE_"), "azure": ("AZURE_", "IDENTITY_ENDPOINT")}
    found = []
    for prefix in prefixes.get(kind, ()):
        whole = not prefix.endswith("_")
        found += sorted(
            (name, value)
            for name, value in os.environ.items()
            if (name == prefix if whole else name.startswith(prefix))
            and (client or name.removeprefix(prefix) not in _CLIENT_VARIABLES)
        )
    return found


def _retries(retry: Mapping[str, Any]) -> Description:
    description: Description = {}
    if "max_retries" in retry:
        description["max_retries"] = retry["max_retries"]
    if "retry_timeout" in retry:
        description["retry_timeout_ms"] = _milliseconds(retry["retry_timeout"])
    if backoff := retry.get("backoff"):
        description["backoff_ms"] = (
            _milliseconds(backoff["init_backoff"]),
            _milliseconds(backoff["max_backoff"]),
            round(1000 * backoff["base"]),
        )
    return description


def _fsspec(store: Any, *, direct_io: bool) -> Description | None:  # noqa: ANN401  # fsspec need not be there
    from zarr.storage._fsspec import ALLOWED_EXCEPTIONS  # noqa: PLC0415  # imports fsspec

    filesystem = getattr(store.fs, "sync_fs", store.fs)
    options = dict(filesystem.storage_options)
    if store.allowed_exceptions != ALLOWED_EXCEPTIONS or filesystem.storage_args:
        return None
    match f"{type(filesystem).__module__}.{type(filesystem).__name__}":
        case "fsspec.implementations.local.LocalFileSystem" if not set(options) - {"asynchronous", "loop"}:
            # Any other path is fsspec's to resolve.
            is_absolute = store.path.startswith("/") and store.path.strip("/")
            return _local(store.path, direct_io=direct_io) if is_absolute else None
        case "fsspec.implementations.http.HTTPFileSystem" if not set(options) - {"asynchronous", "loop"}:
            return _http(store.path)
        case "s3fs.core.S3FileSystem":
            bucket, prefix, _ = filesystem.split_path(store.path)
            return _s3fs(bucket, prefix, options)
    return None


def _http(url: str) -> Description | None:
    if not url.startswith(("http://", "https://")) or "?" in url or "@" in url:
        return None
    return {"kind": "http", "url": url, "client_options": [("allow_http", "true")]}


def _s3fs(bucket: str, prefix: str, options: dict[str, Any]) -> Description | None:
    client = options.get("client_kwargs") or {}
    if set(options) - _S3FS_OPTIONS or set(client) - _S3FS_CLIENT_OPTIONS:
        return None
    endpoint = options.get("endpoint_url") or client.get("endpoint_url")
    if not bucket or ":" in bucket:
        # An access point has a name of another form.
        return None
    if "AWS_CA_BUNDLE" in os.environ and not str(endpoint).startswith("http://"):
        # Certificates that boto alone heeds.
        return None
    region = client.get("region_name")
    if not endpoint and (not region or _boto_may_know_an_endpoint()):
        # boto would look for them, and follow redirects.
        return None
    settings = {"aws_bucket": bucket, "aws_region": region or "us-east-1"}
    if endpoint:
        settings["aws_endpoint"] = endpoint
    if options.get("anon"):
        settings["aws_skip_signature"] = "true"
    elif options.get("key") and options.get("secret"):
        settings["aws_access_key_id"] = options["key"]
        settings["aws_secret_access_key"] = options["secret"]
        if options.get("token"):
            settings["aws_session_token"] = options["token"]
    else:
        # boto would look for credentials in places of its own.
        return None
    allow_http = "true" if str(endpoint).startswith("http://") else "false"
    return {
        "kind": "s3",
        "prefix": prefix.strip("/"),
        "options": _texts(settings),
        "client_options": [("allow_http", allow_http)],
    }


def _boto_may_know_an_endpoint() -> bool:
    """Whether the environment or boto's files name endpoints."""
    if any(name.startswith("AWS_ENDPOINT_URL") for name in os.environ):
        return True
    files = {"AWS_CONFIG_FILE": "~/.aws/config", "AWS_SHARED_CREDENTIALS_FILE": "~/.aws/credentials"}
    for variable, default in files.items():
        try:
            text = Path(os.environ.get(variable, default)).expanduser().read_text(encoding="utf-8", errors="replace")
        except (OSError, RuntimeError):
            # No such file, or no home to look for it in.
            continue
        if "endpoint_url" in text:
            return True
    return False


def _texts(settings: Mapping[str, Any]) -> list[tuple[str, Any]]:
    return sorted((key, _text(value)) for key, value in settings.items())


def _text(value: Any) -> Any:  # noqa: ANN401  # what is not known stays as it is, and is refused
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, timedelta):
        return f"{_milliseconds(value)}ms"
    if isinstance(value, (int, float)):
        return str(value)
    return value


def _bytes(value: str | bytes) -> bytes:
    return value.encode() if isinstance(value, str) else value


def _milliseconds(duration: timedelta) -> int:
    return round(1000 * duration.total_seconds())


def _has_odd_values(description: Description) -> bool:
    pairs = description["options"] + description["client_options"]
    return any(not isinstance(value, str) for _, value in pairs)
