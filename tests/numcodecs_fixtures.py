"""The encoded chunks that numcodecs keeps of each of its codecs, read through zarr.

They are in its source distribution, which is downloaded; so ``make test-numcodecs`` runs these tests, and no other.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numcodecs  # type: ignore[import-untyped]
import numpy as np
import pytest
from oracle import DEFAULT, OURS, assert_same_bits, no_fallback, opened
from zarr.core.buffer import cpu
from zarr.storage import MemoryStore

from support.sdists import sdist

if TYPE_CHECKING:
    from pathlib import Path

FIXTURES = sdist("numcodecs") / "fixture"
CODECS = sorted(FIXTURES.rglob("config.json"))
FILTERS = {
    *("astype", "categorize", "delta", "fixedscaleoffset", "json2", "msgpack2", "packbits", "pickle", "quantize"),
    *("vlen-array", "vlen-bytes", "vlen-utf8"),
}
"""Codecs that take values where the others take bytes."""
LOSSY = {"astype", "fixedscaleoffset", "quantize", "zfpy"}


def stored(values: np.ndarray[Any, Any], config: dict[str, Any], encoded: bytes) -> MemoryStore:
    """Make an array of Zarr v2 whose one chunk is what numcodecs has encoded."""
    is_filter = config["id"] in FILTERS
    metadata = {
        "zarr_format": 2,
        "shape": values.shape,
        "chunks": values.shape,
        "dtype": values.dtype.str,
        "filters": [config] if is_filter else None,
        "compressor": None if is_filter else config,
        "fill_value": None,
        # numcodecs takes the bytes of an array as they stand in memory.
        "order": "C" if values.flags.c_contiguous else "F",
    }
    objects = {".zarray": json.dumps(metadata).encode(), ".".join("0" for _ in values.shape): encoded}
    return MemoryStore({key: cpu.Buffer.from_bytes(value) for key, value in objects.items()})


@pytest.mark.parametrize("path", CODECS, ids=[str(path.parent.relative_to(FIXTURES)) for path in CODECS])
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy's, of what a filter computes with NaN
def test_what_numcodecs_has_encoded(path: Path) -> None:
    config = json.loads(path.read_text())
    try:
        numcodecs.get_codec(config)
    except ValueError as error:
        pytest.skip(str(error))
    arrays = sorted(path.parents[1].glob("array.*.npy"))
    assert arrays
    read = 0
    for array in arrays:
        values = np.load(array, allow_pickle=True)
        number = array.name.split(".")[1]
        encoded = path.with_name(f"encoded.{number}.dat").read_bytes()
        store = stored(values, config, encoded)
        try:
            default = opened(store, DEFAULT)
            expected = default[...]
        except (RuntimeError, TypeError, ValueError) as error:
            refused = error
            continue
        read += 1
        with no_fallback():
            ours = opened(store, OURS)[...]
        if values.dtype == object:
            assert np.asarray(ours).tolist() == np.asarray(expected).tolist() == values.tolist()
            continue
        assert_same_bits(ours, expected)
        if config["id"] not in LOSSY:
            assert_same_bits(ours, values)
    if not read:
        pytest.skip(f"zarr: {refused}")
