"""What can go wrong, as classes that follow what a handler would do.

::

    ZarrsAsyncError
    ├── StoreError (OSError)                  a get, put or delete failed
    │   ├── StorePermissionError (PermissionError)
    │   ├── StoreTimeoutError (TimeoutError)
    │   └── StoreConflictError                the object kept changing
    ├── ChunkDecodeError (ValueError)         stored bytes are not a chunk of the array
    ├── ChunkEncodeError (ValueError)         values cannot be encoded
    ├── ChunkMemoryError (MemoryError)        there is no memory for a chunk
    ├── InvalidBatchError (ValueError)        a selection, buffer or store setting does not fit
    ├── UnsupportedError (NotImplementedError)
    ├── ConfigError (ValueError)              a wrong value in zarr.config
    ├── InternalError (RuntimeError)          a defect of this package, or of a codec library
    └── ShutdownError (RuntimeError)          the interpreter, or the process's engine, is ending

Each has a ``kind``, one word that stays the same from version to version, as a label of logs and metrics.
"""

from __future__ import annotations

__all__ = [
    "ChunkDecodeError",
    "ChunkEncodeError",
    "ChunkMemoryError",
    "ConfigError",
    "InternalError",
    "InvalidBatchError",
    "ShutdownError",
    "StoreConflictError",
    "StoreError",
    "StorePermissionError",
    "StoreTimeoutError",
    "UnsupportedError",
    "ZarrsAsyncError",
]


class ZarrsAsyncError(Exception):
    """Base of all errors that this package raises of its own.

    Attributes
    ----------
    kind : str
        What went wrong, in one word.
    """

    kind: str


class StoreError(ZarrsAsyncError, OSError):
    """A store could not be read or written; the cause is chained.

    Attributes
    ----------
    key : str
        The object, relative to the store's root.
    store : str
        The store, without credentials.
    status : int or None
        The HTTP status of the last answer, where there was one.
    attempts : int
        How many requests were made.
    """

    kind: str = "store"

    def __init__(
        self,
        message: str,
        *,
        key: str = "",
        store: str = "",
        status: int | None = None,
        attempts: int = 1,
    ) -> None:
        super().__init__(message)
        self.key = key
        self.store = store
        self.status = status
        self.attempts = attempts


class StorePermissionError(StoreError, PermissionError):
    """The store refuses the credentials, or the file its owner's permissions."""

    kind: str = "permission"


class StoreTimeoutError(StoreError, TimeoutError):
    """Nothing arrived for as long as the store's own timeouts allow."""

    kind: str = "timeout"


class StoreConflictError(StoreError):
    """The object was replaced by somebody else again and again."""

    kind: str = "changed"


class _ChunkError(ZarrsAsyncError, ValueError):
    """A chunk and its codec chain do not go together.

    Attributes
    ----------
    key : str
        The chunk or shard.
    codec : str
        The codec that refused.
    reason : str
        What was wrong.
    """

    def __init__(self, message: str, *, key: str = "", codec: str = "", reason: str = "") -> None:
        super().__init__(message)
        self.key = key
        self.codec = codec
        self.reason = reason


class ChunkDecodeError(_ChunkError):
    """Stored bytes are not a chunk of the array: damaged, or written with other metadata."""

    kind: str = "decode"


class ChunkEncodeError(_ChunkError):
    """A codec refused the values."""

    kind: str = "encode"


class ChunkMemoryError(ZarrsAsyncError, MemoryError):
    """There is no memory for a chunk, or for the table of a shard's subchunks.

    Attributes
    ----------
    key : str
        The chunk or shard.
    nbytes : int
        Bytes that were asked for at once.
    """

    kind: str = "memory"

    def __init__(self, message: str, *, key: str = "", nbytes: int = 0) -> None:
        super().__init__(message)
        self.key = key
        self.nbytes = nbytes


class InvalidBatchError(ZarrsAsyncError, ValueError):
    """A selection does not fit its chunk or array, or a store's setting is wrong."""

    kind: str = "invalid"


class UnsupportedError(ZarrsAsyncError, NotImplementedError):
    """A codec, data type or store that the engine does not know, under ``strict``."""

    kind: str = "unsupported"


class ConfigError(ZarrsAsyncError, ValueError):
    """A value in ``zarr.config`` is wrong; the message names option, value and what is allowed."""

    kind: str = "config"


class InternalError(ZarrsAsyncError, RuntimeError):
    """A defect of this package or of a codec library; it says nothing about what is stored.

    Attributes
    ----------
    key : str
        The chunk or shard.
    """

    kind: str = "internal"

    def __init__(self, message: str, *, key: str = "") -> None:
        super().__init__(message)
        self.key = key


class ShutdownError(ZarrsAsyncError, RuntimeError):
    """The engine is ending, or the event loop that a store needs has closed."""

    kind: str = "stopped"
