"""The zarr arrays inside of what a user has at hand: an array, a group, or an object of xarray or dask."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import zarr

Arrays = Iterator[tuple[str, zarr.AsyncArray[Any]]]


def arrays(source: object) -> Arrays:
    """Find arrays, with their names.

    Parameters
    ----------
    source
        A zarr array or group, synchronous or not; an ``xarray.Dataset``, ``DataArray``, ``Variable`` or
        ``DataTree``; a ``dask.array.Array``. Of a group, all arrays below it, which reads their metadata.

    Raises
    ------
    TypeError
        For anything else.
    """
    match source:
        case zarr.Array() | zarr.AsyncArray():
            yield _named(source)
        case zarr.Group() | zarr.AsyncGroup():
            group = source if isinstance(source, zarr.Group) else zarr.Group(source)
            for _, member in group.members(max_depth=None):
                if isinstance(member, zarr.Array):
                    yield _named(member)
        case _ if _is(source, "dask.array", "Array"):
            yield from _unwrapped(source)
        case _:
            yield from _of_xarray(source)


def _of_xarray(source: Any) -> Arrays:  # noqa: ANN401  # xarray need not be installed
    if _is(source, "xarray", "DataTree"):
        for node in source.subtree:
            yield from ((f"{node.path.rstrip('/')}/{name}", array) for name, array in _of_xarray(node.dataset))
    elif _is(source, "xarray", "Dataset"):
        for name, variable in source.variables.items():
            yield from ((str(name), array) for _, array in _of_xarray(variable))
    elif _is(source, "xarray", "DataArray"):
        yield from ((str(source.name), array) for _, array in _of_xarray(source.variable))
    elif _is(source, "xarray", "Variable"):
        # Its `data` would load what is not loaded yet.
        yield from _unwrapped(source._data)  # noqa: SLF001
    else:
        msg = (
            f"{type(source).__module__}.{type(source).__qualname__} is no zarr array or group, "
            "and no object of xarray or dask"
        )
        raise TypeError(msg)


def _is(source: object, module: str, name: str) -> bool:
    """Tell whether an object is of a class of a package that need not be installed."""
    cls = getattr(sys.modules.get(module), name, None)
    return isinstance(cls, type) and isinstance(source, cls)


def _named(array: zarr.Array[Any] | zarr.AsyncArray[Any]) -> tuple[str, zarr.AsyncArray[Any]]:
    return array.path, array.async_array if isinstance(array, zarr.Array) else array


def _unwrapped(data: object) -> Arrays:
    """Look through the layers that xarray and dask put around an array; nothing where it is in memory."""
    while data is not None:
        if isinstance(data, zarr.Array | zarr.AsyncArray):
            yield _named(data)
            return
        if _is(data, "dask.array", "Array"):
            graph = data.__dask_graph__()  # type: ignore[attr-defined]  # as is known here
            for name, layer in graph.layers.items():
                # Under this name dask keeps what an array was made from.
                if name.startswith("original-"):
                    yield from _unwrapped(next(iter(layer.values())))
            return
        data = next((getattr(data, name) for name in ("array", "_array", "value") if hasattr(data, name)), None)
