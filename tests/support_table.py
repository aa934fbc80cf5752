"""The table of codecs in docs/reference/support.md, from a run: each is written and read, and asked how.

``make support`` renews it.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

import numcodecs  # type: ignore[import-untyped]
import numpy as np
import zarr.codecs
import zarr.dtype as zd
from numcodecs.fletcher32 import Fletcher32  # type: ignore[import-untyped]
from oracle import OURS, created
from zarr.abc.codec import ArrayArrayCodec
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec, GzipCodec, ShardingCodec, TransposeCodec, ZstdCodec
from zarr.codecs import numcodecs as extensions
from zarr.storage import MemoryStore

import zarrs_async

PAGE = Path(__file__).parent.parent / "docs/reference/support.md"
BEGIN, END = "<!-- from tests/support_table.py -->\n", "<!-- end -->\n"

Arguments = dict[str, Any]
NONE: Arguments = {"filters": (), "compressors": ()}
NAMES: dict[str, Arguments] = {
    "`bytes`": {"serializer": BytesCodec(endian="big")},
    "`vlen-utf8`": {"dtype": "string"},
    "`vlen-bytes`": {"dtype": zd.VariableLengthBytes()},
    "`transpose`": {"filters": [TransposeCodec(order=(1, 0))]},
    "`sharding_indexed`: nested, index at either end, subchunks in any order": {
        "serializer": ShardingCodec(
            chunk_shape=(4, 4),
            codecs=[ShardingCodec(chunk_shape=(2, 2), index_location="start")],
            subchunk_write_order="colexicographic",
        )
    },
    "… before or after other codecs": {"serializer": ShardingCodec(chunk_shape=(2, 2)), "compressors": [ZstdCodec()]},
    "… with other index codecs than `bytes` and `crc32c`": {
        "serializer": ShardingCodec(chunk_shape=(2, 2), index_codecs=[BytesCodec(), extensions.Fletcher32()])
    },
    "`zstd`": {"compressors": [ZstdCodec()]},
    "`gzip`": {"compressors": [GzipCodec()]},
    "`blosc`": {"compressors": [BloscCodec()]},
    "`crc32c`": {"compressors": [Crc32cCodec()]},
    "`scale_offset`": {"filters": [zarr.codecs.ScaleOffset(scale=2)]},
}
"""Codecs of Zarr v3 that zarr brings, by the name of their row."""
FLOAT = "<f4"
NUMCODECS: list[tuple[str, Any, str]] = [
    ("", numcodecs.Zstd(), "u2"),
    ("", numcodecs.GZip(), "u2"),
    ("", numcodecs.Blosc(), "u2"),
    ("", numcodecs.Zlib(), "u2"),
    ("", numcodecs.BZ2(), "u2"),
    ("", numcodecs.LZ4(), "u2"),
    ("", numcodecs.LZMA(), "u2"),
    ("", numcodecs.Shuffle(elementsize=2), "u2"),
    *(("", kind(), "u2") for kind in (numcodecs.CRC32, numcodecs.CRC32C, numcodecs.Adler32, Fletcher32)),
    ("", numcodecs.JenkinsLookup3(), "u2"),
    ("", numcodecs.Delta(dtype="<u2", astype="<i2"), "u2"),
    ("of booleans, floats or complex numbers", numcodecs.Delta(dtype="<c8"), "<c8"),
    ("", numcodecs.FixedScaleOffset(offset=1, scale=2.5, dtype=FLOAT, astype="<i2"), FLOAT),
    ("", numcodecs.Quantize(digits=1, dtype=FLOAT), FLOAT),
    ("", numcodecs.BitRound(keepbits=3), FLOAT),
    ("", numcodecs.AsType(encode_dtype="<i2", decode_dtype=FLOAT), FLOAT),
    ("of floats to or from `uint32`", numcodecs.AsType(encode_dtype="<u4", decode_dtype=FLOAT), FLOAT),
    ("of complex numbers, text or times", numcodecs.AsType(encode_dtype="<c16", decode_dtype="<c8"), "<c8"),
    ("", numcodecs.PackBits(), "?"),
    ("", numcodecs.Base64(), "u2"),
]
"""What is special of a row, and a codec of numcodecs' with a data type that it takes."""


def how(dtype: Any, **arguments: Any) -> str:
    """Write and read an array, and say whose code did."""
    array = created(MemoryStore(), OURS, shape=(8, 8), chunks=(8, 8), dtype=dtype, **arguments)
    values = np.arange(64).reshape(8, 8)
    array[...] = np.full((8, 8), b"x", dtype=object) if array.dtype == object else values.astype(array.dtype)
    array[...]
    told = zarrs_async.explain(array)
    if told.fallback is not None:
        return "zarr's pipeline"
    return "called in Python" if told.python_codecs else "native"


def table() -> str:
    """Give the table's lines."""
    rows = [("codec", "Zarr v3", "Zarr v2"), ("---", "---", "---")]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, arguments in NAMES.items():
            v2 = how(**arguments, zarr_format=2) if "dtype" in arguments else ""
            rows.append((name, how(**{"dtype": "u2", **NONE, **arguments}), v2))
        for special, codec, dtype in NUMCODECS:
            settings = codec.get_config()
            name = settings.pop("id")
            kind = getattr(extensions, type(codec).__name__, None)
            if kind is None or dtype == "?":  # zarr itself fails for the filter of bits
                v3 = ""
            else:
                place = "filters" if issubclass(kind, ArrayArrayCodec) else "compressors"
                v3 = how(dtype, **NONE | {place: [kind(**settings)]})
            v2 = how(dtype, zarr_format=2, filters=[codec], compressors=None)
            rows.append((f"… {special}" if special else f"`{'numcodecs.' if v3 else ''}{name}`", v3, v2))
    return "".join(f"| {' | '.join(row)} |\n".replace("| --- ", "|---").replace("---|", "---|") for row in rows)


def main() -> int:
    """Renew the page."""
    before, _, rest = PAGE.read_text().partition(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}{table()}{END}{rest.partition(END)[2]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
