"""``zarr.config`` read once into values that are checked."""

from __future__ import annotations

import operator
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from zarr.core.array_spec import ArrayConfig
from zarr.core.config import config

from zarrs_async import _process
from zarrs_async._machine import automatic_memory_bytes, cpus
from zarrs_async._warn import warn
from zarrs_async.exceptions import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

_T = TypeVar("_T")
_MIB = 1 << 20
_INDEX_CACHE = 64 * _MIB
_LONGEST = 86_400

_OWN = {
    "chunk_cache_bytes",
    "chunk_cache_recheck_s",
    "chunk_concurrent_maximum",
    "chunk_concurrent_minimum",
    "direct_io",
    "hedge_factor",
    "memory_limit_bytes",
    "request_concurrent_maximum",
    "shard_index_cache_bytes",
    "strict",
    "validate_checksums",
}
"""Our own options below ``codec_pipeline``."""

# From the environment, `true` is a word and `1` a number: other tools take either.
_FLAGS = {"true": True, "1": True, "false": False, "0": False}


def _unless_changed(make: Callable[[], _T]) -> Callable[[], _T]:
    """Keep what is made from ``zarr.config``, until that changes."""
    kept: tuple[list[object], _T] | None = None

    def made() -> _T:
        nonlocal kept
        state, last = _state(), kept
        if last is None or len(last[0]) != len(state) or not all(map(operator.is_, last[0], state)):
            last = kept = (state, make())
        return last[1]

    return made


def _state() -> list[object]:
    """Give the names and values of all that may be an option, and the process.

    Values that are allowed cannot be changed in place, and other objects may be equal and yet not allowed, as True
    for 1: so the configuration has not changed where each part is the very same object.
    """
    state: list[object] = [_process.generation()]
    for section, found in config.config.items():
        # Codecs are many, and none of them is an option.
        if section != "codecs":
            state.append(section)
            state += (*found, *found.values()) if isinstance(found, dict) else (found,)
    return state


_judged: set[str] = set()
"""Names of options that were compared with the known ones."""


@dataclass(frozen=True)
class Options:
    """The options of one pipeline, and the process-wide bounds as it would have them.

    Attributes
    ----------
    threads : int
        Threads that decode and encode.
    requests : int or None
        Requests in flight at most, process-wide; None for as many as the latency of the stores asks for.
    memory_bytes : int
        Bytes of encoded and decoded chunks in memory at most, process-wide.
    shard_index_cache_bytes : int
        Bytes of decoded shard indexes kept at most, process-wide.
    chunk_cache_bytes : int
        Bytes of decoded chunks kept at most, process-wide; at most half of `memory_bytes`, of which they are part.
    chunk_cache_recheck_s : float
        Seconds for which a remote object counts as unchanged after it was last seen, where its chunks are kept.
    chunk_concurrent_maximum : int or None
        Chunks of the pipeline in flight at most; None for no bound of its own.
    chunk_concurrent_minimum : int
        Chunks in flight before one chunk gets several threads.
    validate_checksums : bool
        Whether checksums are compared.
    direct_io : bool
        Whether local files are read and written past the page cache.
    strict : bool
        Whether an array that the engine cannot do is an error.
    hedge_factor : float or None
        How many times slower than its peers' median a request is when a second one is sent; None for
        never.
    coalesce : tuple[int, int]
        Gap and size in bytes up to which byte ranges of a shard are merged, where zarr does not keep these
        with the array.
    """

    threads: int
    requests: int | None
    memory_bytes: int
    shard_index_cache_bytes: int
    chunk_cache_bytes: int
    chunk_cache_recheck_s: float
    chunk_concurrent_maximum: int | None
    chunk_concurrent_minimum: int
    validate_checksums: bool
    direct_io: bool
    strict: bool
    hedge_factor: float | None
    coalesce: tuple[int, int]

    @classmethod
    def from_config(cls) -> Options:
        """Read ``zarr.config``, or give what was read before if it has not changed.

        Raises
        ------
        ConfigError
            When an option has a value that is not allowed.

        Warns
        -----
        ZarrUserWarning
            Once for each option of nearly the name of a known one.
        """
        return _options()

    @classmethod
    def _read(cls) -> Options:
        _warn_of_misspelt()
        workers = _count("threading.max_workers")
        memory_bytes = _count("codec_pipeline.memory_limit_bytes") or automatic_memory_bytes()
        return cls(
            threads=workers or cpus(),
            requests=_count("codec_pipeline.request_concurrent_maximum") or None,
            memory_bytes=memory_bytes,
            shard_index_cache_bytes=_count("codec_pipeline.shard_index_cache_bytes", least=0, default=_INDEX_CACHE),
            chunk_cache_bytes=_count("codec_pipeline.chunk_cache_bytes", least=0, default=memory_bytes // 8),
            chunk_cache_recheck_s=_seconds("codec_pipeline.chunk_cache_recheck_s"),
            chunk_concurrent_maximum=_count("codec_pipeline.chunk_concurrent_maximum") or None,
            chunk_concurrent_minimum=_count("codec_pipeline.chunk_concurrent_minimum", default=4),
            validate_checksums=_flag("codec_pipeline.validate_checksums", default=True),
            direct_io=_direct_io(),
            strict=_flag("codec_pipeline.strict", default=False),
            hedge_factor=_factor("codec_pipeline.hedge_factor"),
            coalesce=(
                _count("array.sharding_coalesce_max_gap_bytes", least=0, default=_MIB),
                _count("array.sharding_coalesce_max_bytes", least=0, default=16 * _MIB),
            ),
        )


_options = _unless_changed(Options._read)  # noqa: SLF001  # its own module
array_config = _unless_changed(lambda: ArrayConfig.from_dict({}))
"""What zarr's own options say of an array."""


def _count(name: str, *, least: int = 1, default: int = 0) -> int:
    value: Any = config.get(name, None)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value < 1 << 63:
        msg = f"{name} is {value!r}, but must be an integer of at least {least}, or None for automatic"
        raise ConfigError(msg)
    return value


def _direct_io() -> bool:
    direct_io = _flag("codec_pipeline.direct_io", default=False)
    if direct_io and sys.platform != "linux":
        msg = "codec_pipeline.direct_io is True, but must be False here: only Linux has O_DIRECT"
        raise ConfigError(msg)
    return direct_io


def _factor(name: str) -> float | None:
    value: Any = config.get(name, None)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 1 < value < float("inf"):
        msg = f"{name} is {value!r}, but must be a number greater than 1, or None for no hedging"
        raise ConfigError(msg)
    return float(value)


def _seconds(name: str) -> float:
    value: Any = config.get(name, None)
    if value is None:
        return 0.0
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= _LONGEST:
        msg = f"{name} is {value!r}, but must be a number of seconds from 0 to {_LONGEST}, or None for 0"
        raise ConfigError(msg)
    return float(value)


def _flag(name: str, *, default: bool) -> bool:
    value: Any = config.get(name, None)
    if value is None:
        return default
    flag = _FLAGS.get(str(value).lower()) if isinstance(value, (bool, int, str)) else None
    if flag is None:
        msg = f"{name} is {value!r}, but must be True, False, or None for {default}"
        raise ConfigError(msg)
    return flag


def _warn_of_misspelt() -> None:
    """Warn of names that are nearly those of options; all others may be another pipeline's."""
    names = {
        f"{section}.{name}" for section, found in config.config.items() if isinstance(found, dict) for name in found
    }
    for name in sorted(names - _judged):
        _judged.add(name)
        meant = _meant(*name.split(".", 1))
        if meant is not None:
            warn(f"zarr.config has {name!r}, which is no option; {meant!r} is")


def _meant(section: str, name: str) -> str | None:
    """Give the option of nearly this name; None for an option itself, and where there is none."""
    import difflib  # noqa: PLC0415  # hardly ever needed, and none of the cheapest to import

    known: dict[str, set[str]] = {
        known: set(found) for known, found in config.defaults[0].items() if isinstance(found, dict)
    }
    known["codec_pipeline"] |= _OWN
    for near in [section] if section in known else difflib.get_close_matches(section, known, 1, 0.8):
        if name in known[near]:
            return f"{near}.{name}" if near != section else None
        # Codecs and buffers have the names that their packages give them.
        for option in difflib.get_close_matches(name, known[near], 1, 0.75) if near != "codecs" else []:
            return f"{near}.{option}"
    return None
