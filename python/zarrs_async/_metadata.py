"""What the engine must know of an array, from its metadata; or why zarr's own pipeline has to do it.

The engine stands in for zarr's own classes and no others: a codec or data type that ``zarr.config`` or a
registry has put in their place, or a subclass, is left to zarr's default pipeline, which asks it. Of the
metadata only what is needed is read: attributes need not be JSON, and some data types warn when asked.
"""

from __future__ import annotations

import json
import operator
import sys
from typing import TYPE_CHECKING, Any

import numcodecs  # type: ignore[import-untyped]
import numpy as np
import zarr.dtype as zd
from numcodecs.fletcher32 import Fletcher32  # type: ignore[import-untyped]
from zarr.codecs import (
    BloscCodec,
    BytesCodec,
    Crc32cCodec,
    GzipCodec,
    ShardingCodec,
    TransposeCodec,
    ZstdCodec,
)
from zarr.core.metadata import ArrayV2Metadata

from zarrs_async.exceptions import UnsupportedError

try:
    from zarr.codecs import numcodecs as extensions
except ImportError:  # zarr 3.1.0 to 3.1.2
    from numcodecs import zarr3 as extensions  # type: ignore[no-redef]

if TYPE_CHECKING:
    from collections.abc import Iterable

    from zarr.abc.codec import Codec
    from zarr.core.array_spec import ArraySpec
    from zarr.core.metadata import ArrayMetadata

_DTYPES = {
    *(zd.Bool, zd.Int8, zd.Int16, zd.Int32, zd.Int64, zd.UInt8, zd.UInt16, zd.UInt32, zd.UInt64),
    *(zd.Float16, zd.Float32, zd.Float64, zd.Complex64, zd.Complex128, zd.DateTime64, zd.TimeDelta64),
    *(zd.FixedLengthUTF32, zd.NullTerminatedBytes, zd.RawBytes),
}
_CODECS = {BloscCodec, BytesCodec, Crc32cCodec, GzipCodec, TransposeCodec, ZstdCodec}
_WRAPPED: dict[type, type] = {
    extensions.BZ2: numcodecs.BZ2,
    extensions.Fletcher32: Fletcher32,
    extensions.Shuffle: numcodecs.Shuffle,
    extensions.Zlib: numcodecs.Zlib,
}
"""Codecs of Zarr v3 that ask one of numcodecs', and which one."""
_COMPRESSORS = {numcodecs.BZ2, numcodecs.Blosc, numcodecs.GZip, numcodecs.Zlib, numcodecs.Zstd}


def encoding(metadata: ArrayMetadata, codecs: Iterable[Codec]) -> str:
    """Say as JSON how chunks are encoded.

    Parameters
    ----------
    metadata : ArrayMetadata
        Of Zarr v2 or v3.
    codecs : Iterable of Codec
        Evolved, as zarr's default pipeline has them.

    Raises
    ------
    UnsupportedError
        When a codec is of a class that the engine does not stand in for.
    """
    if not isinstance(metadata, ArrayV2Metadata):
        for codec in codecs:
            _check(codec)
        return json.dumps({"codecs": [codec.to_dict() for codec in codecs]}, default=operator.index)
    for filter_ in metadata.filters or ():
        msg = f'filter "{filter_.codec_id}" of Zarr v2'
        raise UnsupportedError(msg)
    compressor = metadata.compressor
    if compressor is not None and type(compressor) not in _COMPRESSORS:
        msg = f'compressor "{compressor.codec_id}" of Zarr v2, class {_name(compressor)}'
        raise UnsupportedError(msg)
    described = {
        "compressor": None if compressor is None else compressor.get_config(),
        "order": metadata.order,
        "ndim": len(metadata.shape),
    }
    return json.dumps(described, default=operator.index)


def element(metadata: ArrayMetadata) -> tuple[int, str, int, bool]:
    """Give the memory layout of one element.

    Returns
    -------
    tuple
        Its bytes, how it compares, the bytes that a change of byte order reverses, whether it is big-endian.
        What compares as ``"foreign"`` is known to its codecs only: structures, and data types that are not
        zarr's own.

    Raises
    ------
    UnsupportedError
        When elements are Python objects, or have no bytes.
    """
    dtype = metadata.dtype.to_native_dtype()
    if dtype.hasobject or dtype.itemsize == 0:
        msg = f"data type {dtype}" if type(metadata.dtype).__module__.startswith("zarr.") else _name(metadata.dtype)
        raise UnsupportedError(msg)
    if type(metadata.dtype) not in _DTYPES:
        return dtype.itemsize, "foreign", 1, sys.byteorder == "big"
    kind = {"f": "float", "c": "complex"}.get(dtype.kind, "bits")
    # Halves of complex numbers, characters of text.
    units = {"c": dtype.itemsize // 2, "U": 4, "S": 1, "V": 1}
    big = dtype.byteorder == ">" or (dtype.byteorder == "=" and sys.byteorder == "big")
    return dtype.itemsize, kind, units.get(dtype.kind, dtype.itemsize), big


def fill(metadata: ArrayMetadata) -> bytes:
    """Give the fill value: one element, as it stands in the array."""
    one = empty((), metadata.dtype.to_native_dtype())
    one[...] = fill_value(metadata)
    return one.tobytes()


def fill_value(of: ArrayMetadata | ArraySpec) -> Any:  # noqa: ANN401  # a scalar of any type
    """Give the fill value; where Zarr v2 has none, zarr's own choice."""
    return of.dtype.default_scalar() if of.fill_value is None else of.fill_value


def empty(shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    """Make an array of this very data type: numpy forgets the byte order of times without a unit."""
    return np.empty(shape, dtype).view(dtype)


def is_known(codec: Codec) -> bool:
    """Tell whether the engine may stand in for a codec."""
    try:
        _check(codec)
    except UnsupportedError:
        return False
    return True


def _check(codec: Codec) -> None:
    if type(codec) is ShardingCodec:
        for inner in (*codec.codecs, *codec.index_codecs):
            _check(inner)
        return
    # numcodecs' registry has a say in which class an extension asks.
    asked = getattr(codec, "_codec", codec) if type(codec) in _WRAPPED else codec
    if type(codec) in _CODECS or type(asked) is _WRAPPED.get(type(codec)):
        return
    msg = f'codec "{codec.to_dict().get("name")}", class {_name(asked)}'
    raise UnsupportedError(msg)


def _name(thing: object) -> str:
    return f"{type(thing).__module__}.{type(thing).__qualname__}"
