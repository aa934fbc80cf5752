"""The pipelines that zarr itself and zarrs-async bring, by the names under which the examples compare them."""

from __future__ import annotations

import zarr.core.codec_pipeline

PIPELINES = {
    "zarrs-async": "zarrs_async.ZarrsAsyncCodecPipeline",
    "zarr Batched": "zarr.core.codec_pipeline.BatchedCodecPipeline",
}
if hasattr(zarr.core.codec_pipeline, "FusedCodecPipeline"):  # of newer versions of zarr
    PIPELINES["zarr Fused"] = "zarr.core.codec_pipeline.FusedCodecPipeline"
