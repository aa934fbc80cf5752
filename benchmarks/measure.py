"""What an operation takes, measured inside its process: time, CPU, lag of the loop, memory."""

from __future__ import annotations

import asyncio
import resource
import statistics
import time
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence

    from benchmarks.cases import Sample

_BEAT_S = 0.001


class Heartbeat:
    """Measures how late the event loop comes back to a task that sleeps 1 ms.

    The lag is the time from one beat to the next above that millisecond. What the timer
    itself is late by is in it; the floor's figures show how much that is.
    """

    def __init__(self) -> None:
        self._lags: list[float] = []

    async def __aenter__(self) -> Self:
        """Start beating."""
        self._task = asyncio.create_task(self._beat())
        await asyncio.sleep(0)
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop at the next beat, so that a lag at the very end counts too."""
        self._task.cancel("finish this beat")
        await self._task

    async def _beat(self) -> None:
        last = time.perf_counter()
        finished = False
        while not finished:
            try:
                await asyncio.sleep(_BEAT_S)
            except asyncio.CancelledError:
                finished = True
            now = time.perf_counter()
            self._lags.append(max(0.0, now - last - _BEAT_S))
            last = now

    def figures(self) -> Sample:
        """Return the worst lag and the 99th percentile, in seconds."""
        return {
            "lag_worst_s": max(self._lags),
            "lag_p99_s": float(np.quantile(self._lags, 0.99)),
        }


async def timed(
    steps: Sequence[Sequence[Coroutine[Any, Any, Any]]], *, heartbeat: bool = False
) -> tuple[list[Any], Sample]:
    """Gather the calls of one step after the other; return all results and what that took."""
    results: list[Any] = []
    resident = _reset_peak()
    async with Heartbeat() if heartbeat else nullcontext() as beats:
        cpu = _cpu_seconds()
        start = time.perf_counter()
        for calls in steps:
            results += await asyncio.gather(*calls)
        sample = {
            "wall_s": time.perf_counter() - start,
            "cpu_s": _cpu_seconds() - cpu,
        }
    if beats is not None:
        sample |= beats.figures()
    if resident is not None:
        nbytes = sum(getattr(result, "nbytes", 0) for result in results)
        sample["peak_over_output_bytes"] = _status_bytes("VmHWM") - resident - nbytes
    return results, sample


def _cpu_seconds() -> float:
    """Return the CPU time of all threads of this process."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _reset_peak() -> int | None:
    """Let the peak of resident memory start anew; return what is resident now.

    Only Linux can; elsewhere the answer is ``None`` and no peak is reported.
    """
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return None
    return _status_bytes("VmRSS")


def _status_bytes(name: str) -> int:
    """Return one of the memory lines of ``/proc/self/status``."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise KeyError(name)


def medians(samples: Sequence[Sample]) -> Sample:
    """Return the median of each figure."""
    return {name: statistics.median(sample[name] for sample in samples) for name in samples[0]}
