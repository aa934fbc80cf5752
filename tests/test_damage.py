"""Stored bytes and metadata that call for more than there is: an error, never the end of the interpreter."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracle import DEFAULT, OURS, created, opened
from test_codecs import COMPRESSORS, COPIES
from zarr.storage import LocalStore, MemoryStore

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.filterwarnings("ignore:Numcodecs codecs are not in the Zarr version 3 specification")

CHAINS: dict[str, Any] = COPIES | COMPRESSORS

SMALL = """
import resource, sys
import numpy as np, zarr
from zarrs_async import exceptions

def refused(use, key):
    try:
        use()
    except exceptions.ChunkMemoryError as error:
        assert isinstance(error, MemoryError)
        assert error.key == key, error.key
        assert error.nbytes >= 2**40, error.nbytes
        assert key in str(error)
    else:
        raise AssertionError("it was not refused")

zarr.config.set({"codec_pipeline.path": "zarrs_async.ZarrsAsyncCodecPipeline", "codec_pipeline.strict": True})
store = zarr.storage.MemoryStore() if sys.argv[1] == "memory" else zarr.storage.LocalStore(sys.argv[2])
make = lambda name, **how: zarr.create_array(store, name=name, shape=(2**42,), dtype="u1", **how)
small = zarr.create_array(store, name="small", shape=(4,), dtype="u1")
small[...] = 1  # the engine's threads have their stacks
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**31, -1))
"""


@pytest.mark.filterwarnings("ignore:zarrs_async does not support")
@given(data=st.data(), chain=st.sampled_from(sorted(CHAINS)))
def test_a_damaged_chunk_is_an_error_or_data(data: st.DataObject, chain: str) -> None:
    from zarrs_async.exceptions import ChunkDecodeError  # noqa: PLC0415  # other modules here need no built extension

    array = created(
        MemoryStore(), DEFAULT, shape=(400,), chunks=(400,), dtype="i2", compressors=CHAINS[chain], filters=()
    )
    array[...] = np.arange(400) ** 2 % 300
    chunks = array.store._store_dict
    buffer = type(chunks["c/0"])
    content = bytearray(chunks["c/0"].to_bytes())
    if data.draw(st.booleans(), label="cut"):
        del content[data.draw(st.integers(0, len(content) - 1), label="length") :]
    else:
        for at in data.draw(st.lists(st.integers(0, len(content) * 8 - 1), min_size=1, max_size=6), label="bits"):
            content[at // 8] ^= 1 << at % 8
    chunks["c/0"] = buffer.from_bytes(bytes(content))
    try:
        read = np.asarray(opened(array.store, OURS)[...])
    except ChunkDecodeError as error:
        assert error.key == "c/0"  # noqa: PT017  # either way is right
    else:
        assert read.shape == (400,)


@pytest.mark.usefixtures("pipeline")
@pytest.mark.parametrize("codecs", [(), None], ids=["plain", "zstd"])
def test_a_file_that_no_chunk_can_be_is_refused_unread(tmp_path: Path, codecs: Any) -> None:
    """Sparse, of 4 TiB: there is neither memory nor time to read it."""
    from zarrs_async.exceptions import ChunkDecodeError  # noqa: PLC0415  # the fixture imports it

    compressors = {} if codecs is None else {"compressors": codecs}
    array = created(LocalStore(tmp_path), OURS, shape=(8,), chunks=(4,), dtype="i4", **compressors)
    array[...] = 1
    with (tmp_path / "c/1").open("r+b") as file:
        file.truncate(2**42)
    with pytest.raises(ChunkDecodeError, match=f"{2**42} bytes"):
        array[...]
    with pytest.raises(ChunkDecodeError, match=f"{2**42} bytes"):
        array[5] = 2
    assert np.asarray(array[:4]).tolist() == [1] * 4


def run(tmp_path: Path, store: str, script: str) -> None:
    """Run a script in a process that may have 2 GiB more than it has."""
    command = [sys.executable, "-c", SMALL + script, store, str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)  # noqa: S603  # ours
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize("store", ["memory", "local"])
def test_a_chunk_beyond_memory_is_a_memory_error(tmp_path: Path, store: str) -> None:
    run(
        tmp_path,
        store,
        """
chunk = make("chunk", chunks=(2**42,))
assert chunk[5] == 0  # there is none, and the fill value takes no memory
refused(lambda: chunk.__setitem__(5, 1), "chunk/c/0")
key = zarr.storage.StorePath(store, "chunk/c/0")
zarr.core.sync.sync(key.set(zarr.core.buffer.cpu.Buffer.from_bytes(b"\\x28\\xb5\\x2f\\xfd\\x20\\x00\\x01\\x00\\x00")))
refused(lambda: chunk[5], "chunk/c/0")
refused(lambda: chunk.__setitem__(5, 1), "chunk/c/0")
assert small[0] == 1
""",
    )


@pytest.mark.parametrize("store", ["memory", "local"])
def test_an_index_beyond_memory_is_a_memory_error(tmp_path: Path, store: str) -> None:
    run(
        tmp_path,
        store,
        """
shard = make("shard", chunks=(1,), shards=(2**42,))
assert shard[5] == 0
refused(lambda: shard.__setitem__(5, 1), "shard/c/0")
assert small[0] == 1
""",
    )


def test_a_shard_beyond_memory_is_a_memory_error(tmp_path: Path) -> None:
    run(
        tmp_path,
        "local",
        """
shard = zarr.create_array(store, name="shard", shape=(8,), chunks=(2,), shards=(4,), dtype="u1")
shard[...] = 1
with open(sys.argv[2] + "/shard/c/1", "r+b") as file:
    file.truncate(2**42)
refused(lambda: shard.__setitem__(5, 2), "shard/c/1")
assert shard[3] == 1
""",
    )


def test_a_block_of_blosc_beyond_memory_is_a_memory_error(tmp_path: Path) -> None:
    run(
        tmp_path,
        "memory",
        """
length = 2**27
compressor = zarr.codecs.BloscCodec(cname="lz4")
blocks = zarr.create_array(store, name="blocks", shape=(length,), chunks=(length,), dtype="u1", compressors=compressor)
header = [2, 1, 0x30, 1, *np.array([length, length, 32, 20, 8, 0, 0], "<u4").tobytes()]
key = zarr.storage.StorePath(store, "blocks/c/0")
zarr.core.sync.sync(key.set(zarr.core.buffer.cpu.Buffer.from_bytes(bytes(header))))
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2 * length, -1))
try:
    blocks[...]
except exceptions.ChunkMemoryError as error:
    assert error.nbytes > 2 * length, error.nbytes
else:
    raise AssertionError("it was not refused")
assert small[0] == 1
""",
    )
