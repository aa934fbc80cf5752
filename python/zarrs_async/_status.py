"""Is it on? What reads and writes an array, a group or a data set, in one call."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from zarr.core.config import config

from zarrs_async import _tables
from zarrs_async._explain import PATH, explain
from zarrs_async._inside import arrays


@dataclass(frozen=True)
class ArrayStatus:
    """What reads and writes one array.

    Attributes
    ----------
    name : str
        The array's path in its store, or its name in a data set.
    on : bool
        Whether the engine does.
    store : str or None
        ``"native"`` where the engine does the I/O, ``"bridged"`` where the store's own methods are awaited;
        None where the engine does nothing.
    cause : str or None
        Why the engine does not; None where it does.
    """

    name: str
    on: bool
    store: str | None
    cause: str | None


@dataclass(frozen=True)
class Status:
    """Whether zarrs_async is on; true where it is, for all that was asked about.

    Attributes
    ----------
    on : bool
        Whether the engine reads and writes all of the arrays; of none, whether it would those that are opened
        from now on.
    arrays : tuple[ArrayStatus, ...]
        The arrays that were asked about.
    text : str
        The answer in words.
    """

    on: bool
    arrays: tuple[ArrayStatus, ...]
    text: str

    def __bool__(self) -> bool:
        """Tell whether it is on."""
        return self.on

    def __repr__(self) -> str:
        """Give the answer in words."""
        return self.text

    def _repr_html_(self) -> str:
        rows = [(array.name, _outcome(array)) for array in self.arrays]
        return _tables.html(self.text.splitlines()[0], rows)


def status(source: Any = None) -> Status:  # noqa: ANN401  # whatever holds zarr arrays
    """Tell whether zarrs_async is on.

    Parameters
    ----------
    source
        A zarr array or group, synchronous or not; an ``xarray.Dataset``, ``DataArray``, ``Variable`` or
        ``DataTree``; a ``dask.array.Array``. Of a group, all arrays below it: their metadata is read. Where
        nothing is given, ``zarr.config`` is asked about arrays that are yet to be opened.

    Returns
    -------
    Status
        True where it is on, and shown in words. No chunk is read.

    Raises
    ------
    TypeError
        For an object of another kind.
    """
    if source is None:
        return _configured()
    found = tuple(_array_status(name, array) for name, array in arrays(source))
    on = bool(found) and all(array.on for array in found)
    return Status(on, found, _text(found))


def _configured() -> Status:
    path = config.get("codec_pipeline.path", None)
    if path == PATH:
        return Status(on=True, arrays=(), text="zarrs_async is on for arrays that are opened from now on")
    return Status(
        on=False,
        arrays=(),
        text=(
            f"zarrs_async is off: codec_pipeline.path is {path!r}\n"
            f'  zarr.config.set({{"codec_pipeline.path": "{PATH}"}}) turns it on for arrays that are opened after it'
        ),
    )


def _array_status(name: str, array: Any) -> ArrayStatus:  # noqa: ANN401  # an array of any metadata
    # The key of a chunk may decide, so one element is named.
    told = explain(array, (slice(0, 1),) * array.ndim)
    return ArrayStatus(name, told.fallback is None, told.store, told.fallback)


def _text(found: tuple[ArrayStatus, ...]) -> str:
    if len(found) == 1:
        [array] = found
        place = f" for {array.name!r}" if array.name else ""
        return f"zarrs_async is {'on' if array.on else 'off'}{place}: {array.cause or f'{array.store} store'}"
    on = sum(array.on for array in found)
    where = {store: sum(array.store == store for array in found) for store in ("native", "bridged")}
    stores = ", ".join(f"{count:,} in {store} stores" for store, count in where.items() if count)
    told = f"zarrs_async is on for {on:,} of {_tables.counted(len(found), 'array')}"
    off = [f"  off for {array.name!r}: {array.cause}" for array in found if not array.on]
    return "\n".join([f"{told}: {stores}" if stores else told, *off])


def _outcome(array: ArrayStatus) -> str:
    return f"on, {array.store} store" if array.on else f"off: {array.cause}"
