"""An asyncio-native codec pipeline for zarr-python, with its engine in Rust.

>>> import zarr
>>> zarr.config.set({"codec_pipeline.path": "zarrs_async.ZarrsAsyncCodecPipeline"})  # doctest: +SKIP
"""

from importlib.metadata import version as _version

from zarrs_async import exceptions
from zarrs_async._direct import DirectArray
from zarrs_async._explain import Explanation, Explanations, explain
from zarrs_async._measure import Measurement, measure
from zarrs_async._progress import progress
from zarrs_async._stats import Stats, stats
from zarrs_async._status import ArrayStatus, Status, status
from zarrs_async.pipeline import ZarrsAsyncCodecPipeline

__version__ = _version("zarrs-async")

__all__ = [
    "ArrayStatus",
    "DirectArray",
    "Explanation",
    "Explanations",
    "Measurement",
    "Stats",
    "Status",
    "ZarrsAsyncCodecPipeline",
    "__version__",
    "exceptions",
    "explain",
    "measure",
    "progress",
    "stats",
    "status",
]
