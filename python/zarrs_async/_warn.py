"""Warnings that point at the line of whoever called zarr, not into zarr."""

from __future__ import annotations

import sys
import warnings
from typing import TYPE_CHECKING

import zarr.core.sync
from zarr.errors import ZarrUserWarning

if TYPE_CHECKING:
    from types import FrameType

_BETWEEN = {
    "asyncio",
    "concurrent",
    "contextlib",
    "dask",
    "pickle",
    "threading",
    "uvloop",
    "xarray",
    "zarr",
    "zarrs_async",
}
"""Packages that stand between a user's code and ours."""


def warn(message: str) -> None:
    """Warn, once for each line of a user's code and message as all warnings."""
    frame = _outside(sys._getframe(1)) or _waiting()  # noqa: SLF001  # documented, and what `warnings` itself uses
    if frame is None:
        warnings.warn(message, ZarrUserWarning, stacklevel=2)
        return
    warnings.warn_explicit(
        message,
        ZarrUserWarning,
        frame.f_code.co_filename,
        frame.f_lineno,
        module=frame.f_globals.get("__name__"),
        registry=frame.f_globals.setdefault("__warningregistry__", {}),
    )


def _outside(frame: FrameType | None) -> FrameType | None:
    """Return the innermost frame of a user's code from here outwards; None where there is none in this thread."""
    while frame is not None and _package(frame) in _BETWEEN:
        frame = frame.f_back
    return frame


def _package(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", "")).partition(".")[0]


def _waiting() -> FrameType | None:
    """Return the user's frame in the thread that waits for what this one does: zarr's sync API works so."""
    ours = _local("_runner", sys._getframe(1))  # noqa: SLF001  # as above
    if ours is None:
        return None
    for frame in sys._current_frames().values():  # noqa: SLF001  # documented
        if _local("sync", frame) is ours:
            return _outside(frame)
    return None


def _local(function: str, frame: FrameType | None) -> object:
    """Return the coroutine that a function of ``zarr.core.sync`` was given, where it is on the stack."""
    while frame is not None:
        if frame.f_code.co_name == function and frame.f_globals.get("__name__") == zarr.core.sync.__name__:
            return frame.f_locals.get("coro")
        frame = frame.f_back
    return None
