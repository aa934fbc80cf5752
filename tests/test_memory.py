"""Peak memory as the system counts it: what work takes besides the caller's arrays stays near the limit."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from support.process import started
from support.remote import stored
from support.servers import RangeServer, Rule

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peaks are read from Linux's /proc")

MIB = 1 << 20
CHUNKS = 64
CHUNK_NBYTES = 4 * MIB
LIMIT = 16 * MIB
# Threads, connections, and what the allocator keeps.
SLACK = 64 * MIB

HEAD = """
def resident(name):
    with open("/proc/self/status") as status:
        return next(1024 * int(line.split()[1]) for line in status if line.startswith(name))

async def measured():
    array = await zarr.api.asynchronous.open_array(store=http_store(sys.argv[1]), mode="r+")
"""
READ = """
    before = resident("VmRSS")
    parts = [slice(start, start + {length}, {step}) for start in range(0, array.shape[0], {length})]
    got = await asyncio.gather(*(array.getitem(part) for part in parts))
    print(resident("VmHWM") - before)
    # The array counts up to 255, again and again.
    assert all((one.reshape(-1, 256 // {step}) == np.arange(0, 256, {step}, "uint8")).all() for one in got)
"""
WRITE = """
    values = np.full(array.shape, 7, "uint8")
    before = resident("VmRSS")
    await array.setitem(slice(None), values)
    print(resident("VmHWM") - before)
"""
TAIL = """
zarr.config.set({
    "codec_pipeline.memory_limit_bytes": int(sys.argv[2]),
    "codec_pipeline.request_concurrent_maximum": 128,
})
asyncio.run(measured())
"""


def served(path: Path, **layout: Any) -> None:
    """Write an array of which all chunks are one file."""
    values = np.arange(CHUNK_NBYTES, dtype="uint32").astype("uint8")
    stored(path, values, **layout)
    for chunk in range(1, CHUNKS):
        (path / f"c/{chunk}").hardlink_to(path / "c/0")
    metadata = path / "zarr.json"
    metadata.write_text(metadata.read_text().replace(str(CHUNK_NBYTES), str(CHUNKS * CHUNK_NBYTES), 1))


def peak(server: RangeServer, work: str, limit: int = LIMIT) -> int:
    """Run a script, and return by how many bytes its memory has grown at most since before the work."""
    with started(HEAD + work + TAIL, f"{server.url}/a", limit) as process:
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    return int(output)


@pytest.mark.parametrize(
    ("layout", "step", "length"),
    [
        pytest.param({"chunks": (CHUNK_NBYTES,)}, 1, CHUNKS * CHUNK_NBYTES, id="whole read"),
        pytest.param({"chunks": (CHUNK_NBYTES,)}, 1, 8 * CHUNK_NBYTES, id="gathered reads"),
        pytest.param({"chunks": (CHUNK_NBYTES // 8,), "shards": (CHUNK_NBYTES,)}, 2, CHUNKS * CHUNK_NBYTES, id="parts"),
    ],
)
def test_reads_stay_near_the_limit(range_server: RangeServer, layout: dict[str, Any], step: int, length: int) -> None:
    served(range_server.root / "a", **layout)
    output_nbytes = CHUNKS * CHUNK_NBYTES // step
    assert peak(range_server, READ.format(length=length, step=step)) < output_nbytes + LIMIT + SLACK


def test_write_stays_near_the_limit(range_server: RangeServer) -> None:
    served(range_server.root / "a", chunks=(CHUNK_NBYTES,))
    # What is put is of no use here.
    range_server.config(rules=[Rule(action="status", method="PUT", status=200)])
    assert peak(range_server, WRITE) < LIMIT + SLACK
