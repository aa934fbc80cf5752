"""What the engine must know of an array, from its metadata; or why zarr's own pipeline has to do it.

The engine stands in for zarr's own classes and no others: a codec or data type that ``zarr.config`` or a
registry has put in their place, or a subclass, is left to zarr's default pipeline, which asks it. Of the
metadata only what is needed is read: attributes need not be JSON, and some data types warn when asked.
"""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING, Any

import numcodecs  # type: ignore[import-untyped]
import numpy as np
import zarr.dtype as zd
from numcodecs.fletcher32 import Fletcher32  # type: ignore[import-untyped]
from zarr.abc.codec import ArrayArrayCodec
from zarr.codecs import (
    BloscCodec,
    BytesCodec,
    Crc32cCodec,
    GzipCodec,
    ShardingCodec,
    TransposeCodec,
    VLenBytesCodec,
    VLenUTF8Codec,
    ZstdCodec,
)

from zarrs_async.exceptions import UnsupportedError

try:
    from zarr.codecs import numcodecs as extensions
except ImportError:  # zarr 3.1.0 to 3.1.2
    from numcodecs import zarr3 as extensions  # type: ignore[no-redef]

try:
    from zarr.codecs import ScaleOffset
except ImportError:  # before zarr 3.3
    ScaleOffset = None  # type: ignore[assignment,misc]

if TYPE_CHECKING:
    from collections.abc import Iterable

    from zarr.abc.codec import Codec
    from zarr.core.array_spec import ArraySpec
    from zarr.core.dtype import ZDType
    from zarr.core.metadata import ArrayMetadata, ArrayV2Metadata

_DTYPES = {
    *(zd.Bool, zd.Int8, zd.Int16, zd.Int32, zd.Int64, zd.UInt8, zd.UInt16, zd.UInt32, zd.UInt64),
    *(zd.Float16, zd.Float32, zd.Float64, zd.Complex64, zd.Complex128, zd.DateTime64, zd.TimeDelta64),
    *(zd.FixedLengthUTF32, zd.NullTerminatedBytes, zd.RawBytes),
}
_VARIABLE: dict[type, str] = {zd.VariableLengthUTF8: "text", zd.VariableLengthBytes: "binary"}
"""Data types whose elements have any length."""
_CODECS = {
    *(BloscCodec, BytesCodec, Crc32cCodec, GzipCodec, TransposeCodec, ZstdCodec),
    *(VLenBytesCodec, VLenUTF8Codec),
}
_NUMCODECS = {
    *(numcodecs.AsType, numcodecs.BitRound, numcodecs.Delta, numcodecs.FixedScaleOffset, numcodecs.PackBits),
    *(numcodecs.Quantize, numcodecs.BZ2, numcodecs.Blosc, numcodecs.GZip, numcodecs.LZ4, numcodecs.Shuffle),
    *(numcodecs.Zlib, numcodecs.Zstd, numcodecs.Adler32, numcodecs.CRC32, Fletcher32, numcodecs.JenkinsLookup3),
    # Not there without a library for it.
    *filter(None, [getattr(numcodecs.checksum32, "CRC32C", None)]),
}
"""Filters and compressors of Zarr v2."""
_EXTENSIONS: dict[type, type] = {getattr(extensions, kind.__name__, kind): kind for kind in _NUMCODECS}
"""Codecs of Zarr v3 that ask one of numcodecs', and which one."""

_NEW_NUMPY = np.lib.NumpyVersion(np.__version__) >= "2.0.0"
"""Whether arithmetic of an array and a number does not depend on the number."""


_TO_BYTES = {numcodecs.VLenUTF8, numcodecs.VLenBytes}
"""Filters of Zarr v2 that make bytes of elements of any length."""


def encoding_v2(metadata: ArrayV2Metadata) -> dict[str, Any]:
    """Say how chunks of Zarr v2 are encoded.

    Raises
    ------
    UnsupportedError
        When a codec is of a class that the engine does not stand in for, or has such settings.
    """
    dtype = metadata.dtype.to_native_dtype()
    filters, texts = [], None
    to_bytes, *others = metadata.filters or (None,)
    if to_bytes is not None and type(metadata.dtype) in _VARIABLE and type(to_bytes) in _TO_BYTES:
        texts = to_bytes.codec_id
    elif to_bytes is not None:
        others = [to_bytes, *others]
    for filter_ in others:
        described = _numcodec(filter_, dtype, f'filter "{filter_.codec_id}" of Zarr v2, class {_name(filter_)}')
        if type(filter_) is numcodecs.BitRound and metadata.order == "F" and len(metadata.shape) > 1:
            msg = 'filter "bitround" of Zarr v2 in F order, which changes the order'
            raise UnsupportedError(msg)
        dtype = np.dtype(described.get("astype", dtype))
        filters.append(described)
    codec, compressor = metadata.compressor, None
    if codec is not None:
        compressor = _numcodec(codec, dtype, f'compressor "{codec.codec_id}" of Zarr v2, class {_name(codec)}')
    return {
        "filters": filters,
        "compressor": compressor,
        "order": metadata.order,
        "ndim": len(metadata.shape),
        "texts": texts,
    }


def element(metadata: ArrayMetadata) -> tuple[int, str, int, bool]:
    """Give the memory layout of one element.

    Returns
    -------
    tuple
        Its bytes, how it compares, the bytes that a change of byte order reverses, whether it is big-endian.
        ``"text"`` and ``"binary"`` have any length: arrays hold references to them. What compares as
        ``"foreign"`` is known to its codecs only: structures, and data types that are not
        zarr's own.

    Raises
    ------
    UnsupportedError
        When elements are Python objects, or have no bytes.
    """
    dtype = metadata.dtype.to_native_dtype()
    if type(metadata.dtype) in _VARIABLE:
        return dtype.itemsize, _VARIABLE[type(metadata.dtype)], 1, sys.byteorder == "big"
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
    """Give the fill value: one element as it stands in the array, or its bytes where elements have any length."""
    value = fill_value(metadata)
    if type(metadata.dtype) in _VARIABLE:
        return value.encode() if isinstance(value, str) else bytes(value)
    one = empty((), metadata.dtype.to_native_dtype())
    one[...] = value
    return one.tobytes()


def fill_value(of: ArrayMetadata | ArraySpec) -> Any:  # noqa: ANN401  # a scalar of any type
    """Give the fill value; where Zarr v2 has none, zarr's own choice."""
    return of.dtype.default_scalar() if of.fill_value is None else of.fill_value


def empty(shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    """Make an array of this very data type: numpy forgets the byte order of times without a unit."""
    array = np.empty(shape, dtype)
    return array if dtype.kind in "OT" else array.view(dtype)


def chain(codecs: Iterable[Codec], data_type: ZDType[Any, Any]) -> list[dict[str, Any]]:
    """Say how codecs of Zarr v3 encode, as their metadata does and with what that leaves out.

    Raises
    ------
    UnsupportedError
        When a codec is of a class that the engine does not stand in for, or has such settings.
    """
    dtype, described_all = data_type.to_native_dtype(), []
    for codec in codecs:
        described: dict[str, Any] = codec.to_dict()
        what = f'codec "{described.get("name")}", class {_name(codec)}'
        if type(codec) in _EXTENSIONS:
            # numcodecs' registry has a say in which class an extension asks.
            asked = codec._codec  # type: ignore[union-attr]  # noqa: SLF001  # what all extensions have
            what = f'codec "{described["name"]}", class {_name(asked)}'
            if type(asked) is not _EXTENSIONS[type(codec)]:
                raise UnsupportedError(what)
            settings = _numcodec(asked, dtype, what)
            if isinstance(codec, ArrayArrayCodec):
                dtype = _filtered(codec, settings, dtype)
            described = {"name": f"numcodecs.{settings.pop('id')}", "configuration": settings}
        elif type(codec) is ScaleOffset:
            described["configuration"] = _scale_offset(codec, data_type, dtype)
        elif type(codec) not in _CODECS:
            raise UnsupportedError(what)
        described_all.append(described)
    return described_all


def sharding(codec: ShardingCodec, inner: list[dict[str, Any]]) -> dict[str, Any]:
    """Say how shards hold subchunks whose codecs are `inner`.

    Raises
    ------
    UnsupportedError
        When a codec of their index is of a class that the engine does not stand in for.
    """
    described: Any = codec.to_dict()
    settings = {
        "codecs": inner,
        "index_codecs": chain(codec.index_codecs, zd.UInt64()),
        # Before zarr 3.4 there is one order.
        "subchunk_write_order": getattr(codec, "subchunk_write_order", "morton"),
    }
    return {**described, "configuration": {**described["configuration"], **settings}}


def _numcodec(codec: Any, dtype: np.dtype[Any], what: str) -> dict[str, Any]:  # noqa: ANN401  # untyped
    """Give a codec's settings, with those that its own configuration leaves out; `dtype` is of what it encodes.

    Raises
    ------
    UnsupportedError
        With `what`, when the engine does not stand in for its class, or not with these settings.
    """
    if type(codec) not in _NUMCODECS:
        raise UnsupportedError(what)
    if cause := _refusal(codec, dtype):
        msg = f"{what}: {cause}"
        raise UnsupportedError(msg)
    settings: dict[str, Any] = codec.get_config()
    if isinstance(codec, numcodecs.AsType):
        settings = {"id": "astype", "dtype": settings["decode_dtype"], "astype": settings["encode_dtype"]}
    elif isinstance(codec, numcodecs.BitRound):
        settings["dtype"] = dtype.str
    elif isinstance(codec, numcodecs.PackBits):
        settings["astype"] = "|u1"
    elif isinstance(codec, numcodecs.Blosc):
        # Not in its configuration, so of no codec that was read.
        settings["typesize"] = getattr(codec, "_typesize", None)
    elif isinstance(codec, numcodecs.checksum32.Checksum32):
        settings["location"] = "end" if isinstance(codec, numcodecs.JenkinsLookup3) else codec.location
    return settings


def _refusal(codec: Any, dtype: np.dtype[Any]) -> str:  # noqa: ANN401  # untyped
    """Give a setting with which the engine does not stand in for a codec of numcodecs'; empty where there is none."""
    # It keeps the number of bits, and knows native floats alone.
    if isinstance(codec, numcodecs.BitRound) and (dtype.kind != "f" or not dtype.isnative):
        return f"of {dtype}"
    if isinstance(codec, numcodecs.FixedScaleOffset) and not (
        # Other numbers have other rules, and so has an older numpy.
        {type(codec.offset), type(codec.scale)} <= {int, float}
        and all(abs(number) < 2**53 for number in (codec.offset, codec.scale))
        and _NEW_NUMPY
    ):
        return f"offset {codec.offset!r}, scale {codec.scale!r}"
    if isinstance(codec, numcodecs.Delta) and codec.dtype != codec.astype and not _NEW_NUMPY:
        return f"from {codec.dtype} to {codec.astype}"
    if isinstance(codec, numcodecs.Delta) and codec.dtype.kind == "f":
        return f"of {codec.dtype}"  # of two NaN, numpy keeps the sign of the one or of the other
    if isinstance(codec, numcodecs.JenkinsLookup3) and codec.prefix is not None:
        return "its prefix"
    return ""


def _filtered(codec: Codec, settings: dict[str, Any], dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Give the data type that an extension of v3 encodes to.

    Raises
    ------
    UnsupportedError
        When it encodes or decodes another data type than zarr takes it to.
    """
    decoded = np.dtype(settings.get("dtype", bool))
    encoded = np.dtype(settings.get("astype", decoded))
    undeclared = type(codec) is extensions.Quantize and encoded != decoded
    if decoded != dtype or undeclared:
        msg = f'codec "numcodecs.{settings["id"]}" from {decoded} to {encoded} for {dtype}'
        raise UnsupportedError(msg)
    # What is rounded by its bits is left as integers.
    return np.dtype(f"i{encoded.itemsize}") if type(codec) is extensions.BitRound else encoded


def _scale_offset(codec: Any, data_type: ZDType[Any, Any], dtype: np.dtype[Any]) -> dict[str, Any]:  # noqa: ANN401  # not in older zarr
    """Give the settings of zarr's own filter as numbers of the array's data type."""
    numbers = [data_type.from_json_scalar(number, zarr_format=3).item() for number in (codec.offset, codec.scale)]
    if dtype != data_type.to_native_dtype() or not all(map(math.isfinite, numbers)):
        msg = f'codec "scale_offset" with {numbers} for {dtype}'
        raise UnsupportedError(msg)
    return {"dtype": dtype.str, "offset": numbers[0], "scale": numbers[1]}


def _name(thing: object) -> str:
    return f"{type(thing).__module__}.{type(thing).__qualname__}"
