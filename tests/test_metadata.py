"""What is made of an array's metadata: fill values, attributes that are no JSON, warnings, classes of buffers."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr
from oracle import DEFAULT, OURS, assert_same_bits, created, opened
from packaging.version import Version
from zarr.core.buffer import Buffer, BufferPrototype, NDBuffer, cpu
from zarr.registry import register_buffer, register_ndbuffer
from zarr.storage import MemoryStore

if TYPE_CHECKING:
    from types import ModuleType

FILLS: dict[str, Any] = {
    "?": True,
    "i1": -2,
    "i2": -300,
    "i4": 2**31 - 1,
    "i8": -(2**63),
    "u1": 255,
    "u2": 258,
    "u4": 2**32 - 2,
    "u8": 2**64 - 2,
    "f2": 0.1,
    "f4": -0.0,
    "f8": float("nan"),
    "c8": complex(-0.0, 1.5),
    "c16": complex(float("nan"), float("inf")),
    "M8[s]": np.datetime64(258, "s"),
    "M8[10ns]": np.datetime64("NaT", "ns"),
    "m8[us]": np.timedelta64(-258, "us"),
    "S3": b"ab",
    "U3": "xé",
    "V3": np.void(b"ab\xff"),
}
TIMES_WITHOUT_UNIT = ("M8", "m8")


@pytest.mark.usefixtures("native")
@pytest.mark.filterwarnings("ignore:The data type .* does not have a Zarr V3 specification")
@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("name", FILLS)
def test_fill_values_of_each_type_and_byte_order(name: str, order: str, zarr_format: Any) -> None:
    for fill in (FILLS[name], None):
        default = created(
            MemoryStore(),
            DEFAULT,
            shape=(5,),
            chunks=(2,),
            dtype=order + name,
            zarr_format=zarr_format,
            fill_value=fill,
        )
        default[0] = np.zeros((), dtype=default.dtype)[()]
        ours = opened(default.store, OURS)
        assert_same_bits(ours[...], opened(default.store, DEFAULT)[...])
        ours[4] = np.zeros((), dtype=default.dtype)[()]  # the rest of this chunk is filled, then encoded
        ours.resize((6,))
        assert_same_bits(opened(default.store, DEFAULT)[...], ours[...])


@pytest.mark.usefixtures("native")
@pytest.mark.skipif(Version(zarr.__version__) < Version("3.4"), reason="zarr's own pipeline swaps it")
@pytest.mark.filterwarnings("ignore:The data type .* does not have a Zarr V3 specification")
@pytest.mark.filterwarnings("ignore:The 'generic' unit for NumPy timedelta is deprecated")
@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("name", TIMES_WITHOUT_UNIT)
def test_times_without_a_unit_keep_their_byte_order(name: str, order: str, zarr_format: Any) -> None:
    counts = np.array([0, 1, -2, 100], dtype=order + "i8")
    values = counts.view(order + name)
    array = created(MemoryStore(), OURS, shape=(6,), chunks=(2,), dtype=values.dtype, zarr_format=zarr_format)
    array[:4] = values
    for pipeline in (OURS, DEFAULT):
        read = np.asarray(opened(array.store, pipeline)[...]).astype("i8")
        assert read.tolist() == [0, 1, -2, 100, -(2**63), -(2**63)]
    array[1:3] = counts[[2, 1]].byteswap().view(counts.dtype.newbyteorder()).view(values.dtype.newbyteorder())
    assert np.asarray(array[:4]).view(order + "i8").tolist() == [0, -2, 1, 100]


@pytest.mark.usefixtures("native")
@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), "\ud800", 10**400, {"a": [float("-inf")]}], ids=repr)
def test_attributes_may_be_no_json(value: Any, zarr_format: Any) -> None:
    array = created(MemoryStore(), OURS, shape=(4,), dtype="i4", zarr_format=zarr_format)
    metadata = array.metadata
    array.metadata.attributes["value"] = value
    assert metadata.attributes["value"] is value
    array[1:] = 7
    assert np.asarray(array[...]).tolist() == [0, 7, 7, 7]


@pytest.mark.parametrize("dtype", ["S4", "V4", "U4", [("a", "i4"), ("b", "f8")], "M8[s]", "i4"], ids=str)
def test_warnings_are_those_of_the_default_pipeline(dtype: Any) -> None:
    told = []
    for pipeline in (OURS, DEFAULT):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            store = MemoryStore()
            array = created(store, pipeline, shape=(4,), dtype=dtype)
            array[...] = np.zeros(4, dtype=dtype)
            for _ in range(2):
                np.asarray(opened(store, pipeline)[...])
        said = [(warning.category, str(warning.message)) for warning in caught]
        told.append([(kind, text) for kind, text in said if not text.startswith("zarrs_async does not support")])
    assert told[0] == told[1]


class OtherBuffer(cpu.Buffer):
    """A class of bytes that somebody else made."""


class OtherNDBuffer(cpu.NDBuffer):
    """A class of arrays that somebody else made."""


@pytest.mark.filterwarnings("ignore:zarrs_async does not support")
@pytest.mark.parametrize(
    "classes", [(OtherBuffer, cpu.NDBuffer), (cpu.Buffer, OtherNDBuffer), (OtherBuffer, OtherNDBuffer)]
)
def test_prototypes_of_other_classes_are_asked(
    pipeline: ModuleType, classes: tuple[type[Buffer], type[NDBuffer]]
) -> None:
    prototype = BufferPrototype(*classes)
    seen = []

    class Store(MemoryStore):
        async def get(self, key: Any, prototype: Any = None, byte_range: Any = None) -> Any:
            seen.append(prototype.buffer)
            return await super().get(key, prototype, byte_range)

    array = created(Store(), OURS, shape=(4,), dtype="i4")
    array.set_basic_selection(..., np.arange(4), prototype=prototype)
    seen.clear()
    before = pipeline.stats()["fallback_batches"]
    assert_same_bits(array.get_basic_selection(..., prototype=prototype), np.arange(4, dtype="i4"))
    assert seen == [classes[0]]
    assert pipeline.stats()["fallback_batches"] == before + 1
    assert_same_bits(array[...], np.arange(4, dtype="i4"))
    assert pipeline.stats()["fallback_batches"] == before + 1


@pytest.mark.filterwarnings("ignore:zarrs_async does not support")
def test_buffers_of_the_configuration_are_asked(pipeline: ModuleType) -> None:
    register_buffer(OtherBuffer)
    register_ndbuffer(OtherNDBuffer)
    array = created(MemoryStore(), OURS, shape=(4,), dtype="i4")
    array[...] = 3
    before = pipeline.stats()["fallback_batches"]
    for name, kind in (("buffer", OtherBuffer), ("ndbuffer", OtherNDBuffer)):
        with zarr.config.set({name: f"{kind.__module__}.{kind.__qualname__}"}):
            assert np.asarray(array[...]).tolist() == [3] * 4
        before += 1
        assert pipeline.stats()["fallback_batches"] == before
