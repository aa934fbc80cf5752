"""Writes a sharded array to a bucket, then reads a hundred boxes of it back, all at once.

Credentials come from the environment, as for every tool that speaks S3: ``AWS_ACCESS_KEY_ID`` and so on.
"""

from __future__ import annotations

import asyncio

import numpy as np
import zarr
from obstore.store import S3Store
from zarr.api.asynchronous import create_array
from zarr.storage import ObjectStore

zarr.config.set({"codec_pipeline.path": "zarrs_async.ZarrsAsyncCodecPipeline"})


async def main() -> None:
    """Write, and read back."""
    values = np.arange(128**3, dtype="uint32").reshape(128, 128, 128)
    array = await create_array(
        ObjectStore(S3Store("zarr", prefix="example", region="eu-central-1")),
        shape=values.shape,
        dtype=values.dtype,
        shards=(64, 64, 64),
        chunks=(16, 16, 16),
        overwrite=True,
    )
    await array.setitem(slice(None), values)

    corners = np.random.default_rng(0).integers(0, 112, size=(100, 3)).tolist()
    boxes = [tuple(slice(at, at + 16) for at in corner) for corner in corners]
    read = await asyncio.gather(*(array.getitem(box) for box in boxes))
    print(f"{len(read)} boxes, {sum(np.asarray(part).nbytes for part in read)} bytes")


if __name__ == "__main__":
    asyncio.run(main())
