"""The contenders: which library, which pipeline, which settings.

Decoded chunks are kept between two operations only where a scenario asks for it, by
ours and by TensorStore: what is measured elsewhere is how they are read. TensorStore
would sync each file to the disk, which none of the pipelines does; here it does not
either.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from benchmarks.cases import Unavailable
from benchmarks.clients import DirectClient, TensorStoreClient, ZarrClient

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from benchmarks.clients import Client


@dataclass(frozen=True, slots=True)
class Contender:
    """One way to read and write Zarr.

    Parameters
    ----------
    name
        What the command line and the results call it.
    label
        What tables and pictures call it.
    pipeline
        The codec pipeline, as ``module.Class``; empty for TensorStore.
    settings
        What is changed from the library's own defaults: keys of ``zarr.config``, or
        resources of TensorStore's context.
    source
        A folder of Python packages that are imported in place of the installed ones; empty for none.
    scenarios
        Those in which it takes part; empty for all.
    """

    name: str
    label: str
    pipeline: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    source: str = ""
    scenarios: tuple[str, ...] = ()

    def connect(self) -> Client:
        """Import the library and set it up.

        Raises
        ------
        Unavailable
            If it is not installed, or lacks the pipeline.
        """
        if self.source:
            sys.path.insert(0, self.source)
        try:
            if not self.pipeline:
                return TensorStoreClient(self.settings)
            client = DirectClient if self.name == DIRECT else ZarrClient
            return client(self.pipeline, self.settings)
        except (ImportError, AttributeError) as error:
            message = f"cannot be imported: {error}"
            raise Unavailable(message) from error

    @property
    def is_floor(self) -> bool:
        """Whether it only pretends, so that its data must not be looked at."""
        return self.name == "floor"


OURS = "ours"
KEEPING = "ours-cache"
DIRECT = "direct"
BEFORE = "before"

_OURS = "zarrs_async.ZarrsAsyncCodecPipeline"
_FORGETFUL = {"codec_pipeline.chunk_cache_bytes": 0}
_TENSORSTORE = {"cache_pool": {"total_bytes_limit": 0}, "file_io_sync": False}
# As it comes, it asks with each use whether what it keeps is still what is stored.
_CACHE = {**_TENSORSTORE, "cache_pool": {"total_bytes_limit": 1 << 30}}
_MANY_REQUESTS = {
    "http_request_concurrency": {"limit": 128},
    "s3_request_concurrency": {"limit": 128},
}
_BATCHED = "zarr.core.codec_pipeline.BatchedCodecPipeline"
_FUSED = "zarr.core.codec_pipeline.FusedCodecPipeline"

CONTENDERS = {
    contender.name: contender
    for contender in (
        Contender(OURS, "zarrs-async", _OURS, _FORGETFUL),
        Contender(KEEPING, "zarrs-async, its cache", _OURS, scenarios=("slabs",)),
        Contender("batched", "zarr Batched", _BATCHED),
        Contender("fused", "zarr Fused", _FUSED),
        Contender("zarrs", "zarrs-python", "zarrs.ZarrsCodecPipeline"),
        Contender("tensorstore", "TensorStore", settings=_TENSORSTORE),
        Contender("tensorstore-cache", "TensorStore, cache of 1 GiB", settings=_CACHE, scenarios=("slabs",)),
        Contender("floor", "floor", "benchmarks.floor.FloorCodecPipeline"),
    )
}
"""The usual contenders, by name, in the order of the tables."""


def ours(scenario: str) -> str:
    """Return which of our contenders is set against the others: the one that keeps chunks, where others do."""
    return KEEPING if scenario in CONTENDERS[KEEPING].scenarios else OURS


def before(checkout: Path) -> Contender:
    """Return our pipeline as another checkout of this repository has it, built there with ``make develop``."""
    return replace(CONTENDERS[OURS], name=BEFORE, label=BEFORE, source=str(checkout.resolve() / "python"))


TUNED = {
    contender.name: contender
    for contender in (
        Contender(DIRECT, "zarrs-async, DirectArray", _OURS, _FORGETFUL),
        Contender("batched-128", "Batched, 128", _BATCHED, {"async.concurrency": 128}),
        Contender("fused-128", "Fused, 128", _FUSED, {"async.concurrency": 128}),
        Contender(
            "tensorstore-128",
            "TensorStore, 128",
            settings={**_TENSORSTORE, **_MANY_REQUESTS},
        ),
    )
}
"""Ours past zarr-python's way to it, and the peers with as many requests in flight as ours; only by request."""
