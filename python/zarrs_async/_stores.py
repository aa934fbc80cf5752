"""A zarr store as the engine opens it: natively where everything can be carried over, else bridged.

Native are local files and what ``object_store`` speaks. A store is only opened natively when each of its
settings is known here, so that it is never opened with other credentials than its own, and when its root
and the array's path are spelled so that the engine asks for the very keys that the store would ask for.
Everything else is *foreign*: its own ``get``, ``set`` and ``delete`` are awaited.
"""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import ref

from zarrs_async import _boto

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from zarr.abc.store import Store


@dataclass(frozen=True, slots=True)
class Local:
    """A directory.

    Attributes
    ----------
    root : str
        Its absolute path.
    keys : re.Pattern
        Keys that the engine spells as the store does.
    direct_io : bool
        Whether files are read and written past the page cache.
    """

    root: str
    keys: re.Pattern[str]
    direct_io: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Remote:
    """A place that ``object_store`` speaks to. Its repr leaves out what may be secret.

    Attributes
    ----------
    kind : str
        ``"s3"``, ``"gcs"``, ``"azure"`` or ``"http"``.
    url, prefix : str
        The URL, for HTTP; and the path that keys are relative to.
    options, client_options : list
        Settings of the service and of the HTTP client, by ``object_store``'s names.
    headers : list
        Headers that every request carries.
    environment : list
        Variables that settings are taken from where none is given.
    max_retries, retry_timeout_ms : int or None
        Retries at most, and how long there are any; None for the default.
    backoff_ms : tuple or None
        The first and the longest pause, and what each is multiplied by, in thousandths.
    """

    kind: str
    url: str = ""
    prefix: str = ""
    options: list[tuple[str, Any]] = field(default_factory=list, repr=False)
    client_options: list[tuple[str, Any]] = field(default_factory=list, repr=False)
    headers: list[tuple[str, bytes]] = field(default_factory=list, repr=False)
    environment: list[tuple[str, str]] = field(default_factory=list, repr=False)
    max_retries: int | None = None
    retry_timeout_ms: int | None = None
    backoff_ms: tuple[int, int, int] | None = None

    @property
    def keys(self) -> re.Pattern[str]:
        """Keys that the engine spells as the store does."""
        return _PLAIN

    @property
    def is_odd(self) -> bool:
        """Whether a setting is of a type that is not known here."""
        return any(not isinstance(value, str) for _, value in self.options + self.client_options)


@dataclass(frozen=True, slots=True, weakref_slot=True)
class Description:
    """Where a store's objects are.

    Attributes
    ----------
    store : zarr.abc.store.Store
        The store itself, which the engine awaits where it cannot do the rest.
    place : tuple
        The store's `place` when it was described.
    native : Local, Remote or None
        What the engine itself reads and writes; None for a foreign store.
    """

    store: Store
    place: tuple[object, ...]
    native: Local | Remote | None

    def takes(self, key: str) -> bool:
        """Tell whether the engine asks for `key` just as the store itself would; always true of a foreign store."""
        return self.native is None or not key or self.native.keys.fullmatch(key) is not None

    def bridged(self) -> Description:
        """Give the description of the same store as a foreign one."""
        return replace(self, native=None)


_KINDS = {"S3Store": "s3", "GCSStore": "gcs", "AzureStore": "azure", "HTTPStore": "http"}
_S3FS_OPTIONS = {"anon", "asynchronous", "client_kwargs", "endpoint_url", "key", "loop", "secret", "token"}
_S3FS_CLIENT_OPTIONS = {"endpoint_url", "region_name"}
_CLIENT_VARIABLES = ("ALLOW_HTTP", "ALLOW_INVALID_CERTIFICATES", "PROXY_URL", "PROXY_CA_CERTIFICATE", "PROXY_EXCLUDES")

# A segment is never empty and never `.` or `..`, which some stores resolve and others take by the letter.
_NOT_DOTS = r"(?![.]{1,2}(?:/|\Z))"
# Characters that no store encodes, decodes, expands or cuts off; `%`, `?`, `#`, `*`, `[` and `\` are not among them.
_SEGMENT = rf"{_NOT_DOTS}[A-Za-z0-9 _.~!$&'(),;=:@+-]+"
_PLAIN = re.compile(rf"{_SEGMENT}(?:/{_SEGMENT})*")
# Files have any name; a byte of it that is not UTF-8 is a lone surrogate in Python, and nothing in a key of ours.
_NAME = rf"{_NOT_DOTS}[^/\ud800-\udfff]+"
_FILE = re.compile(rf"{_NAME}(?:/{_NAME})*")
# A host is a name that does not end in a number, or an IPv4 address in the usual form.
_HOST = r"(?:(?:[A-Za-z0-9_-]+[.])*[A-Za-z_-][A-Za-z0-9_-]*|(?:(?:0|[1-9][0-9]{0,2})[.]){3}(?:0|[1-9][0-9]{0,2}))"
_URL = re.compile(rf"https?://{_HOST}(?::[0-9]{{1,5}})?(?:/{_PLAIN.pattern})?")
_ENDPOINT = re.compile(rf"https?://{_HOST}(?::[0-9]{{1,5}})?/?")
_BUCKET = re.compile(r"(?!.*--)[A-Za-z0-9][A-Za-z0-9._-]+")


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
    Description
        With what the engine itself reads and writes, or without where the store is foreign.
    """
    global _last  # noqa: PLW0603  # one for the process
    where = place(store)
    state = (type(store), direct_io, *getattr(store, "__dict__", ()))
    last = _last[0]()
    # The arrays of a data set have one store. What else there is depends on the environment, which changes.
    if last is not None and last.store is store and last.place == where and _last[1] == state:
        return last
    native: Local | Remote | None = None
    if not _is_changed(store):
        match _class_of(store):
            case "zarr.storage._local.LocalStore":
                native = _zarr_local(store, direct_io=direct_io)
            case "zarr.storage._obstore.ObjectStore":
                native = _obstore(getattr(store, "store", None), direct_io=direct_io)
            case "zarr.storage._fsspec.FsspecStore":
                native = _fsspec(store, direct_io=direct_io)
    description = Description(store, where, native)
    if isinstance(native, Local):
        _last = ref(description), state
    return description


_last: tuple[Callable[[], Description | None], tuple[object, ...]] = (lambda: None), ()
"""The last description of a directory, while an array has it; and what it was made from besides the place."""


def place(store: Store) -> tuple[object, ...]:
    """Give what says where a store's objects are and may change while the store is in use.

    Equal places of one store have equal descriptions. This is asked before each batch.
    """
    attributes = getattr(store, "__dict__", {})
    root = attributes.get("root")
    # A relative root is one of the working directory, wherever that is now. A path for it would take ten times as long.
    directory = os.getcwd() if isinstance(root, Path) and not root.is_absolute() else None  # noqa: PTH109
    return (
        root,
        directory,
        attributes.get("store"),
        attributes.get("fs"),
        attributes.get("path"),
        attributes.get("allowed_exceptions"),
    )


def is_utf8(text: str) -> bool:
    """Tell whether a key or a variable is UTF-8: Python holds any other byte as a lone surrogate."""
    return text.isascii() or re.search("[\ud800-\udfff]", text) is None


def _class_of(value: object) -> str:
    """Name the class of a value; empty where another class only bears the name."""
    # Subclasses may do anything, so only the classes themselves are taken for what they are.
    cls = type(value)
    real = getattr(sys.modules.get(cls.__module__), cls.__qualname__, None)
    return f"{cls.__module__}.{cls.__qualname__}" if real is cls else ""


def _is_changed(value: object) -> bool:
    """Tell whether methods of the object's class were replaced on the object."""
    cls = type(value)
    # fsspec puts a synchronous method on an object for each asynchronous one, whose name has an underscore before it.
    mirrored = getattr(cls, "async_impl", False)
    return any(
        callable(getattr(cls, name, None)) and not (mirrored and hasattr(cls, f"_{name}"))
        for name in getattr(value, "__dict__", ())
    )


def _zarr_local(store: Any, *, direct_io: bool) -> Local:  # noqa: ANN401  # one class, but for mypy
    root = Path(store.root)
    # Both join by the rules of the operating system.
    return Local(str(root if root.is_absolute() else Path.cwd() / root), _FILE, direct_io)


def _obstore(store: Any, *, direct_io: bool) -> Local | Remote | None:  # noqa: ANN401  # obstore need not be there
    module, _, name = _class_of(store).rpartition(".")
    if module != "obstore.store" or _is_changed(store):
        return None
    if name == "LocalStore":
        return _obstore_local(store, direct_io=direct_io)
    if name not in _KINDS or getattr(store, "credential_provider", None) is not None:
        return None
    config = _config(store)
    prefix = getattr(store, "prefix", None) or ""
    if config is None or not (prefix == "" or _PLAIN.fullmatch(prefix)):
        return None
    client_options = dict(store.client_options or {})
    headers = client_options.pop("default_headers", {})
    remote = Remote(
        kind=_KINDS[name],
        # Client options that are given stand in place of all that the environment has.
        environment=_environment(_KINDS[name], client=store.client_options is None),
        url=store.url if name == "HTTPStore" else "",
        prefix=prefix,
        options=_texts(config),
        client_options=_texts(client_options),
        headers=[(key, _bytes(value)) for key, value in headers.items()],
        **_retries(store.retry_config or {}),
    )
    return None if remote.is_odd else remote


def _obstore_local(store: Any, *, direct_io: bool) -> Local | None:  # noqa: ANN401  # obstore need not be there
    _, settings = store.__getnewargs_ex__()
    # obstore resolves links once, when the store is made, and removes directories where it is told to.
    is_plain = store.prefix is not None and store.prefix.is_absolute() and store.prefix.resolve() == store.prefix
    return Local(str(store.prefix), _PLAIN, direct_io) if is_plain and not settings["automatic_cleanup"] else None


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
            # As obstore, which passes over what is not UTF-8.
            and is_utf8(name + value)
        )
    return found


def _retries(retry: Mapping[str, Any]) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    if "max_retries" in retry:
        settings["max_retries"] = retry["max_retries"]
    if "retry_timeout" in retry:
        settings["retry_timeout_ms"] = _milliseconds(retry["retry_timeout"])
    if backoff := retry.get("backoff"):
        settings["backoff_ms"] = (
            _milliseconds(backoff["init_backoff"]),
            _milliseconds(backoff["max_backoff"]),
            round(1000 * backoff["base"]),
        )
    return settings


def _fsspec(store: Any, *, direct_io: bool) -> Local | Remote | None:  # noqa: ANN401  # fsspec need not be there
    from zarr.storage._fsspec import ALLOWED_EXCEPTIONS  # noqa: PLC0415  # imports fsspec

    filesystem = _unwrapped(store.fs)
    if store.allowed_exceptions != ALLOWED_EXCEPTIONS or filesystem is None or filesystem.storage_args:
        return None
    # As zarr does before it joins a key to it.
    root = store.path.rstrip("/")
    options = dict(filesystem.storage_options)
    is_plain = not set(options) - {"asynchronous", "loop"}
    match _class_of(filesystem):
        case "fsspec.implementations.local.LocalFileSystem" if is_plain:
            # Any other path is fsspec's to resolve.
            is_absolute = root.startswith("/") and _FILE.fullmatch(root[1:])
            return Local(root, _PLAIN, direct_io) if is_absolute else None
        case "fsspec.implementations.http.HTTPFileSystem" if is_plain:
            return _http(root)
        case "s3fs.core.S3FileSystem":
            return _s3fs(root, options)
    return None


def _unwrapped(filesystem: Any) -> Any:  # noqa: ANN401  # fsspec need not be there
    """Give the file system that does the work; None where something else may be done on the way."""
    if _class_of(filesystem) == "fsspec.implementations.asyn_wrapper.AsyncFileSystemWrapper":
        inner = filesystem.sync_fs
        # The wrapper's methods are made for each object.
        methods = {"_cat_file": inner.cat_file, "_pipe_file": inner.pipe_file, "_rm": inner.rm}
        is_plain = getattr(filesystem, "semaphore", None) is None and all(
            getattr(getattr(filesystem, name), "__wrapped__", None) == method for name, method in methods.items()
        )
        filesystem = inner if is_plain else None
    return None if _is_changed(filesystem) else filesystem


def _http(url: str) -> Remote | None:
    # aiohttp heeds no proxy of the environment.
    if not _URL.fullmatch(url) or _has_proxy():
        return None
    return Remote(kind="http", url=url, client_options=[("allow_http", "true")])


def _s3fs(root: str, options: dict[str, Any]) -> Remote | None:
    client = options.get("client_kwargs") or {}
    if set(options) - _S3FS_OPTIONS or set(client) - _S3FS_CLIENT_OPTIONS:
        return None
    bucket, _, prefix = root.partition("/")
    if not _BUCKET.fullmatch(bucket) or not (root == bucket or _PLAIN.fullmatch(prefix)):
        return None
    endpoints = {options.get("endpoint_url") or None, client.get("endpoint_url") or None} - {None}
    endpoint, region = next(iter(endpoints), None), client.get("region_name") or None
    is_known = len(endpoints) < 2 and (endpoint is None or _ENDPOINT.fullmatch(endpoint))  # noqa: PLR2004  # no two
    if not is_known or _has_proxy() or not _boto.is_told_all(region=region, endpoint=endpoint):
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
    remote = Remote(kind="s3", prefix=prefix, options=_texts(settings), client_options=[("allow_http", allow_http)])
    return None if remote.is_odd else remote


def _has_proxy() -> bool:
    """Tell whether the environment names a proxy, which clients heed each in a way of its own."""
    return any(name.lower() in {"http_proxy", "https_proxy", "all_proxy"} for name in os.environ)


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
