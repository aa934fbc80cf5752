"""Counters of what the engine did, and of what fell back."""

from __future__ import annotations

import os
from collections import Counter
from typing import Any

from zarrs_async import _rust

_fallback_causes: Counter[str] = Counter()

if hasattr(os, "register_at_fork"):
    # The engine's counters begin anew in a child, and so do these.
    os.register_at_fork(after_in_child=_fallback_causes.clear)


def stats() -> dict[str, Any]:
    """Give the counters of this process.

    Returns
    -------
    dict
        Integers by name: ``batches``, ``requests``, ``requests_in_flight``, ``retries``,
        ``bytes_read`` and so on, the engine's; ``fallback_batches``, the batches that zarr's default
        pipeline did; and under ``fallback_causes`` a dict with the number of batches by cause.
    """
    return {
        **_rust.stats(),
        "fallback_batches": _fallback_causes.total(),
        "fallback_causes": dict(_fallback_causes),
    }


def count_fallback(cause: str) -> bool:
    """Count a batch that fell back; tell whether its cause is new."""
    _fallback_causes[cause] += 1
    return _fallback_causes[cause] == 1
