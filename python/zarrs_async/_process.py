"""What belongs to one process: the engine, its bounds, and its end. A forked child has an engine of its own."""

from __future__ import annotations

import atexit
import os
from typing import TYPE_CHECKING

from zarrs_async import _rust

if TYPE_CHECKING:
    from zarrs_async._config import Options

_generation = 0
_configured = -1
"""The generation whose engine has been given bounds."""


def generation() -> int:
    """Return how many forks lie between this process and the one that imported the package."""
    return _generation


def is_configured() -> bool:
    """Tell whether the engine of this process has been given bounds."""
    return _configured == _generation


def configure(options: Options) -> None:
    """Give the engine its bounds."""
    global _configured  # noqa: PLW0603  # one number for the process
    _configured = _generation
    _rust.configure(
        options.threads,
        options.requests,
        options.memory_bytes,
        options.shard_index_cache_bytes,
        options.chunk_cache_bytes,
        options.chunk_cache_recheck_s,
    )


def _after_fork() -> None:
    global _generation  # noqa: PLW0603  # one number for the process
    _generation += 1


atexit.register(_rust.shutdown)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
