"""How an array's chunks are encoded, for the engine: which codecs it runs itself, and which Python runs for it.

A codec that the engine does not know is a *step*: the engine calls it on threads of its own, chunk by chunk, and
fetches, admits, shares, cancels and writes as always. A step is one bytes-to-bytes codec, or all codecs of a chain
up to the one that makes bytes.
"""

from __future__ import annotations

import contextlib
import json
import operator
from contextvars import ContextVar
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numcodecs  # type: ignore[import-untyped]
import numpy as np
import zarr.dtype as zd
from zarr.abc.codec import ArrayBytesCodec, BytesBytesCodec
from zarr.codecs import ShardingCodec
from zarr.codecs._v2 import V2Codec
from zarr.core.array_spec import ArraySpec
from zarr.core.buffer import Buffer, NDBuffer, cpu
from zarr.core.metadata import ArrayV2Metadata
from zarr.core.sync import sync

from zarrs_async import _rust
from zarrs_async._config import array_config
from zarrs_async._metadata import chain, encoding_v2, fill_value, sharding
from zarrs_async.exceptions import UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from zarr.abc.codec import Codec
    from zarr.core.dtype import ZDType
    from zarr.core.metadata import ArrayMetadata


_BYTES: list[dict[str, Any]] = [{"name": "bytes"}]
"""A chain that is known for certain."""
_json = json.JSONEncoder(default=operator.index).encode
_in_step: ContextVar[bool] = ContextVar("zarrs_async_in_step", default=False)


def in_step() -> bool:
    """Tell whether a codec of a step asks, on any thread or loop that it calls.

    The engine waits for the codec and holds its bounds meanwhile, so the codec must not wait for the engine.
    """
    return _in_step.get()


class Step:
    """Codecs of a chain that follow each other, run by their own classes.

    Parameters
    ----------
    codecs : Sequence of Codec
        Evolved, in the order of encoding.
    spec : ArraySpec
        What the first of them encodes.
    """

    def __init__(self, codecs: Sequence[Codec], spec: ArraySpec) -> None:
        self.codecs = tuple(codecs)
        self.name = ", ".join(_name(codec) for codec in self.codecs)
        self._spec = spec

    def decode(self, shape: tuple[int, ...], data: bytes) -> np.ndarray[Any, Any]:
        """Decode one chunk of `shape`; give its bytes, elements in C order."""
        value: Any = cpu.buffer_prototype.buffer.from_bytes(data)
        with _step():
            for codec, spec in reversed(self._specs(shape)):
                value = _call(codec, "decode", value, spec)
        if isinstance(value, Buffer):
            return _bytes(value.as_numpy_array())
        array = value.as_numpy_array()
        if array.shape != shape:
            msg = f"codec {self.name} made an array of shape {array.shape} of a chunk of shape {shape}"
            raise ValueError(msg)
        if self._of_bytes is not None:
            return _bytes(np.frombuffer(self._of_bytes.encode(np.ascontiguousarray(array, dtype=object)), np.uint8))
        return _bytes(array.astype(self._dtype, copy=False))

    def encode(self, shape: tuple[int, ...], data: bytearray) -> np.ndarray[Any, Any] | None:
        """Encode one chunk of `shape`, given as its bytes; None for one that a codec wants not to be stored."""
        first = self.codecs[0]
        prototype = cpu.buffer_prototype
        value: Any = (
            prototype.buffer.from_bytes(data) if isinstance(first, BytesBytesCodec) else self._chunk(shape, data)
        )
        with _step():
            for codec, spec in self._specs(shape):
                value = _call(codec, "encode", value, spec)
                if value is None:
                    return None
        return _bytes(value.as_numpy_array())

    def is_empty(self, shape: tuple[int, ...], data: bytes) -> bool:
        """Tell whether all elements of a chunk equal the fill value."""
        return bool(self._chunk(shape, data).all_equal(fill_value(self._spec)))

    @property
    def _of_bytes(self) -> Any:  # noqa: ANN401  # numcodecs is untyped
        """What the engine takes for the bytes of elements of any length."""
        kind: type = type(self._spec.dtype)
        if kind is zd.VariableLengthUTF8:
            return numcodecs.VLenUTF8()
        return numcodecs.VLenBytes() if kind is zd.VariableLengthBytes else None

    @property
    def _dtype(self) -> np.dtype[Any]:
        dtype: np.dtype[Any] = self._spec.dtype.to_native_dtype()
        return dtype

    def _chunk(self, shape: tuple[int, ...], data: bytes | bytearray) -> NDBuffer:
        if self._of_bytes is not None:
            array = self._of_bytes.decode(data).reshape(shape).astype(self._dtype)
        else:
            # numpy forgets the byte order of times without a unit.
            array = np.ndarray(shape, self._dtype, buffer=data).view(self._dtype)
        return cpu.buffer_prototype.nd_buffer.from_numpy_array(array)

    def _specs(self, shape: tuple[int, ...]) -> list[tuple[Codec, ArraySpec]]:
        """Give each codec with what it encodes."""
        spec = replace(self._spec, shape=shape)
        specs = []
        for codec in self.codecs:
            specs.append((codec, spec))
            spec = codec.resolve_metadata(spec)
        return specs


def describe_native(metadata: ArrayMetadata, codecs: Sequence[Codec]) -> str:
    """Say as JSON how chunks are encoded, as if the engine ran all codecs, which it does for most arrays.

    Parameters
    ----------
    metadata, codecs
        As for `describe`.

    Raises
    ------
    UnsupportedError
        When a codec is of a class that the engine does not stand in for, or has such settings.
    """
    if isinstance(metadata, ArrayV2Metadata):
        return _json(encoding_v2(metadata))
    return _json({"codecs": _native_chain(codecs, metadata.dtype)})


def describe(
    metadata: ArrayMetadata, codecs: Sequence[Codec], element: tuple[int, str, int, bool]
) -> tuple[str, list[Step]]:
    """Say as JSON how chunks are encoded, and give the steps that it names: the codecs that Python runs.

    It is for arrays whose `describe_native` the engine has refused.

    Parameters
    ----------
    metadata : ArrayMetadata
        Of Zarr v2 or v3.
    codecs : Sequence of Codec
        Evolved, as zarr's default pipeline has them.
    element : tuple
        The memory layout of one element, see `zarrs_async._metadata.element`.
    """
    steps: list[Step] = []
    spec = chunk_spec(metadata)
    if not isinstance(metadata, ArrayV2Metadata):
        return _json({"codecs": _Chain(element, steps).describe(codecs, spec)}), steps
    # One codec of zarr's does all of Zarr v2: filters and compressor.
    steps.append(Step(codecs, spec))
    return _json({"first": 0, "step": _identity(steps[0])}), steps


def chunk_spec(metadata: ArrayMetadata) -> ArraySpec:
    """Give what zarr's codecs must know of a chunk; its shape has any lengths where those vary."""
    if isinstance(metadata, ArrayV2Metadata):
        shape, config = metadata.chunks, array_config()
        if config.order != metadata.order:
            config = replace(config, order=metadata.order)
    else:
        shape = getattr(metadata.chunk_grid, "chunk_shape", (1,) * len(metadata.shape))
        config = array_config()
    return ArraySpec(
        shape=shape,
        dtype=metadata.dtype,
        fill_value=metadata.fill_value,
        config=config,
        prototype=cpu.buffer_prototype,
    )


def _native_chain(codecs: Sequence[Codec], data_type: ZDType[Any, Any]) -> list[dict[str, Any]]:
    if len(codecs) == 1 and type(codec := codecs[0]) is ShardingCodec:
        return [sharding(codec, _native_chain(codec.codecs, data_type))]
    return chain(codecs, data_type)


class _Chain:
    """Describes the chains of one array, from the outermost shard to the subchunk."""

    def __init__(self, element: tuple[int, str, int, bool], steps: list[Step]) -> None:
        self._size, self._kind, _, self._big_endian = element
        self._steps = steps

    def describe(self, codecs: Sequence[Codec], spec: ArraySpec) -> list[dict[str, Any]]:
        """Describe one chain; codecs that the engine does not know become steps."""
        codec = codecs[0]
        if len(codecs) == 1 and type(codec) is ShardingCodec and self._knows_shards(codec):
            inner = self.describe(codec.codecs, replace(spec, shape=codec.chunk_shape))
            return [sharding(codec, inner)]
        at = next(at for at, codec in enumerate(codecs, 1) if isinstance(codec, ArrayBytesCodec))
        first, others = codecs[:at], codecs[at:]
        described = self._first(first, spec)
        for codec in first:
            spec = codec.resolve_metadata(spec)
        for codec in others:
            described.append(self._other(codec, spec))
            spec = codec.resolve_metadata(spec)
        return described

    def _first(self, codecs: Sequence[Codec], spec: ArraySpec) -> list[dict[str, Any]]:
        if self._kind != "foreign":
            with contextlib.suppress(UnsupportedError):
                described = chain(codecs, spec.dtype)
                if self._knows(described):
                    return described
        return [self._step(codecs, spec)]

    def _other(self, codec: Codec, spec: ArraySpec) -> dict[str, Any]:
        with contextlib.suppress(UnsupportedError):
            (described,) = chain([codec], spec.dtype)
            if self._knows([*_BYTES, described]):
                return described
        return self._step([codec], spec)

    def _knows_shards(self, codec: ShardingCodec) -> bool:
        with contextlib.suppress(UnsupportedError):
            return self._knows([sharding(codec, _BYTES)])
        return False

    def _knows(self, codecs: list[dict[str, Any]]) -> bool:
        return _rust.is_native(_json({"codecs": codecs}), self._size, self._big_endian)

    def _step(self, codecs: Sequence[Codec], spec: ArraySpec) -> dict[str, Any]:
        step = Step(codecs, spec)
        self._steps.append(step)
        configuration = {"number": len(self._steps) - 1, "step": _identity(step)}
        return {"name": "foreign", "configuration": configuration}


@contextlib.contextmanager
def _step() -> Iterator[None]:
    token = _in_step.set(True)
    try:
        yield
    finally:
        _in_step.reset(token)


def _call(codec: Codec, operation: str, value: Any, spec: ArraySpec) -> Any:  # noqa: ANN401  # buffers of two kinds
    """Call a codec as zarr does, on this thread where its class says how."""
    here = getattr(codec, f"_{operation}_sync", None)
    if here is not None and getattr(codec, "_sync_capable", True) and _is_current(type(codec), operation):
        return here(value, spec)
    (done,) = sync(getattr(codec, operation)([(value, spec)]))
    return done


def _is_current(cls: type, operation: str) -> bool:
    """Tell whether a class that changes how chunks are coded changes the blocking method, too."""
    names = (operation, f"_{operation}_single", f"_{operation}_sync")
    return next(name for base in cls.__mro__ for name in reversed(names) if name in vars(base)) == names[-1]


def _bytes(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def _name(codec: Codec) -> str:
    if isinstance(codec, V2Codec):
        numcodecs = (*(codec.filters or ()), *([codec.compressor] if codec.compressor else ()))
        return ", ".join(numcodec.codec_id for numcodec in numcodecs) or "bytes"
    return str(codec.to_dict().get("name", type(codec).__qualname__))


def _identity(step: Step) -> list[str]:
    """Say in words that are equal for equal steps what a step is."""
    return [f"{type(codec).__module__}.{type(codec).__qualname__} {codec!r}" for codec in step.codecs]
