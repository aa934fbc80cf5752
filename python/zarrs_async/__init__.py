"""An asyncio-native codec pipeline for zarr-python, with its engine in Rust.

>>> import zarr
>>> zarr.config.set({"codec_pipeline.path": "zarrs_async.ZarrsAsyncCodecPipeline"})  # doctest: +SKIP
"""

from zarrs_async import exceptions
from zarrs_async._explain import Explanation, explain
from zarrs_async._measure import Measurement, measure
from zarrs_async._stats import Stats, stats
from zarrs_async.pipeline import ZarrsAsyncCodecPipeline

__all__ = [
    "Explanation",
    "Measurement",
    "Stats",
    "ZarrsAsyncCodecPipeline",
    "exceptions",
    "explain",
    "measure",
    "stats",
]
